"""The output units of a layer: which parameters feed them, and which steps read them.

A unit is one output of a dense layer, one channel of a convolution, one entry of the
state of a recurrent cell, or one head of an attention. It is followed through the steps
that act on each unit separately (activation, norm with fixed statistics, pooling,
flattening) up to the values that other kinds of step read. In these values a
cooperative game replaces the unit by a constant, which gives the outputs of the
exported network without the unit. Units of a recurrent cell are read both inside its
loop and after it. The same search backwards finds the parameters that feed a unit;
coalition training sets these to zero.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from meanfield.checks import require

from .heads import find_heads
from .jaxprs import scan_counts
from .named_layers import (
    are_apart,
    attention_names,
    first_use,
    is_around,
    is_within,
    layer_names,
    parent_of,
    weights_of,
)
from .primitives import ENTRYWISE, MOVES, PRODUCTS
from .products import result_axis, source_axis
from .reads import UnitRead, above, below, find_reads
from .sources import UnitSource, sources, walk_back
from .steps import Program, body_of
from .tracking import Tracked, tracked_results


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The output units of a layer.

    Attributes:
        size: number of units.
        reads: the values through which they are read, in order.
        sources: the parameters that feed them, by path name.
        bodies: bodies of the loops that compute the units, by step.
        place: the value with their activations: the last value before pooling and
            flattening on which all readers depend; None for units of a loop.
        axis: the axis of that value that counts the units.
        product: outside of loops, the layer's product: its step, the operand that is
            the weights, and the axis of the weights that counts the units.
    """

    size: int
    reads: tuple[UnitRead, ...]
    sources: Mapping[str, UnitSource]
    bodies: Mapping[int, Program] = dataclasses.field(default_factory=dict)
    place: int | None = None
    axis: int = 0
    product: tuple[int, int, int] | None = None


def find_units(program: Program, layer: str) -> Units:
    """The output units of a layer.

    Args:
        program: the network.
        layer: a parameter path without its last name, such as ``"layers/1"``, or the
            path of a recurrent cell; empty for a network that is itself a layer. It
            may also be the path of one weight, or ``"layers[1]"`` in a scanned stack.

    Raises:
        ValueError: there is no such layer, or its units cannot be distinguished.
    """
    layers = layer_names(program)
    require(
        any(is_within(name, layer) for name in weights_of(program)),
        f"`layer` must be a layer with weights; got {layer!r}. There are {layers}.",
    )
    units = units_or_none(program, layer)
    require(
        units is not None,
        f"the units of `layer` {layer!r} cannot be masked: its weights enter no "
        "product or convolution whose results are units, and no `scan` state is made "
        "from them (a look-up, a group of layers, or a layer inside another loop has "
        f"no units here). Choose another layer of {layers}.",
    )
    assert units is not None
    return units


def units_or_none(program: Program, layer: str) -> Units | None:
    """The output units of a layer; None if they cannot be distinguished."""
    weights = weights_of(program)
    names = [n for n in weights if n == layer or parent_of(n) == layer]
    own = {weights[name] for name in names}
    inside = {p for name, p in weights.items() if is_within(name, layer)}
    if len(names) > 1 and are_apart(program, names):
        return _heads(program, layer, inside)
    found = first_use(program, own, (*PRODUCTS, "scan")) if own else None
    if not own:
        found = first_use(program, inside, ("scan",))
        if found is None:
            return _heads(program, layer, inside)
    if found is None:
        return None
    number, sides = found
    if program.steps[number].eqn.primitive.name == "scan":
        return _in_loop(program, number, sides)
    return _behind_product(program, number, sides[0])


def _heads(program: Program, layer: str, places: set[int]) -> Units | None:
    found = find_heads(program, places)
    # A group of several blocks has no heads of its own.
    if found is None or any(is_around(layer, n) for n in attention_names(program)):
        return None
    made, fed, reads = found
    ((place, (axis, head)),) = made.items()
    # A head without values is zero; of the two operands, values have more sources.
    sides = [
        sources(program, walk_back(program, {operand: where}))
        for operand, where in fed.items()
    ]
    return Units(len(head), reads, max(sides, key=len), place=place, axis=axis)


