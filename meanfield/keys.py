"""Seeds, JAX keys and NumPy generators (for computations on the host)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .checks import require


def key_of_seed(seed: int) -> PRNGKeyArray:
    """The random key of a seed; different seeds give different keys.

    Below 2³² it is ``jax.random.key(seed)``, which uses only the last 32 bits of a
    seed. The higher bits of larger seeds are stored in words of the key that are
    otherwise zero.

    Args:
        seed: a whole number from 0 to 2⁶³ − 1.

    Raises:
        ValueError: `seed` is out of this range.
    """
    require(
        0 <= seed < 2**63,
        f"`seed` must be a whole number from 0 to 2**63 - 1; got {seed}.",
    )
    high, low = divmod(seed, 2**32)
    key = jax.random.key(low)
    if high == 0:
        return key
    words = np.array(jax.random.key_data(key))
    words[0::2] = high
    return jax.random.wrap_key_data(
        jnp.asarray(words), impl=str(jax.random.key_impl(key))
    )


def numpy_generator(
    key: Any, *, spawn_key: tuple[int, ...] = ()
) -> np.random.Generator:
    """A NumPy generator that is a pure function of a `jax.random.key`.

    Args:
        key: one typed key.
        spawn_key: distinguishes several generators from the same key; see
            `numpy.random.SeedSequence`.

    Raises:
        ValueError: `key` is None.
        TypeError: `key` is not a typed key.
    """
    require(
        key is not None,
        "`key` is needed to draw random numbers; pass key=jax.random.key(0). (A game "
        "needs none with a budget for every coalition, 2**num_players.)",
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
