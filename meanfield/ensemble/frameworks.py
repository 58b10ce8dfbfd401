"""Split a model of any framework into parameters and a function apply_fn(params, x).

| model                     | acts on     | parameters                           |
|---------------------------|-------------|--------------------------------------|
| Equinox module            | one example | the module itself                    |
| Flax NNX module           | a batch     | a dictionary of its arrays           |
| pair (apply_fn, params)   | a batch     | `params`; Python numbers stay        |

Pass a Flax Linen module as the pair ``(module.apply, variables)``.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.program.steps import trace
from meanfield.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model, split into parameters and functions.

    Attributes:
        kind: "equinox", "nnx" or "function".
        params: its parameters, a tree; path names such as ``layers/0/weight``.
        apply_fn: ``apply_fn(params, x)``, the outputs for a batch, in the mode
            (training or inference) that the model is in.
        inference_fn: the same in inference mode, for example without dropout.
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
    """The model belongs to none of the supported frameworks."""


Call = Callable[[Any, Any], Any]


def open_model(model: Any, call: Call | None = None) -> OpenedModel:
    """Split a model into parameters and functions.

    Args:
        model: an Equinox module, a Flax NNX module or a pair ``(apply_fn, params)``.
        call: ``call(module, x)``, how a module is called, if not as ``module(x)``.

    Raises:
        UnknownModelError: `model` is none of the three kinds.
        ValueError: `call` is given for a pair.

    Example:
        >>> import equinox as eqx, jax
        >>> opened = open_model(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        >>> opened.kind, opened.params.weight.shape
        ('equinox', (2, 3))
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        return _open_nnx(nnx, model, call)
    if isinstance(model, eqx.Module):
        apply_fn, infer = _apply_equinox, _infer_equinox
        if call is not None:
            apply_fn, infer = _EachExample(call), _EachExample(call, inference=True)
        return OpenedModel("equinox", model, apply_fn, infer, _same, _states(model))
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        require(
            call is None,
            "`call` must be left out for a pair (apply_fn, params), whose function is "
            "the call. Write it there: (lambda params, x: ..., params).",
        )
        apply_fn, params = model
        params = jax.tree.map(_on_device, params)
        frozen = (*_not_learned(params), *_states(params))
        return OpenedModel(
            "function", params, apply_fn, apply_fn, _Pair(apply_fn), frozen
        )
    raise UnknownModelError(
        "`model` must be an Equinox module, a Flax NNX module or a pair (apply_fn, "
        f"params) with apply_fn(params, x) on a batch x; got {type(model).__name__}. "
        "Pass a Flax Linen module as (module.apply, variables)."
    )


def _apply_equinox(model: Any, x: Any) -> Any:
    return jax.vmap(model)(x)


def _infer_equinox(model: Any, x: Any) -> Any:
    return jax.vmap(eqx.nn.inference_mode(model))(x)


class _EachExample(eqx.Module):
    """Calls an Equinox module by the user's function, on each example of a batch."""

    call: Call = eqx.field(static=True)
    inference: bool = eqx.field(static=True, default=False)

    def __call__(self, model: Any, x: Any) -> Any:
        model = eqx.nn.inference_mode(model) if self.inference else model
        return jax.vmap(lambda x: self.call(model, x))(x)


def _same(model: Any) -> Any:
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
    """Names outside Flax Linen's collection "params", which holds what is learned."""
    if not isinstance(params, Mapping) or "params" not in params:
        return ()
    return tuple(n for n in named_leaves(params) if not n.startswith("params/"))


def _states(params: Any) -> tuple[str, ...]:
    """Names of Equinox's statistics, in a `State` or as initial values of layers."""
    kinds = (eqx.nn.State, eqx.nn.StateIndex)
    is_state = lambda node: isinstance(node, kinds)
    marked = jax.tree.map(
        lambda node: jax.tree.map(lambda _: is_state(node), node),
        params,
        is_leaf=is_state,
    )
    return tuple(name for name, marked in named_leaves(marked).items() if marked)


def refuse_training_mode(model: Any) -> None:
    """Raise for a Flax NNX module that draws a mask or updates statistics when called.

    Its state is not kept between calls: the mask would always be the same, and the
    statistics would never change, although the exported network uses them.

    Raises:
        ValueError: the module is in training mode.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(model, nnx.Module):
        return
    walk = getattr(nnx, "iter_modules", lambda model: model.iter_modules())
    for path, layer in walk(model):
        name, kind = "/".join(map(str, path)), type(layer).__name__
        rate = getattr(layer, "rate", getattr(layer, "dropout_rate", 0.0))
        drops = isinstance(rate, int | float) and rate > 0
        if drops and getattr(layer, "deterministic", True) in (False, None):
            raise ValueError(_TRAINING.format(kind, name, "deterministic"))
        if getattr(layer, "use_running_average", True) in (False, None):
            raise ValueError(_TRAINING.format(kind, name, "use_running_average"))


_TRAINING = (
    "`model` must be in evaluation mode; got a {} at `{}` in training mode. Its state "
    "would not be kept, and the exported network would not be the function that was "
    "trained. Call model.eval(), or set {}=True."
)


class _NNX(eqx.Module):
    """A Flax NNX module as a function of a flat dictionary of its arrays."""

    graph: Any = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[str, ...] = eqx.field(static=True)
    counters: tuple[str, ...] = eqx.field(static=True)
    call: Call = eqx.field(static=True)

    def rebuild(self, params: Mapping[str, Any]) -> Any:
        """The module with these arrays."""
        nnx = sys.modules["flax.nnx"]
        leaves = [params[name] for name in self.names]
        return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, leaves))

    def apply(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch.

        Raises:
            ValueError: the module changes its state.
        """
        module = self.rebuild(params)
        outputs = self.call(module, x)
        after = self.state_of(module)
        changed = {name for name in after if after[name] is not params[name]}
        if changed:  # Compare values: `nnx.remat` writes the same array back.
            changed = self.changes(params, x)
        counted = changed & set(self.counters)
        if not counted or not self.depends_on_counters(params, x):
            changed -= counted
        require(
            not changed,
            "`model` must not change its state when it is called; got changes of "
            f"{sorted(changed)}. They would be lost, and the exported network would "
            "not be the function that was trained. Put it into evaluation mode with "
            "model.eval(), or make it a function without state.",
        )
        return outputs

    def state_of(self, module: Any) -> dict[str, Any]:
        """Everything that is not learned, by path name."""
        after = named_leaves(sys.modules["flax.nnx"].state(module))
        named = dict(zip(_nnx_names(after), after.values(), strict=True))
        return {name: named[name] for name in self.kept}

    def changes(self, params: Mapping[str, Any], x: Any) -> set[str]:
        """Names of the state whose values a call changes."""

        def run(params: Mapping[str, Any], x: Any) -> list[Any]:
            module = self.rebuild(params)
            self.call(module, x)
            return list(self.state_of(module).values())

        program = trace(run, dict(params), x)
        places = [program.leaves[name] for name in self.kept]
        pairs = zip(self.kept, places, program.outputs, strict=True)
        return {name for name, before, after in pairs if after != before}

    def depends_on_counters(self, params: Mapping[str, Any], x: Any) -> bool:
        """Whether the outputs depend on the counters of random keys."""
        program = trace(
            lambda params, x: self.call(self.rebuild(params), x), dict(params), x
        )
        reached = program.depending(program.leaves[name] for name in self.counters)
        return any(output in reached for output in program.outputs)

    def infer(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch in evaluation mode."""
        module = self.rebuild(params)
        module.eval()
        return self.call(module, x)


def _call_itself(module: Any, x: Any) -> Any:
    return module(x)


def _open_nnx(nnx: Any, model: Any, call: Call | None) -> OpenedModel:
    graph, state = nnx.split(model)
    learned = set(_nnx_names(named_leaves(nnx.state(model, nnx.Param))))
    names = _nnx_names(named_leaves(state))
    leaves, treedef = jax.tree.flatten(state)
    counters = _nnx_names(named_leaves(nnx.state(model, nnx.RngState)))
    params = dict(zip(names, leaves, strict=True))
    frozen = tuple(name for name in names if name not in learned)
    network = _NNX(
        graph, treedef, tuple(names), frozen, tuple(counters), call or _call_itself
    )
    return OpenedModel(
        "nnx", params, network.apply, network.infer, network.rebuild, frozen
    )


def _nnx_names(named: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/value") for name in named]
