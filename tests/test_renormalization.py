"""Mean-field maps, decimation in depth, the layered Hamiltonian, critical lines."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import meanfield as mf
from meanfield.ensemble.jaynes import critical_initialize
from meanfield.physics.renormalization.activations import (
    ACTIVATIONS,
    Activation,
    find_activation,
)
from meanfield.physics.renormalization.ensemble_map import WeightVariances
from meanfield.physics.renormalization.fitted_decimation import (
    decimate_network,
    fit_effective_layer,
    propagate,
    redrawn_network,
)
from meanfield.physics.renormalization.fixed_points import (
    critical_weight_var,
    depth_scale,
    fixed_correlation,
    fixed_length,
    fixed_point,
)
from meanfield.physics.renormalization.hamiltonian import (
    forward_states,
    layer_energies,
    layered_hamiltonian,
)
from meanfield.physics.renormalization.meanfield_map import (
    correlation_map,
    length_map,
    trajectory,
)
from meanfield.physics.renormalization.position import (
    analyze_renormalization,
    decimation,
    ensemble_map,
    fixed_points,
    wide_flow,
)
from meanfield.physics.renormalization.symmetry import translational_symmetry

PAIRS = [(0.3, 0.2), (1.7, -0.6), (4.0, 0.95)]


# Gaussian moments


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("q", "c"), PAIRS)
def test_gaussian_moments_agree_with_adaptive_integration(name, q, c):
    phi = ACTIVATIONS[name]
    root = math.sqrt(q)

    def mean(function):
        value, _ = integrate.quad(
            lambda z: float(function(z)) * stats.norm.pdf(z), -9, 9, points=[0.0]
        )
        return value

    def value(z):
        return float(phi.value(np.array([root * z]))[0])

    def slope(z):
        return float(phi.slope(np.array([root * z]))[0])

    assert phi.second_moment(q) == pytest.approx(mean(lambda z: value(z) ** 2))
    assert phi.slope_moment(q) == pytest.approx(mean(lambda z: slope(z) ** 2))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("q", "c"), PAIRS)
def test_pair_moments_agree_with_sampling(name, q, c):
    phi = ACTIVATIONS[name]
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 400_000))
    first, second = (
        math.sqrt(q) * z[0],
        math.sqrt(q) * (c * z[0] + math.sqrt(1 - c * c) * z[1]),
    )
    for function, moment in (
        (phi.value, phi.product_moment),
        (phi.slope, phi.slope_product),
    ):
        product = function(first) * function(second)
        error = product.std() / math.sqrt(product.size)
        assert abs(product.mean() - moment(q, c)) <= 5 * error + 1e-12


def test_quadrature_agrees_with_the_closed_forms_of_erf():
    exact = ACTIVATIONS["erf"]
    numeric = Activation("erf", exact.value, exact.slope)
    for q, c in [*PAIRS, (50.0, 0.5)]:
        assert numeric.second_moment(q) == pytest.approx(exact.second_moment(q))
        assert numeric.slope_moment(q) == pytest.approx(exact.slope_moment(q))
        tolerance = 1e-9 if q < 20 else 1e-3
        for form in ("product_moment", "slope_product"):
            assert getattr(numeric, form)(q, c) == pytest.approx(
                getattr(exact, form)(q, c), rel=tolerance
            )


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="`activation` must be one of"):
        find_activation("swish")


# Fixed points and the transition


@pytest.mark.parametrize(
    ("bias_var", "critical", "length"),
    [(0.05, 1.76095, 0.57005), (0.10, 1.98607, 0.80580)],
)
def test_critical_points_of_tanh_agree_with_the_known_ones(bias_var, critical, length):
    found = critical_weight_var(bias_var)
    assert found == pytest.approx(critical, abs=1e-5)
    assert fixed_length(found, bias_var) == pytest.approx(length, abs=1e-5)


def test_critical_points_without_biases_are_exact():
    assert critical_weight_var(0.0, "tanh") == pytest.approx(1.0, rel=1e-12)
    assert critical_weight_var(0.0, "erf") == pytest.approx(math.pi / 4, rel=1e-12)
    assert critical_weight_var(0.0, "relu") == 2.0
    assert critical_weight_var(0.3, "relu") == 2.0
    assert critical_weight_var(0.0, "linear") == 1.0


def test_the_fixed_length_is_where_patient_iteration_ends():
    for weight_var, bias_var in ((0.8, 0.0), (1.5, 0.05), (3.0, 0.2)):
        q = 1.0
        for _ in range(3000):
            q = length_map(q, weight_var, bias_var)
        assert fixed_length(weight_var, bias_var) == pytest.approx(q, abs=1e-10)


def test_the_depth_scale_diverges_with_exponent_one():
    critical = critical_weight_var(0.05)
    known = {
        0.1: 44.84,
        0.05: 91.79,
        0.02: 232.5,
        0.01: 467.1,
        0.005: 936.2,
        0.002: 2343.0,
    }
    scales = [fixed_point(critical - d, 0.05).depth_scale for d in known]
    for found, expected in zip(scales, known.values(), strict=True):
        assert found == pytest.approx(expected, rel=3e-4)
    nu, error = wide_flow.critical_exponent(list(known)[2:], scales[2:])
    assert nu == pytest.approx(1.003, abs=5e-4)
    close = [1e-3, 1e-4, 1e-5]
    nu, error = wide_flow.critical_exponent(
        close, [fixed_point(critical - d, 0.05).depth_scale for d in close]
    )
    assert nu == pytest.approx(1.0, abs=0.01)
    assert error < 0.01


def test_the_length_decays_as_one_over_twice_the_depth_at_criticality():
    known = {100: 0.5069, 1000: 0.5012, 10_000: 0.5002}
    phi, q = ACTIVATIONS["tanh"], 1.0
    for depth in range(1, 10_001):
        q = length_map(q, 1.0, 0.0, phi)
        if depth in known:
            assert q * depth == pytest.approx(known[depth], abs=5e-5)


def test_the_length_grows_as_half_the_distance_above_criticality():
    for e, known in ((0.1, 0.519), (0.05, 0.510), (0.02, 0.504), (0.01, 0.502)):
        assert fixed_length(1 + e, 0.0) / e == pytest.approx(known, abs=5e-4)
    assert fixed_length(1 + 1e-6, 0.0) / 1e-6 == pytest.approx(0.5, abs=1e-3)
    assert fixed_length(1 - 1e-6, 0.0) == 0.0


def test_relu_is_scale_free_at_its_transition():
    assert fixed_point(1.0, 0.1, "relu").length == pytest.approx(0.2)
    critical = fixed_point(2.0, 0.0, "relu")
    assert critical.length is None
    assert critical.phase == "critical"
    assert fixed_point(2.0, 0.1, "relu").length == math.inf
    above = fixed_point(3.0, 0.1, "relu")
    assert (above.length, above.slope, above.phase) == (math.inf, 1.5, "chaotic")
    assert above.depth_scale is None
    assert above.correlation is None
    assert fixed_point(1.0, 0.0, "relu").length == 0.0


def test_phases_lie_on_their_sides_of_the_transition():
    critical = critical_weight_var(0.05)
    assert fixed_point(critical - 0.2, 0.05).phase == "ordered"
    assert fixed_point(critical, 0.05).phase == "critical"
    chaotic = fixed_point(critical + 0.5, 0.05)
    assert chaotic.phase == "chaotic"
    assert chaotic.correlation < 1
    assert math.isfinite(chaotic.depth_scale)


def test_the_slope_is_the_derivative_of_the_correlation_map():
    point = fixed_point(1.5, 0.05)
    width = 1e-5
    change = 1 - correlation_map(1 - width, point.length, 1.5, 0.05)
    assert change / width == pytest.approx(point.slope, rel=1e-3)


def test_deep_trajectories_reach_the_fixed_points():
    end = trajectory(2.0, 0.3, 400, 3.0, 0.1)[-1]
    point = fixed_point(3.0, 0.1)
    assert end == pytest.approx([point.length, point.correlation], abs=1e-9)
    assert fixed_correlation(point.length, 3.0, 0.1) == point.correlation


def test_the_depth_scale_is_symmetric_just_around_the_transition():
    critical = critical_weight_var(0.05)
    for distance in (1e-4, 1e-6, 1e-7):
        above = fixed_point(critical + distance, 0.05)
        below = fixed_point(critical - distance, 0.05)
        assert (above.phase, below.phase) == ("chaotic", "ordered")
        assert above.depth_scale == pytest.approx(below.depth_scale, rel=2e-3)


def test_maps_refuse_what_is_no_variance():
    with pytest.raises(ValueError, match="`weight_var` must be a finite number"):
        fixed_length(-1.0, 0.0)
    with pytest.raises(ValueError, match="`bias_var` must be a finite number"):
        fixed_length(1.0, math.nan)
    with pytest.raises(ValueError, match="`slope` must not exceed 1"):
        depth_scale(1.2)
    assert depth_scale(1.0) == math.inf
    assert depth_scale(0.0) == 0.0


def dense_simulation(width, depth, weight_var, bias_var, name, seed, correlation=0.4):
    """Lengths and correlations of two inputs through one drawn network."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, width))
    z[1] = correlation * z[0] + math.sqrt(1 - correlation**2) * z[1]
    phi = ACTIVATIONS[name]
    rows = [(np.mean(z[0] ** 2), np.mean(z[0] * z[1]))]
    for _ in range(depth):
        w = rng.normal(size=(width, width)) * math.sqrt(weight_var / width)
        b = rng.normal(size=width) * math.sqrt(bias_var)
        z = phi.value(z) @ w.T + b
        rows.append((np.mean(z[0] ** 2), np.mean(z[0] * z[1])))
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var"),
    [
        ("tanh", 1.76095, 0.05),
        ("tanh", 3.0, 0.1),
        ("erf", 1.2, 0.05),
        ("relu", 2.0, 0.0),
    ],
)
def test_finite_networks_follow_the_maps_at_five_standard_errors(
    name, weight_var, bias_var
):
    depth = 5
    runs = np.array(
        [
            dense_simulation(400, depth, weight_var, bias_var, name, seed)
            for seed in range(24)
        ]
    )
    theory = trajectory(1.0, 0.4, depth, weight_var, bias_var, name)
    expected = np.stack([theory[:, 0], theory[:, 0] * theory[:, 1]], axis=1)
    errors = runs.std(axis=0, ddof=1) / math.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(axis=0) - expected) < 5 * errors)
    # The comparison has teeth: a 10 % wrong gain is excluded.
    wrong = trajectory(1.0, 0.4, depth, 1.1 * weight_var, bias_var, name)[:, 0]
    assert abs(runs.mean(axis=0)[-1, 0] - wrong[-1]) > 5 * errors[-1, 0]


