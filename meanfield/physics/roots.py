"""Roots of one-dimensional functions, by bracketing."""

from collections.abc import Callable
from typing import Any

from scipy import optimize

TOLERANCE = 1e-14


def bracketed_root(
    function: Callable[[float], float], low: float, high: float
) -> float:
    """Root of a function that changes sign between `low` and `high` (Brent's method).

    Raises:
        ValueError: no change of sign.

    Example:
        >>> round(bracketed_root(lambda x: x * x - 2, 0.0, 2.0), 12)
        1.414213562373
    """
    root: Any = optimize.brentq(function, low, high, xtol=TOLERANCE)
    return float(root)
