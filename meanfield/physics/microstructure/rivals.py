r"""Alternatives to the lognormal for positive magnitudes, fitted by maximum likelihood.

The lognormal is compared with distributions that trained and untrained weights are
known to follow. All are distributions of w = |weight| > 0:

    half-normal          2 N(w | 0, s²)                     1 parameter
    half-Laplace         exp(−w/b)/b                        1
    half-t               2 t_ν(w/s)/s                       2
    Weibull              (k/λ)(w/λ)^{k−1} exp(−(w/λ)^k)     2
    gamma                w^{k−1} exp(−w/θ)/(Γ(k) θ^k)       2
    generalized normal   p exp(−(w/a)^p)/(a Γ(1/p))         2
    inverse Gaussian     √(λ/2πw³) exp(−λ(w − m)²/(2m²w))   2
    Birnbaum-Saunders    ln w = ln b + 2 arsinh(c z/2)      2        z ~ N(0, 1)

Narrow distributions of the last two kinds are nearly lognormal: only with many weights
or a large variance can they be distinguished from it (`NEAR_RIVALS`).

The half-normal, the half-Laplace, the gamma and the inverse Gaussian are fitted from
sufficient statistics of all weights. The profile likelihoods of the others are
maximised on all weights if there are at most 5,000, else on 4,096 bins of ln w (each at
its mean). Every likelihood is then evaluated on all weights, so binning can only lower
the likelihood of a rival, to second order in the bin width. Shape parameters are
searched between 0.02 and 50, degrees of freedom between 0.05 and 10,000 (where a half-t
is nearly a half-normal).

References:
    Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions, vol. 1 and 2
    (all of the table, with their likelihood equations).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from meanfield.physics.roots import bracketed_root

MAX_EXACT = 5_000
NUM_BINS = 4_096
CHUNK = 1_000_000
SHAPE_BOUNDS = (np.log(0.02), np.log(50.0))
# Logarithm of the largest 1/w in a mean, and the smallest spread allowed.
LARGEST, SMALLEST = 650.0, np.finfo(np.float64).eps
NEAR_RIVALS = ("inverse Gaussian", "Birnbaum-Saunders")
DEGREES_BOUNDS = (np.log(0.05), np.log(1e4))


@dataclass(frozen=True)
class FittedDistribution:
    """One fitted distribution of a positive magnitude.

    Args:
        name: name of the distribution, as in the table above.
        parameters: parameters by name, for magnitudes in the caller's units.
        distribution: the frozen SciPy distribution.
        log_factor: number added to its log density (ln 2 if SciPy's distribution is
            two-sided).
    """

    name: str
    parameters: dict[str, float]
    distribution: Any
    log_factor: float = 0.0

    @property
    def num_parameters(self) -> int:
        """Number of fitted parameters."""
        return len(self.parameters)

    def log_density(
        self, magnitudes: Float[np.ndarray, " weights"]
    ) -> Float[np.ndarray, " weights"]:
        """Log density at every magnitude, in nats."""
        return self.distribution.logpdf(magnitudes) + self.log_factor


def fit_rivals(logs: Float[np.ndarray, " weights"]) -> list[FittedDistribution]:
    """Maximum-likelihood fit of the rival distributions.

    Args:
        logs: ln w of every magnitude. Centre them (mean 0) to keep powers in range.

    Returns:
        The fitted distributions, in the order of the table above.

    Example:
        >>> import numpy as np
        >>> w = np.abs(np.random.default_rng(0).normal(size=4000))
        >>> fitted = fit_rivals(np.log(w))[0]
        >>> fitted.name, round(fitted.parameters["scale"], 1)
        ('half-normal', 1.0)
    """
    mean_log = float(np.mean(logs))
    sums = np.array(
        [
            (np.sum(w), np.sum(np.square(w)), np.sum(np.exp(np.minimum(-x, LARGEST))))
            for x, w in ((part, np.exp(part)) for part in chunks(logs))
        ]
    ).sum(axis=0)
    mean, square, inverse = (float(total) for total in sums / logs.size)
    points, counts = _compress(logs)
    return [
        _half_normal(square),
        _half_laplace(mean),
        _half_t(points, counts),
        _weibull(points, counts),
        _gamma(mean, mean_log),
        _generalized_normal(points, counts),
        _inverse_gaussian(mean, inverse),
        _birnbaum_saunders(mean, inverse, points, counts),
    ]


def chunks(values: Float[np.ndarray, " weights"]) -> Iterator[np.ndarray]:
    """Consecutive views of at most a million entries, to bound memory."""
    for start in range(0, values.size, CHUNK):
        yield values[start : start + CHUNK]


def _compress(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and normalised weights that stand for all logs in a likelihood."""
    if logs.size <= MAX_EXACT:
        return logs, np.full(logs.size, 1 / logs.size)
    low, high = float(logs.min()), float(logs.max())
    counts, sums = np.zeros(NUM_BINS), np.zeros(NUM_BINS)
    for part in chunks(logs):
        index = ((part - low) * (NUM_BINS / (high - low))).astype(np.int64)
        index = np.minimum(index, NUM_BINS - 1)
        counts += np.bincount(index, minlength=NUM_BINS)
        sums += np.bincount(index, weights=part, minlength=NUM_BINS)
    occupied = counts > 0
    return sums[occupied] / counts[occupied], counts[occupied] / logs.size


