"""Sampled values shrunk towards a control: Stein's bound, limits, and bad input."""

import equinox as eqx
import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.games.known_games import airport

PLAYERS = 12
GAME = airport(np.arange(1, PLAYERS + 1) ** 2)
TRUTH = GAME.shapley_values


def estimates(control, repeats=60, budget=120):
    return [
        mf.shapley_values(
            GAME,
            key=jax.random.key(seed),
            budget=budget,
            method="antithetic",
            control=control,
        )
        for seed in range(repeats)
    ]


def error(found):
    return np.mean([np.square(f.values - TRUTH).sum() for f in found])


@pytest.fixture(scope="module")
def plain():
    return estimates(None)


@pytest.mark.parametrize("bias", [0.0, 0.1, 1.0, 100.0])
def test_no_control_is_worse_than_none_and_a_good_one_is_better(plain, bias):
    noise = np.random.default_rng(1).normal(size=PLAYERS)
    control = TRUTH + bias * np.linalg.norm(TRUTH) / 3 * noise
    ratio = error(estimates(control)) / error(plain)
    assert ratio < 1.03
    if bias == 0:
        assert ratio < 0.3


def test_errors_are_those_of_the_sample_and_intervals_hold_the_values(plain):
    for alone, found in zip(plain, estimates(np.zeros(PLAYERS)), strict=True):
        np.testing.assert_array_equal(found.standard_errors, alone.standard_errors)
        lower, upper = found.intervals.T
        assert (lower <= alone.intervals[:, 0]).all()
        assert (upper >= alone.intervals[:, 1]).all()
        assert ((lower <= found.values) & (found.values <= upper)).all()
        assert found.num_evaluations == alone.num_evaluations
        np.testing.assert_allclose(found.efficiency_gap, 0, atol=1e-9)


def test_exact_values_need_no_control():
    exact = mf.shapley_values(GAME, budget=2**PLAYERS, control=np.ones(PLAYERS))
    np.testing.assert_allclose(exact.values, TRUTH)


def test_values_of_units_are_a_control_for_sampled_ones():
    network = mlp((6, 40, 3), key=jax.random.key(0))
    network = jax.tree.map(lambda a: 3 * a if eqx.is_array(a) else a, network)
    ensemble = mf.Ensemble.from_points(network)
    x = jax.random.normal(jax.random.key(1), (60, 6))
    data = x, jax.vmap(network)(x).argmax(1)
    game = mf.NeuronGame(ensemble, "layers/0", data)
    units = mf.unit_values(
        ensemble, data, key=jax.random.key(2), layer="layers/0", num_samples=32
    )
    many = mf.shapley_values(game, key=jax.random.key(3), budget=12_000)
    errors = {}
    for name, control in (("none", None), ("units", units.values["layers/0"])):
        found = [
            mf.shapley_values(game, key=jax.random.key(k), budget=400, control=control)
            for k in range(4, 12)
        ]
        assert all(f.method == "antithetic" for f in found)
        squares = [np.square(f.values - many.values).sum() for f in found]
        errors[name] = np.mean(squares)
    assert errors["units"] < 0.6 * errors["none"], errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control": np.zeros(3)}, "`control` must have one finite value for each"),
        ({"control": np.full(PLAYERS, np.nan)}, "`control` must have one finite"),
        (
            {"control": np.zeros(PLAYERS), "method": "kernel"},
            '`control` needs method="antithetic"',
        ),
    ],
)
def test_bad_controls_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mf.shapley_values(GAME, key=jax.random.key(0), budget=200, **settings)
