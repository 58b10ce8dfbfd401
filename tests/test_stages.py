"""What a command says while it works, what it keeps, and what it is read against."""

import gc
import io
import os
import signal
import sys
import time

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm, poisson
from tqdm import tqdm

from meanfield.data import Dataset
from meanfield.runs import stages
from meanfield.runs.baselines import BASE_RATE, LINEAR, baselines, explained
from meanfield.runs.cache import keep_programs, prune
from meanfield.runs.score import standard_errors
from meanfield.runs.stages import Interrupted, stage, told


def test_stages_are_told_with_their_time_and_that_they_go_on(capsys, monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 0.3)
    with told():
        stage("scoring 12 examples")
        time.sleep(1.2)
    stage("nobody hears this")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split(" s  ")[1] == "scoring 12 examples"
    assert "still scoring" in lines[1]
    assert "nobody" not in lines[-1]
    with told(quiet=True):
        stage("scoring")
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_garbage_is_collected_is_not_lost():
    """Python drops what a callback of the garbage collector raises, JAX's too."""
    pressed = []

    def callback(phase, info):
        if not pressed:
            pressed.append(phase)
            signal.raise_signal(signal.SIGINT)

    def command():
        with told(quiet=True):
            stage("counting")
            gc.collect()
            time.sleep(5)

    gc.callbacks.append(callback)
    try:
        with pytest.raises(Interrupted, match="counting"):
            command()
    finally:
        gc.callbacks.remove(callback)
    assert pressed == ["start"]


def test_a_progress_bar_is_a_word_too(capsys, monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 1.0)
    outside = sys.stderr
    with told():
        stage("learning")
        with tqdm(total=15) as bar:
            for _ in range(15):
                time.sleep(0.1)
                bar.update()
        said = capsys.readouterr().err
        assert "still" not in said
        assert "15/15" in said
        time.sleep(1.7)
    assert "still learning" in capsys.readouterr().err
    assert sys.stderr is outside


def test_a_terminal_is_told_on_one_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(stages, "PATIENCE", 0.2)
    monkeypatch.setattr(sys, "stderr", terminal)
    with told():
        stage("scoring")
        time.sleep(1)
        stage("plotting")
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[1].count("still scoring\x1b[K\r") >= 3
    assert lines[1].endswith("plotting\x1b[K")


def test_ctrl_c_says_during_what_and_leaves_the_handler_as_it_was():
    before = signal.getsignal(signal.SIGINT)

    def work():
        with told(quiet=True):
            stage("plotting")
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(Interrupted, match="^plotting$"):
        work()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.fixture
def clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("JAX_COMPILATION") or name.startswith("JAX_PERSISTENT"):
            monkeypatch.delenv(name)
    # What is set inside the test is undone after it.
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.usefixtures("clean")
def test_programs_are_kept_where_the_variable_says(tmp_path):
    os.environ["MEANFIELD_CACHE"] = str(tmp_path / "programs")
    assert keep_programs(wanted=False) == ""
    assert not (tmp_path / "programs").exists()
    assert keep_programs() == ""
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs")
    assert not list((tmp_path / "programs").iterdir())


@pytest.mark.usefixtures("clean")
def test_without_a_folder_to_write_to_it_works_and_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    os.environ["MEANFIELD_CACHE"] = str(tmp_path / "file" / "programs")
    assert "compiled programs are not kept" in keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    os.environ["MEANFIELD_CACHE"] = "off"
    assert keep_programs() == ""


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for number in range(10):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    prune(tmp_path, 1000)
    assert len(list(tmp_path.iterdir())) == 10
    prune(tmp_path, 900)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7", "8", "9"]


def test_standard_errors_are_those_of_means():
    y = np.arange(50.0)
    means = {"log_prob": np.sin(y), "mean": y + np.cos(y)}
    rmse = float(np.sqrt(np.mean(np.cos(y) ** 2)))
    found = standard_errors({"rmse": rmse}, means, y)
    np.testing.assert_allclose(found["nll"], np.std(np.sin(y)) / np.sqrt(50))
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 50, (20_000, 50))
    drawn = np.sqrt((np.cos(y)[rows] ** 2).mean(1)).std()
    np.testing.assert_allclose(found["rmse"], drawn, rtol=0.05)
    found = standard_errors({"accuracy": 0.9}, means, y)
    np.testing.assert_allclose(found["accuracy"], np.sqrt(0.09 / 50))


def dataset(task, y, **kwargs):
    x = np.linspace(-1, 1, len(y)).astype(np.float32)[:, None]
    parts = {"x_train": x, "y_train": y, "x_test": x.copy(), "y_test": y.copy()}
    return Dataset("mine", task, **parts, **kwargs)


def test_the_base_rate_of_classes_is_their_frequency():
    y = np.asarray([0] * 30 + [1] * 10, np.int32)
    found = baselines(dataset("classification", y, class_names=("a", "b")))
    assert found[BASE_RATE]["accuracy"] == 0.75
    entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    np.testing.assert_allclose(found[BASE_RATE]["nll"], entropy)
    assert found[LINEAR]["accuracy"] > 0.9
    assert found[LINEAR]["nll"] < entropy


def test_the_base_rate_of_numbers_is_their_mean_and_deviation():
    y = (3 + 2 * np.linspace(-1, 1, 50)).astype(np.float32)
    found = baselines(dataset("regression", y))
    np.testing.assert_allclose(found[BASE_RATE]["rmse"], y.std(), rtol=1e-6)
    nll = -norm(y.mean(), y.std()).logpdf(y).mean()
    np.testing.assert_allclose(found[BASE_RATE]["nll"], nll, rtol=1e-6)
    assert abs(explained(found[BASE_RATE]["rmse"], y)) < 1e-6
    assert explained(found[LINEAR]["rmse"], y) > 0.99
    assert explained(1.0, np.ones(3)) is None
    both = baselines(dataset("regression", np.stack([y, 2 * y], 1)))
    np.testing.assert_allclose(both[BASE_RATE]["nll"], 2 * nll + np.log(2), rtol=1e-6)


def test_the_linear_model_of_counts_has_the_penalty_of_the_others():
    x = np.linspace(-1, 1, 400)
    y = np.random.default_rng(0).poisson(np.exp(1 + 1.5 * x)).astype(np.float32)

    def loss(w, penalty=1.0):
        return (
            -poisson(np.exp(w[0] + w[1] * x)).logpmf(y).sum() + penalty / 2 * w[1] ** 2
        )

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7}).x
    found = baselines(dataset("counts", y))[LINEAR]
    np.testing.assert_allclose(found["nll"], loss(best, 0.0) / len(y), rtol=1e-4)


def test_the_base_rate_of_counts_and_answers():
    y = np.random.default_rng(0).poisson(3.0, 60).astype(np.float32)
    found = baselines(dataset("counts", y))[BASE_RATE]
    np.testing.assert_allclose(found["nll"], -poisson(y.mean()).logpmf(y).mean())
    y = np.stack([np.arange(40) % 4 == 0, np.zeros(40)], 1).astype(np.float32)
    found = baselines(dataset("binary", y))[BASE_RATE]
    assert found["accuracy"] == 0.875
    entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    np.testing.assert_allclose(found["nll"], entropy)
