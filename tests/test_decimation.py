"""Exact decimation and flows of chains, linear, binary and wide layers."""

import itertools
import math

import numpy as np
import pytest

from meanfield.physics.renormalization import (
    decimation,
    wide_flow,
)
from meanfield.physics.renormalization.fixed_points import (
    critical_weight_var,
    depth_scale,
    fixed_point,
)
from meanfield.physics.renormalization.meanfield_map import (
    correlation_map,
)


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
        m, gradient = decimation.binary_layer_fixed_point(1 + t)
        assert m == pytest.approx(math.tanh((1 + t) * m), abs=1e-12)
        assert m / math.sqrt(3 * t) == pytest.approx(ratio, abs=6e-4)
        assert gradient < 1
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
    m, gradient = decimation.binary_layer_fixed_point(gain)
    pair = lambda x: math.tanh(gain * math.tanh(gain * x))
    assert pair(m) == pytest.approx(m, abs=1e-12)
    derivative = (pair(m + 1e-6) - pair(m - 1e-6)) / 2e-6
    assert derivative == pytest.approx(gradient**2, rel=1e-6)


@pytest.mark.parametrize("name", ["tanh", "erf", "relu"])
def test_a_decimated_wide_layer_has_the_fixed_point_and_slope_of_the_pair(name):
    weight_var = 1.2 if name == "relu" else 1.1
    layer = wide_flow.wide_layer(weight_var, 0.05, name)
    effective = wide_flow.decimate_wide_layer(layer, name)
    point = fixed_point(effective.weight_var, effective.bias_var, name)
    assert point.length == pytest.approx(layer.length, rel=1e-9)
    assert point.gradient == pytest.approx(layer.gradient**2, rel=1e-9)

    def pair(c):
        for _ in range(2):
            c = correlation_map(c, layer.length, weight_var, 0.05, name)
        return c

    # The ReLU kernel has a (1 − c)^{3/2} term: a finite step sees √width of it.
    width = 1e-6
    tolerance = 5e-3 if name == "relu" else 1e-4
    assert (1 - pair(1 - width)) / width == pytest.approx(
        effective.gradient, rel=tolerance
    )
    assert effective.depth_scale == pytest.approx(layer.depth_scale / 2)


def test_the_flow_ends_at_no_weights_in_the_ordered_phase_only():
    ordered = wide_flow.wide_flow(wide_flow.wide_layer(1.5, 0.05), num_steps=9)
    assert len(ordered) == 10
    assert ordered[-1].weight_var < 1e-10
    assert ordered[-1].bias_var == pytest.approx(ordered[0].length)
    scales = np.array([layer.depth_scale for layer in ordered])
    np.testing.assert_allclose(scales[:-1] / scales[1:], 2.0)
    critical = critical_weight_var(0.05)
    still = wide_flow.wide_flow(wide_flow.wide_layer(critical, 0.05), num_steps=5)
    assert still[-1].weight_var == pytest.approx(critical, rel=1e-6)
    chaotic = wide_flow.wide_flow(wide_flow.wide_layer(2.2, 0.05), num_steps=20)
    assert len(chaotic) < 21
    gradients = [layer.gradient for layer in chaotic]
    assert all(b > a for a, b in itertools.pairwise(gradients))
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
