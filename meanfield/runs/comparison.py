"""Compare runs: settings that differ, scores with intervals, labels, sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meanfield.checks import require

from .documents import read_json
from .folder import SUBNETWORKS, Run, load_run
from .schemas import CARD

# Half-width of an interval in standard errors: 95 % of a normal distribution.
WIDTH = 1.96
SCORES = ("accuracy", "rmse", "r2", "nll", "ece", "coverage")
KINDS = ("important", "absent", "variable")
NOTHING = "–"


def compare(folders: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """Rows of a table with a column for each run.

    The intervals cover only the choice of test examples, not that of the seed.

    Args:
        folders: run folders, at least two.

    Returns:
        The name of each row and its cells; first the settings that differ.

    Raises:
        FileNotFoundError: a folder is not a run folder.
        ValueError: there are fewer than two runs, or they are on different data.
    """
    require(len(folders) >= 2, "give at least two run folders to compare.")
    opened = [load_run(folder) for folder in folders]
    first = opened[0]
    for run in opened[1:]:
        _refuse_other_data(first, run)
    rows = _settings(opened)
    for name in SCORES:
        rows.append((name, [_score(run.metrics, name) for run in opened]))
    for kind in KINDS:
        rows.append((f"{kind} connections", [_share(run, kind) for run in opened]))
    for name in ("num_weights", "epochs", "train_seconds"):
        cells = [_shown(run.metrics.get(name)) for run in opened]
        # The settings also have a row `epochs`, the largest number of epochs.
        title = "epochs run" if name == "epochs" else name.replace("_", " ")
        rows.append((title, cells))
    rows.append(("shipped bytes", [_shipped(run, "bytes") for run in opened]))
    rows.append(("shipped weights", [_shipped(run, "num_nonzero") for run in opened]))
    return [row for row in rows if any(cell != NOTHING for cell in row[1])]


def _refuse_other_data(first: Run, other: Run) -> None:
    one, two = first.config["data"], other.config["data"]
    if one["sha256"] == two["sha256"]:
        return
    names = ("source", "target", "seed", "test_fraction", "drop", "features", "missing")
    differ = [
        f"{name} {one.get(name)!r} and {two.get(name)!r}"
        for name in names
        if one.get(name) != two.get(name)
    ]
    raise ValueError(
        f"{first.folder} and {other.folder} were trained and tested on different data "
        f"({'; '.join(differ) or 'the contents of the file changed'}): their scores "
        "cannot be compared. Train both on the same file, split by the same --seed."
    )


def _settings(opened: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings of the model and of the training that differ between the runs."""
    rows = []
    for part in ("model", "training", "versions"):
        names = dict.fromkeys(name for run in opened for name in run.config[part])
        for name in names:
            values = [run.config[part].get(name) for run in opened]
            if any(value != values[0] for value in values):
                cells = [_shown(value) for value in values]
                rows.append((name.replace("_", " "), cells))
    return rows


def _score(metrics: dict[str, Any], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return NOTHING
    error = metrics.get("standard_errors", {}).get(name)
    return f"{value:.4f}" + ("" if error is None else f" ± {WIDTH * error:.4f}")


def _share(run: Run, kind: str) -> str:
    """Percentage of all connections that have the label `kind`."""
    sizes = {name: weight.mean.size for name, weight in run.ensemble.weights().items()}
    labels = run.metrics.get("labels", {})
    if not labels or set(labels) - set(sizes):
        return NOTHING
    total = sum(sizes[name] for name in labels)
    part = sum(sizes[name] * labels[name][kind] for name in labels)
    return f"{100 * part / total:.1f} %"


def _shipped(run: Run, name: str) -> str:
    """A number of the first sub-network that was exported to the run folder."""
    path = run.folder / SUBNETWORKS / "card.json"
    if not path.is_file():
        return NOTHING
    card = read_json(path, "Ship again with `meanfield sample`.", CARD)
    entries = card["subnetworks"]
    own = card.get("source", {}).get("ensemble") == run.seal
    return _shown(entries[0].get(name)) if own and entries else NOTHING


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
