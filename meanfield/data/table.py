"""A user's own table: a CSV file with headings, numbers, categories and a target."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from meanfield.checks import first_bad, require

from .dataset import Dataset, split_rows
from .schema import Column, TableSchema, cells_of, class_texts, is_number, numbers

# More different texts than this are names or free text, not categories.
MAX_CATEGORIES = 256
# Whole numbers with at most so many different values are read as classes.
MAX_NUMBERED_CLASSES = 20


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Rows of a CSV file as texts, missing cells as NaN.

    Quoted fields, a byte-order mark and any line ending are understood; the text is
    UTF-8 and the separator a comma.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, not UTF-8, or not a rectangular table with different
            headings.
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
    for position, name in enumerate(headings):
        require(
            name != "",
            f"every column of {path} needs a heading; column {position} (counted from "
            "0) has none.",
        )
        require(
            headings.count(name) == 1,
            f"the headings of {path} must differ; {name!r} stands over two columns.",
        )
    frame = rows.iloc[1:].reset_index(drop=True)
    frame.columns = headings
    require(len(frame) > 0, f"the table {path} has headings but no rows.")
    return frame


def table(
    path: str | os.PathLike,
    *,
    target: str | None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Read a CSV table and split it into training and test rows.

    A column is numbers if all its cells are, else categories. Numbers are standardised
    by the mean and standard deviation of the training rows, categories become one
    feature each (their list comes from the whole table). The `schema` of the result
    does the same to other tables.

    Args:
        path: of the CSV file.
        target: heading of the column to predict. Texts are classes. Numbers are
            targets of a regression, in their own units, unless they are whole, have
            at most 20 different values and show each at least twice: then classes.
        task: "classification" or "regression" where that rule guesses wrong.
        test_fraction: share of the rows kept for testing (stratified by class).
        seed: of the split.

    Raises:
        ValueError: no such target, missing or infinite values (row and column named),
            a column of numbers with stray texts, too many categories, one class only.
    """
    frame = read_table(path)
    names = list(frame.columns)
    if target is None or target not in names:
        raise ValueError(
            f"`target` must name a column of {path}: one of {names}; got {target!r}."
        )
    require(len(names) > 1, f"the table {path} has no column besides its target.")
    require(
        task in (None, "classification", "regression"),
        f'`task` must be "classification", "regression" or None; got {task!r}.',
    )
    cells = {name: cells_of(frame, name) for name in names}
    class_names = _class_names(cells[target], target, task)
    raw = TableSchema((), target, class_names)
    y = raw.encode_target(frame)
    train, test = split_rows(
        len(frame),
        test_fraction=test_fraction,
        seed=seed,
        labels=None if class_names is None else y,
    )
    columns = tuple(
        _column(cells[name], name, train) for name in names if name != target
    )
    schema = TableSchema(columns, target, class_names)
    x = schema.encode(frame)
    return Dataset(
        name=Path(path).stem,
        task="regression" if class_names is None else "classification",
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
        feature_names=schema.feature_names,
        class_names=class_names,
        schema=schema,
        provenance=f"table {Path(path).name}, split with seed {seed}",
    )


def _class_names(
    cells: pd.Series, target: str, task: str | None
) -> tuple[str, ...] | None:
    numeric = is_number(cells)
    if task == "regression":
        return None
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
