"""Checks of JSON values: types, keys, ranges, sizes.

A check is a function of a value and the name of its place in the file. It raises a
`ValueError` that states what was needed and what was given. Checks are nested as the
files are.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from meanfield.checks import require

Check = Callable[[Any, str], None]
LONGEST = 100_000_000


def number(low: float | int = -math.inf, high: float | int = math.inf) -> Check:
    """A finite number within bounds."""

    def check(value: Any, place: str) -> None:
        kind = isinstance(value, int | float) and not isinstance(value, bool)
        require(
            kind and math.isfinite(value) and low <= value <= high,
            f"{place} must be a finite number in [{low:g}, {high:g}]; got "
            f"{_shown(value)}",
        )

    return check


def whole(low: int = 0, high: int = 2**63 - 1) -> Check:
    """A whole number within bounds."""

    def check(value: Any, place: str) -> None:
        kind = isinstance(value, int) and not isinstance(value, bool)
        require(
            kind and low <= value <= high,
            f"{place} must be a whole number from {low} to {high}; got {_shown(value)}",
        )

    return check


def text(*choices: str) -> Check:
    """A text, one of several if some are given."""

    def check(value: Any, place: str) -> None:
        good = isinstance(value, str) and (not choices or value in choices)
        needed = f"one of {', '.join(choices)}" if choices else "a text"
        require(good, f"{place} must be {needed}; got {_shown(value)}")

    return check


def flag(value: Any, place: str) -> None:
    """True or false."""
    require(isinstance(value, bool), f"{place} must be true or false; got {value!r}")


def optional(check: Check) -> Check:
    """The value, or null."""
    return lambda value, place: None if value is None else check(value, place)


def either(one: Check, other: Check) -> Check:
    """A list that passes one check, or another value that passes the other check."""
    return lambda value, place: (one if isinstance(value, list) else other)(
        value, place
    )


def items(check: Check, most: int = LONGEST) -> Check:
    """A list of values."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, list) and len(value) <= most,
            f"{place} must be a list of at most {most} values; got {_shown(value)}",
        )
        for number, each in enumerate(value):
            check(each, f"{place}[{number}]")

    return check_all


def mapping(check: Check) -> Check:
    """Names, each with a value."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, dict),
            f"{place} must be names with values; got {_shown(value)}",
        )
        for name, each in value.items():
            check(each, f"{place}/{name}")

    return check_all


def record(needed: Mapping[str, Check], others: Mapping[str, Check] = {}) -> Check:  # noqa: B006  (not changed)
    """Required names and optional names with checks; other names are not checked."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, dict),
            f"{place or 'the file'} must be names with values; got {_shown(value)}",
        )
        missing = [name for name in needed if name not in value]
        require(not missing, f"{place or 'the file'} lacks {missing}")
        for name, check in {**needed, **others}.items():
            if name in value:
                check(value[name], f"{place}/{name}".removeprefix("/"))

    return check_all


def _shown(value: Any) -> str:
    return repr(value)[:60]
