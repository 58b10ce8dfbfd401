"""Plots of the phase diagram of wide layers and of flows in it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from meanfield.physics.renormalization.activations import Activation, find_activation
from meanfield.physics.renormalization.ensemble_map import (
    READINGS,
    critical_slab_mean_var,
)
from meanfield.physics.renormalization.fitted_decimation import EffectiveLayer
from meanfield.physics.renormalization.fixed_points import critical_weight_var
from meanfield.physics.renormalization.network_phase import Renormalization
from meanfield.physics.renormalization.wide_flow import wide_flow, wide_layer

from .style import BLACK, BLUE, GREEN, GREY, RED, new_axis

READING_COLOURS = dict(zip(READINGS, (BLUE, RED, GREEN), strict=True))


def phase_diagram(
    results: Mapping[str, Renormalization] | None = None,
    axis: Axes | None = None,
    *,
    activation: str | Activation = "tanh",
    max_bias_var: float = 0.3,
) -> Axes:
    """Critical line χ₁ = 1 in the plane of σ_w² and σ_b², with layers as points.

    Bars are two standard errors. If there are layers, the axes show their range.

    Args:
        results: results of `analyze_renormalization`, by name.
        axis: where to draw.
        activation: φ of the line.
        max_bias_var: largest σ_b² of the line.

    Returns:
        The axis.

    Raises:
        ValueError: an unknown activation.

    Example:
        >>> import meanfield as mf
        >>> mf.plots.phase_diagram().get_xlabel()
        'σ_w²'
    """
    axis = axis or new_axis()
    phi = find_activation(activation)
    # The line begins like a square root, so most of its points are placed near 0.
    biases = max_bias_var * np.linspace(0, 1, 41) ** 3
    line = np.array([critical_weight_var(float(b), phi) for b in biases])
    axis.plot(line, biases, color=BLACK, label="χ₁ = 1")
    axis.fill_betweenx(biases, line, line.max() * 4, color="#F3E3D9", zorder=0)
    axis.set_xlim(0, line.max() * 1.5)
    placed = np.zeros((0, 4))
    for name, result in (results or {}).items():
        layers = {n: p for n, p in result.layers.items() if p.weight_var is not None}
        points = np.array(
            [
                (
                    p.weight_var,
                    p.bias_var,
                    p.weight_var_error or 0,
                    p.bias_var_error or 0,
                )
                for p in layers.values()
            ],
            float,
        ).reshape(-1, 4)
        x, y, x_error, y_error = points.T
        axis.errorbar(
            x, y, 2 * y_error, 2 * x_error, fmt="o", markersize=4, capsize=2, label=name
        )
        for layer, place in zip(layers, points, strict=True):
            short = layer.removesuffix("/weight").removesuffix("/kernel")
            axis.annotate(
                short,
                (place[0], place[1]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize="x-small",
            )
        placed = np.concatenate([placed, points])
    if len(placed):
        ends = placed[:, :2] + 3 * placed[:, 2:]
        nearest = critical_weight_var(float(np.median(placed[:, 1])), phi)
        axis.set_xlim(0, 1.15 * max(*ends[:, 0], nearest))
        axis.set_ylim(0, min(max_bias_var, max(1.4 * ends[:, 1].max(), 0.01)))
    axis.text(0.03, 0.9, "order", transform=axis.transAxes)
    axis.text(0.85, 0.9, "chaos", transform=axis.transAxes)
    axis.set_xlabel("σ_w²")
    axis.set_ylabel("σ_b²")
    axis.set_title(f"Phase diagram of wide {phi.name} layers")
    # The legend is below the axis, because inside it would hide the names of layers.
    axis.legend(
        fontsize="small",
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=2,
    )
    return axis


def decimation_flow(
    starts: Sequence[tuple[float, float]],
    axis: Axes | None = None,
    *,
    activation: str | Activation = "tanh",
    num_steps: int = 6,
) -> Axes:
    """Flow from several (σ_w², σ_b²) as two layers become one, with the critical line.

    Points move along lines of constant q*; arrows show one step. A chaotic flow
    (orange) ends where no single layer has the q* and χ of two layers.

    Args:
        starts: initial (σ_w², σ_b²) of every flow.
        axis: where to draw.
        activation: φ.
        num_steps: decimations of each flow.

    Returns:
        The axis.

    Raises:
        ValueError: an initial point has no finite q*, or the activation is unknown.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.decimation_flow([(1.5, 0.05)], num_steps=2)
        >>> axis.get_ylabel()
        'σ_b²'
    """
    axis = axis or new_axis()
    phi = find_activation(activation)
    widest = 0.0
    for weight_var, bias_var in starts:
        flow = wide_flow(wide_layer(weight_var, bias_var, phi), phi, num_steps)
        x = [layer.weight_var for layer in flow]
        y = [layer.bias_var for layer in flow]
        widest = max(widest, *x)
        colour = BLUE if flow[0].gradient < 1 else RED
        if abs(flow[0].gradient - 1) < 1e-6:
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
    """χ₁ of effective layers by block size; filled where the single layer fits.

    Args:
        levels: the result of `decimate_network`.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import jax, numpy as np, meanfield as mf
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.normal(size=(8, 8)) / 3, np.zeros(8)) for _ in range(2)]
        >>> x = rng.normal(size=(500, 8))
        >>> key = jax.random.key(0)
        >>> levels = mf.physics.decimate_network(layers, x, "tanh", key=key)
        >>> len(mf.plots.measured_flow(levels).lines) > 0
        True
    """
    axis = axis or new_axis()
    for level in levels:
        for layer in level:
            good = layer.verdict == "good"
            axis.plot(
                layer.block * (1 + 0.02 * layer.first),
                layer.gradient,
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
    """Critical N E m² of a spike-and-slab layer against π, for every reading.

    Args:
        axis: where to draw.
        activation: φ.
        bias_var: σ_b².
        slab_vars: N Ξ of every curve.

    Returns:
        The axis.

    Raises:
        ValueError: an unknown activation.

    Example:
        >>> import meanfield as mf
        >>> mf.plots.critical_slabs().get_xlabel()
        'π, probability that a connection is absent'
    """
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
