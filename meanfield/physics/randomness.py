"""From a JAX key to NumPy's generator, for work that leaves JAX."""

import jax
import numpy as np
from jaxtyping import PRNGKeyArray


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy generator that a JAX key determines: same key, same numbers."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
