"""A plain network of the size that ships, trained as long, to compare with.

It has the inputs and the widths of the shrunk network, and learns the same training
examples by the same optimizer, in as many epochs and batches of the same size, by

    mean −ln P(y | x)

alone: no spikes, no slabs, no noise.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from meanfield.data import Dataset
from meanfield.deploy.shipping.costs import count_weights
from meanfield.deploy.shipping.scores import score
from meanfield.deploy.shrinking.shrink import Shrunk
from meanfield.ensemble.networks import mlp
from meanfield.keys import key_of_seed
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.targets import log_prob

from .architecture import at_mean_rate
from .learn import schedule
from .settings import TrainSettings
from .stages import stage
from .tasks import build_likelihood


def plain_network(run: Any, dataset: Dataset, shrunk: Shrunk) -> dict[str, Any] | None:
    """Train a plain network of the size of a shrunk one, and score it.

    Args:
        run: the run whose network was shrunk.
        dataset: its data; the scores are of the test examples.
        shrunk: the network that ships.

    Returns:
        Scores, widths, the number of weights, epochs and seconds; None if no unit was
        removed, or if the network is not a perceptron.
    """
    model, training = run.config["model"], run.config["training"]
    widths = _widths(shrunk)
    if model["kind"] != "mlp" or widths[1:-1] == tuple(model["hidden"]):
        return None
    epochs = run.metrics["epochs"]
    text = " → ".join(map(str, widths))
    stage(f"training a plain network {text} for {epochs} epochs (--no-plain: none)")
    started, key = time.perf_counter(), key_of_seed(training["seed"])
    settings = TrainSettings(batch_size=training.get("batch_size"))
    x = shrunk.select_inputs(dataset.x_train)
    y = run.standardization.standardise(dataset.y_train)
    network = mlp(widths, key=key)
    if model["likelihood"] == "poisson":
        network = at_mean_rate(network, y)
    learned, likelihood = train_plain(
        (network, build_likelihood(model["likelihood"], model["targets"])),
        (x, y),
        epochs=epochs,
        batch_size=schedule(settings, len(x))[1],
        learning_rate=training.get("learning_rate", TrainSettings.learning_rate),
        key=jax.random.fold_in(key, 7),
    )
    outputs = jax.vmap(learned)(jnp.asarray(shrunk.select_inputs(dataset.x_test)))
    arrays = {str(n): layer.weight for n, layer in enumerate(learned.layers)}
    return {
        **score(outputs, dataset.y_test, run.standardization.likelihood(likelihood)),
        "widths": list(widths),
        "num_weights": count_weights(arrays)["num_weights"],
        "epochs": epochs,
        "seconds": round(time.perf_counter() - started, 2),
    }


def train_plain(
    start: tuple[Any, Any],
    data: tuple[Any, Any],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    key: jax.Array,
) -> tuple[Any, Any]:
    """Minimize the mean NLL by Adam, whose step size falls to 0 along a cosine.

    Args:
        start: a network that acts on one example, and a likelihood.
        data: inputs and targets.
        epochs: passes over the data.
        batch_size: examples a step.
        learning_rate: of the first step.
        key: of the order of the examples.

    Returns:
        The trained network and likelihood.
    """
    x, y = map(jnp.asarray, data)
    steps = len(x) // batch_size
    optimizer = cosine_adam(learning_rate, epochs * steps)
    params, static = eqx.partition(start, eqx.is_inexact_array)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        network, likelihood = eqx.combine(params, static)
        return -log_prob(likelihood, jax.vmap(network)(x[batch]), y[batch]).mean()

    def step(state: Any, batch: jax.Array) -> tuple[Any, None]:
        params, moments = state
        gradient = jax.grad(loss)(params, batch)
        change, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, change), moments), None

    def epoch(state: Any, key: jax.Array) -> tuple[Any, None]:
        order = jax.random.permutation(key, len(x))[: steps * batch_size]
        return jax.lax.scan(step, state, order.reshape(steps, batch_size))

    @jax.jit
    def train(params: Any) -> Any:
        state = params, optimizer.init(params)
        return jax.lax.scan(epoch, state, jax.random.split(key, epochs))[0][0]

    return eqx.combine(train(params), static)


def _widths(shrunk: Shrunk) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs of a shrunk perceptron; empty for others."""
    layers = getattr(shrunk.model, "layers", ())
    inputs = [getattr(layer, "in_features", 0) for layer in layers]
    return (*inputs, getattr(layers[-1], "out_features", 0)) if layers else ()
