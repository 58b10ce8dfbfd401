"""The verdict at the top of the report: five lines on size, scores and labels."""

import html
import math
from collections.abc import Mapping
from typing import Any

from meanfield.runs.folder import Run
from meanfield.runs.tables import rmse_of

from .derived import cards
from .page import listing, short
from .parts import KINDS, command_for

# A difference of more standard errors than this is taken as significant.
SURE = 2.0


def verdict(run: Run) -> str:
    """Lines on size, score, calibration, labels and shipped files."""
    lines = [_size(run), _quality(run), _calibration(run), _labels(run), _ships(run)]
    return listing([html.escape(line) for line in lines], "verdict")


def _size(run: Run) -> str:
    metrics = run.metrics
    ended = metrics.get("stopped", "not known")
    return (
        f"Trained: a distribution for each of {short(metrics.get('num_weights'))} "
        f"connections, "
        f"{short(metrics.get('epochs'))} epochs; {ended}."
    )


def _quality(run: Run) -> str:
    """The score with its standard error, compared with the baselines."""
    metrics = run.metrics
    name, unit = ("accuracy", " %") if "accuracy" in metrics else ("rmse", "")
    if metrics.get(name) is None:
        return f"How good: not scored yet; run {command_for('evaluate', run)}."
    controls = ", ".join(
        f"{which} {_number(scores[name], unit)}"
        for which, scores in metrics.get("baselines", {}).items()
        if scores.get(name) is not None
    )
    if name == "accuracy":
        error = standard_error(metrics)
        error = None if error is None else f"{100 * error:.2f}"
    else:
        error = metrics.get("standard_errors", {}).get(name)
        error = None if error is None else short(error)
    spread = "" if error is None else f" ± {error} (one standard error)"
    r2 = metrics.get("r2")
    share = "" if r2 is None else f", R² = {r2:.3f}"
    targets = run.config["data"].get("target_names") or ()
    rmse = rmse_of(targets, "root mean square error")
    words = {"accuracy": "accuracy", "rmse": rmse}[name]
    of = (
        f" on {metrics['num_examples']:,} examples" if "num_examples" in metrics else ""
    )
    return f"How good: {words} {_number(metrics[name], unit)}{spread}{share}{of}" + (
        f" ({controls})." if controls else "."
    )


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit else short(value)


def standard_error(metrics: dict[str, Any]) -> float | None:
    """√(a (1 − a) / N) of an accuracy a; None if N is not known."""
    count = metrics.get("num_examples")
    if not count or metrics.get("accuracy") is None:
        return None
    return math.sqrt(metrics["accuracy"] * (1 - metrics["accuracy"]) / count)


def _calibration(run: Run) -> str:
    """Whether the stated confidence, or the coverage of intervals, is right."""
    metrics = run.metrics
    count = metrics.get("num_examples")
    if metrics.get("coverage") is not None and count:
        coverage = metrics["coverage"]
        error = math.sqrt(0.95 * 0.05 / count)
        gap = coverage - 0.95
        said = f"95 % intervals hold {100 * coverage:.1f} % of the targets"
        if abs(gap) <= SURE * error:
            return f"Calibrated, as far as {count:,} examples can tell: {said}."
        return f"{'Too wide' if gap > 0 else 'Overconfident'}: {said}."
    if "rmse" in metrics and metrics.get("coverage") is None:
        law = run.config["model"]["likelihood"].replace("_", " ")
        return f"Calibration: not measured, because {law} targets have no intervals."
    error = standard_error(metrics)
    if not count or error is None or metrics.get("confidence") is None:
        return f"Calibration: expected error {short(metrics.get('ece'))}."
    gap = metrics["confidence"] - metrics["accuracy"]
    said = (
        f"mean confidence {100 * metrics['confidence']:.1f} %, expected calibration "
        f"error {short(metrics.get('ece'))}"
    )
    if abs(gap) <= SURE * max(error, 0.5 / count):
        return f"Calibrated on average, as far as {count:,} examples can tell: {said}."
    kind = "Overconfident" if gap > 0 else "Underconfident"
    return f"{kind} by {100 * abs(gap):.1f} points: {said}."


def _labels(run: Run) -> str:
    """The labels of the whole network, every connection counted once."""
    weights = run.ensemble.weights()
    labels = {
        name: parts
        for name, parts in run.metrics.get("labels", {}).items()
        if name in weights
    }
    if not labels:
        return f"Labels: none yet; run {command_for('label', run)}."
    sizes = {name: weights[name].spike_prob.size for name in labels}
    total = sum(sizes.values())
    counts = {
        kind: sum(sizes[name] * labels[name][kind] for name in labels) for kind in KINDS
    }
    shares = ", ".join(f"{100 * n / total:.1f} % {kind}" for kind, n in counts.items())
    return f"Labels: of {total:,} connections {shares}."


def _ships(run: Run) -> str:
    """The smallest shipped sub-network, compared with the network as drawn."""
    entries = [
        (entry.get("bytes", math.inf), folder, entry, card)
        for folder, card in cards(run).items()
        for entry in card["subnetworks"]
    ]
    if not entries:
        return f"Ships: nothing yet; run {command_for('sample', run)}."
    size, folder, entry, card = min(entries, key=lambda found: found[0])
    before = entry.get("before", {})
    smaller = f" (as drawn: {before['bytes']:,})" if "bytes" in before else ""
    text = f"Ships: {folder}/{entry['file']}, {size:,} bytes{smaller}{_score(entry)}"
    if "control" in card:
        text += (
            f"; a plain network of that size, trained as long{_score(card['control'])}"
        )
    if "num_weights" in entry and before.get("num_weights") == entry["num_weights"]:
        text += "; no whole unit could be removed"
    return text + "."


def _score(entry: Mapping[str, Any]) -> str:
    for name, unit in (("accuracy", "%"), ("rmse", "")):
        if entry.get(name) is not None:
            return f", {name} {_number(entry[name], unit)}"
    return ""
