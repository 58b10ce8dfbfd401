"""Pictures. Every function draws on a Matplotlib axis and returns it.

Without an axis a figure of its own is made; no global state is touched, so that the
functions work in threads and without a display. Colours are those of Okabe & Ito, which
readers with any colour vision can tell apart; nothing is told by colour alone.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from meanfield.checks import require
from meanfield.files import atomic_path
from meanfield.spikeslab import SpikeSlab

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY, BLACK = "#56B4E9", "#CC79A7", "#999999", "#000000"
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
MARKERS = "os^Dv<>P"
LABEL_STYLE = {
    "important": (BLUE, ""),
    "variable": (ORANGE, "//"),
    "absent": ("#CCCCCC", ".."),
}
ARM_NAMES = {
    "important": "important removed",
    "variable": "as many variable removed",
    "random": "as many random removed",
    "absent": "absent randomised",
}


def new_axis(width: float = 5.0, height: float = 3.6) -> Axes:
    """An axis on a figure of its own; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.subplots()


def save(axis: Axes, path: str | os.PathLike, dpi: int = 150) -> None:
    """Write an axis' figure to a file, whole or not at all.

    Args:
        axis: any axis of the figure.
        path: the file; its ending (``.png``, ``.svg``, ``.pdf``) gives the format.
        dpi: dots per inch of a bitmap.

    Raises:
        ValueError: the ending is no picture format.
        OSError: the disk is full or the folder not writable; the old file stays.
    """
    figure: Any = axis.figure
    kind = Path(path).suffix.removeprefix(".").lower()
    kinds = figure.canvas.get_supported_filetypes()
    require(
        kind in kinds,
        f"`path` must end in one of {sorted(kinds)}; got {str(path)!r}. Use .png.",
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi)


def landscape(
    weight: SpikeSlab, axis: Axes | None = None, *, max_points: int = 5000
) -> Axes:
    r"""The landscape of one layer: slab mean m, slab variance Ξ, and π as colour.

    The axis of Ξ is logarithmic but for its last stretch down to 0, which is linear,
    so that exact zeros are seen.

    Args:
        weight: the spike-and-slab weights of a layer.
        axis: where to draw.
        max_points: connections drawn; of a larger layer an even sample, the same each
            time.
    """
    axis = axis or new_axis()
    spike, mean, var = (
        np.ravel(np.broadcast_to(part, weight.shape))
        for part in (weight.spike_prob, weight.slab_mean, weight.slab_var)
    )
    require(mean.size > 0, "`weight` is empty; there is nothing to draw.")
    # A fixed draw, not every n-th weight, which would follow the rows of the matrix.
    chosen = np.random.default_rng(0).permutation(mean.size)[:max_points]
    points = axis.scatter(
        mean[chosen],
        var[chosen],
        c=spike[chosen],
        s=6,
        vmin=0,
        vmax=1,
        cmap="viridis",
        linewidths=0,
        alpha=0.7,
        rasterized=True,
    )
    positive = var[var > 0]
    if positive.size:
        low, high = np.log10(np.percentile(positive, [1, 100]).astype(float))
        low, high = int(np.floor(max(low, high - 12))), int(np.ceil(high))
        axis.set_yscale("symlog", linthresh=10.0**low)
        powers = range(low, high + 1, max(1, (high - low) // 6))
        axis.set_yticks([0.0, *(10.0**power for power in powers)])
        axis.set_ylim(bottom=-0.2 * 10.0**low, top=1.5 * float(positive.max()))
    axis.set_xlabel("slab mean m")
    axis.set_ylabel("slab variance Ξ")
    figure: Any = axis.figure
    bar = figure.colorbar(points, ax=axis, label="spike probability π")
    bar.solids.set_alpha(1)
    return axis


def label_fractions(
    fractions: Mapping[str, Mapping[str, float]], axis: Axes | None = None
) -> Axes:
    """Important, variable and absent parts of every layer, as stacked bars.

    Args:
        fractions: as `ConnectionLabels.fractions`: layer to label to part.
        axis: where to draw.
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
    _layer_ticks(axis, list(fractions))
    axis.set_ylim(0, 1)
    axis.set_ylabel("part of the connections")
    _legend_above(axis)
    return axis


def entropy_by_layer(
    entropies: Mapping[str, Mapping[str, Any]] | Mapping[str, Any],
    axis: Axes | None = None,
) -> Axes:
    """Mean entropy of a connection, layer by layer.

    Args:
        entropies: layer to nats per weight; or several such curves by name. A value may
            be a sequence over runs: then mean and standard deviation are drawn.
        axis: where to draw.
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
            **_style(number),
        )
        _layer_ticks(axis, list(layers))
    axis.set_ylabel("entropy (nats per weight)")
    if several:
        axis.legend(frameon=False, fontsize="small")
    return axis


def perturbation_curves(perturbation: Any, axis: Axes | None = None) -> Axes:
    """Error against the fraction of connections changed, with 95 % intervals.

    An arm that had no connection to change is left out.

    Args:
        perturbation: what `meanfield.perturb_connections` returned.
        axis: where to draw.
    """
    axis = axis or new_axis()
    available = perturbation.num_available
    for number, name in enumerate(perturbation.errors):
        if not available[name]:
            continue
        mean = perturbation.mean[name]
        low, high = perturbation.intervals[name].T
        style = _style(number)
        label = ARM_NAMES.get(name, name)
        axis.plot(perturbation.fractions, mean, label=label, **style)
        axis.fill_between(
            perturbation.fractions, low, high, color=style["color"], alpha=0.2, lw=0
        )
    axis.set_xlabel("fraction changed")
    axis.set_ylabel(perturbation.metric)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize="small")
    return axis


