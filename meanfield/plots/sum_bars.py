"""Plot of the sum of credit at the scales of connections, neurons and layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from meanfield.checks import require

from .style import BLACK, BLUE, GREEN, GREY, RED, new_axis

TOP_SHARE = 0.01  # fraction of the connections that is drawn in black


def credit_scales(
    neurons: Mapping[str, Any],
    connections: Mapping[str, Any],
    axis: Axes | None = None,
    *,
    coalitions: Mapping[str, Any] | None = None,
    gain: float | int | None = None,
    units: Mapping[str, Any] | None = None,
) -> Axes:
    """The same sum of credit over connections, over neurons, and over layers.

    Args:
        neurons: by layer (units,), the sum of the values of the connections into every
            unit, as in `meanfield.neurons.credit_sums`; None for a layer without such
            sums.
        connections: by layer, the values of its connections.
        axis: where to draw.
        coalitions: by layer, the mask of a coalition, such as the strong one; its units
            are drawn in orange.
        gain: payoff − empty payoff, to which the values should sum; the title states
            the difference. Default: the sum of the values.
        units: by layer, the values of the neurons as players of a game, such as
            ``meanfield.unit_values(...).values``; drawn as a separate bar, because that
            game divides a different payoff.

    Returns:
        The axis.

    Raises:
        ValueError: `connections` has other layers than `neurons`, or the sums of a
            layer do not add up to the values of its connections.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> values = {"layers/0": np.array([[0.3, 0.1], [0.0, 0.2]])}
        >>> sums = {"layers/0": values["layers/0"].sum(1)}
        >>> len(mf.plots.credit_scales(sums, values).patches) > 0
        True
    """
    require(
        list(neurons) == list(connections) and len(neurons) > 0,
        f"`connections` must have the layers of `neurons`, {list(neurons)}; got "
        f"{list(connections)}.",
    )
    axis = axis or new_axis(7.5, 3.2 if units is None else 3.8)
    inside = coalitions or {}
    start = 0.0
    for number, name in enumerate(neurons):
        color = (BLUE, GREY)[number % 2]
        single = np.ravel(np.asarray(connections[name], float))
        total = single.sum()
        axis.barh(2, total, left=start, color=color, edgecolor="white")
        _name(axis, start + total / 2, 2, f"{name}\n{total:.3f}")
        if neurons[name] is not None:
            own = np.asarray(neurons[name], float)
            require(
                bool(np.isclose(own.sum(), total, rtol=1e-3, atol=1e-6)),
                f"`neurons` of {name!r} must sum to the values of its connections, "
                f"{total:g}; got {own.sum():g}.",
            )
            _stack(axis, 1, start, own, color, inside.get(name))
        most = max(1, round(TOP_SHARE * single.size))
        top = np.sort(single)[::-1][:most].sum()
        axis.barh(0, top, left=start, color=BLACK, edgecolor="none")
        axis.barh(0, total - top, left=start + top, color=color, alpha=0.5)
        start += total
    whole = start if gain is None else gain
    axis.barh(3, whole, color=BLUE, edgecolor="none")
    rows: dict[float, str] = {
        3: "payoff gained",
        2: "layers",
        1: "neurons",
        0: "connections (top 1 % black)",
    }
    if units is not None:
        end = 0.0
        for number, (name, values) in enumerate(units.items()):
            own = np.asarray(values, float)
            color = (GREEN, GREY)[number % 2]
            _stack(axis, -1.5, end, own, color, inside.get(name))
            _name(axis, end + own.sum() / 2, -1.5, f"{name}\n{own.sum():.3f}")
            end += own.sum()
        rows[-1.5] = "another game: neurons"
    axis.set_yticks(list(rows), list(rows.values()))
    axis.set_xlabel("sum of values, in units of the payoff")
    off = start - whole
    gap = f" (gap {off:+.1g})" if off else ""
    members = "" if coalitions is None else "; orange: in the coalition"
    axis.set_title(f"One sum, {start:.3f}{gap}{members}", size="medium")
    return axis


def _stack(
    axis: Axes, row: float | int, start: float | int, values: Any, color: str, mask: Any
) -> None:
    """Stacked bars, the largest first; members of a coalition in orange."""
    order = np.argsort(-values)
    sizes = values[order]
    member = np.zeros(len(sizes), bool) if mask is None else np.asarray(mask)[order]
    axis.barh(
        np.full(len(sizes), row),
        sizes,
        left=start + np.cumsum(sizes) - sizes,
        color=[
            to_rgba(RED if own else color, (0.6, 0.9)[rank % 2])
            for rank, own in enumerate(member)
        ],
        edgecolor="none",
    )


def _name(axis: Axes, x: float | int, y: float | int, text: str) -> None:
    axis.text(x, y, text, ha="center", va="center", size="x-small", color="white")