# The ensemble's own maps


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
        a, slope = np.tanh(z), 1 - np.tanh(z[0]) ** 2
        if reading == "drawn":
            w = m + np.sqrt(v) * rng.normal(size=m.shape)
            w = np.where(rng.random(m.shape) < p, 0.0, w)
            z, tangent = a @ w.T + b, w @ (slope * tangent)
        else:
            mu, var = (1 - p) * m, (1 - p) * (v + p * m**2)
            spread = np.sqrt(np.square(a) @ var.T)
            noise = rng.normal(size=z.shape)
            z = a @ mu.T + b + noise * spread
            jacobian = mu + (noise[0] / spread[0])[:, None] * var * a[0]
            tangent = jacobian @ (slope * tangent)
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
    slopes = [seen * ACTIVATIONS["tanh"].slope_moment(q) for q in lengths[:-1]]
    expected = np.stack(
        [lengths, lengths * theory[:, 1], np.cumprod([1.0, *slopes])], axis=1
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
    assert sampled.slope == pytest.approx(drawn.slope * 1.4 / 1.7)
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
        assert found.slope == pytest.approx(1.0, abs=1e-8)


def test_the_critical_line_is_known_in_closed_form_for_relu():
    line = ensemble_map.critical_slab_mean_var
    assert line(0.5, 1.0, 0.0, "relu") == pytest.approx(2 / 0.5 - 1.0)
    assert line(0.5, 1.0, 0.0, "relu", "mean") == pytest.approx(8.0)
    assert line(0.5, 1.0, 0.0, "relu", "sampled") == pytest.approx(8.0)
    # The signal is stationary at 3, the gradient of training at 8: never both.
    variances = ensemble_map.slab_variances(0.5, 3.0, 1.0)
    sampled = ensemble_map.ensemble_fixed_point(variances, 0.0, "relu", "sampled")
    assert sampled.slope == pytest.approx(0.5 * variances.shared)
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


# Exact decimation


def test_the_linear_chain_keeps_its_stationary_variance():
    w, tau = 0.9, 0.3
    new_w, new_tau = decimation.decimate_chain(w, tau)
    assert (new_w, new_tau) == pytest.approx((0.81, 0.543))
    for weight, noise in ((w, tau), (new_w, new_tau)):
        assert noise / (1 - weight**2) == pytest.approx(1.578947, abs=1e-6)
    assert depth_scale(new_w) == pytest.approx(depth_scale(w) / 2)


@pytest.mark.parametrize("block", [2, 3, 5])
def test_decimation_composes_exactly(block):
    twice = decimation.decimate_chain(*decimation.decimate_chain(0.8, 0.2, block), 2)
    assert twice == pytest.approx(decimation.decimate_chain(0.8, 0.2, 2 * block))
    spins = decimation.decimate_binary_chain(
        decimation.decimate_binary_chain(1.3, block), 2
    )
    assert spins == pytest.approx(
        decimation.decimate_binary_chain(1.3, 2 * block), rel=1e-12
    )
    layer = wide_flow.wide_layer(1.6, 0.05)
    step = wide_flow.decimate_wide_layer(layer, "tanh", block)
    twice = wide_flow.decimate_wide_layer(step, "tanh", 2)
    once = wide_flow.decimate_wide_layer(layer, "tanh", 2 * block)
    assert twice.weight_var == pytest.approx(once.weight_var, rel=1e-12)
    assert twice.bias_var == pytest.approx(once.bias_var, rel=1e-12)


def linear_layers(num, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [3, 5, 4, 2, 6, 3, 4, 2, 3][: num + 1]
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        root = rng.normal(size=(outputs, outputs))
        layers.append(
            decimation.LinearLayer(
                rng.normal(size=(outputs, inputs)),
                rng.normal(size=outputs),
                root @ root.T,
            )
        )
    return layers


def test_any_grouping_of_linear_layers_gives_the_same_end_map():
    layers = linear_layers(8)
    by_two = decimation.decimate_linear(layers)
    ends = [
        decimation.decimate_linear(layers, 8),
        decimation.decimate_linear(decimation.decimate_linear(by_two)),
        decimation.decimate_linear(by_two, 4),
    ]
    assert len(by_two) == 4
    assert all(len(end) == 1 for end in ends)
    for end in ends[1:]:
        np.testing.assert_allclose(end[0].weight, ends[0][0].weight, rtol=1e-10)
        np.testing.assert_allclose(end[0].bias, ends[0][0].bias, rtol=1e-10)
        np.testing.assert_allclose(end[0].noise_cov, ends[0][0].noise_cov, rtol=1e-10)


def test_the_decimated_linear_layer_has_the_law_of_the_pair():
    layers = linear_layers(2)
    (effective,) = decimation.decimate_linear(layers)
    rng = np.random.default_rng(1)
    draws = 200_000
    h = np.array([0.3, -1.0, 2.0])
    state = np.tile(h, (draws, 1))
    for layer in layers:
        noise = rng.multivariate_normal(
            np.zeros(layer.bias.size), layer.noise_cov, draws
        )
        state = state @ layer.weight.T + layer.bias + noise
    error = state.std(axis=0) / math.sqrt(draws)
    expected = effective.weight @ h + effective.bias
    assert np.all(np.abs(state.mean(axis=0) - expected) < 5 * error)
    centred = state - state.mean(axis=0)
    for i, j in itertools.product(range(4), range(4)):
        product = centred[:, i] * centred[:, j]
        error = product.std() / math.sqrt(draws)
        assert abs(product.mean() - effective.noise_cov[i, j]) < 5 * error


def test_summing_over_every_second_spin_gives_the_decimated_chain():
    coupling = 0.7
    spins = np.array(list(itertools.product([-1, 1], repeat=5)))
    weight = np.exp(coupling * np.sum(spins[:, :-1] * spins[:, 1:], axis=1))
    new = decimation.decimate_binary_chain(coupling)
    assert math.tanh(new) == pytest.approx(0.365260, abs=1e-6)
    assert new == pytest.approx(0.5 * math.log(math.cosh(2 * coupling)), rel=1e-12)
    kept = list(itertools.product([-1, 1], repeat=3))
    marginal = np.array(
        [weight[(spins[:, ::2] == row).all(axis=1)].sum() for row in kept]
    )
    effective = np.exp([new * (a * b + b * c) for a, b, c in kept])
    np.testing.assert_allclose(marginal / marginal[0], effective / effective[0])


def test_the_binary_chain_always_flows_to_no_coupling():
    coupling, scale = 12.0, decimation.binary_depth_scale(12.0)
    for _ in range(40):
        following = decimation.decimate_binary_chain(coupling)
        assert following < coupling
        new_scale = decimation.binary_depth_scale(following)
        assert new_scale == pytest.approx(scale / 2, rel=1e-9)
        coupling, scale = following, new_scale
        if coupling < 1e-6:
            break
    assert coupling < 1e-6
    assert decimation.decimate_binary_chain(0.0) == 0.0
    assert decimation.decimate_binary_chain(1000.0) == 1000.0 - 0.5 * math.log(2)
    assert decimation.decimate_binary_chain(20.1) == pytest.approx(
        20.1 - 0.5 * math.log(2), rel=1e-14
    )
    assert decimation.binary_depth_scale(1000.0) == math.inf
    # At low temperature the relevant variable is e^{−2K}, which doubles: y = 1.
    low = [
        math.exp(-2 * decimation.decimate_binary_chain(-0.5 * math.log(x)))
        for x in (1e-6, 2e-6)
    ]
    assert (low[1] - low[0]) / 1e-6 == pytest.approx(2.0, rel=1e-6)


def test_the_mean_field_binary_layer_orders_as_a_square_root():
    for t, ratio in ((0.1, 0.918), (0.05, 0.957), (0.02, 0.982), (0.01, 0.991)):
        m, slope = decimation.binary_layer_fixed_point(1 + t)
        assert m == pytest.approx(math.tanh((1 + t) * m), abs=1e-12)
        assert m / math.sqrt(3 * t) == pytest.approx(ratio, abs=6e-4)
        assert slope < 1
    distances = [1e-3, 1e-4, 1e-5]
    scales = [
        depth_scale(decimation.binary_layer_fixed_point(1 + t)[1]) for t in distances
    ]
    assert wide_flow.critical_exponent(distances, scales)[0] == pytest.approx(
        1.0, abs=0.01
    )
    m = 1.0
    for _ in range(100_000):
        m = math.tanh(m)
    assert m * math.sqrt(2 * 100_000 / 3) == pytest.approx(1.0, abs=1e-3)


def test_two_binary_layers_have_the_same_fixed_point_and_the_squared_slope():
    gain = 1.3
    m, slope = decimation.binary_layer_fixed_point(gain)
    pair = lambda x: math.tanh(gain * math.tanh(gain * x))
    assert pair(m) == pytest.approx(m, abs=1e-12)
    derivative = (pair(m + 1e-6) - pair(m - 1e-6)) / 2e-6
    assert derivative == pytest.approx(slope**2, rel=1e-6)


@pytest.mark.parametrize("name", ["tanh", "erf", "relu"])
def test_a_decimated_wide_layer_has_the_fixed_point_and_slope_of_the_pair(name):
    weight_var = 1.2 if name == "relu" else 1.1
    layer = wide_flow.wide_layer(weight_var, 0.05, name)
    effective = wide_flow.decimate_wide_layer(layer, name)
    point = fixed_point(effective.weight_var, effective.bias_var, name)
    assert point.length == pytest.approx(layer.length, rel=1e-9)
    assert point.slope == pytest.approx(layer.slope**2, rel=1e-9)

    def pair(c):
        for _ in range(2):
            c = correlation_map(c, layer.length, weight_var, 0.05, name)
        return c

    # The ReLU kernel has a (1 − c)^{3/2} term: a finite step sees √width of it.
    width = 1e-6
    tolerance = 5e-3 if name == "relu" else 1e-4
    assert (1 - pair(1 - width)) / width == pytest.approx(
        effective.slope, rel=tolerance
    )
    assert effective.depth_scale == pytest.approx(layer.depth_scale / 2)


def test_the_flow_ends_at_no_weights_in_the_ordered_phase_only():
    ordered = wide_flow.wide_flow(wide_flow.wide_layer(1.5, 0.05), num_steps=9)
    assert len(ordered) == 10
    assert ordered[-1].weight_var < 1e-10
    assert ordered[-1].bias_var == pytest.approx(ordered[0].length)
    critical = critical_weight_var(0.05)
    still = wide_flow.wide_flow(wide_flow.wide_layer(critical, 0.05), num_steps=5)
    assert still[-1].weight_var == pytest.approx(critical, rel=1e-6)
    chaotic = wide_flow.wide_flow(wide_flow.wide_layer(2.2, 0.05), num_steps=20)
    assert len(chaotic) < 21
    slopes = [layer.slope for layer in chaotic]
    assert all(b > a for a, b in itertools.pairwise(slopes))
    assert chaotic[0].depth_scale is None


def test_relevant_eigenvalues_give_the_exponent_one():
    linear = wide_flow.relevant_eigenvalue(
        lambda w: decimation.decimate_chain(w, 0.0)[0], 1.0
    )
    by_three = wide_flow.relevant_eigenvalue(lambda chi: chi**3, 1.0, block=3)
    assert linear == pytest.approx(1.0, abs=1e-9)
    assert by_three == pytest.approx(1.0, abs=1e-9)


def test_decimation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="`block` must be at least 1; got 0"):
        decimation.decimate_chain(0.5, 0.1, 0)
    with pytest.raises(ValueError, match="`noise_var` must be at least 0"):
        decimation.decimate_chain(0.5, -0.1)
    with pytest.raises(ValueError, match="multiple of 2 layers; got 3"):
        decimation.decimate_linear(linear_layers(3))
    with pytest.raises(ValueError, match="`coupling` must be at least 0"):
        decimation.decimate_binary_chain(-1.0)
    with pytest.raises(ValueError, match="`gain` must be at least 0"):
        decimation.binary_layer_fixed_point(-1.0)
    with pytest.raises(ValueError, match="finite, positive fixed length; got q"):
        wide_flow.wide_layer(2.0, 0.1, "relu")
    with pytest.raises(ValueError, match="`fixed` must be a fixed point"):
        wide_flow.relevant_eigenvalue(lambda x: x**2, 0.5)
    with pytest.raises(ValueError, match="three or more positive, finite pairs"):
        wide_flow.critical_exponent([1.0, 0.1], [1.0, 10.0])


# The layered Hamiltonian


def tanh_layers(num, width, seed=0):
    keys = jax.random.split(jax.random.key(seed), num)
    weights = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys]
    return [lambda h, w=w: jnp.tanh(h @ w.T + 0.1) for w in weights]


