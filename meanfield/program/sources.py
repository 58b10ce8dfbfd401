"""The entries of parameters from which each unit is computed."""

import dataclasses
from collections.abc import Mapping

from .steps import Program
from .tracking import Tracked, merged, tracked_operands


@dataclasses.dataclass(frozen=True)
class UnitSource:
    """The units to which the entries of a parameter belong.

    Attributes:
        axis: its axis along which the units lie.
        owner: the unit of every position along that axis; −1 for none.
        row: index of the layer, if layers are stacked along the parameter's first axis;
            `axis` then counts the other axes.
    """

    axis: int
    owner: tuple[int, ...]
    row: int | None = None


def walk_back(program: Program, tracked: Mapping) -> Tracked:
    """All values from which the given values are computed, unit by unit.

    Args:
        program: the network, or the body of a loop.
        tracked: positions of the units in the given values.

    Returns:
        Positions of the units by place, including those of the given values.
    """
    found: Tracked = dict(tracked)
    for step in reversed(program.steps):
        if any(out in found for out in step.outputs):
            for place, where in tracked_operands(program, step, found).items():
                found[place] = merged(found.get(place), where)
    return found


def sources(program: Program, tracked: Mapping) -> dict[str, UnitSource]:
    """The parameters among the values, by path name."""

    def source(place: int, row: int | None = None) -> UnitSource:
        axis, owner = tracked[place]
        return UnitSource(axis, tuple(map(int, owner)), row)

    found = {n: source(p) for n, p in program.leaves.items() if p in tracked}
    for place, (name, row) in program.rows.items():
        if place in tracked:
            found[name] = source(place, row)
    return found
