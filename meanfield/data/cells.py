"""Cells of a table: texts, the numbers and classes in them, and missing cells."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from meanfield.checks import first_bad, require

from .headings import numbers_in
from .text import MISSING

_COMMA_NUMBER = r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?"


def cells_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column as stripped texts, by row; a missing cell is the empty text."""
    require(
        name in frame.columns,
        f"the table must have a column {name!r}; got {list(map(str, frame.columns))}.",
    )
    column = frame[name].reset_index(drop=True)
    cells = column.astype(str).str.strip()
    return one_spelling(cells.mask(column.isna() | cells.isin(MISSING), ""))


def present_cells(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column as stripped texts, none of which may be missing."""
    cells = cells_of(frame, name)
    refuse_missing(cells, name)
    return cells


def is_missing(cells: pd.Series) -> np.ndarray:
    """Which cells hold no value."""
    return (cells == "").to_numpy()


def refuse_missing(cells: pd.Series, name: str) -> None:
    """Raise if a cell is missing; the message names row and column."""
    missing = is_missing(cells)
    if missing.any():
        (row,) = first_bad(missing)
        raise ValueError(
            f"column {name!r} has no value in row {row} (counted from 0 below the "
            "heading), and none may be missing. Fill in or drop such rows. (A category "
            "spelled like 'NA' or 'None' is read as missing: rename it.)"
        )


def raise_all(what: str, problems: list[str]) -> None:
    """Raise one error that lists all problems; do nothing if there are none.

    Args:
        what: beginning of the message, if there is more than one problem.
        problems: sentences.
    """
    if len(problems) > 1:
        raise ValueError(
            f"{what}, for {len(problems)} reasons:\n  - " + "\n  - ".join(problems)
        )
    if problems:
        raise ValueError(problems[0])


def at(cells: pd.Series, position: int) -> str:
    """A cell and its row, for a message."""
    shown = repr(cells.iloc[position]) if cells.iloc[position] else "no value"
    return f"{shown} in row {cells.index[position]} (counted from 0 below the heading)"


def one_spelling(cells: pd.Series) -> pd.Series:
    """Spell True, TRUE and true alike if the column holds only truth values."""
    lower = cells.str.lower()
    truth = lower.isin(["true", "false", ""]).all()
    mixed = truth and cells.nunique() > lower.nunique()
    return lower if mixed else cells


def truths(cells: pd.Series) -> pd.Series:
    """The texts true and false as 1 and 0, if a column holds nothing else."""
    lower = cells.str.lower()
    if not lower.isin(["true", "false"]).all():
        return cells
    return lower.map({"true": "1", "false": "0"})


def is_number(cells: pd.Series) -> np.ndarray:
    """Which texts are numbers."""
    return ~np.isnan(numbers_in(cells))


def numbers(cells: pd.Series, name: str) -> Float64[np.ndarray, " rows"]:
    """The numbers that a column of texts spells."""
    good = is_number(cells)
    if not good.all():
        (row,) = first_bad(~good)
        raise ValueError(f"column {name!r} must be numbers; got {at(cells, row)}.")
    values = numbers_in(cells)
    in_range = np.abs(values) <= np.finfo(np.float32).max
    if not in_range.all():
        (row,) = first_bad(~in_range)
        raise ValueError(
            f"column {name!r} must be finite numbers that float32 can hold; got "
            f"{at(cells, row)}."
        )
    return values


def class_texts(cells: pd.Series) -> pd.Series:
    """Names of classes: the texts, except that 1, 1.0 and 01 are one class "1"."""
    as_numbers = numbers_in(cells)
    whole = np.isfinite(as_numbers) & (as_numbers == np.round(as_numbers))
    texts = [
        str(_whole(text, number)) if is_whole else text
        for text, number, is_whole in zip(cells, as_numbers, whole, strict=True)
    ]
    return pd.Series(texts, index=cells.index, dtype=object)


def _whole(text: str, number: float) -> int:
    """The whole number in a text; only integer texts are exact beyond 2⁵³."""
    try:
        return int(text)
    except ValueError:
        return int(number)


def refuse_decimal_commas(cells: pd.Series, name: str) -> None:
    """Raise if all cells are numbers, some of them with a decimal comma."""
    plain = is_number(cells) | is_missing(cells)
    rest: Any = cells[~plain]
    if len(rest) and rest.str.fullmatch(_COMMA_NUMBER).all():
        (row,) = first_bad(~plain)
        raise ValueError(
            f"column {name!r} holds numbers with a decimal comma, such as "
            f"{at(cells, row)}. Write them with a point, or pass `decimal=','` "
            "(--decimal ,); if the comma separates thousands, remove it, or pass "
            "`decimal='.'` (--decimal .)."
        )


def truth_values(categories: Iterable[str]) -> bool:
    """Whether the categories are true and false, which may be in upper case."""
    return {category.lower() for category in categories} - {""} == {"true", "false"}


def codes_of(cells: pd.Series, name: str, categories: tuple[str, ...]) -> np.ndarray:
    """Index of each text among the categories."""
    if truth_values(categories):
        spelled = {category.lower(): category for category in categories}
        cells = cells.map(lambda text: spelled.get(text.lower(), text))
    codes = np.asarray(pd.Index(categories).get_indexer(pd.Index(cells)))
    unknown = codes < 0
    if unknown.any():
        (row,) = first_bad(unknown)
        known = ", ".join(repr(category) for category in categories[:20])
        raise ValueError(
            f"column {name!r} must hold one of the categories it was trained with "
            f"({known}{', …' if len(categories) > 20 else ''}); got "
            f"{at(cells, row)}."
        )
    return codes
