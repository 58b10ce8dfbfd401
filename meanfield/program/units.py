"""Where the output units of a layer are read by the rest of its network.

A unit is one output of a dense layer, one channel of a convolution, or one entry of the
state of a recurrent cell. It is followed along steps that act on every unit alone
(activation, norm with fixed statistics, pooling, flattening) to each value that some
other step reads: there a unit can be held at a constant, as in the network that ships
without it. Units of a recurrent cell are read inside its loop and behind it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from meanfield.checks import require
from meanfield.program.primitives import ENTRYWISE

from .jaxprs import scan_counts
from .steps import Program, Step, body_of

_MOVES = frozenset(
    "transpose reshape broadcast_in_dim convert_element_type copy squeeze".split()
)
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod".split())
Tracked = dict[int, tuple[int, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A value through which the rest of the network sees the units.

    Attributes:
        place: the value.
        axis: its axis along which the units lie.
        owner: the unit of every position along that axis.
        kept: axes that a unit's mean is not taken over: those the reader sums.
        products: readers that are products with fixed weights: (step, operand).
        others: whether anything else reads it.
        loop: the step whose body the place belongs to; None outside of loops.
    """

    place: int
    axis: int
    owner: Int[np.ndarray, " positions"]
    kept: tuple[int, ...]
    products: tuple[tuple[int, int], ...]
    others: bool
    loop: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The output units of a layer.

    Attributes:
        size: number of units.
        readings: where they are read, in order.
        bodies: bodies of the loops that they live in, by step.
    """

    size: int
    readings: tuple[Reading, ...]
    bodies: Mapping[int, Program]


def find_units(program: Program, layer: str) -> Units:
    """The output units of a layer.

    Args:
        program: the network.
        layer: a parameter path without its last name, such as ``"layers/1"``, or the
            path of a recurrent cell.

    Raises:
        ValueError: there is no such layer, or its units cannot be told apart.
    """
    weights = {
        name: place
        for name, place in program.leaves.items()
        if len(program.shapes[place]) >= 2
    }
    own = {p for name, p in weights.items() if name.rpartition("/")[0] == layer}
    inside = {p for name, p in weights.items() if name.startswith(f"{layer}/")}
    layers = sorted({name.rpartition("/")[0] for name in weights})
    require(
        bool(inside),
        f"`layer` must be a layer with weights; got {layer!r}. There are {layers}.",
    )
    found = _first_use(program, own, (*_PRODUCTS, "scan")) if own else None
    if not own:
        found = _first_use(program, inside, ("scan",))
    units = None
    if found is not None:
        step = program.steps[found[0]]
        units = (
            _in_loop(program, *found)
            if step.eqn.primitive.name == "scan"
            else _behind_product(program, found[0], found[1][0])
        )
    require(
        units is not None,
        f"the units of `layer` {layer!r} cannot be masked: its weights meet no product "
        "or convolution whose results are units, and drive no state of a `scan` (a "
        "look-up, a group of layers, or a layer inside another loop has no units "
        f"here). Choose another layer of {layers}.",
    )
    assert units is not None
    return units


def product_of(program: Program, layer: str) -> tuple[int, int, int]:
    """The product of a layer: its step, the weights' operand and their unit axis.

    Raises:
        ValueError: the layer has no product outside of loops.
    """
    own = {p for name, p in program.leaves.items() if name.rpartition("/")[0] == layer}
    own = {place for place in own if len(program.shapes[place]) >= 2}
    found = _first_use(program, own, _PRODUCTS)
    require(found is not None, f"`layer` {layer!r} has no product of its own.")
    assert found is not None
    number, (side, *_) = found
    step = program.steps[number]
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return number, side, numbers.rhs_spec[0]
    contracted = numbers[0][side]
    rank = len(program.shapes[step.inputs[side]])
    (axis,) = (a for a in range(rank) if a not in contracted)
    return number, side, axis


def is_product(program: Program, number: int, place: int, axis: int) -> list[int]:
    """Operands of a step that are `place`, summed along `axis` with fixed weights."""
    step = program.steps[number]
    name = step.eqn.primitive.name
    if name not in _PRODUCTS:
        return []
    return [
        side
        for side, item in enumerate(step.inputs)
        if item == place
        and axis in _summed(step, side)
        and step.inputs[1 - side] not in program.from_data
    ]


def _behind_product(program: Program, number: int, side: int) -> Units | None:
    step = program.steps[number]
    axis = _result_axis(program, step, side)
    if axis is None:
        return None
    place = step.outputs[0]
    size = program.shapes[place][axis]
    tracked: Tracked = {place: (axis, np.arange(size))}
    return Units(size, _follow(program, tracked, number + 1), {})


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
    within = _follow(body, tracked, 0, mixing=True, loop=number)
    behind: Tracked = {step.outputs[k]: (axis, unit) for k, axis in state.items()}
    for k in range(num_carry, len(step.outputs)):
        if body.outputs[k] in tracked:
            axis, owner = tracked[body.outputs[k]]
            behind[step.outputs[k]] = (axis + 1, owner)
    after = _follow(program, behind, number + 1)
    return Units(size, (*within, *after), {number: body})


def _driven(body: Program, places: set[int], carries: set[int]) -> dict[int, int]:
    """Carries that weights drive in one step of a loop, with the axis of the units."""
    places = set(places)
    axes: dict[int, int] = {}
    for step in body.steps:
        hits = [i for i, item in enumerate(step.inputs) if item in places]
        name = step.eqn.primitive.name
        if hits and (name in _MOVES or name == "concatenate"):
            places |= set(step.outputs)
        elif hits and name in _PRODUCTS:
            axis = _result_axis(body, step, hits[0])
            if axis is not None:
                axes[step.outputs[0]] = axis
        # Nobody but the unit reads its gates: their positions need no names.
        tracked: Tracked = {
            item: (axes[item], np.zeros(body.shapes[item][axes[item]], int))
            for item in step.inputs
            if item in axes and item not in carries
        }
        for place, (axis, _) in _passed(body, step, tracked, mixing=True).items():
            axes[place] = axis
    return {place: axis for place, axis in axes.items() if place in carries}


def _first_use(
    program: Program, places: set[int], kinds: Sequence[str]
) -> tuple[int, list[int]] | None:
    """The first step of some kind that reads one of the places, and which operands."""
    places = set(places)
    for number, step in enumerate(program.steps):
        hits = [i for i, item in enumerate(step.inputs) if item in places]
        name = step.eqn.primitive.name
        if hits and name in _MOVES:
            places |= set(step.outputs)
        elif hits and name in kinds:
            return number, hits
    return None


def _follow(
    program: Program,
    tracked: Tracked,
    first: int,
    *,
    mixing: bool = False,
    loop: int | None = None,
) -> tuple[Reading, ...]:
    """Along steps that act on every unit alone, to the values that others read.

    `tracked` gains the places on the way. With `mixing` a unit may be combined with
    anything entry by entry, as its gates and its memory are.
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
        passed = _passed(program, step, on, mixing=mixing)
        if passed:
            for place, where in passed.items():
                if place not in tracked:
                    tracked[place], parents[place] = where, touched
            continue
        for place in touched:
            axis = tracked[place][0]
            sides = is_product(program, number, place, axis)
            if sides:
                readers.setdefault(place, []).extend((number, s) for s in sides)
                summed = set(_summed(step, sides[0]))
                kept[place] = kept.get(place, summed) & summed
            else:
                others.add(place)
    if loop is None:
        others |= {place for place in program.outputs if place in tracked}
    merged = _merged(parents, {*readers, *others}, others)
    return tuple(
        Reading(
            place,
            *tracked[place],
            tuple(sorted({tracked[place][0], *kept.get(place, ())}))
            if place not in merged
            else (tracked[place][0],),
            () if place in merged else tuple(readers.get(place, ())),
            place in merged,
            loop,
        )
        for place in sorted(
            {*readers, *merged} - _below(parents, merged) if merged else {*readers}
        )
    )


