"""What `sample` shows beside the files: the plain network, and what was not removed."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.deploy.shipping.scores import score
from meanfield.deploy.shrinking.shrink import shrink
from meanfield.ensemble.frameworks import open_model
from meanfield.runs.architecture import build_model
from meanfield.runs.plain import plain_network, untrained
from meanfield.runs.shipped import card_table, nothing_removed
from meanfield.runs.standardization import Standardization


def entry(**changes):
    before = {"bytes": 4000, "num_weights": 900, "num_nonzero": 800, "macs": 900}
    before |= {"accuracy": 0.95, "nll": 0.2}
    after = {"bytes": 2000, "num_weights": 400, "num_nonzero": 380, "macs": 400}
    after |= {"accuracy": 0.94, "nll": 0.21}
    return {"file": "subnetwork-0.npz", **after, "before": before, **changes}


def test_the_table_has_a_row_for_dense_shipped_and_plain():
    control = {"accuracy": 0.97, "nll": 0.1, "num_weights": 400, "epochs": 60}
    control |= {"widths": [64, 5, 10], "seconds": 2.4}
    card = {"subnetworks": [entry()], "control": control}
    lines = card_table(card, {"accuracy": 0.96}).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [
        "as",
        "subnetwork-0.npz",
        "plain,",
    ]
    assert lines[3].split()[3:7] == ["0.9700", "0.1000", "–", "400"]
    assert "loses 2.0 points of accuracy against the ensemble's 0.9600" in lines[4]
    assert "an ordinary network 64 → 5 → 10, trained for 60 epochs in 2 s" in lines[5]
    assert len(card_table({"subnetworks": [entry()]}).splitlines()) == 3
    dense = {"dense": {"accuracy": 0.951, "nll": 0.19, "bytes": 3600}}
    first = card_table({"subnetworks": [entry()]} | dense).splitlines()[1]
    assert first.split()[:4] == ["dense", "0.9510", "0.1900", "3,600"]


def test_a_loss_is_told_for_numbers_and_counts_too():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2)) * [1.0, 50.0]
    whole = y + rng.normal(size=y.shape) * [0.1, 5.0]
    noise = rng.normal(size=y.shape)

    def rmse(outputs):
        return np.sqrt(np.mean((outputs - y) ** 2, 0))

    r2 = 1 - np.sum((whole - y) ** 2, 0) / np.sum((y - y.mean(0)) ** 2, 0)
    each = [
        {"target": name, "rmse": rmse(whole)[i], "r2": r2[i]}
        for i, name in enumerate(("size", "price"))
    ]
    card = {"source": {"model": {"likelihood": "gaussian"}}}
    for scale, told in ((0.01, False), (0.2, True)):
        outputs = whole + scale * noise * [1.0, 100.0]
        ends = 1 - np.sum((outputs - y) ** 2, 0) / np.sum((y - y.mean(0)) ** 2, 0)
        scores = {"rmse": float(rmse(outputs)[1]), "nll": 1.0, "bytes": 9}
        one = {"file": "a.npz", **scores, "before": scores}
        plain = {name: each[1][name] for name in ("rmse", "r2")}
        text = card_table(card | {"subnetworks": [one]}, plain)
        lost = 100 * (r2 - ends)
        said = f"a.npz loses {lost[1]:.1f} points of R² against the ensemble's"
        assert (said in text) == told == (lost[1] > 0.5)
        one |= {"rmse_by_output": rmse(outputs).tolist()}
        text = card_table(card | {"subnetworks": [one]}, {"by_target": each})
        assert (f"{lost[1]:.1f} points of R² of price against" in text) == told
    # Runs of earlier versions lack the R².
    assert "loses" not in card_table(card | {"subnetworks": [one]}, {"rmse": 1.0})
    card["source"]["model"]["likelihood"] = "poisson"
    for nll, told in ((2.005, False), (2.125, True)):
        one |= {"nll": nll}
        text = card_table(card | {"subnetworks": [one]}, {"nll": 2.0, "rmse": 1.0})
        said = "a.npz loses 0.125 nats per example against the ensemble's 2.0000"
        assert (said in text) == told


def test_where_no_unit_could_leave_it_says_what_was_tried():
    made = {"share": 1.0, "payoff": "accuracy"}
    made["held_out"] = {"1": 0.98, "0.5": 0.9, "0.65": 0.95}
    card = {"rule": "compact", "labels": {}, "source": {"compact": made}}
    card |= {"subnetworks": [entry()]}
    note = str(nothing_removed(card))
    assert "0.9800 with all units, 0.9500 with 65 %, 0.9000 with 50 %" in note
    assert "--tolerance" in note
    card["source"] = {"compact": made | {"held_out": {}}}
    assert "no layer whose units can be distinguished" in str(nothing_removed(card))
    card["source"] = {"compact": made | {"share": 0.5}}
    assert nothing_removed(card) is None


def test_what_cannot_shrink_says_so_and_names_the_setting():
    card = {
        "rule": "labels",
        "labels": {"all": {"absent": 0.0}},
        "source": {"labels": "certified: nothing can be removed within 0.01"},
        "subnetworks": [entry()],
    }
    note = str(nothing_removed(card))
    assert "nothing can be removed within 0.01" in note
    assert "--rule selective" in note
    assert nothing_removed(card | {"rule": "draw"}) is None
    some = {"labels": {"all": {"absent": 0.1}}}
    assert nothing_removed(card | some) is None
    scattered = card | some | {"subnetworks": [entry(num_weights=900)]}
    note = str(nothing_removed(scattered))
    assert "no whole unit was removed" in note
    assert "--rule selective" in note
    # What was set already is not advised.
    note = str(nothing_removed(scattered, {"rule": "selective"}))
    assert "Train with --spikes unit too" in note
    both = {"rule": "selective", "spikes": "unit"}
    assert "more epochs" in str(nothing_removed(scattered, both))


EQUINOX = """
import equinox as eqx, jax

