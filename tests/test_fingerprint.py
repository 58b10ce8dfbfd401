"""What a checkpoint refuses to go on with: whatever would give other bits."""

import contextlib

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import meanfield as mf
from meanfield.learning.fingerprint import differences

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]
OTHERS = [BATCHES[0], (X[16:] + 1, Y[16:])]


def network(activation=jax.nn.relu):
    net = eqx.nn.MLP(3, 2, 4, 1, activation=activation, key=KEY)
    return mf.Ensemble.from_model(net, key=jax.random.key(1))


def learn(folder, data=(X, Y), *, ensemble=None, **settings):
    settings = {"optimizer": optax.adam(1e-2), "key": KEY, "epochs": 1} | settings
    settings = {"prior": None} | settings
    settings |= {"batch_size": 16, "progress": False, "checkpoint": folder}
    return mf.fit(ensemble or network(), data, **settings)


CASES = {
    "rate": ({}, {"optimizer": optax.adam(1e-3)}, "optimizer"),
    "state": (
        {"optimizer": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)},
        {"optimizer": optax.inject_hyperparams(optax.sgd)(learning_rate=0.2)},
        "optimizer_crc32",
    ),
    "epochs of the default": ({"optimizer": None}, {"epochs": 2}, "optimizer"),
    "activation": ({}, {"ensemble": network(jax.nn.tanh)}, "network"),
    "lambda": (
        {"ensemble": network(lambda x: x * x)},
        {"ensemble": network(lambda x: x * x * x)},
        "network",
    ),
    "list": ({"data": BATCHES}, {"data": OTHERS}, "batches_crc32"),
    "function": (
        {"data": lambda: iter(BATCHES)},
        {"data": lambda: iter(OTHERS[1:])},
        "batches_crc32",
    ),
    "data": ({}, {"data": (X + 1, Y)}, "data_crc32"),
    "key": ({}, {"key": jax.random.key(0, impl="rbg")}, "random"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_only_as_it_was(case, tmp_path):
    first, other, name = CASES[case]
    learn(tmp_path, **first)
    assert len(learn(tmp_path, **first).history["epoch"]) == 1
    with pytest.raises(ValueError, match=f"belongs to another run.*`{name}`"):
        learn(tmp_path, **first | other)


def test_the_random_settings_of_jax_are_part_of_a_run(tmp_path):
    learn(tmp_path)
    setting = jax.threefry_partitionable(not jax.config.jax_threefry_partitionable)
    with setting, pytest.raises(ValueError, match="`random`"):
        learn(tmp_path)


def test_a_loader_that_shuffles_anew_each_time_goes_on(tmp_path):
    rng = np.random.default_rng(1)

    def batches():
        order = rng.permutation(32)
        yield X[order], Y[order]

    learn(tmp_path, batches)
    assert len(learn(tmp_path, batches, epochs=2).history["epoch"]) == 2


def test_what_an_earlier_version_did_not_note_is_not_compared():
    before = {"key": 1, "optimizer": "a", "jax": "0.8"}
    assert differences({"key": 1}, before) == []
    assert differences(before, {"key": 1, "optimizer": "b", "jax": "0.9"}) == []
    found = differences(before, {"key": 1, "optimizer": "b", "jax": "0.8"})
    assert found == ["`optimizer` a there, b here"]
    assert differences({"key": 1}, {"key": 1, "accumulate": 4}) != []


def test_epochs_are_sorted_as_numbers(tmp_path):
    checkpoint = mf.Checkpoint(tmp_path, keep=2)
    for epoch in (999_999, 1_000_000, 1_000_001):
        checkpoint.offer(epoch, {"a": np.ones(2)}, {}, 0.0)
    assert checkpoint.newest() == tmp_path / "epoch-1000001.safetensors"
    names = {path.name for path in tmp_path.glob("epoch-*")}
    assert names == {"epoch-1000000.safetensors", "epoch-1000001.safetensors"}


def test_a_callback_cannot_change_the_history(tmp_path):
    def spoil(report):
        report.history["nll"].clear()
        with contextlib.suppress(KeyError):
            del report.history["epoch"]

    result = learn(tmp_path, epochs=2, callbacks=[spoil])
    assert result.history["epoch"] == [1, 2]
    assert len(result.history["nll"]) == 2
