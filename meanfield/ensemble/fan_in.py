"""The fan-in of a weight tensor, from its shape."""

import numpy as np

from meanfield.checks import require

LAYOUTS = ("auto", "out_in", "in_out")


def fan_in(name: str, shape: tuple[int, ...], layout: str = "auto") -> int:
    """Fan-in of a weight tensor: the number of inputs of one output unit.

    Args:
        name: path of the tensor. With the layout ``auto``, a tensor whose last name is
            "kernel" (Flax, Keras) has layout ``in_out``, any other ``out_in``.
        shape: its shape, two or more dimensions.
        layout: ``out_in`` for (out, in, *window), as in Equinox and PyTorch;
            ``in_out`` for (*window, in, out), as in Flax, Keras and TensorFlow.

    Raises:
        ValueError: fewer than two dimensions, or an unknown layout.
    """
    require(layout in LAYOUTS, f"`layout` must be one of {LAYOUTS}; got {layout!r}.")
    require(
        len(shape) >= 2,
        f"`shape` must have two or more dimensions; got {shape} for {name!r}. Biases "
        "and norm scales have no fan-in.",
    )
    if layout == "auto":
        layout = "in_out" if name.endswith("kernel") else "out_in"
    inputs = shape[1:] if layout == "out_in" else shape[:-1]
    return int(np.prod(inputs))
