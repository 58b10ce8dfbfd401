"""The floating-point type that a network computes in, apart from its parameters'."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def computed_in(dtype: Any, apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A network that computes in `dtype` and gives its outputs in float32.

    Parameters keep the type they are stored in: only what enters the network is cast,
    random weights by the mean and the variance of each. None changes nothing.
    """
    if dtype is None:
        return apply_fn

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf,
            tree,
        )

    return lambda params, x: cast(
        apply_fn(cast(params, dtype), cast(x, dtype)), jnp.float32
    )
