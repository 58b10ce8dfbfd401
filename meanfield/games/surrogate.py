r"""Bayesian quadrature of the Shapley sum: a Gaussian process over coalitions.

The odd part of the game has the prior of `odd_kernel`, times σ². The Shapley value is
linear in it, so its posterior is Gaussian in closed form. Δ(t) = Cov(φ_i − φ_j, g(T))
for i ∈ T ∌ j depends on the size of T alone, because the prior treats players alike:

    φ̂_i = [v(N) − v(∅)]/n + Σ_T a_T Δ(t_T) (1[i ∈ T] − t_T/n),       a = k⁻¹ g
    Var φ_i = A (1 − 1/n) − b_iᵀ k⁻¹ b_i,   b_iT = Δ(t_T)(1[i ∈ T] − t_T/n)

with A = ½ Var(φ_i − φ_j). There is no sum over 2^n coalitions; efficiency holds by
construction; and the values are exact once all coalitions are evaluated.

The kernel is chosen by the evaluations. Kernels range from an additive one, whose
posterior mean is paired least squares, to kernels of high interactions; they are
averaged with their marginal likelihoods as weights. Their grid is searched one
hyperparameter at a time, starting from an additive and from a non-additive kernel.
Almost half of the prior mass is on additive games, because they are common and a few
evaluations are not informative.

The standard error is that of the model, scaled by leave-one-out residuals. It is
calibrated on average over games drawn from the prior, but not, as with permutations,
over repetitions for every single game. So no interval with a guaranteed coverage
follows from it, and none is returned.

References:
    O'Hagan 1991, Bayes–Hermite quadrature, J. Stat. Plan. Inference 29:245.
    Covert & Lee 2021, arXiv:2012.01536 (pairing).
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve

from .designs import odd_part, spread_pairs
from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import gaussian_statistics, rounding_error, unpromised, with_unseen
from .odd_kernel import OddKernel

MAX_PAIRS = 4096  # the solve is cubic: about two seconds at this size on two cores
PAIRS_FOR_CHOICE = 256  # rows on which the grid is compared
MIN_BUDGET = 4  # ∅, N and one pair

# ρ, ℓ (in units of log odds), b, ε, γ; b and ε in parts of the variance of K.
GRID = (
    (0.003, 0.03, 0.12, 0.25, 0.45, 0.7),
    (1.0, 2.5, np.inf),
    (1e-3, 0.1, 10.0),
    (1e-6, 1e-3, 1e-2, 0.1, 1.0),
    (0.0, 1.0),
)
ADDITIVE = (0.003, np.inf, 1e-3, 1e-6, 0.0)
STARTS = (ADDITIVE, (0.12, 2.5, 0.1, 1e-3, 0.0))
ADDITIVE_LOG_ODDS = 6.0  # e⁶ = 403, against 539 other kernels
CYCLES = 2  # through the hyperparameters, from every start
KEPT_WEIGHT = 0.99  # of the posterior over the evaluated kernels
MOST_KEPT = 6
MAX_WORK = 4e9  # sum over kernels of pairs³: bounds how many kernels are averaged
JITTER = 1e-9

Shape = tuple[float, ...]


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
    deviation, errors = posterior(
        coalitions, odd / scale, weigh_kernels(rng, coalitions, odd / scale)
    )
    estimate = gaussian_statistics(
        even_split + scale * deviation,
        scale * errors,
        np.full(n, freedom(coalitions.sum(axis=1))),
        level=level,
        rounding=rounding_error(max(abs(empty), abs(grand), scale)),
    )
    estimate = with_unseen(estimate, evaluate.payoff_range, len(odd))
    return unpromised(estimate), empty, grand


def weigh_kernels(
    rng: np.random.Generator,
    coalitions: Bool[np.ndarray, "pairs players"],
    odd: Float[np.ndarray, " pairs"],
) -> list[tuple[OddKernel, float]]:
    """The kernels of largest posterior weight among those that the search evaluates.

    σ² is profiled out. The kernels have together KEPT_WEIGHT of the mass, and their
    weights are renormalised.
    """
    if len(odd) > PAIRS_FOR_CHOICE:
        rows = rng.choice(len(odd), PAIRS_FOR_CHOICE, replace=False)
        coalitions, odd = coalitions[rows], odd[rows]
    evidence = _Evidence(coalitions, odd)
    for shape in STARTS:
        for _ in range(CYCLES):
            before = shape
            for place, options in enumerate(GRID):
                others = [
                    (*shape[:place], option, *shape[place + 1 :]) for option in options
                ]
                shape = max(others, key=evidence)
            if shape == before:
                break
    shapes, logs = list(evidence.seen), np.array(list(evidence.seen.values()))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = np.argsort(-weights)
    enough = int((np.cumsum(weights[order]) < KEPT_WEIGHT).sum()) + 1
    kept = order[: min(enough, MOST_KEPT)]
    mass = weights[kept].sum()
    n = coalitions.shape[1]
    return [(_kernel(n, shapes[k]), float(weights[k] / mass)) for k in kept]


class _Evidence:
    """Log marginal likelihood of a kernel of the grid, up to a constant.

    Kernels share computations: a Gram matrix for each (ρ, ℓ, b), a factor for each ε.
    """

    def __init__(self, coalitions: Bool[np.ndarray, "pairs players"], odd: np.ndarray):
        self.seen: dict[Shape, float] = {}
        self._n, self._odd = coalitions.shape[1], odd
        self._sizes = coalitions.sum(axis=1)
        self._distances = _distances(coalitions)
        self._grams: dict[Shape, np.ndarray] = {}
        self._factors: dict[Shape, tuple] = {}

    def __call__(self, shape: Shape) -> float:
        if shape not in self.seen:
            self.seen[shape] = self._log(shape)
        return self.seen[shape]

    def _log(self, shape: Shape) -> float:
        kernel = _kernel(self._n, shape)
        if shape[:3] not in self._grams:
            self._grams[shape[:3]] = kernel.gram(self._distances, self._sizes)
        if shape[:4] not in self._factors:
            factor = _factor(self._grams[shape[:3]], kernel.surprise)
            log_det = 2 * np.log(np.diag(factor[0])).sum()
            self._factors[shape[:4]] = factor, log_det
        factor, log_det = self._factors[shape[:4]]
        amplitude, count = kernel.amplitude()[self._sizes], len(self._odd)
        scaled = self._odd / amplitude
        square = scaled @ cho_solve(factor, scaled, check_finite=False) / count
        log_square = np.log(max(square, np.finfo(float).tiny))
        fit = -0.5 * (count * log_square + log_det) - np.log(amplitude).sum()
        return float(fit + (ADDITIVE_LOG_ODDS if shape == ADDITIVE else 0))


def _kernel(num_players: int, shape: Shape) -> OddKernel:
    """The kernel at a grid point; b and ε are relative to the variance of K, 1 − zⁿ."""
    correlation, size_scale, size_variance, surprise, power = shape
    unit = 1 - ((1 - correlation) / (1 + correlation)) ** num_players
    return OddKernel(
        num_players,
        correlation,
        size_scale,
        size_variance * unit,
        power,
        surprise * unit,
    )


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
    sizes, distances = coalitions.sum(axis=1), _distances(coalitions)
    means, variances, weights = [], [], []
    for kernel, kernel_weight in weighted_kernels:
        scaled = odd / kernel.amplitude()[sizes]
        factor = _factor(kernel.gram(distances, sizes), kernel.surprise)
        covariance, contrast_variance = kernel.shapley_covariance()
        weight = covariance[sizes][:, None] * (coalitions - sizes[:, None] / n)
        inverse = cho_solve(factor, np.eye(len(odd)), check_finite=False)
        solved = inverse @ scaled
        # σ² from leave-one-out residuals in units of their predicted deviation, or from
        # the restricted likelihood where that is larger (few pairs of each size).
        left_out = np.mean(np.square(solved) / np.diag(inverse))
        scale = max(left_out, scaled @ solved / freedom(sizes))
        shrunk = np.einsum("ti,ti->i", weight, inverse @ weight)
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


def _factor(gram: Float[np.ndarray, "rows rows"], surprise: float):
    diagonal = (surprise + JITTER) * np.eye(len(gram))
    return cho_factor(gram + diagonal, lower=True, check_finite=False)


def _distances(
    coalitions: Bool[np.ndarray, "rows players"],
) -> Int[np.ndarray, "rows rows"]:
    signs = np.where(coalitions, 1.0, -1.0)
    return np.rint((coalitions.shape[1] - signs @ signs.T) / 2).astype(np.int64)
