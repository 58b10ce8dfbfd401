"""Columns of a data frame as numbers: standardised, or one-hot.

A column is a category when its type says so, or when it holds texts; a missing entry is
then a category of its own. Numbers must not be missing. Works on the frames of pandas
and of Polars, of which it only asks `columns` and ``frame[name]``.
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
    """How the columns seen in `fit` become features.

    Attributes:
        columns: name and categories of each column; no categories for a number; None
            for data without categories.
        shift: subtracted from each feature.
        scale: divides each feature afterwards.

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
        """Take categories, means and spreads from training data.

        Args:
            x: the data.
            weights: of the rows (rows,), in means and spreads.

        Raises:
            ValueError: there are no rows, a column holds dates, or a number is missing.
        """
        require(len(x) > 0, "the frame has no rows; there is nothing to learn from.")
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
            ValueError: a category that the training data did not have, or texts where
                they had numbers.
        """
        features = _features(x, self.columns)
        return ((features - self.shift) / self.scale).astype(np.float32)


def mean_and_spread(
    values: Float[np.ndarray, " rows *columns"],
    weights: Float[np.ndarray, " rows"] | None,
) -> tuple[Any, Any]:
    """Mean and standard deviation along the rows; 1 where nothing varies.

    Rounded to float32, so that a row of weight 2 and a row that comes twice give equal
    numbers.
    """
    # In units whose squares neither overflow nor vanish; powers of 2 round nothing.
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
    """Whether data are a frame in which some column is not numbers.

    Raises:
        ValueError: a column name comes twice, or a column holds dates.
    """
    names = list(getattr(x, "columns", ()))
    twice = [name for name, count in Counter(names).items() if count > 1]
    require(not twice, f"the frame has more than one column {twice[:1]}.")
    return any(_is_category(x, name) for name in names)


def _features(x: Any, columns: Any) -> np.ndarray:
    if columns is None:
        strange = [n for n in getattr(x, "columns", ()) if _is_category(x, n)]
        require(
            not strange,
            f"column {strange[:1]} holds texts or categories, where the training data "
            "had numbers.",
        )
        return np.asarray(x, np.float64)
    require(
        hasattr(x, "columns"),
        f"the training data were a frame with the columns {[n for n, _ in columns]}; "
        f"got {type(x).__name__}. Pass a frame with the same columns.",
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
            f"column {name!r} holds the category {str(texts[np.argmin(known)])!r}, "
            f"which the training data did not have; known are {_few(kinds)}.",
        )
        parts.append(texts[:, None] == np.asarray(kinds)[None, :])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _numbers(x: Any, name: Any) -> np.ndarray:
    require(
        not _is_category(x, name),
        f"column {name!r} holds texts or categories, where the training data had "
        "numbers.",
    )
    # Through a series, which knows the missing numbers of every library.
    series: Any = pd.Series(np.asarray(x[name]))
    if series.dtype == object:
        series = series.map(float, na_action="ignore")
    values = np.asarray(series.astype("Float64").to_numpy(np.float64, na_value=np.nan))
    require(
        bool(np.isfinite(values).all()),
        f"column {name!r} holds NaN or infinity; fill in missing values first.",
    )
    return values


def _texts(x: Any, name: Any) -> np.ndarray:
    values = np.asarray(x[name])
    texts = np.asarray([str(value) for value in values.tolist()], np.str_)
    missing = np.asarray(pd.isna(values))
    require(
        not (missing.any() and (texts[~missing] == MISSING).any()),
        f"column {name!r} has missing entries and the text {MISSING!r}, which is what "
        "they are called here; call that category otherwise.",
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
        f"column {name!r} holds dates or durations. Turn them into numbers (days since "
        "a date, say) or into texts.",
    )
    if values.dtype != object:
        return values.dtype.kind not in "biuf"
    kinds = (numbers.Real, decimal.Decimal)
    return not all(isinstance(value, kinds) for value in present)


def _few(kinds: tuple[str, ...], most: int = 20) -> str:
    shown = ", ".join(map(repr, kinds[:most]))
    return shown if len(kinds) <= most else f"{shown} and {len(kinds) - most} more"
