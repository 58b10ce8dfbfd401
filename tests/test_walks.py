"""The first ten minutes of three people, from end to end on small data."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from command_line import run

import meanfield as mf
from meanfield.deploy.formats import numpy_runtime
from meanfield.runs import comparison


@pytest.fixture
def command(monkeypatch, capsys):
    """Run one command; it must succeed. Gives what was printed, and what was said."""

    def checked(*words, code=0):
        got, out, err = run(monkeypatch, capsys, *words)
        assert got == code, err
        return out, err

    return checked


def number(table, name, column=0):
    """A number of a printed table."""
    (line,) = (line for line in table.splitlines() if line.strip().startswith(name))
    return float(line.strip().removeprefix(name).split()[column].replace(",", ""))


def test_an_analyst_goes_from_a_raw_table_to_answers(command, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "CustomerId": np.arange(1000, 1400),
            "name": [f"person {i}" for i in range(400)],
            "opened": "2021-03-05",
            "income": rng.lognormal(10, 0.5, 400).round(2),
            "home": rng.choice(["own", "rent", "?"], 400),
        }
    )
    score = np.log(frame.income) - 10 + (frame.home == "own")
    frame["paid"] = np.where(score + 0.2 * rng.normal(size=400) > 0.3, "yes", "no")
    frame.loc[::9, "income"] = np.nan
    path, run = tmp_path / "loans.csv", tmp_path / "run"
    frame.head(300).to_csv(path, sep=";", decimal=",", index=False)
    words = ["train", "--data", path, "--target", "paid", "--out", run]
    words += ["--hidden", "16", "--epochs", "60"]
    _, err = command(*words, code=1)
    assert "'opened' holds dates" in err
    assert "--drop 'opened'" in err
    out, err = command(*words, "--drop", "opened,CustomerId")
    assert "semicolons, decimal commas" in err
    assert "left out 'name': 300 different texts" in err
    assert "missing values are marked by a feature" in err
    assert "classification of paid into 2 classes (no, yes), categorical" in err
    accuracy, base = (number(out, "test accuracy", column) for column in (0, 1))
    assert accuracy > base + 0.1
    test = mf.load_run(run).load_data()
    shares = np.bincount(test.y_train) / len(test.y_train)
    assert abs(base - (test.y_test == shares.argmax()).mean()) < 1e-4
    new = frame.tail(100).drop(columns=["paid", "name"])[::-1]
    new.to_csv(tmp_path / "new.csv", sep=";", decimal=",", index=False)
    out, _ = command(
        "predict", run, tmp_path / "new.csv", "--out", tmp_path / "answers.csv"
    )
    assert "not used: CustomerId, opened" in out
    found = pd.read_csv(tmp_path / "answers.csv")
    true = frame.paid.tail(100).to_numpy()[::-1]
    assert (found.paid == true).mean() > base
    assert abs((found.paid == true).mean() - accuracy) < 0.15
    np.testing.assert_allclose(found.paid_prob_no + found.paid_prob_yes, 1, atol=1e-4)
    out, _ = command("report", run)
    assert str(run / "report.html") in out
    command("sample", run, "--format", "onnx", "--out", tmp_path / "shipped")
    session = onnxruntime.InferenceSession(tmp_path / "shipped" / "subnetwork-0.onnx")
    feed = {
        "income": new[["income"]].to_numpy(float),
        "home": new[["home"]].to_numpy(object),
    }
    (answers,) = session.run(["paid"], feed)
    assert (answers[:, 0] == true).mean() > base


NET = """
import equinox as eqx
import jax

def make(inputs, outputs, key):
    first, second = jax.random.split(key)
    return eqx.nn.Sequential([
        eqx.nn.Lambda(lambda x: x.reshape(-1)),
        eqx.nn.Linear(inputs[0] * inputs[1], 8, key=first),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Linear(8, outputs, key=second),
    ])
