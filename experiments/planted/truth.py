"""Error rates against the truth, up to the order of the hidden units."""

import itertools

import numpy as np
from scipy.stats import rankdata

from .designs import Design, Masks

SURE = 0.9


def arranged(design: Design, values: dict[str, np.ndarray]) -> Masks:
    """The truth with its hidden units in the order that fits the values best.

    The best order has the largest sum of values over the connections that matter.
    """
    truth = design.truth
    places = {name: np.array(np.nonzero(part)) for name, part in truth.items()}
    sizes = [truth[group[0][0]].shape[group[0][1]] for group in design.hidden]
    best, found = -np.inf, places
    for orders in itertools.product(
        *(itertools.permutations(range(size)) for size in sizes)
    ):
        moved = {name: part.copy() for name, part in places.items()}
        for group, order in zip(design.hidden, orders, strict=True):
            for name, axis in group:
                moved[name][axis] = np.array(order)[moved[name][axis]]
        total = sum(values[name][tuple(part)].sum() for name, part in moved.items())
        if total > best:
            best, found = total, moved
    masks = {name: np.zeros(part.shape, bool) for name, part in truth.items()}
    for name, part in found.items():
        masks[name][tuple(part)] = True
    return masks


def flat(parts: dict[str, np.ndarray], design: Design) -> np.ndarray:
    """The connections whose truth is known, as one array."""
    return np.concatenate([np.ravel(parts[name]) for name in design.truth])


def rates(kept: np.ndarray, matter: np.ndarray) -> tuple[float, float]:
    """Fractions kept of the connections that matter and of the others."""
    return float(kept[matter].mean()), float(kept[~matter].mean())


def area(scores: np.ndarray, matter: np.ndarray) -> float:
    """Probability that one that matters outscores one that does not (ties count ½)."""
    true, false = matter.sum(), (~matter).sum()
    above = rankdata(scores)[matter].sum() - true * (true + 1) / 2
    return float(above / (true * false))


def connection_area(design: Design, scores: dict[str, np.ndarray]) -> float:
    """The area for connections, up to the order of hidden units."""
    ranks = rankdata(flat(scores, design))
    cuts = np.cumsum([part.size for part in design.truth.values()])[:-1]
    by_name = {
        name: part.reshape(design.truth[name].shape)
        for name, part in zip(design.truth, np.split(ranks, cuts), strict=True)
    }
    matter = arranged(design, by_name)
    return area(ranks, flat(matter, design))


def calibration(probs: np.ndarray, matter: np.ndarray) -> dict[str, float]:
    """Compare 1 − π with the fraction of the connections that matter.

    Returns:
        The fraction that matters of the connections with 1 − π above 0.9, and of those
        with 1 − π below 0.1; and the mean distance between 1 − π and this fraction over
        ten bins, weighted by their sizes.
    """
    bins = np.minimum((probs * 10).astype(int), 9)
    gaps = [
        (bins == n).mean() * abs(probs[bins == n].mean() - matter[bins == n].mean())
        for n in np.unique(bins)
    ]
    high, low = probs > SURE, probs < 1 - SURE
    return {
        "true of 1-pi > 0.9": float(matter[high].mean()) if high.any() else np.nan,
        "true of 1-pi < 0.1": float(matter[low].mean()) if low.any() else np.nan,
        "calibration gap": float(sum(gaps)),
    }
