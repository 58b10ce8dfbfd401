"""Open the pair (module, variables) of a Flax Linen module, and its two modes.

In Linen, state and randomness are passed explicitly: ``module.apply(variables, x,
train=True, mutable=["batch_stats"], rngs={"dropout": key})``. Here every collection but
"params" is mutable in training, and every generator gets a key. The mode is set by an
argument of the call, such as `train` or `deterministic`, or by a field of the module.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meanfield.trees import named_leaves

from .opened import MODES, OpenedModel, Training, has_modes, mode_arguments

Settings = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class _LinenInference:
    """Calls a module in inference mode.

    Attributes:
        apply: `apply` of the module.
        method: ``method(module, x)``, if it is not called as ``module(x)``.
        given: arguments that set the mode.
    """

    apply: Callable[..., Any]
    method: Callable[..., Any] | None
    given: Settings

    def __call__(self, variables: Any, x: Any) -> Any:
        """Outputs for a batch."""
        given = dict(self.given)
        return _called("inference", self.apply, variables, x, self.method, given)


@dataclasses.dataclass(frozen=True)
class _LinenTraining:
    """A module in training mode, with the names of its mutable collections."""

    apply: Callable[..., Any]
    method: Callable[..., Any] | None
    given: Settings
    mutable: tuple[str, ...]

    def __call__(self, variables: Any, x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Outputs for a batch, and the state after the call."""
        own, mask, general = jax.random.split(key, 3)
        given: dict[str, Any] = dict(self.given)
        if "key" in given:
            given["key"] = own
        # The stream "params" serves all names that have no stream of their own.
        given["rngs"] = {"params": general, "dropout": mask}
        given["mutable"] = list(self.mutable)
        found = _called("training", self.apply, variables, x, self.method, given)
        outputs, after = found
        return outputs, named_leaves(after)


@dataclasses.dataclass(frozen=True)
class _Rebuild:
    """Rebuilds the pair (module, variables)."""

    apply: Callable[..., Any]

    def __call__(self, variables: Any) -> Any:
        return self.apply.__self__, variables  # pyright: ignore[reportFunctionMemberAccess]


def _called(
    mode: str, apply: Any, variables: Any, x: Any, method: Any, given: dict[str, Any]
) -> Any:
    from flax.errors import FlaxError

    try:
        return apply(variables, x, method=method, **given)
    except FlaxError as error:
        raise ValueError(
            f"`model` cannot be called in {mode} mode: {error} Set the mode by an "
            "argument of `__call__`, such as `train`, or by a field of that name."
        ) from error


def open_linen(
    module: Any, variables: Any, call: Callable[..., Any] | None
) -> OpenedModel:
    """Split a Flax Linen module and its variables into parameters and functions.

    Args:
        module: acts on a batch.
        variables: as `module.init` returns them.
        call: ``call(module, x)``, if it is not called as ``module(x)``.
    """
    own = call or type(module).__call__
    variables = jax.tree.map(jnp.asarray, variables)
    moving = tuple(n for n in named_leaves(variables) if not n.startswith("params/"))
    collections = tuple(name for name in variables if name != "params")
    in_inference, in_training = in_mode(module, False), in_mode(module, True, (None,))
    trains = bool(moving) or has_modes(own) or in_inference is not in_training
    given = [
        tuple(mode_arguments(own, mode, jax.random.key(0)).items())
        for mode in (False, True)
    ]
    training = None
    if trains:
        apply = _LinenTraining(in_training.apply, call, given[1], collections)
        training = Training(apply, moving)
    return OpenedModel(
        kind="linen",
        params=variables,
        apply_fn=_LinenInference(in_inference.apply, call, given[0]),
        rebuild=_Rebuild(in_inference.apply),
        frozen=moving,
        training=training,
    )


def initialise(module: Any, key: Any, x: Any) -> Any:
    """Variables of a Linen module for a batch, however its mode is set.

    Args:
        module: a Flax Linen module.
        key: a `jax.random.key`.
        x: a batch.
    """
    given = mode_arguments(type(module).__call__, False, key)
    return in_mode(module, False).init(key, x, **given)


def in_mode(module: Any, training: bool, values: tuple = (None, True, False)) -> Any:
    """The module in a mode; only mode fields that have one of `values` are changed."""
    fields = {
        field.name: MODES[field.name] == training
        for field in dataclasses.fields(module)
        if field.name in MODES and getattr(module, field.name) in values
    }
    changes = any(getattr(module, name) != value for name, value in fields.items())
    return module.clone(**fields) if changes else module