"""


def test_an_engineer_ships_a_network_of_her_own(command, tmp_path):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 240)
    x = rng.integers(0, 80, (240, 5, 4))
    x[np.arange(240), 2 * (y == 1), y] = 250
    np.savez(tmp_path / "parts.npz", x=x.astype(np.uint8), y=np.array([*"abc"])[y])
    (tmp_path / "net.py").write_text(NET)
    run, shipped = tmp_path / "run", tmp_path / "shipped"
    words = ["train", "--data", tmp_path / "parts.npz", "--epochs", "40"]
    _, err = command(*words, "--model", f"{tmp_path / 'net.py'}:make", "--out", run)
    assert "inputs of 5 × 4, 0 to 255: divided by 255" in err
    command("sample", run, "--format", "npz", "--out", shipped)
    (tmp_path / "net.py").unlink()
    out, _ = command("serve-check", shipped)
    assert "hash agrees" in out
    card = json.loads((shipped / "card.json").read_text())
    contract = card["source"]["input"]
    assert (contract["kind"], contract["shape"]) == ("image", [5, 4])
    assert card["source"]["targets"]["class_names"] == ["a", "b", "c"]
    example = json.loads((shipped / "example.json").read_text())
    raw = np.asarray(example["raw_input"])
    assert raw.max() > 1
    # From here on as somebody who has the folder and NumPy alone.
    network = numpy_runtime.load(shipped / "subnetwork-0.npz")
    features = (raw / contract["divide_by"]).astype(np.float32)[None]
    outputs = np.asarray(network(features))[0]
    np.testing.assert_allclose(
        outputs, example["outputs"]["subnetwork-0.npz"], atol=1e-4
    )
    text = (shipped / "card.md").read_text()
    assert "divided by 255" in text
    other = tmp_path / "other"
    command(*words[:3], "--epochs", "2", "--hidden", "4", "--out", other)
    out, _ = command("compare", run, other)
    assert number(out, "accuracy") == pytest.approx(
        json.loads((run / "metrics.json").read_text())["accuracy"], abs=1e-4
    )
    _, err = command("compare", run, run.parent, code=1)
    assert "is not a run folder" in err
    command("compare", run, code=2)


def test_runs_on_different_data_are_not_compared(monkeypatch):
    # Nothing but the fingerprint of the data is looked at.
    network = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(network)
    runs = {
        Path(f"run{seed}"): mf.Run(
            Path(f"run{seed}"),
            {"data": {"sha256": str(seed), "seed": seed}},
            ensemble,
            mf.Categorical(),
            "",
        )
        for seed in (0, 1)
    }
    monkeypatch.setattr(comparison, "load_run", runs.get)
    with pytest.raises(ValueError, match=r"run0 and run1 .* different data \(seed 0"):
        comparison.compare(list(runs))


def test_a_bayesian_gets_the_posterior_and_its_intervals(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.uniform(-2, 2, 400)
    frame = pd.DataFrame({"dose": x, "answer": 30 + 8 * x + 2 * rng.normal(size=400)})
    frame.to_csv(tmp_path / "doses.csv", index=False)
    settings = mf.runs.settings.TrainSettings(
        str(tmp_path / "doses.csv"),
        tmp_path / "run",
        target="answer",
        hidden=(8,),
        epochs=60,
        quiet=True,
    )
    run = mf.runs.train.train(settings)
    data = run.load_data()
    likelihood = run.standardization.likelihood(run.likelihood)
    pair = jnp.asarray(data.x_test), jnp.asarray(data.y_test)
    again = mf.evaluate(
        run.ensemble, pair, likelihood=likelihood, key=jax.random.key(5)
    )
    metrics = run.metrics
    # Other draws of the same ensemble: the scores on record are its scores.
    assert again.rmse == pytest.approx(metrics["rmse"], rel=0.05)
    assert again.nll == pytest.approx(metrics["nll"], abs=0.05)
    assert 1.5 < metrics["rmse"] < 3.5
    assert metrics["r2"] > 0.85
    assert metrics["baselines"]["base rate"]["r2"] == pytest.approx(0, abs=0.1)
    assert metrics["baselines"]["linear model"]["rmse"] == pytest.approx(2, rel=0.3)
    new = pd.DataFrame({"dose": rng.uniform(-2, 2, 300)})
    truth = 30 + 8 * new.dose + 2 * rng.normal(size=300)
    found = run.predict(new)
    inside = (found.answer_lower <= truth) & (truth <= found.answer_upper)
    assert 0.88 < inside.mean() <= 1
    half = run.predict(new, level=0.5)
    assert (
        (half.answer_upper - half.answer_lower)
        < 0.6 * (found.answer_upper - found.answer_lower)
    ).all()
    weight = run.ensemble.weights()["layers/0/weight"]
    assert isinstance(weight, mf.SpikeSlab)
    assert weight.shape == (8, 1)
