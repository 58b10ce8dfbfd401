r"""Mean and variance of normalised Gaussian entries: layer norm and its relatives.

    y_i = (z_i − z̄)/√(Q/n + e),   Q = Σ_j (z_j − z̄)²        (z̄ = 0 without centring)

Roots are written as Gaussian integrals by 1/√x = (2/√π) ∫ e^{−s²x} ds and 1/x = ∫ 2s
e^{−s²x} ds over s > 0. Under the weight e^{−τQ/2}, τ = 2s²/n, independent z_j ~ N(m_j,
v_j) stay Gaussian. With g_j = 1/(1 + τ v_j), d_j = v_j g_j, k = ⟨g⟩ and m̄ = Σ g m/Σ g,

    Z = k^{−1/2} Π g_j^{1/2} exp(−(τ/2) Σ g_j (m_j − m̄)²)
    tilted mean of z_i − z̄       = g_i (m_i − m̄)
    tilted variance of z_i − z̄   = d_i + (τ/n) d_i²/k − 2 d_i/(n k) + ⟨d⟩/(n k)

(without centring k = 1, m̄ = 0, and the variance is d_i). One integral over s remains,
whatever the number of entries.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# s = exp(y − e^{−y}) makes the trapezoid rule in y converge exponentially.
_NODES = np.linspace(-3.0, 13.0, 72)
# Below this relative variance, the first-order expansion is more accurate in float32.
_SMALL = 1e-3

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def normalize(
    m: Float[Array, "... entries"],
    v: Float[Array, "... entries"],
    count: Float[Array, "..."],
    offset: Float[Array, "..."],
    centred: bool,
) -> Pair:
    r"""Moments of z_i/√(Q/c + e), or of (z_i − z̄)/√(Q/c + e), along the last axis.

    Args:
        m: means.
        v: variances, ≥ 0.
        count: c, the divisor of the sum of squares; broadcasts against m.
        offset: e ≥ 0; broadcasts against m.
        centred: whether the mean z̄ of the entries is subtracted (layer norm) or not
            (root-mean-square norm).

    Returns:
        Mean and variance, in the shape of m.
    """
    rows = (*m.shape[:-1], 1)
    count = jnp.broadcast_to(jnp.asarray(count, m.dtype), rows)
    offset = jnp.broadcast_to(jnp.asarray(offset, m.dtype), rows)
    square = _about(m) if centred else m
    share = 1 - 1 / m.shape[-1] if centred else 1.0
    size = (jnp.square(square) + share * v).sum(-1, keepdims=True) / count + offset
    size = lax.stop_gradient(jnp.where(size > 0, size, 1))
    width = _NODES[1] - _NODES[0]

    @jax.checkpoint
    def add(sums: tuple[Array, Array], node: Array) -> tuple:
        s = jnp.exp(node - jnp.exp(-node)) / jnp.sqrt(size)
        step = width * s * (1 + jnp.exp(-node))
        log_z, mean, var = _tilted(m, v, 2 * jnp.square(s) / count, centred)
        weight = jnp.exp(log_z - jnp.square(s) * offset) * step
        first = 2 / np.sqrt(np.pi) * weight * mean
        second = 2 * s * weight * (jnp.square(mean) + var)
        return (sums[0] + first, sums[1] + second), None

    zero = jnp.zeros_like(m)
    (mean, second), _ = lax.scan(add, (zero, zero), jnp.asarray(_NODES, m.dtype))
    small_mean, linear_var = _expansion(m, v, count, offset, centred)
    small = (v.max(-1, keepdims=True) / size) < _SMALL
    var = jnp.maximum(second - jnp.square(mean), 0)
    return jnp.where(small, small_mean, mean), jnp.where(small, linear_var, var)


def normalize_delta(
    m: Float[Array, "... entries"],
    v: Float[Array, "... entries"],
    count: Float[Array, "..."],
    offset: Float[Array, "..."],
    centred: bool,
) -> Pair:
    """The normalised means, and Σ_j (∂y_i/∂z_j)² v_j; arguments as for `normalize`."""
    y, var, _ = _linear(m, v, count, offset, centred)
    return y, var


def _about(m: Array) -> Array:
    return m - m.mean(-1, keepdims=True)


def _tilted(m: Array, v: Array, tau: Array, centred: bool) -> tuple:
    """ln Z, and mean and variance of every (centred) entry under e^{−τQ/2}."""
    g = 1 / (1 + tau * v)
    d, log_z = v * g, -0.5 * jnp.log1p(tau * v).sum(-1, keepdims=True)
    if not centred:
        return log_z - 0.5 * tau * (g * m * m).sum(-1, keepdims=True), g * m, d
    n, k = m.shape[-1], g.mean(-1, keepdims=True)
    away = m - (g * m).mean(-1, keepdims=True) / k
    log_z -= 0.5 * jnp.log(k)
    log_z -= 0.5 * tau * (g * jnp.square(away)).sum(-1, keepdims=True)
    var = d + (tau * jnp.square(d) - 2 * d + d.mean(-1, keepdims=True)) / (n * k)
    return log_z, g * away, jnp.maximum(var, 0)


def _expansion(
    m: Array, v: Array, count: Array, offset: Array, centred: bool
) -> tuple[Array, Array]:
    """Mean and variance of y to first order in v (a Taylor expansion in z about m)."""
    y, var, inverse = _linear(m, v, count, offset, centred)
    share = 1 / m.shape[-1] if centred else 0.0
    # ½ Σ_j ∂²y_i/∂z_j² v_j
    pull = (jnp.square(y) * v).sum(-1, keepdims=True) / count
    size = (1 - share) * v.sum(-1, keepdims=True)
    drift = y * v - share * (y * v).sum(-1, keepdims=True)
    bend = jnp.square(inverse) / count * (1.5 * y * pull - drift - 0.5 * y * size)
    return y + bend, var


def _linear(
    m: Array, v: Array, count: Array, offset: Array, centred: bool
) -> tuple[Array, Array, Array]:
    """y(m), Σ_j (∂y_i/∂z_j)² v_j and 1/√q, with q = Q/c + e at m."""
    x, share = (_about(m), 1 / m.shape[-1]) if centred else (m, 0.0)
    q = jnp.square(x).sum(-1, keepdims=True) / count + offset
    inverse = jnp.where(q > 0, lax.rsqrt(jnp.where(q > 0, q, 1)), 0)
    y = x * inverse
    # ∂y_i/∂z_j = (H_ij − y_i y_j/c) / √q with H = I − share.
    pull = (jnp.square(y) * v).sum(-1, keepdims=True) / count
    own = v - 2 * v * share + jnp.square(share) * v.sum(-1, keepdims=True)
    mixed = y * (y * v - share * (y * v).sum(-1, keepdims=True)) / count
    var = jnp.square(inverse) * (own - 2 * mixed + jnp.square(y) * pull / count)
    return y, jnp.maximum(var, 0), inverse
