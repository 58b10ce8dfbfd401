"""Plots of cooperative games: payoffs by size of a coalition, Shapley values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from meanfield.checks import require

from .style import BLACK, BLUE, GREY, RED, curve_style, legend_above, new_axis


def payoff_curves(
    curves: Mapping[str, Any],
    axis: Axes | None = None,
    *,
    x: Any = None,
    x_label: str = "neurons in the coalition",
    y_label: str = "payoff",
    chosen: int | None = None,
    threshold: float | None = None,
    title: str = "",
) -> Axes:
    """Payoff against the size of a coalition, for several curves.

    Args:
        curves: values of each curve by name: (sizes,), or (sizes, repetitions) to draw
            mean and standard deviation.
        axis: where to draw.
        x: sizes; 0, 1, 2, … by default.
        x_label: label of the x axis.
        y_label: label of the y axis.
        chosen: size of the chosen coalition, marked by a line.
        threshold: payoff that the coalition has to reach, marked by a line.
        title: title of the plot.

    Returns:
        The axis.

    Raises:
        ValueError: there is nothing to draw, or shapes do not fit.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.payoff_curves({"by value": [0.1, 0.6, 0.9]})
        >>> axis.get_ylabel()
        'payoff'
    """
    require(len(curves) > 0, "`curves` must have at least one curve; got none.")
    axis = axis or new_axis()
    for number, (name, values) in enumerate(curves.items()):
        values = np.asarray(values, float)
        places = np.arange(len(values)) if x is None else np.asarray(x)
        style: dict[str, Any] = curve_style(number) | (
            {"marker": ""} if len(values) > 30 else {}
        )
        if values.ndim == 2:
            mean, std = values.mean(1), values.std(1, ddof=min(1, values.shape[1] - 1))
            axis.fill_between(
                places, mean - std, mean + std, color=style["color"], alpha=0.2, lw=0
            )
            values = mean
        axis.plot(places, values, label=name, **style)
    if threshold is not None:
        axis.axhline(threshold, ls=":", color=GREY, label=f"threshold: {threshold:.3g}")
    if chosen is not None:
        axis.axvline(chosen, ls="--", color=BLACK, lw=1, label=f"chosen: {chosen}")
    axis.set_title(title)
    if x is None:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.legend(frameon=False, fontsize="small")
    return axis


def shapley_values(
    values: Any,
    intervals: Any = None,
    axis: Axes | None = None,
    *,
    mask: Any = None,
    player: str = "neuron",
    title: str = "",
) -> Axes:
    """Shapley values in decreasing order, with intervals; the first five are numbered.

    Args:
        values: one value per player.
        intervals: (players, 2), lower and upper ends.
        axis: where to draw.
        mask: boolean (players,), the members of a coalition, drawn as full circles.
        player: noun for a player, such as "neuron".
        title: title of the plot.

    Returns:
        The axis.

    Raises:
        ValueError: there is nothing to draw, or shapes do not fit.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.shapley_values([0.1, 0.5, 0.3])
        >>> len(axis.lines) > 0
        True
    """
    values = np.asarray(values, float)
    require(
        values.ndim == 1 and values.size > 0,
        f"`values` must hold one number per player; got shape {values.shape}.",
    )
    axis = axis or new_axis()
    order = np.argsort(-values)
    ranks = np.arange(1, values.size + 1)
    if intervals is not None:
        low, high = np.asarray(intervals, float)[order].T
        drawn = np.isfinite(low) & np.isfinite(high)
        axis.vlines(ranks[drawn], low[drawn], high[drawn], color=GREY, lw=1)
    members = np.ones(values.size, bool) if mask is None else np.asarray(mask, bool)
    inside = members[order]
    name = f"{player}s" if mask is None else "in the coalition"
    axis.plot(ranks[inside], values[order][inside], "o", color=BLUE, ms=4, label=name)
    if mask is not None:
        outside = values[order][~inside]
        axis.plot(
            ranks[~inside], outside, "o", color=RED, mfc="none", ms=4, label="outside"
        )
        axis.legend(frameon=False, fontsize="small")
    for rank, number in zip(ranks[:5], order[:5], strict=True):
        axis.annotate(
            str(number),
            (rank, values[number]),
            xytext=(4, 2),
            textcoords="offset points",
            fontsize="x-small",
        )
    axis.axhline(0, color=BLACK, lw=0.6)
    axis.set_title(title)
    axis.set_xlabel(f"rank of the {player} (first five: with their numbers)")
    axis.set_ylabel("Shapley value")
    return axis


def coalition_network(
    masks: Mapping[str, Any],
    weights: Sequence[Any] = (),
    axis: Axes | None = None,
    *,
    most_lines: int = 200,
) -> Axes:
    """The network drawn with its coalitions: a column of neurons for each layer.

    Members are full circles on top, the others small rings below them. Lines are the
    largest weights between members of consecutive layers: thicker for larger weights,
    dashed for negative ones.

    Args:
        masks: by layer, a boolean mask (units,) of the members.
        weights: weights from each layer to the next, (units, next units).
        axis: where to draw.
        most_lines: largest number of lines between two layers.

    Returns:
        The axis.

    Raises:
        ValueError: there is nothing to draw, or shapes do not fit.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.coalition_network({"a": [True, False], "b": [True, True]})
        >>> [label.get_text().split()[0] for label in axis.get_xticklabels()]
        ['a', 'b']
    """
    require(len(masks) > 0, "`masks` must have at least one layer; got none.")
    inside = {name: np.asarray(mask, bool) for name, mask in masks.items()}
    axis = axis or new_axis(2.2 + 1.8 * len(inside), 4.6)
    heights = [_heights(mask) for mask in inside.values()]
    members = list(inside.values())
    for number, weight in enumerate(weights):
        _draw_weights(axis, number, np.asarray(weight), heights, members, most_lines)
    for number, (mask, height) in enumerate(zip(members, heights, strict=True)):
        where = np.full(mask.size, float(number))
        axis.plot(where[mask], height[mask], "o", color=BLUE, ms=5, zorder=3)
        axis.plot(
            where[~mask], height[~mask], "o", color=RED, mfc="none", ms=3, zorder=3
        )
    names = [f"{name}\n{mask.sum()} of {mask.size}" for name, mask in inside.items()]
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_yticks([])
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.plot([], [], "o", color=BLUE, ms=5, label="in the coalition")
    axis.plot([], [], "o", color=RED, mfc="none", ms=3, label="outside")
    legend_above(axis)
    return axis


def _heights(mask: np.ndarray) -> np.ndarray:
    """Members from the top down, then a gap, then the others."""
    order = np.argsort(~mask, kind="stable")
    places = np.empty(mask.size)
    places[order] = np.arange(mask.size, dtype=float)
    places[~mask] += 0.04 * mask.size
    return 1 - places / max(places.max(), 1)


def _draw_weights(axis, number, weight, heights, members, most_lines) -> None:
    require(
        weight.shape == (members[number].size, members[number + 1].size),
        f"`weights` {number} must have shape "
        f"{(members[number].size, members[number + 1].size)}; got {weight.shape}.",
    )
    between = np.where(members[number][:, None] & members[number + 1], weight, 0)
    largest = np.argsort(-np.abs(between), axis=None)[:most_lines]
    top = max(float(np.abs(between).max()), 1e-30)
    for source, target in zip(*np.unravel_index(largest, weight.shape), strict=True):
        size = between[source, target]
        if size != 0:
            axis.plot(
                [number, number + 1],
                [heights[number][source], heights[number + 1][target]],
                color=GREY,
                lw=1.2 * abs(size) / top,
                linestyle="-" if size > 0 else "--",
                zorder=1,
            )