def training_history(
    history: Mapping[str, Sequence[float | int]],
    axis: Axes | None = None,
    *,
    names: Sequence[str] = ("nll", "val_nll"),
) -> Axes:
    """What was written down epoch by epoch.

    Args:
        history: `FitResult.history`.
        axis: where to draw.
        names: entries to draw; those that a run does not have are left out.

    Raises:
        ValueError: the history has none of the names.
    """
    titles = {
        "nll": "training",
        "val_nll": "validation",
        "loss": "loss",
        "kl": "KL to the prior",
        "val_accuracy": "validation accuracy",
    }
    found = [name for name in names if len(history.get(name, ()))]
    require(
        bool(found),
        f"`names` must name entries of the history; got {list(names)}, and the history "
        f"has {list(history)}.",
    )
    axis = axis or new_axis()
    for number, name in enumerate(found):
        epochs = np.arange(1, len(history[name]) + 1)
        style: dict[str, Any] = _style(number) | (
            {} if len(epochs) < 30 else {"marker": ""}
        )
        axis.plot(epochs, history[name], label=titles.get(name, name), **style)
    accuracy = all("accuracy" in name for name in found)
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy" if accuracy else "nats per example")
    axis.legend(frameon=False, fontsize="small")
    return axis


def reliability_diagram(
    confidence: Any, accuracy: Any, counts: Any, axis: Axes | None = None
) -> Axes:
    """Accuracy against confidence in bins; on the diagonal a model is calibrated.

    Args:
        confidence: mean confidence of each bin.
        accuracy: accuracy of each bin.
        counts: examples of each bin; an empty one is not drawn. The area of a point
            grows with it.
        axis: where to draw.
    """
    confidence, accuracy, counts = (
        np.asarray(part, float) for part in (confidence, accuracy, counts)
    )
    require(
        confidence.shape == accuracy.shape == counts.shape and confidence.ndim == 1,
        "`confidence`, `accuracy` and `counts` must hold one number a bin; got shapes "
        f"{confidence.shape}, {accuracy.shape} and {counts.shape}.",
    )
    axis = axis or new_axis(4.0, 4.0)
    full = counts > 0
    confidence, accuracy, counts = confidence[full], accuracy[full], counts[full]
    axis.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated", zorder=1)
    # The binomial standard error of a bin's accuracy, ±2.
    error = 2 * np.sqrt(accuracy * (1 - accuracy) / np.maximum(counts, 1))
    axis.errorbar(
        confidence, accuracy, error, fmt="-", color=BLUE, capsize=2, label="model"
    )
    area = 15 + 120 * np.sqrt(counts / counts.max()) if counts.size else 15
    axis.scatter(confidence, accuracy, s=area, color=BLUE, alpha=0.5, zorder=3)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.legend(frameon=False, loc="upper left", fontsize="small")
    return axis


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
        style: dict[str, Any] = _style(number) | (
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


def _style(number: int) -> dict[str, Any]:
    return {
        "color": CYCLE[number % len(CYCLE)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
    }


def _layer_ticks(axis: Axes, names: Sequence[str]) -> None:
    long = max(map(len, names)) * len(names) > 40
    axis.set_xticks(
        np.arange(len(names)),
        [name.removesuffix("/weight").removesuffix("/kernel") for name in names],
        rotation=30 if long else 0,
        ha="right" if long else "center",
        fontsize="small",
    )
    axis.set_xlabel("layer")


def _legend_above(axis: Axes) -> None:
    axis.legend(
        frameon=False,
        fontsize="small",
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
