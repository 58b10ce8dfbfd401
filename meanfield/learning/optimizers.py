"""The optimizer that `fit` uses unless told otherwise."""

import functools

import optax

STEP_SIZE = 2e-3


@functools.lru_cache(maxsize=64)
def cosine_adam(step_size: float, steps: int) -> optax.GradientTransformation:
    """Adam whose step falls to 0 along a cosine.

    Equal arguments give the same object, so that a second run of the same shape finds
    its program compiled.

    Args:
        step_size: size of the first step.
        steps: length of the run.
    """
    return optax.adam(optax.cosine_decay_schedule(step_size, max(steps, 1)))


@functools.lru_cache(maxsize=64)
def steady_adam(step_size: float) -> optax.GradientTransformation:
    """Adam at a constant step."""
    return optax.adam(step_size)


def default_optimizer(steps: int | None) -> optax.GradientTransformation:
    """Adam along a cosine; at a constant step for a run of unknown length."""
    return steady_adam(STEP_SIZE) if steps is None else cosine_adam(STEP_SIZE, steps)
