r"""Mean and variance of softmax and logsumexp of independent Gaussian logits.

Add independent standard Gumbel noise g_k to every logit z_k. Given z, class k has the
largest z_k + g_k with probability softmax(z)_k, and the maximum is ln Σ e^{z_j} plus a
Gumbel variable (the Gumbel-max trick). The z_k + g_k are independent, so averages over
z factorise:

    ⟨softmax(z)_k⟩ = ∫ f_k(t) Π_{j≠k} F_j(t) dt
    P(max ≤ t)     = Π_j F_j(t),      max = logsumexp(z) + Gumbel

with F_j(t) = ⟨exp(−e^{z_j − t})⟩ and f_j its derivative. One integral over t replaces
the integral over all logits. Second moments follow from first ones by Gaussian
integration by parts, with p = softmax(z):

    ⟨p_k²⟩ = ⟨p_k⟩ − ∂⟨p_k⟩/∂m_k,      Cov(z_k, logsumexp(z)) = v_k ⟨p_k⟩.

All are exact up to quadrature (64 points in t, 20 in every z).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_TIMES = 64
_LOGITS = 20
# Below this variance the expansion in v is more accurate in float32.
_SMALL = 1e-2
_EULER = 0.5772156649015329
_GUMBEL_VAR = np.pi**2 / 6

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def softmax(m: Float[Array, "..."], v: Float[Array, "..."], axis: int = -1) -> Pair:
    r"""Moments of softmax(z) for independent z_k ~ N(m_k, v_k).

    For v < 0.01 they are the expansions, with p = softmax(m),

        mean = p + ½ Σ_j (∂²p_k/∂z_j²) v_j,     var = Σ_j (∂p_k/∂z_j)² v_j.

    Args:
        m: means of the logits.
        v: variances of the logits, ≥ 0.
        axis: the axis of the classes.

    Returns:
        Means (probabilities that sum to 1) and variances, in the shape of m.

    Example:
        >>> import jax.numpy as jnp
        >>> from meanfield.propagation.softmax import softmax
        >>> mean, _ = softmax(jnp.array([2.0, 0.0]), jnp.array([9.0, 0.0]))
        >>> round(float(mean[0]), 1)
        0.7
    """
    m, v = jnp.moveaxis(m, axis, -1), jnp.moveaxis(v, axis, -1)
    race = _run(m, v)
    total = race.wins.sum(-1, keepdims=True)
    wins = race.wins / total
    p = jax.nn.softmax(m, axis=-1)
    bend = p * (1 - 2 * p) * v
    expansion = p + (bend - p * bend.sum(-1, keepdims=True)) / 2
    spread = (jnp.square(p) * v).sum(-1, keepdims=True)
    small_var = jnp.square(p) * ((1 - 2 * p) * v + spread)
    small = v.max(-1, keepdims=True) < _SMALL
    mean = jnp.where(small, expansion, wins)
    # The variance of a variable between 0 and 1 with mean p is at most p (1 − p).
    large_var = jnp.clip(wins - race.slope / total - wins**2, 0, wins * (1 - wins))
    var = jnp.where(small, small_var, large_var)
    return jnp.moveaxis(mean, -1, axis), jnp.moveaxis(var, -1, axis)


def logsumexp(m: Float[Array, "..."], v: Float[Array, "..."], axis: int = -1) -> Pair:
    r"""Moments of ln Σ_k e^{z_k} for independent z_k ~ N(m_k, v_k), axis removed.

    They are the mean and variance of the maximum minus those of a Gumbel variable, γ
    and π²/6. For v < 0.01 they are the expansions, with p = softmax(m),

        mean = ln Σ e^{m_k} + ½ Σ p_k (1 − p_k) v_k,     var = Σ p_k² v_k.

    Args:
        m: means.
        v: variances, ≥ 0.
        axis: the axis that is summed.

    Returns:
        Mean and variance of the result.
    """
    m, v = jnp.moveaxis(m, axis, -1), jnp.moveaxis(v, axis, -1)
    return _logsumexp(m, v, _run(m, v))


def log_softmax(m: Float[Array, "..."], v: Float[Array, "..."], axis: int = -1) -> Pair:
    r"""Moments of z_k − ln Σ_j e^{z_j} for independent z_k ~ N(m_k, v_k).

        mean = m_k − ⟨logsumexp⟩,   var = v_k (1 − 2⟨p_k⟩) + Var[logsumexp]

    Args:
        m: means of the logits.
        v: variances of the logits, ≥ 0.
        axis: the axis of the classes.

    Returns:
        Mean and variance, in the shape of m.
    """
    m, v = jnp.moveaxis(m, axis, -1), jnp.moveaxis(v, axis, -1)
    race = _run(m, v)
    mean, var = (part[..., None] for part in _logsumexp(m, v, race))
    small = v.max(-1, keepdims=True) < _SMALL
    wins = race.wins / race.wins.sum(-1, keepdims=True)
    p = jnp.where(small, jax.nn.softmax(m, axis=-1), wins)
    mean, var = m - mean, jnp.maximum(v * (1 - 2 * p) + var, 0)
    return jnp.moveaxis(mean, -1, axis), jnp.moveaxis(var, -1, axis)


def _logsumexp(m: Array, v: Array, race: "_Race") -> Pair:
    centre, p = jax.nn.logsumexp(m, axis=-1), jax.nn.softmax(m, axis=-1)
    shift = race.late / race.mass
    var = race.late_squared / race.mass - jnp.square(shift) - _GUMBEL_VAR
    small = v.max(-1) < _SMALL
    small_mean = centre + (p * (1 - p) * v).sum(-1) / 2
    small_var = (jnp.square(p) * v).sum(-1)
    return (
        jnp.where(small, small_mean, centre + shift - _EULER),
        jnp.where(small, small_var, jnp.maximum(var, 0)),
    )


class _Race(NamedTuple):
    """Integrals over the maximum t, with c = logsumexp(m).

    They are those of f_k Π_{j≠k} F_j, of −∂f_k/∂t Π_{j≠k} F_j, and of 1, t − c and
    (t − c)² times the density of the maximum.
    """

    wins: Array
    slope: Array
    mass: Array
    late: Array
    late_squared: Array


def _run(m: Array, v: Array) -> _Race:
    """The integrals over t; classes are the last axis of m."""
    # The 1e-8 makes the gradient at v = 0 finite and correct, as F is even in √v.
    std = jnp.sqrt(v + 1e-8)
    low = (m - 6 * std).max(-1) - 4
    high = (m + 6 * std).max(-1) + jnp.log(m.shape[-1]) + 16
    centre = jax.nn.logsumexp(m, axis=-1)
    low, high = lax.stop_gradient((low, high))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(_LOGITS)
    node_weights = node_weights / node_weights.sum()
    logits = (jnp.asarray(nodes, m.dtype), jnp.asarray(node_weights, m.dtype))
    tiny = jnp.finfo(m.dtype).tiny

    # Recomputed in the backward pass, so memory is only a few copies of m.
    @jax.checkpoint
    def add(race: _Race, point: tuple[Array, Array]) -> tuple[_Race, None]:
        place, weight = point
        time = low + (high - low) * (1 + place) / 2
        step = (high - low) / 2 * weight
        ahead = m - time[..., None]

        def average(sums: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
            noise, chance = node
            rate = jnp.exp(jnp.minimum(ahead + std * noise, 80.0))
            cdf = chance * jnp.exp(-rate)
            parts = jnp.stack([cdf, cdf * rate, cdf * rate * (1 - rate)])
            return sums + parts, None

        sums, _ = lax.scan(average, jnp.zeros((3, *m.shape), m.dtype), logits)
        cdf, density, slope = sums
        log_cdf = jnp.log(jnp.maximum(cdf, tiny))
        others = jnp.exp(log_cdf.sum(-1, keepdims=True) - log_cdf) * step[..., None]
        wins = density * others
        mass, late = wins.sum(-1), time - centre
        new = _Race(wins, slope * others, mass, mass * late, mass * jnp.square(late))
        return jax.tree.map(jnp.add, race, new), None

    points, weights = np.polynomial.legendre.leggauss(_TIMES)
    zero, rows = jnp.zeros_like(m), jnp.zeros_like(centre)
    pairs = (jnp.asarray(points, m.dtype), jnp.asarray(weights, m.dtype))
    race, _ = lax.scan(add, _Race(zero, zero, rows, rows, rows), pairs)
    return race
