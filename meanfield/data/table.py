"""A user's own table: a CSV file with headings, numbers, categories and a target."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from meanfield.checks import first_bad, require

from .dataset import Dataset, guess_task, require_known_task, require_task, split_rows
from .schema import (
    Column,
    TableSchema,
    cells_of,
    class_texts,
    is_number,
    numbers,
    refuse_decimal_commas,
)

# More different texts than this are names or free text, not categories.
MAX_CATEGORIES = 256
# Whole numbers with at most so many different values are read as classes.
MAX_NUMBERED_CLASSES = 20


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    r"""Rows of a CSV file as texts, missing cells as NaN.

    Quoted fields, a byte-order mark and any line ending are understood; the text is
    UTF-8 and the separator a comma.

    Args:
        path: of the file.

    Returns:
        A frame of texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, not UTF-8, or not a rectangular table with different
            headings.

    Example:
        >>> import pathlib, tempfile
        >>> from meanfield import data
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("age,town\n31,Ulm\n47,\n")
        >>> data.read_table(path)["age"].tolist()
        ['31', '47']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the table {path} does not exist.")
    try:
        # Without `header` pandas neither renames equal headings nor takes a long
        # row's first cells for an index.
        rows = pd.read_csv(
            path, dtype=str, header=None, encoding="utf-8-sig", skip_blank_lines=True
        )
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"the table {path} is empty.") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the table {path} must be UTF-8 text with commas and equally long rows: "
            f"{error}."
        ) from error
    headings = [
        "" if pd.isna(name) else str(name).strip() for name in rows.iloc[0].tolist()
    ]
    counts = Counter(headings)
    for position, name in enumerate(headings):
        require(
            name != "",
            f"every column of {path} needs a heading; column {position} (counted from "
            "0) has none.",
        )
        require(
            counts[name] == 1,
            f"the headings of {path} must differ; {name!r} stands over two columns.",
        )
    frame = rows.iloc[1:].reset_index(drop=True)
    frame.columns = headings
    require(len(frame) > 0, f"the table {path} has headings but no rows.")
    return frame


def table(
    path: str | os.PathLike,
    *,
    target: str | Sequence[str] | None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    r"""Read a CSV table and split it into training and test rows.

    A column is numbers if all its cells are, else categories. Numbers are standardised
    by the mean and standard deviation of the training rows, categories become one
    feature each (their list comes from the whole table). The `schema` of the result
    does the same to other tables.

    Args:
        path: of the CSV file.
        target: heading of the column to predict, or several: a sequence of them, or
            one text with commas between (quoted as in CSV where a heading has one).
            Of a single column texts are classes; numbers are targets of a regression,
            in their own units, unless they are whole, have at most 20 different values
            and show each at least twice: then classes. Several columns are numbers:
            answers if all are 0 or 1, else targets of a regression.
        task: "classification", "regression", "counts" (0, 1, 2, …) or "binary" (0 or
            1, true or false) where that rule guesses wrong.
        test_fraction: share of the rows kept for testing (stratified by class).
        seed: of the split.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        ValueError: no such target, missing or infinite values (row and column named),
            a column of numbers with stray texts, too many categories, one class only,
            targets that are not what their task says (row and column named).

    Example:
        >>> import pathlib, tempfile
        >>> from meanfield import data
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
        >>> rows = [f"{i},{'yes' if i % 2 else 'no'}" for i in range(20)]
        >>> _ = path.write_text("\n".join(["number,odd", *rows]))
        >>> data.table(path, target="odd").class_names
        ('no', 'yes')
    """
    frame = read_table(path)
    names = list(frame.columns)
    targets = _targets(target, names, path)
    require(len(names) > len(targets), f"{path} has no column besides its targets.")
    require_known_task(task)
    cells = {name: cells_of(frame, name) for name in names}
    for name, column in cells.items():
        refuse_decimal_commas(column, name)
    class_names, kept = None, targets[0] if len(targets) == 1 else targets
    if len(targets) == 1:
        class_names = _class_names(cells[targets[0]], targets[0], task)
    else:
        require(
            task != "classification",
            f"`target` names {len(targets)} columns, and a classification has one. "
            "Name one column; or, for answers that are 0 or 1 each, task 'binary' (a "
            "Bernoulli likelihood).",
        )
    y = TableSchema((), kept, class_names).encode_target(frame)
    if class_names is not None:
        task = "classification"
    elif task is None:
        task = "regression" if len(targets) == 1 else guess_task("target", y)
    require_task("target", y, task, targets)
    train, test = split_rows(
        len(frame),
        test_fraction=test_fraction,
        seed=seed,
        labels=None if class_names is None else y,
    )
    columns = tuple(
        _column(cells[name], name, train) for name in names if name not in targets
    )
    schema = TableSchema(columns, kept, class_names)
    x = schema.encode(frame)
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
    )


