"""Whether a file gives the outputs of the network that it was written from."""

from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.checks import require

# Largest change that eight bits may make: of a probability, or of a real target
# relative to the largest above 1.
INT8_TOLERANCE = 2e-2
# Part of the examples on which eight bits must choose the same class.
INT8_AGREEMENT = 0.99
# Examples without which eight bits are not judged.
JUDGED = 50


def compare(
    expected: Any, actual: Any, format: str, tolerance: float, name: str = ""
) -> float:
    """Largest difference of a format from the network; `name` is for the message.

    Raises:
        ValueError: it is too large.
    """
    expected, actual, name = _checked(expected, actual, name or f"the {format} file")
    difference, scale = _difference(expected, actual)
    require(
        difference <= tolerance * scale,
        f"{name}, loaded back, differs from the network by {difference:.2g}; at most "
        f"{tolerance * scale:.2g} is allowed.",
    )
    return difference


def compare_int8(
    expected: Any, actual: Any, link: str, name: str = "the onnx-int8 file"
) -> tuple[float, float | None]:
    """Largest change that eight bits make, and how often the choice stays the same.

    Args:
        expected: the network's outputs for a batch.
        actual: those of the file.
        link: from outputs to probabilities: "softmax", "sigmoid", or "none".
        name: of the file, for the message.

    Returns:
        The largest change of a probability (of a real target, relative to the largest
        above 1), and the part of the choices that agree (None for real targets).

    Raises:
        ValueError: the change is too large, or too many choices differ.
    """
    expected, actual, name = _checked(expected, actual, name)
    change, agreement = largest_change(expected, actual, link), None
    if link != "none":
        alike = _choice(expected, link) == _choice(actual, link)
        agreement = float(np.mean(alike)) if alike.size else 1.0
    enough = agreement is None or agreement >= INT8_AGREEMENT
    require(
        change <= INT8_TOLERANCE and enough,
        f"{name} changes an answer by {change:.2g}"
        + (
            ""
            if agreement is None
            else f" and agrees in {agreement:.1%} of the choices"
        )
        + f"; at most {INT8_TOLERANCE:.2g} and at least {INT8_AGREEMENT:.0%} are "
        "allowed. Eight bits are too few for this network; use 'onnx'.",
    )
    return change, agreement


def require_judged(x: Any, outputs: np.ndarray, link: str) -> None:
    """Refuse to judge eight bits by a few examples, or by what says nothing.

    Raises:
        ValueError: there are fewer examples than `JUDGED`, or the link does not fit.
    """
    require(
        link != "softmax" or outputs.shape[-1] > 1,
        "`link` must be 'sigmoid' (a yes-or-no answer) or 'none' (a real target) for "
        "a network with one output; its softmax is 1 whatever the network says.",
    )
    require(
        len(x) >= JUDGED,
        f"`probe` has {len(x)} examples; eight bits are judged by at least {JUDGED}. "
        "Pass more, or use 'onnx'.",
    )


def largest_change(expected: np.ndarray, actual: np.ndarray, link: str) -> float:
    """Largest change of a probability, or of a target relative to those above 1."""
    require(
        link in LINKS,
        f"`link` must be one of {', '.join(LINKS)}; got {link!r}.",
    )
    if link == "none":
        difference, scale = _difference(expected, actual)
        return difference / scale
    return float(np.abs(LINKS[link](expected) - LINKS[link](actual)).max(initial=0))


def worst_change(expected: np.ndarray, actual: np.ndarray, link: str) -> float:
    """Largest change that an answer would have had if the network had been undecided.

    A probability p changes with a logit by p (1 − p) ≤ 1/4: where a network is sure,
    as on what it has learned, probabilities hide how far its logits moved.
    """
    if link == "none":
        return largest_change(expected, actual, link)
    moved = actual.astype(np.float64) - expected
    spread = np.ptp(moved, axis=-1) if link == "softmax" else np.abs(moved)
    return float(spread.max(initial=0)) / 4


def _checked(expected: Any, actual: Any, name: str) -> tuple[Any, Any, str]:
    expected, actual = np.asarray(expected), np.asarray(actual)
    require(
        not np.isnan(expected).any(),
        "`model` gives NaN on `probe`, which nothing can be compared with. Mend the "
        "network, or pass inputs as it will see.",
    )
    require(
        expected.shape == actual.shape,
        f"{name} gives outputs of shape {actual.shape}; the network gives "
        f"{expected.shape}.",
    )
    return expected, actual, name


def _difference(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Largest difference, and the largest of the numbers above 1 that are expected."""
    finite = np.abs(expected[np.isfinite(expected)])
    # Equal infinities do not differ.
    apart = np.where(expected == actual, 0, expected)
    other = np.where(expected == actual, 0, actual.astype(np.float64))
    difference = float(np.abs(apart - other).max(initial=0))
    return difference, max(1.0, float(finite.max(initial=0)))


def _choice(outputs: np.ndarray, link: str) -> np.ndarray:
    return outputs.argmax(-1) if link == "softmax" else outputs > 0


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x.astype(np.float64)))


LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": np.asarray,
}
