"""Compute a network in another floating-point type than that of its parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def computed_in(dtype: Any, apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A network that computes in `dtype` and gives its outputs in float32.

    Parameters keep the type in which they are stored: the inputs of the network are
    cast, and of random weights the mean and the variance. With `dtype` None the network
    is returned unchanged.
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
