"""Open a Keras model on the JAX backend, as a dictionary of its variables by path.

In training the model is called as ``model(x, training=True)``, which updates batch
statistics and draws masks by the key of the run; else as ``model(x, training=False)``.
The variables of a layer with `trainable` False do not change.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.checks import require

from .opened import OpenedModel, Training, mode_arguments


class _Keras(eqx.Module):
    """A Keras model as a function of its variables' values.

    Attributes:
        model: the model, whose own values are never changed.
        names: paths of its variables.
        call: ``call(model, x)``.
    """

    model: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    call: Callable[..., Any] = eqx.field(static=True)

    def apply(self, params: Mapping[str, Any], x: Any) -> Any:
        """Outputs for a batch in inference mode."""
        with self._scope(params):
            return self.call(self.model, x, **mode_arguments(self.call, False))

    def train(
        self, params: Mapping[str, Any], x: Any, key: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Outputs for a batch in training mode, and all variables after the call."""
        own, key = jax.random.split(key)
        seeds = _seeds(self.model)
        keys = jax.random.split(key, len(seeds))
        drawn = [
            (seed, jax.random.bits(one, seed.shape, "uint32").astype(seed.dtype))
            for seed, one in zip(seeds, keys, strict=True)
        ]
        with self._scope(params, drawn) as scope:
            given = mode_arguments(self.call, True, own)
            outputs = self.call(self.model, x, **given)
            after = [scope.get_current_value(v) for v in _numbers(self.model)]
        named = zip(self.names, after, strict=True)
        return outputs, {n: params[n] if v is None else v for n, v in named}

    def _scope(self, params: Mapping[str, Any], seeds: Sequence[Any] = ()) -> Any:
        values = [params[name] for name in self.names]
        mapping = [*zip(_numbers(self.model), values, strict=True), *seeds]
        return sys.modules["keras"].StatelessScope(state_mapping=mapping)

    def rebuild(self, params: Mapping[str, Any]) -> Any:
        """A new model with these values."""
        copy = sys.modules["keras"].models.clone_model(self.model)
        if len(_numbers(copy)) != len(
            self.names
        ):  # A copy of a subclassed model is not built yet.
            copy.build_from_config(self.model.get_build_config())
        for variable, name in zip(_numbers(copy), self.names, strict=True):
            variable.assign(params[name])
        return copy


def _numbers(model: Any) -> list[Any]:
    """The variables of a model, without the seeds of random layers."""
    return [v for v in model.variables if jnp.issubdtype(v.value.dtype, jnp.inexact)]


def _seeds(model: Any) -> list[Any]:
    """The states of the random layers of a model."""
    return [v for v in model.variables if v.dtype == "uint32"]


def _call_itself(model: Any, x: Any, training: bool) -> Any:
    return model(x, training=training)


def open_keras(model: Any, call: Callable[..., Any] | None) -> OpenedModel:
    """Take a Keras model apart.

    Args:
        model: a `keras.Model` that is built.
        call: ``call(model, x)`` or ``call(model, x, training)``, or None for
            ``model(x, training=training)``.

    Raises:
        ValueError: Keras has another backend, or the model is not built.
    """
    backend = sys.modules["keras"].config.backend()
    require(
        backend == "jax",
        f"`model` of Keras must run on JAX; its backend is {backend}. Set the "
        "environment variable KERAS_BACKEND=jax before Keras is imported.",
    )
    require(
        model.built and bool(_numbers(model)),
        "`model` of Keras must be built, so that it has its weights. Call it once on a "
        "batch, or begin it with keras.Input.",
    )
    variables = _numbers(model)
    names = tuple(variable.path for variable in variables)
    require(
        len(set(names)) == len(names),
        "`model` of Keras must have a different path for each variable; got "
        f"{sorted({name for name in names if names.count(name) > 1})} several times. "
        "Give its layers names of their own.",
    )
    learned = {variable.path for variable in model.trainable_variables}
    params = {
        name: jnp.asarray(variable.value)
        for name, variable in zip(names, variables, strict=True)
    }
    frozen = tuple(name for name in names if name not in learned)
    network = _Keras(model, names, call or _call_itself)
    training = Training(network.train, frozen) if frozen or _seeds(model) else None
    return OpenedModel(
        "keras", params, network.apply, network.rebuild, frozen, training
    )
