"""The first sections of the report: the trained model, and how to reproduce it."""

import csv
import hashlib
import html
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meanfield.checks import require
from meanfield.runs.config import CONFIG
from meanfield.runs.folder import CONNECTIONS, HISTORY, METRICS, Run
from meanfield.runs.learn import INCLUSION_PROB
from meanfield.runs.settings import READING, TrainSettings
from meanfield.runs.user_model import MODEL_FILE

from .page import missing, short, table
from .parts import command_for, is_own, plot

OF_PRIOR = ("slab_scale", "temperature")


def trained(run: Run) -> str:
    """The section on the trained model."""
    config, metrics = run.config, run.metrics
    widths = [config["model"]["inputs"], *config["model"]["hidden"]]
    seconds = metrics.get("train_seconds")
    rows = [
        ("data", config["data"]["source"]),
        ("task", config["data"]["task"]),
        ("likelihood", config["model"]["likelihood"].replace("_", " ")),
        *_predicted(config["data"]),
        ("layers", " – ".join(map(str, [*widths, config["model"]["outputs"]]))),
        ("connections, each a distribution", short(metrics.get("num_weights"))),
        ("epochs", short(metrics.get("epochs"))),
        ("training time", "–" if seconds is None else f"{seconds:.1f} seconds"),
        ("prior", prior_of(config["training"], metrics.get("search", {}))),
        ("training ended", metrics.get("stopped", "–")),
    ]
    return (
        "<p>Every weight is a distribution: absent with probability π, else drawn from "
        "a Gaussian slab N(m, Ξ). Training changed π, m and Ξ of each weight.</p>"
        + table((), rows)
        + _history(run)
    )


def reproduce(run: Run) -> str:
    """The section on how to reproduce the run."""
    data, model, training = (run.config[k] for k in ("data", "model", "training"))
    words = ["meanfield", "train", "--data", data["source"]]
    if data["target"]:
        words += ["--target", data["target"]]
    words += ["--likelihood", model["likelihood"]]
    if Path(data["source"]).suffix:
        words += ["--test-fraction", str(data["test_fraction"])]
    words += _reading(data)
    words += ["--model", _own_file(run)] if model["kind"] == "file" else []
    words += ["--model", model["kind"]] if model["kind"] == "cnn" else []
    if model["kind"] != "file":
        words += ["--hidden", ",".join(map(str, model["hidden"]))]
    prior = training["inclusion_prob"] or training.get("rule") in (
        "evidence",
        "selective",
    )
    for name, value in training.items():
        if value is not None and (prior or name not in OF_PRIOR):
            words += [f"--{name.replace('_', '-')}", str(value)]
    rows = sorted(run.config["versions"].items())
    known = run.bare or "connections_sha256" in run.metrics
    tables = [METRICS, HISTORY]
    if known and (run.folder / CONNECTIONS).is_file():
        tables.append(run.connections.name)
    named = ", ".join(f"<code>{name}</code>" for name in tables)
    return (
        f"<pre>{html.escape(shlex.join(words))}</pre>"
        f"<p>Fingerprint of the data: <code>{html.escape(data['sha256'])}</code>. All "
        f"settings are in <code>{CONFIG}</code>, all numbers in {named}. The same "
        "seed, versions and number of CPU cores give the same numbers.</p>"
        + table(("package", "version"), rows)
    )


def _reading(data: Mapping[str, Any]) -> list[str]:
    """The options by which a table was read, if they are not the defaults."""
    words = []
    for name in READING:
        value = data.get(name)
        if value in (None, getattr(TrainSettings, name)):
            continue
        if isinstance(value, bool):
            words += [f"--{'' if value else 'no-'}{name}"]
        else:
            words += [f"--{name}", str(value)]
    return words


def _own_file(run: Run) -> str:
    """The user's own network: its file in the run folder, and the function."""
    return f"{run.folder / MODEL_FILE}:{run.config['model']['function']}"


def _predicted(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row with the names of the targets, if they have names."""
    names = data.get("target_names")
    return [("predicts", ", ".join(names))] if names else []


def _history(run: Run) -> str:
    path = run.folder / HISTORY
    if not is_own(run, path):
        return missing("history", command_for("train --resume", run))
    losses = _losses(path, run.metrics.get("history_sha256"))
    if not losses:
        return "<p>No epoch was finished.</p>"
    return plot(
        run,
        "history",
        "Negative log-likelihood of the training examples, epoch by epoch.",
        f"Line plot: the negative log-likelihood goes from {losses[0]:.3g} nats in the "
        f"first epoch to {losses[-1]:.3g} in epoch {len(losses)}.",
        command_for("train --resume", run),
    )


def _losses(path: Path, sha256: str | None) -> list[float]:
    """Negative log-likelihood of every epoch."""
    content = path.read_bytes()
    try:
        require(sha256 in (None, hashlib.sha256(content).hexdigest()), "other contents")
        rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
        return [float(row["nll"]) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{path} is not the table of epochs that was written ({error!r}); it was "
            "truncated or edited. Restore it from a copy."
        ) from error


def prior_of(training: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    """The prior of a run in words; for the selective rule, the result of its search."""
    if training.get("rule") == "selective":
        found = (
            f": temperature {short(search['temperature'])}, price of a connection "
            f"{short(search['price'])} nats"
            if search
            else ""
        )
        return f"found by the selective rule{found}"
    if training.get("inclusion_prob") is None and training.get("rule") != "evidence":
        return "none: generalized back-propagation as published"
    return (
        f"inclusion probability {training['inclusion_prob'] or INCLUSION_PROB}, slab "
        f"scale {training['slab_scale']}, temperature {training['temperature']}"
    )
