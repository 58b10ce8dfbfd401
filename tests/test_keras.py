"""Keras models on the JAX backend: in, trained, drawn, and back."""

import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf

os.environ.setdefault("KERAS_BACKEND", "jax")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", reason="the optional package keras is missing")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
KEY = jax.random.key(1)


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2, name="last"),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    model = network()
    ensemble = mf.Ensemble.from_model(model, frozen="sequential/last/bias")
    result = mf.fit(
        ensemble, (X, Y), key=KEY, epochs=2, batch_size=16, progress=False, prior=None
    )
    return model, ensemble, result.ensemble


def test_a_keras_model_is_taken_in_and_given_back(trained):
    model, ensemble, learned = trained
    assert [name.split("/")[-2:] for name in ensemble.weights()] == [
        ["dense", "kernel"],
        ["last", "kernel"],
    ]
    before = [jnp.copy(v.value) for v in model.variables]
    np.testing.assert_allclose(
        ensemble.apply_fn(ensemble.mean_params(), X), model(X), atol=1e-5
    )
    drawn = learned.sample(KEY)
    assert isinstance(drawn, keras.Sequential)
    expected = learned.apply_fn(learned.sample_params(KEY), X)
    np.testing.assert_allclose(drawn(X), expected, atol=1e-5)
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, other.value)


def test_a_keras_model_is_valued_and_exported(trained, tmp_path):
    model, _, learned = trained
    layer = next(iter(learned.weights())).removesuffix("/kernel")
    game = mf.NeuronGame(learned, layer, (X, Y))
    assert game.num_players == 6
    drawn = learned.sample(KEY)
    for format in ("numpy", "stablehlo"):
        done = mf.deploy.export(drawn, tmp_path / format, probe=X, format=format)
        assert done.largest_difference < 1e-5
    networks = mf.deploy.sample_subnetworks(learned, 1, key=KEY)
    mf.deploy.ship(networks, tmp_path / "out", data=(X, Y), measure=False)
    assert len(mf.deploy.check_shipped(tmp_path / "out", like=model)) == 1


def test_a_keras_model_with_two_named_inputs_has_its_own_call():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = keras.layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(both))
    call = lambda model, x: -model({"a": x[0], "b": x[1]})
    ensemble = mf.Ensemble.from_model(model, call=call)
    x = X, X[:, :3]
    np.testing.assert_allclose(
        ensemble.apply_fn(ensemble.mean_params(), x), call(model, x), atol=1e-6
    )


def test_what_keras_cannot_do_is_refused(trained):
    drawn = trained[2].sample(KEY)
    coalition = {"dense": jnp.ones(6, bool)}
    with pytest.raises(ValueError, match="`coalition` needs a network whose layers"):
        mf.deploy.shrink(drawn, X, coalition=coalition)
    with pytest.raises(ValueError, match="`model` of Keras must be built"):
        mf.Ensemble.from_model(keras.Sequential([keras.layers.Dense(2)]))


def test_batch_statistics_of_keras_move_and_its_masks_are_drawn_in_training():
    model = network()
    point = mf.Ensemble.from_points(model)
    settings = {"epochs": 3, "batch_size": 64, "prior": None}
    settings["optimizer"] = optax.sgd(0.0)
    result = mf.fit(point, (X, Y), key=KEY, progress=False, **settings)
    assert len(set(result.history["nll"])) == 3  # the masks differ
    for _ in range(3):  # in Keras itself
        model(X, training=True)
    learned = result.ensemble.mean_network()
    for one, other in zip(model.variables, learned.variables, strict=True):
        if one.dtype == "float32":
            np.testing.assert_allclose(other.value, one.value, rtol=1e-4, atol=1e-6)
    shipped = learned(X, training=False)
    np.testing.assert_allclose(result.ensemble(X, key=KEY), shipped, atol=1e-5)
    again = mf.ensemble.estimate_statistics(
        learned, X, key=KEY, batch_size=64, num_steps=2000
    )
    first, norm = again.layers[0], again.layers[1]
    np.testing.assert_allclose(norm.moving_mean, first(X).mean(0), atol=1e-3)
