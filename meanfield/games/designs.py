r"""Choose the coalitions for estimators in which each coalition informs all players.

A coalition and its complement are evaluated together: the pair gives the odd part
g(S) = ½[v(S) − v(N∖S)], the only part of a game on which Shapley and Banzhaf values
depend. Pairs form strata by size, s = |S| ≤ n/2. The number of pairs drawn from a
stratum is proportional to a weight that depends on s, up to all pairs of the stratum;
they are drawn without replacement. So small strata are enumerated and have no sampling
error, and with a budget for all coalitions every estimator is exact.
"""

import itertools
from math import comb

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from .evaluation import Evaluator

ENUMERABLE = 20_000  # strata up to this size are listed rather than drawn by rejection
CANDIDATES = 32  # random coalitions among which the next one is chosen
CHOSEN_PER_PLAYER = 3  # pairs per player chosen in this way; further ones are random


class PairedDesign(eqx.Module):
    """Coalitions of at most n/2 players, each of them paired with its complement.

    Args:
        coalitions: bool (pairs, players).
        sizes: |S| of every row.
        expected: expected number of pairs drawn from the row's stratum.
        fraction: the fraction of the row's stratum that was drawn; 1 if enumerated.
    """

    coalitions: Bool[np.ndarray, "pairs players"]
    sizes: Int[np.ndarray, " pairs"]
    expected: Float[np.ndarray, " pairs"]
    fraction: Float[np.ndarray, " pairs"]


def num_pairs_of_size(num_players: int, size: int) -> int:
    """Number of complementary pairs whose smaller coalition has `size` players."""
    count = comb(num_players, size)
    return count // 2 if 2 * size == num_players else count


