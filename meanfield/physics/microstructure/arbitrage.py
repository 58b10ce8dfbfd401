r"""Arbitrage equilibrium: do all connections of a layer have equal effective utility?

    h(w) = α ln|w| − β (ln|w|)² − ln p(|w|)        utility − cost − competition

(see `utility`). In a histogram with a fraction x_k of n weights in bin k, the utility
of a bin is the log of the mean of exp(utility) over the bin. Then for any bin width the
effective utility is exactly

    h_k = ln Z + ln(p_k / x_k),     Z = ∫ w^α exp(−β ln² w) dw,

where p_k is the probability of bin k under the lognormal; for narrow bins this is the
formula above at the bin's centre. Hence Σ x_k h_k = ln Z − ψ, with ψ = KL(x‖p) the
distance from equilibrium in nats, and the spread is the x-weighted standard deviation
of h_k. At equilibrium n · spread² and 2nψ are chi-squared up to O(1/n): this is the
Poisson-noise null used here.

The binning, the spread and its null are this project's own.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from meanfield.checks import require
from meanfield.physics.named_weights import read_tensors

from .utility import require_positive, utility_coefficients

MAX_BINS = 40
MIN_PER_BIN = 10


@dataclass(frozen=True)
class Arbitrage:
    """Effective utilities of the connections of one tensor.

    Args:
        alpha: α for |w| in units of `scale`.
        beta: β, which does not depend on the unit of |w|.
        scale: largest |w|, in the caller's units.
        spread: x-weighted standard deviation of h over occupied bins, nats; 0 at
            equilibrium.
        noise_spread: spread at equilibrium due to counting noise, √((K−3)/n).
        noise_limit: 99 % value of the spread at equilibrium.
        distance: ψ = KL(x‖p) in nats, biased upwards by (K−3)/(2n) at equilibrium.
        r_squared: weighted R² of ln(density) regressed on (1, ln|w|, ln²|w|) over the
            occupied bins with two finite edges; `None` for fewer than four such bins.
        regressed_alpha: α of that regression, in units of `scale`.
        regressed_beta: β of that regression.
        centres: median of the fitted lognormal within every occupied bin, in units of
            `scale`.
        utilities: h of every occupied bin, nats.
        counts: number of weights in every occupied bin.
    """

    alpha: float
    beta: float
    scale: float
    spread: float
    noise_spread: float
    noise_limit: float
    distance: float
    r_squared: float | None
    regressed_alpha: float | None
    regressed_beta: float | None
    centres: np.ndarray
    utilities: np.ndarray
    counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True)
class LayerArbitrage:
    """Effective utilities of several layers under one common (α, β).

    Args:
        alpha: common α.
        beta: common β.
        levels: Σ x_k h_k of every layer by name, nats.
        spread: standard deviation of the levels over layers, nats; 0 if all layers are
            in equilibrium with each other.
        noise_spread: expected spread due to counting noise.
        p_value: probability of at least such distances from equilibrium if every layer
            is drawn from the common lognormal; `None` if layers are scaled by their
            largest weight, because the null does not hold for this random unit.
        bin_spreads: spread of h over the bins within every layer.
    """

    alpha: float
    beta: float
    levels: dict[str, float]
    spread: float
    noise_spread: float
    p_value: float | None
    bin_spreads: dict[str, float]


def measure_arbitrage(
    logs: Float[np.ndarray, " weights"], num_bins: int | None = None
) -> Arbitrage:
    """Effective utilities over bins of one layer, with (α, β) from its own log-moments.

    Args:
        logs: ln|w| of the weights that are not zero, at least 50, not all equal.
        num_bins: K ≥ 5 bins of equal probability under the fitted lognormal; by
            default 40, or fewer so that 10 weights are expected in each.

    Returns:
        An `Arbitrage`: (α, β), the utility of every bin, its spread, and the spread due
        to Poisson noise.

    Raises:
        ValueError: too few weights for the bins, or all of one magnitude.

    Example:
        >>> import numpy as np
        >>> logs = np.random.default_rng(0).normal(-3.0, 0.65, size=4000)
        >>> found = measure_arbitrage(logs)
        >>> found.spread < found.noise_limit
        True
    """
    num = _num_bins(logs.size, num_bins)
    scale = float(np.max(logs, initial=-np.inf))
    mu, sigma = float(np.mean(logs)) - scale, float(np.std(logs))
    require_positive("logs", sigma)
    alpha, beta = utility_coefficients(mu, sigma)
    edges = mu + sigma * special.ndtri(np.linspace(0, 1, num + 1))
    counts = _bin_counts(logs - scale, edges)
    shares = counts / logs.size
    occupied = counts > 0
    utilities = _log_normaliser(alpha, beta) - np.log(shares[occupied] * num)
    centres = mu + sigma * special.ndtri((np.arange(num) + 0.5) / num)
    inner = slice(1, -1)
    regression = _regress(edges[inner], counts[inner])
    return Arbitrage(
        alpha=alpha,
        beta=beta,
        scale=float(np.exp(scale)),
        spread=_weighted_std(utilities, shares[occupied]),
        noise_spread=((num - 3) / logs.size) ** 0.5,
        noise_limit=float((stats.chi2.ppf(0.99, num - 1) / logs.size) ** 0.5),
        distance=float(shares[occupied] @ np.log(shares[occupied] * num)),
        r_squared=regression[2],
        regressed_alpha=regression[0],
        regressed_beta=regression[1],
        centres=np.exp(centres[occupied]),
        utilities=utilities,
        counts=counts[occupied],
    )


def arbitrage_between_layers(
    layers: Mapping[str, Any], scaled: bool = False, num_bins: int | None = None
) -> LayerArbitrage:
    """Effective utilities of layers under a common (α, β), and whether they are equal.

    (α, β) follow from the mean and variance of ln|w|, in which every layer has equal
    weight.

    Args:
        layers: two or more tensors by name, each with at least 50 nonzero weights.
        scaled: whether |w| is in units of each layer's largest |w| (attributed to
            arXiv:2310.06960), instead of the caller's units.
        num_bins: as in `measure_arbitrage`, set by the smallest layer by default.

    Returns:
        A `LayerArbitrage`: the level of every layer, the spread of the levels, and the
        spread due to Poisson noise.

    Raises:
        ValueError: fewer than two layers, or one that cannot be binned.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> layers = {n: rng.lognormal(-3.0, 0.65, size=4000) for n in "ab"}
        >>> arbitrage_between_layers(layers).p_value > 0.01
        True
    """
    logs = {}
    for tensor in read_tensors(layers):
        values = np.abs(np.asarray(tensor.values, np.float64).ravel())
        require(
            bool(np.isfinite(values).all()),
            f"`layers` must be finite; got NaN or infinity in {tensor.title!r}. "
            "Leave that tensor out.",
        )
        values = np.log(values[values > 0])
        unit = float(values.max()) if scaled and values.size else 0.0
        logs[tensor.title] = values - unit
    require(
        len(logs) >= 2,
        f"`layers` must hold two or more layers to compare; got {list(logs)}. Use "
        "measure_arbitrage for one.",
    )
    num = _num_bins(min(values.size for values in logs.values()), num_bins)
    mu = float(np.mean([values.mean() for values in logs.values()]))
    square = [np.mean(np.square(values - mu)) for values in logs.values()]
    sigma = float(np.mean(square)) ** 0.5
    require_positive("layers", sigma)
    alpha, beta = utility_coefficients(mu, sigma)
    edges = mu + sigma * special.ndtri(np.linspace(0, 1, num + 1))
    levels, bin_spreads, sizes = {}, {}, []
    for name, values in logs.items():
        shares = _bin_counts(values, edges) / values.size
        shares = shares[shares > 0]
        utilities = _log_normaliser(alpha, beta) - np.log(shares * num)
        levels[name] = float(shares @ utilities)
        bin_spreads[name] = _weighted_std(utilities, shares)
        sizes.append(values.size)
    distances = _log_normaliser(alpha, beta) - np.array(list(levels.values()))
    sizes = np.array(sizes)
    degrees = num - 1
    misfit = stats.chi2.sf(2 * float(sizes @ distances), degrees * len(levels))
    # At equilibrium 2 n ψ is chi-squared: mean (K − 1), variance 2 (K − 1).
    null_mean, null_var = degrees / (2 * sizes), degrees / (2 * sizes**2)
    return LayerArbitrage(
        alpha=alpha,
        beta=beta,
        levels=levels,
        spread=float(np.std(list(levels.values()))),
        noise_spread=float((np.var(null_mean) + np.mean(null_var)) ** 0.5),
        p_value=None if scaled else float(misfit),
        bin_spreads=bin_spreads,
    )


def _num_bins(size: int, num_bins: int | None) -> int:
    num = min(MAX_BINS, size // MIN_PER_BIN) if num_bins is None else num_bins
    require(
        num >= 5 and size >= num,
        f"`num_bins` must be at least 5 and at most the number of weights; got {num} "
        f"bins for {size} weights that are not zero. Give more weights or fewer bins.",
    )
    return num


def _bin_counts(logs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts between sorted edges, the outermost being infinite."""
    index = np.searchsorted(edges[1:-1], logs, side="right")
    return np.bincount(index, minlength=edges.size - 1)


