"""Predictions of a run for new rows: from a table to an answer."""

import json
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest
from command_line import run

import meanfield as mf
from meanfield.data import Column, TableSchema
from meanfield.runs.predictions import predict_rows
from meanfield.runs.standardization import Standardization
from meanfield.runs.tasks import build_likelihood

QUICK = ["--hidden", "16", "--quiet", "--epochs"]


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """A table as it is exported in Europe, with a hole, and a run on it."""
    folder = tmp_path_factory.mktemp("houses")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "area": rng.uniform(40, 200, 300).round(1),
            "town": rng.choice(["Ulm", "Köln", "Bonn"], 300),
            "rooms": rng.integers(1, 7, 300).astype(float),
        }
    )
    frame["price"] = (
        1000 * frame.area + 50_000 * (frame.town == "Ulm") + 3000 * frame.rooms
    ).round(1)
    frame.loc[::7, "rooms"] = np.nan
    path = folder / "houses.csv"
    frame.to_csv(path, sep=";", decimal=",", index=False, encoding="cp1252")
    settings = mf.runs.settings.TrainSettings(
        str(path), folder / "run", target="price", hidden=(16,), epochs=40, quiet=True
    )
    mf.runs.train.train(settings)
    return folder / "run", frame, path


def test_new_rows_are_read_as_the_training_file_was(
    houses, monkeypatch, capsys, tmp_path
):
    folder, frame, _ = houses
    new = frame.drop(columns="price").sample(20, random_state=0)
    new = new[["rooms", "town", "area"]].assign(remark="nice")
    path, out = tmp_path / "new.csv", tmp_path / "predictions.csv"
    new.to_csv(path, sep=";", decimal=",", index=False)
    code, printed, err = run(monkeypatch, capsys, "predict", folder, path, "--out", out)
    assert code == 0, err
    assert "not used: remark" in printed
    assert str(out) in printed
    found = pd.read_csv(out)
    assert list(found) == [
        "price",
        "price_std",
        "price_lower",
        "price_upper",
        "price_aleatoric_std",
        "price_epistemic_std",
    ]
    true = frame.loc[new.index, "price"].to_numpy()
    assert np.corrcoef(found.price, true)[0, 1] > 0.9
    assert np.sqrt(np.mean((found.price - true) ** 2)) < true.std() / 2
    assert (found.price_lower < found.price).all()
    assert (found.price < found.price_upper).all()
    parts = found.price_aleatoric_std**2 + found.price_epistemic_std**2
    np.testing.assert_allclose(np.sqrt(parts), found.price_std, rtol=1e-4)
    code, _, err = run(monkeypatch, capsys, "predict", folder, path, "--out", out)
    assert code == 1
    assert "exists. Choose another --out" in err


def test_a_frame_gives_what_the_file_gives_in_any_order(houses):
    folder, frame, _ = houses
    opened = mf.load_run(folder)
    assert opened.schema is not None
    assert opened.schema.format.decimal == ","
    found = opened.predict(frame.head(10))
    turned = opened.predict(frame.head(10).iloc[::-1][["town", "rooms", "area"]])
    np.testing.assert_allclose(
        turned.iloc[::-1].to_numpy(), found.to_numpy(), rtol=1e-4
    )
    alone = opened.predict(frame.iloc[3:4])
    np.testing.assert_allclose(alone.to_numpy()[0], found.to_numpy()[3], rtol=1e-4)
    assert turned.index.tolist() == found.index.tolist()[::-1] == [*range(9, -1, -1)]
    twice = opened.predict(frame.head(10), seed=1)
    assert not np.allclose(twice.price, found.price, rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["area", "town"]), "a column 'area', 'town'; got"),
        (lambda f: f.assign(town="Rom"), "'town' must hold one of .* got 'Rom' in row"),
        (lambda f: f.assign(area="big"), "'area' must be numbers; got 'big' in row 0"),
        (lambda f: f.assign(area=None, town="Rom"), "(?s)2 reasons.*'area'.*'town'"),
        (
            lambda f: f.assign(area=["big", "1", None]),
            "got 'big' in row 0 .* Its row 2 has no value",
        ),
        (lambda f: f.iloc[:0], "must have at least one row"),
        (lambda f: f.to_numpy(), "must be a pandas frame"),
        (lambda f: f[["rooms"]], "must have a column 'area', 'town'; got"),
    ],
)
def test_rows_that_do_not_fit_are_refused(houses, change, message):
    folder, frame, _ = houses
    with pytest.raises(ValueError, match=message):
        mf.load_run(folder).predict(change(frame.head(3)))


