"""The page of a run: whole, self-contained, right in a browser, honest about gaps."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield import runs
from meanfield.ensemble.networks import mlp
from meanfield.learning.results import FitResult
from meanfield.runs.documents import write_json
from meanfield.runs.folder import save_run
from meanfield.runs.report.opening import prior_of

CONFIG = {
    "format": 1,
    "data": {
        "source": "digits",
        "task": "classification",
        "target": None,
        "test_fraction": 0.2,
        "sha256": "ab" * 32,
    },
    "model": {"kind": "mlp", "inputs": 4, "hidden": [6], "outputs": 3},
    "training": {
        "epochs": None,
        "seed": 3,
        "learning_rate": 0.002,
        "inclusion_prob": None,
        "slab_scale": 0.1,
        "temperature": 1.0,
    },
    "versions": {"python": "3.11", "jax": "0.10"},
}
PARTS = {"important": 0.2, "absent": 0.5, "variable": 0.3}
METRICS = {
    "accuracy": 0.91,
    "nll": 0.3,
    "ece": 0.02,
    "num_examples": 400,
    "confidence": 0.95,
    "baselines": {"base rate": {"accuracy": 0.4, "nll": 1.1}},
    "classes": ["a", "<b>", "c"],
    "confusion": [[200, 1, 0], [20, 90, 0], [15, 0, 74]],
    "hardest": [{"example": 7, "class": "<b>", "predicted": "a", "probability": 0.001}],
    "num_samples": 32,
    "num_weights": 42,
    "epochs": 2,
    "train_seconds": 1.5,
    "stopped": "finished",
    "labels": {"layers/0/weight": PARTS, "layers/1/weight": PARTS},
    "entropy": {"layers/0/weight": -1.0, "layers/1/weight": 0.5},
    "entropy_start": {"layers/0/weight": 0.25, "layers/1/weight": 0.25},
    "label_rule": {"tolerance": 0.0, "chosen": "exact"},
}
COALITIONS = {
    "payoff": "accuracy",
    "epsilon": 0.02,
    "layers": {
        "layers/0": {
            "values": [0.3, 0.2, 0.1, 0.0, 0.0, -0.01],
            "mask": [True, True, True, False, False, False],
            "size": 3,
            "payoffs": [0.3, 0.6, 0.8, 0.9, 0.9, 0.9, 0.89],
            "label_game": {"important": 0.4, "absent": 0.0, "variable": 0.2},
        }
    },
}
CARD = {
    "rule": "draw",
    "format": "npz",
    "subnetworks": [
        {
            "file": "subnetwork-0.npz",
            "accuracy": 0.9,
            "nll": 0.31,
            "bytes": 700,
            "num_weights": 30,
            "num_nonzero": 28,
            "latency": {"batch_1_us": 5.0},
            "before": {"bytes": 900, "num_weights": 42},
        }
    ],
}
CREDIT = {
    "payoff_name": "probability",
    "payoff": 0.8,
    "empty_payoff": 0.3,
    "num_examples": 50,
    "layers": {
        "layers/0/weight": {"connections": 24, "sum": 0.2, "sum_of_negative": -0.1},
        "layers/1/weight": {"connections": 18, "sum": 0.3, "sum_of_negative": -0.2},
    },
    "by_class": None,
    "path": {"steepest": 0.6},
    "check": {"verdict": "agrees", "largest_difference": 0.02},
}
COMMANDS = ["evaluate", "credit", "label", "coalitions", "analyze", "sample"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run of which only the network was written."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    ensemble = mf.Ensemble.from_model(
        mlp((4, 6, 3), key=jax.random.key(0)), key=jax.random.key(1)
    )
    history = {"epoch": [1, 2], "loss": [1.0, 0.5], "nll": [1.0, 0.5]}
    save_run(folder, CONFIG, FitResult(ensemble, mf.Categorical(), history, "finished"))
    return folder


@pytest.fixture(scope="module")
def whole(bare, tmp_path_factory):
    """A run with all its parts."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(bare, folder)
    write_json(folder / "metrics.json", METRICS)
    write_json(folder / "coalitions.json", COALITIONS)
    write_json(folder / "credit.json", CREDIT)
    write_json(folder / "shipped" / "card.json", CARD)
    run = mf.load_run(folder)
    plots, values = folder / "plots", COALITIONS["layers"]["layers/0"]
    axes = {
        "history": mf.plots.training_history({"nll": [1.0, 0.5]}),
        "reliability": mf.plots.reliability_diagram([0.5], [0.5], [9]),
        "labels": mf.plots.label_fractions(METRICS["labels"]),
        "credit-inputs": mf.plots.credit_maps({"all": np.eye(4)}),
        "credit-density": mf.plots.payoff_curves({"a": [0.3, 0.5, 0.8]}),
        "credit-magnitude": mf.plots.payoff_curves({"a": [0.0, 0.1]}),
        "entropy": mf.plots.entropy_by_layer(METRICS["entropy"]),
        "coalition-values-layers-0": mf.plots.shapley_values(values["values"]),
        "coalition-payoff-layers-0": mf.plots.payoff_curves({"a": values["payoffs"]}),
    }
    for name, weight in run.ensemble.weights().items():
        axes[f"landscape-{name.replace('/', '-')}"] = mf.plots.landscape(weight)
    for name, axis in axes.items():
        mf.plots.save(axis, plots / f"{name}.png", dpi=60)
    activations = {"layers/0": np.random.default_rng(0).normal(size=(200, 6))}
    runs.analyze.analyze(run.ensemble.weights(), folder, activations=activations)
    return folder


