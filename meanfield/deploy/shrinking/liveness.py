"""Which units the output depends on, and which units depend on the input.

Units are the nodes of a graph and nonzero weights its edges. Units from which the
output can be reached are *alive*; units that can be reached from the input are
*driven*. A unit that is not alive can be removed; a live unit that is not driven is
constant.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from .positions import FIXED, Link, TiedUnits


@dataclasses.dataclass(frozen=True)
class Liveness:
    """Facts about units. All but `root` are boolean arrays by representative label.

    Args:
        root: the representative label of every label.
        alive: whether the output depends on the unit.
        driven: whether the unit depends on the input.
        pinned: whether the unit must not be removed in any case.
    """

    root: np.ndarray
    alive: np.ndarray
    driven: np.ndarray
    pinned: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Edges:
    """Non-zero weights of a link between the units of two axes."""

    sources: np.ndarray
    targets: np.ndarray
    present: np.ndarray


def find_liveness(units: TiedUnits, folded: np.ndarray | None = None) -> Liveness:
    """Reachability from the input and from the output.

    Args:
        units: the units of a graph.
        folded: labels of units that are replaced by constants: they do not depend on
            the input, and need no other unit.
    """
    root = units.roots(np.arange(len(units.parent)))
    count = len(root)
    pinned, alive, driven, cut = (np.zeros(count, bool) for _ in range(4))
    pinned[FIXED] = True
    for labels in units.pinned:
        pinned[root[labels]] = True
    alive |= pinned
    driven[FIXED] = True
    for labels in units.driven:
        driven[root[labels]] = True
    if folded is not None:
        cut[root[folded]] = True
        driven &= ~cut
        alive &= ~cut
    edges = [e for link in units.links for e in _edges(units, link, root)]
    while True:
        before = alive.sum() + driven.sum()
        for edge in edges:
            hit = edge.present[driven[edge.sources]].any(0)
            driven[edge.targets[hit]] = True
            driven &= ~cut
        for edge in reversed(edges):
            hit = edge.present[:, alive[edge.targets]].any(1)
            alive[edge.sources[hit]] = True
            alive &= ~cut
        if alive.sum() + driven.sum() == before:
            return Liveness(root, alive, driven, pinned)


def source_axes(
    units: TiedUnits, link: Link, root: np.ndarray
) -> list[tuple[int, int]]:
    """The contracted pairs of axes along which entries belong to units."""
    weight = units.of(link.node.inputs[link.weight])
    return [pair for pair in link.contracted if root[weight[pair[0]]].any()]


def _edges(units: TiedUnits, link: Link, root: np.ndarray) -> list[_Edges]:
    value = link.node.inputs[link.weight]
    present = units.graph.constants[value] != 0
    labels = units.of(value)
    sources = [axis for axis, _ in source_axes(units, link, root)]
    targets = [axis for axis in link.free if root[labels[axis]].any()]
    nowhere = np.array([FIXED])
    edges = []
    for i in sources or [None]:
        for j in targets or [None]:
            edges.append(
                _Edges(
                    nowhere if i is None else root[labels[i]],
                    nowhere if j is None else root[labels[j]],
                    _project(present, i, j),
                )
            )
    return edges


def _project(present: np.ndarray, row: int | None, column: int | None) -> np.ndarray:
    """Whether any entry is present, for each index of two axes (or of none)."""
    axes = [axis for axis in (row, column) if axis is not None]
    others = tuple(axis for axis in range(present.ndim) if axis not in axes)
    flat = present.any(axis=others) if others else present
    if axes != sorted(axes):
        flat = flat.T
    return flat.reshape(_length(present, row), _length(present, column))


def _length(present: np.ndarray, axis: int | None) -> int:
    return 1 if axis is None else present.shape[axis]


def is_constant(units: TiedUnits, live: Liveness) -> bool:
    """Whether no path of connections leads from the input to an output."""
    axes = [labels for v in units.graph.inputs.values() for labels in units.of(v)]
    inputs = [live.root[labels] for labels in axes]
    inputs = np.concatenate([roots[roots != FIXED] for roots in inputs])
    if inputs.size and not live.alive[inputs].any():
        return True
    return all(_is_still(units.of(v), live) for v in units.graph.outputs)


def _is_still(labels: Sequence[np.ndarray], live: Liveness) -> bool:
    roots = np.concatenate([live.root[one] for one in labels])
    roots = roots[roots != FIXED]
    return bool(roots.size) and not live.driven[roots].any()
