"""The entries of the weights that feed every unit of a layer, or that read it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from .jaxprs import bind
from .primitives import MOVES
from .products import weight_axis
from .steps import Program, Step
from .units import Units

_CASTS = frozenset("convert_element_type copy".split())


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """Entries of one array of weights, in rows each of which belongs to one unit.

    Attributes:
        name: path name of the array; empty if the weights are not the entries of one
            parameter, selected or in another order.
        places: flat indices into the array.
        owner: the unit of every row.
    """

    name: str
    places: Int[np.ndarray, "rows entries"]
    owner: Int[np.ndarray, " rows"]

    def pick(self, array: Any) -> Shaped[np.ndarray, "rows entries"]:
        """The entries of an array of the weights' shape."""
        return np.asarray(array).ravel()[self.places]


def add_up(
    parts: list[Entries], arrays: Mapping[str, Any], size: int
) -> Float[np.ndarray, " units"]:
    """Sums over the entries of every unit; parts not in `arrays` are left out."""
    total = np.zeros(size)
    for part in parts:
        if part.name in arrays:
            rows = part.pick(np.asarray(arrays[part.name], np.float64)).sum(1)
            np.add.at(total, part.owner, rows)
    return total


def incoming_entries(program: Program, units: Units) -> list[Entries]:
    """Entries of the weights whose product gives the units of a layer."""
    assert units.product is not None
    number, side, axis = units.product
    place = program.steps[number].inputs[side]
    return [_entries(program, place, axis, np.arange(units.size))]


def outgoing_entries(program: Program, units: Units) -> list[Entries]:
    """Entries of the weights that multiply the units of a layer."""
    found = []
    for read in units.reads:
        for number, operand in read.products:
            step = program.steps[number]
            along = weight_axis(step, operand, read.axis)
            place = step.inputs[1 - operand]
            found.append(_entries(program, place, along, read.owner))
    return found


def _entries(program: Program, place: Any, axis: int, owner: Any) -> Entries:
    name, ids = _origin(program, place)
    return Entries(name, np.moveaxis(ids, axis, 0).reshape(len(owner), -1), owner)


def _origin(program: Program, place: Any) -> tuple[str, Any]:
    """The parameter from which an operand is made, and the entry at every position."""
    names = {own: name for name, own in program.leaves.items()}
    moves: list[Step] = []
    while place not in names:
        made = [step for step in program.steps if place in step.outputs]
        if not made or made[0].eqn.primitive.name not in {*MOVES, "slice"}:
            return "", np.zeros(program.shapes[place], int)
        moves.append(made[0])
        place = made[0].inputs[0]
    shape = program.shapes[place]
    ids: Any = np.arange(int(np.prod(shape))).reshape(shape)
    for step in reversed(moves):
        if step.eqn.primitive.name not in _CASTS:
            (ids,) = bind(step.eqn, ids)
    return names[place], np.asarray(ids)
