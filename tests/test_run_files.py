"""The files of a run under attack, and a run that takes the place of another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield import runs
from meanfield.credit.connections import write_connections
from meanfield.data import load
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.keys import key_of_seed
from meanfield.learning.results import FitResult
from meanfield.runs import replacement
from meanfield.runs.architecture import build_model, describe_model
from meanfield.runs.coalitions import strong_masks
from meanfield.runs.config import config_of
from meanfield.runs.documents import write_json, write_sealed
from meanfield.runs.folder import save_run
from meanfield.runs.settings import TrainSettings
from meanfield.runs.tasks import build_likelihood

PARTS = {"important": 0.25, "absent": 0.5, "variable": 0.25}
LAYER = {
    "values": [0.25, -0.125],
    "mask": [True, False],
    "size": 1,
    "payoffs": [0.125, 0.5, 0.625],
    "label_game": {"important": 0.5, "absent": 0.0, "variable": 0.125},
}
FOUND = {"verdict": "cannot tell", "reason": "too few"}
ANALYSIS = {
    "microstructure": {"layers/0/weight": FOUND | {"mu": 1.5, "sigma": None}},
    "renormalization": FOUND,
    "complexity": FOUND,
}


def make_run(folder, seed=0, **settings):
    """A run as training leaves it, without the training."""
    settings = TrainSettings(hidden=(2,), seed=seed, **settings)
    config = config_of(settings, load("digits"))
    config["model"] |= describe_model("mlp", load("digits"))
    config["data"] |= {"target_shift": None, "target_scale": None}
    model = build_model(config["model"], seed)
    ensemble = mf.Ensemble.from_model(model, key=key_of_seed(seed))
    history = {"epoch": [1, 2], "nll": [2.5, 1.25]}
    likelihood = build_likelihood("categorical")
    run = save_run(folder, config, FitResult(ensemble, likelihood, history, "finished"))
    sha = file_hash(folder / "history.csv")
    metrics = {"accuracy": 0.75, "nll": 1.25, "ece": 0.0625, "stopped": "finished"}
    layers = {"layers/0/weight": PARTS, "layers/1/weight": PARTS}
    metrics |= {"labels": layers, "num_weights": 148, "history_sha256": sha}
    run.update_metrics(metrics)
    labels = mf.label_connections(ensemble)
    write_connections(folder / "connections.csv", ensemble, labels)
    run.seal_connections()
    write_sealed(folder / "coalitions.json", {"layers": {"layers/0": LAYER}}, run.seal)
    write_sealed(folder / "analysis.json", ANALYSIS, run.seal)
    runs.pictures.draw_history(run, history)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    make_run(folder)
    return folder


def observe(folder):
    """Everything that commands read from a run."""
    run = mf.load_run(folder)
    arrays = [
        np.asarray(a) for a in jax.tree.leaves(run.ensemble.params) if a is not None
    ]
    numbers = [a.tobytes() for a in arrays if a.dtype != object]
    runs.report.write_report(folder)
    page = (folder / "report.html").read_text()
    page = page.replace(str(folder), "RUN")
    masks = {name: mask.tolist() for name, mask in strong_masks(run).items()}
    table = run.connections.read_bytes()
    return numbers, run.config, run.metrics, masks, page, table


FILES = [
    "config.json",
    "ensemble.safetensors",
    "metrics.json",
    "coalitions.json",
    "analysis.json",
    "history.csv",
    "connections.csv",
    "plots/history.png",
]


def spoil(rng, kind, content, other):
    place = int(rng.integers(len(content)))
    if kind == "flip":
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == "cut":
        return content[:place]
    if kind == "drop":
        return content[:place] + content[place + 1 :]
    if kind == "digit":
        digits = [i for i, byte in enumerate(content) if byte in b"123456789"]
        place = digits[int(rng.integers(len(digits)))]
        return (
            content[:place] + b"8" * (content[place] != ord("8")) + content[place + 1 :]
        )
    return other


def test_whatever_is_done_to_a_file_nothing_changes_in_silence(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "whole"))
    expected = observe(folder)
    contents = {name: (folder / name).read_bytes() for name in FILES}
    rng = np.random.default_rng(0)
    refused = 0
    for name, content in contents.items():
        for number in range(20):
            kind = ("flip", "cut", "drop", "digit", "swap")[number % 5]
            other = contents[FILES[int(rng.integers(len(FILES)))]]
            spoilt = spoil(rng, kind, content, other)
            (folder / name).write_bytes(spoilt)
            try:
                assert observe(folder) == expected, (name, kind, number)
            except (ValueError, OSError) as error:
                assert Path(name).name in str(error), (name, kind, error)  # noqa: PT017
                refused += 1
        (folder / name).write_bytes(content)
    assert observe(folder) == expected
    assert refused > 100


def test_what_belongs_to_another_ensemble_is_hidden_or_refused(whole, tmp_path):
    folder = tmp_path / "other"
    make_run(folder, seed=1)
    own = mf.load_run(folder)
    shutil.copy(whole / "connections.csv", folder / "connections.csv")
    with pytest.raises(ValueError, match=r"connections\.csv is not the table.*label"):
        runs.credit.credit(own, load("digits"))
    for name in ("metrics.json", "coalitions.json", "analysis.json"):
        shutil.copy(whole / name, folder / name)
    shutil.copy(whole / "plots" / "history.png", folder / "plots" / "history.png")
    run = mf.load_run(folder)
    assert run.metrics == {}
    with pytest.raises(ValueError, match=r"coalitions\.json was made from another"):
        strong_masks(run)
    page = runs.report.write_report(folder).read_text()
    assert "connections.csv" not in page
    for what in ("plot “history”", "coalitions of neurons", "analysis of its weights"):
        assert f"This run has no {what} yet" in page
    write_json(folder / "coalitions.json", {"layers": {"layers/0": LAYER}})
    with pytest.raises(ValueError, match="does not match its own checksum"):
        strong_masks(run)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("data", "target_scale", [2.0], "is not the configuration"),
        ("data", "sha256", None, r"data/sha256 must be a text"),
        ("data", "test_fraction", 2, r"data/test_fraction must be a finite number"),
        ("model", "hidden", [10**7], "is not the configuration"),
        ("model", "hidden", "2", r"model/hidden must be a list"),
        ("model", "inputs", -1, r"model/inputs must be a whole number"),
        ("model", "likelihood", "magic", r"model/likelihood must be one of"),
        ("training", "seed", 1.5, r"training/seed must be a whole number"),
    ],
)
def test_an_edited_configuration_is_refused(
    whole, tmp_path, part, name, value, message
):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    config[part][name] = value
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=message):
        mf.load_run(folder)


def test_sizes_are_compared_before_a_network_is_built(whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run = mf.load_run(whole)
    config = json.loads((whole / "config.json").read_text())
    config["model"]["hidden"] = [10**7]
    result = FitResult(run.ensemble, run.likelihood, {"nll": []}, "finished")
    save_run(folder, config, result)
    monkeypatch.setattr(runs.folder, "build_model", None)
    with pytest.raises(ValueError, match=r"shape \(10000000, 64\).* got \(2, 64\)"):
        mf.load_run(folder)


def test_a_convolutional_network_larger_than_its_file_is_not_built(whole, tmp_path):
    run, folder = mf.load_run(whole), tmp_path / "run"
    config = json.loads((whole / "config.json").read_text())
    config["model"] |= {"kind": "cnn", "shape": [8, 8], "hidden": [10**9, 10**9]}
    result = FitResult(run.ensemble, run.likelihood, {"nll": []}, "finished")
    save_run(folder, config, result)
    with pytest.raises(ValueError, match=r"must hold the 1,000,.* numbers of the netw"):
        mf.load_run(folder)
    config["model"]["shape"] = [8, -8]
    save_run(folder, config, result)
    with pytest.raises(ValueError, match=r"model/shape\[1\] must be a whole number"):
        mf.load_run(folder)


def test_deep_large_and_constant_json_is_refused(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for text in ("[" * 100_000, '{"a": NaN}', "null", "\xff"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"config\.json"):
            mf.load_run(folder)
    (folder / "config.json").unlink()
    os.truncate(os.open(folder / "config.json", os.O_CREAT | os.O_RDWR), 2**29)
    with pytest.raises(ValueError, match="bytes; a file of a run has at most"):
        mf.load_run(folder)


def test_numbers_that_are_not_finite_are_left_out(whole, tmp_path):
    run = mf.load_run(shutil.copytree(whole, tmp_path / "run"))
    run.update_metrics({"entropy": {"layers/0/weight": -np.inf}, "nll": np.nan})
    assert run.metrics["entropy"] == {"layers/0/weight": None}
    assert run.metrics["nll"] is None
    runs.report.write_report(run.folder)


def test_seeds_are_told_apart_to_the_last_bit():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1]
    keys = {tuple(np.ravel(jax.random.key_data(key_of_seed(seed)))) for seed in seeds}
    assert len(keys) == len(seeds)
    assert key_of_seed(7) == jax.random.key(7)
    with jax.enable_x64(True):
        wide = jax.random.key_data(jax.random.key(2**40 + 5))
    np.testing.assert_array_equal(jax.random.key_data(key_of_seed(2**40 + 5)), wide)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match="`seed` must be a whole number from 0"):
            key_of_seed(seed)


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "nowhere.csv", "target": "y"}, "nowhere.csv"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"precision": "float8"}, "`precision` must be a floating-point type"),
        ({"precision": "int8"}, "`precision` must be a floating-point type"),
        ({"seed": 2**63}, "`seed` must be"),
        ({"spikes": "none"}, "spikes"),
        ({"devices": (999, 1)}, "999"),
    ],
)
def test_a_refused_start_leaves_everything_as_it_was(
    whole, tmp_path, settings, message
):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    before = files_of(folder)
    quick = {"hidden": (2,), "epochs": 1, "quiet": True} | settings
    with pytest.raises((ValueError, OSError), match=message):
        runs.train.train(TrainSettings(out=folder, overwrite=True, **quick))
    assert files_of(folder) == before
    with pytest.raises((ValueError, OSError), match=message):
        runs.train.train(TrainSettings(out=tmp_path / "a" / "b", **quick))
    assert not (tmp_path / "a").exists()


KILL = """
import os, sys
from pathlib import Path
from meanfield.runs import replacement
out, steps = Path(sys.argv[1]), int(sys.argv[2])
real = os.replace
def replace(*paths):
    global steps
    if steps == 0:
        os.kill(os.getpid(), 9)
    steps -= 1
    real(*paths)
