"""The origin of a value of a program: data, parameters, or random weights."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Axes = frozenset[int]
NONE: Axes = frozenset()


@dataclasses.dataclass(frozen=True)
class Origin:
    """Properties of a value that are known before the program runs.

    Attributes:
        signal: whether it depends on the data, or on noise drawn for the data.
        leaves: the random parameters whose entries it holds, not yet drawn.
        drawable: whether its entries can be drawn one by one, as in `Random`.
        copied: axes along which broadcasting repeats an entry.
        repeated: axes along which the same weight may occur for any other reason.
        zero: whether it is 0 everywhere.
        rows: number of loop steps, if each step takes different entries.
        root: in the moments reading, the number of the random array from which it is
            computed; 0 if it is computed from several. Moments of functions of the same
            root are computed together.
    """

    signal: bool = False
    leaves: frozenset[str] = frozenset()
    drawable: bool = False
    copied: Axes = NONE
    repeated: Axes = NONE
    zero: bool = False
    rows: int = 1
    root: int = dataclasses.field(default=0, compare=False)


def join(one: Origin, other: Origin) -> Origin:
    """The origin of a value that is computed from two others, or equals one of them."""
    roots = {origin.root for origin in (one, other) if origin.leaves}
    return Origin(
        one.signal or other.signal,
        one.leaves | other.leaves,
        one.drawable or other.drawable,
        one.copied | other.copied,
        one.repeated | other.repeated,
        one.zero and other.zero,
        max(origin.rows if origin.leaves else 1 for origin in (one, other)),
        roots.pop() if len(roots) == 1 else 0,
    )


def move(name: str, params: Any, shape: Any, new: Any, origin: Origin) -> Origin:
    """The origin after a primitive that only changes the positions of entries.

    Args:
        name: one of `MOVES`.
        params: parameters of the primitive.
        shape: shape of its operand.
        new: shape of its result.
        origin: origin of its operand.
    """
    copied, repeated = origin.copied, origin.repeated
    if name == "transpose":
        order = tuple(params["permutation"])
        copied, repeated = (_at(order.index, axes) for axes in (copied, repeated))
    elif name == "squeeze":
        gone = params["dimensions"]
        kept = [axis for axis in range(len(shape)) if axis not in gone]
        copied, repeated = (
            _at(kept.index, axes & set(kept)) for axes in (copied, repeated)
        )
    elif name == "broadcast_in_dim":
        place = params["broadcast_dimensions"]
        copied, repeated = (
            _at(lambda a: place[a], axes) for axes in (copied, repeated)
        )
        source = dict(zip(place, shape, strict=True))
        copied |= {a for a, n in enumerate(new) if n > 1 and source.get(a, 1) < n}
    elif name == "reshape":
        copied, mixed = _reshaped(shape, new, copied)
        repeated = frozenset().union(*_reshaped(shape, new, repeated)) | mixed
    return dataclasses.replace(origin, copied=copied, repeated=repeated)


MOVES = frozenset(
    "transpose squeeze broadcast_in_dim reshape slice rev copy copy_p reduce_precision "
    "stop_gradient sharding_constraint convert_element_type".split()
)


def look_up(params: Any, shape: Any, new: Any, origin: Origin) -> Origin:
    """The origin of the result of a `gather`, whose indices may repeat a weight."""
    numbers = params["dimension_numbers"]
    offset = tuple(numbers.offset_dims)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    place = dict(zip(kept, offset, strict=True))
    batch = {a for a, n in enumerate(new) if a not in offset and n > 1}
    found = []
    for axes in (origin.copied, origin.repeated):
        found.append({place[a] for a in axes if a in place})
    return dataclasses.replace(
        origin,
        drawable=True,
        copied=frozenset(found[0]),
        repeated=frozenset(found[1] | batch),
    )


def spread(origin: Origin, shape: Sequence[int], new: Sequence[int]) -> Origin:
    """The origin of an operand that is broadcast to the shape of the result."""
    if not origin.leaves or tuple(shape) == tuple(new):
        return origin
    sizes = shape or [1] * len(new)
    wide = {axis for axis, size in enumerate(new) if sizes[axis] < size}
    return dataclasses.replace(origin, copied=origin.copied | wide)


def insert(origin: Origin, axis: int) -> Origin:
    """The origin of a value with a new axis inserted."""
    copied, repeated = (
        _at(lambda a: a + (a >= axis), axes)
        for axes in (origin.copied, origin.repeated)
    )
    return dataclasses.replace(origin, copied=copied, repeated=repeated)


def one_row(origin: Origin, length: int) -> Origin:
    """The origin of one row along the first axis of a value."""
    copied, repeated = (
        _at(lambda a: a - 1, axes - {0}) for axes in (origin.copied, origin.repeated)
    )
    apart = 0 not in origin.copied | origin.repeated
    rows = origin.rows * (length if apart else 1)
    return dataclasses.replace(origin, copied=copied, repeated=repeated, rows=rows)


def _at(place: Any, axes: Iterable[int]) -> Axes:
    return frozenset(place(axis) for axis in axes)


def _reshaped(old: Any, new: Any, axes: Axes) -> tuple[Axes, Axes]:
    """New axes that equal one of `axes`, and those that mix one of them with others."""
    same, mixed = set(), set()
    if 0 in old:
        return NONE, NONE
    for before, after in _groups(old, new):
        wide, wide_now = (
            [axis for axis in group if sizes[axis] > 1]
            for group, sizes in ((before, old), (after, new))
        )
        if axes & set(wide):
            (same if len(wide) == len(wide_now) == 1 else mixed).update(wide_now)
    return frozenset(same), frozenset(mixed)


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Pairs of the shortest runs of axes in two shapes that hold the same entries."""
    i = j = 0
    while i < len(old) or j < len(new):
        start = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[start[0] : i]) != math.prod(new[start[1] : j]):
            if math.prod(old[start[0] : i]) < math.prod(new[start[1] : j]):
                i += 1
            else:
                j += 1
        yield range(start[0], i), range(start[1], j)
