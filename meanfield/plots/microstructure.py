"""Plots of the distribution of weights and of the verdict on it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import special

from meanfield.physics.microstructure.arbitrage import Arbitrage
from meanfield.physics.microstructure.lognormal_fit import Microstructure

from .style import BLACK, BLUE, GREEN, GREY, RED, new_axis

# Largest number of tensors with names; more names would hide the points.
MOST_NAMES = 40
VERDICT_STYLE: dict[str, dict[str, Any]] = {
    "lognormal": {"color": GREEN, "marker": "s"},
    "not lognormal": {"color": RED, "marker": "o"},
    "cannot tell": {"color": GREY, "marker": "^"},
}


def log_magnitudes(values: Any, fit: Microstructure, axis: Axes | None = None) -> Axes:
    """Histogram of ln|w|, its fitted normal, and the curve of Gaussian w of equal rms.

    Args:
        values: weights of a tensor.
        fit: its entry in `analyze_microstructure`.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> weights = {"a": rng.lognormal(-3, 0.7, 2000)}
        >>> fits = mf.physics.analyze_microstructure(weights, key=jax.random.key(0))
        >>> axis = mf.plots.log_magnitudes(weights["a"], fits["a"])
        >>> axis.get_xlabel()
        'ln|w|'
    """
    axis = axis or new_axis()
    if fit.mu is None or fit.sigma is None:
        return _say(axis, f"{fit.verdict}: {fit.reason}")
    logs = _log_magnitudes(values)
    axis.hist(logs, bins=80, density=True, color="#DDDDDD", label="weights")
    x = np.linspace(logs.min(), logs.max(), 400)
    z = (x - fit.mu) / fit.sigma
    density = np.exp(-0.5 * z**2) / fit.sigma / math.sqrt(2 * math.pi)
    label = f"lognormal, μ = {fit.mu:.2f}, σ = {fit.sigma:.2f}"
    axis.plot(x, density, color=BLUE, label=label)
    scale = math.sqrt(float(np.mean(np.exp(2 * logs))))
    u = np.exp(x) / scale
    gaussian = u * np.exp(-0.5 * u**2) * math.sqrt(2 / math.pi)
    axis.plot(x, gaussian, color=RED, linestyle="--", label="Gaussian weights")
    axis.set_xlabel("ln|w|")
    axis.set_ylabel("density")
    axis.set_title(fit.verdict, color=VERDICT_STYLE[fit.verdict]["color"])
    axis.legend(fontsize="small", frameon=False)
    return axis


def log_magnitude_quantiles(
    values: Any, fit: Microstructure, axis: Axes | None = None
) -> Axes:
    """Normal Q-Q plot of ln|w|; for a lognormal it is a straight line.

    Args:
        values: weights of a tensor.
        fit: its entry in `analyze_microstructure`.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> weights = {"a": rng.lognormal(-3, 0.7, 2000)}
        >>> fits = mf.physics.analyze_microstructure(weights, key=jax.random.key(0))
        >>> axis = mf.plots.log_magnitude_quantiles(weights["a"], fits["a"])
        >>> len(axis.lines) > 0
        True
    """
    axis = axis or new_axis()
    if fit.mu is None or fit.sigma is None:
        return _say(axis, f"{fit.verdict}: {fit.reason}")
    logs = np.sort(_log_magnitudes(values))
    keep = np.unique(np.linspace(0, logs.size - 1, 2000).astype(int))
    scores = special.ndtri((keep + 0.625) / (logs.size + 0.25))
    axis.plot(scores, logs[keep], ".", markersize=2, color=BLUE)
    axis.plot(scores, fit.mu + fit.sigma * scores, color=BLACK, linewidth=1)
    axis.set_title(f"Q-Q r² = {fit.qq_r_squared:.4f}")
    axis.set_xlabel("normal quantile")
    axis.set_ylabel("ln|w|")
    return axis


def utilities(arbitrages: Mapping[str, Arbitrage], axis: Axes | None = None) -> Axes:
    """Effective utility over bins, shifted to mean 0; it is constant at equilibrium.

    Error bars are the Poisson noise of the counts.

    Args:
        arbitrages: the `.arbitrage` of results of `analyze_microstructure`, by name.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> logs = np.random.default_rng(0).normal(-3.0, 0.65, size=4000)
        >>> axis = mf.plots.utilities({"layers/0": mf.physics.measure_arbitrage(logs)})
        >>> len(axis.get_ylabel()) > 0
        True
    """
    axis = axis or new_axis()
    for name, found in arbitrages.items():
        share = found.counts / found.counts.sum()
        level = found.utilities - share @ found.utilities
        error = 1 / np.sqrt(found.counts)
        label = f"{name}: spread {found.spread:.3f}"
        axis.errorbar(
            found.centres, level, yerr=error, fmt="o-", markersize=3, label=label
        )
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("|w| / largest |w|")
    axis.set_ylabel("effective utility h − mean (nats)")
    axis.legend(fontsize="small", frameon=False)
    return axis


def microstructure_verdicts(
    fits: Mapping[str, Microstructure], axis: Axes | None = None
) -> Axes:
    """Skewness of ln|w| against its standard deviation σ, by verdict.

    The values of Gaussian and of Laplace weights are marked.

    Args:
        fits: the result of `analyze_microstructure`.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> weights = {"a": rng.lognormal(-3, 0.7, 2000)}
        >>> fits = mf.physics.analyze_microstructure(weights, key=jax.random.key(0))
        >>> axis = mf.plots.microstructure_verdicts(fits)
        >>> len(axis.collections) + len(axis.lines) > 0
        True
    """
    numbered = len(fits) <= MOST_NAMES
    numbers = {name: number for number, name in enumerate(fits, 1)}
    # 0.14 inch is the height of a line of the legend.
    size = (7.5, max(3.6, 0.14 * (len(fits) + 8))) if numbered else (5.0, 3.6)
    axis = axis or new_axis(*size)
    for verdict, style in VERDICT_STYLE.items():
        named = {n: f for n, f in fits.items() if f.verdict == verdict and f.sigma}
        chosen = list(named.values())
        if chosen:
            axis.plot(
                np.array([f.sigma for f in chosen], float),
                np.array([f.skewness for f in chosen], float),
                linestyle="",
                label=f"{verdict} ({len(chosen)})",
                **style,
            )
        for name, fit in named.items() if numbered else ():
            axis.annotate(
                f"{numbers[name]}",
                (float(fit.sigma or 0), float(fit.skewness or 0)),
                xytext=(4, 2),
                textcoords="offset points",
                fontsize="xx-small",
            )
    for name, marker, sigma, skewness in (
        ("Gaussian", "*", math.pi / (2 * math.sqrt(2)), -1.535),
        ("Laplace", "P", math.pi / math.sqrt(6), -1.140),
    ):
        axis.plot(sigma, skewness, marker, color=BLACK, markersize=11, label=name)
    axis.axhline(0, color=GREEN, linewidth=1, label="lognormal")
    axis.set_title("Are the weights lognormal?")
    axis.set_xlabel("σ of ln|w|")
    axis.set_ylabel("skewness of ln|w|")
    drawn = axis.get_legend_handles_labels()
    if numbered:
        # Names next to the points would overlap.
        named = {n: f"{number}  {n}" for n, number in numbers.items() if fits[n].sigma}
        drawn[0].extend(Line2D([], [], linestyle="") for _ in named)
        drawn[1].extend(named.values())
        axis.legend(
            *drawn,
            fontsize="x-small",
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )
    else:
        axis.legend(fontsize="small", frameon=False)
    return axis


def _log_magnitudes(values: Any) -> np.ndarray:
    magnitudes = np.abs(np.asarray(values).ravel().astype(np.float64))
    return np.log(magnitudes[magnitudes > 0])


def _say(axis: Axes, text: str) -> Axes:
    axis.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    axis.set_axis_off()
    return axis
