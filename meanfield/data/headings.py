"""Headings of a table: whether it has them, and whether they name its columns."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# Most rows and columns that are read to guess whether the first row holds headings.
LOOKED_AT = 200


def has_headings(path: Path, rows: pd.DataFrame, header: bool | None) -> bool:
    """Whether the first row holds headings.

    Raises:
        ValueError: `header` is not given, and the first row looks like data.
    """
    if header is not None:
        return header
    # Headings are rarely numbers, and rarely equal to one of the cells below them.
    head, body = rows.iloc[0, :LOOKED_AT], rows.iloc[1 : 1 + LOOKED_AT, :LOOKED_AT]
    numeric = ~np.isnan(numbers_in(head))
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


def without_unnamed(
    frame: pd.DataFrame, names: list[str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Leave out the columns without a heading that are empty or count the rows."""
    kept, notes = [], []
    for position, name in enumerate(names):
        if name:
            kept.append(position)
            continue
        cells: Any = frame.iloc[:, position]
        counted = numbers_in(cells)
        start = counted[0] if counted[0] in (0, 1) else np.nan
        if cells.isna().all():
            continue
        if len(frame) > 1 and np.array_equal(counted, start + np.arange(len(frame))):
            notes.append(
                f"left out column {position + 1}, which has no heading: it numbers "
                "the rows"
            )
            continue
        kept.append(position)
    return frame.iloc[:, kept], [names[position] for position in kept], notes


def numbers_in(cells: Any) -> np.ndarray:
    """The numbers in texts; NaN for a text that is not a number."""
    return np.asarray(pd.to_numeric(cells, errors="coerce"), np.float64)


def repeated_headings(
    path: str | os.PathLike,
    repeated: Mapping[str, str],
    used: Collection[str],
    remedy: str = "Rename them, or leave them out (--drop {!r}).",
) -> list[str]:
    """A message for every heading that several columns have, one of which is used.

    Args:
        path: path of the table.
        repeated: headings that occurred before, by the generated name of the column.
        used: names of the columns that are used.
        remedy: what to do about a heading.
    """
    problems = []
    for name, others in _by_heading(repeated).items():
        if not {name, *others} & set(used):
            continue
        several = "two" if len(others) == 1 else str(len(others) + 1)
        problems.append(
            f"the headings of {path} must differ; {name!r} is the heading of {several} "
            f"columns. {remedy.format(name)}"
        )
    return problems


def _by_heading(repeated: Mapping[str, str]) -> dict[str, list[str]]:
    """The generated names of the columns with each heading."""
    found: dict[str, list[str]] = {}
    for new, name in repeated.items():
        found.setdefault(name, []).append(new)
    return found


def told_apart(names: list[str]) -> list[str]:
    """Different headings for all columns, even if some are equal or empty."""
    seen: set[str] = set()
    taken, found = set(names), []
    for position, name in enumerate(names):
        heading = name or f"column_{position}"
        new, number = heading, 1
        while new in (taken if new != name else seen):
            number += 1
            new = f"{heading} ({number})"
        found.append(new)
        seen.add(new)
        taken.add(new)
    return found
