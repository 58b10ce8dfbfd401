"""Scores on validation or held-out data during training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.ensemble.ensemble import Ensemble

from .distributions import base_of, is_categorical
from .targets import align_targets, output_distribution
from .training import Weighted

CHUNK = 2048
NUM_SAMPLES = 8


def validation_scores(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    key: PRNGKeyArray,
) -> dict[str, float]:
    """NLL of the average prediction over a few draws and, for labels, its accuracy.

    Args:
        ensemble: the current ensemble.
        likelihood: map from outputs to a distribution.
        x: validation inputs.
        y: validation targets.
        weights: weights of the examples in both means, or None.
        key: a `jax.random.key`.

    Returns:
        `val_nll` in nats per example, and `val_accuracy` for categorical targets.
    """
    log_probs, hits = _scores(ensemble, likelihood, x, y, key)
    scores = {"val_nll": -float(np.average(log_probs, weights=weights))}
    if hits is not None:
        scores["val_accuracy"] = float(np.average(hits, weights=weights))
    return scores


def example_losses(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, *, key: PRNGKeyArray
) -> Float[np.ndarray, " examples"]:
    """NLL of the average prediction for every example, times the example's weight.

    Args:
        ensemble: the ensemble.
        likelihood: map from outputs to a distribution.
        x: inputs.
        y: targets, `Weighted` or not.
        key: a `jax.random.key`.
    """
    weights = 1.0
    if isinstance(y, Weighted):
        y, weights = y.targets, np.asarray(y.weights, np.float64)
    log_probs, _ = _scores(ensemble, likelihood, x, y, key)
    return -weights * log_probs


def _scores(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, key: PRNGKeyArray
) -> tuple[Float[np.ndarray, " examples"], Any]:
    """Log-probability of every target, and whether every predicted label is right."""
    log_probs, hits = [], []
    examples = jax.tree.leaves(x)[0].shape[0]
    for number, start in enumerate(range(0, examples, CHUNK)):
        rows = slice(start, min(start + CHUNK, examples))
        some_x, some_y = jax.tree.map(lambda a, r=rows: jnp.asarray(a[r]), (x, y))
        # Split here, because a program that splits a key takes longer to compile.
        keys = jax.random.split(jax.random.fold_in(key, number), NUM_SAMPLES)
        found, hit = _score(ensemble, likelihood, some_x, some_y, keys)
        log_probs.append(np.asarray(found, np.float64))
        hits.append(None if hit is None else np.asarray(hit))
    whole = None if hits[0] is None else np.concatenate(hits)
    return np.concatenate(log_probs), whole


@eqx.filter_jit
def _score(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, keys: Any
) -> tuple[Float[Array, " batch"], Any]:
    network = ensemble.network

    def draw(key: PRNGKeyArray) -> Any:
        outputs = network(ensemble.params, x, key=key)
        distribution = output_distribution(likelihood, outputs)
        log_prob = distribution.log_prob(align_targets(distribution, y))
        is_label = is_categorical(distribution)
        return log_prob, base_of(distribution).probs if is_label else None

    log_probs, probs = lax.map(draw, keys)
    log_prob = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(NUM_SAMPLES)
    hits = None if probs is None else jnp.argmax(probs.mean(0), -1) == y.reshape(-1)
    return log_prob, hits
