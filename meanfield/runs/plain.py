"""A plain network of the size that ships, trained as long, to compare with.

It is the network of the run before any training, with the units and inputs alone that
the shrunk one kept: each weight array W of fan-in n loses rows and columns, and what
stays, of fan-in k, is scaled to the deviation that such a network starts from,

    W[kept] · √(n / k).

It learns the same training examples by the same optimizer, in as many epochs and
batches of the same size, by

    mean −ln P(y | x)

alone: no spikes, no slabs, no noise of weights.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from meanfield.data import Dataset
from meanfield.deploy.formats.whole_inputs import jit_predict
from meanfield.deploy.graph.network import as_network, put_arrays
from meanfield.deploy.shipping.costs import count_weights
from meanfield.deploy.shipping.scores import score
from meanfield.deploy.shrinking.shrink import Shrunk
from meanfield.ensemble.fan_in import fan_in
from meanfield.ensemble.frameworks import in_training_mode, open_model
from meanfield.keys import key_of_seed
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.targets import log_prob
from meanfield.trees import map_named, named_leaves

from .architecture import starting_model
from .learn import schedule
from .settings import TrainSettings
from .stages import stage
from .tasks import build_likelihood

FIXED_SIZES = (
    "layers of Keras take no smaller arrays, so no unit was removed: write the network "
    "in Equinox or Flax, or as a function"
)


def plain_network(run: Any, dataset: Dataset, shrunk: Shrunk) -> dict[str, Any] | None:
    """Train a plain network of the size of a shrunk one, and score it.

    Args:
        run: the run whose network was shrunk.
        dataset: its data; the scores are of the test examples.
        shrunk: the network that ships.

    Returns:
        Scores, the number of weights, epochs and seconds, and the widths of a
        perceptron; or why there is none, under `missing`. None if nothing was removed.
    """
    if shrunk.network.fixed_sizes:
        return {"missing": FIXED_SIZES}
    model, training = run.config["model"], run.config["training"]
    key = key_of_seed(training["seed"])
    y = run.standardization.standardise(dataset.y_train)
    whole = starting_model(model, training["seed"], run.folder, y)
    before = count_weights(as_network(whole).arrays)["num_weights"]
    counts = count_weights(shrunk.network.arrays)
    if counts["num_weights"] == before:
        return None
    epochs, widths = run.metrics["epochs"], _widths(shrunk)
    text = " → ".join(map(str, widths)) or f"of {counts['num_weights']:,} weights"
    stage(f"training a plain network {text} for {epochs} epochs (--no-plain: none)")
    started = time.perf_counter()
    settings = TrainSettings(batch_size=training.get("batch_size"))
    learned, likelihood = train_plain(
        (
            untrained(whole, shrunk),
            build_likelihood(model["likelihood"], model["targets"]),
        ),
        (shrunk.select_inputs(dataset.x_train), y),
        epochs=epochs,
        batch_size=schedule(settings, len(y))[1],
        learning_rate=training.get("learning_rate", TrainSettings.learning_rate),
        key=jax.random.fold_in(key, 7),
    )
    outputs = jit_predict(as_network(learned), shrunk.kept_inputs)(dataset.x_test)
    found = score(outputs, dataset.y_test, run.standardization.likelihood(likelihood))
    return {
        **found,
        **({"widths": list(widths)} if widths else {}),
        "num_weights": counts["num_weights"],
        "epochs": epochs,
        "seconds": round(time.perf_counter() - started, 2),
    }


def untrained(whole: Any, shrunk: Shrunk) -> Any:
    """A network with the units of a shrunk one, and the weights of an untrained one.

    Args:
        whole: the untrained network before units were removed, in its own mode.
        shrunk: the network that ships, of the same kind.

    Returns:
        A model of that kind; in training mode, if `whole` is.
    """
    before = as_network(whole).arrays
    arrays = {name: _part(name, before[name], shrunk) for name in shrunk.kept}
    small = shrunk.network.rebuild(arrays)
    return small if open_model(whole).training is None else in_training_mode(small)


def _part(name: str, array: Any, shrunk: Shrunk) -> jax.Array:
    """W[kept] · √(n / k); arrays of one axis, such as biases, are only cut."""
    part = shrunk.slice_like(name, array)
    if part.ndim < 2 or not np.issubdtype(part.dtype, np.inexact):
        return jnp.asarray(part)
    ratio = fan_in(name, np.shape(array)) / fan_in(name, part.shape)
    return jnp.asarray(part * part.dtype.type(math.sqrt(ratio)))


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
        start: a model as for `Ensemble.from_model`, and a likelihood. A model in
            training mode draws its masks, and its statistics follow the batches.
        data: inputs and targets.
        epochs: passes over the data.
        batch_size: examples a step.
        learning_rate: of the first step.
        key: of the order of the examples.

    Returns:
        The trained model, in inference mode, and likelihood.
    """
    x, y = map(jnp.asarray, data)
    steps = len(x) // batch_size
    optimizer = cosine_adam(learning_rate, epochs * steps)
    opened = open_model(start[0])
    held, training = set(opened.frozen), opened.training
    mask = map_named(
        lambda name, leaf: name not in held and eqx.is_inexact_array(leaf),
        opened.params,
    )
    whole, masks = (opened.params, start[1]), (mask, eqx.is_inexact_array)
    learned, fixed = eqx.partition(whole, masks)
    leaves = named_leaves(opened.params)
    moving = {} if training is None else {n: leaves[n] for n in training.moving}

    def loss(learned: Any, moving: Any, batch: jax.Array, key: jax.Array) -> Any:
        params, likelihood = eqx.combine(learned, fixed)
        params = put_arrays(params, moving)
        if training is None:
            outputs = opened.apply_fn(params, x[batch])
        else:
            outputs, moving = training(params, x[batch], key)
        return -log_prob(likelihood, outputs, y[batch]).mean(), moving

    def step(state: Any, given: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        learned, moving, moments = state
        gradient, moving = jax.grad(loss, has_aux=True)(learned, moving, *given)
        change, moments = optimizer.update(gradient, moments, learned)
        return (optax.apply_updates(learned, change), moving, moments), None

    def epoch(state: Any, key: jax.Array) -> tuple[Any, None]:
        order = jax.random.permutation(key, len(x))[: steps * batch_size]
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, state, (order.reshape(steps, batch_size), keys))

    @jax.jit
    def train(learned: Any, moving: Mapping[str, Any]) -> Any:
        state = learned, moving, optimizer.init(learned)
        return jax.lax.scan(epoch, state, jax.random.split(key, epochs))[0][:2]

    learned, moving = train(learned, moving)
    params, likelihood = eqx.combine(learned, fixed)
    return opened.rebuild(put_arrays(params, moving)), likelihood


def _widths(shrunk: Shrunk) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs of a shrunk perceptron; empty for others."""
    if not isinstance(shrunk.model, eqx.nn.MLP):
        return ()
    inputs = [layer.in_features for layer in shrunk.model.layers]
    return (*map(int, inputs), int(shrunk.model.layers[-1].out_features))
