"""Text of a table: its encoding, its separator, its decimals, its headings."""

import codecs
import csv
import dataclasses
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from meanfield.checks import require

# Cells that mean a missing value, including those that pandas and R write.
MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SPACES = r"\s+"
_SPELLED = {"tab": "\t", "\\t": "\t", "space": SPACES, "spaces": SPACES, " ": SPACES}
# Number of rows from which the separator is guessed.
SNIFFED = 50
# Numbers of rows and columns from which it is guessed whether the first row is
# headings.
LOOKED_AT = 200
# The message of pandas if rows differ in length.
_UNEQUAL = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_COMMA_NUMBER = re.compile(r"[+-]?\d[\d.]*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?")


@dataclasses.dataclass(frozen=True)
class TextFormat:
    r"""How the text of a table is written.

    Args:
        separator: separator of cells, one character, or "\\s+" for any white space.
        decimal: decimal sign of numbers, "." or ",".
        header: whether the first row holds the headings.
    """

    separator: str = ","
    decimal: Literal[".", ","] = "."
    header: bool = True

    @property
    def words(self) -> str:
        """A description for the user."""
        separator = SEPARATORS.get(self.separator, "spaces")
        if self.separator not in (*SEPARATORS, SPACES):
            separator = f"{self.separator!r}"
        comma = ", decimal commas" if self.decimal == "," else ""
        return separator + comma + ("" if self.header else ", no headings")


@dataclasses.dataclass(frozen=True)
class Text:
    """A table as texts.

    Attributes:
        frame: the cells as texts; missing cells are NaN, and numbers have a decimal
            point.
        format: how the text was written, as given or as guessed.
        notes: descriptions of what was guessed or left out, for the user.
        problems: errors in the headings.
        unnamed: positions of the columns without a heading, by the name that they were
            given.
    """

    frame: pd.DataFrame
    format: TextFormat
    notes: tuple[str, ...]
    problems: tuple[str, ...]
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
) -> Text:
    """Read a table; settings that are not given are guessed and listed in the notes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not text, not rectangular, or seems to have no
            headings.
    """
    path, notes = Path(path), []
    if not path.is_file():
        raise FileNotFoundError(f"the table {path} does not exist.")
    text, encoding = _decoded(path)
    require(text.strip() != "", f"the table {path} is empty.")
    require(
        decimal in (None, ".", ","), f"`decimal` must be '.' or ','; got {decimal!r}."
    )
    separator = separator_of(sep) or _sniffed(text)
    rows = _rows(path, text, separator)
    headed = _headed(path, rows, header)
    names = [
        "" if pd.isna(name) else str(name).strip() for name in rows.iloc[0].tolist()
    ]
    if not headed:
        names = [f"column_{number}" for number in range(rows.shape[1])]
    frame = rows.iloc[1:].reset_index(drop=True) if headed else rows
    require(len(frame) > 0, f"the table {path} has headings but no rows.")
    frame, names, said = _without_unnamed(frame, names)
    notes += said
    places = [number for number, name in enumerate(names) if name == ""]
    unnamed = {f"column_{place}": place for place in places}
    problems = _heading_problems(path, names)
    frame.columns = _told_apart(names)
    if decimal == "," or (decimal is None and separator != ","):
        frame, changed = _with_points(frame)
        decimal = "," if changed or decimal == "," else "."
    format = TextFormat(separator, "," if decimal == "," else ".", headed)
    if format != TextFormat() or encoding != "UTF-8":
        notes.insert(0, f"read as {encoding} text with {format.words}")
    return Text(frame, format, tuple(notes), tuple(problems), unnamed)


