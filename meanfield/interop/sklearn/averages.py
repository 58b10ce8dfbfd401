"""Average predictions over drawn sub-networks, in blocks of equal size."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.likelihoods import Categorical

BLOCK = 256


def average_prediction(
    ensemble: Ensemble,
    likelihood: Any,
    features: Float[np.ndarray, "examples features"],
    keys: Key[Array, " networks"],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the target, averaged over drawn sub-networks.

    All examples are predicted by the same sub-networks, in blocks of equal size, so a
    prediction does not depend on the other examples.

    Args:
        ensemble: the trained ensemble.
        likelihood: map from outputs to a distribution.
        features: inputs of the network.
        keys: one key for each sub-network.

    Returns:
        Class probabilities and their variances over sub-networks; or the means and
        variances of the targets.
    """
    blocks = []
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        padded = np.zeros((BLOCK, features.shape[1]), np.float32)
        padded[: len(rows)] = rows
        block = _averages(ensemble, likelihood, padded, keys)
        blocks.append([np.asarray(part)[: len(rows)] for part in block])
    mean, var = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return mean.astype(np.float64), var.astype(np.float64)


@eqx.filter_jit
def _averages(
    ensemble: Ensemble, likelihood: Any, x: Any, keys: Any
) -> tuple[Array, Array]:
    def judge(key: Any) -> Any:
        network = ensemble.sample(key)
        distribution = likelihood(jax.vmap(network)(x))
        if isinstance(likelihood, Categorical):
            probs = distribution.probs
            return probs, jnp.square(probs), jnp.zeros_like(probs)
        mean = distribution.mean
        return mean, jnp.square(mean), distribution.variance

    def add(sums: Any, key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, judge(key)), None

    sums, _ = jax.lax.scan(add, judge(keys[0]), keys[1:])
    mean, square, noise = jax.tree.map(lambda s: s / len(keys), sums)
    return mean, noise + jnp.maximum(square - jnp.square(mean), 0)
