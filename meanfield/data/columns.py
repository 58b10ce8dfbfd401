"""The feature columns of a table: their kinds, and errors in them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from meanfield.checks import first_bad, require

from .cells import at, is_missing, is_number, numbers, refuse_decimal_commas
from .schema import Column

# More distinct texts than this are names or free text, not categories.
MAX_CATEGORIES = 256
# A column of fewer rows is not checked for row numbers; a column of at most this many
# distinct texts is not checked for names and for numbers with a unit.
ENOUGH_ROWS = 20
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(?i)\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{4}[-/]\d{1,2}"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( .*)?"
    rf"|([a-z]+,? )?\d{{1,2}}[-. ]{{1,2}}{_MONTH}[-, ]{{1,2}}\d{{2,4}}( .*)?"
    rf"|([a-z]+,? )?{_MONTH}[-, ]{{1,2}}(\d{{1,2}},? )?\d{{2,4}}( .*)?"
    r"|\d{1,2}:\d{2}(:\d{2})?( ?[AP]M)?"
)
_DIGITS = r"(\d{1,3}([ '’\u00a0\u202f]\d{3})+([.,]\d+)?|\d[\d.,]*)"
_SIGNED = re.compile(
    rf"[+\-−]?[€$£¥]?\s*[+\-−]?{_DIGITS}(\s*[%€$£¥]|\s+[A-Za-z°/]+)?|\({_DIGITS}\)"
)
_IDENTITY = re.compile(r"(?i)(^|.*[\W_])(id|uuid|key|index|no|nr)$|.*[a-z]I[dD]$")


@dataclasses.dataclass(frozen=True)
class Finding:
    """The kind of a feature column.

    Attributes:
        kind: numbers or categories; None for a column that is left out.
        note: a message to the user, or the empty text.
    """

    kind: Literal["number", "category"] | None
    note: str = ""


def examine(cells: pd.Series, name: str, missing: str, wanted: bool) -> Finding:
    """Find the kind of a feature column.

    Args:
        cells: its stripped texts; missing cells are empty.
        name: its heading.
        missing: "fill" or "refuse".
        wanted: whether the user named the column; then it is left out only if it has
            no value.

    Raises:
        ValueError: the column has dates, a few texts among numbers, numbers with a unit
            or a decimal comma, too many categories, numbers too large for float32, or
            missing cells although `missing` is "refuse".
    """
    present: Any = cells[~is_missing(cells)]
    if not len(present):
        return Finding(None, f"left out {name!r}: it has no value in any row")
    if missing == "refuse" and len(present) < len(cells):
        (row,) = first_bad(is_missing(cells))
        raise ValueError(
            f"column {name!r} has {at(cells, row)}, one of "
            f"{len(cells) - len(present)} such rows. Fill them in; or pass "
            "`missing='fill'` (--missing fill), which puts in the median and adds a "
            "feature that marks these rows."
        )
    refuse_decimal_commas(cells, name)
    if is_number(present).all():
        values = numbers(cells.mask(is_missing(cells), "0"), name)
        return Finding("number", _row_number_note(values, name))
    refuse_dates(present, name)
    refuse_stray_texts(cells, name)
    different = present.nunique()
    refuse_signed_numbers(present, name)
    unique = different > ENOUGH_ROWS and 2 * different > len(present)
    if unique and not wanted:
        return Finding(
            None,
            f"left out {name!r}: {different} different texts in {len(present)} rows, "
            "probably names or free text",
        )
    require(
        different <= MAX_CATEGORIES,
        f"column {name!r} must have at most {MAX_CATEGORIES} categories; got "
        f"{different}. Drop it if it is a name or free text (--drop {name!r}), or "
        "group them.",
    )
    return Finding("category", case_note(set(present), name))


def column_of(
    cells: pd.Series, name: str, kind: Literal["number", "category"], train: np.ndarray
) -> Column:
    """The encoding of a column, with mean and deviation of the training rows."""
    missing = is_missing(cells)
    if kind == "category":
        return Column(name, "category", categories=tuple(sorted(set(cells))))
    values = numbers(cells.mask(missing, "0"), name)
    fill = None
    if missing.any():
        known = values[train][~missing[train]]
        require(
            len(known) > 0,
            f"column {name!r} has no value in any training row. Leave it out (--drop "
            f"{name!r}).",
        )
        fill = float(np.median(known))
        values = np.where(missing, fill, values)
    values = values[train]
    mean, std = float(values.mean()), float(values.std())
    # The standard deviation of a constant column is a rounding error; with 1 its
    # feature is 0.
    constant = values.min() == values.max()
    return Column(name, "number", mean=mean, std=1.0 if constant else std, fill=fill)


def refuse_dates(cells: pd.Series, name: str, target: bool = False) -> None:
    """Raise if most cells of a feature, or of a target, are dates or times."""
    _refuse_most(
        cells,
        _DATE,
        f"column {name!r} holds dates or times",
        f"{_instead(name, target)}, or replace it by numbers: the year, the month, or "
        "days since a first day.",
    )


def refuse_signed_numbers(cells: pd.Series, name: str, target: bool = False) -> None:
    """Raise if most cells are numbers with signs: 45 %, € 1,200.00, 1 200, (3)."""
    if cells.nunique() <= ENOUGH_ROWS:  # categories, such as 36 months and 60 months
        return
    _refuse_most(
        cells,
        _SIGNED,
        f"column {name!r} holds numbers with a unit or with other signs",
        f"{_instead(name, target)}, or write the numbers alone.",
    )


def _instead(name: str, target: bool) -> str:
    """What to do with a column that cannot be used: a target cannot be dropped."""
    if target:
        return "Choose another target (--target)"
    return f"Leave it out (--drop {name!r})"


def _refuse_most(cells: pd.Series, pattern: re.Pattern, what: str, remedy: str) -> None:
    """Raise with the first example if nine in ten cells match a pattern."""
    found = cells.str.fullmatch(pattern).to_numpy(bool)
    if found.mean() > 0.9:
        raise ValueError(
            f"{what}, such as {cells.iloc[int(found.argmax())]!r}. {remedy}"
        )


def refuse_stray_texts(cells: pd.Series, name: str, target: bool = False) -> None:
    """Raise for a few texts among numbers, which are errors and not categories."""
    missing, numeric = is_missing(cells), is_number(cells)
    if 2 * numeric.sum() > (~missing).sum():
        (row,) = first_bad(~numeric & ~missing)
        raise ValueError(
            f"column {name!r} is mostly numbers, but holds {at(cells, row)}. "
            f"{_instead(name, target)}, correct the cell, or spell every cell of the "
            "column as text if it holds categories."
        )


def _row_number_note(values: np.ndarray, name: str) -> str:
    """A note if a column of numbers seems to be row numbers or names of rows."""
    if len(values) < ENOUGH_ROWS or len(np.unique(values)) < len(values):
        return ""
    counts = bool((np.diff(values) == 1).all())
    if not (counts or _IDENTITY.fullmatch(name)):
        return ""
    what = "counts the rows" if counts else "is different in every row"
    return f"{name!r} {what}, and is a feature: if it names the rows, --drop {name!r}"


def constant_note(cells: Mapping[str, pd.Series]) -> str:
    """A note with the headings of columns that have the same value in every row."""
    names = [name for name, column in cells.items() if column.nunique() == 1]
    if not names:
        return ""
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    return (
        f"nothing can be learned from {shown}, with the same value in every row: "
        f"leave it out (--drop {','.join(names)})"
    )


def case_note(texts: Iterable[str], name: str) -> str:
    """A note if two categories or classes differ only in upper and lower case."""
    spelled: dict[str, str] = {}
    for text in sorted(texts):
        other = spelled.setdefault(text.lower(), text)
        if other != text:
            return (
                f"{other!r} and {text!r} are two different texts in {name!r}: spell "
                "them alike if they mean the same"
            )
    return ""
