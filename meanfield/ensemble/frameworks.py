"""Split a model of any framework into parameters and a function apply_fn(params, x).

| model                               | acts on     | parameters                      |
|-------------------------------------|-------------|---------------------------------|
| Equinox module                      | one example | the module itself               |
| (Equinox module, its `State`)       | one example | module and state                |
| Flax NNX module                     | a batch     | a dictionary of its arrays      |
| (Flax Linen module, its variables)  | a batch     | the variables                   |
| Keras model (JAX backend)           | a batch     | a dictionary of its variables   |
| (apply_fn, params)                  | a batch     | `params`; Python numbers fixed  |

A module in training mode also has a function for training: see `opened`.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.trees import named_leaves

from .equinox_modules import open_equinox, statistics
from .keras_modules import open_keras
from .linen_modules import in_mode, open_linen
from .nnx_modules import open_nnx
from .opened import Modes, OpenedModel, training_of


class UnknownModelError(TypeError, ValueError):
    """The model belongs to none of the supported frameworks."""


Call = Callable[..., Any]


def open_model(model: Any, call: Call | None = None) -> OpenedModel:
    """Split a model into parameters and functions.

    Args:
        model: one of the kinds in the table.
        call: ``call(module, x)``, how a module is called, if not as ``module(x)``.

    Raises:
        UnknownModelError: `model` is none of them.
        ValueError: `call` is given for a pair (apply_fn, params).

    Example:
        >>> import equinox as eqx, jax
        >>> opened = open_model(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        >>> opened.kind, opened.params.weight.shape
        ('equinox', (2, 3))
    """
    nnx, linen = (sys.modules.get(f"flax.{name}") for name in ("nnx", "linen"))
    pair = isinstance(model, tuple) and len(model) == 2
    if nnx is not None and isinstance(model, nnx.Module):
        return open_nnx(nnx, model, call)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model):
        return open_keras(model, call)
    if isinstance(model, eqx.Module):
        return open_equinox(model, None, call)
    if pair and isinstance(model[1], eqx.nn.State):
        return open_equinox(model[0], model[1], call)
    if pair and linen is not None and isinstance(model[0], linen.Module):
        return open_linen(model[0], model[1], call)
    if pair and callable(model[0]):
        require(
            call is None,
            "`call` must be left out for a pair (apply_fn, params), whose function is "
            "the call. Write it there: (lambda params, x: ..., params).",
        )
        apply_fn, params = model
        params = jax.tree.map(_on_device, params)
        frozen = (*_not_learned(params), *statistics(params))
        rebuild, training = _Pair(apply_fn), None
        if isinstance(apply_fn, Modes):
            training = training_of(apply_fn, params)
            frozen = (*frozen, *training.moving)
        return OpenedModel("function", params, apply_fn, rebuild, frozen, training)
    raise UnknownModelError(
        "`model` must be an Equinox module or its pair (module, state), a Flax NNX "
        "module, a Keras model, or a pair (apply_fn, params) with apply_fn(params, x) "
        f"on a batch x; got {type(model).__name__}. Pass a Flax Linen module as "
        "(module.apply, variables), or with batch statistics or dropout as (module, "
        "variables)."
    )


def in_training_mode(model: Any) -> Any:
    """A model with all its layers in training mode; Keras models and functions as is.

    Args:
        model: one of the kinds in the table; it is not changed.
    """
    nnx, linen = (sys.modules.get(f"flax.{name}") for name in ("nnx", "linen"))
    pair = isinstance(model, tuple) and len(model) == 2
    if nnx is not None and isinstance(model, nnx.Module):
        copy = nnx.merge(*nnx.split(model))
        copy.train()
        return copy
    if isinstance(model, eqx.Module):
        return eqx.nn.inference_mode(model, value=False)
    if pair and isinstance(model[1], eqx.nn.State):
        return eqx.nn.inference_mode(model[0], value=False), model[1]
    if pair and linen is not None and isinstance(model[0], linen.Module):
        return in_mode(model[0], training=True), model[1]
    return model


class _Pair(eqx.Module):
    """Rebuilds the pair (apply_fn, params)."""

    apply_fn: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, params: Any) -> Any:
        return self.apply_fn, params


def _on_device(leaf: Any) -> Any:
    """Turn NumPy arrays into JAX arrays; Python numbers are settings and stay."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


def _not_learned(params: Any) -> tuple[str, ...]:
    """Names outside Flax Linen's collection "params" of learned parameters."""
    if not isinstance(params, Mapping) or "params" not in params:
        return ()
    return tuple(n for n in named_leaves(params) if not n.startswith("params/"))
