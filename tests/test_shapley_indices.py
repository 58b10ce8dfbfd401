import jax
import numpy as np
import pytest
from oracles_shapley import (
    banzhaf_by_definition,
    interactions_by_definition,
    owen_by_orders,
    table_game,
)

from meanfield.games.banzhaf import banzhaf_values
from meanfield.games.interactions import interaction_values, neighbour_paths
from meanfield.games.known_games import airport, glove, quadratic, unanimity
from meanfield.games.owen import owen_values
from meanfield.games.shapley import shapley_values

KEY = jax.random.key(11)


def random_game(n: int, seed: int = 0):
    return table_game(np.random.default_rng(seed).normal(size=2**n))


# Banzhaf


@pytest.mark.parametrize("n", [2, 3, 6])
def test_banzhaf_by_enumeration_meets_the_definition(n):
    game = random_game(n)
    result = banzhaf_values(game, n, budget=2**n)
    np.testing.assert_allclose(
        result.values, banzhaf_by_definition(game, n), atol=1e-12
    )
    assert result.method == "exact"
    assert result.num_evaluations == 2**n


def test_banzhaf_of_gloves_and_of_the_airport_are_the_published_ones():
    np.testing.assert_allclose(
        banzhaf_values(glove(1, 2), 3).values, [0.75, 0.25, 0.25]
    )
    np.testing.assert_allclose(
        banzhaf_values(glove(2, 3), 5).values, [0.6875] * 2 + [0.3125] * 3
    )
    # Unlike Shapley values, which sum to v(N) = 8.
    total = banzhaf_values(airport(np.arange(1, 9)), 8).values.sum()
    np.testing.assert_allclose(total, 3.921875)


def test_sampled_banzhaf_is_exact_for_quadratic_games():
    rng = np.random.default_rng(0)
    pairwise = rng.normal(size=(24, 24))
    game = quadratic(rng.normal(size=24), pairwise + pairwise.T)
    result = banzhaf_values(game, 24, key=KEY, budget=60)
    # For a quadratic game Banzhaf and Shapley values are the same numbers.
    np.testing.assert_allclose(result.values, game.shapley_values, atol=1e-10)
    assert result.num_evaluations <= 60


def test_sampled_banzhaf_covers_the_truth():
    game = airport(np.arange(1, 13))
    truth = banzhaf_values(game, 12, budget=2**12).values
    held, deviations = 0, []
    for seed in range(200):
        result = banzhaf_values(game, 12, key=jax.random.key(seed), budget=400)
        inside = (result.intervals[:, 0] <= truth) & (truth <= result.intervals[:, 1])
        held += inside.all()
        deviations.append(result.values - truth)
    assert 0.9 <= held / 200 <= 0.99
    deviations = np.array(deviations)
    error = deviations.std(axis=0, ddof=1) / np.sqrt(200)
    assert (np.abs(deviations.mean(axis=0)) <= 5 * error).all()


# Owen


@pytest.mark.parametrize(
    "unions", [[[0, 2], [1, 3], [4]], [[4, 0], [1], [2], [3]], [[1, 3, 0], [2, 4]]]
)
def test_owen_by_enumeration_meets_the_mean_over_orders(unions):
    game = random_game(5, seed=1)
    result = owen_values(game, unions, budget=100)
    np.testing.assert_allclose(result.values, owen_by_orders(game, unions), atol=1e-12)
    assert result.method == "exact"
    assert result.num_evaluations <= 2**5


def test_owen_values_of_gloves_are_the_published_ones():
    game = glove(2, 3)
    split = owen_values(game, [[0, 1], [2, 3, 4]])
    np.testing.assert_allclose(split.values, [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])
    mixed = owen_values(game, [[0, 2], [1, 3], [4]])
    np.testing.assert_allclose(mixed.values, [0.75, 0.75, 0.25, 0.25, 0], atol=1e-12)


@pytest.mark.parametrize("unions", [[[0], [1], [2], [3], [4]], [[0, 1, 2, 3, 4]]])
def test_owen_with_trivial_unions_is_shapley(unions):
    game = random_game(5, seed=2)
    expected = shapley_values(game, 5, method="exact").values
    np.testing.assert_allclose(owen_values(game, unions).values, expected, atol=1e-12)


def test_unions_share_the_value_of_the_union_in_the_quotient_game():
    game = random_game(6, seed=3)
    unions = [[0, 5], [1, 2, 4], [3]]
    result = owen_values(game, unions, budget=1000)

    def quotient(coalitions):
        members = np.zeros((len(coalitions), 6), dtype=bool)
        for column, union in enumerate(unions):
            members[:, union] = coalitions[:, [column]]
        return game(members)

    totals = [result.values[union].sum() for union in unions]
    expected = shapley_values(quotient, 3, method="exact").values
    np.testing.assert_allclose(totals, expected, atol=1e-12)


