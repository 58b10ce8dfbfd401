"""Large batches in less memory: a batch is processed in parts, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray


def in_parts(
    count: int, function: Callable[..., Any], x: Any, y: Any, key: PRNGKeyArray
) -> Any:
    """A function of a batch, averaged over equal parts of the batch.

    Args:
        count: number of parts, which divides the number of examples.
        function: of (x, y, key), to a tree of arrays.
        x: inputs.
        y: targets.
        key: split into a key for each part; used as it is for a single part.
    """
    if count == 1:
        return function(x, y, key)

    def cut(array: Array) -> Array:
        # Neighbours go to different parts, so each part uses all devices of a mesh.
        return jnp.moveaxis(array.reshape(-1, count, *array.shape[1:]), 1, 0)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        (x, y), key = part
        return jax.tree.map(jnp.add, total, function(x, y, key)), None

    parts = (jax.tree.map(cut, (x, y)), jax.random.split(key, count))
    first = jax.tree.map(lambda array: array[0], parts)
    shapes = jax.eval_shape(lambda: function(*first[0], first[1]))
    zero = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = lax.scan(add, zero, parts)
    return jax.tree.map(lambda sum_: sum_ / count, total)
