"""Columns of a data frame as numbers: standardised, or one-hot."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from meanfield.checks import require


@dataclasses.dataclass(frozen=True)
class FrameEncoder:
    """How the columns seen in `fit` become features.

    Attributes:
        columns: name and categories of each column; no categories for a number.
        shift: subtracted from each feature.
        scale: divides each feature afterwards.
    """

    columns: tuple[tuple[Any, tuple[str, ...] | None], ...] | None
    shift: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    @classmethod
    def learn(cls, x: Any) -> "FrameEncoder":
        """Take categories, means and spreads from training data."""
        columns = None
        if has_categories(x):
            columns = tuple((name, _categories(x, name)) for name in x.columns)
        features = _features(x, columns)
        spread = features.std(0)
        shift = features.mean(0)
        if columns is not None:
            one_hot = np.concatenate(
                [np.full(len(kinds or "1"), kinds is not None) for _, kinds in columns]
            )
            shift, spread = np.where(one_hot, 0, shift), np.where(one_hot, 1, spread)
        return cls(columns, shift, np.where(spread > 0, spread, 1))

    def apply(self, x: Any) -> Float[np.ndarray, "rows features"]:
        """Features of new data.

        Raises:
            ValueError: a category that the training data did not have.
        """
        features = _features(x, self.columns)
        return ((features - self.shift) / self.scale).astype(np.float32)


def has_categories(x: Any) -> bool:
    """Whether data are a frame in which some column is not numbers."""
    return hasattr(x, "columns") and any(not _is_numeric(x, n) for n in x.columns)


def _features(x: Any, columns: Any) -> np.ndarray:
    if columns is None:
        return np.asarray(x, np.float64)
    parts = []
    for name, kinds in columns:
        values = np.asarray(x[name])
        if kinds is None:
            numbers = np.asarray(values, np.float64)
            require(
                bool(np.isfinite(numbers).all()),
                f"column {name!r} holds NaN or infinity; fill in missing values first.",
            )
            parts.append(numbers[:, None])
            continue
        texts = values.astype(str)
        known = np.isin(texts, kinds)
        require(
            bool(known.all()),
            f"column {name!r} holds the category {str(texts[np.argmin(known)])!r}, "
            f"which the training data did not have; known are {list(kinds)}.",
        )
        parts.append(texts[:, None] == np.asarray(kinds)[None, :])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _categories(x: Any, name: Any) -> tuple[str, ...] | None:
    if _is_numeric(x, name):
        return None
    return tuple(np.unique(np.asarray(x[name]).astype(str)).tolist())


def _is_numeric(x: Any, name: Any) -> bool:
    return np.asarray(x[name]).dtype.kind in "biuf"