def test_the_hamiltonian_is_the_plain_sum_of_its_terms():
    layers = tanh_layers(2, 3)
    rng = np.random.default_rng(0)
    h = [jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(3)]
    y = jnp.ones((4, 3))
    total = 0.7 * sum(
        float((y[l, i] - h[2][l, i]) ** 2) for l in range(4) for i in range(3)
    )
    for m, noise in ((0, 0.1), (1, 0.4)):
        after = np.asarray(layers[m](h[m]))
        total += float(np.sum((np.asarray(h[m + 1]) - after) ** 2)) / (2 * noise)
    found = layered_hamiltonian(
        h, y, layers, inverse_temperature=0.7, noise_var=[0.1, 0.4]
    )
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_the_forward_pass_is_the_ground_state_of_the_constraint():
    layers = tanh_layers(3, 5)
    states = forward_states(jnp.linspace(-1, 1, 20).reshape(4, 5), layers)
    energies = layer_energies(states, layers)
    assert energies.shape == (3,)
    np.testing.assert_array_equal(energies, 0.0)
    gradient = jax.grad(
        lambda h: layered_hamiltonian([states[0], *h], states[-1], layers)
    )(states[1:])
    for part in gradient:
        np.testing.assert_allclose(part, 0.0, atol=1e-5)


