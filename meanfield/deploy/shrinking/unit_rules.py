"""How each operation ties positions of its operands to positions of its results.

At an operation without a rule all units are kept, which is always correct.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from meanfield.deploy.graph.graph import Graph, Node, Value
from meanfield.deploy.graph.vocabulary import ELEMENTWISE

from .positions import Link, TiedUnits
from .rearranging import REARRANGING, Rule


def tie_units(
    graph: Graph, shapes: Mapping[Value, tuple[int, ...]], rigid: bool = False
) -> TiedUnits:
    """The units of a graph, and the links between them.

    Args:
        graph: the network.
        shapes: the sizes of every value for a batch of one.
        rigid: whether to keep all units along axes whose sizes may be fixed in the
            network's code (created axes, slices).
    """
    units = TiedUnits(graph, shapes, rigid)
    _visit(units, graph.nodes)
    for value in graph.outputs:
        units.pinned += units.of(value)
    return units


def _visit(units: TiedUnits, nodes: Sequence[Node]) -> None:
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


def _elementwise(units: TiedUnits, node: Node) -> None:
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


def _reduce(units: TiedUnits, node: Node) -> None:
    setting = node.settings
    axes = setting["axes"] if "axes" in setting else [setting["axis"]]
    labels = units.of(node.inputs[0])
    for axis in axes:
        units.fix(labels[axis])
    kept = [one for axis, one in enumerate(labels) if axis not in axes]
    units.labels[node.outputs[0]] = tuple(kept)


def _pool(units: TiedUnits, node: Node) -> None:
    results, setting = [], node.settings
    sizes = units.shapes[node.outputs[0]]
    for axis, labels in enumerate(units.of(node.inputs[0])):
        plain = setting["sizes"][axis] == setting["strides"][axis] == 1
        if not plain or any(setting["padding"][axis]):
            units.fix(labels)
            labels = np.zeros(sizes[axis], np.int64)
        results.append(labels)
    units.labels[node.outputs[0]] = tuple(results)


def _take(units: TiedUnits, node: Node) -> None:
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


def _dot(units: TiedUnits, node: Node) -> None:
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
    # In a product of two activations no term can be removed.
    for i in (*contract[0], *batch[0]):
        units.fix(units.of(left)[i])
    units.drive(out, results)


def _conv(units: TiedUnits, node: Node) -> None:
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


def _scan(units: TiedUnits, node: Node) -> None:
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


_RULES: dict[str, Rule] = {
    **REARRANGING,
    "pool": _pool,
    "take": _take,
    "dot": _dot,
    "conv": _conv,
    **dict.fromkeys(("sum", "prod", "amax", "amin", "any", "all"), _reduce),
    **dict.fromkeys(("argmax", "argmin"), _reduce),
}
