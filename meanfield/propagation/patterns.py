"""Recognise the steps and entries from which a deferred array was computed."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import is_concrete
from meanfield.program.primitives import ENTRYWISE

from .deferred import Deferred, settle_moments

MOVES = frozenset({"broadcast_in_dim", "reshape", "squeeze"})
SAME = frozenset({"copy", "stop_gradient", "reduce_precision"})


def is_step(node: Any, name: str) -> bool:
    """Whether a value was made by this primitive."""
    return isinstance(node, Deferred) and node.name == name


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same object, or represent the same root."""
    if one is other:
        return True
    both = isinstance(one, Deferred) and isinstance(other, Deferred)
    return both and not one.name and not other.name and one.root is other.root


def skip(node: Any, names: Any) -> Any:
    """The value before the last steps, as far back as their names are in `names`."""
    while isinstance(node, Deferred) and node.name in names:
        node = node.inputs[0]
    return node


def one_random(node: Deferred) -> bool:
    """Whether one operand is random, the others numbers (or arrays in a product)."""
    plain = [v for v in node.inputs if not isinstance(v, Deferred)]
    one = len(node.inputs) - len(plain) == 1
    return one and (node.name == "mul" or all(np.size(v) == 1 for v in plain))


def random_operand(node: Deferred) -> Any:
    """The first random operand."""
    return next(v for v in node.inputs if isinstance(v, Deferred))


def plain_operand(node: Deferred) -> Any:
    """The first plain operand, or None."""
    return next((v for v in node.inputs if not isinstance(v, Deferred)), None)


def reduced_axes(node: Deferred) -> tuple[int, ...]:
    """Axes of a reduction; `vmap` writes them as NumPy numbers."""
    return tuple(int(axis) for axis in node.params["axes"])


def scalar(value: Any) -> Any:
    """An array of one number, reshaped to have no axes."""
    return jnp.reshape(jnp.asarray(value), ())


def number(value: Any) -> float | None:
    """A single number that is known while the program is traced."""
    if not is_concrete(value) or np.size(value) != 1:
        return None
    return float(np.reshape(np.asarray(value), ()))


def squared(node: Any) -> Any:
    """The value whose square this value is, or None."""
    if is_step(node, "square") or (
        is_step(node, "integer_pow") and node.params["y"] == 2
    ):
        return node.inputs[0]
    if is_step(node, "mul") and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    return None


def mean_of(node: Any) -> Any:
    """If the node is a mean over axes: its sum and these axes; else None."""
    node = skip(node, MOVES)
    if not isinstance(node, Deferred) or node.name not in ("div", "mul"):
        return None
    if not one_random(node) or not isinstance(node.inputs[0], Deferred):
        return None
    divisor, total = number(plain_operand(node)), skip(node.inputs[0], MOVES)
    if not is_step(total, "reduce_sum") or divisor is None:
        return None
    axes = reduced_axes(total)
    length = np.prod([total.inputs[0].shape[axis] for axis in axes])
    wanted = length if node.name == "div" else 1 / length
    return (total, axes) if np.isclose(divisor, wanted, rtol=1e-6) else None


def is_centred(node: Any, entries: Deferred, axes: tuple[int, ...]) -> bool:
    """Whether a node is a − ā with ā the mean over the axes."""
    if not is_step(node, "sub") or not same(node.inputs[0], entries):
        return False
    found = mean_of(node.inputs[1]) if isinstance(node.inputs[1], Deferred) else None
    if found is None or found[1] != axes or not same(found[0].inputs[0], entries):
        return False
    return spreads(node.inputs[1], found[0], axes, entries.shape)


def places_in(node: Any, bases: list[Any]) -> np.ndarray | None:
    """For every position of a node, the index of the base entry it is computed from.

    None if the node is not made from the bases entry by entry.
    """
    if any(node is base for base in bases):
        return np.arange(int(np.prod(node.shape))).reshape(node.shape)
    if not isinstance(node, Deferred):
        return None
    inner: list[Any] = [
        places_in(v, bases) for v in node.inputs if isinstance(v, Deferred)
    ]
    if not inner or any(part is None for part in inner):
        return None
    first = inner[0]
    if node.name == "broadcast_in_dim":
        frame = [1] * len(node.shape)
        for axis, target in enumerate(node.params["broadcast_dimensions"]):
            frame[target] = first.shape[axis]
        return np.broadcast_to(first.reshape(frame), node.shape)
    if node.name in MOVES:
        return first.reshape(node.shape)
    if node.name not in ENTRYWISE:
        return None
    if any(p.shape != first.shape or (p != first).any() for p in inner[1:]):
        return None
    plain = [v for v in node.inputs if not isinstance(v, Deferred)]
    single = node.name == "select_n" or all(np.size(v) == 1 for v in plain)
    return first if single else None


def spreads(node: Any, total: Deferred, axes: tuple[int, ...], shape: tuple) -> bool:
    """Whether a reduced array is repeated along the axes that it was reduced over."""
    places = places_in(node, sums_over(node, axes))
    if places is None or places.ndim != len(shape):
        return False
    wanted = np.arange(int(np.prod(total.shape))).reshape(total.shape)
    wanted = np.broadcast_to(np.expand_dims(wanted, axes), shape)
    return bool((np.broadcast_to(places, shape) == wanted).all())


def in_order(node: Any, axes: tuple[int, ...]) -> bool:
    """Whether the entries are in the order in which the reduction gave them."""
    places = places_in(node, sums_over(node, axes))
    return places is not None and bool(
        (places.reshape(-1) == np.arange(places.size)).all()
    )


def sums_over(node: Any, axes: tuple[int, ...]) -> list[Any]:
    """All sums over these axes from which a node is computed."""
    if is_step(node, "reduce_sum") and reduced_axes(node) == axes:
        return [node]
    inputs = node.inputs if isinstance(node, Deferred) else ()
    return [found for v in inputs for found in sums_over(v, axes)]


def with_axes(places: np.ndarray, axes: tuple[int, ...], shape: tuple) -> np.ndarray:
    """A reduced array with the reduced axes inserted again, with length one."""
    if places.ndim == len(shape):
        return places
    return np.expand_dims(places, axes)


def join_last(array: Any, axes: tuple[int, ...]) -> Any:
    """The array with these axes merged into one new last axis."""
    moved = jnp.moveaxis(array, axes, range(-len(axes), 0))
    return moved.reshape(*moved.shape[: -len(axes)], -1)


def wide_moments(entries: Deferred) -> tuple[Any, Any]:
    """Mean and variance of Gaussian entries, in float32 or wider."""
    moments = settle_moments(entries)
    wide = jnp.promote_types(moments.mean.dtype, jnp.float32)
    return moments.mean.astype(wide), moments.var.astype(wide)


def on_last(form: Any, entries: Deferred, axes: tuple, shape: tuple) -> Callable:
    """A function that applies a formula for the last axis to `axes`, merged into one.

    The formula keeps the shape of its arguments, and the results get back the axes.
    """
    kept = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    inner = tuple(shape[axis] for axis in axes)
    ends = tuple(range(-len(axes), 0))

    def take() -> Any:
        parts = form(*(join_last(part, axes) for part in wide_moments(entries)))
        return [jnp.moveaxis(part.reshape(kept + inner), ends, axes) for part in parts]

    return take


def reduced(form: Any, entries: Deferred, axes: tuple, shape: tuple) -> Callable:
    """The same as `on_last` for a formula that removes the last axis."""

    def take() -> Any:
        parts = form(*(join_last(part, axes) for part in wide_moments(entries)))
        return [part.reshape(shape) for part in parts]

    return take
