"""Find biases that can absorb constant contributions to pre-activations.

A constant contribution Σ_k w_jk c_k of a contraction can be moved into a bias entry if
both are added to the same entries of some later value, and no other step reads them
before. Each entry is followed forward through sums and rearrangements to the last value
in which it is still a plain summand. Two entries that end at the same entries of the
same value are interchangeable.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from meanfield.deploy.shrinking.positions import Link

from .execute import operate
from .graph import Graph, Node, Value

_MOVES = frozenset(
    "broadcast reshape transpose squeeze reverse cut split concatenate".split()
)
Ends = dict[Value, np.ndarray]
Shapes = Mapping[Value, tuple[int, ...]]


class Flow:
    """Follows numbered entries through a graph.

    Args:
        graph: the network.
        shapes: sizes of every value for a batch of one.
    """

    def __init__(self, graph: Graph, shapes: Shapes):
        self.shapes = shapes
        self.readers: dict[Value, list[tuple[Node | None, int]]] = {}
        self.collect(graph.nodes)
        for value in graph.outputs:
            self.readers.setdefault(value, []).append((None, 0))

    def collect(self, nodes: Sequence[Node]) -> None:
        """Record which nodes read each value."""
        for node in nodes:
            for place, value in enumerate(node.inputs):
                self.readers.setdefault(value, []).append((node, place))
            if node.body is not None:
                self.collect(node.body.nodes)
                for value in node.body.outputs:
                    self.readers.setdefault(value, []).append((None, 0))

    def ends(self, value: Value, numbers: np.ndarray) -> Ends:
        """The last values in which the entries are still summands.

        Args:
            value: the value that holds the entries.
            numbers: a positive number for each entry, in the shape of the value; 0 for
                entries that are not followed.

        Returns:
            For each such value, at each position the number of the entry there, or 0.
        """
        readers = self.readers.get(value, [])
        moved = [
            step
            for node, place in readers
            for step in self.steps(value, node, place, numbers)
        ]
        # An entry is followed further only if it has one reader, which adds or moves
        # it.
        total = np.zeros(int(numbers.max(initial=0)) + 1, int)
        for _, seen in moved:
            total[np.unique(seen)] += 1
        for target, seen in moved:
            if target is None:
                total[np.unique(seen)] = 2
        stays = total[numbers] != 1
        found: Ends = {}
        if readers and (stays & (numbers > 0)).any():
            found[value] = np.where(stays, numbers, 0)
        for target, seen in moved:
            going = np.where(total[seen] == 1, seen, 0)
            if target is not None and going.any():
                for end, entries in self.ends(target, going).items():
                    both = found.get(end, np.zeros_like(entries))
                    found[end] = np.maximum(both, entries)
        return found

    def steps(
        self, value: Value, node: Node | None, place: int, numbers: np.ndarray
    ) -> list[tuple[Value | None, np.ndarray]]:
        """Pairs (a result of the reader, the entry numbers in it).

        The result is None if the reader neither adds nor moves entries.
        """
        if node is None:
            return [(None, numbers)]
        (out, *_) = node.outputs
        if node.op == "add" or (node.op == "sub" and place == 0):
            same = out.dtype == value.dtype and node.inputs[0] is not node.inputs[1]
            if same:
                return [(out, np.broadcast_to(numbers, self.shapes[out]))]
        if node.op in _MOVES and node.eqn is None:
            operands = [np.zeros(self.shapes[v], np.int64) for v in node.inputs]
            operands[place] = numbers
            results = operate(node, operands, batch=1)
            return list(zip(node.outputs, results, strict=True))
        return [(None, numbers)]


def bias_slots(
    graph: Graph, flow: Flow, links: Sequence[Link], shapes: Shapes
) -> dict[Link, list[tuple[str, int] | None]]:
    """For each row of each link's weight, the array entry that may absorb a constant.

    Returns:
        For each link a list over the (flattened) free axes of its weight: the name of
        an array and a flat index into it, or None.
    """
    weights = {link.node.inputs[link.weight] for link in links}
    biases = {}
    for name, value in graph.arrays.items():
        if np.issubdtype(value.dtype, np.floating) and value not in weights:
            numbers = np.arange(1, 1 + math.prod(value.shape))
            biases[name] = flow.ends(value, numbers.reshape(value.shape))
    return {link: _slots(link, flow, biases, shapes) for link in links}


def rows_of(link: Link, shapes: Shapes) -> tuple[Value, np.ndarray]:
    """The link's result, each entry numbered by the row of the weight it comes from."""
    (out,) = link.node.outputs
    weight = link.node.inputs[link.weight]
    sizes = [weight.shape[axis] for axis in link.free]
    numbers = np.arange(1, 1 + int(np.prod(sizes, dtype=int)))
    shape = shapes[out]
    if link.node.op == "conv":
        place = link.node.settings["layout"][2].index(1)
        around = [1] * len(shape)
        around[place] = -1
    else:
        rest = [1] * (len(shape) - len(sizes))
        around = [*sizes, *rest] if link.weight == 0 else [*rest, *sizes]
    return out, np.broadcast_to(numbers.reshape(around), shape)


def _slots(
    link: Link, flow: Flow, biases: Mapping[str, Ends], shapes: Shapes
) -> list[tuple[str, int] | None]:
    out, numbers = rows_of(link, shapes)
    slots: list[tuple[str, int] | None] = [None] * int(numbers.max(initial=0))
    for end, rows in flow.ends(out, numbers).items():
        for name, bias in biases.items():
            if end in bias:
                for row, entry in _partners(rows, bias[end]):
                    slots[row - 1] = (name, entry - 1)
    return slots


def _partners(rows: np.ndarray, entries: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, entry) that end at exactly the same positions."""
    pairs = np.unique(np.stack([rows.ravel(), entries.ravel()], 1), axis=0)
    pairs = pairs[(pairs > 0).any(1)]
    once = [np.bincount(pairs[:, side])[pairs[:, side]] == 1 for side in (0, 1)]
    alone = (pairs > 0).all(1) & once[0] & once[1]
    return [(int(row), int(entry)) for row, entry in pairs[alone]]
