r"""Stratified estimate: each coalition of a size is used for the values of all players.

With μ⁺_{i,s} and μ⁻_{i,s} the mean payoff of the coalitions of s players with and
without player i,

    φ_i = [v(N) − v(∅)]/n + (1/n) Σ_{s=1}^{n−1} (μ⁺_{i,s} − μ⁻_{i,s})

and the difference of the two means is a covariance within the size, between the payoff
and a_i(S), which is n/s for members and −n/(n − s) for the others. So a part of the
payoff that depends only on the size has no effect, the sum over players is exactly
v(N) − v(∅), and the sample covariance per size is unbiased. Complementary coalitions
are combined: the payoff is the odd part g, and sizes s and n − s are one stratum.

The strata are those of SVARM (Kolpaczki et al. 2024, arXiv:2302.00736), which estimates
the two means separately, so that a constant added to the game adds to its error.
"""

import numpy as np

from .designs import draw_pairs, num_pairs_of_size, odd_part
from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import gaussian_statistics, rounding_error, with_unseen

PER_STRATUM = 3  # pairs per stratum, needed for a variance of sample covariances


def minimum_budget(num_players: int) -> int:
    """Evaluations of PER_STRATUM pairs of every size, or of all pairs if fewer."""
    sizes = range(1, num_players // 2 + 1)
    pairs = (min(PER_STRATUM, num_pairs_of_size(num_players, s)) for s in sizes)
    return 2 + 2 * sum(pairs)


def stratified_estimate(
    evaluate: Evaluator, rng: np.random.Generator, *, level: float
) -> tuple[Estimate, float, float]:
    """Values and intervals; also v(∅) and v(N)."""
    num_players = evaluate.num_players
    sizes = np.arange(1, num_players // 2 + 1)
    # A coalition's weight in φ is of order 1/s for members, 1/(n − s) for others. With
    # equal variances within sizes, shares ∝ 1/√(s(n − s)) are optimal (Neyman).
    weights = 1 / np.sqrt(sizes * (num_players - sizes))
    empty, grand = evaluate.ends()
    design = draw_pairs(
        rng, num_players, (evaluate.budget - 2) // 2, weights, at_least=PER_STRATUM
    )
    odd = odd_part(evaluate, design.coalitions)
    values = np.full(num_players, (grand - empty) / num_players)
    variances = np.zeros(num_players)
    fourth = np.zeros(num_players)
    for size in sizes.tolist():
        rows = design.sizes == size
        member = design.coalitions[rows]
        count = len(member)
        population = num_pairs_of_size(num_players, size)
        half = 2 * size == num_players
        contrast = np.where(
            member, num_players / size, -num_players / (num_players - size)
        )
        payoff = odd[rows]
        if half:
            # Both coalitions of a pair are in one stratum, where g has mean 0.
            products = payoff[:, None] * contrast
            share = 1 / num_players
        else:
            # The covariance of a population divides by its size, not by size − 1.
            products = (payoff - payoff.mean())[:, None] * contrast
            products *= count / (count - 1) * (1 - 1 / population)
            share = 2 / num_players
        values += share * products.mean(axis=0)
        left_out = max(0.0, 1 - count / population)
        if left_out > 0:
            squares = np.square(products - products.mean(axis=0))
            squares *= share**2 * left_out / (count * (count - 1))
            variance = squares.sum(axis=0)
            variances += variance
            # Welch–Satterthwaite, ½ Var(variance): for Gaussian products (with fitted
            # mean), or for the observed tails if these are heavier.
            gaussian = variance**2 / max(count - 2, 1)
            seen = (np.square(squares).sum(axis=0) - variance**2 / count) / 2
            fourth += np.maximum(gaussian, seen)
    freedom = np.where(fourth > 0, variances**2 / np.where(fourth > 0, fourth, 1), 1e6)
    scale = max(abs(empty), abs(grand), np.abs(odd).max(initial=0.0))
    estimate = gaussian_statistics(
        values,
        np.sqrt(variances),
        freedom,
        level=level,
        rounding=rounding_error(scale),
    )
    if (design.fraction < 1).any():
        estimate = with_unseen(estimate, evaluate.payoff_range, len(design.sizes))
    return estimate, empty, grand
