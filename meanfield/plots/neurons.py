"""Pictures of cooperative games: payoffs by size of a coalition, Shapley values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from meanfield.checks import require

from .style import BLACK, BLUE, GREY, RED, curve_style, new_axis


def payoff_curves(
    curves: Mapping[str, Any],
    axis: Axes | None = None,
    *,
    x: Any = None,
    x_label: str = "neurons in the coalition",
    y_label: str = "payoff",
) -> Axes:
    """Payoff against the size of a coalition, several curves by name.

    Args:
        curves: name to values; a second axis, if any, holds repetitions (size,
            repetitions), drawn as mean and standard deviation.
        axis: where to draw.
        x: sizes; 0, 1, 2, … if left out.
        x_label: what x is.
        y_label: what the values are.
    """
    require(len(curves) > 0, "`curves` is empty; there is nothing to draw.")
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
    if x is None:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.legend(frameon=False, fontsize="small")
    return axis


def shapley_values(
    values: Any, intervals: Any = None, axis: Axes | None = None, *, mask: Any = None
) -> Axes:
    """Shapley values in falling order, with their intervals.

    Args:
        values: one value a player.
        intervals: (players, 2), low and high ends.
        axis: where to draw.
        mask: boolean (players,), the members of a coalition, drawn as full circles.
    """
    values = np.asarray(values, float)
    require(
        values.ndim == 1 and values.size > 0,
        f"`values` must hold one number a player; got shape {values.shape}.",
    )
    axis = axis or new_axis()
    order = np.argsort(-values)
    ranks = np.arange(1, values.size + 1)
    if intervals is not None:
        low, high = np.asarray(intervals, float)[order].T
        axis.vlines(ranks, low, high, color=GREY, lw=1)
    members = np.ones(values.size, bool) if mask is None else np.asarray(mask, bool)
    inside = members[order]
    name = "players" if mask is None else "in the coalition"
    axis.plot(ranks[inside], values[order][inside], "o", color=BLUE, ms=4, label=name)
    if mask is not None:
        outside = values[order][~inside]
        axis.plot(
            ranks[~inside], outside, "o", color=RED, mfc="none", ms=4, label="outside"
        )
        axis.legend(frameon=False, fontsize="small")
    axis.axhline(0, color=BLACK, lw=0.6)
    axis.set_xlabel("rank of the player")
    axis.set_ylabel("Shapley value")
    return axis
