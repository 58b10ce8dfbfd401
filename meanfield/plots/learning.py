"""Plots of the training history, of calibration and of predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanfield.checks import require

from .style import BLUE, CYCLE, GREY, curve_style, new_axis

# Natural logarithm of the ratio beyond which numbers are drawn on logarithmic axes.
LOG_RANGE = np.log(30.0)


def training_history(
    history: Mapping[str, Sequence[float | int]],
    axis: Axes | None = None,
    *,
    names: Sequence[str] = ("nll", "val_nll"),
    base_rate: float | None = None,
) -> Axes:
    """Plot the training history by epoch, on a log axis if it spans a factor of 10.

    Args:
        history: `FitResult.history`.
        axis: where to draw.
        names: entries to draw; those missing from the history are left out.
        base_rate: the score of a model without inputs (such as the NLL of always
            predicting the class frequencies), drawn as a line.

    Returns:
        The axis.

    Raises:
        ValueError: the history has none of the names.

    Example:
        >>> import meanfield as mf
        >>> mf.plots.training_history({"nll": [1.0, 0.5, 0.3]}).get_xlabel()
        'epoch'
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
        f"`names` must name entries of the history, {list(history)}; got "
        f"{list(names)}.",
    )
    axis = axis or new_axis()
    for number, name in enumerate(found):
        epochs = np.arange(1, len(history[name]) + 1)
        style: dict[str, Any] = curve_style(number) | (
            {} if len(epochs) < 30 else {"marker": ""}
        )
        axis.plot(epochs, history[name], label=titles.get(name, name), **style)
    if base_rate is not None:
        axis.axhline(base_rate, ls=":", color=GREY, label="without the inputs")
    accuracy = all("accuracy" in name for name in found)
    values = np.concatenate([np.asarray(history[name], float) for name in found])
    if (values > 0).all() and values.max() > 10 * values.min():
        axis.set_yscale("log")
    axis.set_title("Learning, epoch by epoch")
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy" if accuracy else "NLL, nats per example")
    axis.legend(frameon=False, fontsize="small")
    return axis


def reliability_diagram(
    confidence: Any,
    accuracy: Any,
    counts: Any,
    axis: Axes | None = None,
    *,
    ece: float | None = None,
) -> Axes:
    """Accuracy against confidence in bins; a calibrated model lies on the diagonal.

    Args:
        confidence: mean confidence of each bin.
        accuracy: accuracy of each bin.
        counts: number of examples in each bin; an empty bin is not drawn. The area of a
            point grows with the count, and bars give Wilson's 95 % interval of the
            accuracy.
        axis: where to draw.
        ece: expected calibration error, for the title.

    Returns:
        The axis.

    Raises:
        ValueError: the three arrays are not of one shape (bins,).

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.reliability_diagram([0.3, 0.8], [0.4, 0.8], [10, 90])
        >>> axis.get_xlabel()
        'confidence'
    """
    confidence, accuracy, counts = (
        np.asarray(part, float) for part in (confidence, accuracy, counts)
    )
    require(
        confidence.shape == accuracy.shape == counts.shape and confidence.ndim == 1,
        "`confidence`, `accuracy` and `counts` must hold one number per bin; got "
        f"shapes {confidence.shape}, {accuracy.shape} and {counts.shape}.",
    )
    axis = axis or new_axis(4.0, 4.0)
    full = counts > 0
    confidence, accuracy, counts = confidence[full], accuracy[full], counts[full]
    axis.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated", zorder=1)
    error = _wilson(accuracy, counts)
    axis.errorbar(
        confidence, accuracy, error, fmt="-", color=BLUE, capsize=2, label="model"
    )
    area = 15 + 120 * np.sqrt(counts / counts.max()) if counts.size else 15
    axis.scatter(confidence, accuracy, s=area, color=BLUE, alpha=0.5, zorder=3)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    error = "" if ece is None else f", ECE = {ece:.4f}"
    axis.set_title(f"Calibration: N = {int(counts.sum()):,}{error}")
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.legend(frameon=False, loc="upper left", fontsize="small")
    return axis


