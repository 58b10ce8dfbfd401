"""The target columns of a table, and whether they hold classes."""

import csv
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from meanfield.checks import first_bad, require

from .cells import at, class_texts, is_number, numbers
from .columns import (
    MAX_CATEGORIES,
    refuse_dates,
    refuse_signed_numbers,
    refuse_stray_texts,
)

# Whole numbers with at most this many distinct values are read as classes.
MAX_NUMBERED_CLASSES = 20


def names_of(text: str | Sequence[str] | None, names: list[str]) -> tuple[str, ...]:
    """The headings in a text that separates them by commas."""
    if isinstance(text, str):
        # A heading may itself contain a comma.
        parts = [text] if text in names else next(csv.reader([text]), [])
        return tuple(part.strip() for part in parts)
    return tuple(text or ())


def target_columns(
    target: str | Sequence[str] | None, names: list[str], path: str | os.PathLike
) -> tuple[str, ...]:
    """Headings of the target columns.

    Raises:
        ValueError: a heading is missing, is unknown, or occurs twice.
    """
    given = names_of(target, names)
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        raise ValueError(
            f"`target` must name a column of {path}, or several separated by commas, "
            f"each among {names}; got {(unknown[0] if unknown else target)!r}."
            + (" If it has more, give its separator (--sep)." * (len(names) == 1))
        )
    require(
        len(set(given)) == len(given),
        f"`target` must name each column once; got {', '.join(given)}.",
    )
    return given


def class_names_of(
    cells: pd.Series, target: str, task: str | None
) -> tuple[str, ...] | None:
    """Names of the classes in a target column; None if it holds numbers.

    Raises:
        ValueError: there are dates, numbers with a unit, or a few texts among numbers;
            or the targets are not classes.
    """
    numeric = is_number(cells)
    if task not in (None, "classification"):
        return None
    if task == "classification" and numeric.all():
        _refuse_real(cells, target)
    if task is None and numeric.all():
        values, counts = np.unique(numbers(cells, target), return_counts=True)
        whole = (values == np.round(values)).all()
        few = len(values) <= MAX_NUMBERED_CLASSES and counts.min() >= 2
        if not (whole and few):
            return None
    elif task is None:
        refuse_dates(cells, target, target=True)
        refuse_signed_numbers(cells, target, target=True)
        refuse_stray_texts(cells, target, target=True)
    rows = class_texts(cells)
    names = sorted(set(rows), key=_class_order)
    require(
        2 <= len(names) <= MAX_CATEGORIES,
        f"the target {target!r} must have between 2 and {MAX_CATEGORIES} classes; got "
        f"{len(names)}. Nothing can be learned from one class; for a target of "
        'numbers pass `task="regression"`.',
    )
    require(
        len(names) < len(rows),
        f"the target {target!r} must have a class with two rows; got {len(rows)} rows "
        "of different classes, which leaves no example to test with. Give more rows, "
        "or another target.",
    )
    return tuple(names)


def _refuse_real(cells: pd.Series, target: str) -> None:
    """Raise if real numbers are too many, or occur too rarely, to be classes."""
    values = numbers(cells, target)
    found, counts = np.unique(values, return_counts=True)
    few = len(found) <= MAX_NUMBERED_CLASSES and counts.min() >= 2
    whole = found == np.round(found)
    if not (whole.all() or few):
        (row,) = first_bad(values != np.round(values))
        raise ValueError(
            f"`target` {target!r} must be classes for a classification (a categorical "
            f"likelihood); got {len(found)} different real numbers, the first "
            f"{at(cells, row)}. Choose another likelihood, such as gaussian, or give "
            "classes."
        )


def _class_order(name: str) -> tuple[int, float, str]:
    """Sort key: numbers in increasing order, then texts in alphabetical order."""
    whole = name.lstrip("-").isascii() and name.lstrip("-").isdigit()
    return (0, float(name), name) if whole else (1, 0.0, name)
