"""Compute a network in a floating-point type other than that of its parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.ensemble.opened import Training
from meanfield.trees import map_named


def computed_in(dtype: Any, apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A network that computes in `dtype` and gives its outputs in float32.

    Stored parameters keep their type, and are cast with the inputs in each call. With
    `dtype` None the network is returned unchanged.
    """
    if dtype is None:
        return apply_fn
    return lambda params, x: _cast(
        apply_fn(_cast(params, dtype), _cast(x, dtype)), jnp.float32
    )


def trained_in(dtype: Any, training: Training) -> Callable[..., Any]:
    """A network in training mode, computed in another floating-point type.

    Its state is not cast: a running mean changes too little in a step for bfloat16.
    """
    if dtype is None:
        return training

    def apply(params: Any, x: Any, key: Any) -> Any:
        params = map_named(
            lambda name, leaf: leaf if name in training.moving else _cast(leaf, dtype),
            params,
        )
        outputs, moving = training(params, _cast(x, dtype), key)
        return _cast(outputs, jnp.float32), moving

    return apply


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )
