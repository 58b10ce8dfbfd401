"""A model of any framework, taken apart: parameters, and functions of a batch.

Inference mode is the function that is evaluated and shipped. Training mode, if a model
has one, draws masks, and changes the model's own state, such as batch statistics:

    inference    (parameters, x)           ↦  outputs
    training     (parameters, x, a key)    ↦  outputs, the state after the call
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.propagation import mean_field
from meanfield.trees import is_inside, named_leaves

# Arguments and settings that switch between the modes, with their value in training.
MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "inference": False,
    "deterministic": False,
    "use_running_average": False,
}


@dataclasses.dataclass(frozen=True)
class Training:
    """A network in training mode.

    Attributes:
        apply: ``apply(params, x, key)``, the outputs for a batch, and by path name the
            state after the call.
        moving: path names of the state.
    """

    apply: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]
    moving: tuple[str, ...] = ()

    def __call__(self, params: Any, x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """The results of `apply`, without the state that is held fixed."""
        outputs, state = self.apply(params, x, key)
        return outputs, {name: state[name] for name in self.moving}

    def holding(self, names: Collection[str]) -> "Training":
        """The same network, in which the state of these names does not change."""
        moving = tuple(name for name in self.moving if name not in names)
        return dataclasses.replace(self, moving=moving)


@dataclasses.dataclass(frozen=True)
class Modes:
    """The function of a pair ``(apply_fn, params)``, for a network with two modes.

    Args:
        infer: ``infer(params, x)``, the outputs for a batch in inference mode.
        train: ``train(params, x, key)``, the outputs in training mode, and a tree with
            the state after the call, at the paths that it has in the parameters.
        state: path names of the state, or beginnings of them.

    Example:
        >>> import jax.numpy as jnp, meanfield as mf
        >>> def infer(params, x):
        ...     return (x - params["state"]["mean"]) @ params["weight"]
        >>> def train(params, x, key):
        ...     mean = 0.9 * params["state"]["mean"] + 0.1 * x.mean(0)
        ...     return (x - x.mean(0)) @ params["weight"], {"state": {"mean": mean}}
        >>> params = {"weight": jnp.ones((4, 2)), "state": {"mean": jnp.zeros(4)}}
        >>> modes = mf.ensemble.Modes(infer, train, state=("state",))
        >>> mf.Ensemble.from_model((modes, params)).state().keys()
        dict_keys(['state/mean'])
    """

    infer: Callable[[Any, Any], Any]
    train: Callable[[Any, Any, Any], tuple[Any, Any]]
    state: tuple[str, ...] = ()

    def __call__(self, params: Any, x: Any) -> Any:
        """Outputs for a batch in inference mode."""
        return self.infer(params, x)


def training_of(modes: Modes, params: Any) -> Training:
    """The network in training mode."""
    names = named_leaves(params)
    state = tuple(n for n in names if any(is_inside(n, s) for s in modes.state))
    return Training(_Named(modes.train), state)


@dataclasses.dataclass(frozen=True)
class _Named:
    """A function in training mode, whose state is a dictionary by path name."""

    train: Callable[[Any, Any, Any], tuple[Any, Any]]

    def __call__(self, params: Any, x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        outputs, state = self.train(params, x, key)
        return outputs, named_leaves(state)


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model, split into parameters and functions.

    Attributes:
        kind: "equinox", "nnx", "linen", "keras" or "function".
        params: its parameters, a tree; path names such as ``layers/0/weight``.
        apply_fn: ``apply_fn(params, x)``, the outputs for a batch in inference mode.
        rebuild: function from parameters to a model of the same kind, in inference
            mode.
        frozen: path names of the arrays that are not learned, such as statistics.
        training: the network in training mode, if it differs.
    """

    kind: str
    params: Any
    apply_fn: Callable[[Any, Any], Any]
    rebuild: Callable[[Any], Any]
    frozen: tuple[str, ...] = ()
    training: Training | None = None


def mode_arguments(
    call: Callable[..., Any], training: bool, key: Any = None
) -> dict[str, Any]:
    """Keyword arguments that set the mode of a call, as far as its signature has them.

    Args:
        call: a function, or a method.
        training: whether the mode is training.
        key: a `jax.random.key`, passed in training, and in inference if the call
            requires one.

    Example:
        >>> from meanfield.ensemble.opened import mode_arguments
        >>> mode_arguments(lambda x, train=False: x, training=True)
        {'train': True}
    """
    found: dict[str, Any] = {}
    for name, parameter in _parameters(call).items():
        required = parameter.default is parameter.empty
        if name in MODES and (required or isinstance(parameter.default, bool)):
            found[name] = MODES[name] == training
        if name == "key" and (required or training):
            found[name] = key
    return found


def has_modes(call: Callable[..., Any]) -> bool:
    """Whether the signature of a call has an argument that sets the mode."""
    return bool(mode_arguments(call, training=False).keys() & MODES.keys())


def _parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):  # Some compiled functions have no signature.
        return {}


def check_training(params: Any, training: Training | None, x: Any) -> None:
    """Raise if a call in training mode changes the shape or type of the state.

    Args:
        params: parameters; random leaves are `SpikeSlab`s.
        training: the network in training mode, or None.
        x: a batch, or its shape.

    Raises:
        ValueError: the call changes a shape or type; or the network's own error.
    """
    if training is None:
        return
    leaves, key = named_leaves(params), jax.random.key(0)
    before = {
        name: jax.eval_shape(jnp.asarray, leaves[name]) for name in training.moving
    }
    trained = mean_field(training)
    arrays, others = eqx.partition(params, eqx.is_array)

    def state(arrays: Any, x: Any) -> Any:
        params = eqx.combine(arrays, others)
        return trained(params, x, key, key=key)[1]

    after = jax.eval_shape(state, arrays, x)
    changed = {
        name: f"{before[name].dtype}{list(before[name].shape)} to "
        f"{after[name].dtype}{list(after[name].shape)}"
        for name in before
        if (before[name].shape, before[name].dtype)
        != (after[name].shape, after[name].dtype)
    }
    require(
        not changed,
        "`model` must keep the shapes and types of its state when it is called in "
        f"training mode; got changes of {changed}. Give the state its final shape when "
        "the model is made, or keep growing arrays out of the model.",
    )
