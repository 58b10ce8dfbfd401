"""Moments of activations, maps of wide layers, fixed points and transition."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from meanfield.physics.renormalization import (
    wide_flow,
)
from meanfield.physics.renormalization.activations import (
    ACTIVATIONS,
    Activation,
    find_activation,
)
from meanfield.physics.renormalization.fixed_points import (
    critical_weight_var,
    depth_scale,
    fixed_correlation,
    fixed_length,
    fixed_point,
)
from meanfield.physics.renormalization.meanfield_map import (
    correlation_map,
    length_map,
    trajectory,
)

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

    def gradient(z):
        return float(phi.derivative(np.array([root * z]))[0])

    assert phi.second_moment(q) == pytest.approx(mean(lambda z: value(z) ** 2))
    assert phi.derivative_moment(q) == pytest.approx(mean(lambda z: gradient(z) ** 2))


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
        (phi.derivative, phi.derivative_product),
    ):
        product = function(first) * function(second)
        error = product.std() / math.sqrt(product.size)
        assert abs(product.mean() - moment(q, c)) <= 5 * error + 1e-12


def test_quadrature_agrees_with_the_closed_forms_of_erf():
    exact = ACTIVATIONS["erf"]
    numeric = Activation("erf", exact.value, exact.derivative)
    for q, c in [*PAIRS, (50.0, 0.5)]:
        assert numeric.second_moment(q) == pytest.approx(exact.second_moment(q))
        assert numeric.derivative_moment(q) == pytest.approx(exact.derivative_moment(q))
        tolerance = 1e-9 if q < 20 else 1e-3
        for form in ("product_moment", "derivative_product"):
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


@pytest.mark.parametrize(
    ("value", "derivative", "bias_var"),
    [
        (lambda z: np.logaddexp(0, z), lambda z: 0.5 + 0.5 * np.tanh(z / 2), 0.1),
        (np.square, lambda z: 2 * z, 0.0),
    ],
)
def test_a_critical_point_that_does_not_exist_is_refused(value, derivative, bias_var):
    with pytest.raises(ValueError, match="must have a transition with bounded lengths"):
        critical_weight_var(bias_var, Activation("mine", value, derivative))


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
    assert (above.length, above.gradient, above.phase) == (math.inf, 1.5, "chaotic")
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
    assert change / width == pytest.approx(point.gradient, rel=1e-3)


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
    with pytest.raises(
        ValueError, match="`gradient` must have a magnitude of at most 1"
    ):
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
