"""Settings that change between runs without new compilation, and random batches."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from meanfield.propagation.noise import uniform

# The temperature rises from 0.03 of its final value, in the first 0.4 of the run.
RISE_FROM, RISING = 0.03, 0.4


class Schedule(eqx.Module):
    r"""Temperature and step size over the steps of a run of the selective rule.

        T(t) = T · 0.03^(1 − min(t / 0.4 t_end, 1)),
        step(t) ∝ v ½ (1 + cos(π t / t_end))

    Its numbers are arrays, so that trials at several temperatures and the run that
    follows use one compiled program.

    Attributes:
        temperature: T.
        steps: t_end.
        speed: v, larger in short runs.
        held: mask of the examples that are held out; None for the user's own batches.
        num_steps: number of steps of an epoch.
        cools: whether the step size falls; it does not with the user's own optimizer.
    """

    temperature: Float[Array, ""]
    steps: Float[Array, ""]
    speed: Float[Array, ""]
    held: Bool[Array, " examples"] | None = None
    num_steps: int = eqx.field(static=True, default=0)
    cools: bool = eqx.field(static=True, default=True)

    def temperature_at(self, step: Any) -> Any:
        """T(t), for numbers of NumPy or of JAX."""
        risen = (step / (RISING * self.steps)).clip(0, 1)
        return self.temperature * RISE_FROM ** (1 - risen)

    def shrink(self, change: Any, step: Int[Array, ""]) -> Any:
        """The optimizer's step, multiplied by the factor of the schedule."""
        if not self.cools:
            return change
        done = jnp.clip(step / self.steps, 0, 1)
        factor = self.speed * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jax.tree.map(lambda array: array * factor.astype(array.dtype), change)


def random_batches(key: PRNGKeyArray, num_data: int, batch_size: int) -> Array:
    """A random order of the data, divided into whole batches, (steps, batch)."""
    steps = num_data // batch_size
    order = jax.random.permutation(key, num_data)
    return order[: steps * batch_size].reshape(steps, batch_size)


def free_batches(key: PRNGKeyArray, schedule: Schedule, batch_size: int) -> Array:
    """Random batches for the steps of an epoch, of examples that are not held out.

    If some are held out, the first examples of the random order occur twice.
    """
    assert schedule.held is not None
    place = uniform(key, schedule.held.shape, jnp.float32) + schedule.held
    size = schedule.num_steps * batch_size
    turn = jnp.arange(size) % (~schedule.held).sum()
    return jnp.argsort(place)[turn].reshape(schedule.num_steps, batch_size)