def predictions(
    observed: Any, mean: Any, std: Any, axis: Axes | None = None, *, name: str = ""
) -> Axes:
    """Predicted against observed targets, with bars of one standard deviation.

    The axes are logarithmic if all targets and means are positive and the central 95 %
    of the targets span a factor of 30, as prices do.

    Args:
        observed: observed targets (examples,).
        mean: predictive means (examples,), in the same units.
        std: predictive standard deviations (examples,).
        axis: where to draw.
        name: name of the target.

    Returns:
        The axis.

    Raises:
        ValueError: there is nothing to draw, or shapes do not fit.

    Example:
        >>> import meanfield as mf
        >>> axis = mf.plots.predictions([1.0, 2.0], [1.1, 1.9], [0.1, 0.2])
        >>> len(axis.lines) > 0
        True
    """
    observed, mean, std = (np.asarray(part, float) for part in (observed, mean, std))
    require(
        observed.ndim == 1 and observed.shape == mean.shape == std.shape,
        "`observed`, `mean` and `std` must hold one number per example; got shapes "
        f"{observed.shape}, {mean.shape} and {std.shape}.",
    )
    axis = axis or new_axis(4.0, 4.0)
    ends = [min(observed.min(), mean.min()), max(observed.max(), mean.max())]
    bars: Any = std
    if ends[0] > 0 and np.ptp(np.log(np.percentile(observed, [2.5, 97.5]))) > LOG_RANGE:
        axis.set(xscale="log", yscale="log")
        bars = [np.minimum(std, 0.9 * mean), std]
    error = float(((mean - observed) ** 2).mean())
    spread = float(observed.var())
    share = f", R² = {1 - error / spread:.3f}" if spread > 0 else ""
    axis.set_title(f"Predictions: N = {observed.size:,}{share}")
    axis.plot(ends, ends, "--", color=GREY, label="observed = predicted", zorder=1)
    axis.errorbar(
        observed,
        mean,
        bars,
        fmt="o",
        color=BLUE,
        markersize=3,
        alpha=0.5,
        elinewidth=0.7,
        label="predicted, ± 1 std",
    )
    axis.set_xlabel(f"{name} (observed)".strip())
    axis.set_ylabel(f"{name} (predicted)".strip())
    axis.legend(frameon=False, loc="upper left", fontsize="small")
    return axis


def interval_coverage(levels: Mapping[str, Any], axis: Axes | None = None) -> Axes:
    """Fraction of targets inside central intervals against the level of the intervals.

    A calibrated regression lies on the diagonal. A target y lies inside the central
    interval of level q if |2 P(Y ≤ y) − 1| ≤ q.

    Args:
        levels: by target, P(Y ≤ y) of every example under its predictive distribution.
        axis: where to draw.

    Returns:
        The axis.

    Raises:
        ValueError: there are no targets.

    Example:
        >>> import meanfield as mf
        >>> import numpy as np
        >>> axis = mf.plots.interval_coverage({"price": np.linspace(0, 1, 50)})
        >>> len(axis.lines) > 0
        True
    """
    require(bool(levels), "`levels` must have at least one target; got none.")
    axis = axis or new_axis(4.0, 4.0)
    axis.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated", zorder=1)
    for number, (name, values) in enumerate(levels.items()):
        needed = np.sort(np.abs(2 * np.asarray(values, float) - 1))
        share = np.arange(1, len(needed) + 1) / len(needed)
        color = CYCLE[number % len(CYCLE)]
        style = ("-", "--", ":", "-.")[number // len(CYCLE) % 4]
        label = name if len(levels) > 1 else "model"
        ends = [0, *needed, 1], [0, *share, 1]
        axis.step(*ends, style, where="post", color=color, label=label)
        if len(levels) == 1:
            inside = float((needed <= 0.95).mean())
            axis.set_title(f"95 % intervals hold {100 * inside:.1f} % of the targets")
            axis.plot(0.95, inside, "o", color=BLUE, markersize=5)
    if len(levels) > 1:
        axis.set_title("Targets inside their intervals")
    axis.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axis.set_xlabel("level of the central interval")
    axis.set_ylabel("share of targets inside")
    axis.legend(frameon=False, loc="upper left", fontsize="small")
    return axis


def _wilson(share: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Distances of a fraction from the ends of Wilson's 95 % interval."""
    z = 1.96
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    square = share * (1 - share) / counts + z**2 / (4 * counts**2)
    half = z * np.sqrt(square) / (1 + z**2 / counts)
    return np.maximum([share - middle + half, middle + half - share], 0)
