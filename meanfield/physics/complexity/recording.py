"""Pre-activations of every layer of an Equinox network, in the order of evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from meanfield.checks import require
from meanfield.trees import path_name

# A function from a network and examples to {layer name: pre-activations}.
Recorder = Callable[[Any, Any], Mapping[str, Any]]
# These layers have an array of two dimensions, but no weighted sums as outputs.
_NOT_LAYERS = (eqx.nn.Embedding, eqx.nn.LayerNorm, eqx.nn.RMSNorm)


def layer_activations(
    model: Any, x: Any, *, batch_size: int = 1000
) -> dict[str, Float[np.ndarray, "examples units ..."]]:
    """Record the pre-activations of a network on a batch of examples.

    A layer is a module with a `weight` of two or more dimensions (Linear, Conv, …, or
    your own; not Embedding or a norm); its output is recorded. A layer that is used
    twice has a second entry, ``name#2``.

    Args:
        model: an Equinox module that acts on one example and needs nothing else
            (apply `eqx.nn.inference_mode` to a model with dropout).
        x: inputs of the model, with examples along the first axis.
        batch_size: examples to evaluate at once.

    Returns:
        Layer name -> array (examples, units) or (examples, channels, positions …), in
        forward order. For any other network write a function that returns such a dict.

    Raises:
        TypeError: `model` is not an Equinox module.
        ValueError: the model has no such layer or uses none of them, a layer is called
            inside `scan`, `vmap` or another transformation, or `x` has no examples.

    Example:
        >>> import equinox as eqx, jax
        >>> from meanfield.physics.complexity.recording import layer_activations
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> z = layer_activations(net, jax.random.normal(jax.random.key(1), (5, 4)))
        >>> {name: values.shape for name, values in z.items()}
        {'layers/0': (5, 8), 'layers/1': (5, 3)}

    References:
        Janik & Witaszczyk 2020, arXiv:2006.04791 (complexity from pre-activations).
    """
    if not isinstance(model, eqx.Module):
        raise TypeError(
            f"`model` must be an Equinox module; got {type(model).__name__}. For "
            "another network pass a function that returns {layer name: "
            "pre-activations}."
        )
    require(
        any(_is_layer(node) for node in jax.tree.leaves(model, is_leaf=_is_layer)),
        "`model` must have a layer with a `weight` of two or more dimensions; got a "
        "model without. Pass a function that returns {layer name: pre-activations}.",
    )
    x = jnp.asarray(x)
    require(
        x.ndim > 0 and len(x) > 0 and batch_size > 0,
        f"`x` must hold examples and `batch_size` be positive; got shape {x.shape} and "
        f"{batch_size}.",
    )
    try:
        batches = [
            {name: np.asarray(values) for name, values in _record(model, part)}
            for part in (
                x[start : start + batch_size] for start in range(0, len(x), batch_size)
            )
        ]
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(
            "`model` must call its layers outside of scan, vmap and other "
            "transformations, where their outputs cannot be recorded. Pass a function "
            "that returns {layer name: pre-activations}."
        ) from error
    require(
        bool(batches[0]),
        "`model` must call one of its layers; got a model that calls none. Pass a "
        "function that returns {layer name: pre-activations}.",
    )
    return {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }


class _Tape:
    """Outputs by layer name. No two tapes are equal, so JAX traces each one anew."""

    def __init__(self):
        self.outputs: dict[str, Array] = {}

    def add(self, name: str, output: Array) -> None:
        """Store an output under its name, or under the next unused name."""
        times = sum(known.split("#")[0] == name for known in self.outputs)
        self.outputs[f"{name}#{times + 1}" if times else name] = output


class _Recorded(eqx.Module):
    """A layer that records its outputs and otherwise behaves like the original."""

    layer: Any
    layer_name: str = eqx.field(static=True)
    tape: _Tape = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.layer(*args, **kwargs)
        self.tape.add(self.layer_name, output)
        return output

    def __getattr__(self, name: str) -> Any:
        if name == "layer":  # `layer` is not set yet
            raise AttributeError(name)
        return getattr(self.layer, name)


def _is_layer(node: Any) -> bool:
    if not isinstance(node, eqx.Module) or isinstance(node, _NOT_LAYERS):
        return False
    weight = getattr(node, "weight", None)
    return weight is not None and eqx.is_inexact_array(weight) and weight.ndim >= 2


@eqx.filter_jit
def _record(model: Any, x: Array) -> list[tuple[str, Array]]:
    """Names and outputs, as a list because JAX would sort a dictionary."""

    def outputs(example: Array) -> list[tuple[str, Array]]:
        tape = _Tape()

        def wrap(path: Any, node: Any) -> Any:
            name = path_name(path) or "model"
            return _Recorded(node, name, tape) if _is_layer(node) else node

        jax.tree_util.tree_map_with_path(wrap, model, is_leaf=_is_layer)(example)
        return list(tape.outputs.items())

    return eqx.filter_vmap(outputs)(x)
