"""Reads at indices that do not depend on the batch, such as ``x[:, 1:3]``.

For a batch of unknown length, JAX writes slices and look-ups alike as a gather at
computed indices. If the indices are known, the gather is a slice (`cut`), or one
look-up along an axis (`take`).
"""

from typing import Any

import numpy as np

# The end of an axis of unknown length.
_END = 2**31 - 1
# Operations with their settings and the shapes of their results.
Steps = list[tuple[str, dict[str, Any], tuple[Any, ...]]]


def fixed_read(eqn: Any, indices: np.ndarray) -> Steps | None:
    """Operations that do the same as a gather, or None.

    Args:
        eqn: the gather.
        indices: its indices, which are constant. Of the operations that are returned,
            `take` has them as an input, and `cut` has them in its settings.
    """
    numbers, table = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
    if numbers.operand_batching_dims or indices.ndim > 2:
        return None
    sizes, axes = eqn.params["slice_sizes"], list(numbers.start_index_map)
    starts = np.asarray(indices).reshape(-1, len(axes))
    limits = [_length(table[axis]) - _length(sizes[axis]) for axis in axes]
    if ((starts < 0) | (starts > limits)).any():
        return None
    gone, result = sorted(numbers.collapsed_slice_dims), eqn.outvars[0].aval.shape
    if indices.ndim == 1:  # One slice.
        at = dict(zip(axes, map(int, starts[0]), strict=True))
        start = [at.get(axis, 0) for axis in range(len(table))]
        stop = [
            start[axis] + size if isinstance(size, int) else _END
            for axis, size in enumerate(sizes)
        ]
        cut = {"start": start, "stop": stop, "step": [1] * len(table)}
        squeeze = [("squeeze", {"axes": gone}, result)] if gone else []
        return [("cut", cut, sizes), *squeeze]
    rows = [1 if axis in axes else size for axis, size in enumerate(table)]
    if len(axes) != 1 or gone != axes or list(map(str, rows)) != list(map(str, sizes)):
        return None
    # `take` puts the axis of the indices first.
    (place,) = set(range(len(table))) - set(numbers.offset_dims)
    order = list(range(1, len(table)))
    order.insert(place, 0)
    take = {"axis": axes[0], "column": 0, "keep": False}
    taken = (len(indices), *np.delete(np.array(table, object), axes[0]))
    return [("take", take, taken), ("transpose", {"axes": order}, result)]


def _length(size: Any) -> int:
    return size if isinstance(size, int) else 0