class Page(HTMLParser):
    """Counts what a page holds, and that its tags close."""

    def __init__(self, text):
        super().__init__()
        self.images, self.headings, self.addresses, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag not in ("img", "meta", "link", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_a_run_without_its_parts_says_what_is_missing_and_how_to_make_it(bare):
    text = runs.report.write_report(bare).read_text()
    page = Page(text)
    assert page.open == []
    assert not page.images
    assert len(page.headings) == 7
    for command in COMMANDS:
        assert f"<code>meanfield {command} &#x27;{bare}&#x27;" in text, command
    assert text.count('class="missing"') == len(COMMANDS) + 1


def test_a_whole_run_has_every_figure_and_misses_nothing(whole):
    text = runs.report.write_report(whole).read_text()
    page = Page(text)
    assert page.open == []
    assert 'class="missing"' not in text
    assert len(page.images) == 14
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert "<script" not in text
    assert "://" not in text
    for said in (
        "91.00 %",
        "50.00 %",
        "42 → 30",
        "meanfield train --data digits",
        "layers/0/weight -1 (at the start 0.25)",
        "The connections of layers/0/weight: ",
    ):
        assert said in text, said
    assert "--seed 3" in text
    assert "--slab-scale" not in text


def test_a_damaged_part_is_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "coalitions.json").write_text('{"layers"')
    with pytest.raises(ValueError, match=r"coalitions\.json is not readable JSON"):
        runs.report.write_report(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        runs.report.write_report(tmp_path / "none")


def test_names_from_outside_cannot_become_markup(bare, tmp_path):
    bad, run = "<b>&", mf.load_run(bare)
    config = json.loads((bare / "config.json").read_text())
    config["data"] |= {"source": f"{bad}.csv", "sha256": bad}
    history = {"epoch": [1], "nll": [1.0]}
    result = FitResult(run.ensemble, run.likelihood, history, "finished")
    folder = tmp_path / "run"
    save_run(folder, config, result)
    labels = {bad: PARTS}
    rule = {"tolerance": 0.0, "chosen": bad}
    metrics = METRICS | {"labels": labels, "entropy": {bad: 1.0}, "label_rule": rule}
    write_json(folder / "metrics.json", metrics)
    layers = {bad: COALITIONS["layers"]["layers/0"]}
    write_json(folder / "coalitions.json", COALITIONS | {"layers": layers})
    write_json(folder / "shipped" / "card.json", CARD | {"rule": bad})
    text = runs.report.write_report(folder).read_text()
    assert "<b>" not in text
    assert text.count("&lt;b&gt;&amp;") >= 8
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_weights", "<b>"), ("ece", "<b>"), ("label_rule", {"tolerance": "<b>"})],
)
def test_what_should_be_a_number_is_one(whole, tmp_path, name, value):
    folder = shutil.copytree(whole, tmp_path / "run")
    write_json(folder / "metrics.json", METRICS | {name: value})
    with pytest.raises(ValueError, match=rf"metrics\.json: {name}.* number"):
        runs.report.write_report(folder)


