"""The sparsity experiment: what is scored is the network that ships, in full shape."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp

WIDTHS = (6, 5, 4, 3)


@pytest.fixture(scope="module")
def sparsity():
    folder = Path(__file__).parents[1] / "experiments"
    sys.path.insert(0, str(folder))
    import sparsity

    sys.path.remove(str(folder))
    return sparsity


@pytest.fixture
def ensemble():
    """Input 2 and the second layer's unit 1 have lost all their connections."""
    key = jax.random.key(0)
    full = mf.Ensemble.from_model(mlp(WIDTHS, key=key), key=key)
    layers = full.params.layers
    spikes = [
        layers[0].weight.spike_prob.at[:, 2].set(1.0),
        layers[1].weight.spike_prob.at[1, :].set(1.0).at[0, 3].set(0.7),
        layers[2].weight.spike_prob.at[:, 1].set(1.0),
    ]
    return eqx.tree_at(
        lambda e: [layer.weight.spike_prob for layer in e.params.layers], full, spikes
    )


def test_what_is_scored_is_counted_in_the_full_network(sparsity, ensemble):
    x = np.asarray(jax.random.normal(jax.random.key(1), (7, 6)))
    logits = jax.vmap(
        mf.deploy.sample_subnetworks(ensemble, 1, rule="median")[0].model
    )(x)
    y = np.asarray(logits).argmax(1)
    y[0] = (y[0] + 1) % 3
    score = sparsity.median_score(ensemble, sparsity.Images(x, y, x, y, (2, 3)))
    assert score["accuracy"] == pytest.approx(6 / 7)
    assert score["weights"] == sum(score["layers"]) == 48
    assert score["of"] == 62