def test_sampled_owen_is_efficient_keeps_null_players_at_zero_and_covers():
    game = unanimity(
        14, [[0, 3], [1, 2, 8], [4, 9], [5, 0, 1], [10, 11]], [1.0, -2.0, 3.0, 1.0, 0.5]
    )
    unions = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9], [10], [11, 12, 13]]
    truth = owen_values(game, unions, budget=5000)
    assert truth.method == "exact"
    held = 0
    for seed in range(200):
        result = owen_values(game, unions, key=jax.random.key(seed), budget=400)
        assert result.method == "antithetic"
        assert result.num_evaluations <= 400
        assert abs(result.values.sum() - 3.5) < 1e-12
        assert (result.values[[6, 7, 12, 13]] == 0).all()
        held += (
            (result.intervals[:, 0] <= truth.values)
            & (truth.values <= result.intervals[:, 1])
        ).all()
    assert held / 200 >= 0.93


# Interactions


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_interactions_by_enumeration_meet_the_definition(n):
    game = random_game(n, seed=4)
    result = interaction_values(game, n, budget=2**n)
    expected = interactions_by_definition(game, n)
    np.testing.assert_allclose(result.values, expected, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_on_neighbour_paths_every_two_players_meet_exactly_once(n):
    paths = neighbour_paths(n)
    m = n + n % 2
    assert (np.sort(paths, axis=1) == np.arange(m)).all()
    met = np.zeros((m, m), dtype=int)
    np.add.at(met, (paths[:, :-1], paths[:, 1:]), 1)
    assert (met + met.T == 1 - np.eye(m, dtype=int)).all()


@pytest.mark.parametrize("n", [7, 8])
def test_sampled_interactions_are_unbiased_and_cover(n):
    game = random_game(n, seed=5)
    truth = interaction_values(game, n, budget=2**n).values
    # A seed's budget stays below 2^n only in a larger game: pad with null players.
    m = n + 6

    def padded(coalitions):
        return game(coalitions[:, :n])

    budget = 2 + 2 * (m + m % 2) * (m + m % 2 - 1) * 8
    results = [
        interaction_values(padded, m, key=jax.random.key(s), budget=budget)
        for s in range(60)
    ]
    values = np.array([result.values for result in results])
    assert all(result.num_evaluations <= budget for result in results)
    assert (values[:, n:] == 0).all()
    assert (values[:, :, n:] == 0).all()
    upper = np.triu_indices(n, 1)
    error = values.std(axis=0, ddof=1)[:n, :n] / np.sqrt(60)
    deviation = values.mean(axis=0)[:n, :n] - truth
    assert (np.abs(deviation[upper]) <= 5 * error[upper]).all()
    held = [
        (
            (result.intervals[:n, :n, 0] <= truth)
            & (truth <= result.intervals[:n, :n, 1])
        ).all()
        for result in results
    ]
    assert np.mean(held) >= 0.9


def test_one_replicate_is_exact_for_games_of_order_three():
    game = unanimity(
        13,
        [[0, 3], [1, 2, 8], [4, 9, 5], [12], [0, 1]],
        [1.0, -2.0, 3.0, 1.0, 0.5],
    )
    result = interaction_values(game, 13, key=KEY, budget=400)
    expected = np.zeros((13, 13))
    for carrier, weight in (((0, 3), 1.0), ((0, 1), 0.5)):
        expected[carrier] = weight
    for carrier, weight in (((1, 2, 8), -2.0), ((4, 5, 9), 3.0)):
        for i in carrier:
            for j in carrier:
                if i < j:
                    # A unanimity game of three has interaction ½ in every pair.
                    expected[i, j] = weight / 2
    np.testing.assert_allclose(result.values, expected + expected.T, atol=1e-12)
    assert np.isinf(result.standard_errors[np.triu_indices(13, 1)]).all()


# Bad input


def test_bad_unions_and_budgets_are_refused():
    game = random_game(4)
    for unions in ([[0, 1], [1, 2, 3]], [[0], [2, 3]], [[0, 1, 2, 3], []], []):
        with pytest.raises(
            ValueError, match=r"`unions` must be a partition|at least 2; got 0"
        ):
            owen_values(game, unions)
    big = airport(np.arange(1, 25))
    halves = [list(range(12)), list(range(12, 24))]
    with pytest.raises(ValueError, match="`budget` must be at least 48 "):
        owen_values(big, halves, key=KEY, budget=47)
    with pytest.raises(ValueError, match="`budget` must be at least 50 "):
        banzhaf_values(big, 24, key=KEY, budget=49)
    with pytest.raises(ValueError, match="`budget` must be at least 1106 "):
        interaction_values(big, 24, key=KEY, budget=1105)
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        owen_values(big, halves, key=KEY, budget=480, tolerance=-1.0)
    for index in (banzhaf_values, interaction_values):
        with pytest.raises(ValueError, match="`num_players` must be at least 2"):
            index(game, 1)
        with pytest.raises(ValueError, match="`key` is needed"):
            index(big, 24)
