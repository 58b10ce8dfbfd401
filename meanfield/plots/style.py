"""Functions that all plots use: new axes, colours, saving."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meanfield.checks import require
from meanfield.files import atomic_path

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY, BLACK = "#56B4E9", "#CC79A7", "#999999", "#000000"
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
MARKERS = "os^Dv<>P"


def new_axis(width: float = 5.0, height: float = 3.6) -> Axes:
    """An axis on a new figure.

    Args:
        width: width of the figure in inches.
        height: height of the figure in inches.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> mf.plots.new_axis(4.0, 3.0).figure.get_size_inches().tolist()
        [4.0, 3.0]
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.subplots()


def save(
    axis: Axes,
    path: str | os.PathLike,
    dpi: int = 150,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write an axis' figure to a file, whole or not at all.

    Args:
        axis: any axis of the figure.
        path: the file; its ending (``.png``, ``.svg``, ``.pdf``) determines the format.
        dpi: dots per inch of a bitmap.
        about: texts by keyword that are stored in the file.

    Raises:
        ValueError: the ending is not that of a picture format.
        OSError: the disk is full or the folder not writable; the old file stays.

    Example:
        >>> import meanfield as mf
        >>> mf.plots.save(mf.plots.new_axis(), "empty.png")
    """
    figure: Any = axis.figure
    kind = Path(path).suffix.removeprefix(".").lower()
    kinds = figure.canvas.get_supported_filetypes()
    require(
        kind in kinds,
        f"`path` must end in one of {sorted(kinds)}; got {str(path)!r}. Use .png.",
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=about)


def curve_style(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th curve; either alone identifies it."""
    return {
        "color": CYCLE[number % len(CYCLE)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
    }


def layer_ticks(axis: Axes, names: Sequence[str]) -> None:
    """Names of layers along the x axis, slanted if they would overlap."""
    names = [name.removesuffix("/weight").removesuffix("/kernel") for name in names]
    long = max(map(len, names)) * len(names) > 40
    axis.set_xticks(
        np.arange(len(names)),
        names,
        rotation=30 if long else 0,
        ha="right" if long else "center",
        fontsize="small",
    )
    axis.set_xlabel("layer")


def legend_above(axis: Axes) -> None:
    """A legend above the axis, where it hides no data."""
    axis.legend(
        frameon=False,
        fontsize="small",
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
