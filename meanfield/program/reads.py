"""The values through which the rest of a network reads the units of a layer.

Units are followed through the steps that act on each unit separately.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from .products import summed_axes, weighted_operands
from .steps import Program
from .tracking import Tracked, tracked_results


@dataclasses.dataclass(frozen=True, eq=False)
class UnitRead:
    """A value through which the rest of the network reads the units.

    Attributes:
        place: the value.
        axis: its axis along which the units lie.
        owner: the unit of every position along that axis.
        kept: axes that the readers sum; the mean of a unit is taken over the others.
        products: readers that are products with fixed weights: (step, operand).
        others: whether any other step reads the value.
        loop: the step whose body the place belongs to; None outside of loops.
    """

    place: int
    axis: int
    owner: Int[np.ndarray, " positions"]
    kept: tuple[int, ...]
    products: tuple[tuple[int, int], ...]
    others: bool
    loop: int | None = None


def find_reads(
    program: Program,
    tracked: Tracked,
    first: int,
    *,
    mixing: bool = False,
    loop: int | None = None,
) -> tuple[tuple[UnitRead, ...], Mapping[int, set[int]]]:
    """The values of the units that other steps read.

    Args:
        program: the network, or the body of a loop.
        tracked: positions of the units in the first values; values that are computed
            from these are added to it.
        first: number of the first step to look at.
        mixing: whether a unit may be combined entry by entry with other values, such as
            its gates and its memory.
        loop: the step whose body the program is.

    Returns:
        The reads, and the tracked values that each tracked value is computed from.
    """
    readers: dict[int, list[tuple[int, int]]] = {}
    others: set[int] = set()
    kept: dict[int, set[int]] = {}
    parents: dict[int, set[int]] = {place: set() for place in tracked}
    for number in range(first, len(program.steps)):
        step = program.steps[number]
        touched = {item for item in step.inputs if item in tracked}
        if not touched:
            continue
        on = {place: tracked[place] for place in touched}
        passed = tracked_results(program, step, on, mixing=mixing)
        if passed:
            for place, where in passed.items():
                if place not in tracked:
                    tracked[place], parents[place] = where, touched
            continue
        for place in touched:
            axis = tracked[place][0]
            sides = weighted_operands(program, number, place, axis)
            if sides:
                readers.setdefault(place, []).extend((number, s) for s in sides)
                summed = set(summed_axes(step, sides[0]))
                kept[place] = kept.get(place, summed) & summed
            else:
                others.add(place)
    if loop is None:
        others |= {place for place in program.outputs if place in tracked}
    merged = _merged(parents, {*readers, *others}, others)
    places = {*readers, *merged} - below(parents, merged) if merged else {*readers}
    reads = []
    for place in sorted(places):
        axis, owner = tracked[place]
        if place in merged:
            reads.append(UnitRead(place, axis, owner, (axis,), (), True, loop))
            continue
        axes = tuple(sorted({axis, *kept[place]}))
        products = tuple(readers[place])
        reads.append(UnitRead(place, axis, owner, axes, products, False, loop))
    return tuple(reads), parents


def above(parents: Mapping[int, set[int]], places: set[int]) -> set[int]:
    """Some values, and the tracked values that they are computed from."""
    found, new = set(), set(places)
    while new:
        found |= new
        new = set().union(*(parents.get(place, set()) for place in new)) - found
    return found


def below(
    parents: Mapping[int, set[int]], places: set[int], without: int | None = None
) -> set[int]:
    """Tracked values computed from `places` on paths that avoid `without`."""
    found: set[int] = set()
    for place, direct in parents.items():
        if place != without and direct & ({*places, *found} - {without}):
            found.add(place)
    return found


def _merged(
    parents: Mapping[int, set[int]], readings: set[int], others: set[int]
) -> set[int]:
    """For readers that are not products: the last value on which all of them depend.

    For example, a norm over the units reads x and x²: units must be replaced in x.
    """
    found = set()
    for start in (place for place, direct in parents.items() if not direct):
        mine = below(parents, {start}) | {start}
        if not mine & others:
            continue
        for place in sorted(mine, reverse=True):
            around = below(parents, {start}, without=place) | {start}
            if place == start or not around & readings & mine - {place}:
                found.add(place)
                break
    return found
