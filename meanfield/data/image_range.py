"""Choose the number that raw images are divided by, from the range of their values.

| range of the training inputs             | divided by |
|------------------------------------------|------------|
| min ≥ 0 and 128 ≤ max ≤ 255, as of bytes | 255        |
| min ≥ 0 and another max above 1          | max        |
| min < 0 and numbers beyond ±20           | max ∣x∣    |
| any other                                | 1          |

This holds for bytes (uint8) of any shape, and for images: examples with two axes or
more. Columns of other numbers are left as they are.
"""

import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from meanfield.checks import require

# Larger inputs are reported: a network learns slowly from them.
LARGE = 20.0
# Images whose largest number is between this and 255 have the range of bytes.
BYTE_LIKE = 128
# If training inputs are divided by this or more, test inputs in [0, 1] are an error.
CLEAR = 16


def divisor_of(
    held: Mapping[str, Shaped[np.ndarray, "..."]], path: str | os.PathLike
) -> float:
    """The number that the inputs of a file are divided by; see the table.

    Args:
        held: the arrays of the file, by name.
        path: the file, for messages.

    Raises:
        ValueError: training and test inputs have different types or ranges.
    """
    sets = {n: held[n] for n in ("x", "x_train", "x_test") if n in held}
    bytes_ = {name: x.dtype == np.uint8 for name, x in sets.items()}
    require(
        len(set(bytes_.values())) == 1,
        f"the inputs of {path} must all be bytes (uint8) or none; got "
        f"{ {name: str(x.dtype) for name, x in sets.items()} }. Save them in one type.",
    )
    train = sets["x"] if "x" in sets else sets["x_train"]
    if train.size == 0 or not (all(bytes_.values()) or train.ndim > 2):
        return 1.0
    divisor = _divisor(float(train.min()), float(train.max()))
    tests = sets.get("x_test", train)
    most = float(tests.max(initial=0))
    require(
        divisor < CLEAR or not 0 < most <= 1,
        f"all inputs of {path} must have the same range; got numbers up to "
        f"{train.max():g} to train with, and up to {most:g} to test with. Save them in "
        "the same range.",
    )
    return divisor


def _divisor(low: float, high: float) -> float:
    if not max(-low, high) <= np.finfo(np.float32).max:  # refused later
        return 1.0
    if low < 0:
        size = max(-low, high)
        return size if size > LARGE else 1.0
    if BYTE_LIKE <= high <= 255:
        return 255.0
    return high if high > 1 else 1.0


def notes(
    held: Mapping[str, Shaped[np.ndarray, "..."]],
    divisor: float,
    x: Shaped[np.ndarray, "train features"],
) -> tuple[str, ...]:
    """Messages to the user on how the inputs are used.

    Args:
        held: the arrays of the file, by name.
        divisor: the number by which they were divided.
        x: the training inputs, divided.
    """
    raw = next(held[name] for name in ("x", "x_train") if name in held)
    size = " × ".join(map(str, raw.shape[1:]))
    if divisor != 1:
        low = 0 if raw.min() >= 0 else f"{raw.min():g}"
        high = "255" if divisor == 255 else f"{raw.max():g}"
        return (f"inputs of {size}, {low} to {high}: divided by {divisor:g}",)
    least, most = float(x.min()), float(x.max())
    if max(-least, most) <= LARGE:
        return ()
    return (
        f"inputs reach from {least:.4g} to {most:.4g} and are used as they are: scale "
        "them to about −1 to 1 if training is slow",
    )