def _merged(
    parents: Mapping[int, set[int]], readings: set[int], others: set[int]
) -> set[int]:
    """For readers that are no products: the last value that all of them depend on.

    A norm over the units reads x and x²; a unit held at rest must be at one x.
    """
    found = set()
    for start in (place for place, above in parents.items() if not above):
        mine = _below(parents, {start}) | {start}
        if not mine & others:
            continue
        for place in sorted(mine, reverse=True):
            around = _below(parents, {start}, without=place) | {start}
            if place == start or not around & readings & mine - {place}:
                found.add(place)
                break
    return found


def _below(
    parents: Mapping[int, set[int]], places: set[int], without: int | None = None
) -> set[int]:
    """What is computed from some places, on ways that avoid one."""
    found: set[int] = set()
    for place, above in parents.items():
        if place != without and above & ({*places, *found} - {without}):
            found.add(place)
    return found


def _passed(program: Program, step: Step, tracked: Tracked, *, mixing: bool) -> Tracked:
    """Where units are in the results of a step that acts on every unit alone."""
    if not tracked:
        return {}
    name, params = step.eqn.primitive.name, step.eqn.params
    axis, owner = next(iter(tracked.values()))
    place = next(iter(tracked))
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
    if len(tracked) > 1:
        return {}
    if name == "transpose":
        return {out: (list(params["permutation"]).index(axis), owner)}
    if name == "broadcast_in_dim":
        new = int(params["broadcast_dimensions"][axis])
        same = params["shape"][new] == shape[axis]
        return {out: (new, owner)} if same else {}
    if name in ("reshape", "squeeze"):
        return _reshaped(shape, program.shapes[out], axis, owner, out)
    if name == "slice":
        strides = params["strides"] or (1,) * len(shape)
        cut = slice(
            params["start_indices"][axis], params["limit_indices"][axis], strides[axis]
        )
        return {out: (axis, owner[cut])}
    if name == "split":
        if params["axis"] != axis:
            return dict.fromkeys(step.outputs, (axis, owner))
        ends = np.cumsum(params["sizes"])[:-1]
        parts = np.split(owner, ends)
        return {p: (axis, o) for p, o in zip(step.outputs, parts, strict=True)}
    if name in _REDUCTIONS and axis not in params["axes"]:
        return {out: (axis - sum(int(a) < axis for a in params["axes"]), owner)}
    if name.startswith("reduce_window") and len(step.outputs) == 1:
        alone = (
            params["window_dimensions"][axis] == 1
            and params["window_strides"][axis] == 1
            and tuple(params["padding"][axis]) == (0, 0)
        )
        return {out: (axis, owner)} if alone else {}
    return {}