def _targets(
    target: str | Sequence[str] | None, names: list[str], path: str | os.PathLike
) -> tuple[str, ...]:
    """Headings of the target columns."""
    if isinstance(target, str):
        # A heading may hold a comma itself.
        parts = [target] if target in names else next(csv.reader([target]), [])
        given = tuple(part.strip() for part in parts)
    else:
        given = tuple(target or ())
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        raise ValueError(
            f"`target` must name a column of {path}, or several with commas between, "
            f"each one of {names}; got {(unknown[0] if unknown else target)!r}."
        )
    require(
        len(set(given)) == len(given),
        f"`target` must name each column once; got {', '.join(given)}.",
    )
    return given


def _class_names(
    cells: pd.Series, target: str, task: str | None
) -> tuple[str, ...] | None:
    numeric = is_number(cells)
    if task not in (None, "classification"):
        return None
    if task == "classification" and numeric.all():
        _refuse_real(numbers(cells, target), target)
    if task is None and numeric.all():
        values, counts = np.unique(numbers(cells, target), return_counts=True)
        whole = (values == np.round(values)).all()
        few = len(values) <= MAX_NUMBERED_CLASSES and counts.min() >= 2
        if not (whole and few):
            return None
    elif task is None:
        _refuse_stray_texts(cells, target, numeric)
    found = set(class_texts(cells))
    names = sorted(found, key=_class_order)
    require(
        2 <= len(names) <= MAX_CATEGORIES,
        f"the target {target!r} must have between 2 and {MAX_CATEGORIES} classes; got "
        f"{len(names)}. A table of one class teaches nothing; for a target of numbers "
        'pass `task="regression"`.',
    )
    return tuple(names)


def _refuse_real(values: np.ndarray, target: str) -> None:
    """Real numbers of which some appear once are measured, and no classes."""
    found, counts = np.unique(values, return_counts=True)
    few = len(found) <= MAX_NUMBERED_CLASSES and counts.min() >= 2
    whole = found == np.round(found)
    if not (whole.all() or few):
        (row,) = first_bad(values != np.round(values))
        raise ValueError(
            f"`target` {target!r} must be classes for a classification (a categorical "
            f"likelihood); got {len(found)} different real numbers, the first "
            f"{values[row]:g} in row {row} (counted from 0 below the heading). Choose "
            "another likelihood, such as gaussian, or give classes."
        )


def _class_order(name: str) -> tuple[int, float, str]:
    """Numbers in their order, before texts in theirs."""
    whole = name.lstrip("-").isascii() and name.lstrip("-").isdigit()
    return (0, float(name), name) if whole else (1, 0.0, name)


def _column(cells: pd.Series, name: str, train: np.ndarray) -> Column:
    numeric = is_number(cells)
    if numeric.all():
        values = numbers(cells, name)[train]
        mean, std = float(values.mean()), float(values.std())
        # A constant column's spread is rounding: its feature shall be 0, not noise.
        constant = values.min() == values.max()
        return Column(name, "number", mean=mean, std=1.0 if constant else std)
    _refuse_stray_texts(cells, name, numeric)
    categories = tuple(sorted(set(cells)))
    require(
        len(categories) <= MAX_CATEGORIES,
        f"column {name!r} must have at most {MAX_CATEGORIES} categories; got "
        f"{len(categories)}. Drop it if it is a name or free text, or group them.",
    )
    return Column(name, "category", categories=categories)


def _refuse_stray_texts(cells: pd.Series, name: str, numeric: np.ndarray) -> None:
    """A text among numbers is a slip of the pen, not a category of its own."""
    if numeric.mean() > 0.5:
        (row,) = first_bad(~numeric)
        raise ValueError(
            f"column {name!r} is mostly numbers, but holds {cells.iloc[row]!r} in row "
            f"{row} (counted from 0 below the heading). Correct it, or spell every "
            "cell of the column as text if it holds categories."
        )
