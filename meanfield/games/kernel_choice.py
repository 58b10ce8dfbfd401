r"""Choose among kernels of `odd_kernel` by their marginal likelihoods.

Kernels range from an additive one, whose posterior mean is paired least squares, to
kernels of high interactions. With σ² profiled out, a kernel's log evidence from m odd
parts g of pairs with amplitudes c is

    −½ {m ln[(g/c)ᵀ R⁻¹ (g/c) / m] + ln |R|} − Σ ln c,        R = k / (c cᵀ).

The grid is searched one hyperparameter at a time, starting from an additive and from a
non-additive kernel. With many pairs it is searched on PAIRS_FOR_SEARCH of them, because
the time of a factorisation is cubic in their number; the best kernels are then compared
on up to PAIRS_FOR_CHOICE pairs, where the search continues from the winner. Almost half
of the prior mass is on additive games, because they are common and a few evaluations
are not informative.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve

from .odd_kernel import GramParts, OddKernel

PAIRS_FOR_CHOICE = 256  # largest number of pairs on which kernels are compared
PAIRS_FOR_SEARCH = 96  # number of pairs in most of the search
FINALISTS = 8  # kernels from this search that are compared on PAIRS_FOR_CHOICE pairs

# ρ, ℓ (in units of log odds), b, ε, γ; b and ε are relative to the variance of K.
GRID = (
    (0.003, 0.03, 0.12, 0.25, 0.45, 0.7),
    (1.0, 2.5, np.inf),
    (1e-3, 0.1, 10.0),
    (1e-6, 1e-3, 1e-2, 0.1, 1.0),
    (0.0, 1.0),
)
ADDITIVE = (0.003, np.inf, 1e-3, 1e-6, 0.0)
STARTS = (ADDITIVE, (0.12, 2.5, 0.1, 1e-3, 0.0))
ADDITIVE_LOG_ODDS = 6.0  # prior weight e⁶ = 403, against 1 for each of 539 others
CYCLES = 2  # passes over the hyperparameters, from every start
KEPT_WEIGHT = 0.99  # mass of the kept kernels in the posterior over the evaluated ones
MOST_KEPT = 6
JITTER = 1e-9

Shape = tuple[float, ...]


def weigh_kernels(
    rng: np.random.Generator,
    coalitions: Bool[np.ndarray, "pairs players"],
    odd: Float[np.ndarray, " pairs"],
) -> list[tuple[OddKernel, float]]:
    """The kernels of largest posterior weight among those that the search evaluates.

    Enough are kept for KEPT_WEIGHT of the mass, but at most MOST_KEPT; their weights
    are renormalised.
    """
    evidence = _Evidence(*_part(rng, coalitions, odd, PAIRS_FOR_CHOICE))
    if len(evidence.odd) > PAIRS_FOR_SEARCH:
        rough = _Evidence(
            *_part(rng, evidence.coalitions, evidence.odd, PAIRS_FOR_SEARCH)
        )
        for start in STARTS:
            _climb(rough, start, CYCLES)
        best = sorted(rough.seen, key=rough, reverse=True)[:FINALISTS]
        _climb(evidence, max(ADDITIVE, *best, key=evidence), 1)
    else:
        for start in STARTS:
            _climb(evidence, start, CYCLES)
    shapes, logs = list(evidence.seen), np.array(list(evidence.seen.values()))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = np.argsort(-weights)
    enough = int((np.cumsum(weights[order]) < KEPT_WEIGHT).sum()) + 1
    kept = order[: min(enough, MOST_KEPT)]
    mass = weights[kept].sum()
    n = coalitions.shape[1]
    return [(_kernel(n, shapes[k]), float(weights[k] / mass)) for k in kept]


def _part(rng, coalitions, odd, most: int):
    """At most `most` of the pairs."""
    if len(odd) <= most:
        return coalitions, odd
    rows = rng.choice(len(odd), most, replace=False)
    return coalitions[rows], odd[rows]


def _climb(evidence: "_Evidence", shape: Shape, cycles: int) -> None:
    """Set every hyperparameter in turn to its best option, at most `cycles` times."""
    for _ in range(cycles):
        before = shape
        for place, options in enumerate(GRID):
            others = [
                (*shape[:place], option, *shape[place + 1 :]) for option in options
            ]
            shape = max(others, key=evidence)
        if shape == before:
            break


class _Evidence:
    """Log marginal likelihood plus log prior of a grid kernel, up to a constant.

    Kernels share computations: a Gram matrix for each (ρ, ℓ, b), a factor for each ε.
    """

    def __init__(self, coalitions: Bool[np.ndarray, "pairs players"], odd: np.ndarray):
        self.seen: dict[Shape, float] = {}
        self.coalitions, self.odd = coalitions, odd
        self._n, self._sizes = coalitions.shape[1], coalitions.sum(axis=1)
        self._parts = GramParts.of(coalitions)
        self._grams: dict[Shape, np.ndarray] = {}
        self._factors: dict[Shape, tuple] = {}

    def __call__(self, shape: Shape) -> float:
        if shape not in self.seen:
            self.seen[shape] = self._log(shape)
        return self.seen[shape]

    def _log(self, shape: Shape) -> float:
        kernel = _kernel(self._n, shape)
        if shape[:3] not in self._grams:
            self._grams[shape[:3]] = self._parts.gram(kernel)
        if shape[:4] not in self._factors:
            factor = factorized(self._grams[shape[:3]], kernel.surprise)
            log_det = 2 * np.log(np.diag(factor[0])).sum()
            self._factors[shape[:4]] = factor, log_det
        factor, log_det = self._factors[shape[:4]]
        amplitude, count = kernel.amplitude()[self._sizes], len(self.odd)
        scaled = self.odd / amplitude
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


def factorized(gram: Float[np.ndarray, "rows rows"], surprise: float):
    """Lower Cholesky factor of a Gram matrix with its independent terms."""
    whole = gram.copy()
    whole[np.diag_indices_from(whole)] += surprise + JITTER
    return cho_factor(whole, lower=True, overwrite_a=True, check_finite=False)
