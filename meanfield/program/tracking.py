"""Positions of the units of a layer in values before and after a step.

Units lie along one axis of a value; after a flattening several positions may belong to
one unit. This is described by a pair (axis, owner): owner is the unit of every position
along the axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .primitives import ENTRYWISE, REDUCTIONS
from .products import source_axis
from .steps import Program, Step

Tracked = dict[int, tuple[int, np.ndarray]]
NO_UNIT = -1  # owner of positions without a unit


def tracked_results(
    program: Program, step: Step, tracked: Mapping, *, mixing: bool
) -> Tracked:
    """Positions of units in the results of a step that acts on each unit separately.

    Args:
        program: the network.
        step: one of its steps.
        tracked: positions of the units in the operands.
        mixing: whether units may be combined, entry by entry, with other data.

    Returns:
        (axis, owner) by value; empty if the step does not act on each unit separately.
    """
    if not tracked:
        return {}
    name, params = step.eqn.primitive.name, step.eqn.params
    place, (axis, owner) = next(iter(tracked.items()))
    shape, out = program.shapes[place], step.outputs[0]
    if name in ENTRYWISE:
        alike = all(
            a == axis and np.array_equal(o, owner) and program.shapes[p] == shape
            for p, (a, o) in tracked.items()
        )
        alone = mixing or not any(
            item in program.from_data for item in step.inputs if item not in tracked
        )
        return {out: (axis, owner)} if alike and alone else {}
    if name == "scatter-add":
        return _added_up(program, step, tracked, mixing)
    if len(tracked) > 1:
        return {}
    if name == "gather":
        new = (
            _axes_looked_up(step, shape).get(axis) if place == step.inputs[0] else None
        )
        return {} if new is None else {out: (new, owner)}
    if name == "transpose":
        return {out: (list(params["permutation"]).index(axis), owner)}
    if name == "broadcast_in_dim":
        new = int(params["broadcast_dimensions"][axis])
        same = params["shape"][new] == shape[axis]
        return {out: (new, owner)} if same else {}
    if name in ("reshape", "squeeze"):
        found = _reshaped(shape, program.shapes[out], axis, owner)
        return {} if found is None else {out: found}
    if name == "slice":
        return {out: (axis, owner[_cut(params, axis)])}
    if name == "split":
        if params["axis"] != axis:
            return dict.fromkeys(step.outputs, (axis, owner))
        parts = np.split(owner, np.cumsum(params["sizes"])[:-1])
        return {p: (axis, o) for p, o in zip(step.outputs, parts, strict=True)}
    if name in REDUCTIONS and axis not in params["axes"]:
        return {out: (axis - sum(int(a) < axis for a in params["axes"]), owner)}
    if name.startswith("reduce_window") and len(step.outputs) == 1:
        alone = (
            params["window_dimensions"][axis] == 1
            and params["window_strides"][axis] == 1
            and tuple(params["padding"][axis]) == (0, 0)
        )
        return {out: (axis, owner)} if alone else {}
    return {}


def _added_up(program: Program, step: Step, tracked: Mapping, mixing: bool) -> Tracked:
    """The sum of the entries of a unit over segments, such as the edges into a node."""
    base, _, updates = step.inputs
    axes = _axes_added(program, step)
    if updates not in tracked or tracked[updates][0] not in axes:
        return {}
    axis, owner = axes[tracked[updates][0]], tracked[updates][1]
    if base in tracked:
        alike = tracked[base][0] == axis and np.array_equal(tracked[base][1], owner)
    else:
        alike = mixing or base not in program.from_data
    return {step.outputs[0]: (axis, owner)} if alike else {}


def tracked_operands(
    program: Program, step: Step, tracked: Mapping[int, tuple[int, np.ndarray]]
) -> Tracked:
    """Positions of units in the operands, from their positions in the results.

    Args:
        program: the network.
        step: one of its steps.
        tracked: positions of the units in the results.
    """
    found: Tracked = {}
    for number, out in enumerate(step.outputs):
        if out not in tracked:
            continue
        axis, owner = tracked[out]
        for side, place in enumerate(step.inputs):
            if not isinstance(place, int):
                continue
            where = _operand(program, step, number, side, axis, owner)
            if where is not None and where[0] < len(program.shapes[place]):
                found[place] = merged(found.get(place), where)
    return found


def merged(
    one: tuple[int, np.ndarray] | None, other: tuple[int, np.ndarray]
) -> tuple[int, np.ndarray]:
    """Units known to either of two results; if their axes differ, the second result."""
    if one is None or one[0] != other[0]:
        return other
    return one[0], np.where(one[1] == NO_UNIT, other[1], one[1])


def _operand(
    program: Program, step: Step, number: int, side: int, axis: int, owner: np.ndarray
) -> tuple[int, np.ndarray] | None:
    name, params = step.eqn.primitive.name, step.eqn.params
    shape = program.shapes[step.inputs[side]]
    out = program.shapes[step.outputs[number]]
    if name in ENTRYWISE:
        whole = len(shape) == len(out) and shape[axis] == out[axis]
        return (axis, owner) if whole else None
    if name == "transpose":
        return int(params["permutation"][axis]), owner
    if name == "broadcast_in_dim":
        here = [int(a) for a in params["broadcast_dimensions"]]
        own = here.index(axis) if axis in here else None
        return None if own is None or shape[own] != out[axis] else (own, owner)
    if name in ("reshape", "squeeze"):
        return _reshaped(out, shape, axis, owner)
    if name in ("gather", "scatter-add") and side == 1:  # indices
        return None
    if name == "scatter-add" and side == 0:
        return axis, owner
    if name in ("gather", "scatter-add"):
        pairs = _axes_added(program, step) if side else _axes_looked_up(step, shape)
        back = {new: own for own, new in pairs.items()}
        return (back[axis], owner) if axis in back else None
    if name in ("dot_general", "conv_general_dilated"):
        own = source_axis(program, step, side, axis)
        return None if own is None or shape[own] != out[axis] else (own, owner)
    if name == "slice" or (name == "split" and params["axis"] == axis):
        whole = np.full(shape[axis], NO_UNIT)
        if name == "slice":
            whole[_cut(params, axis)] = owner
        else:
            start = int(np.sum(params["sizes"][:number]))
            whole[start : start + len(owner)] = owner
        return axis, whole
    if name == "concatenate":
        if params["dimension"] != axis:
            return axis, owner
        sizes = [program.shapes[item][axis] for item in step.inputs]
        start = sum(sizes[:side])
        return axis, owner[start : start + sizes[side]]
    return (axis, owner) if name == "split" else None


def _axes_looked_up(step: Step, shape: Sequence[int]) -> dict[int, int]:
    """Axes that a `gather` takes whole, with the axes of the result."""
    numbers, sizes = (
        step.eqn.params["dimension_numbers"],
        step.eqn.params["slice_sizes"],
    )
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    pairs = zip(kept, numbers.offset_dims, strict=True)
    return {own: int(new) for own, new in pairs if sizes[own] == shape[own]}


def _axes_added(program: Program, step: Step) -> dict[int, int]:
    """Axes of the updates of a `scatter-add` that cover whole axes of the result."""
    numbers = step.eqn.params["dimension_numbers"]
    old = program.shapes[step.inputs[2]]
    new = program.shapes[step.outputs[0]]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(new)) if axis not in gone]
    pairs = zip(numbers.update_window_dims, kept, strict=True)
    return {int(own): to for own, to in pairs if old[own] == new[to]}


def _cut(params: Any, axis: int) -> slice:
    strides = params["strides"]
    return slice(
        params["start_indices"][axis],
        params["limit_indices"][axis],
        1 if strides is None else strides[axis],
    )


def _reshaped(
    old: Sequence[int], new: Sequence[int], axis: int, owner: Any
) -> tuple[int, np.ndarray] | None:
    """Positions of units in the new shape; None if they do not lie along one axis."""
    if len(owner) == 1:
        # A single unit can be assigned to any axis of length 1.
        return (list(new).index(1), owner) if 1 in new else None
    (i, j), (k, m) = _block(old, new, axis)
    labels = np.expand_dims(owner, tuple(d for d in range(j - i) if d != axis - i))
    labels = np.broadcast_to(labels, old[i:j]).reshape(new[k:m])
    along = [
        d
        for d in range(labels.ndim)
        if labels.shape[d] > 1 and (np.take(labels, [0], d) != labels).any()
    ]
    if not along:
        along = [d for d in range(labels.ndim) if labels.shape[d] == old[axis]][:1]
    if len(along) != 1:
        return None
    index = tuple(slice(None) if d == along[0] else 0 for d in range(labels.ndim))
    return k + along[0], labels[index]


def _block(
    old: Sequence[int], new: Sequence[int], axis: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest ranges of old and new axes around `axis` with the same entries."""
    i = j = k = m = 0
    while True:
        a, b = old[j] if j < len(old) else 1, new[m] if m < len(new) else 1
        j, m = min(j + 1, len(old)), min(m + 1, len(new))
        while a != b:
            if a < b:
                a, j = a * old[j], j + 1
            else:
                b, m = b * new[m], m + 1
        if i <= axis < j:
            return (i, j), (k, m)
        i, k = j, m
