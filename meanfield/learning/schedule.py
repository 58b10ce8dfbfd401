"""What a run is told anew without compiling anew, and the batches of an epoch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

# The temperature rises from this part of it, during that part of a run.
RISE_FROM, RISING = 0.03, 0.4


class Schedule(eqx.Module):
    r"""How temperature and steps change during a run of the selective rule.

        T(t) = T · 0.03^(1 − min(t / 0.4 t_end, 1)),  step(t) ∝ ½ (1 + cos(π t / t_end))

    Its numbers are arrays: trials at several temperatures and the run that follows are
    one compiled program.

    Attributes:
        temperature: T.
        steps: t_end.
        held: which examples take no part; None for batches from outside.
        num_steps: steps of an epoch.
        cools: whether the optimizer's steps shrink; one of the user's own does not.
    """

    temperature: Float[Array, ""]
    steps: Float[Array, ""]
    held: Bool[Array, " examples"] | None = None
    num_steps: int = eqx.field(static=True, default=0)
    cools: bool = eqx.field(static=True, default=True)

    def temperature_at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """T(t)."""
        risen = jnp.clip(step / (RISING * self.steps), 0, 1)
        return self.temperature * RISE_FROM ** (1 - risen)

    def shrink(self, change: Any, step: Int[Array, ""]) -> Any:
        """The part of the optimizer's step that is taken."""
        if not self.cools:
            return change
        done = jnp.clip(step / self.steps, 0, 1)
        factor = 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jax.tree.map(lambda array: array * factor.astype(array.dtype), change)


def random_batches(key: PRNGKeyArray, num_data: int, batch_size: int) -> Array:
    """A random order of the data, divided into whole batches, (steps, batch)."""
    steps = num_data // batch_size
    order = jax.random.permutation(key, num_data)
    return order[: steps * batch_size].reshape(steps, batch_size)


def free_batches(key: PRNGKeyArray, schedule: Schedule, batch_size: int) -> Array:
    """As many random batches as an epoch has steps, of examples that are not held.

    Where some are held, the first of the order come a second time.
    """
    assert schedule.held is not None
    place = jax.random.uniform(key, schedule.held.shape) + schedule.held
    size = schedule.num_steps * batch_size
    turn = jnp.arange(size) % (~schedule.held).sum()
    return jnp.argsort(place)[turn].reshape(schedule.num_steps, batch_size)
