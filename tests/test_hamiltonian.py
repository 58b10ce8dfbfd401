"""The layered Hamiltonian, and translational symmetry in depth."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.physics.renormalization import (
    decimation,
)
from meanfield.physics.renormalization.hamiltonian import (
    forward_states,
    layer_energies,
    layered_hamiltonian,
)
from meanfield.physics.renormalization.symmetry import translational_symmetry


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
        gradient = jax.jit(
            jax.grad(
                lambda h: layered_hamiltonian([x, *h], target, layers, noise_var=noise)
            )
        )
        for _ in range(steps):
            hidden = jax.tree.map(
                lambda h, g: h - 0.3 * noise * g, hidden, gradient(hidden)
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
