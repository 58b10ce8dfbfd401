"""Settings that change from epoch to epoch without compilation, and random batches."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Schedule(eqx.Module):
    """Settings that the selective rule changes between epochs, without compilation.

    Attributes:
        temperature: weight of the KL term, instead of the recipe's.
        cool_from: the step from which the optimizer's steps shrink along a cosine.
        cool_steps: the number of steps after which they are 0.
        averaging: weight of the newest parameters in their running average.
        held: mask of the examples held out of the epoch; None for an iterable.
        num_steps: number of steps in an epoch.
    """

    temperature: Float[Array, ""]
    cool_from: Int[Array, ""]
    cool_steps: Float[Array, ""]
    averaging: Float[Array, ""]
    held: Bool[Array, " examples"] | None = None
    num_steps: int = eqx.field(static=True, default=0)

    def shrink(self, change: Any, step: Int[Array, ""]) -> Any:
        """The optimizer's step, multiplied by the factor of the cosine."""
        done = jnp.clip((step - self.cool_from) / self.cool_steps, 0, 1)
        factor = 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jax.tree.map(lambda array: array * factor.astype(array.dtype), change)

    def average(self, average: Any, learned: Any) -> Any:
        """The running average, updated with the newest parameters."""
        return jax.tree.map(
            lambda old, new: old + (new - old) * self.averaging.astype(new.dtype),
            average,
            learned,
        )


def random_batches(key: PRNGKeyArray, num_data: int, batch_size: int) -> Array:
    """A random order of the data, divided into whole batches, (steps, batch)."""
    steps = num_data // batch_size
    order = jax.random.permutation(key, num_data)
    return order[: steps * batch_size].reshape(steps, batch_size)


def free_batches(key: PRNGKeyArray, schedule: Schedule, batch_size: int) -> Array:
    """Random batches for all steps of an epoch, of examples that are not held out."""
    assert schedule.held is not None
    place = jax.random.uniform(key, schedule.held.shape) + schedule.held
    size = schedule.num_steps * batch_size
    return jnp.argsort(place)[:size].reshape(schedule.num_steps, batch_size)
