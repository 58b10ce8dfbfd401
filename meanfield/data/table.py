"""Data set from a user's table: a text file with headings."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meanfield.checks import require

from .cells import (
    cells_of,
    is_missing,
    raise_all,
    refuse_decimal_commas,
    refuse_missing,
)
from .columns import case_note, column_of, constant_note, examine
from .dataset import Dataset, guess_task, require_known_task, require_task, split_rows
from .headings import repeated_headings
from .schema import TableSchema
from .target_columns import class_names_of, names_of, target_columns
from .text import read_text

KINDS_OF_MISSING = ("fill", "refuse")


def read_table(
    path: str | os.PathLike,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
) -> pd.DataFrame:
    r"""Rows of a table as texts, missing cells as NaN.

    Quoted fields, a byte-order mark and any line ending are understood. Encoding,
    separator and decimal commas are guessed unless they are given; numbers with decimal
    commas get points.

    Args:
        path: path of the file.
        sep: separator of cells: one character, "tab" or "space".
        decimal: "." or ",".
        header: whether the first row holds the headings. None assumes so, and refuses a
            first row that looks like data.

    Returns:
        A frame of texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, is not text, or is not a rectangular table with
            different headings.

    Example:
        >>> import pathlib, tempfile
        >>> from meanfield import data
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("age;town\n31;Ulm\n47;\n")
        >>> data.read_table(path)["age"].tolist()
        ['31', '47']
    """
    text = read_text(path, sep=sep, decimal=decimal, header=header)
    problems = repeated_headings(path, text.repeated, [*text.frame.columns])
    raise_all(f"the headings of {path} cannot be used", problems)
    return text.frame


def table(
    path: str | os.PathLike,
    *,
    target: str | Sequence[str] | None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    drop: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    missing: str = "fill",
) -> Dataset:
    r"""Read a table and split it into training and test rows.

    A column is read as numbers if all its cells are numbers, else as categories.
    Numbers are standardised by the mean and standard deviation of the training rows;
    each category becomes one feature (categories are collected from the whole table). A
    missing number is replaced by the median of the training rows, and a second feature
    marks it; a missing category is one more category. Rows whose target is missing and
    columns without a value are left out. So are, unless `features` names them, columns
    with more than 20 different texts in fewer than twice as many non-empty cells. The
    `notes` of the result list what was left out; its `schema` encodes other tables in
    the same way.

    Args:
        path: path of the file.
        target: heading of the column to predict, or several: a sequence of headings, or
            one text in which commas separate them (a heading with a comma is quoted as
            in CSV). In a single column, texts are classes. Numbers are targets of a
            regression, in their own units; but whole numbers with at most 20 distinct
            values, each occurring at least twice, are classes. Several columns must be
            numbers: they are binary answers if all are 0 or 1, else targets of a
            regression.
        task: "classification", "regression", "counts" (0, 1, 2, …) or "binary" (0 or
            1, true or false); None for the rule above.
        test_fraction: share of the rows kept for testing (stratified by class).
        seed: seed of the split.
        drop: headings of columns to leave out, written as for `target`.
        features: headings of the columns to learn from; None: all others.
        sep: separator of cells, see `read_table`.
        decimal: "." or ",".
        header: whether the first row holds the headings.
        missing: "fill", as above; or "refuse", which raises an error.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        ValueError: a target that does not exist, infinite values, dates, a few texts in
            a column of numbers, too many categories, a single class, or targets that do
            not fit their task. One message lists all problems of the columns.

    Example:
        >>> import pathlib, tempfile
        >>> from meanfield import data
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
        >>> rows = [f"{i},{'yes' if i % 2 else 'no'}" for i in range(20)]
        >>> _ = path.write_text("\n".join(["number,odd", *rows]))
        >>> data.table(path, target="odd").class_names
        ('no', 'yes')
    """
    require_known_task(task)
    require(
        missing in KINDS_OF_MISSING,
        f"`missing` must be 'fill' or 'refuse'; got {missing!r}.",
    )
    text = read_text(path, sep=sep, decimal=decimal, header=header)
    frame, notes, problems = text.frame, list(text.notes), []
    names = [str(name) for name in frame.columns]
    targets, chosen = _chosen(path, names, target, drop, features, problems)
    if features is None:
        chosen = [
            n for n in chosen if text.repeated.get(n) not in names_of(drop, names)
        ]
    problems += repeated_headings(path, text.repeated, (*targets, *chosen))
    problems += [
        f"every column of {path} needs a heading; column {text.unnamed[name]} (counted "
        f"from 0) has none. Write one, or leave it out (--drop {name})."
        for name in (*targets, *chosen)
        if name in text.unnamed
    ]
    cells = {name: cells_of(frame, name) for name in (*targets, *chosen)}
    known = ~np.any([is_missing(cells[name]) for name in targets or chosen], axis=0)
    if targets and missing == "fill" and not known.all():
        notes.append(f"left out {(~known).sum()} rows whose target is missing")
    kinds = {}
    for name in chosen:
        try:
            found = examine(cells[name], name, missing, wanted=features is not None)
        except ValueError as error:
            problems.append(str(error))
            continue
        kinds |= {name: found.kind} if found.kind else {}
        notes += [found.note] if found.note else []
    try:
        if missing == "refuse":
            for name in targets:
                refuse_missing(cells[name], name)
        for name in targets:
            refuse_decimal_commas(cells[name], name)
        present: Any = {name: cells[name][known] for name in targets}
        class_names = _classes(present, task)
    except ValueError as error:
        problems.append(str(error))
    raise_all(f"{path} cannot be used for training", problems)
    require(
        len(kinds) > 0,
        f"{path} has no column besides its targets to learn from"
        + "".join(f"; {note}" for note in notes)
        + ". Name columns with `features` (--features).",
    )
    kept = targets[0] if len(targets) == 1 else targets
    rows: Any = frame[known].reset_index(drop=True)
    y = TableSchema((), kept, class_names).encode_target(rows)
    if class_names is not None:
        task = "classification"
        alike = case_note(class_names, targets[0])
        notes += [alike] if alike else []
    elif task is None:
        task = "regression" if len(targets) == 1 else guess_task("target", y)
        if task == "regression" and ((y >= 0) & (y % 1 == 0)).all():
            notes.append(
                "the target holds whole numbers from 0 on: if it counts something, "
                "--likelihood poisson learns its rate"
            )
    require_task("target", y, task, targets)
    train, test = split_rows(
        len(rows),
        test_fraction=test_fraction,
        seed=seed,
        labels=None if class_names is None else y,
    )
    used = {name: cells_of(rows, name) for name in kinds}
    columns = tuple(column_of(used[name], name, kinds[name], train) for name in kinds)
    notes += [note for note in (constant_note(used),) if note]
    filled = [c.name for c in columns if c.fill is not None or "" in c.categories]
    if filled:
        notes.append(
            "missing values are marked by a feature, and missing numbers are "
            "replaced by the median, in " + ", ".join(map(repr, filled))
        )
    schema = TableSchema(columns, kept, class_names, text.format)
    x = schema.encode(rows)
    return Dataset(
        name=Path(path).stem,
        task=task,  # type: ignore[arg-type]
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
        feature_names=schema.feature_names,
        class_names=class_names,
        schema=schema,
        provenance=f"table {Path(path).name}, split with seed {seed}",
        target_names=targets,
        notes=tuple(notes),
    )


def _chosen(
    path: str | os.PathLike,
    names: list[str],
    target: str | Sequence[str] | None,
    drop: str | Sequence[str] | None,
    features: str | Sequence[str] | None,
    problems: list[str],
) -> tuple[tuple[str, ...], list[str]]:
    """The target columns and the feature columns; errors are added to `problems`."""
    require(
        drop is None or features is None,
        "give either `drop` or `features` (--drop, --features), not both.",
    )
    try:
        targets = target_columns(target, names, path)
    except ValueError as error:
        problems.append(str(error))
        targets = ()
    dropped, wanted = names_of(drop, names), names_of(features, names)
    for option, given in (("drop", dropped), ("features", wanted)):
        unknown = [name for name in given if name not in names or name in targets]
        if unknown:
            problems.append(
                f"`{option}` must name columns of {path} other than the targets, "
                f"among {names}; got {', '.join(map(repr, unknown))}."
            )
    if features is None:
        chosen = [name for name in names if name not in (*targets, *dropped)]
    else:
        chosen = [name for name in wanted if name in names and name not in targets]
    return targets, chosen


def _classes(cells: dict[str, pd.Series], task: str | None) -> tuple[str, ...] | None:
    """Names of the classes if the target is one column of classes, else None."""
    if len(cells) == 1:
        ((name, column),) = cells.items()
        return class_names_of(column, name, task)
    require(
        task != "classification",
        f"`target` names {len(cells)} columns, but a classification has one. Name one "
        "column; or, for answers that are 0 or 1 each, task 'binary' (a Bernoulli "
        "likelihood).",
    )
    return None
