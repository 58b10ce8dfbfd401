"""Rules for primitives that move, join or choose entries.

They hold in all readings, except that rules registered for "moments" alone hold in
"moments" and "delta".
"""

from typing import Any

import jax.numpy as jnp

from .equation import Equation
from .registry import register_rule
from .values import Random, is_random, lift, merge_leaves, variance_dtype


def _moved(equation: Equation, x: Random, copied: Any) -> Random:
    """Apply the primitive to both mean and variance."""
    mean, var = equation.bind(x.mean), equation.bind(x.var)
    return Random(mean, var, x.leaves, x.drawable, tuple(sorted(copied)))


def _same_axes(equation: Equation, x: Random) -> Random:
    return _moved(equation, x, x.copied)


for _name in ("slice", "rev", "copy", "copy_p", "reduce_precision"):
    register_rule(_name, _same_axes)
for _name in ("stop_gradient", "sharding_constraint"):
    register_rule(_name, _same_axes)


@register_rule("convert_element_type")
def _convert(equation: Equation, x: Random) -> Random:
    if not jnp.issubdtype(equation.params["new_dtype"], jnp.inexact):
        raise equation.refuse(x, because="a random number cannot become an integer")
    mean = equation.bind(x.mean)
    var = x.var.astype(variance_dtype(mean.dtype))
    return Random(mean, var, x.leaves, x.drawable, x.copied)


@register_rule("transpose")
def _transpose(equation: Equation, x: Random) -> Random:
    order = equation.params["permutation"]
    return _moved(equation, x, [order.index(axis) for axis in x.copied])


@register_rule("squeeze")
def _squeeze(equation: Equation, x: Random) -> Random:
    gone = equation.params["dimensions"]
    return _moved(equation, x, [a - sum(g < a for g in gone) for a in x.copied])


@register_rule("reshape")
def _reshape(equation: Equation, x: Random) -> Random:
    new_shape = equation.params["new_sizes"]
    old_axes = [axis for axis, size in enumerate(x.shape) if size > 1]
    new_axes = [axis for axis, size in enumerate(new_shape) if size > 1]
    kept = [x.shape[a] for a in old_axes] == [new_shape[a] for a in new_axes]
    if x.copied and not x.drawable and not kept:
        raise equation.refuse(x, because="it merges copies made by broadcasting")
    place = dict(zip(old_axes, new_axes, strict=False)) if kept else {}
    return _moved(equation, x, [place[a] for a in x.copied if a in place])


@register_rule("broadcast_in_dim")
def _broadcast(equation: Equation, x: Random) -> Random:
    shape = equation.params["shape"]
    place = equation.params["broadcast_dimensions"]
    copied = {place[axis] for axis in x.copied}
    for axis, size in enumerate(shape):
        stretched = axis not in place or x.shape[place.index(axis)] < size
        if size > 1 and stretched:
            copied.add(axis)
    return _moved(equation, x, copied)


@register_rule("dynamic_slice")
@register_rule("gather")
def _look_up(equation: Equation, x: Any, *indices: Any) -> Random:
    if not is_random(x) or any(map(is_random, indices)):
        raise equation.refuse(x, *indices, because="an index cannot be random")
    mean, var = equation.bind(x.mean, *indices), equation.bind(x.var, *indices)
    return Random(mean, var, x.leaves, drawable=True)


@register_rule("dynamic_update_slice", reading="moments")
def _update(equation: Equation, x: Any, new: Any, *indices: Any) -> Random:
    return _written(equation, x, new, lambda x, new: equation.bind(x, new, *indices))


@register_rule("scatter", reading="moments")
@register_rule("scatter-add", reading="moments")
def _scatter(equation: Equation, x: Any, indices: Any, new: Any) -> Random:
    """Entries written to, or added at, places that do not depend on random numbers.

    Added entries are treated as independent, as in every sum of a signal.
    """
    return _written(equation, x, new, lambda x, new: equation.bind(x, indices, new))


def _written(equation: Equation, x: Any, new: Any, write: Any) -> Random:
    if any(is_random(v) and not v.drawable for v in (x, new)):
        raise equation.refuse(x, new, because="it would place one weight several times")
    x, new = lift(x), lift(new)
    mean, var = write(x.mean, new.mean), write(x.var, new.var)
    return Random(mean, var, merge_leaves(x, new), drawable=True)


@register_rule("pad")
def _pad(equation: Equation, x: Any, padding: Any) -> Random:
    x, padding = lift(x), lift(padding)
    mean, var = equation.bind(x.mean, padding.mean), equation.bind(x.var, padding.var)
    leaves = merge_leaves(x, padding)
    return Random(mean, var, leaves, x.drawable, x.copied)


@register_rule("split")
def _split(equation: Equation, x: Random) -> list[Random]:
    parts = zip(equation.bind(x.mean), equation.bind(x.var), strict=True)
    return [Random(mean, var, x.leaves, x.drawable, x.copied) for mean, var in parts]


@register_rule("optimization_barrier")
def _barrier(equation: Equation, *operands: Any) -> list[Any]:
    return list(operands)


@register_rule("tile")
def _tile(equation: Equation, x: Random) -> Random:
    many = {axis for axis, number in enumerate(equation.params["reps"]) if number > 1}
    return _moved(equation, x, many | set(x.copied))


@register_rule("stack")
@register_rule("concatenate")
def _concatenate(equation: Equation, *operands: Any) -> Any:
    return _joined(equation, (), *operands)


@register_rule("select_n")
def _select(equation: Equation, which: Any, *cases: Any) -> Any:
    if is_random(which):
        return _mixture(equation, which, *cases)
    return _joined(equation, (which,), *cases)


def _mixture(equation: Equation, which: Random, *cases: Any) -> Random:
    """One of two signals, chosen by an independent condition of probability p.

    mean = (1 − p) a + p b,   var = (1 − p) v + p w + p (1 − p) (a − b)²
    """
    if len(cases) != 2 or any(is_random(v) and not v.drawable for v in cases):
        raise equation.refuse(
            which, *cases, because="a random condition chooses between two signals only"
        )
    a, b = (lift(v) for v in cases)
    p = which.mean
    mean = (1 - p) * a.mean + p * b.mean
    var = (1 - p) * a.var + p * b.var + p * (1 - p) * jnp.square(a.mean - b.mean)
    return Random(mean, var, merge_leaves(which, a, b), drawable=True)


def _joined(equation: Equation, plain: tuple[Any, ...], *parts: Any) -> Any:
    """Several arrays joined: every entry of the result is an entry of one of them.

    The same weight may occur in several of them: weights that occur twice in one sum
    were drawn, or refused, before the program runs; see `readings`.
    """
    randoms = [v for v in parts if is_random(v)]
    lifted = [lift(v) for v in parts]
    mean = equation.bind(*plain, *(v.mean for v in lifted))
    var = equation.bind(*plain, *(v.var for v in lifted))
    new = {equation.params["axis"]} if equation.name == "stack" else ()
    copied = {axis + sum(axis >= n for n in new) for v in randoms for axis in v.copied}
    drawable = any(v.drawable for v in randoms)
    return Random(mean, var, merge_leaves(*parts), drawable, tuple(sorted(copied)))
