"""Stage a network function as a program of random leaves, point values and data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import path_name


class _Hole(eqx.Module):
    """A placeholder for a random leaf in the tree of point values."""

    index: int = eqx.field(static=True)


def split_params(params: Any) -> tuple[list[str], list[SpikeSlab], Any]:
    """Names and values of the random leaves, and the tree with placeholders."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(
        params, is_leaf=is_spike_slab
    )
    names, slabs, points = [], [], []
    for path, leaf in leaves:
        if is_spike_slab(leaf):
            points.append(_Hole(len(slabs)))
            names.append(path_name(path) or "params")
            slabs.append(leaf)
        else:
            points.append(leaf)
    return names, slabs, jax.tree.unflatten(treedef, points)


def fill_params(points: Any, leaves: list[Any]) -> Any:
    """The tree of parameters with these leaves instead of the placeholders."""
    return jax.tree.map(
        lambda leaf: leaves[leaf.index] if isinstance(leaf, _Hole) else leaf,
        points,
        is_leaf=lambda leaf: isinstance(leaf, _Hole),
    )


def stage(
    apply_fn: Callable[..., Any], points: Any, slabs: Any, args: Any, kwargs: Any
) -> tuple[Any, Any, Any]:
    """The program of (random leaves, points, arguments), and its output structure."""
    shapes = [jax.ShapeDtypeStruct(slab.shape, slab.dtype) for slab in slabs]
    call = eqx.filter_make_jaxpr(
        lambda leaves, points, *args, **kwargs: apply_fn(
            fill_params(points, leaves), *args, **kwargs
        )
    )
    return call(shapes, points, *args, **kwargs)
