"""Paths of leaves in parameter trees, written as ``layers/0/weight``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# The key of a child that adds nothing to the names of its leaves.
UNNAMED = jax.tree_util.GetAttrKey("<unnamed>")


def path_name(path: tuple[Any, ...]) -> str:
    """One path of `jax.tree_util` as names joined by slashes."""
    return "/".join(_part(entry) for entry in path if entry != UNNAMED)


def is_inside(name: str, begin: str) -> bool:
    """Whether a path name is `begin`, or continues it after a slash."""
    return f"{name}/".startswith(f"{begin.rstrip('/')}/")


def named_leaves(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """All leaves of a tree by path name, in tree order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}


def map_named(
    function: Callable[[str, Any], Any],
    tree: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Map ``function(path_name, leaf)`` over a tree."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree, is_leaf=is_leaf
    )


def _part(entry: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def zeros_of(shapes: Any) -> Any:
    """Zeros of the shapes and types in a tree, such as a result of `jax.eval_shape`."""
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
