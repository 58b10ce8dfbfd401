r"""Scores of predictive distributions, with one definition for each score.

    accuracy   fraction of examples with argmax_k p_k = y
    NLL        mean of −ln p(y), in nats
    Brier      mean of Σ_k (p_k − 1[y = k])²
    ECE        Σ_bins fraction · |accuracy − confidence|, bins of equal width on [0, 1]

Confidence is the probability of the most probable class.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meanfield.checks import require

from .uncertainty import check_probs

NUM_BINS = 15


def equal_widths(num_bins: int = NUM_BINS) -> Float[np.ndarray, " edges"]:
    """Edges k/n of bins of equal width on [0, 1], correctly rounded."""
    return np.arange(num_bins + 1) / num_bins


def confidence_bins(
    probs: Float[np.ndarray, "batch classes"],
    labels: Int[np.ndarray, " batch"],
    edges: Float[np.ndarray, " edges"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of examples, mean confidence and accuracy of every bin; NaN if empty.

    A bin includes its lower edge, and the last bin also its upper edge.
    """
    confidence, hits = probs.max(1).astype(np.float64), probs.argmax(1) == labels
    num_bins = len(edges) - 1
    bins = np.searchsorted(edges, confidence, side="right") - 1
    bins = np.clip(bins, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    share = np.where(counts > 0, counts, np.nan)
    mean_confidence = np.bincount(bins, confidence, num_bins) / share
    return counts, mean_confidence, np.bincount(bins, hits, num_bins) / share


def calibration_error(
    counts: Int[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    accuracy: Float[np.ndarray, " bins"],
) -> float:
    """Σ fraction of examples · |accuracy − confidence| over bins that are not empty."""
    return float(np.nansum(counts * np.abs(accuracy - confidence)) / counts.sum())


def accuracy(probs: Any, labels: Any) -> float:
    """Fraction of examples whose most probable class (the first of ties) is right."""
    return _accuracy(*check_labels(probs, labels))


def nll(probs: Any, labels: Any) -> float:
    """Mean of −ln p(label), in nats; infinite if a true class has probability 0."""
    probs, labels = check_labels(probs, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(probs[np.arange(len(labels)), labels]).mean())


def brier(probs: Any, labels: Any) -> float:
    """Mean of Σ_k (p_k − 1[y = k])², between 0 and 2."""
    return _brier(*check_labels(probs, labels))


def ece(probs: Any, labels: Any, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error over bins of equal width (15 by default).

    Example:
        >>> from meanfield.prediction.metrics import ece
        >>> round(ece([[0.9, 0.1], [0.9, 0.1]], [0, 1]), 2)
        0.4
    """
    require(num_bins >= 1, f"`num_bins` must be at least 1; got {num_bins}.")
    probs, labels = check_labels(probs, labels)
    return calibration_error(*confidence_bins(probs, labels, equal_widths(num_bins)))


def class_scores(
    probs: Float[np.ndarray, "batch classes"], labels: Int[np.ndarray, " batch"]
) -> dict[str, float]:
    """Accuracy, Brier score and ECE of predictions that a network computed.

    Probabilities are not checked, because those of a network that computes in bfloat16
    sum to 1 only within its precision.
    """
    return {
        "accuracy": _accuracy(probs, labels),
        "brier": _brier(probs, labels),
        "ece": calibration_error(*confidence_bins(probs, labels, equal_widths())),
    }


def check_labels(probs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (batch, classes) and the true class of every row.

    Raises:
        ValueError: rows are not probabilities, or a label is not a class.
    """
    probs, labels = check_probs(probs), np.asarray(labels)
    require(
        labels.shape == probs.shape[:1] and np.issubdtype(labels.dtype, np.integer),
        f"`labels` must be whole numbers of shape ({len(probs)},), one for each row of "
        f"`probs`; got {labels.dtype} of shape {labels.shape}.",
    )
    bad = (labels < 0) | (labels >= probs.shape[1])
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"`labels` must lie in 0 … {probs.shape[1] - 1}; got {labels[row]} in row "
            f"{row}."
        )
    return probs, labels


def _accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    return float((probs.argmax(1) == labels).mean())


def _brier(probs: np.ndarray, labels: np.ndarray) -> float:
    target = np.eye(probs.shape[1])[labels]
    return float(np.square(probs - target).sum(1).mean())