def draw_pairs(
    rng: np.random.Generator,
    num_players: int,
    num_pairs: int,
    weights: Float[np.ndarray, " strata"],
    first_size: int = 1,
    at_least: int = 0,
) -> PairedDesign:
    """Draw a paired design.

    Args:
        rng: source of randomness.
        num_players: n.
        num_pairs: number of pairs to draw, at most all that exist.
        weights: relative number of pairs of sizes first_size … ⌊n/2⌋.
        first_size: 1, or 0 to count {∅, N} among the pairs.
        at_least: pairs from every stratum; the others are divided in proportion to the
            weights.
    """
    sizes = np.arange(first_size, num_players // 2 + 1)
    # Sizes of strata are capped by the budget, because 2^1000 overflows a float.
    capacity = np.array(
        [min(num_pairs_of_size(num_players, s), num_pairs + 1) for s in sizes.tolist()]
    )
    floor = np.minimum(at_least, capacity)
    shares = floor + _share(float(num_pairs - floor.sum()), weights, capacity - floor)
    counts = _round(rng, shares, num_pairs)
    blocks = []
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        blocks.append(_draw_stratum(rng, num_players, size, count))
    # Division of Python integers does not overflow, however large the stratum.
    drawn = [
        count / num_pairs_of_size(num_players, size)
        for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
    ]
    return PairedDesign(
        coalitions=np.concatenate(blocks),
        sizes=np.repeat(sizes, counts),
        expected=np.repeat(shares, counts),
        fraction=np.repeat(drawn, counts),
    )


def spread_pairs(
    rng: np.random.Generator, num_players: int, num_pairs: int
) -> Bool[np.ndarray, "pairs players"]:
    """Different pairs that are as informative as possible about all players.

    The numbers of pairs per size are proportional to 1/√(s(n − s)), because a coalition
    has a weight of order 1/s in the φ of its members and 1/(n − s) in that of the
    others (Neyman allocation). With no more pairs than players all coalitions have size
    ⌊n/2⌋, which is the most informative. Within a size, the next coalition is chosen
    from CANDIDATES random ones: the one whose centred signs x have the largest
    xᵀ (δI + Σ x xᵀ)⁻¹ x, with the sum over the coalitions chosen before. This makes the
    determinant of the sum large (a D-optimal design).

    Args:
        rng: source of randomness.
        num_players: n.
        num_pairs: number of pairs, at most all that exist.
    """
    half = num_players // 2
    sizes = np.arange(1, half + 1)
    weights = 1 / np.sqrt(sizes * (num_players - sizes))
    if num_pairs <= min(num_players, num_pairs_of_size(num_players, half)):
        weights = (sizes == half).astype(float)
    there = [num_pairs_of_size(num_players, size) for size in sizes.tolist()]
    capacity = np.array([min(count, num_pairs + 1) for count in there])
    counts = _round(rng, _share(float(num_pairs), weights, capacity), num_pairs)
    pools = {
        size: _draw_stratum(rng, num_players, size, min(most, count + CANDIDATES - 1))
        for size, most, count in zip(
            sizes.tolist(), there, counts.tolist(), strict=True
        )
        if count
    }
    order = rng.permutation(np.repeat(sizes, counts)).tolist()
    inverse = 1e3 * np.eye(num_players)
    chosen = []
    for number, size in enumerate(order):
        pool, best = pools[size], 0
        if number < CHOSEN_PER_PLAYER * num_players:
            signs = np.where(pool[:CANDIDATES], 1.0, -1.0)
            signs -= signs.mean(axis=1, keepdims=True)
            seen = signs @ inverse
            gains = np.einsum("ci,ci->c", seen, signs)
            best = int(np.argmax(gains))
            inverse -= np.outer(seen[best], seen[best]) / (1 + gains[best])
        chosen.append(pool[best].copy())
        pool[best] = pool[0]
        pools[size] = pool[1:]
    return np.array(chosen)


def odd_part(
    evaluate: Evaluator, coalitions: Bool[np.ndarray, "pairs players"]
) -> Float[np.ndarray, " pairs"]:
    """g(S) = ½[v(S) − v(N∖S)] for every row, by two evaluations per row."""
    return (evaluate(coalitions) - evaluate(~coalitions)) / 2


def _share(total: float, weights, capacity) -> Float[np.ndarray, " strata"]:
    """Divide `total` in proportion to the weights, up to each stratum's capacity."""
    shares = np.zeros(len(weights))
    free = capacity > 0
    while total > 0 and free.any():
        offer = total * weights / weights[free].sum()
        full = free & (offer >= capacity)
        if not full.any():
            shares[free] = offer[free]
            break
        shares[full] = capacity[full]
        total -= float(capacity[full].sum())
        free &= ~full
    return shares


def _round(rng, shares, total: int) -> Int[np.ndarray, " strata"]:
    """Whole numbers with these means and this sum (systematic sampling)."""
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    edges[-1] = total
    # The share of a full stratum is a whole number, and rounding must not change it.
    edges = np.round(edges, 9)
    return np.diff(np.floor(edges + rng.random() * (1 - 1e-9)).astype(int))


def _draw_stratum(rng, num_players: int, size: int, count: int):
    """`count` different pairs whose smaller coalition has `size` players."""
    if count == 0:
        return np.zeros((0, num_players), dtype=bool)
    total = num_pairs_of_size(num_players, size)
    if total <= ENUMERABLE and 3 * count >= total:
        members = np.array(list(itertools.combinations(range(num_players), size)), int)
        # Coalitions of size n/2 with player 0 are listed first: one of each pair.
        members = members[rng.permutation(total)[:count]]
        rows = np.zeros((count, num_players), dtype=bool)
        np.put_along_axis(rows, members.reshape(count, size), True, axis=1)
        return rows
    seen: dict[bytes, np.ndarray] = {}
    while len(seen) < count:
        draws = rng.random((count, num_players)).argsort(axis=1) < size
        if 2 * size == num_players:
            draws ^= ~draws[:, :1]
        for row in draws:
            if len(seen) < count:
                seen.setdefault(row.tobytes(), row)
    return np.array(list(seen.values()))
