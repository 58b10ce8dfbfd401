"""Maps and critical lines of wide spike-and-slab ensembles."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.jaynes import critical_initialize
from meanfield.physics.renormalization import (
    ensemble_map,
)
from meanfield.physics.renormalization.activations import (
    ACTIVATIONS,
)
from meanfield.physics.renormalization.ensemble_map import WeightVariances
from meanfield.physics.renormalization.fixed_points import (
    fixed_point,
)
from meanfield.physics.renormalization.meanfield_map import (
    correlation_map,
    trajectory,
)


def ensemble_simulation(
    reading, width, depth, spike, mean_var, slab_var, bias_var, seed
):
    """Two inputs through one quenched ensemble of heterogeneous laws; φ = tanh.

    Returns q, the covariance of the two, and the mean square of a random gradient.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, width))
    z[1] = 0.4 * z[0] + math.sqrt(1 - 0.16) * z[1]
    tangent = rng.normal(size=width)
    rows = [(np.mean(z[0] ** 2), np.mean(z[0] * z[1]), np.mean(tangent**2))]
    for _ in range(depth):
        p = spike * 2 * rng.random((width, width))
        m = rng.normal(size=(width, width)) * math.sqrt(mean_var / width)
        v = slab_var / width * rng.exponential(size=(width, width))
        b = rng.normal(size=width) * math.sqrt(bias_var)
        a, derivative = np.tanh(z), 1 - np.tanh(z[0]) ** 2
        if reading == "drawn":
            w = m + np.sqrt(v) * rng.normal(size=m.shape)
            w = np.where(rng.random(m.shape) < p, 0.0, w)
            z, tangent = a @ w.T + b, w @ (derivative * tangent)
        else:
            mu, var = (1 - p) * m, (1 - p) * (v + p * m**2)
            spread = np.sqrt(np.square(a) @ var.T)
            noise = rng.normal(size=z.shape)
            z = a @ mu.T + b + noise * spread
            jacobian = mu + (noise[0] / spread[0])[:, None] * var * a[0]
            tangent = jacobian @ (derivative * tangent)
        rows.append((np.mean(z[0] ** 2), np.mean(z[0] * z[1]), np.mean(tangent**2)))
    return np.array(rows)


@pytest.mark.parametrize("reading", ["drawn", "sampled"])
def test_ensembles_follow_their_own_maps_at_five_standard_errors(reading):
    spike, mean_var, slab_var, bias_var, depth = 0.2, 2.0, 0.6, 0.05, 4
    # E over π ~ U(0, 2 spike): E(1 − π) and E(1 − π)² of that law.
    present, present_square = 1 - spike, 1 - 2 * spike + 4 * spike**2 / 3
    total = present * (slab_var + mean_var)
    shared = present_square * mean_var
    variances = WeightVariances(shared, total - shared)
    runs = np.array(
        [
            ensemble_simulation(
                reading, 400, depth, spike, mean_var, slab_var, bias_var, seed
            )
            for seed in range(20)
        ]
    )
    seen = total if reading == "drawn" else shared
    theory = trajectory(1.0, 0.4, depth, total, bias_var, "tanh", seen)
    lengths = theory[:, 0]
    gradients = [seen * ACTIVATIONS["tanh"].derivative_moment(q) for q in lengths[:-1]]
    expected = np.stack(
        [lengths, lengths * theory[:, 1], np.cumprod([1.0, *gradients])], axis=1
    )
    errors = runs.std(axis=0, ddof=1) / math.sqrt(len(runs))
    misses = np.abs(runs.mean(axis=0) - expected)
    # A gradient's own noise term is O(1/N) of σ_V² and grows with depth.
    finite = np.zeros_like(expected)
    if reading == "sampled":
        finite[:, 2] = np.arange(depth + 1) / 400 * variances.fresh * expected[:, 2]
    assert np.all(misses < 5 * errors + finite)
    if reading == "sampled":
        other = trajectory(1.0, 0.4, depth, total, bias_var, "tanh", total)
        gap = abs(runs.mean(axis=0)[-1, 1] - other[-1, 0] * other[-1, 1])
        assert gap > 5 * errors[-1, 1]


