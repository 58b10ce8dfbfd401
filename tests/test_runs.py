"""Run folders that were written by an earlier version, or spoiled since."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield import runs
from meanfield.runs.mistakes import mistakes
from meanfield.runs.settings import TrainSettings

EARLIER = Path(__file__).with_name("run_format_1")


@pytest.fixture
def earlier(tmp_path):
    """A run as the first version wrote it, in a folder of its own."""
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def test_the_hardest_examples_are_the_wrong_predictions():
    # Among many classes a right prediction may be less probable than a wrong one.
    probs = np.full((40, 30), 0.03)
    probs[:, 0] = 0.13
    labels = np.zeros(40, np.int32)
    labels[25:] = 1 + np.arange(15) % 2
    probs[25:, 1] += 0.001 * np.arange(15)
    probs[:25, 0] = probs[:25, 2] + 1e-3  # right, and hardly probable
    dataset = mf.data.digits()
    dataset = dataclasses.replace(
        dataset,
        y_test=labels,
        x_test=dataset.x_test[:40],
        class_names=tuple(map(str, range(30))),
    )
    found = mistakes(probs, dataset)
    listed = [one["example"] for one in found["hardest"]]
    assert len(listed) == 10
    assert set(listed) <= set(range(25, 40))
    right = probs[np.arange(25, 40), labels[25:]]
    expected = 25 + np.argsort(right, kind="stable")[:10]
    assert listed == expected.tolist()


def test_a_run_of_an_earlier_version_opens_and_scores_as_it_did(earlier):
    before = json.loads((earlier / "metrics.json").read_text())
    run, dataset = runs.folder.open_run(earlier)
    assert run.ensemble.num_weights == before["num_weights"] == 64 * 2 + 2 * 10
    # The earlier version drew other noise: its score is one more draw of ours.
    scores = [runs.score.score(run, dataset, seed=seed) for seed in range(5)]
    for name in ("accuracy", "nll"):
        values = [getattr(score, name) for score in scores]
        spread = max(np.std(values, ddof=1), 1 / len(dataset.x_test))
        assert before[name] == pytest.approx(np.mean(values), abs=5 * spread)


def test_a_run_of_an_earlier_version_goes_on(earlier):
    settings = runs.config.resumed(TrainSettings(resume=earlier, quiet=True))
    assert settings.hidden == (2,)
    assert settings.epochs == 2
    run = runs.train.train(settings)
    assert run.metrics["epochs"] == 2


def test_a_run_of_a_later_version_is_refused(earlier):
    config = json.loads((earlier / "config.json").read_text())
    config["format"] = runs.config.FORMAT + 1
    (earlier / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="written by a newer meanfield"):
        mf.load_run(earlier)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", lambda text: text[:40], "not readable JSON"),
        ("config.json", lambda text: b'{"format": 1}', "lacks"),
        ("ensemble.safetensors", lambda text: text[:-9], "not a whole safetensors"),
        (
            "ensemble.safetensors",
            lambda text: text[:-3] + b"\0\1\2",
            "does not match its own checksum",
        ),
    ],
)
def test_a_spoiled_run_says_what_is_wrong(earlier, name, spoil, message):
    path = earlier / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        mf.load_run(earlier)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "it has no config.json. Make one with `meanfield train"),
        ("ensemble.safetensors", "has not ended: .* with `meanfield train --resume"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(earlier, name, said):
    (earlier / name).unlink()
    with pytest.raises(FileNotFoundError, match=said):
        mf.load_run(earlier)


def test_opening_a_run_draws_no_weights(caplog):
    with jax.log_compiles():
        opened = mf.load_run(EARLIER)
    found = [r.getMessage() for r in caplog.records if "XLA compilation" in r.msg]
    assert not [text for text in found if "uniform" in text or "weights" in text]
    leaves = [a for a in jax.tree.leaves(opened.ensemble) if isinstance(a, jax.Array)]
    assert any(bool(jnp.any(leaf != 0)) for leaf in leaves)
