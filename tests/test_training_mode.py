"""Batch statistics and dropout: models trained in one mode, evaluated in another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_networks import (
    BATCHES,
    KEY,
    KINDS,
    RATE,
    X,
    Y,
    call,
    model,
    nll,
    numbers,
    trained_by_hand,
)

import meanfield as mf

SETTINGS = {"key": KEY, "prior": None, "progress": False}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_a_point_network_with_statistics_is_trained_as_by_its_user(kind):
    point = mf.Ensemble.from_points(model(kind))
    result = mf.fit(point, BATCHES, epochs=3, optimizer=optax.sgd(RATE), **SETTINGS)
    expected = trained_by_hand(kind, model(kind), 3 * BATCHES)
    found = result.ensemble.mean_network()
    for one, other in zip(numbers(kind, found), numbers(kind, expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    for name, array in point.state().items():
        assert name in point.frozen
        if jnp.issubdtype(array.dtype, jnp.inexact):
            assert (result.ensemble.state()[name] != array).all()


def test_dropout_of_nnx_is_that_of_its_user_as_it_counts_on():
    net, by_hand = model("nnx", 0.5), model("nnx", 0.5)
    point = mf.Ensemble.from_points(net)
    result = mf.fit(point, BATCHES, epochs=2, optimizer=optax.sgd(RATE), **SETTINGS)
    expected = trained_by_hand("nnx", by_hand, 2 * BATCHES)
    found = result.ensemble.mean_network()
    for one, other in zip(numbers("nnx", found), numbers("nnx", expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    counts = [net.drop.rngs.count[...] for net in (found, by_hand)]  # type: ignore
    assert int(counts[0]) == int(counts[1])


def test_masks_are_drawn_in_every_step_and_never_in_evaluation():
    point = mf.Ensemble.from_points(model("linen", 0.5))
    settings = SETTINGS | {"epochs": 4, "batch_size": 24, "optimizer": optax.sgd(0.0)}
    result = mf.fit(point, (X, Y), **settings)
    assert len(set(result.history["nll"])) == 4
    losses = [
        mf.evaluate(result.ensemble, (X, Y), key=key, num_samples=1).nll
        for key in jax.random.split(KEY, 2)
    ]
    shipped = call("linen", result.ensemble.mean_network(), X)
    np.testing.assert_allclose(losses, float(nll(shipped, Y)), rtol=1e-5)


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """A kind of network, and an ensemble of it after a few steps with dropout."""
    kind = request.param
    ensemble = mf.Ensemble.from_model(model(kind, 0.2), key=KEY)
    result = mf.fit(ensemble, (X, Y), epochs=5, batch_size=8, **SETTINGS)
    return kind, result.ensemble


def test_what_is_shipped_is_the_function_that_was_evaluated(trained):
    kind, ensemble = trained
    found = mf.evaluate(ensemble, (X, Y), key=KEY, num_samples=3, of="subnetworks").nll
    networks = [ensemble.sample(key) for key in jax.random.split(KEY, 3)]
    probs = np.mean([jax.nn.softmax(call(kind, n, X)) for n in networks], axis=0)
    assert found == pytest.approx(-np.log(probs[np.arange(24), Y]).mean(), rel=1e-5)
    # In inference mode an example's outputs depend on no other example.
    one, all_ = (call(kind, networks[0], x) for x in (X[:1], X))
    np.testing.assert_allclose(one, all_[:1], rtol=1e-5, atol=1e-5)
    assert ensemble.moments(X).mean.shape == (24, 3)


def test_statistics_can_be_estimated_again_under_noise(trained):
    kind, ensemble = trained
    weight = list(ensemble.weights().values())[0]
    mean, var = weight.mean, weight.var
    if kind == "equinox":
        mean, var = mean.T, var.T
    # Noise in the pre-activations has variance Σ x² V, less what the batch mean takes.
    noise = 23 / 24 * (jnp.square(X) @ var).mean(0)
    expected = jnp.var(X @ mean, axis=0) + noise
    assert (noise / expected).max() > 0.3
    found = [
        mf.ensemble.estimate_statistics(
            ensemble, X, key=key, batch_size=24, num_steps=120
        ).state()
        for key in jax.random.split(KEY, 6)
    ]
    means = [np.mean(a, axis=0) for a in zip(*map(dict.values, found), strict=True)]
    errors = [np.abs(a / expected - 1).max() for a in means if a.shape == (6,)]
    # A variance of 24 draws has relative error √(2/24), less in 6 · 19 batches.
    assert min(errors) < 5 * (2 / 24 / 6 / 19) ** 0.5


def test_a_drawn_network_is_shrunk_and_exported_with_its_statistics(trained, tmp_path):
    kind, ensemble = trained
    first = list(ensemble.weights())[0]

    def two_units_less(name, weight):
        mean = weight.mean.T if kind == "equinox" else weight.mean
        mean = mean.at[:, :2].set(0) if name == first else mean.at[:2].set(0)
        return mean.T if kind == "equinox" else mean

    network = ensemble.model(two_units_less)
    small = mf.deploy.shrink(network, X)
    assert {a.shape for a in small.network.arrays.values() if a.ndim == 1} == {
        (4,),
        (3,),
    }
    for number, net in enumerate((network, small)):
        path = tmp_path / f"{number}.npz"
        exported = mf.deploy.export(net, path, probe=X, format="numpy")
        assert exported.largest_difference < 1e-5
    again = mf.ensemble.estimate_statistics(
        small.model, X, key=KEY, batch_size=24, num_steps=120
    )
    (weight,) = (a for a in small.network.arrays.values() if a.shape == (4, 4))
    expected = jnp.var(X @ (weight.T if kind == "equinox" else weight), axis=0)
    errors = [
        jnp.abs(a / expected - 1).max() for a in numbers(kind, again) if a.size == 4
    ]
    assert min(errors) < 1e-3
