"""Epochs over arrays as one compiled program, and steps on batches from outside."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from meanfield.propagation.noise import fold_in

from .schedule import free_batches, random_batches
from .state import TrainState
from .training import Recipe, take_step

# Largest number of epochs in one call.
MOST_EPOCHS = 128


def learn_epoch(
    constants: tuple[Recipe, Any, Any, Any, Array, int], state: TrainState
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """An epoch over arrays on the device: shuffle, gather and learn.

    Args:
        constants: recipe, x, y, the run's key split in two (a program that splits it
            takes longer to compile), number of the epoch, size of a batch.
        state: the state.

    Returns:
        The new state, and the mean of every part of the loss over the healthy steps
        (those with a finite loss and gradient).
    """
    recipe, x, y, (order_key, noise_key), epoch, batch_size = constants
    if recipe.schedule is not None and recipe.schedule.held is not None:
        order_key = fold_in(order_key, epoch)
        batches = free_batches(order_key, recipe.schedule, batch_size)
    else:
        num_data = jax.tree.leaves(x)[0].shape[0]
        order_key = jax.random.fold_in(order_key, epoch)
        batches = random_batches(order_key, num_data, batch_size)

    def step(state: TrainState, rows: Array) -> tuple[TrainState, Any]:
        batch = jax.tree.map(lambda array: array[rows], (x, y))
        if recipe.shard_batch is not None:
            batch = lax.with_sharding_constraint(batch, recipe.shard_batch)
        state, parts = take_step(state, recipe, batch[0], batch[1], noise_key)
        return state, (parts, state.healthy)

    state, (parts, healthy) = lax.scan(step, state, batches)
    count = jnp.maximum(healthy.sum(), 1)
    mean = {
        name: jnp.where(healthy, value, 0).sum() / count
        for name, value in parts.items()
    }
    return state, mean


@eqx.filter_jit(donate="all-except-first")
def run_epochs(
    constants: tuple[Recipe, Any, Any, Any, Array, Array, int],
    state: TrainState,
) -> tuple[TrainState, dict[str, Float[Array, " epochs"]]]:
    """At most `MOST_EPOCHS` epochs, in one program for any number of epochs.

    Args:
        constants: recipe, x, y, keys of the run, number of the first epoch, number of
            epochs, size of a batch.
        state: the state; its buffers are donated.

    Returns:
        The new state; and for every epoch, the results of `learn_epoch`, the `step` at
        its end, and whether the state was `healthy`. No epoch follows one that was not
        healthy.
    """
    recipe, x, y, keys, first, count, batch_size = constants
    names = ["loss", "nll", "kl"] + ["penalty"] * (recipe.restriction is not None)
    columns = {name: jnp.zeros(MOST_EPOCHS) for name in names}
    columns |= {"step": jnp.zeros(MOST_EPOCHS, int), "healthy": jnp.zeros(MOST_EPOCHS)}

    def epoch(carry: Any) -> Any:
        number, state, columns = carry
        own = recipe, x, y, keys, first + number, batch_size
        state, mean = learn_epoch(own, state)
        found = mean | {"step": state.step, "healthy": state.healthy}
        columns = {
            name: column.at[number].set(found[name].astype(column.dtype))
            for name, column in columns.items()
        }
        return number + 1, state, columns

    def goes_on(carry: Any) -> Array:
        number, state, _ = carry
        return (number < count) & state.healthy

    _, state, columns = lax.while_loop(goes_on, epoch, (0, state, columns))
    return state, columns


@eqx.filter_jit(donate="all-except-first")
def run_batch(
    constants: tuple[Recipe, Any, Any, Any], state: TrainState
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step on a batch from the user's iterable."""
    recipe, x, y, (_, noise_key) = constants
    if recipe.shard_batch is not None:
        x, y = lax.with_sharding_constraint((x, y), recipe.shard_batch)
    return take_step(state, recipe, x, y, noise_key)
