"""Open a Flax NNX module: a flat dictionary of its arrays, and its two modes."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.program.steps import trace
from meanfield.trees import named_leaves

from .opened import OpenedModel, Training, has_modes, mode_arguments


class _NNX(eqx.Module):
    """A Flax NNX module as a function of a flat dictionary of its arrays.

    Attributes:
        graph: the module without its arrays.
        treedef: the tree of the arrays.
        names: path names of the arrays.
        kept: names of the arrays that are not learned.
        call: ``call(module, x)``.
    """

    graph: Any = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[str, ...] = eqx.field(static=True)
    call: Callable[..., Any] = eqx.field(static=True)

    def module(self, params: Mapping[str, Any]) -> Any:
        """The module with these arrays."""
        nnx = sys.modules["flax.nnx"]
        leaves = [params[name] for name in self.names]
        return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, leaves))

    def in_inference(self, params: Mapping[str, Any]) -> Any:
        """The module with these arrays, in evaluation mode."""
        module = self.module(params)
        module.eval()
        return module

    def infer(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch in evaluation mode.

        Raises:
            ValueError: the outputs depend on a state that the call changes.
        """
        outputs, module = self._infer(params, x)
        after = self.state_of(module)
        changed = {name for name in after if after[name] is not params[name]}
        if changed:  # compare values, because `nnx.remat` writes the same array back
            changed = self.changes(params, x)
        require(
            not changed or not self.depends_on(changed, params, x),
            "`model` must not change its state in evaluation mode where its outputs "
            f"depend on it; got changes of {sorted(changed)}. A second call would "
            "give other outputs than those that were evaluated. Change it only in "
            "training mode, in which an attribute `deterministic` or "
            "`use_running_average`, which model.eval() sets, is False.",
        )
        return outputs

    def _infer(self, params: Mapping[str, Any], x: Any) -> tuple[Any, Any]:
        module = self.in_inference(params)
        given = mode_arguments(self.call, False, jax.random.key(0))
        return self.call(module, x, **given), module

    def train(
        self, params: Mapping[str, Any], x: Any, key: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Outputs for a batch in the module's own mode, and the state afterwards."""
        module = self.module(params)
        outputs = self.call(module, x, **mode_arguments(self.call, True, key))
        return outputs, self.state_of(module)

    def state_of(self, module: Any) -> dict[str, Any]:
        """Everything that is not learned, by path name."""
        after = named_leaves(sys.modules["flax.nnx"].state(module))
        named = dict(zip(_names(after), after.values(), strict=True))
        return {name: named[name] for name in self.kept}

    def changes(self, params: Mapping[str, Any], x: Any) -> set[str]:
        """Names of the state whose values a call changes."""

        def run(params: Mapping[str, Any], x: Any) -> list[Any]:
            return list(self.state_of(self._infer(params, x)[1]).values())

        program = trace(run, dict(params), x)
        places = [program.leaves[name] for name in self.kept]
        pairs = zip(self.kept, places, program.outputs, strict=True)
        return {name for name, before, after in pairs if after != before}

    def depends_on(self, names: set[str], params: Mapping[str, Any], x: Any) -> bool:
        """Whether the outputs depend on this state."""
        program = trace(lambda p, x: self._infer(p, x)[0], dict(params), x)
        reached = program.depending(program.leaves[name] for name in names)
        return any(output in reached for output in program.outputs)


def open_nnx(nnx: Any, model: Any, call: Callable[..., Any] | None) -> OpenedModel:
    """Split a Flax NNX module into parameters and functions.

    Args:
        nnx: the module `flax.nnx`.
        model: acts on a batch.
        call: ``call(module, x)``, if it is not called as ``module(x)``.
    """
    call = call or type(model).__call__
    graph, state = nnx.split(model)
    names = _names(named_leaves(state))
    leaves, treedef = jax.tree.flatten(state)
    own = lambda kind: set(_names(named_leaves(nnx.state(model, kind))))
    frozen = tuple(name for name in names if name not in own(nnx.Param))
    keys = own(nnx.RngKey)
    moving = tuple(name for name in frozen if name not in keys)
    # A module may change any other state in both modes.
    other = set(moving) - own(nnx.BatchStat) - own(nnx.RngState)
    trains = bool(other) or has_modes(call) or _is_training(nnx, model)
    if trains:  # a counter may be a Python number
        leaves = [
            jnp.asarray(leaf) if name in moving else leaf
            for name, leaf in zip(names, leaves, strict=True)
        ]
    network = _NNX(graph, treedef, tuple(names), frozen, call)
    return OpenedModel(
        kind="nnx",
        params=dict(zip(names, leaves, strict=True)),
        apply_fn=network.infer,
        rebuild=network.in_inference if trains else network.module,
        frozen=frozen,
        training=Training(network.train, moving) if trains else None,
    )


def _is_training(nnx: Any, model: Any) -> bool:
    """Whether a layer draws masks or updates batch statistics in its present mode."""
    # A function in newer versions of Flax, a method in older ones.
    walk = getattr(nnx, "iter_modules", lambda model: model.iter_modules())
    for _, layer in walk(model):
        rate = getattr(layer, "rate", getattr(layer, "dropout_rate", None))
        drops_nothing = isinstance(rate, int | float) and rate == 0
        draws = getattr(layer, "deterministic", True) in (False, None)
        if draws and not drops_nothing:
            return True
        if getattr(layer, "use_running_average", True) in (False, None):
            return True
    return False


def _names(named: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/value") for name in named]
