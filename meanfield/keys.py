"""JAX keys as seeds of NumPy generators, for work that runs on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import require


def numpy_generator(
    key: Any, *, spawn_key: tuple[int, ...] = ()
) -> np.random.Generator:
    """A NumPy generator that is a pure function of a `jax.random.key`.

    Args:
        key: one typed key.
        spawn_key: tells streams of one key apart; see `numpy.random.SeedSequence`.

    Raises:
        ValueError: no key was given although something must be drawn.
        TypeError: what was given is not a typed key.
    """
    require(
        key is not None,
        "`key` is needed to draw coalitions; give key=jax.random.key(0), or "
        "a budget that covers every coalition (2**num_players always does).",
    )
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            "`key` must be a typed key from jax.random.key (not PRNGKey); got "
            f"{type(key).__name__}."
        )
    require(
        key.shape == (),
        f"`key` must be one key; got an array of keys of shape {key.shape}.",
    )
    words = np.asarray(jax.random.key_data(key)).ravel()
    return np.random.default_rng(np.random.SeedSequence(words, spawn_key=spawn_key))
