"""Units of value exactly 0: constant activations, or only zero weights read them."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from meanfield.learning.sharding import gathered
from meanfield.program.products import weight_axis
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program, run_loop

from .cut_network import CutNetwork, State


def null_units(network: CutNetwork, state: State) -> Bool[np.ndarray, " units"]:
    """Units whose value is exactly 0.

    For every value through which the unit is read, one of two conditions must hold: the
    value equals, for every example, the constant that replaces the unit outside a
    coalition; or all weights that read the value are zero. For a recurrent unit only
    the second condition is checked, because its activation depends on the coalition.
    """
    units = network.units[network.layer]
    null = np.ones(units.size, bool)
    values = dict(state.values)
    if not units.bodies and any(r.place not in values for r in units.reads):
        network.program.advance(values, network.behind)
    for number, read in enumerate(units.reads):
        positions = ~_read_positions(network, state, read)
        if not units.bodies:
            value = np.asarray(gathered(values[read.place]))
            same = value == np.asarray(gathered(state.rests[network.layer, number]))
            others = tuple(a for a in range(same.ndim) if a != read.axis)
            positions |= same.all(others)
        counts = np.bincount(read.owner, minlength=units.size)
        quiet = np.bincount(read.owner[positions], minlength=units.size)
        null &= quiet == counts
    return null


def _read_positions(
    network: CutNetwork, state: State, read: UnitRead
) -> Bool[np.ndarray, " places"]:
    """Positions that are read by a nonzero weight or by a step without weights."""
    read_here = np.full(len(read.owner), read.others)
    program, values = network.program, state.values
    if read.loop is not None:
        program = network.units[network.layer].bodies[read.loop]
        values = _weights_in_loop(network, state, read.loop, program)
    for number, side in read.products:
        step = program.steps[number]
        weight = np.asarray(program.read(values, step.inputs[1 - side]))
        axis = weight_axis(step, side, read.axis)
        others = tuple(a for a in range(weight.ndim) if a != axis)
        read_here |= (weight != 0).any(others)
    return read_here


def _weights_in_loop(
    network: CutNetwork, state: State, loop: int, body: Program
) -> dict[int, Any]:
    """Values inside a loop that do not depend on the batch, by place."""
    step = network.program.steps[loop]
    values = dict(state.values)
    network.program.advance(values, [n for n in network.behind if n < loop])
    operands = [network.program.read(values, item) for item in step.inputs]
    keep = lambda place, value: None if place in body.from_data else value
    _, seen = run_loop(step, body, operands, lambda place, value: value, keep)
    return {place: stacked[0] for place, stacked in seen.items()}
