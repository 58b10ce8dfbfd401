"""How each operation ties the positions of what it reads and writes.

An operation without a rule holds all its units in place: never wrong, at worst too
careful.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from meanfield.deploy.graph.graph import Graph, Node, Value
from meanfield.deploy.graph.vocabulary import ELEMENTWISE

from .positions import Labels, Link, Units


def find_units(
    graph: Graph, shapes: Mapping[Value, tuple[int, ...]], rigid: bool = False
) -> Units:
    """The units of a graph, and the links between them.

    Args:
        graph: the network.
        shapes: the sizes of every value for a batch of one.
        rigid: whether sizes that the network's own code may have fixed (created
            axes, cuts) hold their units in place.
    """
    units = Units(graph, shapes, rigid)
    _visit(units, graph.nodes)
    for value in graph.outputs:
        units.pinned += units.of(value)
    return units


def _visit(units: Units, nodes: Sequence[Node]) -> None:
    """Label the results of nodes in order."""
    for node in nodes:
        if node.body is not None:
            _scan(units, node)
        elif node.eqn is None and node.op in ELEMENTWISE:
            _elementwise(units, node)
        elif node.eqn is None and node.op in _RULES:
            _RULES[node.op](units, node)
        else:
            for value in (*node.inputs, *node.outputs):
                for labels in units.of(value):
                    units.fix(labels)


def _elementwise(units: Units, node: Node) -> None:
    (out,) = node.outputs
    shape, results = units.shapes[out], []
    for axis, size in enumerate(shape):
        alike = [
            units.of(value)[axis]
            for value in node.inputs
            if len(value.shape) == len(shape) and units.shapes[value][axis] == size
        ]
        for labels in alike[1:]:
            units.tie(alike[0], labels)
        results.append(alike[0])
    units.labels[out] = tuple(results)
    for value in node.inputs:
        for axis, labels in enumerate(results):
            rank, sizes = len(value.shape), units.shapes[value]
            if rank != len(shape) or sizes[axis] != shape[axis]:
                units.drive(value, [labels])


def _broadcast(units: Units, node: Node) -> None:
    (value,), (out,), axes = node.inputs, node.outputs, node.settings["axes"]
    shape = units.shapes[out]
    results = [np.zeros(n, np.int64) if units.rigid else units.fresh(n) for n in shape]
    units.drive(value, results)
    for labels, axis in zip(units.of(value), axes, strict=True):
        if len(labels) == shape[axis]:
            results[axis] = labels
    units.labels[out] = tuple(results)


def _reshape(units: Units, node: Node) -> None:
    """Axes are merged or split; a unit survives if its positions stay together."""
    (value,), (out,) = node.inputs, node.outputs
    before, after = units.shapes[value], units.shapes[out]
    labels, results = units.of(value), []
    for ours, theirs in _blocks(before, after):
        # An axis of one entry tells no units apart, unless there is no other axis.
        long = [i for i in ours if before[i] > 1] or ours
        free = [i for i in long if units.roots(labels[i]).any()]
        for i in free[1:]:
            units.fix(labels[i])
        merged = np.zeros([before[i] for i in ours], np.int64)
        for place, i in enumerate(ours):
            if i in free[:1]:
                shape = [1] * len(ours)
                shape[place] = -1
                merged = merged + labels[i].reshape(shape)
        sizes = [after[j] for j in theirs]
        results += _split_labels(units, merged.reshape(sizes), sizes)
    units.labels[out] = tuple(results)


def _split_labels(
    units: Units, labels: np.ndarray, sizes: Sequence[int]
) -> list[np.ndarray]:
    """Labels of each axis of a block, if one axis alone tells the units apart."""
    results = [np.zeros(size, np.int64) for size in sizes]
    if not units.roots(labels.ravel()).any():
        return results
    for axis in range(len(sizes)):
        rows = np.moveaxis(labels, axis, 0).reshape(sizes[axis], -1)
        if (rows == rows[:, :1]).all():
            results[axis] = rows[:, 0]
            return results
    units.fix(labels.ravel())
    return results


def _blocks(
    before: Sequence[int], after: Sequence[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products on both sides of a reshape."""
    i = j = 0
    while i < len(before) or j < len(after):
        ours, theirs = [i][: len(before) - i], [j][: len(after) - j]
        i, j = i + len(ours), j + len(theirs)
        while (left := _product(before, ours)) != (right := _product(after, theirs)):
            if left < right:
                ours.append(i)
                i += 1
            else:
                theirs.append(j)
                j += 1
        yield ours, theirs