def test_a_file_that_does_not_fit_is_refused(houses, monkeypatch, capsys, tmp_path):
    folder, frame, path = houses
    frame.to_csv(tmp_path / "commas.csv", index=False)
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 3)))
    frame[["rooms"]].to_csv(tmp_path / "rooms.csv", index=False)
    for name, message in (
        ("commas.csv", "semicolons between cells"),
        ("x.npz", "give new rows as a table"),
        ("none.csv", "does not exist"),
        ("rooms.csv", "must have a column 'area', 'town'"),
    ):
        words = ["predict", folder, tmp_path / name, "--out", tmp_path / "out.csv"]
        code, _, err = run(monkeypatch, capsys, *words)
        assert code == 1
        assert message in err
        assert not (tmp_path / "out.csv").exists()
    code, _, err = run(monkeypatch, capsys, "predict", folder, path, "--out", path)
    assert code == 1
    assert "must be another file" in err
    words = ["predict", folder, path, "--out", tmp_path, "--overwrite"]
    code, _, err = run(monkeypatch, capsys, *words)
    assert (code, "is a folder" in err) == (1, True)
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\); got 2.0"):
        mf.load_run(folder).predict(frame.head(3), level=2.0)


def test_classes_and_images_are_predicted(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200)
    x = rng.integers(0, 100, (200, 4, 5)).astype(np.uint8)
    x[:, 1, 2] = 200 * y + 20
    names = np.asarray(["cat", "dog"])[y]
    np.savez(tmp_path / "animals.npz", x=x, y=names)
    np.savez(tmp_path / "new.npz", x=x[:30])
    folder, out = tmp_path / "run", tmp_path / "predictions.csv"
    words = ["--data", tmp_path / "animals.npz", "--out", folder, *QUICK, 20]
    code, _, err = run(monkeypatch, capsys, "train", *words)
    assert code == 0, err
    words = ["predict", folder, tmp_path / "new.npz", "--out", out]
    code, printed, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "cat" in printed
    found = pd.read_csv(out)
    assert list(found) == [
        "class",
        "class_prob_cat",
        "class_prob_dog",
        "class_entropy",
        "class_aleatoric",
        "class_epistemic",
    ]
    assert (found["class"] == names[:30]).mean() > 0.9
    np.testing.assert_allclose(found.class_prob_cat + found.class_prob_dog, 1, 1e-5)
    opened = mf.load_run(folder)
    assert json.loads((folder / "config.json").read_text())["data"]["divisor"] == 255
    with pytest.raises(ValueError, match=r"shape \(rows, 4, 5\)"):
        opened.predict(x[:, :3])
    with pytest.raises(ValueError, match="have numbers up to only 1,"):
        opened.predict(x / 255 / (x / 255).max())


@pytest.mark.parametrize(
    ("likelihood", "columns"),
    [
        ("poisson", ["y", "y_std", "y_aleatoric_std", "y_epistemic_std"]),
        ("bernoulli", "y y_prob_1 y_entropy y_aleatoric y_epistemic".split()),
    ],
)
def test_counts_and_answers_are_predicted(likelihood, columns):
    network = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0))
    schema = TableSchema((Column("x", "number"),), "y", None)
    run = SimpleNamespace(
        config={
            "data": {"schema": schema.to_dict(), "target_names": ["y"]},
            "model": {"likelihood": likelihood, "targets": 1, "inputs": 1},
        },
        ensemble=mf.Ensemble.from_model(network, key=jax.random.key(1)),
        likelihood=build_likelihood(likelihood),
        standardization=Standardization(),
    )
    found = predict_rows(run, pd.DataFrame({"x": [-1.0, 0.5]}), num_samples=8)
    assert list(found) == columns
    if likelihood == "poisson":
        # Of a Poisson law the variance that is not the weights' is its mean.
        np.testing.assert_allclose(found.y_aleatoric_std**2, found.y, rtol=1e-5)
    else:
        np.testing.assert_array_equal(found.y, (found.y_prob_1 > 0.5).astype(int))
