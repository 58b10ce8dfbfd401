"""Process a large batch in parts, one after the other, in less memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from meanfield.trees import zeros_of


def in_parts(
    count: int,
    function: Callable[..., tuple[Any, Any]],
    x: Any,
    y: Any,
    key: PRNGKeyArray,
    carried: Any,
) -> tuple[Any, Any]:
    """A function of a batch, averaged over equal parts of the batch.

    Args:
        count: number of parts, which divides the number of examples.
        function: function of (x, y, key, carried) that returns a tree of arrays and a
            new `carried`.
        x: inputs.
        y: targets.
        key: split into a key for each part; used as it is for a single part.
        carried: state that each part passes to the next one, such as batch statistics.

    Returns:
        The average, and `carried` after the last part.
    """
    if count == 1:
        return function(x, y, key, carried)

    def cut(array: Array) -> Array:
        # Neighbouring examples go to different parts, so each part uses all devices of
        # a mesh.
        return jnp.moveaxis(array.reshape(-1, count, *array.shape[1:]), 1, 0)

    def add(kept: Any, part: Any) -> tuple[Any, None]:
        (total, carried), ((x, y), key) = kept, part
        found, carried = function(x, y, key, carried)
        return (jax.tree.map(jnp.add, total, found), carried), None

    parts = (jax.tree.map(cut, (x, y)), jax.random.split(key, count))
    first = jax.tree.map(lambda array: array[0], parts)
    shapes, _ = jax.eval_shape(lambda: function(*first[0], first[1], carried))
    zero = zeros_of(shapes)
    (total, carried), _ = lax.scan(add, (zero, carried), parts)
    return jax.tree.map(lambda sum_: sum_ / count, total), carried
