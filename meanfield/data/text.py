"""Text of a table: its encoding, its separator, its decimals, its headings."""

import csv
import dataclasses
import io
import os
import re
from pathlib import Path
from typing import Literal

import pandas as pd

from meanfield.checks import require

from .decimals import Decimal, decimal_of, signs_in, with_points
from .encoding import decoded
from .headings import has_headings, told_apart, without_unnamed

# Cells that mean a missing value, including those that pandas and R write.
MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SPACES = r"\s+"
_SPELLED = {"tab": "\t", "\\t": "\t", "space": SPACES, "spaces": SPACES, " ": SPACES}
# Number of first rows that are read to guess the separator.
SNIFFED = 50
# The message of pandas for a row with too many cells.
_UNEQUAL = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")


@dataclasses.dataclass(frozen=True)
class TextFormat:
    r"""How the text of a table is written.

    Args:
        separator: separator of cells, one character, or "\\s+" for any white space.
        decimal: decimal sign of numbers, "." or ",".
        header: whether the first row holds the headings.
        thousands: sign between thousands, if a column has one.
        pointed: headings of columns with decimal points in a table of decimal commas.
        columns: number of columns of a table without headings, else 0.
    """

    separator: str = ","
    decimal: Decimal = "."
    header: bool = True
    thousands: Literal["", ".", ","] = ""
    pointed: tuple[str, ...] = ()
    columns: int = 0

    @property
    def words(self) -> str:
        """A description for the user."""
        separator = SEPARATORS.get(self.separator, "spaces")
        if self.separator not in (*SEPARATORS, SPACES):
            separator = f"{self.separator!r}"
        comma = ", decimal commas" if self.decimal == "," else ""
        between = {"": "", ".": "points", ",": "commas"}[self.thousands]
        comma += f", {between} between thousands" if between else ""
        return separator + comma + ("" if self.header else ", no headings")


@dataclasses.dataclass(frozen=True)
class Text:
    """A table as texts.

    Attributes:
        frame: the cells as texts; missing cells are NaN, and numbers have a decimal
            point.
        format: how the text was written, as given or as guessed.
        notes: descriptions of what was guessed or left out, for the user.
        repeated: for each column with the same heading as an earlier column, the
            heading by the generated name of the column.
        unnamed: if the file has headings, the position in `frame` of each column
            without one, by its generated name.
    """

    frame: pd.DataFrame
    format: TextFormat
    notes: tuple[str, ...]
    repeated: dict[str, str]
    unnamed: dict[str, int]


def separator_of(text: str | None) -> str | None:
    """A separator from its spelling on a command line: a character, "tab" or "space".

    Raises:
        ValueError: it is more than one character.
    """
    if text is None:
        return None
    found = _SPELLED.get(text, text)
    require(
        len(found) == 1 or found == SPACES,
        f"`sep` must be one character, tab or space; got {text!r}.",
    )
    return found


def read_text(
    path: str | os.PathLike,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    plain: bool = True,
) -> Text:
    """Read a table; settings that are not given are guessed and listed in the notes.

    Args:
        path: path of the file.
        sep: separator of cells, see `separator_of`.
        decimal: "." or ",".
        header: whether the first row holds the headings.
        plain: whether numbers with decimal commas or thousands become plain ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not text, has a row with too many cells, or
            seems to have no headings. (Shorter rows are filled with missing cells, and
            a note says so.)
    """
    path, notes = Path(path), []
    if not path.is_file():
        raise FileNotFoundError(f"the table {path} does not exist.")
    text, encoding = decoded(path)
    require(text.strip() != "", f"the table {path} is empty.")
    require(
        decimal in (None, ".", ","), f"`decimal` must be '.' or ','; got {decimal!r}."
    )
    separator = separator_of(sep) or _sniffed(text)
    rows = _rows(path, text, separator)
    notes += _short_rows(text, separator, rows.shape[1])
    headed = has_headings(path, rows, header)
    names = [
        "" if pd.isna(name) else str(name).strip() for name in rows.iloc[0].tolist()
    ]
    if not headed:
        names = [f"column_{number}" for number in range(rows.shape[1])]
    frame = rows.iloc[1:].reset_index(drop=True) if headed else rows
    require(len(frame) > 0, f"the table {path} has headings but no rows.")
    frame, names, said = without_unnamed(frame, names)
    notes += said
    frame.columns = found = told_apart(names)
    unnamed = {found[place]: place for place, name in enumerate(names) if name == ""}
    pairs = zip(found, names, strict=True)
    repeated = {new: name for new, name in pairs if name not in ("", new)}
    width = 0 if headed else rows.shape[1]
    format = TextFormat(separator, ".", headed, columns=width)
    if plain:
        frame, format, said = _plain(frame, format, decimal)
        notes += said
    if format != TextFormat() or encoding != "UTF-8":
        notes.insert(0, f"read as {encoding} text with {format.words}")
    return Text(frame, format, tuple(notes), repeated, unnamed)