def _reshaped(
    old: Sequence[int], new: Sequence[int], axis: int, owner: Any, out: int
) -> Tracked:
    """Units along one axis of the new shape, where they still lie along one."""
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
        return {}
    index = tuple(slice(None) if d == along[0] else 0 for d in range(labels.ndim))
    return {out: (k + along[0], labels[index])}


def _block(
    old: Sequence[int], new: Sequence[int], axis: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest ranges of old and new axes around `axis` that hold the same."""
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


def weight_axis(step: Step, side: int, axis: int) -> int:
    """Axis of a product's weights that is summed with an axis of the other operand."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return numbers.rhs_spec[1]
    contracted, _ = numbers
    return contracted[1 - side][contracted[side].index(axis)]


def _summed(step: Step, side: int) -> tuple[int, ...]:
    """Axes of an operand that a product sums over."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "dot_general":
        contracted, batch = numbers
        return () if batch[0] else tuple(contracted[side])
    if side == 0 and step.eqn.params["feature_group_count"] == 1:
        return (numbers.lhs_spec[1],)
    return ()


def _result_axis(program: Program, step: Step, side: int) -> int | None:
    """Axis of a product's result that the weight's only free axis becomes."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return numbers.out_spec[1] if side == 1 else None
    contracted, batch = numbers
    free = [
        [
            axis
            for axis in range(len(program.shapes[item]))
            if axis not in contracted[number] and axis not in batch[number]
        ]
        for number, item in enumerate(step.inputs)
        if isinstance(item, int)
    ]
    if len(free) != 2 or len(free[side]) != 1 or batch[0]:
        return None
    return 0 if side == 0 else len(free[0])


_PRODUCTS: tuple[str, ...] = ("dot_general", "conv_general_dilated")
