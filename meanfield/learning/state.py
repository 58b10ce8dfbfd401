"""The state that the steps of a run change and pass on."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from meanfield.checks import is_concrete

# State of the network by path name.
Moving = Mapping[str, Array]
NOTHING: Moving = MappingProxyType({})


class TrainState(eqx.Module):
    """The state that is passed from step to step.

    Attributes:
        learned: the parameters that the optimizer updates.
        optimizer_state: the state of the optimizer.
        step: steps taken so far.
        healthy: False after a step whose loss, gradient or new `moving` was not finite;
            from then on `learned`, `moving` and `step` stay constant.
        moving: the network's own state, such as batch statistics, by path name; calls
            in training mode change it.
    """

    learned: PyTree
    optimizer_state: PyTree
    step: Int[Array, ""]
    healthy: Bool[Array, ""]
    moving: dict[str, Array] = eqx.field(default_factory=dict)

    @property
    def network(self) -> tuple[PyTree, dict[str, Array]]:
        """The arrays of the network: learned parameters, and its own state."""
        return self.learned, self.moving


def starting_state(
    learned: PyTree,
    optimizer: optax.GradientTransformation,
    moving: Moving = NOTHING,
) -> TrainState:
    """The state before the first step, with every array in its own buffer.

    The buffers are donated, so they must not be the caller's arrays, and no two arrays
    may share one.
    """
    zero, healthy = jnp.asarray(np.int32(0)), jnp.asarray(np.True_)
    # One program; without `jit`, zeros of every shape would need their own.
    started = jax.jit(optimizer.init)(learned)
    return copied(TrainState(learned, started, zero, healthy, dict(moving)))


def copied(tree: PyTree) -> PyTree:
    """The tree with every array in its own buffer, without compilation."""

    def copy(array: Any) -> Array:
        # An array on devices of several processes must keep its sharding.
        known = isinstance(array, jax.Array) and is_concrete(array)
        shared = known and not array.is_fully_addressable
        place = array.sharding if shared else None
        return jax.device_put(array, place, may_alias=False)

    return jax.tree.map(copy, tree)
