"""Detection of out-of-distribution inputs by their uncertainty."""

import dataclasses
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from meanfield.checks import require


@dataclasses.dataclass(frozen=True)
class OODScores:
    """Separation of out-of-distribution ("outside") inputs from others by a score.

    Attributes:
        auroc: probability that an outside input scores above an inside one; ½ is
            chance, 1 is perfect.
        aupr: average precision with the outside inputs as positives.
        fpr95: fraction of outside inputs whose score is at most the 95 % quantile of
            the inside scores; 0 is perfect.
    """

    auroc: float
    aupr: float
    fpr95: float


def ood_scores(inside: Any, outside: Any) -> OODScores:
    """Scores of an uncertainty as a detector of out-of-distribution inputs.

    Args:
        inside: (examples,) uncertainty of test inputs like the training data.
        outside: (examples,) uncertainty of other inputs; expected to be higher.

    Returns:
        `OODScores`.

    Raises:
        ValueError: an empty list, another shape, or a number that is not finite.

    Example:
        >>> from meanfield.prediction.ood import ood_scores
        >>> ood_scores([0.1, 0.2, 0.3], [0.25, 0.9]).auroc
        0.8333333333333334
    """
    inside, outside = _scores("inside", inside), _scores("outside", outside)
    scores = np.concatenate([inside, outside])
    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
    threshold = np.quantile(inside, 0.95, method="inverted_cdf")
    return OODScores(
        auroc=float(roc_auc_score(is_outside, scores)),
        aupr=float(average_precision_score(is_outside, scores)),
        fpr95=float((outside <= threshold).mean()),
    )


def _scores(name: str, given: Any) -> np.ndarray:
    scores = np.asarray(given, np.float64)
    require(
        scores.ndim == 1 and scores.size > 0 and bool(np.isfinite(scores).all()),
        f"`{name}` must be a list of finite numbers, one for each input; got shape "
        f"{scores.shape}.",
    )
    return scores
