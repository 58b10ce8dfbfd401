"""Pictures of the physical instruments: microstructure, renormalization, complexity."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import special

from meanfield.checks import require
from meanfield.physics.microstructure.arbitrage import Arbitrage
from meanfield.physics.microstructure.verdicts import Microstructure
from meanfield.physics.renormalization.activations import Activation, find_activation
from meanfield.physics.renormalization.ensemble_map import (
    READINGS,
    critical_slab_mean_var,
)
from meanfield.physics.renormalization.fitted_decimation import EffectiveLayer
from meanfield.physics.renormalization.fixed_points import critical_weight_var
from meanfield.physics.renormalization.position import Renormalization
from meanfield.physics.renormalization.wide_flow import WideLayer, wide_flow, wide_layer

from .style import BLACK, BLUE, GREEN, GREY, RED, SKY, layer_ticks, new_axis

VERDICT_STYLE: dict[str, dict[str, Any]] = {
    "lognormal": {"color": GREEN, "marker": "s"},
    "not lognormal": {"color": RED, "marker": "o"},
    "cannot tell": {"color": GREY, "marker": "^"},
}
READING_COLOURS = dict(zip(READINGS, (BLUE, RED, GREEN), strict=True))


def log_magnitudes(values: Any, fit: Microstructure, axis: Axes | None = None) -> Axes:
    """Histogram of ln|w| with the fitted normal, and a Gaussian of the same rms."""
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
    """Normal Q-Q plot of ln|w|: a lognormal is the straight line."""
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
    """Effective utility over bins, shifted to mean 0: level at equilibrium.

    Error bars are the Poisson noise of the counts.
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
    """σ of ln|w| against skewness, by verdict, with the Gaussian null marked."""
    axis = axis or new_axis()
    for verdict, style in VERDICT_STYLE.items():
        chosen = [f for f in fits.values() if f.verdict == verdict and f.sigma]
        if chosen:
            axis.plot(
                np.array([f.sigma for f in chosen], float),
                np.array([f.skewness for f in chosen], float),
                linestyle="",
                label=f"{verdict} ({len(chosen)})",
                **style,
            )
    for name, marker, sigma, skewness in (
        ("Gaussian", "*", math.pi / (2 * math.sqrt(2)), -1.535),
        ("Laplace", "P", math.pi / math.sqrt(6), -1.140),
    ):
        axis.plot(sigma, skewness, marker, color=BLACK, markersize=11, label=name)
    axis.axhline(0, color=GREEN, linewidth=1, label="lognormal")
    axis.set_xlabel("σ of ln|w|")
    axis.set_ylabel("skewness of ln|w|")
    axis.legend(fontsize="small", frameon=False)
    return axis


def phase_diagram(
    results: Mapping[str, Renormalization] | None = None,
    axis: Axes | None = None,
    *,
    activation: str | Activation = "tanh",
    max_bias_var: float = 0.3,
) -> Axes:
    """Critical line χ₁ = 1 in the plane of σ_w² and σ_b², with layers as points."""
    axis = axis or new_axis()
    phi = find_activation(activation)
    # The line starts like a square root: put most points near 0.
    biases = max_bias_var * np.linspace(0, 1, 41) ** 3
    line = np.array([critical_weight_var(float(b), phi) for b in biases])
    axis.plot(line, biases, color=BLACK, label="χ₁ = 1")
    axis.fill_betweenx(biases, line, line.max() * 4, color="#F3E3D9", zorder=0)
    axis.set_xlim(0, line.max() * 1.5)
    for name, result in (results or {}).items():
        points = np.array(
            [
                (p.weight_var, p.bias_var)
                for p in result.layers.values()
                if p.weight_var is not None
            ]
        ).reshape(-1, 2)
        axis.plot(points[:, 0], points[:, 1], "o", markersize=4, label=name)
        widest = points[:, 0].max(initial=0.0)
        axis.set_xlim(0, max(axis.get_xlim()[1], 1.1 * widest))
    axis.text(0.03, 0.9, "order", transform=axis.transAxes)
    axis.text(0.85, 0.9, "chaos", transform=axis.transAxes)
    axis.set_xlabel("σ_w²")
    axis.set_ylabel("σ_b²")
    axis.set_title(f"wide {phi.name} layers")
    axis.legend(fontsize="small", frameon=False, loc="center left")
    return axis


