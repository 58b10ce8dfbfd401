"""Scores of connections, one number each; the larger, the more a connection matters.

value, rms     of `label_connections`, with half of all connections present
magnitude      |μ|
|mean|/std     |μ| / √V
OBD            μ² times the mean squared gradient of the loss of single examples
|w gradient|   |μ times the gradient of the mean loss|
integrated     −μ times the gradient of the loss, averaged along α μ, α from 0 to 1
random         a draw

References:
    OBD: LeCun, Denker & Solla 1990, with the Fisher information for the curvature.
    Integrated: Sundararajan, Taly & Yan 2017, applied to weights, from all zeros.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf
from meanfield.credit.removal import two_orders
from meanfield.learning.targets import log_prob

NODES = 16

Scores = dict[str, np.ndarray]


def network_of(ensemble: mf.Ensemble) -> Any:
    """The network as a function of its weights by path name, and inputs."""

    def network(weights: Any, x: Any) -> Any:
        return ensemble.apply_fn(ensemble.with_weights(weights).params, x)

    return network


def loss_of(network: Any, likelihood: Any) -> Any:
    """The mean loss of ``network(weights, x)`` as a function of weights, x and y."""

    def loss(weights: Any, x: Any, y: Any) -> Any:
        found = log_prob(likelihood, network(weights, x), y)
        return -found.reshape(found.shape[0], -1).sum(1).mean()

    return loss


def fisher_scores(network: Any, likelihood: Any, weights: Scores, data: Any) -> Scores:
    """OBD: w² times the mean squared gradient of the loss of single examples."""
    loss = loss_of(network, likelihood)

    @jax.jit
    def squares(weights: Any, x: Any, y: Any) -> Any:
        def add(total: Any, one: Any) -> Any:
            found = jax.grad(loss)(weights, one[0][None], one[1][None])
            return jax.tree.map(lambda t, g: t + g**2, total, found), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), (x, y))[0]

    x, y = map(jnp.asarray, data)
    fisher = squares(weights, x, y)
    return {n: np.asarray(w**2 * fisher[n]) / len(x) for n, w in weights.items()}


def connection_scores(
    ensemble: mf.Ensemble, likelihood: Any, data: Any, *, key: Any
) -> dict[str, Scores]:
    """Scores of every connection, by each rule.

    Args:
        ensemble: a trained ensemble.
        likelihood: likelihood of the targets.
        data: inputs and targets from which the scores are computed.
        key: a `jax.random.key`.

    Returns:
        By name of the score, a mapping from path names to arrays.
    """
    values, rms = two_orders(ensemble, likelihood, 1.0, data, key=key)
    weights = ensemble.weights()
    means = {name: weight.mean for name, weight in weights.items()}

    network = network_of(ensemble)
    loss = loss_of(network, likelihood)

    @jax.jit
    def gradients(means: Any, x: Any, y: Any) -> Any:
        def along(total: Any, part: Any) -> Any:
            there = jax.tree.map(lambda mean: part * mean, means)
            found = jax.grad(loss)(there, x, y)
            return jax.tree.map(jnp.add, total, found), None

        zero = jax.tree.map(jnp.zeros_like, means)
        path, _ = jax.lax.scan(along, zero, (jnp.arange(NODES) + 0.5) / NODES)
        return jax.grad(loss)(means, x, y), path

    gradient, path = gradients(means, *map(jnp.asarray, data))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    found = {
        "value": values,
        "rms": rms,
        "magnitude": {n: abs(mean) for n, mean in means.items()},
        "|mean|/std": {
            n: abs(mean) / jnp.sqrt(weights[n].var + 1e-20) for n, mean in means.items()
        },
        "OBD": fisher_scores(network, likelihood, means, data),
        "|w gradient|": {n: abs(mean * gradient[n]) for n, mean in means.items()},
        "integrated": {n: -mean * path[n] for n, mean in means.items()},
        "random": {n: rng.random(mean.shape) for n, mean in means.items()},
    }
    # Keep the order of the weights, which a map over a tree would lose.
    return {
        score: {name: np.asarray(parts[name]) for name in weights}
        for score, parts in found.items()
    }