def test_pictures_are_pictures_and_lie_in_the_run(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    picture = folder / "plots" / "labels.png"
    secret = tmp_path / "secret.png"
    picture.rename(secret)
    picture.symlink_to(secret)
    text = runs.report.write_report(folder).read_text()
    assert "no plot “labels” yet" in text
    picture.unlink()
    picture.write_text("root:x:0:0")
    with pytest.raises(ValueError, match=r"labels\.png must be a PNG.*does not begin"):
        runs.report.write_report(folder)
    seal = {"Ensemble": "another"}
    mf.plots.save(mf.plots.label_fractions(METRICS["labels"]), picture, about=seal)
    assert "no plot “labels” yet" in runs.report.write_report(folder).read_text()


PROBE = """<script>addEventListener('load', () => parent.postMessage(JSON.stringify({
  width: innerWidth, content: document.documentElement.scrollWidth,
  ink: getComputedStyle(document.body).color,
  images: [...document.images].filter(i => i.naturalWidth > 0).length,
  asked: performance.getEntriesByType('resource').map(e => e.name)
    .filter(name => !name.startsWith('data:'))}), '*'))</script></body>"""
FRAME = """<body><script>addEventListener('message', event => {
  document.body.insertAdjacentHTML('beforeend', `<pre>${event.data}</pre>`)})
  </script><iframe src="page.html" width="%d" height="900"></iframe>"""


@pytest.mark.parametrize(
    ("width", "theme", "ink"),
    [(390, 0, "rgb(230, 237, 243)"), (1200, 1, "rgb(27, 31, 36)")],
    ids=["phone-dark", "desktop-light"],
)
def test_a_browser_shows_the_page_without_an_error(whole, tmp_path, width, theme, ink):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    text = runs.report.write_report(whole).read_text()
    # The page lets no script run; the probe is one.
    text = text.replace("default-src 'none'", "script-src 'unsafe-inline'")
    (tmp_path / "page.html").write_text(text.replace("</body>", PROBE))
    (tmp_path / "frame.html").write_text(FRAME % width)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={theme}"]
    done = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<pre>({.*?})</pre>", done.stdout)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1])
    assert seen["images"] == 14
    assert seen["asked"] == []
    # Nothing sticks out: wide tables scroll by themselves.
    assert seen["content"] <= seen["width"] <= width
    assert seen["ink"] == ink
    assert "CONSOLE" not in done.stderr


def test_the_page_opens_with_a_verdict_in_five_lines(whole):
    page = runs.report.write_report(whole).read_text()
    found = re.search(r'<ul class="verdict">(.*?)</ul>', page).group(1)
    lines = re.findall(r"<li>(.*?)</li>", found)
    assert lines[:3] == [
        "Trained: a distribution for each of 42 connections, 2 epochs; finished.",
        # √(0.91 · 0.09 / 400) = 0.0143
        "How good: accuracy 91.00 % ± 1.43 (one standard error) on 400 examples "
        "(base rate 40.00 %).",
        "Overconfident by 4.0 points: mean confidence 95.0 %, expected calibration "
        "error 0.02.",
    ]
    assert lines[3].startswith("Labels: of 42 connections 20.0 % important")
    assert lines[4] == (
        "Ships: shipped/subnetwork-0.npz, 700 bytes (as drawn: 900), accuracy 90.00 %."
    )


def test_the_verdict_says_what_is_missing(bare):
    page = runs.report.write_report(bare).read_text()
    found = re.search(r'<ul class="verdict">(.*?)</ul>', page).group(1)
    for command in ("evaluate", "label", "sample"):
        assert f"run meanfield {command}" in found


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"accuracy": 0.9, "confidence": 0.91, "ece": 0.02}, "Calibrated on average"),
        ({"accuracy": 0.9, "confidence": 0.8, "ece": 0.1}, "Underconfident by 10.0"),
        ({"rmse": 1.0, "coverage": 0.95}, "Calibrated, as far as 100"),
        ({"rmse": 1.0, "coverage": 0.7}, "Overconfident: 95 % intervals hold 70.0 %"),
        ({"rmse": 1.0, "coverage": 1.0}, "Too wide: 95 % intervals hold 100.0 %"),
    ],
)
def test_calibration_is_judged_by_what_the_examples_can_tell(
    bare, tmp_path, scores, said
):
    folder = tmp_path / "run"
    shutil.copytree(bare, folder)
    write_json(folder / "metrics.json", scores | {"num_examples": 100})
    assert said in runs.report.write_report(folder).read_text()


@pytest.mark.parametrize(
    ("training", "search", "said"),
    [
        ({"rule": "published"}, {}, "none: generalized back-propagation as published"),
        ({"rule": "evidence"}, {}, "inclusion probability 0.1, slab scale 0.2"),
        ({"rule": "evidence", "inclusion_prob": 0.3}, {}, "inclusion probability 0.3"),
        (
            {"rule": "selective"},
            {"temperature": 0.032, "price": 16.9},
            "temperature 0.032, price of a connection 16.9 nats",
        ),
    ],
)
def test_the_prior_is_the_one_of_the_rule(training, search, said):
    whole = {"inclusion_prob": None, "slab_scale": 0.2, "temperature": 1.0} | training
    assert said in prior_of(whole, search)
