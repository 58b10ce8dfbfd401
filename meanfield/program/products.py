"""Axes of products: which are summed, and which become axes of the result."""

from typing import Any

from .primitives import PRODUCTS
from .steps import Program, Step


def result_axis(program: Program, step: Step, side: int) -> int | None:
    """Axis of a product's result that corresponds to the only free axis of an operand.

    None if the operand has no free axis or several, or if there is a batch axis. For
    the kernel of a convolution it is the axis that counts output channels.
    """
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return numbers.out_spec[1] if side == 1 else None
    free = free_axes(program, step)
    if len(free[side]) != 1 or numbers[1][0]:
        return None
    return 0 if side == 0 else len(free[0])


def source_axis(program: Program, step: Step, side: int, axis: int) -> int | None:
    """Axis of a product's operand that corresponds to an axis of the result."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return numbers.rhs_spec[0] if side == 1 else None
    free = free_axes(program, step)
    own = axis - len(numbers[1][0]) - (len(free[0]) if side else 0)
    return free[side][own] if 0 <= own < len(free[side]) else None


def weight_axis(step: Step, side: int, axis: int) -> int:
    """Axis of a product's weights that is summed with an axis of the other operand."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "conv_general_dilated":
        return numbers.rhs_spec[1]
    contracted, _ = numbers
    return contracted[1 - side][contracted[side].index(axis)]


def summed_axes(step: Step, side: int) -> tuple[int, ...]:
    """Axes of an operand that a product sums with the same weights at all positions."""
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "dot_general":
        contracted, batch = numbers
        return () if batch[0] else tuple(contracted[side])
    if side == 0 and step.eqn.params["feature_group_count"] == 1:
        return (numbers.lhs_spec[1],)
    return ()


def weighted_operands(program: Program, number: int, place: int, axis: int):
    """Operands of a step that are `place`, summed along `axis` with fixed weights."""
    step = program.steps[number]
    if step.eqn.primitive.name not in PRODUCTS:
        return []
    return [
        side
        for side, item in enumerate(step.inputs)
        if item == place
        and axis in summed_axes(step, side)
        and step.inputs[1 - side] not in program.from_data
    ]


def free_axes(program: Program, step: Step) -> list[list[int]]:
    """Free axes of both operands of a `dot_general`: neither summed nor batch axes."""
    contracted, batch = step.eqn.params["dimension_numbers"]
    shapes: list[Any] = [atom.aval for atom in step.eqn.invars]
    return [
        [a for a in range(value.ndim) if a not in (*contracted[side], *batch[side])]
        for side, value in enumerate(shapes)
    ]