def test_measured_variances_of_a_layer_are_the_moments_of_its_laws():
    rng = np.random.default_rng(0)
    shape = (40, 60)
    weight = mf.SpikeSlab(rng.random(shape), rng.normal(size=shape), rng.random(shape))
    found = ensemble_map.weight_variances(weight, 60)
    p, m, v = (np.asarray(x, float) for x in jax.tree.leaves(weight))
    assert found.shared == pytest.approx(60 * np.mean(((1 - p) * m) ** 2), rel=1e-5)
    assert found.total == pytest.approx(60 * np.mean((1 - p) * (v + m**2)), rel=1e-5)
    uniform = ensemble_map.slab_variances(0.3, 2.0, 0.5)
    assert uniform.total == pytest.approx(0.7 * 2.5)
    assert uniform.shared == pytest.approx(0.49 * 2.0)


def test_without_noise_all_readings_are_the_ordinary_network():
    variances = ensemble_map.slab_variances(0.0, 1.5, 0.0)
    for reading in ensemble_map.READINGS:
        found = ensemble_map.ensemble_fixed_point(variances, 0.05, "tanh", reading)
        assert found == fixed_point(1.5, 0.05)


def test_equal_inputs_drift_apart_only_under_fresh_noise():
    variances = WeightVariances(1.4, 0.3)
    sampled = ensemble_map.ensemble_fixed_point(variances, 0.05, "tanh", "sampled")
    drawn = ensemble_map.ensemble_fixed_point(variances, 0.05, "tanh", "drawn")
    assert drawn.correlation == 1.0
    assert sampled.correlation < 0.9
    assert sampled.length == drawn.length
    assert sampled.gradient == pytest.approx(drawn.gradient * 1.4 / 1.7)
    again = correlation_map(sampled.correlation, sampled.length, 1.4, 0.05)
    assert again == pytest.approx(sampled.correlation, abs=1e-10)


@pytest.mark.parametrize("reading", ensemble_map.READINGS)
@pytest.mark.parametrize("name", ["tanh", "erf", "relu"])
def test_the_critical_line_has_unit_slope(reading, name):
    for spike, slab_var in itertools.product([0.0, 0.3], [0.0, 0.4]):
        mean_var = ensemble_map.critical_slab_mean_var(
            spike, slab_var, 0.05, name, reading
        )
        variances = ensemble_map.slab_variances(spike, mean_var, slab_var)
        found = ensemble_map.ensemble_fixed_point(variances, 0.05, name, reading)
        assert found.gradient == pytest.approx(1.0, abs=1e-8)


def test_the_critical_line_is_known_in_closed_form_for_relu():
    line = ensemble_map.critical_slab_mean_var
    assert line(0.5, 1.0, 0.0, "relu") == pytest.approx(2 / 0.5 - 1.0)
    assert line(0.5, 1.0, 0.0, "relu", "mean") == pytest.approx(8.0)
    assert line(0.5, 1.0, 0.0, "relu", "sampled") == pytest.approx(8.0)
    # The signal is stationary at 3, the gradient of training at 8: never both.
    variances = ensemble_map.slab_variances(0.5, 3.0, 1.0)
    sampled = ensemble_map.ensemble_fixed_point(variances, 0.0, "relu", "sampled")
    assert sampled.gradient == pytest.approx(0.5 * variances.shared)
    assert sampled.phase == "ordered"


def test_ensemble_maps_refuse_what_has_no_line():
    line = ensemble_map.critical_slab_mean_var
    with pytest.raises(ValueError, match=r"`spike_prob` must lie in \[0, 1\); got 1"):
        line(1, 0.0, 0.0)
    with pytest.raises(ValueError, match="`slab_var` must be at most 2 for a critical"):
        line(0.0, 3.0, 0.0, "relu")
    with pytest.raises(ValueError, match="`reading` must be one of"):
        line(0.0, 0.0, 0.0, "relu", "typical")
    with pytest.raises(ValueError, match="`spike_prob` must lie in"):
        ensemble_map.slab_variances(1.5, 1.0, 1.0)


def test_a_network_drawn_at_the_critical_line_keeps_its_lengths():
    width = 500
    slab = mf.SpikeSlab(
        jnp.full((width, width), 0.3),
        jnp.zeros((width, width)),
        jnp.full((width, width), 0.4 / width),
    )
    layers = critical_initialize([slab] * 4, key=jax.random.key(0), weight_var=2.0)
    growths = []
    for seed in range(8):
        keys = jax.random.split(jax.random.key(seed), 5)
        z = np.asarray(jax.random.normal(keys[4], (width,)))
        start = np.mean(z**2)
        for layer, key in zip(layers, keys, strict=False):
            z = np.asarray(layer.sample(key)) @ np.maximum(z, 0)
        growths.append(np.mean(z**2) / start)
    error = np.std(growths, ddof=1) / math.sqrt(len(growths))
    assert abs(np.mean(growths) - 1) < 5 * error
