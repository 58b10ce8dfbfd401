"""What the page says, section by section, from the files of a run folder."""

import csv
import html
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meanfield.deploy.shipping.card import shown_score
from meanfield.runs.run import CONFIG, METRICS, Run

from .page import details, figure, missing, short, table

SCORES = {
    "accuracy": "accuracy",
    "rmse": "root mean square error",
    "nll": "negative log-likelihood (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "coverage": "coverage of 95 % intervals",
    "num_samples": "noise draws averaged over",
}
KINDS = ("important", "variable", "absent")


def lead(run: Run) -> str:
    """What came out, in a sentence."""
    metrics = run.metrics
    parts = [f"{short(metrics.get('num_weights'))} random weights"]
    if metrics.get("accuracy") is not None:
        parts.append(f"test accuracy {100 * metrics['accuracy']:.2f} %")
    if metrics.get("rmse") is not None:
        parts.append(f"test error {short(metrics['rmse'])} (root mean square)")
    if metrics.get("ece") is not None:
        parts.append(f"calibration error {short(metrics['ece'])}")
    return ", ".join(parts) + "."


def trained(run: Run) -> str:
    """What was trained."""
    config, metrics = run.config, run.metrics
    widths = [config["model"]["inputs"], *config["model"]["hidden"]]
    seconds = metrics.get("train_seconds")
    rows = [
        ("data", config["data"]["source"]),
        ("task", config["data"]["task"]),
        ("likelihood", config["model"]["likelihood"].replace("_", " ")),
        *_predicted(config["data"]),
        ("layers", " – ".join(map(str, [*widths, config["model"]["outputs"]]))),
        ("random weights", short(metrics.get("num_weights"))),
        ("epochs", short(metrics.get("epochs"))),
        ("training time", "–" if seconds is None else f"{seconds:.1f} seconds"),
        ("prior", _prior(config["training"])),
        ("training ended", metrics.get("stopped", "–")),
    ]
    return (
        "<p>Every weight is a distribution: absent with probability π, else drawn from "
        "a Gaussian slab N(m, Ξ). Training moved all three numbers of each.</p>"
        + table((), rows)
        + _history(run)
    )


def quality(run: Run) -> str:
    """How good, and how calibrated it is."""
    metrics, command = run.metrics, _command("evaluate", run)
    rows = [
        (text, short(metrics[name]))
        for name, text in SCORES.items()
        if metrics.get(name) is not None
    ]
    if not any(metrics.get(name) is not None for name in ("accuracy", "rmse", "nll")):
        return missing("scores on its test data", command)
    page = table(("on the test data", "value"), rows, numbers=(1,)) + _by_target(run)
    if metrics.get("accuracy") is None:
        return page + _predictions(run, command)
    gap = metrics.get("ece")
    return page + _plot(
        run,
        "reliability",
        "Accuracy against confidence in bins of the test data; on the diagonal the "
        "stated confidence is right. A larger point stands for more examples.",
        "Reliability diagram: accuracy against confidence; mean distance from the "
        f"diagonal {short(gap)}.",
        command,
    )


