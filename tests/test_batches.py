"""Data as arrays or as batches from outside, and every Optax optimizer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (32, 3))
Y = (X[:, 0] > 0).astype(int)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]


@pytest.fixture(scope="module")
def ensemble():
    network = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    return mf.Ensemble.from_model(network, key=jax.random.key(1))


def learn(ensemble, data=(X, Y), **settings):
    defaults = {"key": KEY, "epochs": 1, "batch_size": 8, "progress": False}
    defaults["prior"] = None
    return mf.fit(ensemble, data, **defaults | settings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X.at[5, 2].set(jnp.inf), Y), r"infinity in row 5, position \(2,\).*impute"),
        ((np.full((32, 3), 1e39), Y), "NaN or infinity in row 0"),
        ((X, jnp.where(Y > 0, jnp.nan, 0.0)), "targets `y` must be finite"),
        ((X, Y.at[7].set(2)), r"`targets` must be labels 0 … 1.*got 2 in row 7"),
        ((X, Y.at[3].set(-1)), r"labels 0 … 1.*got -1 in row 3"),
        ((X, Y + 0.5), "whole numbers"),
        ((X, jax.nn.one_hot(Y, 2)), r"not one-hot rows: take targets.argmax"),
        ((np.array([["a"] * 3] * 32), Y), "must be numbers; got dtype <U1.*Encode"),
        (({"a": X, "b": X[:5]}, Y), "must agree on the number of examples"),
        ((jnp.ones(()), Y), "examples along the first axis"),
    ],
)
def test_arrays_that_cannot_be_learned_from_are_refused(ensemble, data, message):
    with pytest.raises(ValueError, match=message):
        learn(ensemble, data)


@pytest.mark.parametrize("data", [None, X, (X, Y, Y), 3.0])
def test_what_is_neither_arrays_nor_batches_is_refused(ensemble, data):
    with pytest.raises((TypeError, ValueError), match="pair of arrays|batches"):
        learn(ensemble, data)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "`data` must give at least one batch"),
        ([*BATCHES, X], "batches; batch 4 is a"),
        ([*BATCHES, (X.at[1, 1].set(jnp.nan), Y)], "`data batch 4` inputs.*in row 1"),
        ([*BATCHES, (X[:8], Y[:8] + 4)], "labels 0 … 1"),
        (
            [*BATCHES, (X[:8], Y[:7])],
            "`data batch 4` must have one target for each example",
        ),
        ([(X[:8, :2], Y[:8])], "a batch that the model accepts"),
    ],
)
def test_a_bad_batch_from_outside_is_named(ensemble, batches, message):
    with pytest.raises(ValueError, match=message):
        learn(ensemble, batches)


def test_batches_from_outside_give_the_same_bits_again_and_may_differ_in_size(ensemble):
    uneven = [(X[:8], Y[:8]), (np.asarray(X[8:13]), np.asarray(Y[8:13]))]
    one, two = (learn(ensemble, uneven, epochs=2) for _ in range(2))
    for a, b in zip(
        jax.tree.leaves(eqx.filter(one.ensemble.params, eqx.is_array)),
        jax.tree.leaves(eqx.filter(two.ensemble.params, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


OPTIMIZERS = {
    "sgd with momentum on a schedule": optax.sgd(
        optax.exponential_decay(0.1, 20, 0.7), momentum=0.5
    ),
    "adamw, clipped": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(0.02, weight_decay=1e-4)
    ),
    "rmsprop": optax.rmsprop(0.01),
    "line search": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=8)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_lowers_the_loss(ensemble, name):
    result = learn(ensemble, optimizer=OPTIMIZERS[name], epochs=25)
    last = np.mean(result.history["nll"][-5:])
    assert last < result.history["nll"][0]
    for weight in result.ensemble.weights().values():
        assert ((weight.spike_prob >= 0) & (weight.spike_prob <= 1)).all()
        assert (weight.slab_var >= 0).all()
