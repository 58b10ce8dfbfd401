"""Convolution and pooling as ONNX nodes, which need channels before space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from meanfield.deploy.graph.graph import Node

from .onnx_emitter import Emitter, UnwritableError


def turn(emitter: Emitter, name: str, axes: Sequence[int], output: str = "") -> str:
    """Transpose, unless the axes are already in order."""
    if list(axes) == sorted(axes):
        return emitter.emit("Identity", [name], output) if output else name
    return emitter.emit("Transpose", [name], output, perm=list(axes))


def write_conv(
    emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
) -> None:
    """Write Conv, or ConvTranspose if the signal is dilated with zeros."""
    signal = turn(emitter, names[0], s["layout"][0])
    kernel = emitter.known(node.inputs[1])
    settings: dict[str, Any] = {"dilations": s["dilation"], "group": s["groups"]}
    lows, highs = zip(*s["padding"], strict=True)
    if all(step == 1 for step in s["spread"]):
        op, settings["strides"] = "Conv", s["strides"]
        if kernel is None:
            weight = turn(emitter, names[1], s["layout"][1])
        else:
            weight = emitter.tensor(np.transpose(kernel, s["layout"][1]))
    else:
        # A convolution of a dilated signal is a transposed convolution with the
        # reversed kernel and exchanged channels.
        if kernel is None or s["groups"] > 1 or any(n != 1 for n in s["strides"]):
            raise UnwritableError("a transposed convolution of this kind")
        op, settings["strides"] = "ConvTranspose", s["spread"]
        kernel = np.swapaxes(np.transpose(kernel, s["layout"][1]), 0, 1)
        weight = emitter.tensor(np.flip(kernel, tuple(range(2, kernel.ndim))))
        spans = [
            d * (n - 1) for d, n in zip(s["dilation"], kernel.shape[2:], strict=True)
        ]
        lows = [span - low for span, low in zip(spans, lows, strict=True)]
        highs = [span - high for span, high in zip(spans, highs, strict=True)]
        if min(*lows, *highs) < 0:
            raise UnwritableError("a transposed convolution with this padding")
    y = emitter.emit(op, [signal, weight], pads=[*lows, *highs], **settings)
    turn(emitter, y, s["layout"][2], emitter.name(node.outputs[0]))


def write_pool(
    emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
) -> None:
    """Write pooling of the array as (N, 1, pooled axes); N merges all other axes."""
    rank = len(s["sizes"])
    space = [
        axis
        for axis in range(rank)
        if s["sizes"][axis] != 1 or s["strides"][axis] != 1 or any(s["padding"][axis])
    ]
    others = [axis for axis in range(rank) if axis not in space]
    out, shape = node.outputs[0], node.inputs[0].shape
    if not space:
        emitter.emit("Identity", names, emitter.name(out))
        return
    if not all(isinstance(shape[axis], int) for axis in space):
        raise UnwritableError("windows along the batch")
    x = turn(emitter, names[0], [*others, *space])
    x = emitter.emit("Reshape", [x, emitter.ints([-1, 1, *(shape[a] for a in space)])])
    lows, highs = zip(*(s["padding"][axis] for axis in space), strict=True)
    settings: dict[str, Any] = {
        "kernel_shape": [s["sizes"][axis] for axis in space],
        "strides": [s["strides"][axis] for axis in space],
        "pads": [*lows, *highs],
    }
    dilation = [s["dilation"][axis] for axis in space]
    if s["kind"] == "sum":
        if any(d != 1 for d in dilation):
            raise UnwritableError("sum or average pooling with dilation")
        y = emitter.emit("AveragePool", [x], count_include_pad=1, **settings)
        number = math.prod(settings["kernel_shape"])
        size = emitter.tensor(np.asarray(number, node.inputs[0].dtype))
        y = emitter.emit("Mul", [y, size])
    elif s["kind"] == "max":
        y = emitter.emit("MaxPool", [x], dilations=dilation, **settings)
    else:
        y = emitter.emit("Neg", [x])
        y = emitter.emit("MaxPool", [y], dilations=dilation, **settings)
        y = emitter.emit("Neg", [y])
    order = [*others, *space]
    y = emitter.emit("Reshape", [y, emitter.shape([out.shape[axis] for axis in order])])
    turn(emitter, y, np.argsort(order).tolist(), emitter.name(out))
