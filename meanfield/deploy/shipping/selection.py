"""Choose the best of K networks, and measure how much they differ."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meanfield.checks import require


@dataclasses.dataclass(frozen=True)
class Diversity:
    """How much K networks differ.

    Attributes:
        agreement: fraction of the examples on which all K predict the same class.
        disagreement: fraction of the examples on which two networks differ, averaged
            over pairs.
        mask_overlap: Jaccard index of the masks (connections present in both networks
            over connections present in either), averaged over pairs.
    """

    agreement: float
    disagreement: float
    mask_overlap: float


def choose_best(payoffs: Sequence[float]) -> int:
    """Index of the network with the highest validation payoff (the first of equals).

    The maximum over K networks is biased upward, so report the score of the chosen
    network on other data than the validation data.

    Raises:
        ValueError: there is no payoff, or one is NaN.
    """
    numbers = np.asarray(payoffs, np.float64)
    require(
        numbers.ndim == 1 and numbers.size > 0 and not np.isnan(numbers).any(),
        f"`payoffs` must be numbers, one for each network; got {numbers.tolist()}.",
    )
    return int(numbers.argmax())


def measure_diversity(
    choices: Any, masks: Sequence[Mapping[str, np.ndarray]]
) -> Diversity:
    """Agreement of the predictions and overlap of the masks of K networks.

    Args:
        choices: predicted classes (networks, examples).
        masks: the masks of each network.
    """
    choices = np.asarray(choices)
    require(
        choices.ndim == 2 and len(choices) == len(masks),
        f"`choices` must be (networks, examples) for {len(masks)} networks; got shape "
        f"{choices.shape}.",
    )
    pairs = list(itertools.combinations(range(len(choices)), 2))
    differ = [float((choices[i] != choices[j]).mean()) for i, j in pairs]
    overlap = [_overlap(masks[i], masks[j]) for i, j in pairs]
    return Diversity(
        agreement=float((choices == choices[0]).all(0).mean()),
        disagreement=float(np.mean(differ)) if pairs else 0.0,
        mask_overlap=float(np.mean(overlap)) if pairs else 1.0,
    )


def _overlap(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    both = sum(int((one[name] & other[name]).sum()) for name in one)
    either = sum(int((one[name] | other[name]).sum()) for name in one)
    return both / either if either else 1.0