def test_shifting_layers_and_permuting_examples_leave_the_hamiltonian_alone():
    (layer,) = tanh_layers(1, 4)
    rng = np.random.default_rng(0)
    h = [jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for _ in range(4)]
    energies = layer_energies(h, [layer] * 3)
    shifted = layer_energies(h[1:], [layer] * 2)
    np.testing.assert_allclose(shifted, energies[1:], rtol=1e-6)
    order = np.array([3, 1, 5, 0, 2, 4])
    permuted = layer_energies([x[order] for x in h], [layer] * 3)
    np.testing.assert_allclose(permuted, energies, rtol=1e-5)


def test_integrating_out_a_layer_of_the_hamiltonian_is_the_decimation():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 3))
    noise = 0.5, 0.8
    layers = [lambda h, w=w: h @ jnp.asarray(w).T for w in (first, second)]

    def energy(flat):
        h = [row[None, :] for row in flat.reshape(3, 3)]
        return layered_hamiltonian(
            h, h[-1], layers, inverse_temperature=0.0, noise_var=noise
        )

    precision = np.asarray(jax.hessian(energy)(jnp.zeros(9)), float)
    ends = [0, 1, 2, 6, 7, 8]
    middle = [3, 4, 5]
    reduced = precision[np.ix_(ends, ends)] - precision[np.ix_(ends, middle)] @ (
        np.linalg.solve(
            precision[np.ix_(middle, middle)], precision[np.ix_(middle, ends)]
        )
    )
    (effective,) = decimation.decimate_linear(
        [
            decimation.LinearLayer(w, np.zeros(3), tau * np.eye(3))
            for w, tau in zip((first, second), noise, strict=True)
        ]
    )
    inverse = np.linalg.inv(effective.noise_cov)
    w = effective.weight
    expected = np.block([[w.T @ inverse @ w, -w.T @ inverse], [-inverse @ w, inverse]])
    np.testing.assert_allclose(reduced, expected, rtol=1e-4, atol=1e-4)


