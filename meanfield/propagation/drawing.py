r"""Weights drawn as in a sub-network, differentiable in π, m and Ξ.

A draw of w ~ π δ + (1 − π) N(m, Ξ) is exact: w = s (m + √Ξ ε) with s ~ Bernoulli(1 − π)
and ε ~ N(0, 1). The binary variable s has no derivative, so the draw is differentiated
through its mean and its standard deviation,

    w = μ + η √V,     dw = dμ + η d√V,     η = (w − μ)/√V held constant.

This is generalized back-propagation for the weight itself. The gradient of the expected
loss is exact if the loss is quadratic in the weights (its mean then depends only on μ
and V), and for every loss if π = 0. At V = 0 the derivative is dμ.

Connections that share a spike also share its gradient: there s is differentiated
through its own mean and standard deviation, ds = −dπ / (2 P(s)), with P(s) the
probability of the drawn value; the slab is differentiated with its noise ε constant.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

from .noise import fold_in, normal, uniform


def draw_weight(weight: SpikeSlab, key: PRNGKeyArray) -> Float[Array, "*shape"]:
    """One draw of an array of weights, differentiable in π, m and Ξ.

    Args:
        weight: the distribution of every entry.
        key: a `jax.random.key`.

    Returns:
        The weights, with exact zeros, distributed as those of `weight.sample`.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> from meanfield.propagation.drawing import draw_weight
        >>> weight = mf.SpikeSlab(jnp.full(4, 0.5), jnp.ones(4), jnp.zeros(4))
        >>> set(draw_weight(weight, jax.random.key(0)).tolist()) <= {0.0, 1.0}
        True
    """
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    spike, mean, var = (
        part.astype(wide)
        for part in (weight.spike_prob, weight.slab_mean, weight.slab_var)
    )
    present = uniform(fold_in(key, 0), spike.shape, wide) >= spike
    noise = normal(fold_in(key, 1), mean.shape, wide)
    draw = _draw_units if weight.shared else _draw_entries
    return draw(spike, mean, var, present, noise).astype(weight.dtype)


@jax.custom_jvp
def _draw_entries(
    spike: Array, mean: Array, var: Array, present: Array, noise: Array
) -> Array:
    return jnp.where(present, mean + safe_sqrt(var) * noise, 0)


@_draw_entries.defjvp
def _entries_jvp(values: Any, tangents: Any) -> tuple[Array, Array]:
    spike, mean, var, present, noise = values
    d_spike, d_mean, d_var, *_ = tangents
    drawn = _draw_entries(*values)
    total = (1 - spike) * (var + spike * jnp.square(mean))
    d_total = (1 - spike) * (d_var + 2 * spike * mean * d_mean)
    d_total -= (var + (2 * spike - 1) * jnp.square(mean)) * d_spike
    # w − μ in a form that loses no digits by subtraction.
    absence = jnp.where(present, 0.0, 1.0).astype(mean.dtype)
    offset = (spike - absence) * mean + (1 - absence) * safe_sqrt(var) * noise
    random = total > 0
    pull = jnp.where(random, offset / (2 * jnp.where(random, total, 1)), 0)
    return drawn, (1 - spike) * d_mean - mean * d_spike + pull * d_total


@jax.custom_jvp
def _draw_units(
    spike: Array, mean: Array, var: Array, present: Array, noise: Array
) -> Array:
    return jnp.where(present, mean + safe_sqrt(var) * noise, 0)


@_draw_units.defjvp
def _units_jvp(values: Any, tangents: Any) -> tuple[Array, Array]:
    spike, mean, var, present, noise = values
    d_spike, d_mean, d_var, *_ = tangents
    slab = mean + safe_sqrt(var) * noise
    width = safe_sqrt(var)
    wide = width > 0
    d_width = jnp.where(wide, d_var / (2 * jnp.where(wide, width, 1)), 0)
    # If π is 0 or 1, s has standard deviation 0, and only its mean has a derivative.
    chance = jnp.where(present, 1 - spike, spike)
    uncertain = (spike > 0) & (spike < 1)
    d_coin = -d_spike * jnp.where(uncertain, 0.5 / jnp.where(uncertain, chance, 1), 1)
    change = jnp.where(present, d_mean + noise * d_width, 0) + slab * d_coin
    return _draw_units(*values), change
