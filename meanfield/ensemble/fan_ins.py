"""Fan-ins of weights: from their shapes, from the layers, or from the program."""

import math
import sys
from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.propagation import count_summands
from meanfield.propagation.noise_kinds import Noise
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named, named_leaves

from .opened import OpenedModel

LAYOUTS = ("auto", "out_in", "in_out")
# Names of the projections of Flax's attention.
_PROJECTIONS = ("query", "key", "value")


def fan_in(name: str, shape: tuple[int, ...], layout: str = "auto") -> int:
    """Fan-in of a weight tensor: the number of inputs of one output unit.

    Args:
        name: path of the tensor. With the layout ``auto``, a tensor whose last name is
            "kernel" (Flax, Keras) has layout ``in_out``, any other ``out_in``.
        shape: its shape, two or more dimensions.
        layout: ``out_in`` for (out, in, *window), as in Equinox and PyTorch;
            ``in_out`` for (*window, in, out), as in Flax, Keras and TensorFlow.

    Raises:
        ValueError: fewer than two dimensions, or an unknown layout.
    """
    require(layout in LAYOUTS, f"`layout` must be one of {LAYOUTS}; got {layout!r}.")
    require(
        len(shape) >= 2,
        f"`shape` must have two or more dimensions; got {shape} for {name!r}. Biases "
        "and norm scales have no fan-in.",
    )
    if layout == "auto":
        layout = "in_out" if name.endswith("kernel") else "out_in"
    inputs = shape[1:] if layout == "out_in" else shape[:-1]
    return int(np.prod(inputs))


def input_axes(model: Any, inputs_last: bool) -> dict[str, int]:
    """The axis of input units of every matrix and kernel that has one.

    A look-up and a grouped convolution have none.

    Args:
        model: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer.
    """
    found = {}
    for name, array in named_leaves(model).items():
        last = name.split("/")[-1]
        if (
            eqx.is_array(array)
            and array.ndim >= 2
            and last not in ("embedding", "bias")
        ):
            if array.ndim == 2:
                found[name] = 1 if inputs_last else 0
            elif not inputs_last:
                found[name] = array.ndim - 2
    known = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding)
    layers = named_leaves(model, is_leaf=lambda node: isinstance(node, known))
    for path, layer in layers.items():
        name = f"{path}/weight" if path else "weight"
        if isinstance(layer, eqx.nn.Embedding):
            found.pop(name, None)
        elif isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
            found.pop(name, None)
            if layer.groups == 1:
                found[name] = 1
    return found


def model_fan_ins(model: Any, opened: OpenedModel) -> dict[str, int | float]:
    """Fan-ins by path name, as far as types, names and shapes determine them."""
    fans = fan_ins(opened.params, opened.kind == "equinox")
    if opened.kind == "nnx":
        fans |= nnx_fan_ins(sys.modules["flax.nnx"], model)
    return fans


def fan_ins(params: Any, inputs_last: bool) -> dict[str, int | float]:
    """Number of summands in one output of every array of two or more dimensions.

    Equinox layers are recognised by type, the projections of Flax's attention by name.
    Elsewhere the layout decides: Equinox puts the inputs last, Flax and ``x @ w`` put
    the outputs last. A looked-up row is not summed, and a bias has no fan-in. For
    layers stacked for a scan and contractions over several axes the layout is not
    enough; pass an example to `Ensemble.from_model`, and their fan-in is found from the
    program.

    Args:
        params: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer.
    """
    found: dict[str, int | float] = {}
    for name, array in named_leaves(params).items():
        if not eqx.is_array(array) or array.ndim < 2 or is_bias(name):
            continue
        layer, _, kind = name.rpartition("/")
        if kind == "embedding":
            found[name] = 1
        elif array.ndim == 3 and layer.rpartition("/")[2] in _PROJECTIONS:
            found[name] = array.shape[0]
        elif inputs_last:
            found[name] = array.shape[-1]
        else:
            found[name] = math.prod(array.shape[:-1])
    known = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding)
    layers = named_leaves(params, is_leaf=lambda node: isinstance(node, known))
    for name, layer in layers.items():
        weight = f"{name}/weight" if name else "weight"
        if isinstance(layer, eqx.nn.Embedding):
            found[weight] = 1
        elif isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
            inner = math.prod(layer.weight.shape[-layer.num_spatial_dims - 1 :])
            up = isinstance(layer, eqx.nn.ConvTranspose)
            found[weight] = max(inner / math.prod(layer.stride), 1) if up else inner
    return found


def is_bias(name: str) -> bool:
    """Whether a path name is that of a bias, which has no fan-in."""
    return name.rpartition("/")[2] in ("bias", "b")


def nnx_fan_ins(nnx: Any, model: Any) -> dict[str, int | float]:
    """`fan_ins` for a Flax NNX module, whose layers store their sizes."""
    found: dict[str, int | float] = {}
    # A function in newer versions of Flax, a method in older ones.
    walk = getattr(nnx, "iter_modules", lambda model: model.iter_modules())
    for path, layer in walk(model):
        name = "/".join(map(str, (*path, "kernel")))
        if isinstance(layer, nnx.LinearGeneral):
            features = layer.in_features
            found[name] = (
                math.prod(features) if isinstance(features, tuple) else features
            )
        elif isinstance(layer, nnx.Linear):
            found[name] = layer.in_features
        elif isinstance(layer, nnx.Conv):
            found[name] = math.prod(layer.kernel_shape[:-1])
        elif isinstance(layer, nnx.ConvTranspose):
            strides: Any = layer.strides or 1
            if isinstance(strides, int):
                strides = [strides] * len(layer.kernel_size)
            inner = math.prod(layer.kernel_shape[:-1])
            found[name] = max(inner / math.prod(strides), 1)
    return found


def fan_ins_by_example(
    apply_fn: Callable[..., Any],
    params: Any,
    chosen: Collection[str],
    example: Any,
    noise: Noise = "preactivations",
) -> dict[str, int | float]:
    """Fan-ins from the program: the length of the longest sum that each array enters.

    No fan-in is found for arrays that are drawn once per call (see `mean_field`): their
    sums are not counted.

    Args:
        apply_fn: ``apply_fn(params, x)``.
        params: a tree of parameters.
        chosen: path names of the arrays in question.
        example: a batch, or its shape.
        noise: as for `mean_field`.
    """
    random = map_named(
        lambda name, leaf: (
            SpikeSlab(jnp.zeros_like(leaf), leaf, jnp.ones_like(leaf))
            if name in chosen
            else leaf
        ),
        params,
    )
    found = count_summands(apply_fn, random, example, noise=noise)
    if "" in chosen:  # The parameters are one array, which errors call `params`.
        found = {"": found["params"]} if found else {}
    return {name: max(sizes) for name, sizes in found.items() if not is_bias(name)}
