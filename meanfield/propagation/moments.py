r"""Mean and variance of a function of independent Gaussian entries z ~ N(m, v).

    activation(m, v) -> (mean, var)

Exact in closed form: `relu`, `leaky_relu`, `absolute`, `sign`, `square`, `exp`,
`maximum`; `erf` up to a smooth one-dimensional integral (relative error below 1e-5).
Other functions are integrated by `deferred`.

Variances are computed in forms that keep their digits in float32, never as E[f²] −
E[f]². At v = 0 values and gradients are the limits

    mean = f(m) + ½ f″(m) v,      var = f′(m)² v
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf as erf_function, erfc
from jax.scipy.stats import norm
from jaxtyping import Array, Float

_NODES = 24

Moment = Float[Array, "*shape"]
Pair = tuple[Moment, Moment]


def relu(m: Moment, v: Moment) -> Pair:
    r"""Exact moments of max(z, 0), with α = m/√v.

        mean = m Φ(α) + √v φ(α)
        var  = m² Φ(α) Φ(−α) + v Φ(α) + m √v φ(α) (1 − 2Φ(α)) − v φ(α)²

    Args:
        m: mean of z.
        v: variance of z, ≥ 0.

    Returns:
        Mean and variance, in the units of z and their square.

    References:
        Hernández-Lobato & Adams 2015, arXiv:1502.05336.
    """
    return maximum(m, v, jnp.zeros_like(m), jnp.zeros_like(v))


def maximum(m: Moment, v: Moment, other_m: Moment, other_v: Moment) -> Pair:
    r"""Exact moments of the larger of two independent Gaussians (Clark's formula).

    With d = m − m′, θ² = v + v′, α = d/θ:

        mean = m′ + d Φ(α) + θ φ(α)
        var  = v Φ(α) + v′ Φ(−α) + d² Φ(α) Φ(−α) + d θ φ(α) (1 − 2Φ(α)) − θ² φ(α)²

    The result is not Gaussian, so maxima of more numbers, built from pairs, are
    approximate.

    References:
        Clark 1961, The greatest of a finite set of random variables.
    """
    gap, spread = m - other_m, v + other_v
    random = spread > 0
    theta = jnp.sqrt(jnp.where(random, spread, 1))
    ratio = gap / theta
    upper, lower, density = norm.cdf(ratio), norm.cdf(-ratio), norm.pdf(ratio)
    mean = other_m + gap * upper + theta * density
    var = (
        v * upper
        + other_v * lower
        + jnp.square(gap) * upper * lower
        + gap * theta * density * (lower - upper)
        - jnp.square(theta * density)
    )
    # Without randomness, gradients are those of the larger; if equal, half of each.
    share = jnp.where(gap > 0, 1.0, jnp.where(gap < 0, 0.0, 0.5))
    certain = share * v + (1 - share) * other_v
    return (
        jnp.where(random, mean, jnp.maximum(m, other_m)),
        jnp.where(random, jnp.maximum(var, 0), certain),
    )


def leaky_relu(m: Moment, v: Moment, negative_slope: float = 0.01) -> Pair:
    r"""Exact moments of max(z, 0) + c min(z, 0), c the slope below 0.

    It equals c z + (1 − c) max(z, 0), and Cov(z, max(z, 0)) = v Φ(m/√v).
    """
    mean, var = relu(m, v)
    random = v > 0
    std = jnp.sqrt(jnp.where(random, v, 1))
    above = jnp.where(random, norm.cdf(m / std), jnp.heaviside(m, 0.5))
    c, rest = negative_slope, 1 - negative_slope
    return c * m + rest * mean, c**2 * v + rest**2 * var + 2 * c * rest * v * above


def absolute(m: Moment, v: Moment) -> Pair:
    """Exact moments of |z|, the leaky ReLU of slope −1."""
    mean, var = leaky_relu(m, v, -1.0)
    return mean, jnp.where(v > 0, jnp.maximum(var, 0), var)


def sign(m: Moment, v: Moment) -> Pair:
    """Exact moments of the sign of z: mean erf(m/√(2v)), variance 1 − mean²."""
    random = v > 0
    ratio = m / jnp.sqrt(jnp.where(random, 2 * v, 1))
    mean = jnp.where(random, erf_function(ratio), jnp.sign(m))
    rare = erfc(jnp.abs(ratio))  # 1 − |mean|, which loses no digits
    return mean, jnp.where(random, rare * (2 - rare), 0)


def square(m: Moment, v: Moment) -> Pair:
    """Exact moments of z²: mean m² + v, variance 2v² + 4m²v."""
    return jnp.square(m) + v, 2 * jnp.square(v) + 4 * jnp.square(m) * v


def exp(m: Moment, v: Moment) -> Pair:
    """Exact moments of e^z: mean e^(m + v/2), variance (e^v − 1) e^(2m + v)."""
    return jnp.exp(m + v / 2), jnp.expm1(v) * jnp.exp(2 * m + v)


def erf(m: Moment, v: Moment) -> Pair:
    r"""Moments of erf(z), with h = √2 m/√(1 + 2v) and a = 1/√(1 + 4v).

    mean = erf(m/√(1 + 2v))
    var  = (4/π) ∫_a^1 exp(−h² (1 + x²)/2) / (1 + x²) dx      (Owen's T function)
    """
    mean = erf_function(m / jnp.sqrt(1 + 2 * v))
    twice = 2 * jnp.square(m) / (1 + 2 * v)
    low = 1 / jnp.sqrt(1 + 4 * v)
    # 1 − 1/√(1 + 4v) in a form that loses no digits for small v.
    width = 4 * v * low / (1 + jnp.sqrt(1 + 4 * v))
    points, weights = _legendre(m)
    height = 1 + jnp.square(low + width * (1 + points) / 2)
    integral = (weights / 2 * jnp.exp(-twice * height / 2) / height).sum(axis=0)
    return mean, 4 / math.pi * width * integral


def _legendre(m: Array) -> tuple[Array, Array]:
    """Points and weights on [−1, 1] along a new first axis before those of m."""
    column = (_NODES,) + (1,) * m.ndim
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return (
        jnp.asarray(points, m.dtype).reshape(column),
        jnp.asarray(weights, m.dtype).reshape(column),
    )
