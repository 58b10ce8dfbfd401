r"""Bayesian quadrature of the Shapley sum: a Gaussian process over coalitions.

Prior on the odd part g(S) = ½[v(S) − v(N∖S)], the only part of a game that matters:

    k(S, T) = c_s c_t σ² { K[s,t,d] − K[s,n−t,n−d] + b (q_st − q_s,n−t) + ε 1[S = T] }
    K[s,t,d] = r_st z^d        r_st = exp(−(h_s − h_t)²/2ℓ²)        q: r with ℓ = 1

with s = |S|, t = |T|, d = |S △ T|, h_s = ln((s + ½)/(n − s + ½)) and c_s proportional
to (s(n − s))^{−γ/2}. In words: payoffs are alike when few players differ
(z = (1 − ρ)/(1 + ρ): an interaction of k players has variance in proportion to ρ^k) and
when the sizes are alike on a log scale (ℓ); small and large coalitions may vary more
(γ); a smooth function of the size has a variance of its own (b), for it is shared
evenly and does not matter; and every pair of coalitions has a surprise of its own (ε).
σ² has a closed form, and a grid of (ρ, ℓ, b, γ, ε) is averaged with its marginal
likelihoods as weights.

The Shapley value is linear in g, so its posterior is Gaussian in closed form. Let
Δ(t) = Cov(φ_i − φ_j, g(T)) for i ∈ T ∌ j, which depends on the size of T alone because
the prior treats players alike. Then

    φ̂_i = [v(N) − v(∅)]/n + Σ_T a_T Δ(t_T) (1[i ∈ T] − t_T/n),       a = k⁻¹ g
    Var φ_i = A (1 − 1/n) − b_iᵀ k⁻¹ b_i,   b_iT = Δ(t_T)(1[i ∈ T] − t_T/n)

with A = ½ Var(φ_i − φ_j): no sum over 2^n coalitions, efficiency by construction, and
exactness once all coalitions are seen. The standard error is that of the model, scaled
by leave-one-out residuals: it is calibrated over games like those the prior describes,
not, as for permutations, over repetitions on every single game. No interval with a
coverage can be made of it, and none is returned.

References:
    O'Hagan 1991, Bayes–Hermite quadrature, J. Stat. Plan. Inference 29:245.
    Covert & Lee 2021, arXiv:2012.01536 (pairing).
"""

import itertools

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.special import gammaln

from .designs import draw_pairs, odd_part
from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import gaussian_statistics, rounding_error, unpromised, with_unseen

MAX_PAIRS = 4096  # the solve is cubic: about two seconds at this size on two cores
PAIRS_FOR_CHOICE = 256  # rows on which the grid is compared

CORRELATIONS = (0.03, 0.12, 0.25, 0.45, 0.7)  # ρ: nearly additive … high order
SIZE_SCALES = (1.0, 2.5, np.inf)  # ℓ, in units of log odds
AMPLITUDE_POWERS = (0.0, 1.0)  # γ
SIZE_VARIANCES = (0.1, 10.0)  # b: the size alone explains little, or most
SURPRISES = (1e-6, 1e-3, 1e-2, 0.1, 1.0)  # ε
KEPT_WEIGHT = 0.99  # of the posterior over the grid
MAX_WORK = 4e9  # sum over kernels of pairs³: bounds how many kernels are averaged