def _plain(
    frame: pd.DataFrame, format: TextFormat, given: str | None
) -> tuple[pd.DataFrame, TextFormat, list[str]]:
    """The frame with plain numbers, how they were written, and notes."""
    signs = signs_in(frame)
    decimal = decimal_of(signs.values(), given, guess=format.separator != ",")
    certain = decimal == "," or given is not None or "grouped" in signs.values()
    read = ("comma", "either", "points") if decimal == "," else ("grouped", "either")
    names = [name for name, sign in signs.items() if certain and sign in read]
    between = "." if decimal == "," else ","
    separated = any(
        frame[name].str.contains(between, regex=False).any() for name in names
    )
    format = dataclasses.replace(
        format,
        decimal=decimal,
        thousands=between if separated else "",
        pointed=tuple(n for n, sign in signs.items() if sign == "pointed")
        if decimal == ","
        else (),
    )
    unclear = [name for name in names if signs[name] == "points"]
    notes = [
        "points separate thousands, as the table has decimal commas, in "
        + ", ".join(map(repr, unclear))
    ]
    return with_points(frame, names, decimal), format, notes if unclear else []


def _sniffed(text: str) -> str:
    """The separator that splits all first rows into equally many cells, or a guess."""
    lines = io.StringIO(text, newline="")
    head = [line for line in (lines.readline() for _ in range(SNIFFED)) if line]
    # Commas last: they may be decimal commas; other separators are rare in a cell.
    for separator in reversed(SEPARATORS):
        widths = _widths(head, separator)
        if len(widths) == 1 and widths.pop() > 1:
            return separator
    split = [line.split() for line in head if line.strip()]
    if len({len(row) for row in split}) == 1 and len(split[0]) > 1 and len(split) > 1:
        return SPACES
    counts = {separator: head[0].count(separator) for separator in SEPARATORS}
    return max(counts, key=lambda separator: counts[separator])


def _widths(lines: list[str], separator: str) -> set[int]:
    """The numbers of cells of some rows; none if the separator leaves a huge cell."""
    try:
        return {len(row) for row in csv.reader(lines, delimiter=separator) if row}
    except csv.Error:  # A cell of more than 131,072 characters: many columns, not one.
        return set()


def _rows(path: Path, text: str, separator: str) -> pd.DataFrame:
    try:
        # With header=None pandas neither renames equal headings nor takes the first
        # cells of a long row for an index.
        return pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            header=None,
            skip_blank_lines=True,
            skipinitialspace=True,
            keep_default_na=False,
            na_values=list(MISSING),
        )
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"the table {path} is empty.") from error
    except pd.errors.ParserError as error:
        words = TextFormat(separator).words
        where = str(error).strip()
        found = _UNEQUAL.search(where)
        if found:
            before, line, cells = found.groups()
            where = f"line {line} has {cells} cells, the lines before it have {before}"
        raise ValueError(
            f"the table {path}, read with {words} between cells, must have equally "
            f"long rows: {where}. Delete lines that are not rows, such as comments, "
            "or give another separator with --sep."
        ) from error


def _short_rows(text: str, separator: str, width: int) -> list[str]:
    """A note on rows with fewer cells than others, which pandas fills silently."""
    lines = io.StringIO(text, newline="")
    if separator == SPACES:
        sizes = enumerate((len(line.split()) for line in lines), 1)
    else:
        table = csv.reader(lines, delimiter=separator)
        sizes = ((table.line_num, len(row)) for row in table)
    short = [line for line, size in sizes if 0 < size < width]
    if not short:
        return []
    return [
        f"{len(short)} rows have fewer than {width} cells, the first in line "
        f"{short[0]}: their last cells are taken as missing"
    ]