def _decoded(path: Path) -> tuple[str, str]:
    """Text of a file, and the name of its encoding."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), "UTF-16"
    workbook = content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0"))
    require(
        b"\0" not in content and not workbook,
        f"the table {path} is not a text file"
        + (" but looks like a workbook of a spreadsheet" if workbook else "")
        + ". Save it as CSV.",
    )
    for encoding, name in (("utf-8-sig", "UTF-8"), ("cp1252", "Windows-1252")):
        try:
            return content.decode(encoding), name
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1"), "Latin-1"


def _sniffed(text: str) -> str:
    """The separator that splits all first rows into the same number of cells."""
    lines = io.StringIO(text, newline="")
    head = [line for line in (lines.readline() for _ in range(SNIFFED)) if line]
    for separator in SEPARATORS:
        widths = {len(row) for row in csv.reader(head, delimiter=separator) if row}
        if len(widths) == 1 and widths.pop() > 1:
            return separator
    split = [line.split() for line in head if line.strip()]
    if len({len(row) for row in split}) == 1 and len(split[0]) > 1 and len(split) > 1:
        return SPACES
    counts = {separator: head[0].count(separator) for separator in SEPARATORS}
    return max(counts, key=lambda separator: counts[separator])


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


def _headed(path: Path, rows: pd.DataFrame, header: bool | None) -> bool:
    """Whether the first row holds headings.

    Raises:
        ValueError: `header` is not given, and the first row looks like data.
    """
    if header is not None:
        return header
    # Headings are rarely numbers, and rarely equal to one of the cells below them.
    head, body = rows.iloc[0, :LOOKED_AT], rows.iloc[1 : 1 + LOOKED_AT, :LOOKED_AT]
    numeric = ~np.isnan(_numbers(head))
    repeated = np.asarray([name in set(body[c]) for c, name in head.items()])
    like_data = (numeric | repeated) & head.notna().to_numpy()
    if len(body) == 0 or like_data.mean() < 0.4:
        return True
    shown = ", ".join(repr(cell) for cell in head.tolist()[:5])
    raise ValueError(
        f"the first row of {path} looks like data, not like headings: {shown}"
        f"{', …' if len(head) > 5 else ''}. If the file has no headings, say "
        "`header=False` (--no-header), and its columns are column_0, column_1, …; if "
        "these are headings, `header=True` (--header)."
    )


def _without_unnamed(
    frame: pd.DataFrame, names: list[str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Leave out the columns without a heading that are empty or count the rows."""
    kept, notes = [], []
    for position, name in enumerate(names):
        if name:
            kept.append(position)
            continue
        cells: Any = frame.iloc[:, position]
        counted = _numbers(cells)
        start = counted[0] if counted[0] in (0, 1) else np.nan
        if cells.isna().all():
            continue
        if len(frame) > 1 and np.array_equal(counted, start + np.arange(len(frame))):
            notes.append("left out the first column without a heading: it counts rows")
            continue
        kept.append(position)
    return frame.iloc[:, kept], [names[position] for position in kept], notes


def _numbers(cells: Any) -> np.ndarray:
    """The numbers in texts; NaN for a text that is not a number."""
    return np.asarray(pd.to_numeric(cells, errors="coerce"), np.float64)


def _heading_problems(path: Path, names: list[str]) -> list[str]:
    problems = []
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            several = "two" if count == 2 else str(count)
            problems.append(
                f"the headings of {path} must differ; {name!r} is the heading of "
                f"{several} columns."
            )
    return problems


def _told_apart(names: list[str]) -> list[str]:
    """Different headings for all columns, also if some in the file are equal."""
    seen: Counter[str] = Counter()
    found = []
    for position, name in enumerate(names):
        seen[name] += 1
        again = f"{name} ({seen[name]})" if seen[name] > 1 else name
        found.append(again if name else f"column_{position}")
    return found


def _with_points(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """The frame with decimal points for commas, and whether it had commas."""
    new = {}
    for name in frame.columns:
        cells: Any = frame[name].dropna()
        if not len(cells) or not cells.str.contains(",", regex=False).any():
            continue
        commas = cells.str.strip().str.fullmatch(_COMMA_NUMBER)
        if not (commas.to_numpy(bool) | ~np.isnan(_numbers(cells))).all():
            continue
        pointed = cells[cells.str.contains(".", regex=False)].str.strip()
        if len(pointed) and pointed.str.fullmatch(_THOUSANDS).all():
            cells = cells.str.replace(".", "", regex=False)
        new[name] = frame[name].where(
            frame[name].isna(), cells.str.replace(",", ".", regex=False)
        )
    return frame.assign(**new) if new else frame, bool(new)
