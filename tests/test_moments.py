import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy.stats import norm

import meanfield as mf
from meanfield.propagation import moments

# The same functions in NumPy and SciPy, in double precision.
FUNCTIONS = {
    "relu": (moments.relu, lambda z: np.maximum(z, 0)),
    "leaky_relu": (
        lambda m, v: moments.leaky_relu(m, v, 0.2),
        lambda z: np.where(z > 0, z, 0.2 * z),
    ),
    "absolute": (moments.absolute, np.abs),
    "sign": (moments.sign, np.sign),
    "square": (moments.square, np.square),
    "exp": (moments.exp, np.exp),
    "erf": (moments.erf, special.erf),
}
MEANS = np.array([-6.0, -1.3, -0.2, 0.0, 0.4, 2.0, 7.0])
VARS = np.array([1e-8, 1e-3, 0.3, 1.7, 30.0])
GRID = [(m, v) for m in MEANS for v in VARS]


NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)


def _exact(function, m, v):
    """Mean and variance in double precision by a dense composite rule, split at 0."""
    s = np.sqrt(v)
    # The weight of (e^z)² sits at m + 2v, which is 2√v deviations away.
    edges = np.linspace(m - 12 * s, m + (12 + 2 * s) * s, 600)
    if edges[0] < 0 < edges[-1]:
        fine = np.geomspace(1e-3, max(-edges[0], edges[-1]), 200)
        extra = np.concatenate([-fine, [0.0], fine])
        extra = extra[(extra > edges[0]) & (extra < edges[-1])]
        edges = np.unique(np.concatenate([edges, extra]))
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + NODES)
    mass = half * WEIGHTS * norm.pdf(z, m, s)
    change = function(z) - function(m)
    shift = (mass * change).sum()
    return function(m) + shift, (mass * (change - shift) ** 2).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_agree_with_dense_integration(name):
    ours, function = FUNCTIONS[name]
    m, v = np.array(GRID, np.float32).T
    mean, var = (np.asarray(x, np.float64) for x in jax.jit(ours)(m, v))
    for i, (one_m, one_v) in enumerate(zip(np.float64(m), np.float64(v), strict=True)):
        exact_mean, exact_var = _exact(function, one_m, one_v)
        scale = np.sqrt(exact_var)
        assert abs(mean[i] - exact_mean) <= 2e-5 * (abs(exact_mean) + scale) + 1e-12
        floor = 1e-9 * one_v  # far in the flat tail of an activation
        assert abs(var[i] - exact_var) <= 2e-3 * exact_var + floor, (one_m, one_v)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_agree_with_draws_within_five_errors(name):
    ours, function = FUNCTIONS[name]
    m, v = -0.35, 0.8
    draws = function(m + np.sqrt(v) * np.random.default_rng(0).normal(size=400_000))
    mean, var = (float(x) for x in jax.jit(ours)(jnp.float32(m), jnp.float32(v)))
    assert abs(draws.mean() - mean) < 5 * np.sqrt(var / draws.size)
    squares = (draws - mean) ** 2
    assert abs(squares.mean() - var) < 5 * squares.std() / np.sqrt(draws.size)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_agree_with_differences_of_the_integral(name):
    ours, function = FUNCTIONS[name]
    m, v, step = 0.6, 0.5, 1e-4
    jacobian = jax.jit(jax.jacobian(lambda p: jnp.stack(ours(p[0], p[1]))))
    got = np.asarray(jacobian(jnp.array([m, v])))
    for column, (dm, dv) in enumerate(((step, 0), (0, step))):
        above = np.array(_exact(function, m + dm, v + dv))
        below = np.array(_exact(function, m - dm, v - dv))
        expected = (above - below) / (2 * step)
        assert np.allclose(got[:, column], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_at_zero_variance_value_and_gradient_are_the_limits(name):
    ours, function = FUNCTIONS[name]
    m = np.array([-1.5, 0.7], np.float32)

    def with_slopes(m, v):
        slopes = jax.jacobian(lambda p: jnp.stack(ours(p[0], p[1])))(jnp.stack([m, v]))
        return ours(m, v), slopes

    (mean, var), got = jax.jit(jax.vmap(with_slopes))(m, np.zeros(2, np.float32))
    assert np.allclose(mean, function(np.float64(m)), rtol=1e-6)
    assert (var == 0).all()
    step, m = 1e-3, np.float64(m)
    slope = (function(m + step) - function(m - step)) / (2 * step)
    bend = (function(m + step) - 2 * function(m) + function(m - step)) / step**2
    expected = np.stack([[slope, bend / 2], [0 * slope, slope**2]])
    assert np.allclose(got, expected.transpose(2, 0, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_input_gives_a_value_or_gradient_that_is_not_finite(name):
    ours, _ = FUNCTIONS[name]
    m = jnp.array([0.0, 0.0, -40.0, 40.0, 30.0, -30.0, 0.0])
    v = jnp.array([0.0, 1e-30, 1e-6, 1e-6, 0.0, 0.0, 20.0])
    total = lambda m, v: sum(x.sum() for x in ours(m, v))
    jacobian = jax.jit(jax.grad(total, argnums=(0, 1)))
    assert all(jnp.isfinite(x).all() for x in jax.jit(ours)(m, v))
    if name not in ("relu", "leaky_relu", "absolute"):
        assert all(jnp.isfinite(x).all() for x in jacobian(m, v))
    else:  # d mean/dv = φ/(2√v) truly grows without bound at the kink itself
        away = m != 0
        assert all(jnp.isfinite(x[away]).all() for x in jacobian(m, v))
        assert all(jnp.isfinite(x).all() for x in jacobian(m[:1], v[:1]))


def test_the_larger_of_two_agrees_with_draws():
    rng = np.random.default_rng(1)
    for m, v, other_m, other_v in [(0.3, 1.0, -0.2, 0.4), (5.0, 0.1, 1.0, 2.0)]:
        z = m + np.sqrt(v) * rng.normal(size=300_000)
        draws = np.maximum(z, other_m + np.sqrt(other_v) * rng.normal(size=300_000))
        arguments = (jnp.float32(x) for x in (m, v, other_m, other_v))
        mean, var = (float(x) for x in moments.maximum(*arguments))
        assert abs(draws.mean() - mean) < 5 * np.sqrt(var / draws.size)
        squares = (draws - mean) ** 2
        assert abs(squares.mean() - var) < 5 * squares.std() / np.sqrt(draws.size)


def test_the_sign_of_a_shifted_entry_is_exact_in_a_network():
    weight = mf.SpikeSlab(*np.array([[[0.0], [0]], [[0.4], [-0.3]], [[0.2], [0.1]]]))
    x = jnp.array([[1.0, 2.0]])
    network = mf.mean_field(lambda w, x: jnp.sign(x @ w + 0.1), reading="moments")
    found, expected = network(weight, x), moments.sign(*jnp.array([[-0.1], [0.6]]))
    np.testing.assert_allclose(found.mean[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.var[0], expected[1], rtol=1e-5)
