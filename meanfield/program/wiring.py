"""Which parameters feed the units of a layer, and where the units are read.

A unit is one output of a dense layer or one channel of a convolution. Its activation is
followed from the product with the layer's weights through what acts on it alone (bias,
scale, nonlinearity); walking back the same way finds the parameters.
"""

import dataclasses
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.program.primitives import ENTRYWISE

from .steps import Program

_PRODUCTS = ("dot_general", "conv_general_dilated")
_MOVES = frozenset("transpose reshape squeeze broadcast_in_dim".split())


@dataclasses.dataclass(frozen=True)
class Units:
    """The output units of a dense or convolutional layer.

    Attributes:
        place: their activations, the last value that each unit alone decides.
        axis: its axis that counts the units.
        size: number of units.
    """

    place: int
    axis: int
    size: int


def layer_names(program: Program) -> list[str]:
    """Layers with weights, by parameter path without its last name."""
    names = {
        name.rpartition("/")[0]
        for name, place in program.leaves.items()
        if len(program.shapes[place]) >= 2
    }
    return sorted(names)


def named_units(program: Program, layer: str) -> Units:
    """The units of a layer.

    Raises:
        ValueError: there is no such layer, or its units cannot be told apart.
    """
    known = layer_names(program)
    require(
        layer in known,
        f"a layer must be named by a parameter path without its last name; got "
        f"{layer!r}. There are {known}.",
    )
    units = find_units(program, layer)
    require(
        units is not None,
        f"the units of layer {layer!r} cannot be told apart: its weights meet no "
        "product or convolution of the network's outer level (a look-up, or a layer "
        "inside a loop). Choose another layer.",
    )
    assert units is not None
    return units


def find_units(program: Program, layer: str) -> Units | None:
    """The units of a layer; None if no product of the outer level tells them apart."""
    places = {
        place
        for name, place in program.leaves.items()
        if name.rpartition("/")[0] == layer and len(program.shapes[place]) >= 2
    }
    axes: dict[int, int] = {}
    for step in program.steps:
        name, inputs, out = step.eqn.primitive.name, step.inputs, step.outputs[0]
        if not axes:
            sides = [side for side, item in enumerate(inputs) if item in places]
            if sides and name in _MOVES:
                places.add(out)
            elif sides and name in _PRODUCTS:
                axis = _unit_axis(step.eqn, sides[0])
                if axis is None:
                    return None
                axes[out] = axis
            continue
        own = [item for item in inputs if isinstance(item, int) and item in axes]
        others = [item for item in inputs if isinstance(item, int) and item not in axes]
        if (
            own
            and name in {*_MOVES, *ENTRYWISE}
            and not program.from_data & set(others)
        ):
            axis = _result_axis(step.eqn, program, own[0], out, axes[own[0]])
            if axis is not None:
                axes[out] = axis
                continue
        if own:
            break
    if not axes:
        return None
    place = max(axes)
    return Units(place, axes[place], program.shapes[place][axes[place]])


def _unit_axis(eqn: Any, side: int) -> int | None:
    """Axis of a product's result that the weights' only free axis becomes."""
    if eqn.primitive.name == "conv_general_dilated":
        return eqn.params["dimension_numbers"].out_spec[1] if side == 1 else None
    free = _free_axes(eqn)
    if len(free[side]) != 1 or eqn.params["dimension_numbers"][1][0]:
        return None
    return len(free[0]) if side else 0


def _result_axis(
    eqn: Any, program: Program, place: int, out: int, axis: int
) -> int | None:
    """Axis of a step's result that an axis of its operand becomes."""
    name, shape, new = eqn.primitive.name, program.shapes[place], program.shapes[out]
    if name == "transpose":
        return list(eqn.params["permutation"]).index(axis)
    if name == "broadcast_in_dim":
        return int(eqn.params["broadcast_dimensions"][axis])
    if name in ("reshape", "squeeze"):
        return _reshaped_axis(new, shape, axis)
    return axis


def incoming_axes(program: Program, units: Units) -> dict[str, int]:
    """Parameters that feed the units of a layer, and their axis that counts units.

    Walks back from the units through activation, scale and bias to the weights. A
    parameter that is read elsewhere as well is silenced there too.

    Args:
        program: the network.
        units: of one of its layers.
    """
    names = {place: name for name, place in program.leaves.items()}
    axes = {units.place: units.axis}
    found: dict[str, int] = {}
    for step in reversed(program.steps):
        axis = next((axes[out] for out in step.outputs if out in axes), None)
        if axis is None:
            continue
        out = program.shapes[step.outputs[0]]
        for side, item in enumerate(step.inputs):
            if not isinstance(item, int):
                continue
            source = _source_axis(step.eqn, side, program.shapes[item], out, axis)
            if source is None:
                continue
            if item in names:
                found[names[item]] = source
            else:
                axes.setdefault(item, source)
    return found


def _source_axis(
    eqn: Any, side: int, shape: tuple[int, ...], out: tuple[int, ...], axis: int
) -> int | None:
    """Axis of an operand that becomes an axis of the result; None if there is none."""
    name, params = eqn.primitive.name, eqn.params
    if name == "transpose":
        return int(params["permutation"][axis])
    if name == "broadcast_in_dim":
        here = [int(a) for a in params["broadcast_dimensions"]]
        source = here.index(axis) if axis in here else None
    elif name in ("reshape", "squeeze"):
        source = _reshaped_axis(shape, out, axis)
    elif name in ENTRYWISE:
        source = axis if len(shape) == len(out) else None
    elif name == "dot_general":
        source = _free_axis(eqn, side, axis)
    elif name == "conv_general_dilated" and side == 1:
        return params["dimension_numbers"].rhs_spec[0]
    else:
        return None
    return source if source is not None and shape[source] == out[axis] else None


def _reshaped_axis(
    shape: tuple[int, ...], out: tuple[int, ...], axis: int
) -> int | None:
    """The axis before a reshape with as many entries before and after it."""
    before, after = int(np.prod(out[:axis])), int(np.prod(out[axis + 1 :]))
    for source, size in enumerate(shape):
        ends = int(np.prod(shape[:source])), int(np.prod(shape[source + 1 :]))
        if size == out[axis] and ends == (before, after):
            return source
    return None


def _free_axis(eqn: Any, side: int, axis: int) -> int | None:
    """Axis of one operand of a product that an axis of its result comes from."""
    free = _free_axes(eqn)
    batch = eqn.params["dimension_numbers"][1][0]
    place = axis - len(batch) - (len(free[0]) if side else 0)
    return free[side][place] if 0 <= place < len(free[side]) else None


def _free_axes(eqn: Any) -> list[list[int]]:
    """Axes of both operands of a product that are neither summed nor shared."""
    contracted, batch = eqn.params["dimension_numbers"]
    return [
        [
            axis
            for axis in range(len(atom.aval.shape))
            if axis not in contracted[side] and axis not in batch[side]
        ]
        for side, atom in enumerate(eqn.invars)
    ]