def _half_normal(mean_square: float) -> FittedDistribution:
    scale = float(np.sqrt(mean_square))
    return FittedDistribution(
        "half-normal", {"scale": scale}, stats.halfnorm(scale=scale)
    )


def _half_laplace(mean: float) -> FittedDistribution:
    return FittedDistribution("half-Laplace", {"scale": mean}, stats.expon(scale=mean))


def _gamma(mean: float, mean_log: float) -> FittedDistribution:
    # The likelihood equation is ln k − ψ(k) = ln(mean) − mean(ln); its left side
    # falls from ∞ to 0, and lies between 1/(2k) and 1/k.
    gap = np.log(mean) - mean_log
    shape = bracketed_root(
        lambda k: np.log(k) - special.digamma(k) - gap, 0.4 / gap, 1.1 / gap
    )
    parameters = {"shape": shape, "scale": mean / shape}
    return FittedDistribution(
        "gamma", parameters, stats.gamma(shape, scale=parameters["scale"])
    )


def _log_mean_power(points: np.ndarray, counts: np.ndarray, power: float) -> float:
    return float(special.logsumexp(power * points, b=counts))


def _weibull(points: np.ndarray, counts: np.ndarray) -> FittedDistribution:
    mean_log = float(np.sum(counts * points))

    def loss(log_shape: float) -> float:
        k = np.exp(log_shape)
        return -(log_shape - _log_mean_power(points, counts, k) + k * mean_log)

    k = _minimise_shape(loss)
    scale = float(np.exp(_log_mean_power(points, counts, k) / k))
    fitted = stats.weibull_min(k, scale=scale)
    return FittedDistribution("Weibull", {"shape": k, "scale": scale}, fitted)


def _generalized_normal(points: np.ndarray, counts: np.ndarray) -> FittedDistribution:
    def log_scale(p: float) -> float:
        return (np.log(p) + _log_mean_power(points, counts, p)) / p

    def loss(log_shape: float) -> float:
        p = np.exp(log_shape)
        return -(log_shape - log_scale(p) - special.gammaln(1 / p) - 1 / p)

    p = _minimise_shape(loss)
    scale = float(np.exp(log_scale(p)))
    fitted = stats.halfgennorm(p, scale=scale)
    return FittedDistribution(
        "generalized normal", {"shape": p, "scale": scale}, fitted
    )


def _inverse_gaussian(mean: float, mean_inverse: float) -> FittedDistribution:
    # Maximum likelihood: m is the mean, 1/λ is the mean of 1/w minus 1/m.
    scale = mean / max(mean * mean_inverse - 1, SMALLEST)
    parameters = {"shape": mean / scale, "scale": scale}
    fitted = stats.invgauss(parameters["shape"], scale=scale)
    return FittedDistribution("inverse Gaussian", parameters, fitted)


def _birnbaum_saunders(
    mean: float, mean_inverse: float, points: np.ndarray, counts: np.ndarray
) -> FittedDistribution:
    def square_shape(log_scale: float) -> float:
        b = np.exp(log_scale)
        return max(mean / b + mean_inverse * b - 2, SMALLEST)

    def loss(log_scale: float) -> float:
        sides = np.logaddexp(points, log_scale)
        spread = 0.5 * np.log(square_shape(log_scale))
        return spread + 0.5 * log_scale - float(np.sum(counts * sides))

    # The scale of largest likelihood lies between the harmonic and the arithmetic mean.
    log_scale = _minimise(loss, (-np.log(mean_inverse), np.log(mean)))
    parameters = {
        "shape": float(square_shape(log_scale) ** 0.5),
        "scale": float(np.exp(log_scale)),
    }
    fitted = stats.fatiguelife(parameters["shape"], scale=parameters["scale"])
    return FittedDistribution("Birnbaum-Saunders", parameters, fitted)


def _half_t(points: np.ndarray, counts: np.ndarray) -> FittedDistribution:
    def mean(values: np.ndarray) -> float:
        # Not a dot product: BLAS would start threads for these short sums.
        return float(np.sum(counts * values))

    def log_scale(log_nu: float) -> float:
        # The likelihood equation in s is a mean of sigmoids equal to 1/(ν + 1); each
        # sigmoid takes that value at ln s = ln w, so the root lies among the points.
        target = 1 / (np.exp(log_nu) + 1)
        return bracketed_root(
            lambda t: mean(special.expit(2 * (points - t) - log_nu)) - target,
            float(points.min()),
            float(points.max()),
        )

    def loss(log_nu: float) -> float:
        nu, t = np.exp(log_nu), log_scale(log_nu)
        log_tail = mean(np.logaddexp(0, 2 * (points - t) - log_nu))
        norm = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2)
        return -(norm - 0.5 * log_nu - t - 0.5 * (nu + 1) * log_tail)

    nu = _minimise_shape(loss, DEGREES_BOUNDS)
    scale = float(np.exp(log_scale(np.log(nu))))
    fitted = stats.t(nu, scale=scale)
    return FittedDistribution(
        "half-t", {"degrees": nu, "scale": scale}, fitted, float(np.log(2))
    )


def _minimise_shape(loss: Any, bounds: tuple[float, float] = SHAPE_BOUNDS) -> float:
    """Shape that minimises a profile loss, found on ln(shape)."""
    return float(np.exp(_minimise(loss, bounds)))


def _minimise(loss: Any, bounds: tuple[float, float]) -> float:
    """The minimum of a one-dimensional loss between two bounds."""
    result = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}
    )
    return float(result.x)
