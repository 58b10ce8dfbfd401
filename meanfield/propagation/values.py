"""Random arrays as values of the interpreter: a mean and a variance per entry."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .noise import normal


class Random(eqx.Module):
    """An array of random entries, which are independent except for copies.

    Args:
        mean: mean of each entry.
        var: variance of each entry.
        leaves: paths of the parameters it was made from.
        drawable: whether the entries can be drawn one by one, as for looked-up rows of
            an embedding or a random bias added to a signal. Weights are not
            drawn: the result of their contraction is drawn instead.
        copied: axes along which broadcasting repeats an entry. A sum over such an axis
            would treat copies of one entry as independent.
    """

    mean: Any
    var: Any
    leaves: tuple[str, ...] = eqx.field(static=True)
    drawable: bool = eqx.field(static=True, default=False)
    copied: tuple[int, ...] = eqx.field(static=True, default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.mean.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions of the array."""
        return self.mean.ndim


class Gated(eqx.Module):
    """Weights times spikes that several of them share, W = W̃ s; see `gates`.

    Args:
        weight: the slabs W̃.
        gate: the spikes s, copied along the axes on which they are shared.
    """

    weight: Random
    gate: Random


class Moments(eqx.Module):
    """Mean and variance of an output, entry by entry."""

    mean: Float[Array, "*shape"]
    var: Float[Array, "*shape"]

    @property
    def std(self) -> Float[Array, "*shape"]:
        """Standard deviation."""
        return jnp.sqrt(self.var)


def is_random(value: Any) -> bool:
    """Whether a value is a random array (also for `is_leaf=`)."""
    return isinstance(value, Random)


# Outside `jit` this compiles one program per shape instead of fifty small ones.
@partial(jax.jit, inline=True)
def add_noise(
    mean: Float[Array, "*shape"],
    var: Float[Array, "*shape"],
    key: PRNGKeyArray,
    sign: Any = None,
) -> Float[Array, "*shape"]:
    """Draw z = G + ε Δ with ε ~ N(0, 1) for every entry.

    If Δ² = 0, the result is exactly G, and every gradient through Δ is 0. A `sign` of
    −1 changes the sign of ε.
    """
    noise = normal(key, mean.shape, mean.dtype)
    if sign is not None:
        noise = noise * jnp.asarray(sign, mean.dtype)
    random = var > 0
    std = jnp.sqrt(jnp.where(random, var, 1)).astype(mean.dtype)
    return jnp.where(random, mean + noise * std, mean)


def variance_dtype(dtype: Any) -> Any:
    """Type for the variance of numbers; the range of float16 is too small for it."""
    return jnp.dtype("float32") if dtype == jnp.float16 else jnp.dtype(dtype)


def lift(value: Any) -> Random:
    """A plain array as a random array of variance 0."""
    if isinstance(value, Random):
        return value
    value = jnp.asarray(value)
    var = jnp.zeros(value.shape, variance_dtype(value.dtype))
    return Random(value, var, (), drawable=True)


def merge_leaves(*values: Any) -> tuple[str, ...]:
    """Sorted paths of all parameters from which the values are computed."""
    names = {leaf for v in values if isinstance(v, Random) for leaf in v.leaves}
    return tuple(sorted(names))
