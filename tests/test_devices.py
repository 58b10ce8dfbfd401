"""More than one device, parts of a batch, and a narrower type to compute in."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.optimizers import default_optimizer
from meanfield.learning.training import Recipe, gradients, losses, split_learned

SCRIPT = Path(__file__).with_name("four_devices.py")
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (24, 3))
Y = (X[:, 0] > 0).astype(int)


def start(*words):
    # Coverage and test plugins of this process are none of the script's business.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def answer(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-2000:]
    return out


@pytest.fixture(scope="module")
def four():
    """What one process with four devices found."""
    return json.loads(answer(start()).splitlines()[-1])


@pytest.mark.parametrize("way", ["arrays", "batches", "accumulated", "wide"])
def test_four_devices_learn_what_one_learns(four, way):
    alone, shared = map(np.asarray, four[way])
    assert len(alone) == (100 if way == "arrays" else 5)
    np.testing.assert_allclose(shared, alone, rtol=1e-5)


def test_two_processes_learn_what_one_learns(four):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(port, number) for number in range(2)]
    first, _ = [answer(process) for process in processes]
    found = json.loads(first.splitlines()[-1])
    for way in ("arrays", "batches"):
        np.testing.assert_allclose(found[way], four[way][0], rtol=1e-5)


def test_predictions_spread_over_devices_are_the_same(four):
    alone, shared = map(np.asarray, four["predictions"])
    assert alone.shape == (60, 2)
    np.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-7)


def test_neurons_are_valued_over_devices_as_on_one(four):
    alone, shared = map(np.asarray, four["shapley_values"])
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-6)


def test_a_batch_that_devices_cannot_share_is_refused(four):
    assert len(four["refusals"]) == 2
    for message in four["refusals"]:
        assert "must be a multiple of 4: 4 devices" in message
        assert "got 30. Use 32." in message


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match="must not exceed the number of devices"):
        mf.learning.device_mesh(len(jax.devices()) + 1)
    with pytest.raises(ValueError, match="must be at least 1; got 0 and 1"):
        mf.learning.device_mesh(0)


def recipe_of(ensemble, **settings):
    learned, fixed = split_learned(ensemble, Categorical(), mf.learning.Projected())
    recipe = Recipe(
        fixed=fixed,
        prior=None,
        optimizer=default_optimizer(1),
        parametrization=mf.learning.Projected(),
        temperature=1.0,
        num_data=24,
        **settings,
    )
    return learned, recipe


def certain(name, leaf, fan_in, key):
    draw = jax.random.normal(key, leaf.shape)
    return mf.SpikeSlab(jnp.zeros(leaf.shape), draw, jnp.zeros(leaf.shape))


def test_the_parts_of_a_batch_give_the_gradient_of_the_whole():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=KEY, initial=certain)
    step = jnp.zeros((), jnp.int32)
    learned, whole = recipe_of(ensemble)
    (loss, _), slope = gradients(learned, whole, X, Y, step, KEY)
    _, cut = recipe_of(ensemble, accumulate=4)
    (loss4, _), slope4 = gradients(learned, cut, X, Y, step, KEY)
    np.testing.assert_allclose(loss4, loss, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(slope4), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7)


def test_the_network_computes_in_bfloat16_and_learns_in_float32():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    learned, recipe = recipe_of(ensemble, compute_dtype=jnp.dtype("bfloat16"))
    step = jnp.zeros((), jnp.int32)
    program = jax.make_jaxpr(lambda n: losses(n, recipe, X, Y, step, KEY)[0])(learned)
    products = re.findall(r":(\w+)\[\d+,\d+\] = dot_general", str(program))
    assert products == 4 * ["bf16"]  # G and Δ² of two layers
    settings = {"key": KEY, "epochs": 60, "batch_size": 8, "progress": False}
    settings |= {"optimizer": optax.adam(1e-2), "prior": None}
    wide = mf.fit(ensemble, (X, Y), **settings)
    narrow = mf.fit(ensemble, (X, Y), compute_dtype="bfloat16", **settings)
    for weight in narrow.ensemble.weights().values():
        assert weight.slab_mean.dtype == jnp.float32
    assert abs(narrow.history["nll"][-1] - wide.history["nll"][-1]) < 0.1
    assert narrow.history["nll"][-1] < 0.5 * narrow.history["nll"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 0}, "`accumulate` must be at least 1"),
        ({"accumulate": 3}, "must be a multiple of 3"),
        ({"compute_dtype": "int32"}, "`compute_dtype` must be a floating-point type"),
        ({"mesh": jax.make_mesh((1,), ("rows",))}, "`mesh` must have an axis 'data'"),
    ],
)
def test_what_cannot_be_computed_with_is_refused(change, message):
    ensemble = mf.Ensemble.from_model(eqx.nn.MLP(3, 2, 8, 1, key=KEY), key=KEY)
    with pytest.raises(ValueError, match=message):
        mf.fit(
            ensemble,
            (X, Y),
            key=KEY,
            batch_size=8,
            prior=None,
            progress=False,
            **change,
        )
