"""Whole units leave a trained ensemble: which, how many, and what is left."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.compaction import _kept
from meanfield.deploy.unit_scores import count_units, removable_units, unit_scores
from meanfield.ensemble.networks import mlp

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def perceptron():
    return mf.Ensemble.from_model(mlp((4, 6, 5, 3), key=KEY), key=KEY)


def test_scores_are_those_of_gates_typed_out(perceptron):
    x = RNG.normal(size=(9, 4)).astype(np.float32)
    y = RNG.integers(0, 3, 9)
    layers = removable_units(perceptron, x)
    assert count_units(layers) == {"layers/0": 6, "layers/1": 5}
    found = unit_scores(perceptron, mf.Categorical(), (x, y), layers)
    means = perceptron.mean_params().layers

    def log_prob(gates, x, y):
        first = jax.nn.relu(means[0].weight @ x + means[0].bias) * gates[0]
        second = jax.nn.relu(means[1].weight @ first + means[1].bias) * gates[1]
        return jax.nn.log_softmax(means[2].weight @ second + means[2].bias)[y]

    ones = jnp.ones(6), jnp.ones(5)
    gradients = jax.vmap(jax.grad(log_prob), (None, 0, 0))(ones, x, y)
    for score, gradient in zip(found.values(), gradients, strict=True):
        np.testing.assert_allclose(score, np.sqrt((gradient**2).mean(0)), rtol=1e-4)


def test_channels_have_scores(monkeypatch):
    net = models.channels_read_by_a_layer(KEY)
    images = RNG.normal(size=(5, 1, 4, 4)).astype(np.float32)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    monkeypatch.setattr("meanfield.deploy.unit_scores.LARGE", 0.0)
    layers = removable_units(ensemble, images)
    assert count_units(layers) == {"layers/0": 4}
    y = np.arange(5) % 3
    (score,) = unit_scores(ensemble, mf.Categorical(), (images, y), layers).values()
    # Without its outgoing weights a channel has no influence.
    last = ensemble.weights()["layers/3/weight"]
    mute = mf.SpikeSlab(
        last.spike_prob.at[:, 4:8].set(1), last.slab_mean, last.slab_var
    )
    quiet = ensemble.with_weights({"layers/3/weight": mute})
    (after,) = unit_scores(quiet, mf.Categorical(), (images, y), layers).values()
    assert score[1] > 0
    assert after[1] == 0


@pytest.mark.parametrize(
    ("count", "share", "kept"),
    [(100, 0.65, 64), (100, 0.5, 48), (48, 0.5, 24), (31, 0.5, 15), (3, 0.1, 1)],
)
def test_sizes_are_multiples_where_they_are_large(count, share, kept):
    assert _kept(count, share) == kept
    assert _kept(count, 1.0) == count


@pytest.fixture(scope="module")
def task():
    """Two classes by one of five inputs: a few units are plenty."""
    x = RNG.normal(size=(400, 5)).astype(np.float32)
    return x, (x[:, 2] > 0).astype(int)


@pytest.fixture(scope="module")
def trained(task):
    start = mf.Ensemble.from_model(mlp((5, 16, 2), key=KEY), key=KEY)
    result = mf.fit(
        start, task, key=KEY, prior=None, epochs=20, batch_size=32, progress=False
    )
    return start, result.ensemble


def compacted(trained, task, **settings):
    start, ensemble = trained
    defaults = {"start": start, "temperature": 0.01, "epochs": 60, "batch_size": 32}
    return mf.deploy.compact(ensemble, task, key=KEY, **defaults | settings)


def test_units_that_nobody_misses_leave_and_the_rest_learns_again(trained, task):
    lines = []
    made = compacted(trained, task, tolerance=0.04, told=lines.append)
    assert made.share == 0.375
    assert made.units == {"layers/0": (16, 6)}
    assert set(made.payoffs) == {1.0, 0.5, 0.375}
    assert min(made.payoffs[0.5], made.payoffs[0.375]) >= made.payoffs[1.0] - 0.04
    assert made.payoff == "accuracy"
    assert len(lines) == 5
    gone = np.asarray(made.ensemble.weights()["layers/1/weight"].spike_prob == 1)
    assert gone.all(0).sum() == 10
    (network,) = mf.deploy.sample_subnetworks(made.ensemble, 1, rule="mean")
    shrunk = mf.deploy.shrink(network.model, task[0][:16])
    assert shrunk.model.layers[0].out_features <= 6
    assert (jax.vmap(network.model)(task[0]).argmax(1) == task[1]).mean() > 0.92


def test_where_every_unit_is_needed_all_stay(trained, task, monkeypatch):
    # A single rectified unit cannot tell the middle from both sides.
    monkeypatch.setattr("meanfield.deploy.compaction.SHARES", (0.05,))
    x = task[0]
    y = (np.abs(x[:, 2]) > 0.7).astype(int)
    made = compacted(trained, (x, y), tolerance=0.01)
    assert made.share == 1
    assert made.units == {}
    assert made.ensemble is trained[1]
    assert made.payoffs[1.0] > made.payoffs[0.05] + 0.01


def test_a_tolerance_out_of_range_is_refused(trained, task):
    with pytest.raises(ValueError, match="`tolerance` must be a decrease"):
        compacted(trained, task, tolerance=1.5)
