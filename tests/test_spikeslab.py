"""One weight: its moments, entropy, divergence and draws, at every corner."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import meanfield as mf
from meanfield.elementary import safe_sqrt

GRID = [
    (pi, m, xi)
    for pi in (0.0, 0.2, 0.7, 1.0)
    for m in (-1.3, 0.0, 0.4, 3.0)
    for xi in (0.0, 0.01, 2.0)
]
WIDE = [point for point in GRID if point[2] > 0]


def spike_slabs(points):
    return mf.SpikeSlab(*(jnp.array(column) for column in zip(*points, strict=True)))


def binary_entropy(p):
    return -oracles.plus_x_log(p) - oracles.plus_x_log(1 - p)


def test_the_moments_are_those_of_many_draws():
    rng = np.random.default_rng(0)
    columns = np.array(GRID).T
    draws = oracles.draw_spike_slab(rng, *columns, 100_000)
    mean, mean_error, var, var_error = oracles.mean_and_errors(draws)
    weight = spike_slabs(GRID)
    assert (np.abs(weight.mean - mean) <= 5 * mean_error + 1e-6).all()
    assert (np.abs(weight.var - var) <= 5 * var_error + 1e-6).all()
    np.testing.assert_array_equal(weight.inclusion_prob, 1 - weight.spike_prob)


def test_the_variance_keeps_its_digits_where_a_subtraction_loses_them():
    weight = mf.SpikeSlab(1e-6, 1000.0, 1e-3)
    pi, m, xi = (float(v) for v in jax.tree.leaves(weight))
    exact = (1 - pi) * (xi + pi * m * m)
    assert float(weight.var) == pytest.approx(exact, rel=1e-6)
    second, mean = weight.inclusion_prob * (xi + m * m), weight.mean
    assert abs(float(second - mean * mean) - exact) > 0.01 * exact


def test_draws_have_the_weights_moments_and_exact_zeros():
    weight = spike_slabs(GRID)
    draws = jax.vmap(weight.sample)(jax.random.split(jax.random.key(1), 20_000))
    columns = np.array(GRID).T
    direct = oracles.draw_spike_slab(np.random.default_rng(2), *columns, 20_000)
    oracles.assert_same_law(draws, direct)
    absent = np.mean(np.asarray(draws) == 0, axis=0)
    for got, (pi, m, xi) in zip(absent, GRID, strict=True):
        expected = 1.0 if m == xi == 0 else pi
        error = math.sqrt(expected * (1 - expected) / 20_000)
        assert abs(got - expected) <= 5 * error


def test_draws_of_certain_weights_are_exact():
    means = jnp.array([1.5, -0.3, 0.0])
    key = jax.random.key(0)
    sure = mf.SpikeSlab(jnp.zeros(3), means, jnp.zeros(3))
    np.testing.assert_array_equal(sure.sample(key), means)
    gone = mf.SpikeSlab(jnp.ones(3), means, jnp.ones(3))
    np.testing.assert_array_equal(gone.sample(key), jnp.zeros(3))


def test_the_same_key_draws_the_same_weights_and_another_key_others():
    weight = mf.SpikeSlab(jnp.full(50, 0.5), jnp.ones(50), jnp.ones(50))
    one, two = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(weight.sample(one), weight.sample(one))
    assert not np.array_equal(weight.sample(one), weight.sample(two))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rare_connections_stay_rare_in_half_precision(dtype):
    number = 200_000
    rare = jnp.full(number, 0.998, jnp.float32).astype(dtype)
    weight = mf.SpikeSlab(rare, jnp.ones(number, dtype), jnp.ones(number, dtype))
    drawn = weight.sample(jax.random.key(0))
    assert drawn.dtype == dtype
    present = 1 - float(rare[0])
    got = float(np.mean(np.asarray(drawn, np.float32) != 0))
    assert abs(got - present) <= 5 * math.sqrt(max(present, 1e-9) / number)


@pytest.mark.parametrize("resolution", [0.0, 0.05, 1.0])
def test_the_entropy_is_the_integral_over_the_mixed_measure(resolution):
    got = spike_slabs(WIDE).entropy(resolution)
    expected = [oracles.entropy_by_quadrature(*point, resolution) for point in WIDE]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


def test_the_entropy_in_float64_is_exact_to_ten_digits():
    with x64():
        got = np.asarray(spike_slabs(WIDE).entropy(0.05))
    expected = [oracles.entropy_by_quadrature(*point, 0.05) for point in WIDE]
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_the_entropy_of_a_slab_is_the_closed_form():
    pi, m, xi = np.array(WIDE).T
    coin = np.array([binary_entropy(p) for p in pi])
    expected = coin + (1 - pi) * 0.5 * np.log(2 * np.pi * np.e * xi)
    np.testing.assert_allclose(spike_slabs(WIDE).entropy(), expected, atol=2e-6)


def test_special_cases_of_the_entropy_are_exact():
    cases = {
        (1.0, 2.0, 0.5): 0.0,
        (1.0, 0.0, 0.0): 0.0,
        (0.0, 2.0, 0.0): 0.0,
        (0.3, 0.0, 0.0): 0.0,
        (0.3, 2.0, 0.0): binary_entropy(0.3),
        (0.5, -1.0, 0.0): math.log(2),
    }
    got = spike_slabs(list(cases)).entropy()
    np.testing.assert_allclose(got, list(cases.values()), rtol=1e-6, atol=0)
    for point, value in zip(cases, got, strict=True):
        if cases[point] == 0:
            assert float(value) == 0.0


def test_a_resolution_counts_narrow_slabs_near_zero_as_absent():
    weight = spike_slabs([(0.3, 0.01, 0.0), (0.3, 0.2, 0.0), (0.3, 0.0, 1e-12)])
    got = weight.entropy(resolution=0.1)
    np.testing.assert_allclose(got, [0.0, binary_entropy(0.3), 0.0], atol=1e-6)


def test_a_negative_resolution_is_refused():
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`resolution` must be"):
            mf.SpikeSlab(0.5, 0.0, 1.0).entropy(resolution=bad)


def test_the_divergence_is_the_integral_over_the_mixed_measure():
    points = [p for p in WIDE if p[0] < 1]
    prior = (0.6, 0.3, 0.5)
    got = spike_slabs(points).kl(mf.SpikeSlab(*prior))
    expected = [oracles.kl_by_quadrature(point, prior) for point in points]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_the_divergence_to_a_scale_is_that_to_a_centred_slab():
    weight = spike_slabs(GRID)
    prior = mf.SpikeSlabPrior(inclusion_prob=0.3, slab_scale=0.8)
    same = mf.SpikeSlab(0.7, 0.0, 0.64)
    np.testing.assert_allclose(weight.kl(prior), weight.kl(same), rtol=1e-5, atol=1e-6)


def test_a_law_diverges_from_itself_by_nothing():
    for point in GRID:
        weight = mf.SpikeSlab(*point)
        assert float(weight.kl(weight)) == pytest.approx(0, abs=1e-6), point
    assert (spike_slabs(GRID).kl(mf.SpikeSlab(0.4, 0.2, 0.9)) >= 0).all()


def test_what_the_prior_excludes_diverges_to_infinity():
    wide, narrow = mf.SpikeSlab(0.5, 1.0, 0.2), mf.SpikeSlab(0.5, 1.0, 0.0)
    assert wide.kl(mf.SpikeSlab(0.0, 0.0, 1.0)) == jnp.inf  # no spike
    assert wide.kl(mf.SpikeSlab(1.0, 0.0, 1.0)) == jnp.inf  # no slab
    assert wide.kl(narrow) == jnp.inf
    assert narrow.kl(wide) == jnp.inf
    assert narrow.kl(mf.SpikeSlab(0.5, 2.0, 0.0)) == jnp.inf


def test_atoms_that_meet_are_one_atom_to_the_divergence():
    zero = mf.SpikeSlab(0.3, 0.0, 0.0)  # its slab is the spike
    prior = mf.SpikeSlab(0.6, 0.0, 1.0)
    assert float(zero.kl(prior)) == pytest.approx(-math.log(0.6), rel=1e-6)
    gone = mf.SpikeSlab(1.0, 5.0, 2.0)
    assert float(gone.kl(prior)) == pytest.approx(-math.log(0.6), rel=1e-6)
    atoms, prior = mf.SpikeSlab(0.3, 2.0, 0.0), mf.SpikeSlab(0.6, 2.0, 0.0)
    expected = 0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4)
    assert float(atoms.kl(prior)) == pytest.approx(expected, rel=1e-6)
    assert float(prior.kl(zero)) == math.inf


def test_every_gradient_is_finite_at_every_corner():
    prior = mf.SpikeSlabPrior(inclusion_prob=0.3, slab_scale=0.8)

    def total(weight):
        divergence = weight.kl(prior)
        finite = jnp.where(jnp.isfinite(divergence), divergence, 0)
        terms = (weight.mean, weight.var, safe_sqrt(weight.var), weight.entropy(0.1))
        drawn = weight.sample(jax.random.key(0))
        return sum(jnp.sum(t) for t in (*terms, weight.entropy(), finite, drawn))

    for leaf in jax.tree.leaves(jax.grad(total)(spike_slabs(GRID))):
        assert np.isfinite(leaf).all()


def test_a_square_root_is_safe_at_zero():
    values = jnp.array([-1.0, 0.0, 4.0])
    np.testing.assert_array_equal(safe_sqrt(values), [0.0, 0.0, 2.0])
    grads = jax.vmap(jax.grad(safe_sqrt))(values)
    np.testing.assert_array_equal(grads, [0.0, 0.0, 0.25])


def test_it_is_a_pytree_of_three_arrays_with_a_shape():
    weight = mf.SpikeSlab(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3)))
    assert weight.shape == (2, 3)
    assert (weight.ndim, weight.size, weight.dtype) == (2, 6, jnp.float32)
    assert len(jax.tree.leaves(weight)) == 3
    doubled = jax.tree.map(lambda leaf: 2 * leaf, weight)
    np.testing.assert_array_equal(doubled.slab_mean, 2 * np.ones((2, 3)))


def test_types_are_promoted_to_one_floating_type():
    weight = mf.SpikeSlab(jnp.zeros(2, jnp.bfloat16), jnp.ones(2), [1, 1])
    assert {leaf.dtype for leaf in jax.tree.leaves(weight)} == {jnp.dtype("float32")}
    assert mf.SpikeSlab(0, 1, 0).dtype == jnp.float32
    half = mf.SpikeSlab(*jnp.ones((3, 2), jnp.bfloat16))
    assert half.dtype == half.entropy().dtype == half.mean.dtype == jnp.bfloat16
    with x64():
        assert mf.SpikeSlab(0.5, 1.0, 1.0).dtype == jnp.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [1.0, 2.0], [1.0, 1.0]), "must have one shape; got .*spike_prob.*1,"),
        ((-0.1, 0.0, 1.0), r"`spike_prob` must lie in \[0, 1\]; got -0.1"),
        (([0.5, 1.5], [0.0, 0.0], [1.0, 1.0]), r"`spike_prob`.*1.5 at index \(1,\)"),
        ((float("nan"), 0.0, 1.0), r"`spike_prob` must lie in \[0, 1\]; got nan"),
        ((0.5, 0.0, -1e-3), r"`slab_var` must lie in \[0, inf\].*square a standard"),
        ((0.5, 0.0, float("nan")), "`slab_var`.*got nan"),
        ((0.5, float("inf"), 1.0), "`slab_mean` must be finite"),
        ((0.5, 1j, 1.0), "must be real; got complex64"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mf.SpikeSlab(*arguments)


def test_values_that_are_traced_are_let_through():
    made = jax.jit(lambda p: mf.SpikeSlab(p, 0 * p, 1 + p).mean)(jnp.array([0.2]))
    np.testing.assert_array_equal(made, [0.0])


def x64():
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else _old_x64()


def _old_x64():
    from jax.experimental import enable_x64

    return enable_x64()
