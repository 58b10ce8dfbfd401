"""Units that change no payoff: those at rest anyway, and those that nobody reads."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from meanfield.learning.sharding import come_home
from meanfield.program.products import weight_axis
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program, run_loop

from .stage import Stage, State


def null_units(stage: Stage, state: State) -> Bool[np.ndarray, " units"]:
    """Units whose value is exactly 0.

    At every value through which a unit is read, either it is what it is held at for
    every example, or all weights that read it are zero. The first says nothing of a
    recurrent unit, whose activation depends on which others play.
    """
    units = stage.units[stage.layer]
    null = np.ones(units.size, bool)
    values = dict(state.values)
    if not units.bodies and any(r.place not in values for r in units.reads):
        stage.program.advance(values, stage.behind)
    for number, read in enumerate(units.reads):
        positions = ~_heard(stage, state, read)
        if not units.bodies:
            value = np.asarray(come_home(values[read.place]))
            same = value == np.asarray(come_home(state.rests[stage.layer, number]))
            others = tuple(a for a in range(same.ndim) if a != read.axis)
            positions |= same.all(others)
        counts = np.bincount(read.owner, minlength=units.size)
        quiet = np.bincount(read.owner[positions], minlength=units.size)
        null &= quiet == counts
    return null


def _heard(stage: Stage, state: State, read: UnitRead) -> Bool[np.ndarray, " places"]:
    """Positions that some weight other than zero reads, or something else."""
    heard = np.full(len(read.owner), read.others)
    program, values = stage.program, state.values
    if read.loop is not None:
        program = stage.units[stage.layer].bodies[read.loop]
        values = _weights_in_loop(stage, state, read.loop, program)
    for number, side in read.products:
        step = program.steps[number]
        weight = np.asarray(program.read(values, step.inputs[1 - side]))
        axis = weight_axis(step, side, read.axis)
        others = tuple(a for a in range(weight.ndim) if a != axis)
        heard |= (weight != 0).any(others)
    return heard


def _weights_in_loop(
    stage: Stage, state: State, loop: int, body: Program
) -> dict[int, Any]:
    """Values inside a loop that do not depend on the batch, by place."""
    step = stage.program.steps[loop]
    values = dict(state.values)
    stage.program.advance(values, [n for n in stage.behind if n < loop])
    operands = [stage.program.read(values, item) for item in step.inputs]
    keep = lambda place, value: None if place in body.from_data else value
    _, seen = run_loop(step, body, operands, lambda place, value: value, keep)
    return {place: stacked[0] for place, stacked in seen.items()}
