r"""Weights rounded to a few levels so that rounding errors compensate each other.

In a layer y = W x with inputs x of second moment H = E[x xᵀ], rounding column j of W to
Q changes y. The columns k > j, which are not rounded yet, are then changed so that
E|ΔW x|² grows least,

    W_{·,k} ← W_{·,k} − (W_{·,j} − Q_{·,j}) U_jk / U_jj,   Uᵀ U = H⁻¹,   U upper
    triangular,

before column j + 1 is rounded. Absent connections stay exactly 0.

References:
    Frantar, Ashkboos, Hoefler & Alistarh 2022, GPTQ, arXiv:2210.17323.
"""

import numpy as np
from jaxtyping import Float, Int8

# Damping: this multiple of the mean of H's diagonal is added to it, as in the paper.
_DAMPING = 0.01
# H has a row and a column for each input. In layers with more inputs than this, each
# weight is rounded to its nearest level.
_WIDEST = 4096


def channel_scales(
    weight: Float[np.ndarray, "out ..."], levels: int
) -> Float[np.ndarray, " out"]:
    """The step between levels in each row; the largest level is the largest weight."""
    rows = np.abs(weight).reshape(len(weight), -1).max(1, initial=0)
    # A row of zeros needs a positive step as well.
    return np.where(rows > 0, rows / levels, 1).astype(np.float32)


def round_nearest(
    weight: Float[np.ndarray, "out ..."], levels: int
) -> Int8[np.ndarray, "out ..."]:
    """Round every weight to the nearest level of its row, from −levels to levels."""
    scales = channel_scales(weight, levels).reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.round(weight / scales), -levels, levels).astype(np.int8)


def round_together(
    weight: Float[np.ndarray, "out in"],
    inputs: Float[np.ndarray, "examples in"],
    levels: int,
) -> Int8[np.ndarray, "out in"]:
    """Round weights so that the layer's outputs on given inputs change least.

    Args:
        weight: W.
        inputs: the layer's inputs, one row per example.
        levels: the largest level; 127 for eight bits.
    """
    width = weight.shape[1]
    moment = inputs.astype(np.float64).T @ inputs / max(len(inputs), 1)
    spread = float(np.trace(moment)) / width
    if width > _WIDEST or spread == 0:
        return round_nearest(weight, levels)
    moment += _DAMPING * spread * np.eye(width)
    # Columns with the largest inputs are rounded first, while others can compensate.
    order = np.argsort(-np.diag(moment), kind="stable")
    inverse = np.linalg.inv(moment[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left = weight[:, order].astype(np.float64)
    present = left != 0
    scales = channel_scales(weight, levels).astype(np.float64)
    rounded = np.zeros(weight.shape, np.int8)
    for j in range(width):
        level = np.clip(np.round(left[:, j] / scales), -levels, levels)
        rounded[:, order[j]] = level
        error = (left[:, j] - level * scales) / upper[j, j]
        moved = np.outer(error, upper[j, j + 1 :])
        left[:, j + 1 :] -= np.where(present[:, j + 1 :], moved, 0)
    return rounded