def _product(sizes: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def _rearranged(change: Callable[[Labels, dict], Sequence]) -> Callable:
    def rule(units: Units, node: Node) -> None:
        labels = units.of(node.inputs[0])
        units.labels[node.outputs[0]] = tuple(change(labels, node.settings))

    return rule


def _cut(units: Units, node: Node) -> None:
    (value,), (out,), results = node.inputs, node.outputs, []
    setting = node.settings
    bounds = zip(setting["start"], setting["stop"], setting["step"], strict=True)
    for labels, bound in zip(units.of(value), bounds, strict=True):
        piece = labels[slice(*bound)]
        if units.rigid and len(piece) < len(labels):
            units.fix(labels)
        results.append(piece)
    units.labels[out] = tuple(results)


def _split(units: Units, node: Node) -> None:
    labels, axis = list(units.of(node.inputs[0])), node.settings["axis"]
    sizes = node.settings["sizes"]
    if units.rigid:
        units.fix(labels[axis])
    elif len(set(sizes)) == 1:
        # Equal parts, as of gates, are cut by their number: they stay equal.
        pieces = np.split(labels[axis], len(sizes))
        for piece in pieces[1:]:
            units.tie(pieces[0], piece)
    ends = np.cumsum(sizes)
    for out, end, size in zip(node.outputs, ends, sizes, strict=True):
        labels_out = list(labels)
        labels_out[axis] = labels[axis][end - size : end]
        units.labels[out] = tuple(labels_out)


def _concatenate(units: Units, node: Node) -> None:
    axis, parts = node.settings["axis"], [units.of(v) for v in node.inputs]
    results = list(parts[0])
    for part in parts[1:]:
        for i, labels in enumerate(part):
            if i != axis:
                units.tie(results[i], labels)
    results[axis] = np.concatenate([part[axis] for part in parts])
    units.labels[node.outputs[0]] = tuple(results)


def _stack(units: Units, node: Node) -> None:
    axis, parts = node.settings["axis"], [units.of(v) for v in node.inputs]
    for part in parts[1:]:
        for one, other in zip(parts[0], part, strict=True):
            units.tie(one, other)
    results = list(parts[0])
    results.insert(axis, np.zeros(len(parts), np.int64))
    units.labels[node.outputs[0]] = tuple(results)


def _unstack(units: Units, node: Node) -> None:
    labels, axis = list(units.of(node.inputs[0])), node.settings["axis"]
    units.fix(labels.pop(axis))
    for out in node.outputs:
        units.labels[out] = tuple(labels)


def _pad(units: Units, node: Node) -> None:
    results = []
    for labels, (low, high) in zip(
        units.of(node.inputs[0]), node.settings["widths"], strict=True
    ):
        if low or high:
            units.fix(labels)
            labels = np.zeros(low + len(labels) + high, np.int64)
        results.append(labels)
    units.labels[node.outputs[0]] = tuple(results)


def _reduce(units: Units, node: Node) -> None:
    setting = node.settings
    axes = setting["axes"] if "axes" in setting else [setting["axis"]]
    labels = units.of(node.inputs[0])
    for axis in axes:
        units.fix(labels[axis])
    kept = [one for axis, one in enumerate(labels) if axis not in axes]
    units.labels[node.outputs[0]] = tuple(kept)


def _pool(units: Units, node: Node) -> None:
    results, setting = [], node.settings
    sizes = units.shapes[node.outputs[0]]
    for axis, labels in enumerate(units.of(node.inputs[0])):
        plain = setting["sizes"][axis] == setting["strides"][axis] == 1
        if not plain or any(setting["padding"][axis]):
            units.fix(labels)
            labels = np.zeros(sizes[axis], np.int64)
        results.append(labels)
    units.labels[node.outputs[0]] = tuple(results)


def _take(units: Units, node: Node) -> None:
    table, indices = node.inputs
    axis = node.settings["axis"]
    for labels in (units.of(table)[axis], *units.of(indices)):
        units.fix(labels)
    rest = [one for i, one in enumerate(units.of(table)) if i != axis]
    units.drive(indices, rest)
    units.drive(table, rest)
    if node.settings["keep"]:
        rest.insert(axis, np.zeros(1, np.int64))
    sizes = units.shapes[node.outputs[0]]
    first = [np.zeros(n, np.int64) for n in sizes[: len(sizes) - len(rest)]]
    units.labels[node.outputs[0]] = (*first, *rest)


def _dot(units: Units, node: Node) -> None:
    (left, right), (out,) = node.inputs, node.outputs
    contract, batch = node.settings["contract"], node.settings["batch"]
    for i, j in (*zip(*contract, strict=True), *zip(*batch, strict=True)):
        units.tie(units.of(left)[i], units.of(right)[j])
    results = [units.of(left)[i] for i in batch[0]]
    free = []
    for side, value in enumerate((left, right)):
        used = {*contract[side], *batch[side]}
        free.append([i for i in range(len(value.shape)) if i not in used])
        results += [units.of(value)[i] for i in free[side]]
    units.labels[out] = tuple(results)
    known = [units.known(left), units.known(right)]
    if sum(known) == 1 and not batch[0]:
        weight, signal = known.index(True), known.index(False)
        pairs = zip(contract[weight], contract[signal], strict=True)
        link = Link(node, weight, signal, tuple(pairs), tuple(free[weight]))
        units.links.append(link)
        return
    # A product of two activations: no single one of its terms may go.
    for i in (*contract[0], *batch[0]):
        units.fix(units.of(left)[i])
    units.drive(out, results)


def _conv(units: Units, node: Node) -> None:
    (signal, kernel), (out,), setting = node.inputs, node.outputs, node.settings
    example, channel, *space = setting["layout"][0]
    rows, columns, *window = setting["layout"][1]
    signal_labels, kernel_labels = units.of(signal), units.of(kernel)
    for axis in space:
        units.fix(signal_labels[axis])
    for axis in window:
        units.fix(kernel_labels[axis])
    results = [np.zeros(0, np.int64)] * len(signal_labels)
    order = [signal_labels[example], kernel_labels[rows]]
    sizes = units.shapes[out]
    back = setting["layout"][2]
    order += [np.zeros(sizes[back.index(2 + i)], np.int64) for i in range(len(space))]
    results = [order[i] for i in back]
    units.labels[out] = tuple(results)
    groups = setting["groups"]
    padded = bool(np.any(setting["padding"])) or any(s > 1 for s in setting["spread"])
    if groups == 1:
        units.tie(signal_labels[channel], kernel_labels[columns])
        if units.known(kernel) and not units.known(signal):
            pair = ((columns, channel),)
            units.links.append(Link(node, 1, 0, pair, (rows,), padded))
            return
        units.fix(signal_labels[channel])
        units.drive(out, results)
    elif groups == len(signal_labels[channel]) == len(kernel_labels[rows]):
        units.tie(signal_labels[channel], kernel_labels[rows])
        units.drive(kernel, [kernel_labels[rows]])
    else:
        units.fix(signal_labels[channel])
        units.fix(kernel_labels[rows])
        units.fix(kernel_labels[columns])


def _scan(units: Units, node: Node) -> None:
    body, carries = node.loop, node.settings["carries"]
    for i, (outer, inner) in enumerate(zip(node.inputs, body.inputs, strict=True)):
        labels = units.of(outer)
        if i >= carries:
            units.fix(labels[0])
            labels = labels[1:]
        units.labels[inner] = labels
    _visit(units, body.nodes)
    for i, (outer, inner) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        labels = units.of(inner)
        if i < carries:
            for one, other in zip(units.of(node.inputs[i]), labels, strict=True):
                units.tie(one, other)
        else:
            labels = (np.zeros(node.settings["length"], np.int64), *labels)
        units.labels[outer] = labels


_RULES: dict[str, Callable[[Units, Node], None]] = {
    "broadcast": _broadcast,
    "reshape": _reshape,
    "transpose": _rearranged(lambda labels, s: [labels[i] for i in s["axes"]]),
    "squeeze": _rearranged(
        lambda labels, s: [one for i, one in enumerate(labels) if i not in s["axes"]]
    ),
    "reverse": _rearranged(
        lambda labels, s: [
            one[::-1] if i in s["axes"] else one for i, one in enumerate(labels)
        ]
    ),
    "cut": _cut,
    "split": _split,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "pad": _pad,
    "pool": _pool,
    "take": _take,
    "dot": _dot,
    "conv": _conv,
    **dict.fromkeys(("sum", "prod", "amax", "amin", "any", "all"), _reduce),
    **dict.fromkeys(("argmax", "argmin"), _reduce),
}
