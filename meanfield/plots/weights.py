"""Plots of weights: the landscape of a layer, labels, entropy, perturbation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanfield.checks import require
from meanfield.credit.labels import Label
from meanfield.spikeslab import SpikeSlab

from .style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    curve_style,
    layer_ticks,
    legend_above,
    new_axis,
)

LABEL_STYLE = {
    "important": (BLUE, ""),
    "variable": (ORANGE, "//"),
    "absent": ("#CCCCCC", ".."),
}
ARM_NAMES = {
    "important": "important removed",
    "variable": "variable removed, equally many",
    "random": "random removed, equally many",
    "absent": "absent randomised",
}


def landscape(
    weight: SpikeSlab,
    axis: Axes | None = None,
    *,
    labels: Any = None,
    never_learned: Any = None,
    name: str = "",
    max_points: int = 5000,
) -> Axes:
    r"""The landscape of one layer: slab mean m, slab variance Ξ, and π as colour.

    The axis of Ξ is logarithmic, except near 0, where it is linear, so that exact zeros
    are visible.

    Args:
        weight: the spike-and-slab weights of a layer.
        axis: where to draw.
        labels: an array of `Label`, of the same shape: important connections have a
            ring, and absent ones are pale.
        never_learned: boolean, of the same shape: these connections are drawn as
            crosses.
        name: name of the layer, for the title.
        max_points: largest number of connections to draw; from a larger layer a uniform
            sample is drawn, the same each time.

    Returns:
        The axis.

    Raises:
        ValueError: the weights are empty, or an array has another shape.

    Example:
        >>> import meanfield as mf
        >>> weight = mf.SpikeSlab([0.0, 0.5], [1.0, 0.2], [0.0, 0.1])
        >>> len(mf.plots.landscape(weight).collections)
        1
    """
    axis = axis or new_axis()
    spike, mean, var = (
        np.ravel(np.broadcast_to(part, weight.shape))
        for part in (weight.spike_prob, weight.slab_mean, weight.slab_var)
    )
    require(mean.size > 0, "`weight` is empty; there is nothing to draw.")
    # A random sample with a fixed seed, because every n-th weight could be one column.
    chosen = np.random.default_rng(0).permutation(mean.size)[:max_points]
    shown = spike[chosen]
    low, high = float(shown.min()), float(shown.max())
    styles = _marks(labels, never_learned, weight.shape)
    for mask, style in styles:
        here = chosen[mask[chosen]]
        points = axis.scatter(
            mean[here],
            var[here],
            c=spike[here],
            # A colour range of zero width would hide that all numbers are equal.
            vmin=low if high > low else 0,
            vmax=high if high > low else 1,
            cmap="viridis",
            rasterized=True,
            **style,
        )
    positive = var[var > 0]
    if positive.size:
        low, high = np.log10(np.percentile(positive, [1, 100]).astype(float))
        low, high = int(np.floor(max(low, high - 12))), int(np.ceil(high))
        axis.set_yscale("symlog", linthresh=10.0**low)
        powers = range(low, high + 1, max(1, (high - low) // 6))
        axis.set_yticks([0.0, *(10.0**power for power in powers)])
        axis.set_ylim(bottom=-0.2 * 10.0**low, top=1.5 * float(positive.max()))
    drawn = "" if mean.size <= max_points else f", {max_points:,} drawn"
    title = f"{name or 'One layer'}: {mean.size:,} connections{drawn}"
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("slab mean m")
    axis.set_ylabel("slab variance Ξ")
    figure: Any = axis.figure
    bar = figure.colorbar(points, ax=axis, label="spike probability π")
    bar.solids.set_alpha(1)
    if len(styles) > 1:
        legend = axis.legend(framealpha=0.85, fontsize="x-small", loc="lower right")
        marks: Any = legend.legend_handles
        for mark in marks:
            mark.set_alpha(1)  # as pale as the points it would be invisible
    return axis


def _marks(
    labels: Any, never_learned: Any, shape: tuple[int, ...]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Masks of connections and their marks; one mark for those that never learned."""
    for argument, array in (("labels", labels), ("never_learned", never_learned)):
        found = shape if array is None else np.shape(array)
        require(
            found == shape,
            f"`{argument}` must have the shape {shape} of the weights; got {found}.",
        )
    dead = np.zeros(shape, bool) if never_learned is None else np.asarray(never_learned)
    dot = {"s": 6, "linewidths": 0, "alpha": 0.7}
    if labels is None:
        kinds = [("learned", ~dead, dot)]
    else:
        label = np.asarray(labels)
        kinds = [
            ("absent", ~dead & (label == Label.ABSENT), dot | {"alpha": 0.15}),
            ("variable", ~dead & (label == Label.VARIABLE), dot),
            (
                "important",
                ~dead & (label == Label.IMPORTANT),
                {"s": 16, "linewidths": 0.8, "edgecolors": RED},
            ),
        ]
    cross = {"s": 8, "linewidths": 0.5, "marker": "x", "alpha": 0.5}
    kinds.append(("never learned", dead, cross))
    return [
        (mask.ravel(), style | {"label": f"{name} ({mask.sum():,})"})
        for name, mask, style in kinds
        if mask.any()
    ]


