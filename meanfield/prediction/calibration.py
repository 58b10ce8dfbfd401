"""Measures of calibration: reliability curves and selective prediction."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meanfield.checks import require

from .metrics import (
    NUM_BINS,
    calibration_error,
    check_labels,
    confidence_bins,
    equal_widths,
)


@dataclasses.dataclass(frozen=True)
class ReliabilityCurve:
    """Accuracy against confidence in bins.

    Attributes:
        edges: (bins + 1,) edges of confidence; a bin includes its lower edge, and the
            last bin also its upper edge.
        confidence: (bins,) mean confidence in each bin; NaN for an empty bin.
        accuracy: (bins,) fraction of right predictions in each bin; NaN for an empty
            bin.
        counts: (bins,) number of examples in each bin.
    """

    edges: Float[np.ndarray, " edges"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    counts: Int[np.ndarray, " bins"]

    @property
    def ece(self) -> float:
        """Expected calibration error, Σ fraction · |accuracy − confidence|."""
        return calibration_error(self.counts, self.confidence, self.accuracy)

    @property
    def max_error(self) -> float:
        """Largest |accuracy − confidence| of a bin that is not empty."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


@dataclasses.dataclass(frozen=True)
class SelectiveCurve:
    """Error on the examples whose predictions are most certain (selective prediction).

    Attributes:
        coverage: (batch,) fraction of the examples that are accepted, rising to 1.
        risk: (batch,) mean error of the accepted examples.
    """

    coverage: Float[np.ndarray, " batch"]
    risk: Float[np.ndarray, " batch"]

    @property
    def area(self) -> float:
        """Mean risk over all coverages (AURC); lower is better."""
        return float(self.risk.mean())

    def risk_at(self, coverage: float) -> float:
        """Risk if at least this fraction of the examples is accepted."""
        require(0 < coverage <= 1, f"`coverage` must lie in (0, 1]; got {coverage}.")
        # If coverage · n is whole, a rounding error must not add an example.
        index = np.searchsorted(self.coverage, coverage - 1e-12)
        return float(self.risk[index])


def reliability_curve(
    probs: Any,
    labels: Any,
    num_bins: int = NUM_BINS,
    *,
    bins: str = "width",
) -> ReliabilityCurve:
    """Accuracy against confidence, which is the probability of the most probable class.

    Args:
        probs: (batch, classes) predictive probabilities.
        labels: (batch,) true classes.
        num_bins: number of bins.
        bins: "width", equal widths on [0, 1]; or "counts", equal numbers of examples as
            far as equal confidences allow, which gives more bins where most examples
            are.

    Returns:
        The curve; its `.ece` is the expected calibration error over these bins
        (`evaluate` uses bins of equal width).

    Raises:
        ValueError: `probs` are not probabilities, labels are out of range, `num_bins`
            is below 1, or `bins` is unknown.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
        >>> round(mf.prediction.reliability_curve(probs, np.array([0, 0, 1, 0])).ece, 3)
        0.25

    References:
        Guo et al. 2017, arXiv:1706.04599.
    """
    require(num_bins >= 1, f"`num_bins` must be at least 1; got {num_bins}.")
    require(
        bins in ("width", "counts"),
        f'`bins` must be "width" or "counts"; got {bins!r}.',
    )
    probs, labels = check_labels(probs, labels)
    edges = equal_widths(num_bins)
    if bins == "counts":
        inner = np.unique(np.quantile(probs.max(1), edges[1:-1]))
        edges = np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])
    counts, confidence, accuracy = confidence_bins(probs, labels, edges)
    return ReliabilityCurve(edges, confidence, accuracy, counts)


def selective_curve(uncertainty: Any, errors: Any) -> SelectiveCurve:
    """Mean error against the fraction of examples accepted, most certain ones first.

    Among examples of equal uncertainty the curve is the average over random orders, so
    it does not depend on the order of the data.

    Args:
        uncertainty: (batch,) any measure of uncertainty, such as the entropy.
        errors: (batch,) 1 or True for a wrong prediction; or any loss.

    Returns:
        The curve; its `.area` is the AURC.

    Raises:
        ValueError: shapes differ, or an entry is NaN.

    Example:
        >>> import meanfield as mf
        >>> curve = mf.prediction.selective_curve([0.1, 0.2, 0.9, 0.8], [0, 0, 1, 0])
        >>> curve.risk.tolist()
        [0.0, 0.0, 0.0, 0.25]

    References:
        Geifman & El-Yaniv 2017, arXiv:1705.08500.
    """
    uncertainty = np.asarray(uncertainty, np.float64)
    errors = np.asarray(errors, np.float64)
    require(
        uncertainty.ndim == 1 and uncertainty.shape == errors.shape and errors.size > 0,
        "`uncertainty` and `errors` must be of one shape (batch,); got "
        f"{uncertainty.shape} and {errors.shape}.",
    )
    require(
        not (np.isnan(uncertainty).any() or np.isnan(errors).any()),
        "`uncertainty` and `errors` must not be NaN; got NaN. Remove such examples.",
    )
    values, groups = np.unique(uncertainty, return_inverse=True)
    totals = np.bincount(groups, errors, len(values))
    shared = (totals / np.bincount(groups, minlength=len(values)))[np.sort(groups)]
    accepted = np.arange(1, len(errors) + 1)
    return SelectiveCurve(
        coverage=accepted / len(errors), risk=np.cumsum(shared) / accepted
    )
