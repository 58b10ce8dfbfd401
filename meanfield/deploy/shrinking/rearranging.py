"""How rearranging operations tie positions of their operands and results."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from meanfield.deploy.graph.graph import Node

from .positions import Labels, TiedUnits

Rule = Callable[[TiedUnits, Node], None]


def _broadcast(units: TiedUnits, node: Node) -> None:
    (value,), (out,), axes = node.inputs, node.outputs, node.settings["axes"]
    shape = units.shapes[out]
    results = [np.zeros(n, np.int64) if units.rigid else units.fresh(n) for n in shape]
    units.drive(value, results)
    for labels, axis in zip(units.of(value), axes, strict=True):
        if len(labels) == shape[axis]:
            results[axis] = labels
    units.labels[out] = tuple(results)


def _reshape(units: TiedUnits, node: Node) -> None:
    """Axes are merged or split; a unit survives if its positions stay together."""
    (value,), (out,) = node.inputs, node.outputs
    before, after = units.shapes[value], units.shapes[out]
    labels, results = units.of(value), []
    for ours, theirs in _blocks(before, after):
        # An axis of one entry does not separate units, unless there is no other axis.
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
    units: TiedUnits, labels: np.ndarray, sizes: Sequence[int]
) -> list[np.ndarray]:
    """Labels of each axis of a block, if a single axis separates the units."""
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
    def rule(units: TiedUnits, node: Node) -> None:
        labels = units.of(node.inputs[0])
        units.labels[node.outputs[0]] = tuple(change(labels, node.settings))

    return rule


def _cut(units: TiedUnits, node: Node) -> None:
    (value,), (out,), results = node.inputs, node.outputs, []
    setting = node.settings
    bounds = zip(setting["start"], setting["stop"], setting["step"], strict=True)
    for labels, bound in zip(units.of(value), bounds, strict=True):
        piece = labels[slice(*bound)]
        if units.rigid and len(piece) < len(labels):
            units.fix(labels)
        results.append(piece)
    units.labels[out] = tuple(results)


def _split(units: TiedUnits, node: Node) -> None:
    labels, axis = list(units.of(node.inputs[0])), node.settings["axis"]
    sizes = node.settings["sizes"]
    if units.rigid:
        units.fix(labels[axis])
    elif len(set(sizes)) == 1:
        # The code may give only the number of equal parts, such as gates: they must
        # stay equal.
        pieces = np.split(labels[axis], len(sizes))
        for piece in pieces[1:]:
            units.tie(pieces[0], piece)
    ends = np.cumsum(sizes)
    for out, end, size in zip(node.outputs, ends, sizes, strict=True):
        labels_out = list(labels)
        labels_out[axis] = labels[axis][end - size : end]
        units.labels[out] = tuple(labels_out)


def _concatenate(units: TiedUnits, node: Node) -> None:
    axis, parts = node.settings["axis"], [units.of(v) for v in node.inputs]
    results = list(parts[0])
    for part in parts[1:]:
        for i, labels in enumerate(part):
            if i != axis:
                units.tie(results[i], labels)
    results[axis] = np.concatenate([part[axis] for part in parts])
    units.labels[node.outputs[0]] = tuple(results)


def _stack(units: TiedUnits, node: Node) -> None:
    axis, parts = node.settings["axis"], [units.of(v) for v in node.inputs]
    for part in parts[1:]:
        for one, other in zip(parts[0], part, strict=True):
            units.tie(one, other)
    results = list(parts[0])
    results.insert(axis, np.zeros(len(parts), np.int64))
    units.labels[node.outputs[0]] = tuple(results)


def _unstack(units: TiedUnits, node: Node) -> None:
    labels, axis = list(units.of(node.inputs[0])), node.settings["axis"]
    units.fix(labels.pop(axis))
    for out in node.outputs:
        units.labels[out] = tuple(labels)


def _pad(units: TiedUnits, node: Node) -> None:
    results = []
    for labels, (low, high) in zip(
        units.of(node.inputs[0]), node.settings["widths"], strict=True
    ):
        if low or high:
            units.fix(labels)
            labels = np.zeros(low + len(labels) + high, np.int64)
        results.append(labels)
    units.labels[node.outputs[0]] = tuple(results)


REARRANGING: dict[str, Rule] = {
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
}
