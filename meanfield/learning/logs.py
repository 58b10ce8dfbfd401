"""Callbacks of `fit` that write down how the training goes."""

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
    """A callback that keeps a CSV file of the history, one row an epoch.

    The file is written whole after every epoch and then renamed, so it can be read
    while the training runs, and a run that is continued continues it.

    Args:
        path: where the file goes.

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
    """A callback that prints one JSON object a line after every epoch.

    It holds the last row of the history and `eta_seconds`, the time that the epochs
    still to come will take at the median pace of the last few.

    Args:
        stream: where to; standard output by default.

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
