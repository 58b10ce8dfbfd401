r"""Paired weighted least squares: Shapley and Banzhaf values as best linear fits.

The Shapley values solve

    min_φ Σ_S ω(S) [v(S) − v(∅) − Σ_{i∈S} φ_i]²    with Σ_i φ_i = v(N) − v(∅),
    ω(S) = 1 / (s (n − s) C(n, s))

where ω is the kernel of Lundberg & Lee 2017 up to a factor n − 1. On complementary
pairs this is a fit of the odd part, g(S) ≈ ½ Σ_i φ_i x_i with x_i = ±1; a quadratic
game, whose odd part is linear, is fitted without error. Banzhaf values are the same fit
with ω = 1 and no constraint.

In a sampled sum, every row has the weight ω divided by the probability of drawing it.
The standard errors describe the randomness of the draw: they are sandwich estimates
with leave-one-out residuals (HC3), each squared residual multiplied by the fraction of
its row's stratum that was not drawn.

References:
    Lundberg & Lee 2017, arXiv:1705.07874. Covert & Lee 2021, arXiv:2012.01536
    (pairing). Musco & Witter 2025, arXiv:2410.01917 (leverage scores 1/C(n, s)).
    MacKinnon & White 1985, Journal of Econometrics 29:305 (HC3).
"""

import numpy as np
from scipy.special import gammaln

from .designs import PairedDesign, draw_pairs, odd_part
from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import gaussian_statistics, rounding_error, with_unseen

SATURATED = 1e-8  # below this value of 1 − leverage, the residual is always zero


def minimum_budget(num_players: int) -> int:
    """Evaluations of ∅, N and n pairs, one more than the n − 1 free coefficients."""
    return 2 * num_players + 2


def regression_estimate(
    evaluate: Evaluator,
    rng: np.random.Generator,
    *,
    sampling: str,
    level: float,
) -> tuple[Estimate, float, float]:
    """Shapley values by paired regression; also v(∅) and v(N).

    Args:
        evaluate: the game.
        rng: source of randomness.
        sampling: "kernel" draws sizes in proportion to 1/(s(n − s)), "leverage" draws
            all sizes equally often.
        level: level of the simultaneous intervals.
    """
    num_players = evaluate.num_players
    sizes = np.arange(1, num_players // 2 + 1)
    mass = 1 / (sizes * (num_players - sizes))
    mass[2 * sizes == num_players] /= 2
    shares = (
        mass if sampling == "kernel" else np.where(2 * sizes == num_players, 0.5, 1)
    )
    empty, grand = evaluate.ends()
    design = draw_pairs(rng, num_players, (evaluate.budget - 2) // 2, shares)
    odd = odd_part(evaluate, design.coalitions)
    even_split = (grand - empty) / num_players
    signs = np.where(design.coalitions, 1.0, -1.0)
    tilt = signs.mean(axis=1)
    half, errors, freedom = _fit(
        signs - tilt[:, None],
        odd - even_split * num_players / 2 * tilt,
        mass[design.sizes - 1] / design.expected,
        design,
        rank=num_players - 1,
    )
    # The coefficients sum to 0 up to rounding.
    values = even_split + 2 * (half - half.mean())
    estimate = _report(values, 2 * errors, freedom, odd, empty, grand, level)
    return _whole(estimate, evaluate, design), empty, grand


def banzhaf_estimate(
    evaluate: Evaluator, rng: np.random.Generator, *, level: float
) -> Estimate:
    """Banzhaf values by paired regression; players join with probability ½."""
    num_players = evaluate.num_players
    sizes = np.arange(num_players // 2 + 1)
    log_mass = -(gammaln(sizes + 1) + gammaln(num_players - sizes + 1))
    mass = np.exp(log_mass - log_mass.max())
    mass[2 * sizes == num_players] /= 2
    design = draw_pairs(rng, num_players, evaluate.budget // 2, mass, first_size=0)
    odd = odd_part(evaluate, design.coalitions)
    half, errors, freedom = _fit(
        np.where(design.coalitions, 1.0, -1.0),
        odd,
        mass[design.sizes] / design.expected,
        design,
        rank=num_players,
    )
    estimate = _report(2 * half, 2 * errors, freedom, odd, 0.0, 0.0, level)
    return _whole(estimate, evaluate, design)


def _fit(features, target, weights, design: PairedDesign, *, rank: int):
    """Weighted least squares: coefficients, sandwich errors, degrees of freedom."""
    root = np.sqrt(weights / weights.mean())[:, None]
    weighted = root * features
    left, singular, right = np.linalg.svd(weighted, full_matrices=False)
    found = int((singular > 1e-9 * singular[0]).sum())
    left, singular, right = left[:, :found], singular[:found], right[:found]
    scaled_target = root[:, 0] * target
    coefficients = right.T @ ((left.T @ scaled_target) / singular)
    residual = scaled_target - left @ (left.T @ scaled_target)
    outside = 1 - np.square(left).sum(axis=1)
    alone = outside < SATURATED
    left_out = residual / np.where(alone, 1, outside)
    # A row of leverage 1 has residual 0 whatever its error: use the others' residuals.
    others = left_out[~alone]
    left_out[alone] = np.sqrt(np.mean(others**2)) if len(others) else 0.0
    told = len(others) > 0 or bool((design.fraction >= 1).all())
    left_out *= np.sqrt(np.clip(1 - design.fraction, 0, 1))
    influence = (left * left_out[:, None] / singular) @ right
    errors = np.sqrt(np.square(influence).sum(axis=0))
    if found < rank or not told:
        # The rows do not determine all coefficients, or all have leverage 1: the error
        # is not known, and is set to infinity.
        errors = np.full(features.shape[1], np.inf)
    return coefficients, errors, max(len(features) - rank, 1)


def _whole(estimate: Estimate, evaluate: Evaluator, design: PairedDesign) -> Estimate:
    """The estimate with an error for coalitions not drawn, even after a perfect fit."""
    if (design.fraction >= 1).all():
        return estimate
    return with_unseen(estimate, evaluate.payoff_range, len(design.sizes))


def _report(values, errors, freedom, odd, empty, grand, level: float) -> Estimate:
    scale = max(abs(empty), abs(grand), np.abs(odd).max(initial=0.0))
    return gaussian_statistics(
        values,
        errors,
        np.full(len(values), float(freedom)),
        level=level,
        rounding=rounding_error(scale * len(values)),
    )
