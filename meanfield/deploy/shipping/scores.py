"""Scores on data of one network, or of the average prediction of K networks."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.learning.distributions import base_of, has_labels, is_binary
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.prediction.metrics import class_scores


def score(outputs: Any, y: Any, likelihood: Any) -> dict[str, Any]:
    """Scores of one network's outputs: `accuracy` and `ece`, or `rmse`; and `nll`.

    Args:
        outputs: outputs for a batch.
        y: the targets.
        likelihood: map from outputs to a distribution.
    """
    return score_average([outputs], y, likelihood)


def score_average(members: Sequence[Any], y: Any, likelihood: Any) -> dict[str, Any]:
    r"""Scores of the average distribution (1/K) Σ_k p_k(y | x) of K networks.

    Returns:
        `nll` in nats per example; `accuracy` and `ece` (15 bins of confidence) for
        classes; `rmse` for real targets, and `rmse_by_output` if a target is several
        numbers.
    """
    require(
        bool(members) and len(members[0]) == len(y),
        f"`y` must have a target for each example; got {len(y)} targets for "
        f"{len(members[0]) if members else 0} examples.",
    )
    distributions = [
        output_distribution(likelihood, jnp.asarray(one)) for one in members
    ]
    targets = align_targets(distributions[0], y)
    logs = np.stack(
        [np.asarray(one.log_prob(targets), np.float64) for one in distributions]
    )
    mixed = np.logaddexp.reduce(logs, axis=0) - np.log(len(distributions))
    scores = {"nll": float(-mixed.mean())}
    if has_labels(distributions[0]):
        probs = np.mean(
            [np.asarray(base_of(one).probs) for one in distributions], axis=0
        )
        if is_binary(distributions[0]):
            probs = np.stack([1 - probs, probs], -1)
        labels = np.asarray(targets).astype(int).reshape(-1)
        found = class_scores(probs.reshape(len(labels), -1), labels)
        return scores | {name: found[name] for name in ("accuracy", "ece")}
    mean = np.mean([np.asarray(one.mean, np.float64) for one in distributions], axis=0)
    square = np.square(mean - np.asarray(targets, np.float64))
    scores["rmse"] = float(np.sqrt(square.mean()))
    if square.ndim == 2 and square.shape[1] > 1:
        scores["rmse_by_output"] = np.sqrt(square.mean(0)).tolist()
    return scores


def choices(outputs: Any, likelihood: Any) -> np.ndarray | None:
    """The class that a network predicts for each example; None for real targets."""
    distribution = output_distribution(likelihood, jnp.asarray(outputs))
    if not has_labels(distribution):
        return None
    probs = np.asarray(base_of(distribution).probs)
    chosen = probs > 0.5 if is_binary(distribution) else probs.argmax(-1)
    return np.asarray(chosen, int).reshape(-1)


def payoff(scores: dict[str, Any]) -> float:
    """The score that is maximised on validation data: accuracy for classes, else −NLL.

    The NLL weights every target by its noise, so the targets' units do not matter.
    """
    return scores["accuracy"] if "accuracy" in scores else -scores["nll"]
