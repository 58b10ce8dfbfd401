"""Weights of examples as repetitions or ratios, and a fixed order of examples."""

from typing import Any

import numpy as np

from meanfield.checks import refuse_masked, require

# Mean weight up to which whole-number weights become repetitions.
MOST_REPETITIONS = 10


def check_weights(weights: Any, count: int) -> np.ndarray | None:
    """One weight for each example, or None.

    Raises:
        ValueError: the shape is wrong, a weight is negative or not finite, or all are
            zero.
    """
    if weights is None:
        return None
    refuse_masked("sample_weight", weights)
    weights = np.asarray(weights, np.float64)
    require(
        weights.shape in ((), (count,)),
        f"`sample_weight` must hold one number for each of the {count} examples; got "
        f"shape {weights.shape}.",
    )
    good = np.isfinite(weights) & (weights >= 0)
    require(
        bool(good.all()) and bool(weights.any()),
        "`sample_weight` must be finite numbers ≥ 0, and at least one weight must not "
        "be zero; got others. Leave out the examples that should not count.",
    )
    return np.broadcast_to(weights, (count,))


def counted(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """The examples of positive weight."""
    if weights is None or weights.all():
        return x, y, weights
    kept = weights > 0
    return x[kept], y[kept], weights[kept]


def in_order(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """The examples sorted by contents, so that the given order does not matter."""
    targets = y.reshape(len(y), -1).astype(np.float32)
    # Big-endian: the leading byte of a number is compared first, so that rounding
    # errors hardly change the order.
    rows = np.concatenate([x, targets], 1, dtype=np.float32).astype(">f4", order="C")
    order = rows.view(f"V{rows[0].nbytes}").ravel().argsort(kind="stable")
    return x[order], y[order], None if weights is None else weights[order]


def repeated(x: np.ndarray, y: np.ndarray, weights: Any) -> tuple[Any, Any, Any]:
    """Whole-number weights as repetitions, unless that makes the data much longer."""
    if weights is None:
        return x, y, None
    whole = np.array_equal(weights, np.rint(weights))
    if not whole or weights.sum() > MOST_REPETITIONS * len(x):
        return x, y, weights
    times = weights.astype(int)
    return np.repeat(x, times, axis=0), np.repeat(y, times, axis=0), None
