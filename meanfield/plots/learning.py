"""Pictures of learning and of what came out: the history, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanfield.checks import require

from .style import BLUE, GREY, curve_style, new_axis


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
        style: dict[str, Any] = curve_style(number) | (
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
            grows with it, and bars give Wilson's 95 % interval of the accuracy.
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
    error = _wilson(accuracy, counts)
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


def _wilson(share: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Distances down and up to the ends of Wilson's 95 % interval of a share."""
    z = 1.96
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    square = share * (1 - share) / counts + z**2 / (4 * counts**2)
    half = z * np.sqrt(square) / (1 + z**2 / counts)
    return np.maximum([share - middle + half, middle + half - share], 0)
