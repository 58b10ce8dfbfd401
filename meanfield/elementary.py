"""Elementary functions with finite derivatives at 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root with derivative 0, not infinity, at 0 (and value 0 below 0)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_log(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm that stays finite at 0, with derivative 0 there."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


@jax.custom_jvp
def xlogx(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x ln x, with value 0 and a finite derivative at 0."""
    return x * safe_log(x)


@xlogx.defjvp
def _xlogx_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Written out, because the derivative of the logarithm is a division per weight.
    (x,), (change,) = primals, tangents
    log = safe_log(x)
    return x * log, (log + 1) * change
