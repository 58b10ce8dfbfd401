"""Checks of the values of arguments.

A message names the argument in backticks and says what was needed, what was given, and
what to do. Traced values are not checked, because their contents are not known.
"""

from typing import Any

import numpy as np
from jax.core import Tracer


def is_concrete(*values: Any) -> bool:
    """Whether no value is traced, so that all their numbers are known."""
    return not any(isinstance(value, Tracer) for value in values)


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_whole(name: str, value: Any) -> None:
    """Raise unless a count is a whole number; booleans are refused."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(whole, f"`{name}` must be a whole number, at least 1; got {value!r}.")


def refuse_masked(name: str, value: Any) -> None:
    """Raise if entries are masked: the numbers under a mask are not data."""
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        require(
            not mask.any(),
            f"`{name}` must have no masked entries; the first of {mask.sum()} is at "
            f"{first_bad(mask)}. Fill them in, or leave such rows out.",
        )


def first_bad(bad: Any) -> tuple[int, ...]:
    """Index of the first True entry of a boolean array."""
    bad = np.asarray(bad)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def require_in_range(
    name: str, value: Any, low: float, high: float, what_to_do: str
) -> None:
    """Raise unless every entry of a concrete array lies in [low, high] (NaN fails)."""
    if not is_concrete(value):
        return
    value = np.asarray(value)
    good = (value >= low) & (value <= high)
    if not good.all():
        index = first_bad(~good)
        raise ValueError(
            f"`{name}` must lie in [{low:g}, {high:g}]; got {value[index]} at index "
            f"{index}. {what_to_do}"
        )