def test_small_noise_gives_back_the_ordinary_network():
    layers = tanh_layers(2, 3)
    x = jnp.ones((1, 3))
    exact = forward_states(x, layers)
    target = jnp.array([[0.5, -0.5, 0.2]])

    def relaxed(noise, steps=4000):
        hidden = [jnp.zeros((1, 3)), jnp.zeros((1, 3))]
        slope = jax.jit(
            jax.grad(
                lambda h: layered_hamiltonian([x, *h], target, layers, noise_var=noise)
            )
        )
        for _ in range(steps):
            hidden = jax.tree.map(
                lambda h, g: h - 0.3 * noise * g, hidden, slope(hidden)
            )
        return float(jnp.abs(hidden[-1] - exact[-1]).max())

    gaps = [relaxed(noise, 400) for noise in (1e-1, 1e-2, 1e-3)]
    assert gaps[1] < gaps[0] / 4
    assert gaps[2] < gaps[1] / 4


def test_the_hamiltonian_is_checked():
    layers = tanh_layers(2, 3)
    h = [jnp.ones((1, 3))] * 3
    with pytest.raises(ValueError, match="got 2 states for 2 layers"):
        layer_energies(h[:2], layers)
    with pytest.raises(ValueError, match="`noise_var` must be positive; got 0"):
        layer_energies(h, layers, noise_var=0)
    with pytest.raises(ValueError, match="one for each of 2 layers; got 3"):
        layer_energies(h, layers, noise_var=[1, 1, 1])


