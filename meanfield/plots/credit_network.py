"""The network drawn by credit: its strongest paths from inputs to outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from meanfield.checks import require

from .style import BLACK, BLUE, new_axis


def strongest_paths(
    values: Sequence[Float[Any, "_ _"]], num_paths: int
) -> list[tuple[tuple[int, ...], float]]:
    r"""The paths with the most credit, from inputs to outputs.

    The positive credit φ⁺ = max(φ, 0) of the connections into an output, in total
    φ⁺_{k·}, is distributed backwards through the layers, in proportion to the positive
    credit of the connections into each unit on the path:

        path i → j → … → k:   φ⁺_{k·} · φ⁺_{kj} / φ⁺_{k·} · … · φ⁺_{ji} / φ⁺_{j·}

    so that the paths into an output share its credit.

    Args:
        values: for each layer from the first to the last, (units, inputs).
        num_paths: number of paths.

    Returns:
        Pairs of a path, from input to output, and its credit, in decreasing order of
        credit.

    Raises:
        ValueError: layers that do not follow one another.

    Example:
        >>> import numpy as np
        >>> from meanfield.plots.credit_network import strongest_paths
        >>> strongest_paths([np.array([[0.3, 0.1]]), np.array([[0.8]])], 1)
        [((0, 0, 0), 0.6)]
    """
    arrays = [np.maximum(np.asarray(value, float), 0) for value in values]
    chained = all(
        before.shape[0] == after.shape[1]
        for before, after in zip(arrays, arrays[1:], strict=False)
    )
    require(
        len(arrays) > 0 and all(array.ndim == 2 for array in arrays) and chained,
        "`values` must be matrices (units, inputs) of layers that follow one another; "
        f"got shapes {[array.shape for array in arrays]}.",
    )
    paths: list[list[tuple[tuple[int, ...], float]]] = [
        [((unit,), 1.0)] for unit in range(arrays[0].shape[1])
    ]
    for array in arrays:
        shares = array / np.maximum(array.sum(1, keepdims=True), 1e-300)
        paths = [
            _best(
                [
                    ((*path, unit), weight * shares[unit, source])
                    for source in np.flatnonzero(shares[unit])
                    for path, weight in paths[source]
                ],
                num_paths,
            )
            for unit in range(len(array))
        ]
    totals = arrays[-1].sum(1)
    return _best(
        [
            (tuple(map(int, path)), float(weight * totals[path[-1]]))
            for own in paths
            for path, weight in own
        ],
        num_paths,
    )


def _best(paths: list[tuple[tuple[int, ...], float]], most: int) -> Any:
    return sorted(paths, key=lambda item: (-item[1], item[0]))[:most]


def credit_paths(
    values: Sequence[Float[Any, "_ _"]],
    axis: Axes | None = None,
    *,
    num_paths: int = 60,
    names: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
) -> Axes:
    """The network drawn by credit: its strongest paths from inputs to outputs.

    Args:
        values: for each layer from the first to the last, (units, inputs).
        axis: where to draw.
        num_paths: number of paths.
        names: names of the outputs.
        layers: names of the columns, inputs included.

    Returns:
        The axis.

    Raises:
        ValueError: layers that do not follow one another, or no positive credit.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> axis = mf.plots.credit_paths([np.eye(3), np.ones((2, 3))])
        >>> len(axis.lines) > 0
        True
    """
    paths = strongest_paths(values, num_paths)
    require(len(paths) > 0, "`values` must have a path of positive values; got none.")
    axis = axis or new_axis(2.2 + 1.8 * len(values), 4.8)
    columns = [
        sorted({path[depth] for path, _ in paths}) for depth in range(len(values) + 1)
    ]
    heights = [
        {unit: (rank + 0.5) / len(column) for rank, unit in enumerate(column[::-1])}
        for column in columns
    ]
    strongest = paths[0][1]
    for path, weight in reversed(paths):
        axis.plot(
            range(len(path)),
            [heights[depth][unit] for depth, unit in enumerate(path)],
            color=BLUE,
            lw=0.4 + 2.6 * weight / strongest,
            alpha=0.25 + 0.6 * weight / strongest,
            solid_joinstyle="round",
        )
    for depth, places in enumerate(heights):
        axis.plot([depth] * len(places), list(places.values()), "o", color=BLACK, ms=3)
        last = depth == len(values)
        if len(places) > 30 and not last:
            continue
        for unit, height in places.items():
            text = names[unit] if last and names is not None else str(unit)
            axis.annotate(
                text,
                (depth, height),
                xytext=(6 if last else -6, 0),
                textcoords="offset points",
                ha="left" if last else "right",
                va="center",
                size="x-small",
            )
    share = sum(weight for _, weight in paths) / sum(
        np.maximum(np.asarray(values[-1], float), 0).sum(1)
    )
    labels = layers or ["inputs", *(f"layer {n}" for n in range(len(values)))]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.35, len(values) + 0.35)
    axis.set_yticks([])
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.set_title(f"{len(paths)} strongest paths, {100 * share:.0f} % of the credit")
    return axis
