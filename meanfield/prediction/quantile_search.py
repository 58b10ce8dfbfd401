"""Central intervals of the distribution ⟨P(Y ≤ y)⟩, by bisection on fixed draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Key, PRNGKeyArray

# Stages of the search for an end of an interval: the two sides are moved outwards until
# the end is between them, then the interval between them is halved.
WIDEN_LOW, WIDEN_HIGH, HALVE, DONE = range(4)


def central_interval(
    distribution_of: Callable[[PRNGKeyArray], Any],
    keys: Key[Array, " samples"],
    level: float,
    shape: tuple[int, ...],
) -> dict[str, Array]:
    """The ends between which a target lies with probability `level`.

    Every step evaluates one place for each end and example, whatever the stage of its
    search, so the compiled program contains the network only once.

    Args:
        distribution_of: function from a key to one draw of the distributions of the
            targets.
        keys: the keys of the draws that are averaged.
        level: probability of the interval.
        shape: shape of the targets.

    Returns:
        `lower` and `upper`, arrays of that shape; infinite if no end is in the range of
        the number type.
    """
    tails = jnp.array([(1 - level) / 2, (1 + level) / 2])
    tails = tails.reshape(2, *[1] * len(shape))

    def below(places: Array) -> Array:
        """⟨P(Y ≤ place)⟩ for both ends at once."""

        def add(total: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            return total + jax.vmap(distribution_of(key).cdf)(places), None

        total, _ = lax.scan(add, jnp.zeros_like(places), keys)
        return total / len(keys)

    def step(state: Any) -> Any:
        low, high, stage = state
        middle = low + (high - low) / 2
        place = jnp.where(stage == WIDEN_LOW, low, middle)
        place = jnp.where(stage == WIDEN_HIGH, high, place)
        p = below(place)
        left, halve = p < tails, stage == HALVE
        wider_low = (stage == WIDEN_LOW) & (p > tails)
        wider_high = (stage == WIDEN_HIGH) & left
        new_low = jnp.where(wider_low, 2 * low, jnp.where(halve & left, middle, low))
        new_high = jnp.where(halve & ~left, middle, high)
        new_high = jnp.where(wider_high, 2 * high, new_high)
        found = (stage < HALVE) & ~(wider_low | wider_high)
        # The bisection ends if there is no floating-point number in between.
        done = halve & ((middle == low) | (middle == high))
        done |= jnp.isinf(new_low) | jnp.isinf(new_high)
        return (
            new_low,
            new_high,
            jnp.where(done, DONE, stage + found.astype(stage.dtype)),
        )

    places = (2, *shape)
    start = jnp.full(places, -1.0), jnp.full(places, 1.0), jnp.full(places, WIDEN_LOW)
    low, high, _ = lax.while_loop(lambda state: (state[2] < DONE).any(), step, start)
    return {"lower": low[0], "upper": high[1]}