def _predicted(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row with the names of the targets, where they have names."""
    names = data.get("target_names")
    return [("predicts", ", ".join(names))] if names else []


def _by_target(run: Run) -> str:
    """A row of scores for each of several targets."""
    found = run.metrics.get("by_target")
    if not found:
        return ""
    kinds = [name for name in SCORES if name in found[0]]
    rows = [(one["target"], *(short(one[kind]) for kind in kinds)) for one in found]
    head = ("target", *(SCORES[kind] for kind in kinds))
    return table(head, rows, range(1, len(head)))


def _predictions(run: Run, command: str) -> str:
    """Pictures of predicted numbers, and of their intervals where they have some."""
    plots, found = "", sorted((run.folder / "plots").glob("predictions-*.png"))
    for path in found:
        plots += figure(
            path,
            "Predicted against observed numbers of the test data, with bars of one "
            "predictive standard deviation.",
            "Scatter plot: predicted against observed numbers; root mean square "
            f"distance from the diagonal {short(run.metrics.get('rmse'))}.",
        )
    if not found:
        plots += missing("plot “predictions”", command)
    coverage = run.metrics.get("coverage")
    if coverage is not None:
        plots += _plot(
            run,
            "coverage",
            "Share of the targets inside central intervals of every level; on the "
            "diagonal the stated uncertainty is right.",
            "Line plot of the share inside against the level of the interval; at 95 % "
            f"it is {100 * coverage:.1f} %.",
            command,
        )
    return f'<div class="plots">{plots}</div>'


def credit(run: Run) -> str:
    """Where the credit sits: labels, entropy, landscapes."""
    metrics, command = run.metrics, _command("label", run)
    labels = metrics.get("labels")
    if not labels:
        return missing("labels of its connections", command)
    entropy = metrics.get("entropy", {})
    rows = [
        (name, *(f"{100 * parts[k]:.2f} %" for k in KINDS), short(entropy.get(name)))
        for name, parts in labels.items()
    ]
    rule = metrics.get("label_rule", {})
    note = (
        '<p class="soft">Important: surely present, and its value known. Absent: '
        "surely not there. Variable: neither; it differs from one sub-network to the "
        f"next. Tolerance of the labels: {short(rule.get('tolerance', 0))} "
        f"({html.escape(str(rule.get('chosen', 'exact')))}). A connection whose input "
        "never varies on the data never learns; it counts as variable here.</p>"
    )
    said = "; ".join(
        f"{name}: " + ", ".join(f"{100 * parts[k]:.1f} % {k}" for k in KINDS)
        for name, parts in labels.items()
    )
    heights = ", ".join(f"{name} {short(entropy[name])}" for name in entropy)
    plots = _plot(
        run,
        "labels",
        "Share of important, variable and absent connections in every layer.",
        f"Stacked bars. {said}.",
        command,
    ) + _plot(
        run,
        "entropy",
        "Mean entropy of a connection in every layer, in nats: high where sub-networks "
        "differ, low where they agree.",
        f"Line plot of the mean entropy: {heights}.",
        command,
    )
    for path in sorted((run.folder / "plots").glob("landscape-*.png")):
        layer = path.stem.removeprefix("landscape-")
        plots += figure(
            path,
            f"The connections of {layer}: slab mean, slab variance, and the "
            "probability of being absent as colour.",
            f"Scatter plot of the connections of {layer}: slab mean across, slab "
            "variance upwards on a logarithmic scale, spike probability as colour.",
        )
    head = ("layer", *KINDS, "entropy (nats)")
    return (
        table(head, rows, range(1, len(head))) + note + f'<div class="plots">{plots}'
        "</div>"
    )


def neurons(run: Run) -> str:
    """Which neurons matter: strong coalitions and the label game."""
    command = _command("coalitions", run)
    found = _read(run.folder / "coalitions.json")
    if found is None:
        return missing("coalitions of neurons", command)
    rows, plots = [], ""
    for name, layer in found["layers"].items():
        size, payoffs = layer["size"], layer["payoffs"]
        game = layer["label_game"]
        rows.append(
            (
                name,
                len(layer["mask"]),
                size,
                short(float(payoffs[size])),
                short(float(payoffs[-1])),
                *(f"{game[kind]:+.3f}" for kind in KINDS),
            )
        )
        file = name.replace("/", "-")
        plots += _plot(
            run,
            f"coalition-values-{file}",
            f"Shapley values of the neurons of {name} with their intervals; full "
            "circles form the strong coalition.",
            f"Shapley values of {len(layer['mask'])} neurons in falling order, from "
            f"{max(layer['values']):.3g} to {min(layer['values']):.3g}; {size} of them "
            "belong to the strong coalition.",
            command,
        ) + _plot(
            run,
            f"coalition-payoff-{file}",
            f"Payoff of the best neurons of {name}, added by Shapley value.",
            f"Payoff against the number of neurons: {payoffs[0]:.3g} with none, "
            f"{payoffs[size]:.3g} with {size}, {payoffs[-1]:.3g} with all.",
            command,
        )
    if (run.folder / "plots" / "coalition-network.png").is_file():
        plots += _plot(
            run,
            "coalition-network",
            "The network with its coalitions; lines are the largest weights between "
            "members, dashed when negative.",
            "A column of neurons for each hidden layer, members of its strong "
            "coalition on top.",
            command,
        )
    head = ("layer", "neurons", "strong", "payoff", "of all")
    head += KINDS
    return (
        "<p>Each hidden layer is a game that its neurons play together; the payoff is "
        f"the {html.escape(str(found.get('payoff', 'accuracy')))} of the network when "
        "the others are held at their mean. The strong coalition is the least number "
        "of neurons, taken by Shapley value, that keeps all but "
        f"{100 * found.get('epsilon', 0):.3g} % of it. The last three columns share "
        "the payoff among the connections of each label.</p>"
        + table(head, rows, range(1, len(head)))
        + f'<div class="plots">{plots}</div>'
    )


def physics(run: Run) -> str:
    """What the physics says: microstructure, renormalization, complexity."""
    command = _command("analyze", run)
    found = _read(run.folder / "analysis.json")
    if found is None:
        return missing("physical reading", command)
    fits = found["microstructure"]
    laws = [
        (name, fit["verdict"], short(fit["mu"]), short(fit["sigma"]), fit["reason"])
        for name, fit in fits.items()
    ]
    counts = Counter(fit["verdict"] for fit in fits.values())
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    flow = found["renormalization"]
    why = f"{flow['verdict']}: {flow['reason']}"
    return "".join(
        [
            "<h3>Microstructure: are the magnitudes of the weights lognormal?</h3>",
            f"<p>Of {len(fits)} tensors: {html.escape(said)}.</p>",
            details(
                "The verdict on every tensor, and why",
                table(("tensor", "verdict", "μ", "σ", "why"), laws, (2, 3)),
            ),
            _plot(
                run,
                "microstructure",
                "Skewness against spread of ln|w| for every tensor, where a lognormal "
                "law has skewness 0.",
                f"Skewness of ln|w| against its spread: {said}.",
                command,
            ),
            "<h3>Renormalization: where the layers lie in the phase diagram</h3>",
            f"<p>{html.escape(why)}</p>",
            _plot(
                run,
                "renormalization",
                "Weight and bias variance of each layer, and the critical line between "
                "order, where two inputs become alike, and chaos, where they part.",
                f"Phase diagram. {why}",
                command,
            )
            if "layers" in flow
            else "",
            "<h3>Complexity: bits of the on/off pattern, dimension of the features"
            "</h3>",
            _complexity(run, found["complexity"], command),
        ]
    )


def shipped(run: Run) -> str:
    """What can be shipped: the cards of drawn sub-networks."""
    paths = sorted(run.folder.glob("*/card.json"))
    if not paths:
        return missing("sub-networks", _command("sample", run) + " -k 5 --format onnx")
    parts = []
    for path in paths:
        card = _read(path) or {"subnetworks": []}
        rows = []
        for entry in card["subnetworks"]:
            before = entry.get("before", {})
            latency = entry.get("latency") or {}
            rows.append(
                (
                    entry["file"],
                    shown_score(entry)[1],
                    short(entry.get("nll")),
                    _change(before.get("bytes"), entry.get("bytes")),
                    _change(before.get("num_weights"), entry.get("num_weights")),
                    short(entry.get("num_nonzero")),
                    short(latency.get("batch_1_us")),
                )
            )
        scored, _ = shown_score((card["subnetworks"] or [{}])[0])
        head = ("file", scored, "NLL", "bytes", "weights")
        head += ("not zero", "µs, one example")
        settings = f"rule {card.get('rule')}, format {card.get('format')}"
        parts.append(
            f"<h3>{html.escape(path.parent.name)}: {html.escape(settings)}</h3>"
            + table(head, rows, range(1, len(head)))
            + _outputs(card.get("source", {}).get("targets"))
        )
    return (
        "<p>Each file is an ordinary network drawn from the ensemble, scored on the "
        "test data after it was written and read back. An arrow stands between the "
        "network as drawn and the file without the units that no longer matter.</p>"
        + "".join(parts)
    )


def _outputs(targets: Mapping[str, Any] | None) -> str:
    """What the outputs of shipped files mean."""
    if targets is None:
        return ""
    return (
        f'<p class="soft">Outputs of the files: {html.escape(targets["outputs"])}.</p>'
    )


def reproduce(run: Run) -> str:
    """How to reproduce it."""
    data, model, training = (run.config[k] for k in ("data", "model", "training"))
    words = ["meanfield", "train", "--data", data["source"]]
    if data["target"]:
        words += ["--target", data["target"]]
    words += ["--likelihood", model["likelihood"]]
    if Path(data["source"]).suffix:
        words += ["--test-fraction", str(data["test_fraction"])]
    words += ["--hidden", ",".join(map(str, model["hidden"]))]
    for name, value in training.items():
        if value is not None and (training["inclusion_prob"] or name not in OF_PRIOR):
            words += [f"--{name.replace('_', '-')}", str(value)]
    rows = sorted(run.config["versions"].items())
    return (
        f"<pre>{html.escape(shlex.join(words))}</pre>"
        f"<p>Fingerprint of the data: <code>{data['sha256']}</code>. All settings are "
        f"in <code>{CONFIG}</code>, all numbers in <code>{METRICS}</code>, "
        "<code>history.csv</code> and <code>connections.csv</code>. The same seed and "
        "versions give the same numbers.</p>" + table(("package", "version"), rows)
    )


OF_PRIOR = ("slab_scale", "temperature")
SECTIONS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("What was trained", trained),
    ("How good and how calibrated it is", quality),
    ("Where the credit sits", credit),
    ("Which neurons matter", neurons),
    ("What the physics says", physics),
    ("What can be shipped", shipped),
    ("How to reproduce it", reproduce),
)


def _history(run: Run) -> str:
    path = run.folder / "history.csv"
    if not path.is_file():
        return missing("history", _command("train --resume", run))
    with path.open(newline="") as file:
        losses = [float(row["nll"]) for row in csv.DictReader(file)]
    if not losses:
        return "<p>No epoch was finished.</p>"
    return _plot(
        run,
        "history",
        "Negative log-likelihood of the training examples, epoch by epoch.",
        f"Line plot: the negative log-likelihood goes from {losses[0]:.3g} nats in the "
        f"first epoch to {losses[-1]:.3g} in epoch {len(losses)}.",
        _command("train --resume", run),
    )


def _complexity(run: Run, found: Mapping[str, Any], command: str) -> str:
    layers = found.get("layers")
    if layers is None:
        return f"<p>{html.escape(str(found['reason']))}</p>"
    rows = [
        (
            name,
            layer["num_units"],
            short(layer["marginal"]),
            short((layer["joint"] or {}).get("bits")),
            short((layer["dimension"] or {}).get("dimension")),
            layer["verdict"],
        )
        for name, layer in layers.items()
    ]
    head = ("layer", "units", "sum of units (bits)", "joint (bits)", "dimension", "")
    said = ", ".join(f"{row[0]} {row[2]} bits over its units" for row in rows)
    return table(head, rows, (1, 2, 3, 4)) + _plot(
        run,
        "complexity",
        "Entropy of each layer's on/off pattern: the sum over its units, and of all "
        "together; the difference is what the units share.",
        f"Bars of the entropy of the on/off patterns: {said}.",
        command,
    )


def _prior(training: Mapping[str, Any]) -> str:
    if training.get("inclusion_prob") is None:
        return "none: generalized back-propagation as published"
    return (
        f"inclusion probability {training['inclusion_prob']}, slab scale "
        f"{training['slab_scale']}, temperature {training['temperature']}"
    )


def _plot(run: Run, name: str, caption: str, alternative: str, command: str) -> str:
    path = run.folder / "plots" / f"{name}.png"
    if not path.is_file():
        return missing(f"plot “{name}”", command)
    return figure(path, caption, alternative)


def _command(name: str, run: Run) -> str:
    return f"meanfield {name} {shlex.quote(str(run.folder))}"


def _change(before: int | None, after: int | None) -> str:
    if before is None or before == after:
        return short(after)
    return f"{short(before)} → {short(after)}"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}); it was truncated or edited. "
            "Delete it, and make it again by the command that wrote it."
        ) from error
