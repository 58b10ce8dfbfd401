r"""Mean and variance of the largest of independent Gaussian entries.

    P(max ≤ t) = F(t) = Π_j Φ((t − m_j)/√v_j),     ⟨f(max)⟩ = ∫ f(t) F′(t) dt

by Gauss–Legendre quadrature on both sides of t = 0, where ReLU-like activations have a
kink. An increasing f commutes with the maximum, max_j f(z_j) = f(max_j z_j), so this
also gives max pooling after a ReLU or a tanh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

_NODES = 64
# A Gaussian has a mass of 1e-9 beyond 6 standard deviations.
_REACH = 6.0

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def largest(
    m: Float[Array, "entries ..."],
    v: Float[Array, "entries ..."],
    function: Callable[[Any], Any] = lambda t: t,
) -> Pair:
    r"""Moments of f(max_j z_j) for independent z_j ~ N(m_j, v_j) along the first axis.

    The error is below 0.001 of the result's standard deviation if the √v_j of the
    entries that can be the largest lie within a factor of 20 of one another. Entries
    with v = 0 are exact.

    Args:
        m: means; −∞ for an entry that is absent (padding).
        v: variances, ≥ 0.
        function: f, increasing, and smooth except for a possible kink at 0.

    Returns:
        Mean and variance, the first axis removed.
    """
    random = v > 0
    std = jnp.sqrt(jnp.where(random, v, 1))
    reach = jnp.where(random, _REACH * std, 0)
    # The maximum is never below an entry with v = 0, and hardly ever below m − 6 √v of
    # any other entry.
    low, high = (m - reach).max(0), lax.stop_gradient((m + reach).max(0))
    fixed = lax.stop_gradient(low)
    kink = jnp.clip(0.0, fixed, high)
    centre = lax.stop_gradient(function(m.max(0)))
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    tiny = jnp.finfo(m.dtype).tiny

    def add(sums: Any, node: tuple[Any, Any]) -> tuple[Any, None]:
        point, weight = node
        for start, end in ((fixed, kink), (kink, high)):
            time = start + (end - start) * (1 + point) / 2
            score = jnp.where(random, (time - jnp.where(random, m, 0)) / std, 0)
            cdf = jnp.where(random, norm.cdf(score), 1)
            density = jnp.where(random, norm.pdf(score) / std, 0)
            log_cdf = jnp.log(jnp.maximum(cdf, tiny))
            hazard = (density / jnp.maximum(cdf, tiny)).sum(0)
            mass = weight * (end - start) / 2 * jnp.exp(log_cdf.sum(0)) * hazard
            change = function(time) - centre
            moments = (mass, mass * change, mass * jnp.square(change))
            sums = jax.tree.map(jnp.add, sums, moments)
        return sums, None

    zero = jnp.zeros_like(centre)
    nodes = (jnp.asarray(points, m.dtype), jnp.asarray(weights, m.dtype))
    (total, first, second), _ = lax.scan(add, (zero, zero, zero), nodes)
    # The rest of the probability mass is at the largest entry with v = 0.
    atom, at_low = 1 - total, function(low) - centre
    shift = first + atom * at_low
    var = second + atom * jnp.square(at_low) - jnp.square(shift)
    some = random.any(0)
    mean = jnp.where(some, centre + shift, function(m.max(0)))
    return mean, jnp.where(some, jnp.maximum(var, 0), 0)
