"""A model of any framework as parameters and a function of them and a batch.

| model                     | acts on     | parameters                           |
|---------------------------|-------------|--------------------------------------|
| Equinox module            | one example | the module itself                    |
| Flax NNX module           | a batch     | a dictionary of its arrays           |
| pair (apply_fn, params)   | a batch     | `params`; numbers of Python stay     |

A Flax Linen module goes in as the pair ``(module.apply, variables)``.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model taken apart.

    Attributes:
        kind: "equinox", "nnx" or "function".
        params: its parameters, a tree; path names such as ``layers/0/weight``.
        apply_fn: ``apply_fn(params, x)``, the outputs for a batch, as the model stands.
        inference_fn: the same with dropout and its kin switched off.
        rebuild: from parameters back to a model of the same kind.
        frozen: path names of the arrays that are not learned, such as statistics.
    """

    kind: str
    params: Any
    apply_fn: Callable[[Any, Any], Any]
    inference_fn: Callable[[Any, Any], Any]
    rebuild: Callable[[Any], Any]
    frozen: tuple[str, ...] = ()


class UnknownModelError(TypeError, ValueError):
    """A model of no framework that is known here."""


def open_model(model: Any) -> OpenedModel:
    """Take a model apart.

    Args:
        model: an Equinox module, a Flax NNX module or a pair ``(apply_fn, params)``.

    Raises:
        UnknownModelError: `model` is none of the three kinds.

    Example:
        >>> import equinox as eqx, jax
        >>> opened = open_model(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        >>> opened.kind, opened.params.weight.shape
        ('equinox', (2, 3))
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        return _open_nnx(nnx, model)
    if isinstance(model, eqx.Module):
        return OpenedModel("equinox", model, _apply_equinox, _infer_equinox, _same)
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        apply_fn, params = model
        params = jax.tree.map(_on_device, params)
        frozen = _not_learned(params)
        return OpenedModel(
            "function", params, apply_fn, apply_fn, _Pair(apply_fn), frozen
        )
    raise UnknownModelError(
        "`model` must be an Equinox module, a Flax NNX module or a pair (apply_fn, "
        f"params) with apply_fn(params, x) on a batch x; got {type(model).__name__}. "
        "A Flax Linen module goes in as (module.apply, variables)."
    )


def _apply_equinox(model: Any, x: Any) -> Any:
    return jax.vmap(model)(x)


def _infer_equinox(model: Any, x: Any) -> Any:
    return jax.vmap(eqx.nn.inference_mode(model))(x)


def _same(model: Any) -> Any:
    return model


class _Pair(eqx.Module):
    """Way back to the pair (apply_fn, params)."""

    apply_fn: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, params: Any) -> Any:
        return self.apply_fn, params


def _on_device(leaf: Any) -> Any:
    """Arrays of NumPy become arrays of JAX; numbers of Python are settings and stay."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


def _not_learned(params: Any) -> tuple[str, ...]:
    """Flax Linen keeps what is learned in the collection "params"."""
    if not isinstance(params, Mapping) or "params" not in params:
        return ()
    return tuple(n for n in named_leaves(params) if not n.startswith("params/"))


class _NNX(eqx.Module):
    """A Flax NNX module as a function of a flat dictionary of its arrays."""

    graph: Any = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def rebuild(self, params: Mapping[str, Any]) -> Any:
        """The module with these arrays."""
        nnx = sys.modules["flax.nnx"]
        leaves = [params[name] for name in self.names]
        return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, leaves))

    def apply(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch."""
        return self.rebuild(params)(x)

    def infer(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch in evaluation mode."""
        module = self.rebuild(params)
        module.eval()
        return module(x)


def _open_nnx(nnx: Any, model: Any) -> OpenedModel:
    graph, state = nnx.split(model)
    learned = set(_nnx_names(nnx.state(model, nnx.Param)))
    names = _nnx_names(state)
    leaves, treedef = jax.tree.flatten(state)
    network = _NNX(graph, treedef, tuple(names))
    params = dict(zip(names, leaves, strict=True))
    frozen = tuple(name for name in names if name not in learned)
    return OpenedModel(
        "nnx", params, network.apply, network.infer, network.rebuild, frozen
    )


def _nnx_names(state: Any) -> list[str]:
    return [name.removesuffix("/value") for name in named_leaves(state)]
