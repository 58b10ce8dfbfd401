"""The encoding of a table's columns as numbers, stored for use on other tables."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int32

from meanfield.checks import first_bad, require

from .cells import (
    cells_of,
    class_texts,
    codes_of,
    is_missing,
    numbers,
    present_cells,
    raise_all,
    refuse_missing,
    truths,
)
from .text import TextFormat

# Name of a missing cell in the names of features.
NO_VALUE = "(missing)"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table: standardised numbers or one-hot categories.

    Args:
        name: the column's heading.
        kind: "number" or "category".
        mean: mean of a column of numbers over the training rows.
        std: standard deviation over the same rows; 1 if the column is constant.
        categories: the known texts of a column of categories, in the order of their
            features; the empty text stands for a missing cell.
        fill: what a missing number is replaced with, the median of the training rows;
            a second feature then marks the rows where it was missing. None if no number
            was missing in the table, test rows included.
    """

    name: str
    kind: Literal["number", "category"]
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()
    fill: float | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the column's features."""
        if self.kind == "number":
            names = (self.name, f"{self.name}={NO_VALUE}")
            return names[:1] if self.fill is None else names
        return tuple(f"{self.name}={text or NO_VALUE}" for text in self.categories)

    def encode(self, frame: pd.DataFrame) -> Float64[np.ndarray, "rows features"]:
        """The column's features, for the rows of a table; see `TableSchema.encode`."""
        cells = cells_of(frame, self.name)
        if self.kind == "category":
            codes = codes_of(cells, self.name, self.categories)
            return np.eye(len(self.categories))[codes]
        missing = is_missing(cells)
        try:
            values = numbers(cells.mask(missing, "0"), self.name)
        except ValueError as error:
            if self.fill is None and missing.any():
                (row,) = first_bad(missing)
                raise ValueError(f"{error} Its row {row} has no value.") from error
            raise
        if self.fill is None:
            refuse_missing(cells, self.name)
            return ((values - self.mean) / self.std)[:, None]
        values = np.where(missing, self.fill, values)
        return np.stack([(values - self.mean) / self.std, missing], 1)


@dataclasses.dataclass(frozen=True)
class TableSchema:
    """How a table is encoded: standardised numbers, one-hot categories, the target.

    Args:
        columns: the feature columns in order.
        target: heading of the target column, or a tuple of several.
        class_names: the target's classes; None if the targets are numbers.
        format: how the text of the table was written.

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
    format: TextFormat = TextFormat()

    @property
    def target_names(self) -> tuple[str, ...]:
        """Headings of the target columns."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features: the heading, or heading=category for a category."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def localized(self) -> tuple[str, ...]:
        """Headings of columns that may have decimal commas or thousands separators."""
        if self.format.decimal == "." and not self.format.thousands:
            return ()
        numeric = [column.name for column in self.columns if column.kind == "number"]
        return tuple(name for name in numeric if name not in self.format.pointed)

    def encode(self, frame: pd.DataFrame) -> Float32[np.ndarray, "rows features"]:
        """Features of the rows of a table, in the order of `feature_names`.

        Args:
            frame: a table with (at least) the feature columns.

        Raises:
            ValueError: a column is absent; or a cell is not a number in a column of
                numbers, is missing in a column that had no missing cells in training,
                or is a category that did not occur in training. The message names all
                such columns, each with a row (counted from 0 below the heading) and a
                value.
        """
        missing = [c.name for c in self.columns if c.name not in frame.columns]
        require(
            not missing,
            f"the table must have a column {', '.join(map(repr, missing))}; got "
            f"{list(map(str, frame.columns))}.",
        )
        parts, problems = [], []
        for column in self.columns:
            try:
                parts.append(column.encode(frame))
            except ValueError as error:
                problems.append(str(error))
        raise_all("the table does not fit", problems)
        with np.errstate(over="ignore"):  # `Dataset` refuses infinite features
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
            texts = class_texts(present_cells(frame, name))
            return codes_of(texts, name, self.class_names).astype(np.int32)
        columns = [
            numbers(truths(present_cells(frame, name)), name)
            for name in self.target_names
        ]
        values = np.stack(columns, 1).astype(np.float32)
        return values[:, 0] if isinstance(self.target, str) else values

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain values that JSON can hold."""
        return {
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "target": self.target if isinstance(self.target, str) else [*self.target],
            "class_names": None if self.class_names is None else list(self.class_names),
            "format": dataclasses.asdict(self.format),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TableSchema":
        """The schema from what `to_dict` returned, also after a JSON round trip."""
        names = values["class_names"]
        columns = tuple(
            Column(**{**column, "categories": tuple(column["categories"])})
            for column in values["columns"]
        )
        target = values["target"]
        target = target if isinstance(target, str) else tuple(target)
        format = dict(values.get("format", {}))
        format["pointed"] = tuple(format.get("pointed", ()))
        return cls(
            columns,
            target,
            None if names is None else tuple(names),
            TextFormat(**format),
        )
