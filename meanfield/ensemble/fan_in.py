"""How many inputs meet in one output unit of a weight tensor, told from its shape."""

import numpy as np

from meanfield.checks import require

LAYOUTS = ("auto", "out_in", "in_out")


def fan_in(name: str, shape: tuple[int, ...], layout: str = "auto") -> int:
    """Number of inputs that meet in one output unit of a weight tensor.

    Args:
        name: path of the tensor; with ``auto`` a last name of "kernel" (Flax, Keras)
            means the layout ``in_out``, anything else ``out_in``.
        shape: its shape, two or more dimensions.
        layout: ``out_in`` for (out, in, *window), as in Equinox and PyTorch;
            ``in_out`` for (*window, in, out), as in Flax, Keras and TensorFlow.

    Raises:
        ValueError: fewer than two dimensions, or an unknown layout.
    """
    require(
        layout in LAYOUTS, f"`layout` must be one of {LAYOUTS}; got {layout!r}. Choose."
    )
    require(
        len(shape) >= 2,
        f"`shape` must have two or more dimensions; got {shape} for {name!r}. Biases "
        "and norm scales have no fan-in.",
    )
    if layout == "auto":
        layout = "in_out" if name.endswith("kernel") else "out_in"
    inputs = shape[1:] if layout == "out_in" else shape[:-1]
    return int(np.prod(inputs))
