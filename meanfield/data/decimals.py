"""Decimal commas, and signs between thousands, in the numbers of a table.

| cell        | with decimal commas | with decimal points |
|-------------|---------------------|---------------------|
| `1.234,5`   | 1234.5              | no number           |
| `1,234.5`   | no number           | 1234.5              |
| `1,234`     | 1.234               | 1234                |
| `1.234`     | 1234                | 1.234               |

A cell such as `1,234` or `1.234` does not show its decimal sign. So the sign is decided
for the whole table, from the columns in which it is clear, and is stored for new rows.
"""

import itertools
import re
from collections.abc import Collection, Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd

from .headings import numbers_in

Decimal = Literal[".", ","]
Sign = Literal["comma", "grouped", "either", "points", "pointed", "other"]
_COMMA = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+),\d+(?:[eE][+-]?\d+)?")
_GROUPED = {
    ".": re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+"),
    ",": re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"),
}


def with_points(frame: pd.DataFrame, names: Iterable[str], decimal: str) -> Any:
    """The frame with plain numbers in some columns; other texts stay as they are.

    Args:
        frame: a frame of texts.
        names: headings of columns of numbers; those that are not in the frame are
            skipped.
        decimal: the decimal sign of these columns.
    """
    new = {}
    for name in names:
        if name not in frame.columns or not bool(frame[name].notna().any()):
            continue
        cells: Any = frame[name].str.strip()
        if decimal == ",":
            good = _match(cells, _COMMA) | _match(cells, _GROUPED["."])
            plain = cells.str.replace(".", "", regex=False)
            plain = plain.str.replace(",", ".", regex=False)
        else:
            good = _match(cells, _GROUPED[","])
            plain = cells.str.replace(",", "", regex=False)
        new[name] = frame[name].mask(good, plain)
    return frame.assign(**new) if new else frame


def signs_in(frame: pd.DataFrame) -> dict[str, Sign]:
    """How the numbers of every column are written.

    "comma": with decimal commas, or with several points between thousands. "grouped":
    with commas between thousands. "either": with decimal commas, or with commas between
    thousands. "pointed": with decimal points. "points": with decimal points, or with
    points between thousands. "other": not all are numbers, or there are neither points
    nor commas.
    """
    return {str(name): _sign(cells) for name, cells in frame.items()}


def decimal_of(signs: Collection[str], given: str | None, guess: bool) -> Decimal:
    """The decimal sign of a table: as given, or from the columns where it is clear.

    Args:
        signs: how the columns are written.
        given: the sign, or None.
        guess: whether a decimal comma is expected at all.
    """
    if given is not None:
        return "," if given == "," else "."
    return "," if guess and "comma" in signs else "."


def _sign(column: Any) -> Sign:
    # Every cell must fit, so equal cells are looked at once.
    cells = {text.strip() for text in column if isinstance(text, str)}
    pointed = {text for text in cells if "." in text}
    commas = any("," in text for text in cells)
    if not (pointed or commas):
        return "other"
    number = set(itertools.compress(cells, ~np.isnan(numbers_in([*cells]))))
    points = {text for text in pointed if _GROUPED["."].fullmatch(text)}
    comma = all(_COMMA.fullmatch(text) for text in cells - points - (number - pointed))
    if not commas:
        if cells == number:
            return "points" if points == pointed else "pointed"
        return "comma" if comma else "other"
    grouped = all(_GROUPED[","].fullmatch(text) for text in cells - number)
    if comma:
        return "either" if grouped else "comma"
    return "grouped" if grouped else "other"


def _match(cells: Any, pattern: re.Pattern) -> np.ndarray:
    return cells.str.fullmatch(pattern).fillna(False).to_numpy(bool)