class OddKernel(eqx.Module):
    """The prior's shape: tables over sizes and distances for n players.

    Args:
        num_players: n.
        correlation: ρ in (0, 1).
        size_scale: ℓ > 0, infinite for no dependence on the size.
        size_variance: b > 0.
        amplitude_power: γ.
        surprise: ε > 0.
    """

    num_players: int
    correlation: float
    size_scale: float
    size_variance: float
    amplitude_power: float
    surprise: float

    @property
    def decay(self) -> float:
        """z, the factor by which one more differing player shrinks the correlation."""
        return (1 - self.correlation) / (1 + self.correlation)

    def size_correlation(self, scale: float) -> Float[np.ndarray, "sizes sizes"]:
        """r_st for all sizes 0 … n."""
        s = np.arange(self.num_players + 1)
        log_odds = np.log((s + 0.5) / (self.num_players - s + 0.5))
        return np.exp(-0.5 * np.square((log_odds[:, None] - log_odds) / scale))

    def amplitude(self) -> Float[np.ndarray, " sizes"]:
        """c_s for all sizes, 1 at sizes 1 and n − 1."""
        s = np.arange(self.num_players + 1)
        product = np.maximum(s * (self.num_players - s), self.num_players - 1)
        return (product / (self.num_players - 1)) ** (-self.amplitude_power / 2)

    def gram(
        self, distances: Int[np.ndarray, "rows rows"], sizes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows rows"]:
        """k / (c_s c_t σ²) between coalitions, without the surprise ε."""
        n = self.num_players
        near = self.size_correlation(self.size_scale)
        free = self.size_variance * self.size_correlation(1.0)
        power = self.decay ** np.arange(n + 1)
        here, across = np.ix_(sizes, sizes), np.ix_(sizes, n - sizes)
        return (
            near[here] * power[distances]
            - near[across] * power[n - distances]
            + free[here]
            - free[across]
        )

    def shapley_covariance(self) -> tuple[Float[np.ndarray, " sizes"], float]:
        r"""Δ(t)/(c_t σ²) for t = 0 … n (0 at the ends) and A/σ².

        φ_i − φ_j averages g(S + i) − g(S + j) over S of uniform size among the n − 2
        others; adding i to S and T keeps their distance, adding i to one and j to the
        other raises it by 2. So with H(s, u) the mean of z^{|S△U|} over
        random S and U of s and u of those others,

            Δ(t) = (1 − z²)/(n − 1) Σ_s c_{s+1} [ r_{s+1,t} H(s, t−1)
                                                + r_{s+1,n−t} H(s, n−1−t) ]

        and the surprises add 2ε c_t / ((n − 1) C(n − 2, t − 1)).
        """
        n = self.num_players
        near = self.size_correlation(self.size_scale)[1:n, 1:n]
        mean_power = mean_distance_power(n - 2, self.decay)
        amplitude = self.amplitude()[1:n]
        similar = near * mean_power + near[:, ::-1] * mean_power[:, ::-1]
        inner = (1 - self.decay**2) / (n - 1) * (amplitude @ similar)
        s = np.arange(n - 1)
        log_count = gammaln(n - 1) - gammaln(s + 1) - gammaln(n - 1 - s)
        weight = np.exp(-log_count) / (n - 1)
        contrast_variance = (amplitude @ inner) / (n - 1)
        contrast_variance += (
            2 * self.surprise * (amplitude**2 @ np.exp(-log_count)) / (n - 1) ** 2
        )
        covariance = np.zeros(n + 1)
        covariance[1:n] = inner + 2 * self.surprise * amplitude * weight
        return covariance, float(contrast_variance)


def mean_distance_power(
    num_players: int, decay: float
) -> Float[np.ndarray, "sizes sizes"]:
    """H(s, u): mean of z^|S△U| over random subsets S, U of sizes s and u.

    The overlap is hypergeometric, so H is a sum over overlaps, in log space.
    """
    m = num_players
    sizes = np.arange(m + 1)
    log_factorial = gammaln(np.arange(m + 1) + 1)
    table = np.empty((m + 1, m + 1))
    s, overlap = sizes[:, None], sizes[None, :]
    for u in range(m // 2 + 1):
        # Rows s, columns overlap ≤ u; infeasible cells have probability 0.
        o = overlap[:, : u + 1]
        rest = s - o
        feasible = (rest >= 0) & (rest <= m - u)
        safe = np.where(feasible, rest, 0)
        log_prob = (
            log_factorial[u]
            - log_factorial[o]
            - log_factorial[u - o]
            + log_factorial[m - u]
            - log_factorial[safe]
            - log_factorial[m - u - safe]
            - (log_factorial[m] - log_factorial[s] - log_factorial[m - s])
        )
        distance = safe + u - o
        terms = np.where(feasible, np.exp(log_prob + distance * np.log(decay)), 0)
        table[:, u] = terms.sum(axis=1)
    # Complementing both S and U keeps their distance.
    table[:, m - m // 2 :] = table[::-1, : m // 2 + 1][:, ::-1]
    return table


def surrogate_estimate(
    evaluate: Evaluator, rng: np.random.Generator, *, level: float
) -> tuple[Estimate, float, float]:
    """Posterior means and standard deviations, no intervals; also v(∅) and v(N)."""
    n = evaluate.num_players
    num_pairs = min((evaluate.budget - 2) // 2, MAX_PAIRS)
    sizes = np.arange(1, n // 2 + 1)
    # φ weighs a coalition by about 1/s and 1/(n − s), so with equal variances the best
    # shares are proportional to 1/√(s(n − s)) (Neyman).
    weights = 1 / np.sqrt(sizes * (n - sizes))
    empty, grand = evaluate.ends()
    design = draw_pairs(rng, n, num_pairs, weights)
    odd = odd_part(evaluate, design.coalitions)
    even_split = (grand - empty) / n
    scale = np.abs(odd).max()
    if scale == 0:
        # Only the size mattered so far: the even split, with no scale to err by.
        scale = 1.0
    deviation, errors = posterior(
        design.coalitions,
        odd / scale,
        weigh_kernels(rng, design.coalitions, odd / scale),
    )
    estimate = gaussian_statistics(
        even_split + scale * deviation,
        scale * errors,
        np.full(n, freedom(design.coalitions.sum(axis=1))),
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
    """Posterior weights of the grid's kernels under a flat prior, the heavy ones only.

    σ² is profiled out. The kernels kept hold KEPT_WEIGHT of the mass, renormalised.
    """
    if len(odd) > PAIRS_FOR_CHOICE:
        rows = rng.choice(len(odd), PAIRS_FOR_CHOICE, replace=False)
        coalitions, odd = coalitions[rows], odd[rows]
    n, count = coalitions.shape[1], len(odd)
    sizes, distances = coalitions.sum(axis=1), _distances(coalitions)
    kernels, log_evidence = [], []
    for shape in itertools.product(CORRELATIONS, SIZE_SCALES, SIZE_VARIANCES):
        gram = OddKernel(n, *shape, 0.0, 1.0).gram(distances, sizes)
        for surprise in SURPRISES:
            factor = _factor(gram, surprise)
            log_det = 2 * np.log(np.diag(factor[0])).sum()
            for power in AMPLITUDE_POWERS:
                kernel = OddKernel(n, *shape, power, surprise)
                amplitude = kernel.amplitude()[sizes]
                scaled = odd / amplitude
                square = scaled @ cho_solve(factor, scaled) / count
                log_square = np.log(max(square, np.finfo(float).tiny))
                log_evidence.append(
                    -0.5 * (count * log_square + log_det) - np.log(amplitude).sum()
                )
                kernels.append(kernel)
    weights = np.exp(np.array(log_evidence) - max(log_evidence))
    weights /= weights.sum()
    order = np.argsort(-weights)
    kept = order[: int((np.cumsum(weights[order]) < KEPT_WEIGHT).sum()) + 1]
    mass = weights[kept].sum()
    return [(kernels[k], float(weights[k] / mass)) for k in kept]


def posterior(
    coalitions: Bool[np.ndarray, "pairs players"],
    odd: Float[np.ndarray, " pairs"],
    weighted_kernels: list[tuple[OddKernel, float]],
) -> tuple[Float[np.ndarray, " players"], Float[np.ndarray, " players"]]:
    """Posterior mean of φ_i − [v(N) − v(∅)]/n, and standard deviation.

    The kernels are averaged: their disagreement is part of the variance.
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
        inverse = cho_solve(factor, np.eye(len(odd)))
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
    """Degrees of freedom of σ²: pairs less the free constant of every size."""
    return float(max(len(sizes) - len(np.unique(sizes)), 1))


def _factor(gram: Float[np.ndarray, "rows rows"], surprise: float):
    jitter = 1e-8
    return cho_factor(gram + (surprise + jitter) * np.eye(len(gram)), lower=True)


def _distances(
    coalitions: Bool[np.ndarray, "rows players"],
) -> Int[np.ndarray, "rows rows"]:
    signs = np.where(coalitions, 1.0, -1.0)
    return np.rint((coalitions.shape[1] - signs @ signs.T) / 2).astype(np.int64)
