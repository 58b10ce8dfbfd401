import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from meanfield.propagation.softmax import logsumexp, softmax

DRAWS = 40_000


def _ten_classes(v):
    rng = np.random.default_rng(2)
    m = (1.5 * rng.normal(size=(8, 10))).astype(np.float32)
    v = (v * rng.uniform(size=(8, 10))).astype(np.float32)
    z = m + np.sqrt(v) * rng.normal(size=(DRAWS, 8, 10)).astype(np.float32)
    return jnp.asarray(m), jnp.asarray(v), z


@pytest.mark.parametrize("v", [0.005, 0.25, 1.0, 9.0, 25.0])
def test_the_mean_of_softmax_agrees_with_draws(v):
    m, v, z = _ten_classes(v)
    mean, _ = jax.jit(softmax)(m, v)
    draws = special.softmax(z, axis=-1)
    error = draws.std(0) / np.sqrt(DRAWS)
    assert np.allclose(mean.sum(-1), 1, atol=1e-5)
    assert (np.abs(mean - draws.mean(0)) < 5 * error + 1e-4).all()


@pytest.mark.parametrize("v", [0.005, 0.25, 1.0, 9.0, 25.0])
def test_the_moments_of_logsumexp_agree_with_draws(v):
    m, v, z = _ten_classes(v)
    mean, var = jax.jit(logsumexp)(m, v)
    draws = special.logsumexp(z.astype(np.float64), axis=-1)
    assert (
        np.abs(mean - draws.mean(0)) < 5 * draws.std(0) / np.sqrt(DRAWS) + 1e-4
    ).all()
    squares = (draws - draws.mean(0)) ** 2
    error = 5 * squares.std(0) / np.sqrt(DRAWS)
    assert (np.abs(var - squares.mean(0)) < error + 2e-3 * squares.mean(0)).all()


@pytest.mark.parametrize(("v", "bound"), [(0.25, 0.01), (1.0, 0.04), (25.0, 0.2)])
def test_the_deviation_of_softmax_is_as_close_as_it_says(v, bound):
    m, v, z = _ten_classes(v)
    _, var = jax.jit(softmax)(m, v)
    difference = np.sqrt(var) - special.softmax(z, axis=-1).std(0)
    assert np.abs(difference).max() < bound


def test_without_variance_they_are_the_functions_themselves():
    m, _, _ = _ten_classes(1.0)
    zero = jnp.zeros_like(m)
    mean, var = softmax(m.T, zero.T, axis=0)
    assert np.allclose(mean.T, jax.nn.softmax(m), rtol=1e-6)
    assert (var == 0).all()
    mean, var = logsumexp(m, zero)
    assert np.allclose(mean, jax.nn.logsumexp(m, -1), rtol=1e-6)
    assert (var == 0).all()


def test_gradients_at_zero_variance_are_the_limits():
    m, _, _ = _ten_classes(1.0)
    zero, weight = jnp.zeros_like(m), jnp.arange(10.0)
    slope = jax.jit(jax.grad(lambda v: (softmax(m, v)[0] * weight).sum()))(zero)
    hessian = jax.vmap(jax.hessian(lambda z: (jax.nn.softmax(z) * weight).sum()))(m)
    expected = jnp.diagonal(hessian, axis1=1, axis2=2) / 2
    assert np.allclose(slope, expected, rtol=1e-3, atol=1e-5)
    slope = jax.jit(jax.grad(lambda v: softmax(m, v)[1].sum()))(zero)
    jacobian = jax.vmap(jax.jacobian(jax.nn.softmax))(m)
    assert np.allclose(slope, jnp.square(jacobian).sum(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("function", [softmax, logsumexp])
def test_gradients_of_the_quadrature_agree_with_differences(function):
    m, v, _ = _ten_classes(2.0)
    m, v = m[0], v[0].at[3].set(0.0)  # one logit is certain, the others are not
    value = lambda m, v: (function(m, v)[0] * jnp.arange(1.0, 11.0)).sum()
    got = jax.jit(jax.grad(value, argnums=(0, 1)))(m, v)
    step = 0.05 * jnp.eye(10)
    shifted = jax.jit(jax.vmap(value, in_axes=(0, 0)))
    still = jnp.zeros((10, 10))
    by_m = (shifted(m + step, v + still) - shifted(m - step, v + still)) / 0.1
    by_v = (shifted(m + still, v + step) - shifted(m + still, v + still)) / 0.05
    assert np.allclose(got[0], by_m, rtol=0.01, atol=0.01)
    assert np.allclose(got[1], by_v, rtol=0.05, atol=0.02)


def test_extreme_logits_stay_finite_with_their_gradient():
    m = jnp.array([-1e3, 0.0, 1e3, 999.0])
    v = jnp.array([0.0, 1e-12, 0.5, 1.0])
    for function in (softmax, logsumexp):
        total = lambda m, v, f=function: sum(x.sum() for x in f(m, v))
        value, gradient = jax.jit(jax.value_and_grad(total, (0, 1)))(m, v)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(g).all() for g in gradient)