def decimation_flow(
    starts: Sequence[tuple[float, float]],
    axis: Axes | None = None,
    *,
    activation: str | Activation = "tanh",
    num_steps: int = 6,
) -> Axes:
    """Flow under b = 2 from several (σ_w², σ_b²), with the critical line.

    Points run along lines of constant q*; arrows show one step. A chaotic start
    (orange) stops where no single layer does what two of them do.
    """
    axis = axis or new_axis()
    phi = find_activation(activation)
    widest = 0.0
    for weight_var, bias_var in starts:
        flow = wide_flow(wide_layer(weight_var, bias_var, phi), phi, num_steps)
        x = [layer.weight_var for layer in flow]
        y = [layer.bias_var for layer in flow]
        widest = max(widest, *x)
        colour = BLUE if flow[0].slope < 1 else RED
        if abs(flow[0].slope - 1) < 1e-6:
            colour, x, y = BLACK, x[:1], y[:1]
        axis.plot(x, y, "o", markersize=3, color=colour)
        for i in range(len(x) - 1):
            axis.annotate(
                "",
                (x[i + 1], y[i + 1]),
                (x[i], y[i]),
                arrowprops={"arrowstyle": "->", "color": colour},
            )
    top = max(axis.get_ylim()[1], 0.1)
    biases = top * np.linspace(0, 1, 41) ** 3
    line = [critical_weight_var(float(b), phi) for b in biases]
    axis.plot(line, biases, color=BLACK, label="χ₁ = 1, fixed points")
    axis.set_xlabel("σ_w²")
    axis.set_ylabel("σ_b²")
    axis.plot([], [], "o-", color=BLUE, label="ordered: to σ_w² = 0")
    axis.plot([], [], "o-", color=RED, label="chaotic: away")
    axis.set_title(f"two wide {phi.name} layers become one")
    axis.legend(fontsize="small", frameon=False)
    return axis


def measured_flow(
    levels: Sequence[Sequence[EffectiveLayer]], axis: Axes | None = None
) -> Axes:
    """χ₁ of effective layers by block size; filled where the single layer fits."""
    axis = axis or new_axis()
    for level in levels:
        for layer in level:
            good = layer.verdict == "good"
            axis.plot(
                layer.block * (1 + 0.02 * layer.first),
                layer.slope,
                "o",
                color=BLUE,
                markerfacecolor=BLUE if good else "none",
            )
    axis.axhline(1, color=GREY, linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("layers in one effective layer")
    axis.set_ylabel("χ₁")
    axis.set_title("filled: R² ≥ 0.9 on held-out examples", fontsize="medium")
    return axis


def critical_slabs(
    axis: Axes | None = None,
    *,
    activation: str | Activation = "tanh",
    bias_var: float = 0.05,
    slab_vars: Sequence[float] = (0.0, 0.5),
) -> Axes:
    """Critical N E m² of a spike-and-slab layer against π, for every reading."""
    axis = axis or new_axis()
    spikes = np.linspace(0, 0.8, 41)
    styles = ("-", "--", ":", "-.")
    for slab_var, style in zip(slab_vars, styles, strict=False):
        for reading, colour in READING_COLOURS.items():
            line = [
                critical_slab_mean_var(
                    float(p), slab_var, bias_var, activation, reading
                )
                for p in spikes
            ]
            label = f"{reading}, N Ξ = {slab_var:g}"
            axis.plot(spikes, line, style, color=colour, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("π, probability that a connection is absent")
    axis.set_ylabel("critical N E m²")
    name = find_activation(activation).name
    axis.set_title(f"{name}, σ_b² = {bias_var:g}")
    axis.legend(fontsize="small", frameon=False)
    return axis


def depth_scale_flow(flow: Sequence[WideLayer], axis: Axes | None = None) -> Axes:
    """Depth scale ξ at every step of a flow: a straight line of slope −ln 2."""
    axis = axis or new_axis()
    scales = [layer.depth_scale for layer in flow if layer.depth_scale]
    axis.plot(range(len(scales)), scales, "o-", color=BLUE)
    axis.set_yscale("log")
    axis.set_xlabel("decimation step, b = 2")
    axis.set_ylabel("ξ (layers)")
    return axis


def complexity(
    layers: Mapping[str, Mapping[str, Any]], axis: Axes | None = None
) -> Axes:
    """Entropic complexity of every layer in bits: sum over its units, and jointly.

    Args:
        layers: as in `ComplexityReport.to_dict()["layers"]`; a layer that was not
            measured is left out.
        axis: where to draw.
    """
    measured = {n: e for n, e in layers.items() if e["marginal"] is not None}
    require(
        len(measured) > 0, "`layers` holds no measured layer; there is nothing to draw."
    )
    axis = axis or new_axis()
    places = np.arange(len(measured))
    marginal = [entry["marginal"] for entry in measured.values()]
    joint = [(e["joint"] or {}).get("bits", np.nan) for e in measured.values()]
    axis.bar(
        places - 0.2, marginal, 0.4, label="sum of units", color=SKY, edgecolor=BLACK
    )
    axis.bar(
        places + 0.2, joint, 0.4, label="joint", color=BLUE, edgecolor=BLACK, hatch="//"
    )
    layer_ticks(axis, list(measured))
    axis.set_ylabel("entropic complexity (bits)")
    axis.legend(frameon=False, fontsize="small")
    return axis


def _log_magnitudes(values: Any) -> np.ndarray:
    magnitudes = np.abs(np.asarray(values).ravel().astype(np.float64))
    return np.log(magnitudes[magnitudes > 0])


def _say(axis: Axes, text: str) -> Axes:
    axis.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    axis.set_axis_off()
    return axis
