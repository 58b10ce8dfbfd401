"""A plot for a dark page: the same drawing in other colours.

Greys are inverted, so that black becomes white; other colours only become a little
lighter, so that text about colours holds on both pages.
"""

from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import FigureBase

PAPER, INK = (0.051, 0.067, 0.090), (0.902, 0.929, 0.953)
# A colour whose channels differ by less than this is a grey.
GREY_SPREAD = 0.12
LIGHTER = 0.25
PARTS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def dark_colour(colour: Any) -> tuple[float, ...]:
    """The colour that replaces another one on a dark page, with its opacity.

    A grey of lightness l becomes PAPER + (1 − l)(INK − PAPER), so that white becomes
    the dark paper and black the light ink; any other colour is mixed with a quarter of
    white.

    Args:
        colour: one colour, as Matplotlib takes it.

    Example:
        >>> from meanfield.plots.dark import dark_colour
        >>> [round(part, 2) for part in dark_colour("black")]
        [0.9, 0.93, 0.95, 1.0]
    """
    *rgb, alpha = colors.to_rgba(colour)
    rgb = np.asarray(rgb)
    if np.ptp(rgb) < GREY_SPREAD:
        rgb = np.asarray(PAPER) + (1 - rgb.mean()) * np.subtract(INK, PAPER)
    else:
        rgb = rgb + LIGHTER * (1 - rgb)
    return (*map(float, rgb), float(alpha))


def darken(axis: Axes) -> Axes:
    """Change a figure in place to the colours of a dark page.

    Colours from a colour map do not change.

    Args:
        axis: any axis of the figure.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> from meanfield.plots.dark import INK, darken
        >>> axis = darken(mf.plots.entropy_by_layer({"a": -1.0, "b": 0.5}))
        >>> tuple(axis.title.get_color()[:3]) == INK
        True
    """
    figure: Any = axis.figure
    for artist in figure.findobj(Artist):
        # The background colour of a figure or an axis is that of its patch.
        if isinstance(artist, FigureBase | Axes):
            continue
        mapped = isinstance(artist, ScalarMappable) and artist.get_array() is not None
        for part in PARTS:
            read = getattr(artist, f"get_{part}", None)
            write = getattr(artist, f"set_{part}", None)
            if read is None or write is None or (mapped and part != "edgecolor"):
                continue
            new = _dark(read())
            if new is not None:
                write(new)
    return axis


def _dark(colour: Any) -> Any:
    """The dark form of one colour or several; None if they stay as they are."""
    if isinstance(colour, str) and not colors.is_color_like(colour):
        return None
    if colors.is_color_like(colour):
        # A transparent colour is not drawn, and stays as it is.
        return None if colors.to_rgba(colour)[3] == 0 else dark_colour(colour)
    rows = np.asarray(colour, float)
    if rows.ndim != 2 or not len(rows):
        return None
    return np.stack([dark_colour(row) for row in rows])