def _behind_product(program: Program, number: int, side: int) -> Units | None:
    step = program.steps[number]
    axis = result_axis(program, step, side)
    if axis is None:
        return None
    start = step.outputs[0]
    size = program.shapes[start][axis]
    tracked: Tracked = {start: (axis, np.arange(size))}
    reads, parents = find_reads(program, tracked, number + 1)
    used = above(parents, {read.place for read in reads})
    fed = walk_back(program, {place: tracked[place] for place in used})
    place = _activations(program, tracked, parents, {read.place for read in reads})
    weight_axis = source_axis(program, step, side, axis)
    assert weight_axis is not None
    return Units(
        size,
        reads,
        sources(program, fed),
        place=place,
        axis=tracked[place][0],
        product=(number, side, weight_axis),
    )


def _activations(
    program: Program,
    tracked: Tracked,
    parents: Mapping[int, set[int]],
    read: set[int],
) -> int:
    """The last value that all readers need, made entry by entry from the units."""
    made = {out: step for step in program.steps for out in step.outputs}
    (start,) = (place for place, direct in parents.items() if not direct)
    reached, last = {start}, start
    for place, direct in parents.items():
        name = made[place].eqn.primitive.name
        if not direct <= reached or name not in {*ENTRYWISE, *MOVES}:
            continue
        if len(tracked[place][1]) != len(tracked[start][1]):
            continue
        reached.add(place)
        around = below(parents, {start}, without=place) | {start}
        if not (around - {place}) & read:
            last = place
    return last


def _in_loop(program: Program, number: int, sides: Sequence[int]) -> Units | None:
    step = program.steps[number]
    num_consts, num_carry = scan_counts(step.eqn)
    is_data = [item in program.from_data for item in step.inputs]
    body = body_of(step, is_data)
    places = {body.inputs[side] for side in sides if side < num_consts}
    carries = body.outputs[:num_carry]
    driven = _driven(body, places, {c for c in carries if isinstance(c, int)})
    state = {k: driven[c] for k, c in enumerate(carries) if c in driven}
    sizes = {body.shapes[carries[k]][axis] for k, axis in state.items()}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    unit = np.arange(size)
    tracked: Tracked = {}
    for k, axis in state.items():
        tracked[body.inputs[num_consts + k]] = (axis, unit)
        tracked[carries[k]] = (axis, unit)
    within, _ = find_reads(body, tracked, 0, mixing=True, loop=number)
    behind: Tracked = {step.outputs[k]: (axis, unit) for k, axis in state.items()}
    for k in range(num_carry, len(step.outputs)):
        if body.outputs[k] in tracked:
            axis, owner = tracked[body.outputs[k]]
            behind[step.outputs[k]] = (axis + 1, owner)
    after, parents = find_reads(program, behind, number + 1)
    used = above(parents, {read.place for read in after})
    # The loop's constants and the initial state come from outside.
    inside = walk_back(body, {carries[k]: (axis, unit) for k, axis in state.items()})
    fed: Tracked = {place: behind[place] for place in used}
    for k, item in enumerate(step.inputs):
        if is_data[k] or not isinstance(item, int):
            continue
        if k < num_consts and body.inputs[k] in inside:
            fed[item] = inside[body.inputs[k]]
        elif k - num_consts in state:
            fed[item] = (state[k - num_consts], unit)
    found = sources(program, walk_back(program, fed))
    return Units(size, (*within, *after), found, {number: body})


def _driven(body: Program, places: set[int], carries: set[int]) -> dict[int, int]:
    """Carries that a step of a loop computes from the weights, with the units' axis."""
    places = set(places)
    axes: dict[int, int] = {}
    for step in body.steps:
        hits = [i for i, item in enumerate(step.inputs) if item in places]
        name = step.eqn.primitive.name
        if hits and (name in MOVES or name == "concatenate"):
            places |= set(step.outputs)
        elif hits and name in PRODUCTS:
            axis = result_axis(body, step, hits[0])
            if axis is not None:
                axes[step.outputs[0]] = axis
        # A unit's gates act only on this unit, so positions need not be distinguished.
        tracked: Tracked = {
            item: (axes[item], np.zeros(body.shapes[item][axes[item]], int))
            for item in step.inputs
            if item in axes and item not in carries
        }
        for place, (axis, _) in tracked_results(
            body, step, tracked, mixing=True
        ).items():
            axes[place] = axis
    return {place: axis for place, axis in axes.items() if place in carries}
