"""The command that a report gives to make a run again, and continued earlier runs."""

import html
import json
import re
import shlex
import sys

import jax.numpy as jnp
import pytest

import meanfield as mf
from meanfield import data, runs
from meanfield.cli import main
from meanfield.runs.config import config_of, refuse_other_data
from meanfield.runs.documents import write_json, write_sealed
from meanfield.runs.report.opening import reproduce
from meanfield.runs.report.verdict import verdict
from meanfield.runs.settings import KEPT, READING, TrainSettings
from meanfield.runs.tasks import task_of


def settings_of(folder, **changes):
    path = folder / "numbers.txt"
    rows = [f"{i % 5},5;{i % 7};{i % 3};{'uv'[i % 2]}" for i in range(40)]
    path.write_text("\n".join(rows))
    given = {"target": "column_3", "sep": ";", "decimal": ",", "header": False}
    return TrainSettings(str(path), folder / "run", **{**given, **changes})


def configured(settings):
    """The configuration of a run with these settings."""
    reading = {name: getattr(settings, name) for name in READING}
    task = task_of(settings.likelihood, settings.task)
    dataset = data.load(settings.data, target=settings.target, task=task, **reading)
    config = config_of(settings, dataset)
    config["model"] |= {"kind": "mlp"}
    return json.loads(json.dumps(config))


@pytest.fixture(scope="module")
def ensemble():
    params = {"w": jnp.ones((3, 1))}
    return mf.Ensemble.from_model((lambda p, x: x @ p["w"], params))


def run_of(ensemble, folder, config, metrics):
    """A run with this configuration and these scores."""
    write_sealed(folder / "metrics.json", metrics, "seal")
    return runs.folder.Run(folder, config, ensemble, mf.Gaussian(), "seal")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop": "column_1", "missing": "refuse", "hidden": (3, 2)},
        {"features": "column_0,column_2", "rule": "evidence", "inclusion_prob": 0.2},
        {"target": "column_1", "likelihood": "poisson", "rule": "published"},
        {"batch_size": 8, "patience": 3, "epochs": 7, "spikes": "unit", "seed": 4},
    ],
)
def test_the_command_of_the_report_has_the_settings_of_the_run(
    changes, ensemble, tmp_path, monkeypatch
):
    config = configured(settings_of(tmp_path, **changes))
    run = run_of(ensemble, tmp_path, config, {})
    (command,) = re.findall("<pre>(.*?)</pre>", reproduce(run))
    found = []

    def train(settings, callbacks):
        found.append(settings)
        raise ValueError("enough")

    monkeypatch.setattr(runs.train, "train", train)
    monkeypatch.setattr(sys, "argv", shlex.split(html.unescape(command)))
    with pytest.raises(SystemExit):
        main()
    again = configured(found[0])
    for part in KEPT:
        assert again[part] == config[part]


def test_networks_of_other_kinds_are_named_in_the_command(ensemble, tmp_path):
    config = configured(settings_of(tmp_path))
    run = run_of(ensemble, tmp_path, config, {})
    config["model"] |= {"kind": "cnn"}
    assert "--model cnn --hidden" in reproduce(run)
    config["model"] |= {"kind": "file", "function": "make"}
    assert f"--model {tmp_path}/model.py:make" in reproduce(run)
    assert "--hidden" not in reproduce(run)


def test_a_run_of_an_earlier_version_on_a_table_is_continued(tmp_path):
    config = configured(settings_of(tmp_path))
    old = json.loads(json.dumps(config))
    for name in ("thousands", "pointed"):
        old["data"]["schema"]["format"].pop(name)
    for column in old["data"]["schema"]["columns"]:
        column.pop("fill")
    write_json(tmp_path / "config.json", old)
    refuse_other_data(tmp_path, config)
    config["data"]["schema"]["columns"][0]["mean"] += 1
    with pytest.raises(ValueError, match="was trained on data with schema"):
        refuse_other_data(tmp_path, config)


def test_the_verdict_on_counts_has_an_error_and_no_calibration(ensemble, tmp_path):
    config = configured(settings_of(tmp_path, target="column_1", likelihood="poisson"))
    metrics = {"rmse": 3.0, "r2": 0.654, "num_examples": 80, "num_weights": 42}
    metrics |= {"standard_errors": {"rmse": 0.2245}, "epochs": 2}
    run = run_of(ensemble, tmp_path, config, metrics)
    page = html.unescape(verdict(run))
    said = "3 ± 0.2245 (one standard error), R² = 0.654 on 80 examples"
    assert said in page
    assert "not measured, because poisson targets have no intervals" in page
