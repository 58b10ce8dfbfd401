import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "experiments" / "neurogame.py"


@pytest.fixture
def experiment():
    spec = importlib.util.spec_from_file_location("neurogame", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copies_of_a_picture_count_once_and_contradictory_ones_never(
    experiment, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (30, 4, 4), dtype=np.uint8)
    group, age = np.arange(30), np.arange(30, dtype=np.uint8)
    gender = (age % 2).astype(np.uint8)
    for copy, first in ((7, 3), (11, 3), (20, 5)):
        group[copy], images[copy] = first, images[first]
        age[copy], gender[copy] = age[first], gender[first]
    age[20] = 99  # Two ages for one picture: neither can be trusted.
    path = tmp_path / experiment.FACES
    path.parent.mkdir()
    np.savez(path, images=images, age=age, gender=gender, dup_of=group)
    monkeypatch.setattr(experiment, "NUM_TRAIN", 20)
    monkeypatch.setattr(experiment, "NUM_TEST", 6)
    task, other = experiment.faces(tmp_path)
    pixels = np.concatenate([task.train[0], task.test[0]])
    assert len(pixels) == 26 == len(np.unique(pixels.reshape(26, -1), axis=0))
    shown = {tuple(row) for row in pixels.reshape(26, -1)}
    inked = (images[5] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    assert tuple(inked.ravel()) not in shown
    assert task.likelihood is not other.likelihood and other.scale > 0
    np.testing.assert_allclose(other.train[1].mean(), 0, atol=1e-6)


def test_without_the_pictures_it_says_where_to_put_them(experiment, tmp_path):
    with pytest.raises(SystemExit, match="utkface_gray32_all.npz is missing"):
        experiment.faces(tmp_path)


def test_rows_that_are_known_are_not_run_again(experiment, tmp_path, monkeypatch):
    calls = []

    def run(task, kind, way, keep, seed):
        calls.append((way, keep, seed))
        return {
            "task": task.name,
            "network": kind.name,
            "way": way,
            "keep": keep,
            "seed": seed,
            "score": 90.0 + seed + keep,
            "units": round(100 * keep),
            "multiply_adds": 10,
            "seconds": 1.0,
        }

    monkeypatch.setattr(experiment, "run", run)
    tasks = experiment.images("digits", None)
    path = tmp_path / "runs.jsonl"
    some = experiment.run_all(tasks, range(1), path)
    more = experiment.run_all(tasks, range(2), path)
    assert len(calls) == len(more) == 2 * len(some)
    assert len(path.read_text().splitlines()) == len(more)
    assert all(json.loads(line) in more for line in path.read_text().splitlines())
    cells = experiment.table(more)
    whole = next(c for c in cells if c["way"] == "whole" and c["network"] == "MLP")
    assert whole["score"] == 91.5 and np.isclose(whole["error"], 0.5)
    experiment.draw(cells, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
