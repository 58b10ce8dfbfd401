"""Headings of a table: whether it has them, and whether they name its columns."""

from collections import Counter
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


def heading_problems(path: Path, names: list[str]) -> list[str]:
    """A message for every heading that several columns have."""
    problems = []
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            several = "two" if count == 2 else str(count)
            problems.append(
                f"the headings of {path} must differ; {name!r} is the heading of "
                f"{several} columns."
            )
    return problems


def told_apart(names: list[str]) -> list[str]:
    """Different headings for all columns, also if some in the file are equal."""
    seen: Counter[str] = Counter()
    found = []
    for position, name in enumerate(names):
        seen[name] += 1
        again = f"{name} ({seen[name]})" if seen[name] > 1 else name
        found.append(again if name else f"column_{position}")
    return found
