"""Plots of the credit of connections: maps of inputs, payoff against density."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanfield.checks import require

from .style import BLUE, RED, new_axis

MOST_POINTS = 20_000
NAMED = 5  # connections with a name in the plot of values against magnitude


def credit_maps(
    maps: Mapping[Any, Any], axis: Axes | None = None, *, columns: int = 5
) -> Axes:
    """Credit of every input as images, side by side.

    Red inputs raise the payoff and blue ones lower it; all maps have the same scale.

    Args:
        maps: credit of the inputs (height, width) by name, such as a class.
        axis: where to draw.
        columns: maps in one row.

    Returns:
        The axis.

    Raises:
        ValueError: there is nothing to draw, or the maps differ in shape.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> axis = mf.plots.credit_maps({"0": np.eye(4), "1": -np.eye(4)})
        >>> len(axis.texts)
        2
    """
    arrays = {str(name): np.asarray(array, float) for name, array in maps.items()}
    shapes = {array.shape for array in arrays.values()}
    require(
        len(shapes) == 1 and len(next(iter(shapes))) == 2,
        f"`maps` must hold images (height, width) of one shape; got {sorted(shapes)}.",
    )
    ((height, width),) = shapes
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    # Each map has extra rows above it, for its name, and one extra column.
    top = max(2, height // 6)
    canvas = np.full((rows * (height + top), columns * (width + 1)), np.nan)
    axis = axis or new_axis(1.3 * columns + 1.2, 1.4 * rows + 0.4)
    for number, (name, array) in enumerate(arrays.items()):
        row, column = divmod(number, columns)
        y, x = row * (height + top) + top, column * (width + 1)
        canvas[y : y + height, x : x + width] = array
        axis.text(x + width / 2, y - 0.9, name, ha="center", va="bottom", size="small")
    reach = float(np.nanmax(np.abs(canvas))) or 1.0
    image = axis.imshow(canvas, cmap="RdBu_r", vmin=-reach, vmax=reach)
    axis.set_axis_off()
    figure: Any = axis.figure
    figure.colorbar(image, ax=axis, label="value", shrink=0.8)
    return axis


def payoff_by_density(credit: Any, axis: Axes | None = None) -> Axes:
    """Payoff against the density of connections; marks where it rises fastest.

    Args:
        credit: the result of `meanfield.connection_values`; if it has a check, the mean
            payoffs of drawn sub-networks are shown too.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 4)), jax.numpy.arange(8) % 3
        >>> credit = mf.connection_values(ensemble, data, key=jax.random.key(3))
        >>> len(mf.plots.payoff_by_density(credit).lines) > 0
        True
    """
    axis = axis or new_axis()
    nodes = np.concatenate([[0], credit.nodes, [1]])
    payoffs = np.concatenate(
        [[credit.empty_payoff], credit.path_payoff, [credit.payoff]]
    )
    errors = np.concatenate([[0], credit.path_errors, [0]])
    axis.errorbar(
        nodes, payoffs, errors, color=BLUE, marker="o", ms=3, label="Gaussian"
    )
    if credit.check is not None:
        check = credit.check
        axis.errorbar(
            check.nodes,
            check.drawn_payoff,
            check.drawn_errors,
            color=RED,
            fmt="s",
            ms=3,
            label="drawn sub-networks",
        )
    steepest = steepest_density(credit)
    axis.axvline(steepest, color="grey", ls=":", label=f"steepest at {steepest:.2f}")
    axis.set_xlabel("density t of the connections")
    axis.set_ylabel(f"payoff ({credit.payoff_name.replace('_', ' ')})")
    axis.legend(frameon=False, fontsize="small")
    return axis


def steepest_density(credit: Any) -> float:
    """Density at which the payoff rises fastest from node to node.

    Args:
        credit: the result of `meanfield.connection_values`.
    """
    nodes = np.concatenate([[0], credit.nodes, [1]])
    payoffs = np.concatenate(
        [[credit.empty_payoff], credit.path_payoff, [credit.payoff]]
    )
    # Slopes over two intervals: neighbouring nodes have noise of opposite sign.
    rises = (payoffs[2:] - payoffs[:-2]) / (nodes[2:] - nodes[:-2])
    return float(nodes[1:-1][np.argmax(rises)])


def value_against_magnitude(
    values: Mapping[str, Any], magnitudes: Mapping[str, Any], axis: Axes | None = None
) -> Axes:
    """Value against absolute mean weight, with the names of extreme connections.

    Named are, among the largest values, the connections of smallest magnitude.

    Args:
        values: values by path name.
        magnitudes: magnitudes by path name, of the same shapes.
        axis: where to draw.

    Returns:
        The axis.

    Raises:
        ValueError: `magnitudes` has other names or shapes.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> values = {"layers/0/weight": np.array([[0.1, 0.0], [0.3, -0.1]])}
        >>> sizes = {"layers/0/weight": np.array([[1.0, 0.1], [2.0, 0.5]])}
        >>> len(mf.plots.value_against_magnitude(values, sizes).lines) > 0
        True
    """
    shapes = [{n: np.shape(a) for n, a in d.items()} for d in (values, magnitudes)]
    require(
        shapes[0] == shapes[1],
        f"`magnitudes` must have the names and shapes of `values`, {shapes[0]}; got "
        f"{shapes[1]}.",
    )
    axis = axis or new_axis()
    for name, array in values.items():
        value, size = np.ravel(array), np.ravel(magnitudes[name])
        chosen = np.random.default_rng(0).permutation(value.size)[:MOST_POINTS]
        axis.plot(
            size[chosen],
            value[chosen],
            ".",
            ms=2,
            alpha=0.5,
            rasterized=True,
            label=name,
        )
    value, size, place = _all(values, magnitudes)
    # Of the largest values, those with the smallest magnitude.
    best = np.argsort(-value)[: max(len(value) // 100, NAMED)]
    rank = np.argsort(np.argsort(-size))
    named = []
    for count, number in enumerate(best[np.argsort(-rank[best])][:NAMED], 1):
        axis.annotate(
            str(count),
            (size[number], value[number]),
            xytext=(4, 4 + 6 * (count % 2)),
            textcoords="offset points",
            size="x-small",
        )
        named.append(f"{count}  {place(int(number))}")
    # Names next to the points would cover them.
    axis.text(
        0.02, 0.7, "\n".join(named), transform=axis.transAxes, va="top", size="x-small"
    )
    axis.set_xlabel("absolute mean weight")
    axis.set_ylabel("value")
    axis.legend(frameon=False, fontsize="small", markerscale=4)
    return axis


def _all(values: Mapping[str, Any], magnitudes: Mapping[str, Any]) -> Any:
    """All values and magnitudes, concatenated, and a function that names an entry."""
    names = list(values)
    ends = np.cumsum([0, *(np.size(values[name]) for name in names)])
    flat = lambda d: np.concatenate([np.ravel(np.asarray(d[n], float)) for n in names])

    def place(number: int) -> str:
        which = int(np.searchsorted(ends, number, "right")) - 1
        shape = np.shape(values[names[which]])
        index = np.unravel_index(int(number) - int(ends[which]), shape)
        return f"{names[which]} {tuple(int(i) for i in index)}"

    return flat(values), flat(magnitudes), place
