"""Read all inputs, or a slice of them, instead of gathering single entries.

    x[:, kept] @ W  =  x[:, low:high] @ W′,      W′[kept − low] = W, zeros elsewhere

A gather along the last axis moves single numbers. In ONNX Runtime on one core it takes
about 4 ns per entry, a slice 0.5 ns per entry, and a product 0.017 ns per weight. So
multiplying by many zeros is often faster than a gather, or even than a slice.
"""

import dataclasses
from typing import Any

import numpy as np

from .graph import Graph, Node, Value, reads_of
from .inputs import ONE

# Number of weights whose product takes as long as gathering one entry, and as copying
# one (measured with ONNX Runtime 1.2x, 256 examples, one core).
GATHERED, COPIED = 235, 29


def read_span(graph: Graph, kept: dict[int, np.ndarray], shape: Any) -> Graph | None:
    """The graph that reads a slice or all of the inputs, or None to keep a gather.

    Args:
        graph: a simplified network that takes only the entries that it reads.
        kept: for each axis of one example, the indices it reads.
        shape: sizes of one whole example.
    """
    if list(kept) != [len(shape) - 1]:
        return None
    (indices,) = kept.values()
    nodes = graph.dynamic_nodes()
    readers = [node for node in nodes if graph.input in reads_of(node)]
    if graph.input in graph.outputs or not all(_multiplies(graph, n) for n in readers):
        return None
    low, high = int(indices[0]), int(indices[-1]) + 1
    weights = {node.inputs[1] for node in readers}
    width = sum(weight.shape[1] for weight in weights)
    costs = {
        (0, shape[-1]): width * shape[-1],
        (low, high): (width + COPIED) * (high - low),
        None: (width + GATHERED) * len(indices),
    }
    span = min(costs, key=lambda one: costs[one])
    if span is None:
        return None
    low, high = span
    constants, became = dict(graph.constants), {}
    for weight in weights:
        array = graph.constants[weight]
        filled = np.zeros((high - low, array.shape[1]), array.dtype)
        filled[indices - low] = array
        became[weight] = Value(filled.shape, filled.dtype)
        constants[became[weight]] = filled
    whole = Value(("batch", *shape), graph.input.dtype)
    part, before = whole, ()
    if high - low < shape[-1]:
        part = Value(("batch", *shape[:-1], high - low), graph.input.dtype)
        rank = len(shape) + 1
        limits = {
            "start": [0] * (rank - 1) + [low],
            "stop": [2**31 - 1] * (rank - 1) + [high],
            "step": [1] * rank,
        }
        before = (Node("cut", (whole,), (part,), limits),)
    became[graph.input] = part
    changed = {node: _reading(node, became) for node in readers}
    return dataclasses.replace(
        graph,
        inputs={ONE: whole},
        nodes=(*before, *(changed.get(node, node) for node in graph.nodes)),
        constants=constants,
        arrays={name: became.get(v, v) for name, v in graph.arrays.items()},
    )


def _multiplies(graph: Graph, node: Node) -> bool:
    """Whether a node is the product of the input with a known matrix."""
    return (
        node.op in ("matmul", "linear")
        and node.inputs[0] is graph.input
        and node.inputs[1] in graph.constants
    )


def _reading(node: Node, became: dict[Value, Value]) -> Node:
    inputs = tuple(became.get(value, value) for value in node.inputs)
    return dataclasses.replace(node, inputs=inputs)