# Translational symmetry


def gaussian_stack(gains, width=60, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"layers/{i}/weight": rng.normal(size=(width, width)) * math.sqrt(g / width)
        for i, g in enumerate(gains)
    }


def test_layers_of_one_law_are_symmetric_at_the_stated_level():
    verdicts = [
        translational_symmetry(
            gaussian_stack([2.0] * 4, 20, seed), key=jax.random.key(seed)
        )
        for seed in range(40)
    ]
    broken = sum(found.verdict == "broken" for found in verdicts)
    # Two tests at 1 %: 40 draws break at most 4 times but for one in two thousand.
    assert broken <= 4
    share = np.mean([found.score_p < 0.3 for found in verdicts])
    assert abs(share - 0.3) < 5 * math.sqrt(0.21 / 40)


def test_layers_of_other_widths_and_kernels_are_compared_by_their_fan_in():
    rng = np.random.default_rng(0)
    stack = {
        "a/weight": rng.normal(size=(80, 50)) * math.sqrt(2 / 50),
        "b/kernel": rng.normal(size=(3, 3, 8, 60)) * math.sqrt(2 / 72),
        "c/weight": rng.normal(size=(30, 200)) * math.sqrt(2 / 200),
    }
    found = translational_symmetry(stack, key=jax.random.key(0))
    assert found.verdict == "symmetric"
    assert found.weight_vars == pytest.approx([2.0] * 3, rel=0.1)


