"""The optimizer that `fit` uses unless told otherwise."""

import functools

import optax

STEP_SIZE = 2e-3


@functools.lru_cache(maxsize=64)
def default_optimizer(steps: int | None) -> optax.GradientTransformation:
    """Adam whose step falls from 0.002 to 0 along a cosine.

    The same number of steps gives the same object, so that a second run of the same
    shape finds its program compiled.

    Args:
        steps: length of the run; None, for a run of unknown length, keeps the step.
    """
    if steps is None:
        return optax.adam(STEP_SIZE)
    return optax.adam(optax.cosine_decay_schedule(STEP_SIZE, max(steps, 1)))
