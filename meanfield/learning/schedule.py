"""What changes from epoch to epoch of one compiled program, and the batches of one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Schedule(eqx.Module):
    """What the selective rule changes from epoch to epoch, in one compiled program.

    Attributes:
        temperature: weight of the KL term, in place of the recipe's.
        cool_from: the step from which the optimizer's steps shrink along a cosine.
        cool_steps: the steps after which they are 0.
        averaging: weight of the newest numbers in their average.
        held: which examples take no part in the epoch; None for batches from outside.
        num_steps: steps of an epoch.
    """

    temperature: Float[Array, ""]
    cool_from: Int[Array, ""]
    cool_steps: Float[Array, ""]
    averaging: Float[Array, ""]
    held: Bool[Array, " examples"] | None = None
    num_steps: int = eqx.field(static=True, default=0)

    def shrink(self, change: Any, step: Int[Array, ""]) -> Any:
        """The part of the optimizer's step that is taken."""
        done = jnp.clip((step - self.cool_from) / self.cool_steps, 0, 1)
        factor = 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jax.tree.map(lambda array: array * factor.astype(array.dtype), change)

    def average(self, average: Any, learned: Any) -> Any:
        """The average with the newest numbers in it."""
        return jax.tree.map(
            lambda old, new: old + (new - old) * self.averaging.astype(new.dtype),
            average,
            learned,
        )


def random_batches(key: PRNGKeyArray, num_data: int, batch_size: int) -> Array:
    """A random order of the data cut into whole batches, (steps, batch)."""
    steps = num_data // batch_size
    order = jax.random.permutation(key, num_data)
    return order[: steps * batch_size].reshape(steps, batch_size)


def free_batches(key: PRNGKeyArray, schedule: Schedule, batch_size: int) -> Array:
    """As many random batches as an epoch has steps, of examples that are not held."""
    assert schedule.held is not None
    place = jax.random.uniform(key, schedule.held.shape) + schedule.held
    size = schedule.num_steps * batch_size
    return jnp.argsort(place)[:size].reshape(schedule.num_steps, batch_size)
