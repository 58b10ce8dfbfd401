r"""Bayesian quadrature of the Shapley sum: a Gaussian process over coalitions.

The odd part of the game has the prior of `odd_kernel`, times σ². The Shapley value is
linear in it, so its posterior is Gaussian in closed form. Δ(t) = Cov(φ_i − φ_j, g(T))
for i ∈ T ∌ j depends on the size of T alone, because the prior treats players alike:

    φ̂_i = [v(N) − v(∅)]/n + Σ_T a_T Δ(t_T) (1[i ∈ T] − t_T/n),       a = k⁻¹ g
    Var φ_i = A (1 − 1/n) − b_iᵀ k⁻¹ b_i,   b_iT = Δ(t_T)(1[i ∈ T] − t_T/n)

with A = ½ Var(φ_i − φ_j). There is no sum over 2^n coalitions; efficiency holds by
construction; and the values are exact once all coalitions are evaluated.

The kernel is chosen by the evaluations, see `kernel_choice`: posteriors are averaged
with the marginal likelihoods of their kernels as weights.

The standard error is that of the model, scaled by leave-one-out residuals. It is
calibrated on average over games drawn from the prior, whereas that of permutations is
calibrated for every single game, over repetitions. So it gives no interval with a
guaranteed coverage, and the intervals are (−∞, ∞).

References:
    O'Hagan 1991, Bayes–Hermite quadrature, J. Stat. Plan. Inference 29:245.
    Covert & Lee 2021, arXiv:2012.01536 (pairing).
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from .designs import odd_part, spread_pairs
from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import gaussian_statistics, rounding_error, unpromised, with_unseen
from .kernel_choice import factorized, weigh_kernels
from .odd_kernel import GramParts, OddKernel
from .threads import one_thread

MAX_PAIRS = 4096  # the solve is cubic: about two seconds at this size on two cores
MIN_BUDGET = 4  # ∅, N and one pair
MAX_WORK = 4e9  # sum over kernels of pairs³: bounds how many kernels are averaged


def surrogate_estimate(
    evaluate: Evaluator, rng: np.random.Generator, *, level: float
) -> tuple[Estimate, float, float]:
    """Posterior means and standard deviations, no intervals; also v(∅) and v(N)."""
    n = evaluate.num_players
    num_pairs = min((evaluate.budget - 2) // 2, MAX_PAIRS)
    empty, grand = evaluate.ends()
    coalitions = spread_pairs(rng, n, num_pairs)
    even_split = (grand - empty) / n
    odd = odd_part(evaluate, coalitions)
    # Subtract the even split of the payoff; the prior is on the rest.
    odd = odd - even_split * (coalitions.sum(axis=1) - n / 2)
    scale = np.abs(odd).max()
    if scale == 0:
        # All payoffs so far depend on the size alone: the values are the even split.
        scale = 1.0
    with one_thread(len(odd)):
        kernels = weigh_kernels(rng, coalitions, odd / scale)
        deviation, errors = posterior(coalitions, odd / scale, kernels)
    estimate = gaussian_statistics(
        even_split + scale * deviation,
        scale * errors,
        np.full(n, freedom(coalitions.sum(axis=1))),
        level=level,
        rounding=rounding_error(max(abs(empty), abs(grand), scale)),
    )
    estimate = with_unseen(estimate, evaluate.payoff_range, len(odd))
    return unpromised(estimate), empty, grand


def posterior(
    coalitions: Bool[np.ndarray, "pairs players"],
    odd: Float[np.ndarray, " pairs"],
    weighted_kernels: list[tuple[OddKernel, float]],
) -> tuple[Float[np.ndarray, " players"], Float[np.ndarray, " players"]]:
    """Posterior mean of φ_i − [v(N) − v(∅)]/n, and standard deviation.

    The kernels are averaged, so their disagreement is part of the variance.
    """
    most = max(1, int(MAX_WORK / len(odd) ** 3))
    weighted_kernels = weighted_kernels[:most]
    n = coalitions.shape[1]
    sizes, parts = coalitions.sum(axis=1), GramParts.of(coalitions)
    means, variances, weights = [], [], []
    for kernel, kernel_weight in weighted_kernels:
        scaled = odd / kernel.amplitude()[sizes]
        factor, _ = factorized(parts.gram(kernel), kernel.surprise)
        covariance, contrast_variance = kernel.shapley_covariance()
        weight = covariance[sizes][:, None] * (coalitions - sizes[:, None] / n)
        # k⁻¹ = Rᵀ R with R the inverse of the factor.
        root = solve_triangular(
            factor, np.eye(len(odd)), lower=True, check_finite=False
        )
        white = root @ scaled
        solved = white @ root
        # σ² from leave-one-out residuals in units of their predicted deviation, or from
        # the restricted likelihood where that is larger (few pairs of each size).
        left_out = np.mean(np.square(solved) / np.square(root).sum(axis=0))
        scale = max(left_out, white @ white / freedom(sizes))
        shrunk = np.square(root @ weight).sum(axis=0)
        left = contrast_variance * (1 - 1 / n) - shrunk
        means.append(weight.T @ solved)
        variances.append(scale * np.maximum(left, 0))
        weights.append(kernel_weight)
    mean = np.average(means, axis=0, weights=weights)
    spread = np.average(np.square(means - mean), axis=0, weights=weights)
    return mean, np.sqrt(np.average(variances, axis=0, weights=weights) + spread)


def freedom(sizes: Int[np.ndarray, " pairs"]) -> float:
    """Degrees of freedom of σ²: number of pairs minus number of different sizes."""
    return float(max(len(sizes) - len(np.unique(sizes)), 1))
