"""Sections on the scores and calibration of a run, and on credit."""

import html
from collections.abc import Mapping
from typing import Any

from meanfield.runs.folder import Run
from meanfield.runs.tables import rmse_of

from .page import details, missing, short, table
from .parts import KINDS, command_for, picture, plot
from .shares import values

SCORES = {
    "accuracy": "accuracy",
    "rmse": "root mean square error",
    "r2": "R², share of the variance explained",
    "nll": "negative log-likelihood (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "coverage": "coverage of 95 % intervals",
    "num_samples": "noise draws averaged over",
}


def quality(run: Run) -> str:
    """The section on scores and calibration."""
    metrics, command = run.metrics, command_for("evaluate", run)
    rivals = metrics.get("baselines", {})
    names = run.config["data"].get("target_names") or ()
    words = SCORES | {"rmse": rmse_of(names, SCORES["rmse"])}
    rows = [
        (
            text,
            short(metrics[name]),
            *(short(rival[name]) if name in rival else "" for rival in rivals.values()),
        )
        for name, text in words.items()
        if metrics.get(name) is not None
    ]
    if not any(metrics.get(name) is not None for name in ("accuracy", "rmse", "nll")):
        return missing("scores on its test data", command)
    head = ("on the test data", "ensemble", *rivals)
    page = table(head, rows, range(1, len(head))) + _by_target(run)
    if metrics.get("accuracy") is None:
        return page + _predictions(run, command)
    gap = metrics.get("ece")
    return (
        page
        + _mistakes(run)
        + plot(
            run,
            "reliability",
            "Accuracy against confidence in bins of the test data; on the diagonal, "
            "confidence equals accuracy. Larger points stand for more examples.",
            "Reliability diagram: accuracy against confidence; mean distance from the "
            f"diagonal {short(gap)}.",
            command,
        )
    )


def _mistakes(run: Run) -> str:
    """Confusions of classes, and the examples with the worst predictions."""
    metrics, parts = run.metrics, ""
    names, confusion = metrics.get("classes", ()), metrics.get("confusion")
    if confusion:
        rows = [(name, *row) for name, row in zip(names, confusion, strict=True)]
        content = table(("class", *names), rows, range(1, len(names) + 1))
        parts += details(
            "Number of examples of each class (row) by predicted class (column)",
            content,
        )
    if metrics.get("hardest"):
        rows = [
            (one["example"], one["class"], one["predicted"], short(one["probability"]))
            for one in metrics["hardest"]
        ]
        head = ("test example", "class", "predicted", "probability of its class")
        parts += details("The hardest examples", table(head, rows, (0, 3)))
    return parts


def credit(run: Run) -> str:
    """The section on credit: values, labels, entropy, landscapes."""
    return values(run) + _labels(run)


def _labels(run: Run) -> str:
    metrics, command = run.metrics, command_for("label", run)
    labels = metrics.get("labels")
    if not labels:
        return missing("labels of its connections", command)
    entropy = metrics.get("entropy", {})
    rows = [
        (name, *(f"{100 * parts[k]:.2f} %" for k in KINDS), short(entropy.get(name)))
        for name, parts in labels.items()
    ]
    note = _grounds(metrics.get("label_rule", {}))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{100 * parts[k]:.1f} % {k}" for k in KINDS)
        for name, parts in labels.items()
    )
    started = metrics.get("entropy_start", {})
    heights = ", ".join(
        f"{name} {short(entropy[name])}"
        + (f" (at the start {short(started[name])})" if name in started else "")
        for name in entropy
    )
    layers = {name.replace("/", "-"): name for name in labels}
    plots = plot(
        run,
        "labels",
        "Share of important, variable and absent connections in every layer.",
        f"Stacked bars. {said}.",
        command,
    ) + plot(
        run,
        "entropy",
        "Mean entropy of a connection in every layer, in nats: high where sub-networks "
        "differ, low where they agree. Below 0 the slabs are narrow.",
        f"Line plot of the mean entropy: {heights}.",
        command,
    )
    for path in sorted((run.plots).glob("landscape-*.png")):
        stem = path.stem.removeprefix("landscape-")
        layer = layers.get(stem, stem)
        plots += picture(
            run,
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


def _grounds(rule: Mapping[str, Any]) -> str:
    """The meaning of the labels: certified, or by the posterior."""
    if "verdict" not in rule:
        return (
            '<p class="soft">Important: present with probability at least 1 − τ, and '
            "of known sign. Absent: not present, with probability at least 1 − τ. "
            "Variable: all others, which differ between sub-networks. Here τ is "
            f"{html.escape(short(rule.get('tolerance', 0)))} (rule: "
            f"{html.escape(str(rule.get('chosen', 'exact')))}). A connection whose "
            "input is zero on all the data never learns, so its label is not "
            "informative.</p>"
        )
    rows = [
        (f"without the {kind}", short(after)) for kind, after in rule["without"].items()
    ]
    rows = [("whole", short(rule["full"])), *rows, ("empty", short(rule["empty"]))]
    bounds = (rule.get("loss_bound"), rule.get("cost_bound"))
    loss, cost = ("–" if bound is None else short(bound) for bound in bounds)
    return table(
        ("the network of means", html.escape(rule["payoff"])), rows, numbers=(1,)
    ) + (
        '<p class="soft">Absent: all of them can be removed at once at a loss of at '
        f"most {short(rule['epsilon'])} (bound: {loss}). Important: without "
        f"them, the {html.escape(rule['payoff'])} falls by at least {cost}. Variable: "
        "all others. Both bounds hold at once with confidence "
        f"{short(rule['level'])}, from {short(rule['num_examples'])} test examples "
        "that were used neither for training nor for choosing the two sets: "
        f"{html.escape(rule['verdict'])}.</p>"
    )


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
    """Plots of predicted numbers, and of their intervals if they have any."""
    plots = ""
    for path in sorted(run.plots.glob("predictions-*.png")):
        plots += picture(
            run,
            path,
            "Predicted against observed numbers of the test data, with bars of one "
            "predictive standard deviation.",
            "Scatter plot: predicted against observed numbers; root mean square "
            f"distance from the diagonal {short(run.metrics.get('rmse'))}.",
        )
    if not plots:
        plots += missing("plot “predictions”", command)
    coverage = run.metrics.get("coverage")
    if coverage is not None:
        plots += plot(
            run,
            "coverage",
            "Share of the targets inside central intervals of every level; on the "
            "diagonal the stated uncertainty is right.",
            "Line plot of the share inside against the level of the interval; at 95 % "
            f"it is {100 * coverage:.1f} %.",
            command,
        )
    return f'<div class="plots">{plots}</div>'
