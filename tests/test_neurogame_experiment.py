import importlib
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = str(Path(__file__).parents[1] / "experiments")


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("neurogame")


@pytest.fixture
def pictures(experiment):
    return experiment.pictures


def test_copies_of_a_picture_count_once_and_contradictory_ones_never(
    pictures, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (30, 4, 4), dtype=np.uint8)
    group, age = np.arange(30), np.arange(30, dtype=np.uint8)
    gender = (age % 2).astype(np.uint8)
    for copy, first in ((7, 3), (11, 3), (20, 5)):
        group[copy], images[copy] = first, images[first]
        age[copy], gender[copy] = age[first], gender[first]
    age[20] = 99  # Two ages for one picture: neither can be trusted.
    path = tmp_path / pictures.FACES
    path.parent.mkdir()
    np.savez(path, images=images, age=age, gender=gender, dup_of=group)
    monkeypatch.setattr(pictures, "NUM_TRAIN", 20)
    monkeypatch.setattr(pictures, "NUM_VALIDATION", 0)
    task, other = pictures.faces(tmp_path)
    pixels = np.concatenate([task.train[0], task.test[0]])
    assert len(pixels) == 26 == len(np.unique(pixels.reshape(26, -1), axis=0))
    shown = {tuple(row) for row in pixels.reshape(26, -1)}
    inked = (images[5] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    assert tuple(inked.ravel()) not in shown
    assert task.likelihood is not other.likelihood
    assert other.scale > 0
    np.testing.assert_allclose(other.train[1].mean(), 0, atol=1e-6)


def test_settings_are_compared_on_pictures_that_are_neither_learned_nor_tested(
    pictures, tmp_path, monkeypatch
):
    count = 40
    path = tmp_path / pictures.FACES
    path.parent.mkdir()
    images = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), "u1")
    one = np.arange(count)
    np.savez(path, images=images, age=one, gender=one % 2, dup_of=one)
    for name, size in (("TRAIN", 20), ("VALIDATION", 9), ("TEST", 8)):
        monkeypatch.setattr(pictures, f"NUM_{name}", size)
    final, chosen = (pictures.faces(tmp_path, part)[0] for part in (False, True))
    np.testing.assert_array_equal(final.train[0], chosen.train[0])
    shown = [set(x[:, 0, 0]) for x in (final.train[0], chosen.test[0], final.test[0])]
    assert [len(part) for part in shown] == [20, 8, 8]
    assert len(set.union(*shown)) == 36


def test_without_the_pictures_it_says_where_to_put_them(pictures, tmp_path):
    with pytest.raises(SystemExit, match="utkface_gray32_all.npz is missing"):
        pictures.faces(tmp_path)


def test_rows_that_are_known_are_not_run_again(experiment, tmp_path, monkeypatch):
    calls = []

    def run(task, kind, way, keep, seed, games):
        calls.append((way, keep, seed))
        rise = seed if way == "Shapley" else 0
        return {
            "score": 90.0 + seed + keep + rise,
            "units": round(100 * keep),
            "multiply_adds": 10,
            "seconds": 1.0,
        }

    monkeypatch.setattr(experiment, "run", run)
    (task,) = experiment.pictures.images("digits", None)
    cases = [(task, kind) for kind in experiment.kinds(task)]
    path = tmp_path / "runs.jsonl"
    again = lambda seeds, games=experiment.GAMES: experiment.run_all(
        cases, experiment.all_ways(), range(seeds), path, games
    )
    some, more = again(1), again(2)
    assert len(calls) == len(more) == 2 * len(some)
    assert len(path.read_text().splitlines()) == len(more)
    assert all(json.loads(line) in more for line in path.read_text().splitlines())

    cells = experiment.table(more)
    find = lambda way, keep: next(
        c for c in cells if (c["network"], c["way"], c["keep"]) == ("MLP", way, keep)
    )
    whole, small = find("whole", 1.0), find("small", 0.25)
    assert whole["score"] == 91.5
    assert np.isclose(whole["error"], 0.5)
    # Coalitions of half the units: half a point less for every seed, one more for 1.
    assert whole["gap"] == 0.0
    assert np.isclose(whole["gap_error"], 0.5)
    assert small["gap"] == 0.5
    assert np.isclose(small["gap_error"], 0.5)
    experiment.draw(cells, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000

    # Other rules of the games: what plays no games is known, coalitions are not.
    calls.clear()
    again(2, experiment.GAMES | {"memory": 0.9})
    assert {way for way, _, _ in calls} == set(experiment.CREDITS)
    calls.clear()
    monkeypatch.setattr(experiment, "EPOCHS", 3)
    again(2)
    assert len(calls) == len(more)


def test_a_candidate_is_measured_against_small_networks(
    experiment, capsys, monkeypatch
):
    scores = {"gender": {"small": 80.0, "Shapley": 82.0}, "age": {"small": 10.0}}
    scores["age"]["Shapley"] = 9.5

    def run_all(cases, ways, seeds, path, games):
        assert games["memory"] == 0.3
        return [
            {"task": task, "score": scores[task][way]}
            for _ in seeds
            for task in scores
            for way, _ in ways
        ]

    select = importlib.import_module("neurogame_select")
    monkeypatch.setattr(select, "run_all", run_all)
    monkeypatch.setattr(select, "CANDIDATES", [{"memory": 0.3}])
    select.select([], Path("unused"))
    # 18 % wrong for 20 % is a tenth less, 9.5 years for 10 a twentieth.
    assert capsys.readouterr().out.startswith("+7.50 ± 0.00 %")
