"""Compare the outputs of a file with those of the network that it was written from."""

from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.inputs import batch_size

# Largest change allowed when weights are rounded to eight bits. It is the change of a
# probability, or of a real target relative to max(1, the largest magnitude).
INT8_TOLERANCE = 2e-2
# Fraction of the examples whose predicted class must stay the same with eight bits.
INT8_AGREEMENT = 0.99
# Fewest examples on which an eight-bit file is judged.
JUDGED = 50


def compare(
    expected: Any, actual: Any, format: str, tolerance: float, name: str = ""
) -> float:
    """Largest difference between the outputs of a file and those of the network.

    Args:
        expected: the network's outputs for a batch.
        actual: the file's outputs for the same batch.
        format: the format of the file.
        tolerance: largest difference allowed, relative to max(1, the largest output).
        name: name of the file for the message; by default "the FORMAT file".

    Raises:
        ValueError: the difference is too large.
    """
    expected, actual, name = _checked(expected, actual, name or f"the {format} file")
    difference, scale = _difference(expected, actual)
    require(
        difference <= tolerance * scale,
        f"{name}, loaded back, must give the network's outputs to within "
        f"{tolerance * scale:.2g}; got a difference of {difference:.2g}. Export to "
        "another format.",
    )
    return difference


def compare_int8(
    expected: Any, actual: Any, link: str, name: str = "the onnx-int8 file"
) -> tuple[float, float | None]:
    """Largest change by rounding to eight bits, and how often the class stays the same.

    Args:
        expected: the network's outputs for a batch.
        actual: the file's outputs for the same batch.
        link: function from outputs to probabilities: "softmax", "sigmoid", or "none".
        name: name of the file for the message.

    Returns:
        The largest change of a probability (or of a real target, relative to max(1, the
        largest target)), and the fraction of examples whose predicted classes agree
        (None for real targets).

    Raises:
        ValueError: the change is too large, or too many predicted classes differ.
    """
    expected, actual, name = _checked(expected, actual, name)
    change, agreement = largest_change(expected, actual, link), None
    if link != "none":
        alike = _choice(expected, link) == _choice(actual, link)
        agreement = float(np.mean(alike)) if alike.size else 1.0
    enough = agreement is None or agreement >= INT8_AGREEMENT
    require(
        change <= INT8_TOLERANCE and enough,
        f"{name} changes an output by {change:.2g}"
        + (
            ""
            if agreement is None
            else f" and agrees in {agreement:.1%} of the predicted classes"
        )
        + f"; a change of at most {INT8_TOLERANCE:.2g} and, for classes, agreement in "
        f"at least {INT8_AGREEMENT:.0%} are needed. Eight bits are too few for "
        "this network; use 'onnx'.",
    )
    return change, agreement


def require_judged(x: Any, outputs: np.ndarray, link: str) -> None:
    """Raise unless eight-bit weights can be judged on `x` with this link.

    Raises:
        ValueError: there are fewer examples than `JUDGED`, or the link does not fit.
    """
    require(
        link != "softmax" or outputs.shape[-1] > 1,
        "`link` must be 'sigmoid' (a yes-or-no answer) or 'none' (a real target) for "
        "a network with one output; the softmax of one number is always 1.",
    )
    require(
        batch_size(x) >= JUDGED,
        f"`probe` must have at least {JUDGED} examples, by which eight-bit weights are "
        f"judged; got {batch_size(x)}. Pass more, or use 'onnx'.",
    )


def largest_change(expected: np.ndarray, actual: np.ndarray, link: str) -> float:
    """Largest change of a probability, or relative change of a real target."""
    require(
        link in LINKS,
        f"`link` must be one of {', '.join(LINKS)}; got {link!r}.",
    )
    if link == "none":
        difference, scale = _difference(expected, actual)
        return difference / scale
    return float(np.abs(LINKS[link](expected) - LINKS[link](actual)).max(initial=0))


def worst_change(expected: np.ndarray, actual: np.ndarray, link: str) -> float:
    """Bound on the change of a probability from the change Δ of its logits alone.

    |Δ|/4 for sigmoid, (max Δ − min Δ)/4 over the classes for softmax: the derivative of
    a probability p with respect to its logit is p (1 − p) ≤ 1/4. The change of p itself
    is not used, because it is small wherever the network is certain, as on its training
    data. For real targets it is `largest_change`.
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
        "`model` must give no NaN on `probe`, or its outputs cannot be compared. "
        "Correct the network, or pass inputs like those that it will be used on.",
    )
    require(
        expected.shape == actual.shape,
        f"{name} must give outputs of the network's shape {expected.shape}; got "
        f"{actual.shape}. Export to another format.",
    )
    return expected, actual, name


def _difference(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Largest difference, and its scale max(1, the largest expected magnitude)."""
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
