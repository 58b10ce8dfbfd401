"""How the columns of a table become numbers, kept so that it can be done again."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int32

from meanfield.checks import first_bad, require

_COMMA_NUMBER = r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table: numbers to standardise, or categories to tell apart.

    Args:
        name: the column's heading.
        kind: "number" or "category".
        mean: of the training rows (numbers).
        std: of the training rows (numbers); 1 where the column is constant.
        categories: the known texts, in the order of their features (categories).
    """

    name: str
    kind: Literal["number", "category"]
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TableSchema:
    """How a table is read: standardised numbers, one-hot categories, the target.

    Args:
        columns: the feature columns in order.
        target: heading of the target column, or a tuple of several.
        class_names: the target's classes; None where the targets are numbers.

    Example:
        >>> import pandas as pd
        >>> from meanfield.data import Column, TableSchema
        >>> columns = (
        ...     Column("size", "number", mean=2.0, std=2.0),
        ...     Column("sex", "category", categories=("f", "m")),
        ... )
        >>> schema = TableSchema(columns, target="age", class_names=None)
        >>> schema.encode(pd.DataFrame({"size": ["4"], "sex": ["f"]})).tolist()
        [[1.0, 1.0, 0.0]]
    """

    columns: tuple[Column, ...]
    target: str | tuple[str, ...]
    class_names: tuple[str, ...] | None

    @property
    def target_names(self) -> tuple[str, ...]:
        """Headings of the target columns."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features: the heading, or heading=category for a category."""
        names = []
        for column in self.columns:
            if column.kind == "number":
                names.append(column.name)
            else:
                names += [f"{column.name}={category}" for category in column.categories]
        return tuple(names)

    def encode(self, frame: pd.DataFrame) -> Float32[np.ndarray, "rows features"]:
        """Features of the rows of a table, in the order of `feature_names`.

        Args:
            frame: a table with (at least) the feature columns.

        Raises:
            ValueError: a column is absent, a cell is missing, not a number where one
                is needed, or a category that training never saw; column, row (counted
                from 0 below the heading) and value are named.
        """
        parts = []
        for column in self.columns:
            cells = cells_of(frame, column.name)
            if column.kind == "number":
                values = numbers(cells, column.name)
                parts.append(((values - column.mean) / column.std)[:, None])
            else:
                codes = _codes(cells, column.name, column.categories)
                parts.append(np.eye(len(column.categories))[codes])
        with np.errstate(over="ignore"):  # `Dataset` refuses what became infinite
            return np.concatenate(parts, axis=1).astype(np.float32)

    def encode_target(
        self, frame: pd.DataFrame
    ) -> Int32[np.ndarray, " rows"] | Float32[np.ndarray, "rows ..."]:
        """Labels (int32) or targets in their own units (float32) of a table's rows.

        One column gives (rows,), a tuple of columns (rows, targets). A column of the
        texts true and false is read as 1 and 0.

        Raises:
            ValueError: as for `encode`.
        """
        if self.class_names is not None:
            (name,) = self.target_names
            texts = class_texts(cells_of(frame, name))
            return _codes(texts, name, self.class_names).astype(np.int32)
        columns = [
            numbers(truths(cells_of(frame, name)), name) for name in self.target_names
        ]
        values = np.stack(columns, 1).astype(np.float32)
        return values[:, 0] if isinstance(self.target, str) else values

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain values that JSON can hold."""
        return {
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "target": self.target if isinstance(self.target, str) else [*self.target],
            "class_names": None if self.class_names is None else list(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TableSchema":
        """The schema that `to_dict` wrote down, also after a way through JSON."""
        names = values["class_names"]
        columns = tuple(
            Column(**{**column, "categories": tuple(column["categories"])})
            for column in values["columns"]
        )
        target = values["target"]
        target = target if isinstance(target, str) else tuple(target)
        return cls(columns, target, None if names is None else tuple(names))


def cells_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column as stripped texts; a missing cell is refused by row and column."""
    require(
        name in frame.columns,
        f"the table must have a column {name!r}; got {list(map(str, frame.columns))}.",
    )
    column = frame[name]
    cells = column.astype(str).str.strip()
    missing = (column.isna() | (cells == "")).to_numpy()
    if missing.any():
        (row,) = first_bad(missing)
        raise ValueError(
            f"column {name!r} has no value in row {row} (counted from 0 below the "
            "heading). Missing values are not guessed: fill in or drop such rows. (A "
            "category spelled like 'NA' or 'None' reads as missing: rename it.)"
        )
    return one_spelling(cells)


def one_spelling(cells: pd.Series) -> pd.Series:
    """True, TRUE and true as one text, where a column holds only truth values."""
    lower = cells.str.lower()
    mixed = lower.isin(["true", "false"]).all() and cells.nunique() > lower.nunique()
    return lower if mixed else cells


def truths(cells: pd.Series) -> pd.Series:
    """The texts true and false as 1 and 0, where a column holds nothing else."""
    lower = cells.str.lower()
    if not lower.isin(["true", "false"]).all():
        return cells
    return lower.map({"true": "1", "false": "0"})


def is_number(cells: pd.Series) -> np.ndarray:
    """Which texts are numbers."""
    return ~np.isnan(_parse(cells))


def _parse(cells: pd.Series) -> np.ndarray:
    """The numbers that texts spell, NaN for a text that spells none."""
    return np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)


def numbers(cells: pd.Series, name: str) -> Float64[np.ndarray, " rows"]:
    """The numbers that a column of texts spells."""
    good = is_number(cells)
    if not good.all():
        (row,) = first_bad(~good)
        raise ValueError(
            f"column {name!r} must be numbers; got {cells.iloc[row]!r} in row {row} "
            "(counted from 0 below the heading)."
        )
    values = _parse(cells)
    in_range = np.abs(values) <= np.finfo(np.float32).max
    if not in_range.all():
        (row,) = first_bad(~in_range)
        raise ValueError(
            f"column {name!r} must be finite numbers that float32 can hold; got "
            f"{cells.iloc[row]!r} in row {row} (counted from 0 below the heading)."
        )
    return values


def class_texts(cells: pd.Series) -> pd.Series:
    """Names of classes: as written, but 1, 1.0 and 01 are one class "1"."""
    as_numbers = _parse(cells)
    whole = np.isfinite(as_numbers) & (as_numbers == np.round(as_numbers))
    texts = [
        str(_whole(text, number)) if is_whole else text
        for text, number, is_whole in zip(cells, as_numbers, whole, strict=True)
    ]
    return pd.Series(texts, index=cells.index, dtype=object)


def _whole(text: str, number: float) -> int:
    """The whole number that a text spells; past 2⁵³ a float holds only some of them."""
    try:
        return int(text)
    except ValueError:
        return int(number)


def refuse_decimal_commas(cells: pd.Series, name: str) -> None:
    """Raise where all cells are numbers, some of them with a comma for the point."""
    plain = is_number(cells)
    rest: Any = cells[~plain]
    if len(rest) and rest.str.fullmatch(_COMMA_NUMBER).all():
        (row,) = first_bad(~plain)
        raise ValueError(
            f"column {name!r} holds numbers with a decimal comma, such as "
            f"{cells.iloc[row]!r} in row {row} (counted from 0 below the heading). "
            "Write them with a point."
        )


def _codes(cells: pd.Series, name: str, categories: tuple[str, ...]) -> np.ndarray:
    if {category.lower() for category in categories} == {"true", "false"}:
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
            f"{cells.iloc[row]!r} in row {row} (counted from 0 below the heading)."
        )
    return codes
