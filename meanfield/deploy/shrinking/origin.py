"""The entries of the arrays from which the weight of a link is made."""

from collections.abc import Iterator

import numpy as np

from meanfield.deploy.graph.execute import operate
from meanfield.deploy.graph.graph import Graph, Node, Value

from .liveness import source_axes
from .positions import Link, TiedUnits

_MOVES = frozenset({"broadcast", "reshape", "transpose", "squeeze", "reverse", "cut"})


def array_of(graph: Graph, value: Value) -> tuple[str, np.ndarray] | None:
    """The array that a known value is a rearrangement of.

    Returns:
        The array's name, and for each entry of the value the flat index of the array's
        entry; None if the value is not a rearrangement of one array.
    """
    for name, array in graph.arrays.items():
        if array is value:
            return name, np.arange(int(np.prod(value.shape))).reshape(value.shape)
    made_by = {out: node for node in _all_nodes(graph.nodes) for out in node.outputs}
    node = made_by.get(value)
    if node is None or node.op not in _MOVES:
        return None
    source = array_of(graph, node.inputs[0])
    if source is None:
        return None
    name, entries = source
    (moved,) = operate(node, [entries], batch=1)
    return name, moved


def outgoing_entries(
    units: TiedUnits, root: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Entries of arrays that multiply signals of chosen units (boolean by label)."""
    if not chosen.any():
        return
    for link in units.links:
        labels = units.of(link.node.inputs[link.weight])
        for axis, _ in source_axes(units, link, root):
            columns = np.flatnonzero(chosen[root[labels[axis]]])
            if not columns.size:
                continue
            source = array_of(units.graph, link.node.inputs[link.weight])
            if source is None:
                raise ValueError(
                    "`coalition` must keep at least one unit of a layer whose outgoing "
                    "weights are computed from other arrays; got none."
                )
            name, entries = source
            yield name, np.take(entries, columns, axis).ravel()


def links_from(units: TiedUnits, layer: str) -> list[Link]:
    """The links whose weights are an array of this path, or arrays below it."""
    found = []
    for link in units.links:
        source = array_of(units.graph, link.node.inputs[link.weight])
        if source is None:
            continue
        if source[0] == layer or source[0].startswith(f"{layer}/"):
            found.append(link)
    return found


def _all_nodes(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.body is not None:
            yield from _all_nodes(node.body.nodes)
