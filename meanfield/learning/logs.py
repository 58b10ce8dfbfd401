"""Callbacks of `fit` that log the training history."""

import csv
import json
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any, TextIO

import jax

from meanfield.files import atomic_path

RECENT = 5


def log_csv(path: str | os.PathLike) -> Callable[[Any], None]:
    """A callback that writes the history to a CSV file, one row per epoch.

    The file is written to a temporary path after every epoch and then renamed, so it
    can be read during training. If a run is continued, its history and so the file
    continue too.

    Args:
        path: the file.

    Returns:
        The callback.

    Example:
        >>> import meanfield as mf
        >>> callbacks = [mf.learning.log_csv("history.csv")]  # of `mf.fit`
    """

    def write(report: Any) -> None:
        if jax.process_index() > 0:
            return
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(report.history)
            table.writerows(zip(*report.history.values(), strict=True))

    return write


def log_json(stream: TextIO | None = None) -> Callable[[Any], None]:
    """A callback that prints a line with one JSON object after every epoch.

    The object holds the last row of the history and `eta_seconds`, the time that the
    remaining epochs will take at the median speed of the last few.

    Args:
        stream: where to print; standard output by default.

    Returns:
        The callback.

    Example:
        >>> import meanfield as mf
        >>> callbacks = [mf.learning.log_json()]  # mf.fit(..., callbacks=callbacks)
    """

    def write(report: Any) -> None:
        if jax.process_index() > 0:
            return
        row = {name: values[-1] for name, values in report.history.items()}
        recent = report.history["seconds"][-RECENT:]
        left = report.epochs - report.epoch
        row["eta_seconds"] = left * statistics.median(recent)
        print(json.dumps(row), file=stream or sys.stdout, flush=True)

    return write
