"""Which positions of which arrays belong to the same unit.

Unit i has row i of a weight, entry i of its bias, channel i of the activations and
column i of the next weight; with gates, the same row of each gate; with a residual sum,
channel i of every branch. Two positions are tied if an operation combines them, so
units are the classes of a union-find over positions along axes. Class 0 holds the
positions that cannot be removed (time, space, normalised axes).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from meanfield.deploy.graph.graph import Graph, Node, Value

FIXED = 0
Labels = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Link:
    """A contraction of an activation with known weights: edges between units.

    Args:
        node: the operation.
        weight, signal: indices (0 or 1) of the known operand and of the other one.
        contracted: pairs (axis of the weight, axis of the signal) that are summed.
        free: the axes of the weight that are not summed.
        padded: whether padding makes a constant signal vary at the borders.
    """

    node: Node
    weight: int
    signal: int
    contracted: tuple[tuple[int, int], ...]
    free: tuple[int, ...]
    padded: bool = False


class TiedUnits:
    """The classes of tied positions of a graph.

    Args:
        graph: the network.
        shapes: the sizes of every value for a batch of one.
        rigid: whether to keep all units along axes whose sizes may be fixed in the
            network's code (created axes, slices).
    """

    def __init__(
        self, graph: Graph, shapes: Mapping[Value, tuple[int, ...]], rigid: bool
    ):
        self.graph, self.shapes, self.rigid = graph, shapes, rigid
        self.parent = [FIXED]
        self.labels: dict[Value, Labels] = {}
        self.links: list[Link] = []
        self.driven: list[np.ndarray] = []
        self.pinned: list[np.ndarray] = []
        self.all_inputs = False
        arrays = set(graph.arrays.values())
        for value in arrays:
            self.labels[value] = tuple(map(self.fresh, value.shape))
        for value in graph.inputs.values():
            labels = tuple(map(self.fresh, shapes[value][1:]))
            self.labels[value] = (np.zeros(1, np.int64), *labels)
            self.driven += labels

    def fresh(self, size: int) -> np.ndarray:
        """New labels for an axis; the entry of an axis of length 1 is never removed."""
        start = len(self.parent)
        self.parent.extend(range(start, start + size))
        labels = np.arange(start, start + size)
        if size == 1:
            self.pinned.append(labels)
        return labels

    def pin_inputs(self) -> None:
        """Keep every entry of the inputs."""
        self.all_inputs = True
        for value in self.graph.inputs.values():
            self.pinned += self.of(value)

    def of(self, value: Value) -> Labels:
        """Labels of a value, one array for each axis; 0 (fixed) if it has none."""
        if value not in self.labels:
            sizes = self.shapes[value]
            self.labels[value] = tuple(np.zeros(size, np.int64) for size in sizes)
        return self.labels[value]

    def find(self, label: int) -> int:
        """The representative of a label; the smallest, so that 0 stays 0."""
        parent = self.parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """Representatives of many labels."""
        return np.array([self.find(int(label)) for label in labels], np.int64)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Merge the units at equal positions."""
        different = one != other
        for a, b in zip(one[different], other[different], strict=True):
            a, b = self.find(int(a)), self.find(int(b))
            self.parent[max(a, b)] = min(a, b)

    def fix(self, labels: np.ndarray) -> None:
        """Mark units as not removable."""
        self.tie(labels, np.zeros_like(labels))

    def known(self, value: Value) -> bool:
        """Whether a value does not depend on the batch."""
        return value in self.graph.constants

    def drive(self, value: Value, labels: Sequence[np.ndarray]) -> None:
        """Record that units depend on the input through a value."""
        if not self.known(value):
            self.driven += labels