def make(inputs, outputs, key):
    one, two = jax.random.split(key)
    return eqx.nn.Sequential([
        eqx.nn.Linear(inputs, 5, key=one),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Linear(5, outputs, key=two),
    ])
"""
NNX = """
from flax import nnx
import jax

def make(inputs, outputs, key):
    rngs = nnx.Rngs(0, params=key)
    return nnx.Sequential(
        nnx.Linear(inputs, 5, rngs=rngs),
        nnx.BatchNorm(5, momentum=0.9, rngs=rngs),
        jax.nn.relu,
        nnx.Dropout(0.1, rngs=rngs),
        nnx.Linear(5, outputs, rngs=rngs),
    )
"""
LINEN = """
from flax import linen
import jax

class Net(linen.Module):
    outputs: int

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dense(5)(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(self.outputs)(jax.nn.relu(x))

def make(inputs, outputs, key):
    return Net(outputs)
"""
PAIR = """
import jax, jax.numpy as jnp

def make(inputs, outputs, key):
    one, two = jax.random.split(key)
    params = {
        "in": {"weight": jax.random.normal(one, (5, inputs)) / inputs**0.5},
        "out": {"weight": jax.random.normal(two, (outputs, 5)) / 5**0.5,
                "bias": jnp.zeros(outputs)},
    }
    def apply_fn(params, x):
        hidden = jax.nn.relu(x @ params["in"]["weight"].T)
        return hidden @ params["out"]["weight"].T + params["out"]["bias"]
    return apply_fn, params
"""
# For every kind of network: its file, the arrays into and out of the hidden units (the
# place of the units is 0, or -1 in a kernel), and the shapes that ship.
KINDS = {
    "mlp": (None, "layers/0/weight", "layers/1/weight", (6, 5, 2)),
    "cnn": (None, "convolutions/0/weight", "convolutions/1/weight", None),
    "equinox": (EQUINOX, "layers/0/weight", "layers/2/weight", None),
    "nnx": (NNX, "layers/0/kernel", "layers/4/kernel", None),
    "linen": (LINEN, "params/Dense_0/kernel", "params/Dense_1/kernel", None),
    "pair": (PAIR, "in/weight", "out/weight", None),
}
GONE = (2, 3)  # Hidden units that ship no connection.


def case(kind, folder):
    """A run, images of 3 × 2 numbers, and the run's network without some units."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    file, first, second, _ = KINDS[kind]
    model = {"kind": "file" if file else kind, "hidden": [5], "outputs": 2}
    model |= {"likelihood": "categorical", "targets": 1, "inputs": 6}
    if kind == "cnn":
        x, model["shape"] = x.reshape(-1, 3, 2), [3, 2]
    if file is not None:
        (folder / "model.py").write_text(file)
        digest = file_hash(folder / "model.py")
        model |= {"function": "make", "file_sha256": digest, "shape": None}
    data = mf.data.Dataset(
        name="signs",
        task="classification",
        x_train=x[:200],
        y_train=y[:200],
        x_test=x[200:],
        y_test=y[200:],
        class_names=("-", "+"),
        image_shape=x.shape[1:] if kind == "cnn" else None,
    )
    training = {"seed": 0, "batch_size": None, "learning_rate": 0.02}
    run = SimpleNamespace(
        config={"model": model, "training": training},
        metrics={"epochs": 20},
        standardization=Standardization(),
        folder=folder,
    )
    network = as_network(build_model(model, 1, folder))
    arrays = {name: np.array(array) for name, array in network.arrays.items()}
    units = -1 if first.endswith("kernel") else 0
    np.moveaxis(arrays[first], units, 0)[list(GONE)] = 0
    np.moveaxis(arrays[second], -2 if units else 1, 0)[list(GONE)] = 0
    return run, data, shrink(network.rebuild(arrays), x[:4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_network_of_the_shipped_size_is_trained_for_every_kind(kind, tmp_path):
    run, data, shrunk = case(kind, tmp_path)
    whole = build_model(run.config["model"], 0, tmp_path)
    fresh = as_network(untrained(whole, shrunk))
    _, first, second, _ = KINDS[kind]
    for name, array in as_network(whole).arrays.items():
        part = np.asarray(fresh.arrays[name])
        assert part.shape == shrunk.network.arrays[name].shape
        kept = np.asarray(array)[np.ix_(*shrunk.kept[name])]
        # Fewer inputs of a unit: larger weights, as an untrained network has them.
        factor = math.sqrt(1 / (1 - len(GONE) / 5)) if name == second else 1
        if kind == "cnn" and name == second:
            factor = math.sqrt(16 / 14)
        np.testing.assert_allclose(part, kept * np.float32(factor), rtol=1e-6)
    # A network with batch norm or masks is trained in training mode.
    assert (open_model(untrained(whole, shrunk)).training is None) == (
        kind not in ("nnx", "linen")
    )
    found = plain_network(run, data, shrunk)
    assert found is not None
    weights = [np.size(a) for a in shrunk.network.arrays.values() if np.ndim(a) > 1]
    assert found["num_weights"] == sum(weights)
    assert found["accuracy"] > 0.88
    assert found.get("widths") == ([6, 3, 2] if kind == "mlp" else None)
    flat = score(np.zeros((100, 2)), data.y_test, mf.Categorical())
    assert found["nll"] < flat["nll"]


def test_without_a_smaller_network_there_is_no_plain_one(tmp_path):
    run, data, shrunk = case("mlp", tmp_path)
    whole = shrink(build_model(run.config["model"], 1), data.x_test[:4])
    assert plain_network(run, data, whole) is None
    fixed = dataclasses.replace(shrunk.network, fixed_sizes=True)
    why = plain_network(run, data, dataclasses.replace(shrunk, network=fixed))
    assert why is not None
    card = {"subnetworks": [entry(num_weights=900)], "rule": "draw", "control": why}
    lines = card_table(card).splitlines()
    assert len(lines) == 4
    assert "no plain network of that size: layers of Keras cannot take" in lines[-1]
    assert nothing_removed(card) is None
    other = {"nll": 0.1, "num_weights": 1400, "epochs": 60, "seconds": 2.0}
    text = card_table(card | {"control": other}).splitlines()[-1]
    assert "an ordinary network of the same layers, 1,400 weights, trained" in text
