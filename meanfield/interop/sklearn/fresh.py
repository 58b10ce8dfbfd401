"""An untrained perceptron for a table, drawn by NumPy so that nothing is compiled."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.initial import GAIN, SLAB_SHARE
from meanfield.ensemble.networks import mlp
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named


def fresh_perceptron(widths: tuple[int, ...], seed: int) -> Ensemble:
    """A perceptron with the initial distributions of `Ensemble.from_model`.

    Args:
        widths: inputs, hidden layers, outputs.
        seed: seed of the random numbers.
    """
    rng, dtype = np.random.default_rng(seed), jnp.result_type(float)
    drawn = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shape, edge = (outputs, inputs), inputs**-0.5
        mean = rng.normal(scale=((1 - SLAB_SHARE) * GAIN / inputs) ** 0.5, size=shape)
        drawn[f"layers/{layer}/weight"] = SpikeSlab(
            np.zeros(shape, dtype),
            mean.astype(dtype),
            np.full(shape, SLAB_SHARE * GAIN / inputs, dtype),
        )
        bias = rng.uniform(-edge, edge, outputs).astype(dtype)
        drawn[f"layers/{layer}/bias"] = jnp.asarray(bias)
    frame = eqx.filter_eval_shape(mlp, widths, key=jax.random.key(0))
    network = map_named(lambda name, leaf: drawn.get(name, leaf), frame)
    return Ensemble.from_points(network)
