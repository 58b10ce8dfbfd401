"""Batches of inputs: one array, or a tree of arrays with the same first axis.

One array is called ``input`` in a file. Several arrays are named by their paths in the
tree, made of the keys of dictionaries and the positions in tuples: ``graph/nodes`` is
the entry ``nodes`` of ``graph``.
"""

from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.trees import named_leaves

ONE = "input"


def as_batch(x: Any, name: str = "probe") -> Any:
    """Inputs as NumPy arrays; nested lists of numbers become one array.

    They get the types in which JAX computes: float64 becomes float32, unless 64 bits
    are enabled.

    Args:
        x: the inputs.
        name: name of the caller's argument, for the message.

    Raises:
        ValueError: there are no examples, or the inputs have different numbers of them.
    """
    if all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(x)):
        x = np.asarray(x)
    x = jax.tree.map(_canonical, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    require(
        all(len(shape) >= 1 and shape[0] > 0 for shape in shapes),
        f"`{name}` must be a batch of at least one input; got shape "
        f"{', '.join(map(str, shapes))}.",
    )
    require(
        len({shape[0] for shape in shapes}) == 1,
        f"`{name}` must have equally many examples in all of its arrays; got shapes "
        f"{', '.join(map(str, shapes))}.",
    )
    return x


def _canonical(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def batch_size(x: Any) -> int:
    """The number of examples."""
    return len(jax.tree.leaves(x)[0])


def take_examples(x: Any, rows: Any) -> Any:
    """Some examples of a batch, by a slice or by their indices."""
    return jax.tree.map(lambda array: array[rows], x)


def is_one_array(x: Any) -> bool:
    """Whether the inputs are a single array and not a tree of arrays."""
    return jax.tree.structure(x) == jax.tree.structure(0)


def named_inputs(x: Any) -> dict[str, Any]:
    """The arrays of a batch by the names that files give them.

    Raises:
        ValueError: two arrays have the same name.
    """
    if is_one_array(x):
        return {ONE: x}
    named = named_leaves(x)
    require(
        len(named) == len(jax.tree.leaves(x)),
        f"`probe` must have a name for each of its arrays; got {sorted(named)} for "
        f"{len(jax.tree.leaves(x))} arrays. Rename keys that give the same path, "
        "such as 'a/b' and 'b' inside 'a'.",
    )
    return named


def taken_by_file(x: Any) -> Any:
    """The argument that a file takes: one array, or a dictionary of several by name."""
    named = named_inputs(x)
    return named[ONE] if list(named) == [ONE] else named


def from_file(taken: Any, like: Any) -> Any:
    """The inverse of `taken_by_file`, in the structure of `like`."""
    names = list(named_inputs(like))
    leaves = [taken] if names == [ONE] else [taken[name] for name in names]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
