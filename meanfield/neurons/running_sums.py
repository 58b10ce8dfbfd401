r"""Dense pre-activations after a layer, as running sums over the layer's units.

    G(S) = G(∅) + Σ_{i∈S} (h_i − r_i) w_i

When the units join in some order, each adds its outer product.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from meanfield.program.jaxprs import bind
from meanfield.program.products import weight_axis
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program
from meanfield.program.units import Units


@dataclasses.dataclass(frozen=True)
class RunningSum:
    """A dense product that reads the layer; its result is a running sum.

    Args:
        read: the read of the units by the product.
        number_of_read: index of this read among the layer's reads.
        number: the product's step in the program.
        side: whether the units are its first or its second operand.
        weight_axis: axis of the weights along which the units lie.
        out: dtype of the result.
    """

    read: UnitRead
    number_of_read: int
    number: int
    side: int
    weight_axis: int
    out: Any


class Shares(eqx.Module):
    """The contribution of every unit to a pre-activation, an outer product.

    Args:
        start: pre-activation of the empty coalition.
        acts: h_i − r_i, (units + 1, positions, others); the last unit adds nothing.
        weights: w_i, (units + 1, positions, others).
        weights_first: whether the axes of the weights come first in the result.
    """

    start: Array
    acts: Array
    weights: Array
    weights_first: bool = eqx.field(static=True)

    def share(self, players: Int[Array, " orders"]) -> Array:
        """The contributions of one player of each order."""
        # Without the barrier XLA fuses look-up and product, and repeats the look-up per
        # entry.
        first, second = jax.lax.optimization_barrier(
            (self.acts[players], self.weights[players])
        )
        if self.weights_first:
            first, second = second, first
        if first.shape[1] == 1:
            product = first[:, 0, :, None] * second[:, 0, None, :]
        else:
            product = jnp.einsum("opa,opb->oab", first, second)
        return product.reshape(len(players), *self.start.shape)


def running_sums(
    program: Program, units: Units, made: set[int]
) -> list[RunningSum] | None:
    """The products that read the units; None if any other step reads them.

    Args:
        program: the network.
        units: the units of the layer.
        made: places that are computed after the layer.
    """
    sums = []
    for number_of_read, read in enumerate(units.reads):
        counts = np.bincount(read.owner, minlength=units.size)
        if (
            read.others
            or read.loop is not None
            or read.place in made
            or read.kept != (read.axis,)
            or (counts != counts[0]).any()
        ):
            return None
        for number, side in read.products:
            eqn: Any = program.steps[number].eqn
            if eqn.primitive.name != "dot_general":
                return None
            axis = weight_axis(program.steps[number], side, read.axis)
            out = eqn.outvars[0].aval.dtype
            sums.append(RunningSum(read, number_of_read, number, side, axis, out))
    return sums or None


def shares_of(
    product: RunningSum, program: Program, values: Mapping[int, Any], rest: Array
) -> Shares:
    """The contributions of the units to one pre-activation.

    Args:
        product: the product that reads them.
        program: the network.
        values: values from before the layer, by place.
        rest: the constants r_i of units outside the coalition.
    """
    read = product.read
    value = values[read.place]
    step = program.steps[product.number]
    weight = program.read(values, step.inputs[1 - product.side])
    resting = jnp.broadcast_to(rest, value.shape).astype(value.dtype)
    operands = [resting, weight] if product.side == 0 else [weight, resting]
    (start,) = bind(step.eqn, *operands)
    wide = jnp.promote_types(start.dtype, jnp.float32)
    size = int(read.owner.max()) + 1
    acts = _by_unit(value - rest, read.axis, read.owner, size)
    weights = _by_unit(weight, product.weight_axis, read.owner, size)
    return Shares(
        start.astype(wide),
        acts.astype(wide),
        weights.astype(wide),
        weights_first=product.side == 1,
    )


def _by_unit(value: Array, axis: int, owner: Any, size: int) -> Array:
    """Reshape to (units + 1, positions of a unit, everything else), last unit zero."""
    moved = jnp.moveaxis(value, axis, 0)
    order = np.argsort(owner, kind="stable")
    grouped = moved[order].reshape(size, len(owner) // size, -1)
    return jnp.concatenate([grouped, jnp.zeros_like(grouped[:1])])
