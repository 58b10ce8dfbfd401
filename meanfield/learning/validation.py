"""Scores on held-out data while the ensemble learns."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.ensemble.ensemble import Ensemble

from .distributions import base_of, is_categorical
from .targets import align_targets, output_distribution

CHUNK = 2048
NUM_SAMPLES = 8


def validation_scores(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, *, key: PRNGKeyArray
) -> dict[str, float]:
    """NLL of the average prediction over a few draws and, for labels, its accuracy.

    Returns:
        `val_nll` in nats per example, and `val_accuracy` for categorical targets.
    """
    total, right, count, labels = 0.0, 0.0, 0, False
    examples = jax.tree.leaves(x)[0].shape[0]
    for number, start in enumerate(range(0, examples, CHUNK)):
        rows = slice(start, min(start + CHUNK, examples))
        some_x, some_y = jax.tree.map(lambda a, r=rows: jnp.asarray(a[r]), (x, y))
        log_probs, hits = _score(
            ensemble, likelihood, some_x, some_y, jax.random.fold_in(key, number)
        )
        total += float(log_probs.sum())
        count += log_probs.shape[0]
        if hits is not None:
            right, labels = right + float(hits.sum()), True
    scores = {"val_nll": -total / count}
    return scores | ({"val_accuracy": right / count} if labels else {})


@eqx.filter_jit
def _score(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, key: PRNGKeyArray
) -> tuple[Float[Array, " batch"], Any]:
    network = ensemble.network

    def draw(key: PRNGKeyArray) -> Any:
        outputs = network(ensemble.params, x, key=key)
        distribution = output_distribution(likelihood, outputs)
        log_prob = distribution.log_prob(align_targets(distribution, y))
        is_label = is_categorical(distribution)
        return log_prob, base_of(distribution).probs if is_label else None

    log_probs, probs = lax.map(draw, jax.random.split(key, NUM_SAMPLES))
    log_prob = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(NUM_SAMPLES)
    hits = None if probs is None else jnp.argmax(probs.mean(0), -1) == y.reshape(-1)
    return log_prob, hits