def test_a_drift_of_the_gain_breaks_the_symmetry_and_is_seen_as_order():
    found = translational_symmetry(
        gaussian_stack(np.linspace(1.0, 2.5, 7)), key=jax.random.key(0)
    )
    assert found.verdict == "broken"
    assert found.score > found.score_null[1]
    assert found.drift < 1
    assert found.drift_p < 0.05
    assert "drifts with depth" in found.reason
    order = [3, 0, 6, 1, 4, 2, 5]
    shuffled = translational_symmetry(
        gaussian_stack(np.linspace(1.0, 2.5, 7)[order]), key=jax.random.key(0)
    )
    assert shuffled.verdict == "broken"
    assert shuffled.score == pytest.approx(found.score, rel=0.1)
    assert shuffled.drift_p > 0.05


def test_another_law_of_the_same_variance_breaks_the_symmetry_by_its_shape():
    stack = gaussian_stack([1.0] * 3)
    rng = np.random.default_rng(1)
    stack["layers/1/weight"] = rng.choice([-1, 1], (60, 60)) / math.sqrt(60)
    found = translational_symmetry(stack, key=jax.random.key(0))
    assert found.verdict == "broken"
    assert found.distance > 0.2 > found.distance_null[1]


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ({"a": np.ones((9, 9))}, "no depth to compare"),
        ({}, "no depth to compare"),
        ({"a": np.ones((9, 9)), "b": np.ones((3, 3))}, "fewer than 50 weights"),
        ({"a": np.ones((9, 9)), "b": np.full((9, 9), np.nan)}, "or NaN"),
        ({"a": np.ones((9, 9)), "b": np.zeros((9, 9))}, "'b' is all zeros"),
    ],
)
def test_symmetry_cannot_be_told_without_layers_to_compare(stack, reason):
    found = translational_symmetry(stack, key=jax.random.key(0))
    assert found.verdict == "cannot tell"
    assert reason in found.reason
    assert found.score is None
    assert found.drift_p is None


def test_nearly_empty_layers_are_compared_without_warnings():
    rng = np.random.default_rng(0)
    stack = gaussian_stack([1.0, 1.0], width=30)
    stack = {n: w * (rng.random(w.shape) < 0.003) for n, w in stack.items()}
    found = translational_symmetry(stack, key=jax.random.key(0))
    assert found.verdict in {"symmetric", "broken"}
    slab = {n: mf.SpikeSlab(0 * w, w, 0 * w) for n, w in stack.items()}
    same = translational_symmetry(slab, key=jax.random.key(0))
    assert same.verdict == found.verdict


def test_symmetry_needs_enough_shuffles():
    with pytest.raises(ValueError, match="`num_shuffles` must be at least 100"):
        translational_symmetry(
            gaussian_stack([1, 1]), key=jax.random.key(0), num_shuffles=50
        )


# Fitted decimation


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
    assert quiet[2][0].slope < quiet[1][0].slope < 1
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


# The whole instrument


def test_a_network_is_placed_and_followed():
    rng = np.random.default_rng(0)
    weight_var, bias_var = 1.4, 0.05
    net = {}
    for i in range(11):
        net[f"layers/{i}/weight"] = rng.normal(size=(90, 90)) * math.sqrt(
            weight_var / 90
        )
        net[f"layers/{i}/bias"] = rng.normal(size=90) * math.sqrt(bias_var)
    found = analyze_renormalization(net, key=jax.random.key(0), activation="tanh")
    assert list(found.layers) == [f"layers/{i}/weight" for i in range(11)]
    assert found.verdict == "ordered"
    assert found.symmetry.verdict == "symmetric"
    for point in found.layers.values():
        assert abs(point.weight_var - weight_var) < 5 * point.weight_var_error
        assert point.shared_var == point.weight_var
        assert point.sampled is None
        expected = fixed_point(point.weight_var, point.bias_var)
        assert point.drawn == expected
    assert [layer.slope for layer in found.flow] == sorted(
        (layer.slope for layer in found.flow), reverse=True
    )
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["verdict"] == "ordered"
    assert len(plain["flow"]) == 9