os.replace = replace
replacement.commit(out)
"""


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 6])
def test_a_replacement_that_is_killed_leaves_one_whole_run(whole, tmp_path, steps):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    (out / "notes.txt").write_text("mine")
    new = make_run(out / replacement.NEXT, seed=1)
    (out / replacement.NEXT / "coalitions.json").unlink()
    command = [sys.executable, "-c", KILL, str(out), str(steps)]
    assert subprocess.run(command).returncode == -9
    run = mf.load_run(out)
    committed = steps >= 2
    assert (run.seal == new.seal) == committed
    assert run.metrics["accuracy"] == 0.75
    assert (out / "coalitions.json").exists() != committed
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / replacement.READY).exists()


def test_a_run_is_not_put_where_a_file_is(tmp_path):
    (tmp_path / "file.npz").write_text("mine")
    for settings in ({}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match=r"file\.npz is a file\. Choose"):
            runs.train.train(TrainSettings(out=tmp_path / "file.npz", **settings))
    assert (tmp_path / "file.npz").read_text() == "mine"


def test_a_finished_run_is_left_alone(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    before = files_of(folder)
    runs.train.train(TrainSettings(resume=folder, quiet=True))
    assert files_of(folder) == before
    with pytest.raises(ValueError, match=r"trained with hidden = \(2,\)"):
        runs.config.resumed(TrainSettings(resume=folder, hidden=(3,)))
    with pytest.raises(ValueError, match="leave out `out` and `overwrite`"):
        runs.config.resumed(TrainSettings(resume=folder, out=tmp_path))


def test_data_that_moved_are_found_where_they_are_said_to_be(tmp_path, monkeypatch):
    table = tmp_path / "here" / "table.csv"
    table.parent.mkdir()
    rows = [f"{i},{i % 7},{'ab'[i % 2]}" for i in range(40)]
    table.write_text("x,y,z\n" + "\n".join(rows))
    monkeypatch.chdir(table.parent)
    dataset = load("table.csv", target="z")
    config = config_of(TrainSettings(data="table.csv", target="z"), dataset)["data"]
    monkeypatch.chdir(tmp_path)
    assert runs.source.load_data(config).sha256 == dataset.sha256
    moved = tmp_path / "moved.csv"
    table.rename(moved)
    with pytest.raises(FileNotFoundError, match=rf"not at {table}.*--data FILE"):
        runs.source.load_data(config)
    assert runs.source.load_data(config, data=moved).sha256 == dataset.sha256
    moved.write_text(moved.read_text().replace("39,4,b", "39,5,b"))
    with pytest.raises(ValueError, match="are not those on which the run was trained"):
        runs.source.load_data(config, data=moved)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_damaged_weights_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\3\4 and so on")
    with pytest.raises(ValueError, match=f"{name} is not a whole"):
        runs.analyze.read_weights(path)


def test_noise_in_the_weights_comes_back_with_the_run(whole, tmp_path):
    config = mf.load_run(whole).config
    ensemble = mf.load_run(whole).ensemble.with_noise({"layers/0/weight": "weights"})
    result = FitResult(ensemble, mf.Categorical(), {"nll": [1.0]}, "finished")
    saved = save_run(tmp_path / "run", config, result)
    found = mf.load_run(tmp_path / "run")
    assert found.ensemble.drawn == ("layers/0/weight",)
    x, key = load("digits").x_test[:5], jax.random.key(0)
    np.testing.assert_array_equal(found.ensemble(x, key=key), ensemble(x, key=key))
    assert found.seal == saved.seal != mf.load_run(whole).seal
    plain = ensemble.with_noise("preactivations")
    assert np.abs(plain(x, key=key) - ensemble(x, key=key)).max() > 1e-3


class Killed(BaseException):
    """Ends a training as a signal does: nothing is cleared away."""


def kill_after_the_first_epoch(report):
    if report.epoch == 1:
        raise Killed


def test_a_replacement_that_is_killed_while_it_trains_can_be_gone_on_with(
    whole, tmp_path
):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    before = files_of(out)
    new = {"hidden": (2,), "epochs": 2, "seed": 5, "quiet": True}
    new |= {"rule": "published"}
    started = TrainSettings(out=out, overwrite=True, **new)
    with pytest.raises(Killed):
        runs.train.train(started, [kill_after_the_first_epoch])
    # The old run is whole, whatever was begun beside it.
    left = files_of(out)
    assert {name: left[name] for name in before} == before
    begun = out / replacement.NEXT
    assert any((begun / "checkpoints").glob("epoch-*"))
    assert mf.load_run(out).metrics["accuracy"] == 0.75
    assert runs.train.train(TrainSettings(resume=out, quiet=True)).config == (
        mf.load_run(out).config
    )
    done = runs.train.train(TrainSettings(resume=begun, quiet=True))
    assert done.folder == out
    assert not begun.exists()
    again = mf.load_run(out)
    assert again.seal == done.seal
    assert again.config["training"]["seed"] == 5
    assert again.metrics["epochs"] == 2
    history = np.genfromtxt(out / "history.csv", delimiter=",", names=True)
    assert len(history) == 2
    assert again.metrics["train_seconds"] >= history["seconds"].sum() > 0
    assert not (out / "coalitions.json").exists()
