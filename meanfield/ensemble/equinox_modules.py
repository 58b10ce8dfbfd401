"""Open an Equinox module, or the pair (module, state) of a module with a state."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax

from meanfield.checks import require
from meanfield.program.steps import trace
from meanfield.trees import UNNAMED, named_leaves

from .opened import OpenedModel, Training, has_modes, mode_arguments


class WithState:
    """A module and its state; parameters have the names that they have in the module.

    Args:
        module: an Equinox module.
        state: its `equinox.nn.State`.
    """

    def __init__(self, module: Any, state: Any):
        self.module, self.state = module, state


jax.tree_util.register_pytree_with_keys(
    WithState,
    lambda both: (
        ((UNNAMED, both.module), (jax.tree_util.GetAttrKey("state"), both.state)),
        None,
    ),
    lambda _, children: WithState(*children),
)


@dataclasses.dataclass(frozen=True)
class _EachInference:
    """Calls a module for every example of a batch, in inference mode.

    Attributes:
        call: ``call(module, x)``, for one example.
        axis_name: name of the batch axis.
    """

    call: Callable[..., Any]
    axis_name: Hashable

    def __call__(self, params: Any, x: Any) -> Any:
        """Outputs for a batch."""
        key = jax.random.key(0)
        given = mode_arguments(self.call, False, key)
        if "key" in given:
            self._refuse_random(params, x, given)
        return self._run(params, x, given)

    def _run(self, params: Any, x: Any, given: dict[str, Any]) -> Any:
        module, state = _split(params)
        module = eqx.nn.inference_mode(module)

        def one(x: Any, state: tuple[Any, ...]) -> Any:
            outputs = self.call(module, x, *state, **given)
            return outputs[0] if state else outputs

        run = jax.vmap(one, in_axes=(0, None), axis_name=self.axis_name)
        return run(x, state)

    def _refuse_random(self, params: Any, x: Any, given: dict[str, Any]) -> None:
        program = trace(
            lambda key, rest: self._run(rest[0], rest[1], given | {"key": key}),
            given["key"],
            (params, x),
        )
        reached = program.depending(program.leaves.values())
        require(
            not any(output in reached for output in program.outputs),
            "`model` must not draw random numbers in inference mode; got outputs that "
            "depend on `key`. Draw them only where an attribute `inference`, which "
            "equinox.nn.inference_mode sets, is False.",
        )


@dataclasses.dataclass(frozen=True)
class _EachTraining:
    """A module of one example, called for a batch in training mode."""

    call: Callable[..., Any]
    axis_name: Hashable

    def __call__(self, params: Any, x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Outputs for a batch, and the state after the call."""
        module, state = _split(params)
        keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))

        def one(x: Any, key: Any, state: tuple[Any, ...]) -> Any:
            given = mode_arguments(self.call, True, key)
            outputs = self.call(module, x, *state, **given)
            return outputs if state else (outputs, None)

        run = jax.vmap(
            one, in_axes=(0, 0, None), out_axes=(0, None), axis_name=self.axis_name
        )
        outputs, after = run(x, keys, state)
        return outputs, {f"state/{n}": leaf for n, leaf in named_leaves(after).items()}


def _rebuild(params: Any) -> Any:
    """The module, or the pair, in inference mode."""
    module, state = _split(params)
    module = eqx.nn.inference_mode(module)
    return (module, *state) if state else module


def _split(params: Any) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(params, WithState):
        return params.module, (params.state,)
    return params, ()


def open_equinox(
    module: Any, state: Any = None, call: Callable[..., Any] | None = None
) -> OpenedModel:
    """Split an Equinox module into parameters and functions.

    Args:
        module: acts on one example.
        state: an `equinox.nn.State`, or None; with one, the module is called as
            ``module(x, state)`` and returns outputs and the new state.
        call: ``call(module, x)``, if it is not called as ``module(x)``.

    Raises:
        ValueError: the layers name several batch axes.
    """
    call = call or type(module).__call__
    axis_name = _batch_axis(module)
    if state is None:
        params, moving = module, ()
    else:
        params = WithState(module, state)
        moving = tuple(f"state/{name}" for name in named_leaves(state))
    trains = has_modes(call) or any(map(_is_training, _nodes(module)))
    return OpenedModel(
        kind="equinox",
        params=params,
        apply_fn=_EachInference(call, axis_name),
        rebuild=_rebuild if trains or state is not None else _same,
        frozen=(*statistics(module), *moving),
        training=Training(_EachTraining(call, axis_name), moving) if trains else None,
    )


def _same(model: Any) -> Any:
    return model


def statistics(params: Any) -> tuple[str, ...]:
    """Path names of the arrays of an `eqx.nn.State` or `eqx.nn.StateIndex`."""
    kinds = (eqx.nn.State, eqx.nn.StateIndex)
    is_state = lambda node: isinstance(node, kinds)
    marked = jax.tree.map(
        lambda node: jax.tree.map(lambda _: is_state(node), node),
        params,
        is_leaf=is_state,
    )
    return tuple(name for name, marked in named_leaves(marked).items() if marked)


def _nodes(tree: Any) -> list[Any]:
    """All modules inside a tree."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, eqx.Module):
            found.append(node)
        return False

    jax.tree.leaves(tree, is_leaf=visit)
    return found


def _is_training(node: Any) -> bool:
    """Whether a layer behaves differently in training mode, and is in this mode."""
    drops_nothing = isinstance(node, eqx.nn.Dropout) and _is_zero(node.p)
    return getattr(node, "inference", None) is False and not drops_nothing


def _is_zero(rate: Any) -> bool:
    return isinstance(rate, int | float) and rate == 0


def _batch_axis(module: Any) -> Hashable:
    """The name that the layers give to the axis of the batch.

    Raises:
        ValueError: they give several names.
    """
    names = {}
    for node in _nodes(module):
        name = getattr(node, "axis_name", None)
        several = name if isinstance(name, tuple | list) else [name]
        names |= dict.fromkeys(n for n in several if n is not None)
    require(
        len(names) <= 1,
        "`model` must use one name of the batch axis in all layers; got "
        f"{list(names)}. Give every BatchNorm the same `axis_name`.",
    )
    return next(iter(names), "batch")
