"""The heads of an attention module: the value that the output projection reads.

An attention head sums the values at other positions with weights that depend on the
data. This is a product of two operands that both depend on the data, and the heads are
one of its batch axes. The output projection is the first product with fixed weights of
the same module that sums over this axis. In the operand of this projection a
cooperative game replaces a head by a constant, as in the exported network without it.
"""

from collections.abc import Iterable

import numpy as np

from .primitives import PRODUCTS
from .reads import UnitRead, find_reads
from .steps import Program
from .tracking import Tracked


def find_heads(
    program: Program, places: Iterable[int]
) -> tuple[Tracked, Tracked, tuple[UnitRead, ...]] | None:
    """The values in which a module's heads are computed and read; None without heads.

    Args:
        program: the network.
        places: the module's weights.

    Returns:
        The value that the heads compute and its axis that counts them; the same for the
        two operands from which it is computed; and its reads.
    """
    weights = _moved(program, set(places))
    for number, step in enumerate(program.steps):
        if step.eqn.primitive.name != "dot_general" or not all(
            item in program.from_data for item in step.inputs
        ):
            continue
        _, batch = step.eqn.params["dimension_numbers"]
        place = step.outputs[0]
        for axis in range(len(batch[0])):
            head = np.arange(program.shapes[place][axis])
            tracked: Tracked = {place: (axis, head)}
            made: Tracked = {place: (axis, head)}
            reads, _ = find_reads(program, tracked, number + 1)
            if reads and all(_projected(program, read, weights) for read in reads):
                pairs = zip(step.inputs, batch, strict=True)
                fed: Tracked = {p: (own[axis], head) for p, own in pairs}
                return made, fed, reads
    return None


def _projected(program: Program, read: UnitRead, weights: set[int]) -> bool:
    """Whether a value is read only by products with the module's own weights."""
    others = (program.steps[n].inputs[1 - side] for n, side in read.products)
    return not read.others and all(other in weights for other in others)


def _moved(program: Program, places: set[int]) -> set[int]:
    """The places, and those computed only from them without products."""
    found = set(places)
    for step in program.steps:
        inputs = {item for item in step.inputs if isinstance(item, int)}
        name = step.eqn.primitive.name
        if inputs and inputs <= found and name not in PRODUCTS:
            found |= set(step.outputs)
    return found
