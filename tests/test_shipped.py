"""What `sample` shows beside the files: the plain network, and what was not removed."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.shipping.scores import score
from meanfield.ensemble.networks import mlp
from meanfield.runs.plain import plain_network, train_plain
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


def test_a_plain_network_learns_what_it_is_given():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 3)).astype(np.float32)
    y = (2 * x[:, 0] - x[:, 2] + 1 + 0.1 * rng.normal(size=256)).astype(np.float32)
    start = eqx.nn.Linear(3, 1, key=jax.random.key(0)), mf.Gaussian()
    network, likelihood = train_plain(
        start,
        (jnp.asarray(x), jnp.asarray(y)),
        epochs=60,
        batch_size=32,
        learning_rate=0.03,
        key=jax.random.key(1),
    )
    # A linear model by gradient steps is the one by least squares.
    columns = np.column_stack([x, np.ones(256)])
    best, residual, *_ = np.linalg.lstsq(columns, y, rcond=None)
    found = [*np.asarray(network.weight)[0], float(network.bias[0])]
    np.testing.assert_allclose(found, best, atol=0.01)
    spread = np.sqrt(residual[0] / 256)
    np.testing.assert_allclose(float(likelihood.scale), spread, rtol=0.1)


@pytest.fixture(scope="module")
def shrunk():
    """A perceptron 6 → 5 → 2, of which two inputs and three hidden units are silent."""
    network = mlp([6, 5, 2], key=jax.random.key(0))
    weight = network.layers[0].weight.at[:, 4:].set(0)
    network = eqx.tree_at(lambda n: n.layers[0].weight, network, weight)
    second = network.layers[1].weight.at[:, 2:].set(0)
    network = eqx.tree_at(lambda n: n.layers[1].weight, network, second)
    return mf.deploy.shrink(network, np.ones((4, 6), np.float32))


def fake_run(hidden, kind="mlp"):
    config = {
        "model": {
            "kind": kind, "hidden": hidden, "likelihood": "categorical", "targets": 1,
        },
        "training": {"seed": 0, "batch_size": None, "learning_rate": 0.01},
    }  # fmt: skip
    return SimpleNamespace(
        config=config, metrics={"epochs": 20}, standardization=Standardization()
    )


def test_the_plain_network_has_the_shipped_widths_and_its_own_scores(shrunk):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    data = mf.data.Dataset(
        name="signs",
        task="classification",
        x_train=x[:200],
        y_train=y[:200],
        x_test=x[200:],
        y_test=y[200:],
        class_names=("-", "+"),
    )
    found = plain_network(fake_run([5]), data, shrunk)
    assert found is not None
    assert found["widths"] == [4, 2, 2]
    assert found["num_weights"] == 12
    assert found["accuracy"] > 0.9
    flat = score(np.zeros((100, 2)), data.y_test, mf.Categorical())
    assert found["nll"] < flat["nll"]
    assert plain_network(fake_run([2]), data, shrunk) is None
    assert plain_network(fake_run([], "cnn"), data, shrunk) is None
