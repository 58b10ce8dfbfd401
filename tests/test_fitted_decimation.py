"""Decimation fitted to the states of a network."""

import math

import jax
import numpy as np
import pytest

from meanfield.physics.renormalization import (
    decimation,
)
from meanfield.physics.renormalization.fitted_decimation import (
    decimate_network,
    fit_effective_layer,
    propagate,
    redrawn_network,
)


def test_an_effective_layer_that_exists_is_found():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(7, 5)), rng.normal(size=7)
    states = rng.normal(size=(2000, 5))
    noise = 0.3 * rng.normal(size=(2000, 7))
    z = states @ weight.T + bias + noise
    found = fit_effective_layer(states, z, "tanh", key=jax.random.key(0))
    np.testing.assert_allclose(found.weight, weight, atol=0.05)
    np.testing.assert_allclose(found.bias, bias, atol=0.05)
    residual = noise**2
    error = residual.std() / math.sqrt(7 * 1000)
    assert abs(found.noise_var - 0.09) < 5 * error
    assert found.weight_var == pytest.approx(5 * np.mean(found.weight**2))


def test_the_estimation_noise_of_an_effective_layer_is_told():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 20)) * np.linspace(0.2, 2.0, 20)
    fits = [
        fit_effective_layer(
            states, rng.normal(size=(400, 50)), "linear", key=jax.random.key(seed)
        )
        for seed in range(30)
    ]
    # There is nothing to find: all of σ_w² is estimation noise.
    gap = np.array([fit.weight_var - fit.fit_noise for fit in fits])
    assert abs(gap.mean()) < 5 * gap.std(ddof=1) / math.sqrt(len(gap))
    assert np.mean([fit.fit_noise for fit in fits]) > 0.1


def deep_network(gain, depth=4, width=12, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(width, width)) * math.sqrt(gain / width),
            0.1 * rng.normal(size=width),
        )
        for _ in range(depth)
    ]


def test_fitted_decimation_of_a_linear_network_is_exact_at_every_level():
    layers = deep_network(1.0)
    x = np.random.default_rng(1).normal(size=(400, 12))
    levels = decimate_network(layers, x, "linear", key=jax.random.key(0))
    assert [len(level) for level in levels] == [4, 2, 1]
    for level, block in zip(levels[1:], (2, 4), strict=True):
        exact = decimation.decimate_linear(
            [decimation.LinearLayer(w, b, np.zeros((12, 12))) for w, b in layers], block
        )
        for found, expected in zip(level, exact, strict=True):
            np.testing.assert_allclose(found.weight, expected.weight, atol=1e-9)
            np.testing.assert_allclose(found.bias, expected.bias, atol=1e-9)
            assert found.r_squared == pytest.approx(1.0, abs=1e-12)
            assert found.noise_var == pytest.approx(0.0, abs=1e-18)
            assert found.verdict == "good"


def test_weakly_nonlinear_networks_decimate_well_and_chaotic_ones_do_not():
    x = np.random.default_rng(1).normal(size=(4000, 12))
    quiet = decimate_network(deep_network(0.5), 0.5 * x, "tanh", key=jax.random.key(0))
    chaos = decimate_network(deep_network(20.0), x, "tanh", key=jax.random.key(0))
    assert all(layer.verdict == "good" for level in quiet for layer in level)
    assert quiet[2][0].gradient < quiet[1][0].gradient < 1
    assert all(layer.verdict == "poor" for layer in chaos[2])
    assert chaos[2][0].r_squared < chaos[1][0].r_squared


def test_goodness_of_fit_is_measured_on_examples_not_used_for_it():
    rng = np.random.default_rng(0)
    states, z = rng.normal(size=(300, 60)), rng.normal(size=(300, 4))
    found = fit_effective_layer(states, z, "linear", key=jax.random.key(0))
    assert found.r_squared < 0.05
    assert found.verdict == "poor"
    constant = fit_effective_layer(
        states, np.zeros((300, 4)), "tanh", key=jax.random.key(0)
    )
    assert constant.verdict == "cannot tell"


def test_redrawn_networks_keep_their_variances_and_shapes():
    layers = deep_network(1.5, width=80)
    redrawn = redrawn_network(layers, key=jax.random.key(0))
    for (w, b), (new_w, new_b) in zip(layers, redrawn, strict=True):
        assert new_w.shape == w.shape
        assert new_b.shape == b.shape
        assert np.mean(new_w**2) == pytest.approx(np.mean(w**2), rel=0.1)
        assert abs(np.corrcoef(w.ravel(), new_w.ravel())[0, 1]) < 5 / 80
    states, preactivations = propagate(layers, np.ones((3, 80)), "tanh")
    assert len(states) == 5
    assert len(preactivations) == 4
    np.testing.assert_array_equal(states[2], np.tanh(preactivations[1]))


def test_fitted_decimation_refuses_what_it_cannot_fit():
    key = jax.random.key(0)
    x = np.ones((30, 12))
    with pytest.raises(ValueError, match="at least 52 examples for 12 units; got 30"):
        decimate_network(deep_network(1.0), x, "tanh", key=key)
    with pytest.raises(ValueError, match="at least 2 layers to decimate; got 1"):
        decimate_network(deep_network(1.0, depth=1), x, "tanh", key=key)
    with pytest.raises(ValueError, match="`block` must be at least 2"):
        decimate_network(deep_network(1.0), x, "tanh", key=key, block=1)
    with pytest.raises(ValueError, match="must be finite; got NaN"):
        fit_effective_layer(np.full((99, 2), np.nan), np.ones((99, 2)), "tanh", key=key)