def _log_normaliser(alpha: float, beta: float) -> float:
    """ln ∫ w^α exp(−β ln² w) dw = ½ ln(π/β) + (α + 1)²/(4β)."""
    return 0.5 * np.log(np.pi / beta) + (alpha + 1) ** 2 / (4 * beta)


def _weighted_std(values: np.ndarray, shares: np.ndarray) -> float:
    mean = float(shares @ values)
    return float(shares @ np.square(values - mean)) ** 0.5


def _regress(edges: np.ndarray, counts: np.ndarray) -> tuple[float | None, ...]:
    """Count-weighted fit of ln(density) by (1, ln w, ln² w): α, β and R²."""
    used = counts > 0
    if np.count_nonzero(used) < 4:
        return None, None, None
    widths = np.diff(np.exp(edges))
    logs = 0.5 * (edges[1:] + edges[:-1])[used]
    target = np.log(counts[used] / widths[used])
    design = np.stack([np.ones_like(logs), logs, np.square(logs)], axis=1)
    root = np.sqrt(counts[used])
    coefficients = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
    share = counts[used] / counts[used].sum()
    residual = _weighted_std(target - design @ coefficients, share)
    total = _weighted_std(target, share)
    return (
        float(coefficients[1]),
        float(-coefficients[2]),
        1 - (residual / total) ** 2,
    )
