"""Plot of the entropic complexity of layers, in bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanfield.checks import require

from .style import BLACK, BLUE, SKY, layer_ticks, new_axis


def complexity(
    layers: Mapping[str, Mapping[str, Any]], axis: Axes | None = None
) -> Axes:
    """Entropic complexity of every layer in bits: sum over units, and joint.

    The on/off state of a unit has at most one bit, so the largest value of a layer is
    its number of units. Pale bars are layers with too few examples.

    Args:
        layers: as in `NetworkComplexity.to_dict()["layers"]`; a layer that was not
            measured is left out.
        axis: where to draw.

    Returns:
        The axis.

    Raises:
        ValueError: no layer was measured.

    Example:
        >>> import meanfield as mf
        >>> layers = {"layers/0": {"marginal": 3.0, "joint": {"bits": 2.0}}}
        >>> mf.plots.complexity(layers).get_ylabel()
        'entropic complexity (bits)'
    """
    measured = {n: e for n, e in layers.items() if e["marginal"] is not None}
    require(
        len(measured) > 0, "`layers` holds no measured layer; there is nothing to draw."
    )
    axis = axis or new_axis()
    places = np.arange(len(measured))
    marginal = [entry["marginal"] for entry in measured.values()]
    joint = [(e["joint"] or {}).get("bits", np.nan) for e in measured.values()]
    sums = axis.bar(
        places - 0.2, marginal, 0.4, label="sum of units", color=SKY, edgecolor=BLACK
    )
    joints = axis.bar(
        places + 0.2, joint, 0.4, label="joint", color=BLUE, edgecolor=BLACK, hatch="//"
    )
    ceilings = [entry.get("num_units") for entry in measured.values()]
    for place, ceiling in zip(places, ceilings, strict=True):
        if ceiling is not None:
            label = "ceiling: 1 bit per unit" if place == 0 else ""
            ends = place - 0.45, place + 0.45
            axis.hlines(ceiling, *ends, color=BLACK, ls=":", label=label)
    for number, entry in enumerate(measured.values()):
        if entry.get("verdict", "measured") != "measured":
            sums[number].set_alpha(0.35)
            joints[number].set_alpha(0.35)
    uncertain = any(
        e.get("verdict", "measured") != "measured" for e in measured.values()
    )
    pale = "; pale: too few examples" if uncertain else ""
    axis.set_title(f"Bits of the on/off pattern{pale}", fontsize="medium")
    layer_ticks(axis, list(measured))
    axis.set_ylabel("entropic complexity (bits)")
    axis.legend(frameon=False, fontsize="small")
    return axis
