"""A plain network of the shipped size, trained as long, for comparison.

It is the untrained network of the run, with only the units and inputs that the shrunk
network kept: each weight array W of fan-in n loses rows and columns, and the rest, of
fan-in k, is scaled to the standard deviation of an untrained network of this size,

    W[kept] · √(n / k).

It learns the same training examples by ordinary back-propagation, by Adam with a step
size that falls along a cosine, in as many epochs and batches of the same size: no
spikes, no slabs, no prior.
"""

import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.data import Dataset
from meanfield.deploy.formats.whole_inputs import jit_predict
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shipping.costs import count_weights
from meanfield.deploy.shipping.scores import score
from meanfield.deploy.shrinking.shrink import Shrunk
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.fan_ins import fan_in
from meanfield.ensemble.frameworks import in_training_mode, open_model
from meanfield.keys import key_of_seed
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam

from .architecture import starting_model
from .learn import schedule
from .settings import TrainSettings
from .stages import stage
from .tasks import build_likelihood

FIXED_SIZES = (
    "layers of Keras cannot take smaller arrays, so no unit was removed: write the "
    "network in Equinox or Flax, or as a function"
)


def plain_network(run: Any, dataset: Dataset, shrunk: Shrunk) -> dict[str, Any] | None:
    """Train a plain network of the size of a shrunk one, and score it.

    Args:
        run: the run whose network was shrunk.
        dataset: its data; the scores are of the test examples.
        shrunk: the network that ships.

    Returns:
        Scores, the number of weights, epochs and seconds, and the widths of a
        perceptron; or the reason why there is no such network, under `missing`. None if
        nothing was removed.
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
    rate = training.get("learning_rate", TrainSettings.learning_rate)
    _, batch_size = schedule(settings, len(y))
    learned = fit(
        Ensemble.from_points(untrained(whole, shrunk)),
        (shrunk.select_inputs(dataset.x_train), y),
        likelihood=build_likelihood(model["likelihood"], model["targets"]),
        key=jax.random.fold_in(key, 7),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cosine_adam(rate, epochs * (len(y) // batch_size)),
        prior=None,
        progress=False,
    )
    network = as_network(learned.ensemble.mean_network())
    outputs = jit_predict(network, shrunk.kept_inputs)(dataset.x_test)
    likelihood = run.standardization.likelihood(learned.likelihood)
    return {
        **score(outputs, dataset.y_test, likelihood),
        **({"widths": list(widths)} if widths else {}),
        "num_weights": counts["num_weights"],
        "epochs": epochs,
        "seconds": round(time.perf_counter() - started, 2),
    }


def untrained(whole: Any, shrunk: Shrunk) -> Any:
    """A network with the units of a shrunk network, and untrained weights.

    Args:
        whole: the untrained network before units were removed, in the mode that it
            trains in.
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


def _widths(shrunk: Shrunk) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs of a shrunk perceptron; empty for others."""
    if not isinstance(shrunk.model, eqx.nn.MLP):
        return ()
    inputs = [layer.in_features for layer in shrunk.model.layers]
    return (*map(int, inputs), int(shrunk.model.layers[-1].out_features))
