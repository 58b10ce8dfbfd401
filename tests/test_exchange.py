"""Stable coalitions against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp


def random_game(seed: int, n: int):
    """The function that looks up payoffs drawn at random for all coalitions."""
    table = np.random.default_rng(seed).normal(size=2**n)
    return lambda rows: table[np.asarray(rows) @ (1 << np.arange(n))]


def best_of_size(game, n: int, size: int) -> float:
    """The largest payoff, by enumeration."""
    rows = np.zeros((0, n), bool)
    for members in itertools.combinations(range(n), size):
        rows = np.concatenate([rows, np.isin(np.arange(n), members)[None]])
    return float(game(rows).max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 3, 6])
def test_no_exchange_of_two_pays_when_all_are_tried(seed, size):
    n, game = 7, random_game(seed, 7)
    values = np.random.default_rng(seed).normal(size=n)
    found = mf.games.stable_coalition(game, values, size, width=n)
    assert found.stable
    assert found.mask.sum() == size
    assert found.payoff == game(found.mask[None])[0] >= found.first_payoff
    for out, into in itertools.product(
        np.flatnonzero(found.mask), np.flatnonzero(~found.mask)
    ):
        other = found.mask.copy()
        other[[out, into]] = False, True
        assert game(other[None])[0] <= found.payoff + 1e-6 * abs(found.payoff)


def test_additive_players_stay_in_the_order_of_their_values():
    worth = np.array([0.3, -1.0, 2.0, 0.7, 0.1])
    found = mf.games.stable_coalition(lambda rows: rows @ worth, worth, 3)
    assert found.mask.tolist() == [True, False, True, True, False]
    assert found.stable
    assert found.num_exchanges == 0
    assert found.payoff == found.first_payoff == pytest.approx(3.0)


def test_one_of_each_pair_of_copies_is_enough():
    # Ten pairs of copies: the ranking takes both of the five best pairs.
    worth = np.linspace(1, 2, 10)
    game = lambda rows: (rows[:, :10] | rows[:, 10:]) @ worth
    values = np.tile(worth / 2, 2)
    found = mf.games.stable_coalition(game, values, 10)
    assert found.first_payoff == pytest.approx(worth[5:].sum())
    assert found.payoff == pytest.approx(worth.sum())


def test_the_budget_ends_the_search():
    rows = []
    worth = np.linspace(1, 2, 10)

    def game(coalitions):
        rows.append(len(coalitions))
        return (coalitions[:, :10] | coalitions[:, 10:]) @ worth

    found = mf.games.stable_coalition(game, np.tile(worth, 2), 10, width=2, budget=60)
    assert not found.stable
    assert found.num_exchanges == 2
    assert found.num_evaluations == sum(rows) == 1 + 2 * (20 + 4 + 1)


def test_neurons_of_a_network_are_exchanged_for_better_ones():
    ensemble = mf.Ensemble.from_model(
        mlp((5, 12, 3), key=jax.random.key(0)), key=jax.random.key(1)
    )
    x = jax.random.normal(jax.random.key(2), (60, 5))
    game = mf.NeuronGame(ensemble, "layers/0", (x, jnp.arange(60) % 3))
    found = mf.games.stable_coalition(game, np.arange(12.0), 4, width=12)
    every = best_of_size(game, 12, 4)
    assert found.first_payoff < found.payoff <= every + 1e-6
    np.testing.assert_allclose(game(found.mask[None])[0], found.payoff, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"`size` must lie between 1 and 4.*got 0"),
        ({"size": 5}, r"`size` must lie between 1 and 4.*got 5"),
        ({"width": 0}, r"`width` must be at least 1 candidate; got 0"),
        ({"budget": 12}, r"`budget` must be at least 13 evaluations.*got 12"),
        ({"shapley": np.full(5, np.nan)}, r"`shapley` must have one finite value"),
        ({"shapley": np.ones((2, 5))}, r"`shapley` must have one finite value"),
        ({"value_fn": lambda rows: rows}, r"`value_fn` must return one payoff per"),
    ],
)
def test_bad_input_is_told_apart(settings, message):
    good = {"value_fn": lambda rows: rows.sum(1), "shapley": np.ones(5), "size": 2}
    with pytest.raises(ValueError, match=message):
        mf.games.stable_coalition(**{**good, **settings})
