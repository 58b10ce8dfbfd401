"""Origins of results of linear primitives, from those of operands; see `readings`.

A rule is called as ``rule(walk, eqn, origins)`` when an operand holds random weights.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .origins import Origin, insert, join, look_up, spread


def _sum(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    origins, shaped = _spread_all(eqn, origins)
    random = [origin for origin in origins if origin.leaves]
    walk.meet(eqn, random, all(origin.drawable for origin in random))
    if any(origin.signal for origin in shaped):
        # A weight added to a signal is a pre-activation.
        for origin in random:
            walk.note(origin, walk.copies(eqn.outvars[0], origin))
        return Origin(signal=True)
    result = join(*origins)
    return dataclasses.replace(result, drawable=result.drawable or bool(shaped))


def _product(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    if eqn.primitive.name == "div" and origins[1].leaves:
        return walk.other(eqn, origins)[0]
    origins, shaped = _spread_all(eqn, origins)
    result = join(*walk.one_weight(eqn, *origins))
    drawable = result.drawable or bool(shaped)
    if not result.signal:
        return dataclasses.replace(result, drawable=drawable)
    # Copies that are multiplied by different signals are several uses of one weight.
    places = result.repeated | result.copied
    return dataclasses.replace(
        result, drawable=drawable, copied=frozenset(), repeated=places
    )


def _spread_all(
    eqn: Any, origins: Sequence[Origin]
) -> tuple[list[Origin], list[Origin]]:
    """Origins in the shape of the result, and separately those of the plain arrays."""
    new = eqn.outvars[0].aval.shape
    shapes = [atom.aval.shape for atom in eqn.invars]
    pairs = list(zip(origins, shapes, strict=True))
    shaped = [origin for origin, shape in pairs if shape and not origin.leaves]
    return [spread(origin, shape, new) for origin, shape in pairs], shaped


def _dot(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    axes, _ = eqn.params["dimension_numbers"]
    return walk.contraction(eqn, walk.one_weight(eqn, *origins), axes)


def _conv(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    numbers = eqn.params["dimension_numbers"]
    # All axes of the images except the batch, and of the kernels except the outputs.
    axes = (numbers.lhs_spec[1:], numbers.rhs_spec[1:])
    return walk.contraction(eqn, walk.one_weight(eqn, *origins), axes)


def _reduce_sum(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    return walk.contraction(eqn, origins, [eqn.params["axes"]])


def _gather(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    shape, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    found = look_up(eqn.params, shape, new, origins[0])
    return dataclasses.replace(found, signal=any(o.signal for o in origins))


def _dynamic_slice(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    signal = any(origin.signal for origin in origins)
    return dataclasses.replace(origins[0], signal=signal, drawable=True)


def _concatenate(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    return _put_together(origins, [int(eqn.params["dimension"])])


def _stack(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    axis = int(eqn.params["axis"])
    return _put_together([insert(origin, axis) for origin in origins], [axis])


def _tile(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    (origin,) = origins
    many = {axis for axis, number in enumerate(eqn.params["reps"]) if number > 1}
    return dataclasses.replace(origin, repeated=origin.repeated | many)


def _select(walk: Any, eqn: Any, origins: list[Origin]) -> Origin:
    which, *cases = origins
    result = _put_together(cases, range(len(eqn.outvars[0].aval.shape)))
    return dataclasses.replace(result, signal=result.signal or which.signal)


def _put_together(origins: Sequence[Origin], axes: Iterable[int]) -> Origin:
    """The origin of parts joined along axes; several parts may hold the same weight."""
    result = origins[0]
    for origin in origins[1:]:
        twice = frozenset(axes) if result.leaves & origin.leaves else frozenset()
        result = join(result, origin)
        result = dataclasses.replace(result, repeated=result.repeated | twice)
    return result


RULES: dict[str, Callable[..., Origin]] = {
    **dict.fromkeys(("add", "sub", "add_any"), _sum),
    **dict.fromkeys(("mul", "div"), _product),
    "neg": lambda walk, eqn, origins: origins[0],
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_sum": _reduce_sum,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "pad": lambda walk, eqn, origins: join(*origins),
    "concatenate": _concatenate,
    "select_n": _select,
    "stack": _stack,
    "tile": _tile,
}