def label_fractions(
    fractions: Mapping[str, Mapping[str, float]], axis: Axes | None = None
) -> Axes:
    """Fractions of important, variable and absent connections as stacked bars.

    Args:
        fractions: a mapping from layers to labels to fractions, as
            `ConnectionLabels.fractions`.
        axis: where to draw.

    Returns:
        The axis.

    Raises:
        ValueError: `fractions` is empty.

    Example:
        >>> import meanfield as mf
        >>> parts = {"important": 0.2, "variable": 0.5, "absent": 0.3}
        >>> axis = mf.plots.label_fractions({"layers/0": parts})
        >>> axis.get_ylabel()
        'fraction of the connections'
    """
    require(len(fractions) > 0, "`fractions` is empty; there is nothing to draw.")
    axis = axis or new_axis(width=max(4.0, 1.5 + 0.9 * len(fractions)))
    places = np.arange(len(fractions))
    below = np.zeros(len(fractions))
    for name, (colour, hatch) in LABEL_STYLE.items():
        part = np.nan_to_num([layer[name] for layer in fractions.values()])
        axis.bar(
            places,
            part,
            bottom=below,
            label=name,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        below += part
    layer_ticks(axis, list(fractions))
    axis.set_ylim(0, 1)
    axis.set_title("Labels by layer", pad=24)
    axis.set_ylabel("fraction of the connections")
    legend_above(axis)
    return axis


def entropy_by_layer(
    entropies: Mapping[str, Mapping[str, Any]] | Mapping[str, Any],
    axis: Axes | None = None,
) -> Axes:
    """Mean entropy of a connection, layer by layer.

    The entropy of a mixture of a spike and a density can be negative: for a slab alone
    it is negative if its standard deviation is below 1/√(2πe) = 0.242.

    Args:
        entropies: a mapping from layers to nats per weight; or several such mappings by
            name. If a value is a sequence over runs, mean and standard deviation are
            drawn.
        axis: where to draw.

    Returns:
        The axis.

    Raises:
        ValueError: `entropies` is empty.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.entropy_by_layer({"layers/0": -1.0, "layers/1": 0.5})
        >>> axis.get_ylabel()
        'entropy (nats per weight)'
    """
    require(len(entropies) > 0, "`entropies` is empty; there is nothing to draw.")
    axis = axis or new_axis()
    several = isinstance(next(iter(entropies.values())), Mapping)
    curves: Mapping[str, Any] = entropies if several else {"": entropies}
    for number, (name, layers) in enumerate(curves.items()):
        values = [np.atleast_1d(np.asarray(v, float)) for v in layers.values()]
        axis.errorbar(
            np.arange(len(values)),
            [value.mean() for value in values],
            yerr=[value.std(ddof=1) if value.size > 1 else 0.0 for value in values],
            label=name,
            capsize=3,
            **curve_style(number),
        )
        layer_ticks(axis, list(layers))
    axis.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axis.set_title(
        "Entropy by layer (below 0: narrower than √Ξ = 0.24)", fontsize="medium"
    )
    axis.set_ylabel("entropy (nats per weight)")
    if several:
        axis.legend(frameon=False, fontsize="small")
    return axis


def perturbation_curves(perturbation: Any, axis: Axes | None = None) -> Axes:
    """Error against the fraction of connections changed, with 95 % intervals.

    An arm, such as "absent", without a connection to change is left out.

    Args:
        perturbation: the result of `meanfield.credit.perturb_connections`.
        axis: where to draw.

    Returns:
        The axis.

    Example:
        >>> import meanfield as mf
        >>> import equinox as eqx, jax
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 4)), jax.numpy.arange(8) % 3
        >>> damage = mf.credit.perturb_connections(
        ...     ensemble, mf.label_connections(ensemble), data, key=jax.random.key(3),
        ...     fractions=[0.0, 1.0], num_samples=2)
        >>> mf.plots.perturbation_curves(damage).get_xlabel()
        'fraction changed'
    """
    axis = axis or new_axis()
    available = perturbation.num_available
    for number, name in enumerate(perturbation.errors):
        if not available[name]:
            continue
        mean = perturbation.mean[name]
        low, high = perturbation.intervals[name].T
        style = curve_style(number)
        label = ARM_NAMES.get(name, name)
        axis.plot(perturbation.fractions, mean, label=label, **style)
        axis.fill_between(
            perturbation.fractions, low, high, color=style["color"], alpha=0.2, lw=0
        )
    axis.set_title("What connections of each label are worth")
    axis.set_xlabel("fraction changed")
    axis.set_ylabel(perturbation.metric)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize="small")
    return axis
