"""Compute a network in a floating-point type other than that of its parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.ensemble.ensemble import Ensemble
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


def check_precision(dtype: Any, ensemble: Ensemble, x: Any, hold: Any = None) -> None:
    """Raise if a network does not run in another floating-point type.

    Args:
        dtype: the type, or None.
        ensemble: an ensemble that runs in its own types.
        x: a batch.
        hold: as for `fit`.

    Raises:
        ValueError: the network's code mixes types that JAX does not combine.
    """
    if dtype is None:
        return
    training = None if hold == "means" else ensemble.training

    def call(ensemble: Ensemble, x: Any) -> Any:
        params, key = ensemble.mean_params(), jax.random.key(0)
        if training is not None:
            return trained_in(dtype, training)(params, x, key)
        return computed_in(dtype, ensemble.apply_fn)(params, x)

    try:
        eqx.filter_eval_shape(call, ensemble, x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`compute_dtype` must be a type in which the model runs; in {dtype} it "
            f"raises: {error} Give arrays that the model makes the type of its inputs "
            "(jnp.zeros(..., x.dtype)), replace a layer that keeps float32 numbers "
            "(equinox.nn.BatchNorm has mode='batch'), or leave `compute_dtype` out."
        ) from error


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )
