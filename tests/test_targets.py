"""Regression, counts and several targets: every command, in the units of the data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles_prediction as oracle
import pandas as pd
import pytest
from command_line import run as cli, succeed
from scipy import stats

import meanfield as mf
from meanfield import runs
from meanfield.credit.labels import ConnectionLabels, Label
from meanfield.data import Dataset, load
from meanfield.deploy.formats.formats import load_predictor
from meanfield.ensemble.networks import mlp
from meanfield.runs.standardization import Standardization
from meanfield.runs.tasks import build_likelihood, likelihood_of

ROWS, SAMPLES = 60, 32
QUICK = ["--hidden", "4", "--epochs", "2", "--quiet", "--rule", "published"]


def frame():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"a": rng.normal(size=ROWS), "b": rng.choice(["x", "y"], ROWS)}
    )
    table["price"] = 1000 + 300 * table.a + 50 * (table.b == "x")
    table["heat"] = 0.01 * table.a + 0.002 * rng.normal(size=ROWS)
    table["visits"] = rng.poisson(np.exp(3 + 0.5 * table.a))
    table["up"] = (table.a > 0).astype(int)
    table["left"] = rng.random(ROWS) < 0.5
    return table


def write(folder, columns, change=lambda table: None):
    table = frame()[["a", "b", *columns]]
    change(table)
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """A run with two real targets, of very different sizes."""
    folder = tmp_path_factory.mktemp("prices")
    path = write(folder, ["price", "heat"])
    words = ["--data", str(path), "--target", "price,heat", "--out", folder / "run"]
    words += ["--likelihood", "heteroscedastic_student_t"]
    succeed("train", *words, *QUICK)
    return folder / "run"


def outputs_of(run, x, seed=0):
    """Draws of the network's outputs that `evaluate` averages."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return oracle.outputs_of_draws(
        run.ensemble, x, key=key, num_samples=SAMPLES, chunk=len(x)
    )


def test_two_targets_are_scored_in_their_own_units(prices):
    run, data = runs.folder.open_run(prices)
    assert run.config["model"]["outputs"] == 4
    # By hand, in float64, from the table's own numbers.
    y = data.y_train.astype(np.float64)
    shift, scale = y.mean(0), y.std(0)
    location, raw = np.split(outputs_of(run, data.x_test), 2, -1)
    noise = scale * (np.log1p(np.exp(raw)) + 1e-6)
    law = oracle.student(shift + scale * location, data.y_test, noise, 4.0)
    log_probs, means, _, levels = law
    metrics = run.metrics
    expected = oracle.target_scores(log_probs, means, levels, data.y_test)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
    assert [one["target"] for one in metrics["by_target"]] == ["price", "heat"]
    for j, one in enumerate(metrics["by_target"]):
        columns = (part[..., j] for part in (log_probs, means, levels, data.y_test))
        expected = oracle.target_scores(*columns)
        assert one["rmse"] == pytest.approx(expected["rmse"], rel=1e-4)
        assert one["coverage"] == expected["coverage"]
    table = runs.tables.run_table(metrics)
    assert "test RMSE" in table
    assert "heat" in table


def test_every_command_works_on_a_regression(prices, monkeypatch, capsys, tmp_path):
    shipped = tmp_path / "shipped"
    before = (prices / "ensemble.safetensors").read_bytes()
    for words in [
        ["train", "--resume", prices, "--quiet"],
        ["evaluate", prices],
        ["label", prices],
        ["coalitions", prices, "--budget", 20],
        ["sample", prices, "--out", shipped],
        ["serve-check", shipped],
        ["export", shipped / "subnetwork-0.safetensors", "--format", "npz"]
        + ["--out", tmp_path / "one.npz"],
        ["report", prices],
    ]:
        code, _, err = cli(monkeypatch, capsys, *words)
        assert code == 0, (words, err)
    assert (prices / "ensemble.safetensors").read_bytes() == before
    found = json.loads((prices / "coalitions.json").read_text())
    assert found["payoff"] == "mse"
    assert len(found["layers"]["layers/0"]["mask"]) == 4
    plots = {path.name for path in (prices / "plots").iterdir()}
    assert {"predictions-0.png", "predictions-1.png", "coverage.png"} <= plots
    assert "reliability.png" not in plots
    page = (prices / "report.html").read_text()
    # Missing: physics, and sub-networks, which went elsewhere.
    assert page.count('class="missing"') == 2
    assert "Reliability" not in page
    assert "accuracy" not in page
    assert "price, heat" in page
    assert "heteroscedastic student t" in page


def test_a_card_of_a_regression_is_in_the_units_of_the_data(
    prices, monkeypatch, capsys, tmp_path
):
    out = tmp_path / "cards"
    code, text, err = cli(
        monkeypatch, capsys, "sample", prices, "--format", "npz", "--out", out
    )
    assert code == 0, err
    card = json.loads((out / "card.json").read_text())
    targets, (entry,) = card["source"]["targets"], card["subnetworks"]
    run, data = runs.folder.open_run(prices)
    outputs = load_predictor(out / entry["file"], "numpy")(data.x_test)
    location = outputs[:, :2]
    y = np.asarray(targets["shift"]) + np.asarray(targets["scale"]) * location
    rmse = np.sqrt(np.mean((y - data.y_test) ** 2, axis=0, dtype=np.float64))
    np.testing.assert_allclose(entry["rmse_by_output"], rmse, rtol=1e-4)
    assert targets["names"] == ["price", "heat"]
    assert f"{rmse[0]:.4g} / {rmse[1]:.4g}" in text
    said = (out / "card.md").read_text()
    assert "in the units of the data" in said
    assert "shift + scale · output" in said
    assert f"| price | {targets['shift'][0]:.7g} |" in said


def test_counts_stay_counts(unlabelled, monkeypatch, capsys, tmp_path):
    table = frame()
    x = np.stack([table.a, table.a**2], 1)
    y = np.stack([table.visits, 100 * table.visits], 1)
    np.savez(tmp_path / "counts.npz", x=x, y=y)
    out = tmp_path / "run"
    words = ["--data", tmp_path / "counts.npz", "--likelihood", "poisson", "--out", out]
    code, _, err = cli(monkeypatch, capsys, "train", *words, *QUICK)
    assert code == 0, err
    run, data = runs.folder.open_run(out)
    assert run.config["data"]["target_shift"] is None
    assert data.task == "counts"
    outputs = outputs_of(run, data.x_test)
    log_probs, means, _, _ = oracle.poisson(outputs, data.y_test)
    # Far from the truth still, so that no draw's probability may underflow.
    joint = log_probs.sum(-1)
    nll = -np.mean(np.logaddexp.reduce(joint, 0) - np.log(SAMPLES))
    assert run.metrics["nll"] == pytest.approx(nll, rel=1e-3)
    rmse = np.sqrt(np.mean((means.mean(0) - data.y_test) ** 2, axis=0))
    assert [t["rmse"] for t in run.metrics["by_target"]] == pytest.approx(
        rmse.tolist(), rel=1e-3
    )
    assert "coverage" not in run.metrics
    # It began at the mean counts: the rates are of the right size at once.
    ratio = np.exp(outputs).mean((0, 1)) / data.y_train.mean(0)
    assert ((ratio > 0.2) & (ratio < 5)).all()
    for words in (["sample", out], ["report", out]):
        code, _, err = cli(monkeypatch, capsys, *words)
        assert code == 0, err
    card = json.loads((out / "subnetworks" / "card.json").read_text())
    assert "rates" in card["source"]["targets"]["outputs"]
    page = (out / "report.html").read_text()
    assert "plot “coverage”" not in page
    assert "plot “predictions”" not in page


def test_answers_are_judged_as_answers(unlabelled, monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    # Texts True and False, as pandas writes them, beside numbers 0 and 1.
    path = write(tmp_path, ["up", "left"])
    words = ["--data", path, "--target", "up,left", "--out", out]
    code, printed, err = cli(monkeypatch, capsys, "train", *words, *QUICK)
    assert code == 0, err
    run, data = runs.folder.open_run(out)
    assert data.task == "binary"
    assert run.config["model"]["likelihood"] == "bernoulli"
    left = frame().left.to_numpy()
    assert np.concatenate([data.y_train, data.y_test])[:, 1].sum() == left.sum()
    probs = oracle.binary_probs(outputs_of(run, data.x_test))
    answers = data.y_test.astype(int)
    for j, one in enumerate(run.metrics["by_target"]):
        expected = oracle.class_scores(probs[:, :, j], answers[:, j])
        for name in ("accuracy", "brier", "ece"):
            assert one[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    assert (out / "plots" / "reliability.png").is_file()
    assert not list((out / "plots").glob("predictions-*"))
    for words in (["sample", out, "-k", 2], ["report", out]):
        code, _, err = cli(monkeypatch, capsys, *words)
        assert code == 0, err
    assert "Reliability diagram" in (out / "report.html").read_text()


def spoiled(column, row, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value

    return change


@pytest.mark.parametrize(
    ("columns", "words", "change", "message"),
    [
        (
            ["visits"],
            ["--target", "visits", "--likelihood", "poisson"],
            spoiled("visits", 7, -3),
            "must be counts 0, 1, 2, … for task 'counts'; got -3 in row 7, column "
            "'visits'",
        ),
        (
            ["visits"],
            ["--target", "visits", "--task", "counts"],
            spoiled("visits", 5, 2.5),
            "got 2.5 in row 5",
        ),
        (
            ["up", "left"],
            ["--target", "up,left", "--likelihood", "bernoulli"],
            spoiled("up", 3, 0.5),
            "must be answers 0 or 1 for task 'binary'; got 0.5 in row 3, column 'up'",
        ),
        (
            ["price", "heat"],
            ["--target", "price,warmth"],
            None,
            "or several separated by commas, each among ['a', 'b', 'price', 'heat']; "
            "got 'warmth'",
        ),
        (["price"], ["--target", "price,price"], None, "must name each column once"),
        (
            ["price"],
            ["--target", "price", "--likelihood", "categorical"],
            None,
            "must be classes for a classification (a categorical likelihood); got 60 "
            "different real numbers",
        ),
        (
            ["price", "heat"],
            ["--target", "price,heat", "--likelihood", "categorical"],
            None,
            "names 2 columns, but a classification has one",
        ),
        (["price"], ["--target", "price,b"], None, "column 'b' must be numbers"),
        (
            ["price"],
            ["--target", "price", "--likelihood", "normal"],
            None,
            "`likelihood` must be one of categorical, bernoulli, poisson, gaussian",
        ),
        (
            ["visits"],
            ["--target", "visits", "--likelihood", "poisson", "--task", "regression"],
            None,
            "`task` must be 'counts' for `likelihood` poisson; got 'regression'",
        ),
        (
            ["price", "heat"],
            ["--target", "price,heat"],
            lambda table: table.__setitem__("heat", 0.1),
            "the target 'heat' must vary",
        ),
        (
            ["up", "left"],
            ["--target", "up,left"],
            lambda table: table.__setitem__("left", ~table.up.astype(bool)),
            "holds exactly one 1 in each of its 60 rows",
        ),
    ],
)
def test_targets_that_do_not_fit_are_named(
    columns, words, change, message, monkeypatch, capsys, tmp_path
):
    path = write(tmp_path, columns, change or (lambda table: None))
    words = ["--data", path, "--out", tmp_path / "run", *words, *QUICK]
    code, _, err = cli(monkeypatch, capsys, "train", *words)
    assert code == 1, err
    assert message in " ".join(err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (np.array([[1, 2], [0, -1]] * 5), "counts", "got -1 in row 1, column 1"),
        (np.linspace(0, 1, 10), "binary", "got 0.11111111 in row 1"),
        (np.arange(42) / 4, "classification", "got real numbers, the first 0.25 in"),
        (
            np.eye(5, dtype=int)[[0, 1, 2, 3, 4] * 2],
            None,
            "exactly one 1 in each of its 10 rows",
        ),
        (np.arange(10), "guess", "`task` must be one of classification, regression"),
    ],
)
def test_arrays_that_do_not_fit_are_named(y, task, message, tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.ones((len(y), 2)), y=y)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "mine.npz", task=task)


def test_a_heading_with_a_comma_is_one_column(tmp_path):
    table = frame().rename(columns={"price": "price, net"})
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    assert load(path, target="price, net").target_names == ("price, net",)
    both = load(path, target='"price, net",heat')
    assert both.target_names == ("price, net", "heat")
    assert both.y_train.shape == (48, 2)
    assert both.num_targets == 2
    read = mf.data.TableSchema.from_dict(json.loads(json.dumps(both.schema.to_dict())))
    assert read == both.schema


@pytest.mark.parametrize("name", ["gaussian", "student_t", "heteroscedastic"])
def test_a_likelihood_in_the_units_of_the_data_is_that_of_scipy(name):
    y = np.array([[1e3, 0.1], [3e3, 0.4], [7e3, 0.2]], np.float32)
    data = Dataset("a", "regression", y[:, :1], y, y[:, :1], y)
    units, kind = Standardization.learn(data), build_likelihood(name, 2)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(3, kind.num_outputs(y))).astype(np.float32)
    shift, scale = y.astype(float).mean(0), y.astype(float).std(0)
    noise = np.log1p(np.exp(outputs[:, 2:])) if name == "heteroscedastic" else 1.0
    law = stats.t(4.0) if name == "student_t" else stats.norm
    standard = (y - shift - scale * outputs[:, :2]) / (scale * noise)
    expected = (law.logpdf(standard) - np.log(scale * noise)).sum(1)
    got = units.likelihood(kind)(jnp.asarray(outputs)).log_prob(y)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    np.testing.assert_allclose(
        units.standardise(y), (y - shift) / scale, rtol=1e-5, atol=1e-6
    )


def test_every_real_target_has_a_noise_of_its_own():
    assert build_likelihood("gaussian", 3).scale.shape == (3,)
    assert build_likelihood("student_t", 3).scale.shape == (3,)
    assert build_likelihood("gaussian").scale.shape == ()


def test_every_task_has_a_likelihood():
    names = {task: likelihood_of(task) for task in mf.data.dataset.TASKS}
    assert names == {
        "classification": "categorical",
        "regression": "gaussian",
        "counts": "poisson",
        "binary": "bernoulli",
    }


@pytest.fixture
def unlabelled(monkeypatch):
    """Labels know nothing of likelihoods, and take a third of a short run."""
    monkeypatch.setattr(runs.train, "label", lambda run, dataset: None)


@pytest.fixture(scope="module")
def pair():
    """A network with two real outputs, one forty times the other, and data."""
    ensemble = mf.Ensemble.from_model(mlp((3, 5, 2), key=jax.random.key(0)))
    weights = ensemble.weights()
    last = weights["layers/1/weight"]
    wide = mf.SpikeSlab(
        last.spike_prob, last.slab_mean * np.array([[1.0], [40.0]]), last.slab_var
    )
    ensemble = ensemble.with_weights({"layers/1/weight": wide})
    rng = np.random.default_rng(1)
    return ensemble, rng.normal(size=(30, 3)).astype(np.float32)


def test_neurons_are_paid_for_both_targets(pair):
    ensemble, x = pair
    y = np.random.default_rng(2).normal(size=(30, 2)).astype(np.float32)
    game = mf.NeuronGame(ensemble, "layers/0", (x, y), likelihood=mf.Gaussian())
    masks = np.random.default_rng(3).random((9, 5)) < 0.5
    first, last = ensemble.mean_network().layers
    hidden = np.maximum(x @ np.asarray(first.weight).T + np.asarray(first.bias), 0)
    expected = []
    for mask in masks:
        acting = np.where(mask, hidden, hidden.mean(0))
        out = acting @ np.asarray(last.weight).T + np.asarray(last.bias)
        expected.append(-np.mean((out - y) ** 2))
    assert game.payoff == "mse"
    np.testing.assert_allclose(game(masks), expected, rtol=1e-4)


def test_connections_are_perturbed_for_both_targets(pair):
    ensemble, x = pair
    weights = {
        name: mf.SpikeSlab(0 * w.spike_prob, w.slab_mean, 0 * w.slab_var)
        for name, w in ensemble.weights().items()
    }
    certain = ensemble.with_weights(weights)
    labels = {n: np.full(w.shape, Label.VARIABLE, np.int8) for n, w in weights.items()}
    # Everything that feeds the second output is important.
    labels["layers/1/weight"][1] = Label.IMPORTANT
    network = certain.mean_network()
    y = np.asarray(jax.vmap(network)(x))
    found = mf.credit.perturb_connections(
        certain,
        ConnectionLabels(labels, 0.0, "given"),
        (x, y),
        key=jax.random.key(4),
        fractions=(0.0, 1.0),
        arms=("important",),
        num_samples=2,
        likelihood=mf.Gaussian(),
    )
    bias = float(network.layers[1].bias[1])
    wrong = np.sqrt(np.mean((y[:, 1] - bias) ** 2) / 2)
    np.testing.assert_allclose(found.errors["important"][0], 0, atol=1e-5)
    np.testing.assert_allclose(found.errors["important"][1], wrong, rtol=1e-5)
    assert found.metric == "RMSE"
