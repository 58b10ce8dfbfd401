"""The sparsity experiment: what leaves during a run must not change what is scored."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
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


def test_dead_units_leave_and_the_scored_network_stays_the_same(sparsity, ensemble):
    kept = [np.arange(width) for width in WIDTHS]
    smaller, kept = sparsity.narrow(ensemble, kept)
    assert [len(places) for places in kept] == [5, 5, 3, 3]
    assert kept[0].tolist() == [0, 1, 3, 4, 5]
    assert kept[2].tolist() == [0, 2, 3]
    back = sparsity.widen(smaller, kept, ensemble)
    x = jax.random.normal(jax.random.key(1), (7, 6))
    (before,), (after,) = (
        mf.deploy.sample_subnetworks(one, 1, rule="median") for one in (ensemble, back)
    )
    np.testing.assert_allclose(
        jax.vmap(before.model)(x), jax.vmap(after.model)(x), rtol=1e-6
    )
    assert after.num_nonzero == before.num_nonzero == 25 + 14 + 9
    assert after.num_weights == 6 * 5 + 5 * 4 + 4 * 3


def test_a_unit_without_successors_takes_its_inputs_along(sparsity, ensemble):
    first = ensemble.params.layers[0].weight.spike_prob
    second = ensemble.params.layers[1].weight.spike_prob
    # Only unit 4 of the first layer sees input 5, and nobody sees unit 4.
    lonely = eqx.tree_at(
        lambda e: [layer.weight.spike_prob for layer in e.params.layers[:2]],
        ensemble,
        [first.at[:4, 5].set(1.0), second.at[:, 4].set(1.0)],
    )
    _, kept = sparsity.narrow(lonely, [np.arange(width) for width in WIDTHS])
    assert 4 not in kept[1]
    assert 5 not in kept[0]


def test_the_temperature_rises_over_the_stages_and_then_stays(sparsity):
    whole = sparsity.rising(2.0, 0, 100)
    later = sparsity.rising(2.0, 60, 100)
    assert float(whole(0)) == pytest.approx(2.0 * sparsity.RISE_FROM)
    assert float(later(jnp.asarray(10))) == pytest.approx(float(whole(70)))
    assert float(whole(100)) == float(whole(1000)) == 2.0


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