def test_an_ensemble_is_placed_under_both_readings():
    rng = np.random.default_rng(0)
    shape = (60, 60)
    net = {
        f"layers/{i}/weight": mf.SpikeSlab(
            0.3 * rng.random(shape), rng.normal(size=shape) / 5, rng.random(shape) / 60
        )
        for i in range(3)
    }
    found = analyze_renormalization(net, key=jax.random.key(0), activation="relu")
    for name, point in found.layers.items():
        expected = ensemble_map.weight_variances(net[name], 60)
        assert point.weight_var == pytest.approx(expected.total)
        assert point.shared_var == pytest.approx(expected.shared)
        assert point.sampled.slope < point.drawn.slope
    json.dumps(found.to_dict(), allow_nan=False)


def test_infinite_depth_scales_are_written_as_a_word():
    rng = np.random.default_rng(0)
    net = {str(i): rng.choice([-1, 1], (16, 16)) * math.sqrt(2 / 16) for i in range(3)}
    found = analyze_renormalization(net, key=jax.random.key(0))
    assert found.verdict == "critical"
    assert found.slope_interval == pytest.approx((1.0, 1.0))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "infinite" in text


def test_the_verdict_waits_until_the_sampling_error_allows_it():
    critical = critical_weight_var(0.05)
    verdicts = {}
    for width, num in ((8, 2), (120, 8)):
        rng = np.random.default_rng(1)
        net = {}
        for i in range(num):
            gain = math.sqrt(critical / width)
            net[f"{i}/weight"] = rng.normal(size=(width, width)) * gain
            net[f"{i}/bias"] = rng.normal(size=width) * math.sqrt(0.05)
        found = analyze_renormalization(net, key=jax.random.key(0), activation="tanh")
        verdicts[width] = found.verdict
        assert found.slope_interval[0] < 1 < found.slope_interval[1]
    assert verdicts == {8: "cannot tell", 120: "critical"}


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.full((9, 9), 0.5), "one value, 0.5"),
        (np.zeros((9, 9)), "exactly zero"),
        (np.full((9, 9), np.nan), "NaN"),
        (np.ones((7, 7)), "Only 49 weights"),
    ],
)
def test_layers_that_say_nothing_get_no_numbers(weight, reason):
    net = {"a": np.random.default_rng(0).normal(size=(9, 9)), "b": weight}
    found = analyze_renormalization(net, key=jax.random.key(0))
    assert found.layers["b"].verdict == "cannot tell"
    assert reason in found.layers["b"].reason
    assert found.layers["b"].weight_var is None
    assert found.layers["b"].drawn is None
    assert found.verdict == "cannot tell"
    assert found.flow == []


def test_a_network_of_one_layer_has_no_depth():
    found = analyze_renormalization(
        {"w": np.random.default_rng(0).normal(size=(20, 20))}, key=jax.random.key(0)
    )
    assert found.verdict == found.symmetry.verdict == "cannot tell"
    assert "two or more" in found.reason


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="weight of two or more dimensions"):
        analyze_renormalization({"bias": np.ones(4)}, key=jax.random.key(0))
    with pytest.raises(ValueError, match="at least one array of numbers"):
        analyze_renormalization({}, key=jax.random.key(0))


def test_real_networks_are_placed_from_their_files(data_dir):
    path = data_dir / "pretrained_weights" / "cifar10_resnet20.npz"
    with np.load(path) as tensors:
        found = analyze_renormalization(tensors, key=jax.random.key(0))
    convolutions = [name for name in found.layers if "conv" in name]
    assert len(convolutions) == 19
    assert found.layers["layer3.2.conv2.weight"].num_inputs == 576
    assert found.layers["linear.weight"].bias_var > 0
    assert found.verdict == "cannot tell"
    assert "normalised ('bn1" in found.reason
    assert found.symmetry.verdict == "broken"


@pytest.mark.parametrize("other", ["LayerNorm_0/scale", "cell/lstm/bias", "attn/q"])
def test_networks_outside_the_theory_get_no_phase(other):
    rng = np.random.default_rng(0)
    net = {f"{i}/weight": rng.normal(size=(9, 9)) for i in range(3)}
    plain = analyze_renormalization(net, key=jax.random.key(0))
    found = analyze_renormalization(net | {other: np.ones(9)}, key=jax.random.key(0))
    assert plain.verdict == "chaotic"
    assert plain.layers["0/weight"].drawn is not None
    assert found.verdict == "cannot tell"
    assert repr(other) in found.reason
    point = found.layers["0/weight"]
    assert point.drawn is None
    assert point.weight_var is not None
    assert found.symmetry.verdict == plain.symmetry.verdict


def test_critical_points_are_found_for_every_shipped_activation():
    for name in ("tanh", "erf", "relu"):
        critical = critical_weight_var(0.05, name)
        below = fixed_points.fixed_point(critical * 0.99, 0.05, name)
        above = fixed_points.fixed_point(critical * 1.01, 0.05, name)
        assert below.slope < 1 < above.slope
