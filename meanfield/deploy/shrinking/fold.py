"""Fold constant units into the biases of the units that read them.

    Σ_k w_jk a_k = Σ_{k varies} w_jk a_k + Σ_{k constant} w_jk c_k

The second sum is added to the bias of unit j, if j has one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.flow import Flow, bias_slots
from meanfield.deploy.graph.graph import Value

from .liveness import Liveness, source_axes
from .positions import Link, TiedUnits

# Two evaluations of the same constant may differ by rounding.
_SAME = 1e-6
Slots = Mapping[Link, Sequence[tuple[str, int] | None]]


@dataclasses.dataclass(frozen=True)
class Folds:
    """The changes of the arrays by folding.

    Args:
        gone: representatives of the folded units (boolean by label).
        additions: (array name, flat index, number to add).
    """

    gone: np.ndarray
    additions: list[tuple[str, int, float]]


@dataclasses.dataclass(frozen=True)
class _Constants:
    """Mean of a link's signal at each contracted index, and whether it is constant."""

    numbers: np.ndarray
    steady: np.ndarray


def fold_constants(
    units: TiedUnits,
    live: Liveness,
    values: Mapping[Value, np.ndarray],
    forced: np.ndarray,
    means: Mapping[Link, np.ndarray],
    held: np.ndarray,
) -> Folds:
    """Choose the constants that can be folded, and the biases that absorb them.

    Args:
        units: the units of a graph.
        live: their liveness.
        values: every value for one example.
        forced: units (boolean by label) that must be replaced by their `means` and
            folded.
        means: for a link, the mean of its signal at each contracted index.
        held: units (boolean by label) that must not be folded.

    Raises:
        ValueError: a forced unit is read by a layer that cannot absorb a constant.
    """
    gone = (live.alive & ~live.driven & ~live.pinned & ~held) | forced
    shapes = units.shapes
    signals = {link: _constants(link, values, shapes) for link in units.links}
    slots = _Lazy(
        lambda: bias_slots(units.graph, Flow(units.graph, shapes), units.links, shapes)
    )
    while True:
        blocked = np.zeros_like(gone)
        additions = []
        for link in units.links:
            stuck, added = _fold_link(
                units, live, link, gone, signals[link], forced, means.get(link), slots
            )
            blocked[stuck] = True
            additions += added
        blocked &= gone
        require(
            not (blocked & forced).any(),
            "`coalition` must leave out only units whose mean a bias can absorb; got "
            "units that feed a zero-padded convolution or a layer without bias. Give "
            "that layer a bias or no padding, or leave its inputs out of `coalition`.",
        )
        if not blocked.any():
            return Folds(gone, additions)
        gone &= ~blocked


class _Lazy:
    """A value that is computed when it is first needed."""

    def __init__(self, make: Callable[[], Slots]):
        self.make = make
        self.value: Slots | None = None

    def get(self) -> Slots:
        if self.value is None:
            self.value = self.make()
        return self.value


def contracted_means(
    link: Link, signal: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of a signal for each contracted index, over all other axes."""
    axes = [axis - rank for _, axis in link.contracted]
    moved = np.moveaxis(signal, axes, range(-len(axes), 0))
    rows = moved.reshape(-1, *moved.shape[moved.ndim - len(axes) :])
    rows = rows.astype(np.float64)
    return rows.mean(0), np.ptp(rows, axis=0)


def _constants(
    link: Link,
    values: Mapping[Value, np.ndarray],
    shapes: Mapping[Value, tuple[int, ...]],
) -> _Constants:
    value = link.node.inputs[link.signal]
    mean, spread = contracted_means(link, values[value], len(shapes[value]))
    return _Constants(mean, spread <= _SAME * np.maximum(1, np.abs(mean)))


def _fold_link(
    units: TiedUnits,
    live: Liveness,
    link: Link,
    gone: np.ndarray,
    constants: _Constants,
    forced: np.ndarray,
    means: np.ndarray | None,
    slots: _Lazy,
) -> tuple[np.ndarray, list[tuple[str, int, float]]]:
    """Representatives that this link prevents from folding, and bias additions."""
    nothing = np.zeros(0, np.int64)
    value = link.node.inputs[link.weight]
    labels, weight = units.of(value), units.graph.constants[value]
    sources = source_axes(units, link, live.root)
    roots = [live.root[labels[axis]] for axis, _ in sources]
    if not any(gone[one].any() for one in roots):
        return nothing, []
    if len(sources) > 1:
        return np.concatenate(roots), []
    place, columns = link.contracted.index(sources[0]), np.flatnonzero(gone[roots[0]])
    root = roots[0][columns]
    numbers = np.take(constants.numbers, columns, place)
    steady = np.take(constants.steady, columns, place)
    if means is not None:
        along = _along(forced[root], place, numbers.ndim)
        numbers = np.where(along, np.take(means, columns, place), numbers)
        steady = steady | along
    # Units that stay and have nonzero weights here must absorb the constants.
    stays = _rows(link, live.alive & ~gone, labels, live.root)
    weight = np.take(weight, columns, sources[0][0])
    present = _by_rows(link, weight != 0, np.any)[stays]
    heard = present & ((numbers != 0) | ~steady)
    unfit = ~steady | (numbers != 0) if link.padded else ~steady
    stuck = _any_but(heard.any(0) & unfit, place)
    table = _by_rows(link, weight.astype(np.float64), np.sum)[stays]
    inner = tuple(range(1, table.ndim))
    total = (table * numbers).sum(axis=inner)
    additions, lost = [], np.zeros(len(table), bool)
    for i in np.flatnonzero(heard.any(axis=inner)):
        slot = slots.get()[link][np.flatnonzero(stays)[i]]
        if slot is None:
            lost[i] = True
        else:
            additions.append((*slot, float(total[i])))
    stuck |= _any_but(heard[lost].any(0), place)
    return root[stuck], additions


def _by_rows(
    link: Link, weight: np.ndarray, together: Callable[..., np.ndarray]
) -> np.ndarray:
    """The weight as (free, *contracted) indices, combined over its other axes."""
    contracted = [axis for axis, _ in link.contracted]
    rest = [a for a in range(weight.ndim) if a not in (*contracted, *link.free)]
    moved = np.transpose(weight, [*link.free, *contracted, *rest])
    shape = [weight.shape[axis] for axis in contracted]
    moved = moved.reshape(-1, *shape, *(weight.shape[axis] for axis in rest))
    return together(moved, axis=tuple(range(1 + len(shape), moved.ndim)))


def _rows(
    link: Link, good: np.ndarray, labels: Sequence[np.ndarray], root: np.ndarray
) -> np.ndarray:
    """Whether each free index of the weight belongs to a unit in `good`."""
    rows = np.ones((), bool)
    for axis in link.free:
        rows = rows[..., None] & good[root[labels[axis]]]
    return rows.reshape(-1)


def _along(mask: np.ndarray, place: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[place] = -1
    return mask.reshape(shape)


def _any_but(mask: np.ndarray, place: int) -> np.ndarray:
    others = tuple(axis for axis in range(mask.ndim) if axis != place)
    return np.asarray(mask.any(axis=others))
