"""Rewrite a graph with fewer and simpler nodes, so that it runs faster.

A function of one example that is batched by `jax.vmap` has transposed products, axes of
length one and explicit broadcasts. They are removed here, so that a dense layer is one
node.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import Body, Graph, Node, Value, needed
from .inputs import ONE
from .vocabulary import ELEMENTWISE


def simplify(graph: Graph) -> Graph:
    """The same network with merged nodes.

    Its `arrays` are those that the nodes read: ``layers/0/weight.T`` is a transpose.
    """
    rewriter = _Rewriter(graph)
    nodes = rewriter.rewrite(graph.dynamic_nodes())
    outputs = tuple(map(rewriter.now, graph.outputs))
    nodes = needed(nodes, set(outputs))
    return dataclasses.replace(
        graph,
        arrays=rewriter.named(),
        nodes=nodes,
        outputs=outputs,
        constants=rewriter.constants,
    )


def select_inputs(graph: Graph, kept: dict[int, np.ndarray], shape: Any) -> Graph:
    """A graph that takes whole inputs and selects the entries that are read.

    Args:
        graph: a network that reads some entries of its inputs.
        kept: for each axis of one example, the indices it reads.
        shape: sizes of one whole example.
    """
    value = Value(("batch", *shape), graph.input.dtype)
    whole, nodes, constants = value, [], dict(graph.constants)
    for place, (axis, indices) in enumerate(kept.items()):
        sizes = list(value.shape)
        sizes[axis + 1] = len(indices)
        last = place == len(kept) - 1
        picked = graph.input if last else Value(tuple(sizes), value.dtype)
        which = Value((len(indices),), np.dtype(np.int64))
        constants[which] = np.asarray(indices, np.int64)
        settings = {"axis": axis + 1}
        nodes.append(Node("pick", (value, which), (picked,), settings))
        value = picked
    if not kept:
        return graph
    return dataclasses.replace(
        graph, inputs={ONE: whole}, nodes=(*nodes, *graph.nodes), constants=constants
    )


class _Rewriter:
    """Rewrites nodes in order; stores for each value its replacement and its node."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.constants = dict(graph.constants)
        # The source of each new constant, and the suffix of its name.
        self.source: dict[Value, tuple[Value, str]] = {}
        self.became: dict[Value, Value] = {}
        self.maker: dict[Value, Node] = {}
        self.nodes: list[Node] = []

    def now(self, value: Value) -> Value:
        return self.became.get(value, value)

    def rewrite(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        outer, self.nodes = self.nodes, []
        for node in nodes:
            inputs = tuple(map(self.now, node.inputs))
            node = dataclasses.replace(node, inputs=inputs)
            rule = _RULES.get(node.op)
            if node.body is not None:
                self.loop(node)
            elif node.eqn is not None or rule is None:
                self.emit(self.unrepeated(node))
            else:
                rule(self, node)
        done, self.nodes = tuple(self.nodes), outer
        return done

    def loop(self, node: Node) -> None:
        inner = [n for n in node.loop.nodes if not self.is_known(n)]
        nodes = self.rewrite(inner)
        outputs = tuple(map(self.now, node.loop.outputs))
        body = Body(node.loop.inputs, needed(nodes, set(outputs)), outputs)
        self.emit(dataclasses.replace(node, body=body))

    def is_known(self, node: Node) -> bool:
        return all(value in self.constants for value in node.outputs)

    def emit(self, node: Node) -> None:
        self.nodes.append(node)
        self.maker.update(dict.fromkeys(node.outputs, node))

    def make(
        self,
        op: str,
        inputs: Sequence[Value],
        shape: Sequence[Any],
        settings: dict[str, Any] | None = None,
    ) -> Value:
        value = Value(tuple(shape), inputs[0].dtype)
        self.emit(Node(op, tuple(inputs), (value,), settings or {}))
        return value

    def constant(self, array: np.ndarray, source: Value, suffix: str = "") -> Value:
        value = Value(array.shape, array.dtype)
        self.constants[value] = array
        self.source[value] = (source, suffix)
        return value

    def named(self) -> dict[str, Value]:
        """The network's arrays, in the shapes in which nodes now read them."""
        paths = {value: path for path, value in self.graph.arrays.items()}
        for node in self.graph.nodes:
            if node.op in ("reshape", "squeeze", "broadcast") and node.eqn is None:
                (before,), (after,) = node.inputs, node.outputs
                known = after in self.constants and before in paths
                if known and math.prod(before.shape) == math.prod(after.shape):
                    paths[after] = paths[before]
        for value, (source, suffix) in self.source.items():
            if source in paths:
                paths[value] = paths[source] + suffix
        return {path: value for value, path in paths.items()}

    def made_by(self, value: Value, op: str) -> Node | None:
        node = self.maker.get(value)
        return node if node is not None and node.op == op else None

    def unrepeated(self, node: Node) -> Node:
        """Remove explicit broadcasts, which elementwise operations do not need."""
        if node.op not in ELEMENTWISE:
            return node
        shape, inputs = node.outputs[0].shape, list(node.inputs)
        for place, value in enumerate(inputs):
            repeat = self.made_by(value, "broadcast")
            if repeat is None:
                continue
            (source,), axes = repeat.inputs, repeat.settings["axes"]
            sizes: list[Any] = [1] * len(shape)
            for size, axis in zip(source.shape, axes, strict=True):
                sizes[axis] = size
            others = [v.shape for i, v in enumerate(inputs) if i != place]
            if _repeat([sizes, *others]) == tuple(shape) and -1 not in sizes:
                inputs[place] = self.reshaped(source, sizes)
        return dataclasses.replace(node, inputs=tuple(inputs))

    def reshaped(self, value: Value, shape: Sequence[Any]) -> Value:
        if value in self.constants:
            return self.constant(self.constants[value].reshape(shape), value)
        before = self.made_by(value, "reshape")
        if before is not None:
            (value,) = before.inputs
        if tuple(shape) == value.shape and -1 not in shape:
            return value
        return self.make("reshape", (value,), shape, {"shape": list(shape)})

    def transposed(self, value: Value, axes: Sequence[int]) -> Value:
        before = self.made_by(value, "transpose")
        if before is not None:
            (value,), first = before.inputs, before.settings["axes"]
            axes = [first[axis] for axis in axes]
        if list(axes) == sorted(axes):
            return value
        shape = [value.shape[axis] for axis in axes]
        return self.make("transpose", (value,), shape, {"axes": list(axes)})


def _repeat(shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...] | None:
    """The broadcast shape of arrays by NumPy's rule; None if it is not known."""
    rank = max(map(len, shapes))
    filled = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    sizes = []
    for column in zip(*filled, strict=True):
        larger = {size for size in column if size != 1}
        if len(larger) > 1 or -1 in larger:
            return None
        sizes.append(larger.pop() if larger else 1)
    return tuple(sizes)


def _dot(rewriter: _Rewriter, node: Node) -> None:
    """A product with a known matrix becomes x @ W, transposed back if needed."""
    setting = node.settings
    known = [value in rewriter.constants for value in node.inputs]
    if sum(known) != 1 or setting["batch"][0]:
        return rewriter.emit(node)
    side = known.index(True)
    matrix, signal = node.inputs[side], node.inputs[1 - side]
    axes, along = setting["contract"][side], setting["contract"][1 - side]
    last = len(signal.shape) - 1
    if len(matrix.shape) != 2 or axes not in ([0], [1]) or along != [last] or not last:
        return rewriter.emit(node)
    array = rewriter.constants[matrix]
    turned = axes != [0]
    weight = rewriter.constant(array.T, matrix, ".T") if turned else matrix
    (out,) = node.outputs
    shape = (*signal.shape[:-1], weight.shape[1])
    product = rewriter.make("matmul", (signal, weight), shape)
    if side == 0:
        product = rewriter.transposed(product, [last, *range(last)])
    rewriter.became[out] = product
    return None


def _transpose(rewriter: _Rewriter, node: Node) -> None:
    axes = node.settings["axes"]
    rewriter.became[node.outputs[0]] = rewriter.transposed(node.inputs[0], axes)


def _reshape(rewriter: _Rewriter, node: Node) -> None:
    (out,) = node.outputs
    if sum(not isinstance(size, int) for size in out.shape) > 1:
        return rewriter.emit(node)
    rewriter.became[out] = rewriter.reshaped(node.inputs[0], out.shape)
    return None


def _broadcast(rewriter: _Rewriter, node: Node) -> None:
    """A broadcast that only adds axes of length one is a reshape."""
    (value,), (out,) = node.inputs, node.outputs
    if [n for n in out.shape if n != 1] == [n for n in value.shape if n != 1]:
        return _reshape(rewriter, node)
    return rewriter.emit(node)


def _split(rewriter: _Rewriter, node: Node) -> None:
    """Split before transposing, so that a transpose cancels with its inverse."""
    turn = rewriter.made_by(node.inputs[0], "transpose")
    if turn is None:
        return rewriter.emit(node)
    axes, setting = turn.settings["axes"], node.settings
    (source,), axis = turn.inputs, axes[setting["axis"]]
    pieces = []
    for size, out in zip(setting["sizes"], node.outputs, strict=True):
        shape = list(source.shape)
        shape[axis] = size
        pieces.append(Value(tuple(shape), out.dtype))
    settings = {"axis": axis, "sizes": setting["sizes"]}
    rewriter.emit(Node("split", (source,), tuple(pieces), settings))
    for piece, out in zip(pieces, node.outputs, strict=True):
        rewriter.became[out] = rewriter.transposed(piece, axes)
    return None


def _add(rewriter: _Rewriter, node: Node) -> None:
    """Merge x @ W + b into one node."""
    for product, bias in (node.inputs, node.inputs[::-1]):
        dense = rewriter.made_by(product, "matmul")
        if dense is None or bias not in rewriter.constants:
            continue
        width = product.shape[-1]
        one_row = bias.shape[-1:] == (width,) and all(n == 1 for n in bias.shape[:-1])
        if one_row and len(bias.shape) <= len(product.shape):
            row = rewriter.constant(rewriter.constants[bias].reshape(width), bias)
            out = node.outputs[0]
            rewriter.became[out] = rewriter.make(
                "linear", (*dense.inputs, row), out.shape
            )
            return
    rewriter.emit(rewriter.unrepeated(node))


_RULES = {
    "dot": _dot,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast": _broadcast,
    "split": _split,
    "add": _add,
}
