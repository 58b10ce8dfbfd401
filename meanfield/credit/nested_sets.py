r"""Tests of nested sets of connections, one after the other.

The sets grow along an order of the connections. The hypothesis H_k is that without the
k-th set the payoff falls by more than ε (or, for important connections, by less than
four fifths of v(N) − v(∅)). The H_k are tested, each at level α, in a sequence that is
fixed before the certifying examples are used; the tests end at the first H_k that is
not rejected. Let H_j be the first true hypothesis of the sequence. Then a true
hypothesis is rejected only if H_j is rejected, which has probability at most α. So no
correction for the number of tests is needed.

References:
    Rosenbaum 2008, Biometrika 95:248 (testing hypotheses in order).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import bounds
from .removal import Ranks

# Part of v(N) − v(∅) that must be lost when the important connections are removed.
SHARE = 0.8
# Numbers of connections that are kept (absent sets) or removed (important sets) in the
# tests, relative to the number that the choosing examples suggest.
STEPS = (8.0, 4.0, 2.8, 2.0, 1.6, 1.35, 1.2, 1.1, 1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.5)
GRID = 0.9

Without = Callable[[Ranks, int], np.ndarray]


def ranks_of(scores: Mapping[str, np.ndarray]) -> Ranks:
    """The rank of every connection in increasing order; ties keep their order."""
    flat = np.concatenate([np.ravel(score) for score in scores.values()])
    ranks = np.empty(flat.size, np.int32)
    ranks[np.argsort(flat, kind="stable")] = np.arange(flat.size, dtype=np.int32)
    cuts = np.cumsum([score.size for score in scores.values()])[:-1]
    parts = np.split(ranks, cuts)
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


class NestedSets:
    """Two searches, for removable and for important connections.

    The choosing examples suggest the sets, and the certifying examples test them.

    Args:
        choosing: function of ranks and a size: payoffs of the choosing examples without
            the `size` connections of lowest rank.
        certifying: the same for the certifying examples.
        total: number of connections.
        alpha: level of each search.
        exact: whether payoffs are 0 or 1, so that the exact bound is used for removable
            sets; for important sets it never is.
    """

    def __init__(
        self,
        choosing: Without,
        certifying: Without,
        total: int,
        alpha: float,
        exact: bool,
    ):
        self.choosing, self.certifying = choosing, certifying
        self.total, self.alpha, self.exact = total, alpha, exact

    def removable(self, ranks: Ranks, epsilon: float) -> tuple[int, float, str]:
        """Size of the largest certified absent set, bound on its loss, and verdict."""
        self.full = self.certifying(ranks, 0)
        self.empty = self.certifying(ranks, self.total)
        number = len(self.full)
        needed = bounds.examples_needed(epsilon, self.alpha, exact=self.exact)
        if number < needed:
            return (
                0,
                math.nan,
                f"cannot tell what is absent: {number} examples certify, but "
                f"`epsilon` = {epsilon:g} needs {needed} at this level",
            )
        whole = self.choosing(ranks, 0).mean()

        def fits(kept: int) -> bool:
            loss = whole - self.choosing(ranks, self.total - kept).mean()
            return bool(loss <= epsilon)

        suggested = _smallest(fits, self.total)
        best, bound = 0, math.nan
        for kept in _sequence(suggested, self.total):
            lost = self.full - self.certifying(ranks, self.total - kept)
            upper = bounds.upper_bound(lost, self.alpha, exact=self.exact)
            if upper > epsilon:
                break
            best, bound = self.total - kept, upper
        if best == 0:
            return (
                0,
                math.nan,
                f"nothing can be removed with a certified loss within {epsilon:g}",
            )
        all_ = "all" if best == self.total else f"{best:,}"
        return best, bound, f"{all_} of {self.total:,} can be removed at once"

    def carrying(self, ranks: Ranks, num_absent: int) -> tuple[int, float, str]:
        """Size of the smallest certified important set, bound on the loss, verdict."""
        most = self.total - num_absent
        if most == 0:
            return 0, math.nan, "nothing is important: all connections can be removed"
        whole, none = self.choosing(ranks, 0), self.choosing(ranks, self.total)

        def carries(size: int) -> bool:
            left = self.choosing(ranks, size).mean()
            return bool(left <= _left(whole, none).mean())

        best, bound = 0, math.nan
        for size in _sequence(_smallest(carries, most), most):
            after = self.certifying(ranks, size)
            above = after - _left(self.full, self.empty)
            if bounds.upper_bound(above, self.alpha, exact=False) > 0:
                break
            best = size
            bound = -bounds.upper_bound(after - self.full, self.alpha, exact=False)
        if best == 0:
            return (
                0,
                math.nan,
                "cannot tell what is important: it is not certain that removing all "
                f"connections that are not absent costs {SHARE:g} of v(N) − v(∅) = "
                f"{float((self.full - self.empty).mean()):.3g}",
            )
        return best, bound, f"{best:,} are important"

    def mean_without(self, masks: Mapping[str, np.ndarray]) -> float:
        """Mean payoff on the certifying examples without the connections of a mask."""
        ranks = {name: (~mask).astype(np.int32) for name, mask in masks.items()}
        return float(self.certifying(ranks, 1).mean())


def _left(full: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The payoff of every example after the loss of the required share."""
    return full - SHARE * (full - empty)


def _smallest(holds: Callable[[int], bool], total: int) -> int:
    """The smallest size on a geometric grid at which a monotone property holds."""
    sizes = [total]
    while sizes[-1] > 1:
        sizes.append(max(1, min(sizes[-1] - 1, round(GRID * sizes[-1]))))
    low, high = 0, len(sizes) - 1  # The property is assumed to hold at sizes[low].
    if holds(sizes[high]):
        return sizes[high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(sizes[middle]) else (low, middle)
    return sizes[low]


def _sequence(suggested: int, total: int) -> Sequence[int]:
    """Decreasing sizes around the suggested one."""
    sizes = {total, *(round(step * suggested) for step in STEPS)}
    if suggested == 1:
        sizes.add(0)
    return sorted((size for size in sizes if size <= total), reverse=True)
