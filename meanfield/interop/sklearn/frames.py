"""Columns of a data frame as features: standardised numbers or one-hot categories.

A column is categorical if it has a categorical type or holds texts; a missing entry is
then one more category. Numbers must not be missing. Frames of pandas and of Polars
work; only their `columns` and ``frame[name]`` are used.
"""

import dataclasses
import datetime
import decimal
import numbers
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from meanfield.checks import require

MISSING = "(missing)"
_TIMES = (datetime.date, datetime.time, datetime.timedelta)


@dataclasses.dataclass(frozen=True)
class FrameEncoder:
    """How columns become features, learned from training data.

    Attributes:
        columns: name and categories of each column, the categories of a column of
            numbers being None; None for data without categorical columns.
        shift: number that is subtracted from each feature.
        scale: number by which each feature is then divided.

    Example:
        >>> import pandas as pd
        >>> from meanfield.interop.sklearn.frames import FrameEncoder
        >>> frame = pd.DataFrame({"size": [1.0, 3.0], "colour": ["red", "blue"]})
        >>> FrameEncoder.learn(frame).apply(frame).tolist()
        [[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """

    columns: tuple[tuple[Any, tuple[str, ...] | None], ...] | None
    shift: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    @classmethod
    def learn(cls, x: Any, weights: Any = None) -> "FrameEncoder":
        """Take categories, means and standard deviations from training data.

        Args:
            x: the data.
            weights: weights of the rows (rows,) for means and standard deviations.

        Raises:
            ValueError: there are no rows, a column holds dates, or a number is missing
                beside categorical columns (tables of numbers alone are not checked).
        """
        require(len(x) > 0, "`X` must have rows to learn from; got no rows.")
        columns = None
        if has_categories(x):
            columns = tuple((name, _categories(x, name)) for name in x.columns)
        features = _features(x, columns)
        shift, scale = mean_and_spread(features, weights)
        if columns is not None:
            one_hot = np.concatenate(
                [np.full(len(kinds or "1"), kinds is not None) for _, kinds in columns]
            )
            shift, scale = np.where(one_hot, 0, shift), np.where(one_hot, 1, scale)
        return cls(columns, shift, scale)

    def apply(self, x: Any) -> Float[np.ndarray, "rows features"]:
        """Features of new data.

        Raises:
            ValueError: a category that the training data did not have, or texts in a
                column where the training data had numbers.
        """
        features = _features(x, self.columns)
        return ((features - self.shift) / self.scale).astype(np.float32)


def mean_and_spread(
    values: Float[np.ndarray, " rows *columns"],
    weights: Float[np.ndarray, " rows"] | None,
) -> tuple[Any, Any]:
    """Mean and standard deviation over the rows; deviation 1 for a constant column.

    Rounded to float32, so that a row of weight 2 and the same row twice give equal
    results.
    """
    # Scaled so that squares neither overflow nor underflow; powers of 2 are exact.
    largest = np.max(np.abs(values), axis=0)
    _, exponent = np.frexp(largest)
    unit = np.where(largest > 0, np.ldexp(1.0, exponent - 1), 1.0)
    mean = np.average(values / unit, axis=0, weights=weights)
    square = np.average(np.square(values / unit - mean), axis=0, weights=weights)
    spread = np.sqrt(square).astype(np.float32)
    return (
        unit * np.float64(np.float32(mean)),
        np.where(spread > 0, unit * spread.astype(np.float64), 1),
    )


def has_categories(x: Any) -> bool:
    """Whether data are a frame with a column that does not hold numbers.

    Raises:
        ValueError: a column name occurs twice, or a column holds dates.
    """
    names = list(getattr(x, "columns", ()))
    twice = [name for name, count in Counter(names).items() if count > 1]
    require(
        not twice,
        f"`X` must have different column names; got {twice[:1]} twice. Rename one.",
    )
    return any(_is_category(x, name) for name in names)


def _features(x: Any, columns: Any) -> np.ndarray:
    if columns is None:
        strange = [n for n in getattr(x, "columns", ()) if _is_category(x, n)]
        require(
            not strange,
            f"column {strange[:1]} of `X` must hold numbers, as in the training data; "
            "got texts or categories. Convert it to numbers.",
        )
        return np.asarray(x, np.float64)
    require(
        hasattr(x, "columns"),
        "`X` must be a frame with the columns of the training data, "
        f"{[n for n, _ in columns]}; got {type(x).__name__}.",
    )
    parts = []
    for name, kinds in columns:
        if kinds is None:
            parts.append(_numbers(x, name)[:, None])
            continue
        texts = _texts(x, name)
        known = np.isin(texts, kinds)
        require(
            bool(known.all()),
            f"column {name!r} of `X` must hold categories of the training data, "
            f"{_few(kinds)}; got {str(texts[np.argmin(known)])!r}.",
        )
        parts.append(texts[:, None] == np.asarray(kinds)[None, :])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _numbers(x: Any, name: Any) -> np.ndarray:
    require(
        not _is_category(x, name),
        f"column {name!r} of `X` must hold numbers, as in the training data; got texts "
        "or categories. Convert it to numbers.",
    )
    # Converted by pandas, which understands the missing numbers of every library.
    series: Any = pd.Series(np.asarray(x[name]))
    if series.dtype == object:
        series = series.map(float, na_action="ignore")
    values = np.asarray(series.astype("Float64").to_numpy(np.float64, na_value=np.nan))
    require(
        bool(np.isfinite(values).all()),
        f"column {name!r} of `X` must be finite; got NaN or infinity. Fill in missing "
        "values first.",
    )
    return values


def _texts(x: Any, name: Any) -> np.ndarray:
    values = np.asarray(x[name])
    texts = np.asarray([str(value) for value in values.tolist()], np.str_)
    missing = np.asarray(pd.isna(values))
    require(
        not (missing.any() and (texts[~missing] == MISSING).any()),
        f"column {name!r} of `X` must not hold both missing entries and the text "
        f"{MISSING!r}, the name of their category. Rename that text.",
    )
    return np.where(missing, MISSING, texts)


def _categories(x: Any, name: Any) -> tuple[str, ...] | None:
    if not _is_category(x, name):
        return None
    return tuple(np.unique(_texts(x, name)).tolist())


def _is_category(x: Any, name: Any) -> bool:
    if isinstance(x[name].dtype, pd.CategoricalDtype):
        return True
    values = np.asarray(x[name])
    present = values[~pd.isna(values)] if values.dtype == object else values[:0]
    require(
        values.dtype.kind not in "mM"
        and not any(isinstance(value, _TIMES) for value in present),
        f"column {name!r} of `X` must hold numbers or categories; got dates or "
        "durations. Convert them to numbers, such as days since a date, or to texts.",
    )
    if values.dtype != object:
        return values.dtype.kind not in "biuf"
    kinds = (numbers.Real, decimal.Decimal)
    return not all(isinstance(value, kinds) for value in present)


def _few(kinds: tuple[str, ...], most: int = 20) -> str:
    shown = ", ".join(map(repr, kinds[:most]))
    return shown if len(kinds) <= most else f"{shown} and {len(kinds) - most} more"
