"""Whether a file gives the outputs of the network that it was written from."""

from typing import Any

import numpy as np

from meanfield.checks import require

# Largest difference of class probabilities that eight bits may make.
INT8_TOLERANCE = 2e-2


def compare(
    expected: Any, actual: Any, format: str, tolerance: float, name: str = ""
) -> float:
    """Largest difference of a format from the network; `name` is for the message.

    Raises:
        ValueError: it is too large.
    """
    expected, actual = np.asarray(expected), np.asarray(actual)
    name = name or f"the {format} file"
    require(
        not np.isnan(expected).any(),
        "`model` gives NaN on `probe`, which nothing can be compared with. Mend the "
        "network, or pass inputs as it will see.",
    )
    require(
        expected.shape == actual.shape,
        f"{name} gives outputs of shape {actual.shape}; the network gives "
        f"{expected.shape}.",
    )
    if format == "onnx-int8":
        expected, actual = _softmax(expected), _softmax(actual)
        scale, tolerance = 1.0, INT8_TOLERANCE
    else:
        finite = np.abs(expected[np.isfinite(expected)])
        scale = max(1.0, float(finite.max(initial=0)))
    # Equal infinities do not differ.
    apart = np.where(expected == actual, 0, expected)
    other = np.where(expected == actual, 0, actual.astype(np.float64))
    difference = float(np.abs(apart - other).max(initial=0))
    require(
        difference <= tolerance * scale,
        f"{name}, loaded back, differs from the network by {difference:.2g}; at most "
        f"{tolerance * scale:.2g} is allowed."
        + (" Calibrate on more data, or use 'onnx'." if format == "onnx-int8" else ""),
    )
    return difference


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
