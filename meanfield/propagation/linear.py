"""Rules for sums, scalings and contractions, by the central limit theorem.

A contraction of a plain array a with independent weights of mean μ and variance V has

    G = Σ_k μ_k a_k,      Δ² = Σ_k V_k a_k²

exactly. The sampled reading returns the draw G + ε Δ, with independent ε ~ N(0, 1) for
every output entry; the moments reading returns (G, Δ²), and for a random signal with
mean a and variance v

    Δ² = Σ_k [ V_k (a_k² + v_k) + μ_k² v_k ],

which treats the entries of the signal as independent.

Source: Li & Huang 2020, arXiv:2001.03354; Kingma, Salimans & Welling 2015,
arXiv:1506.02557 (local reparametrisation).
"""

import math
from typing import Any

import jax.numpy as jnp

from .delta import factored
from .equation import Equation
from .interpreter import settle
from .moments import maximum
from .registry import register_rule
from .values import Random, is_random, lift, merge_leaves

PRODUCT = "the product of two random weights has dependent entries; multiply the "
PRODUCT += "signal by one, then by the other"


@register_rule("add")
@register_rule("sub")
@register_rule("add_any")
def _add(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _apart(equation, x, y, "one weight would be added to itself")
    if not is_random(x) and not is_random(y):
        return equation.bind(x, y)
    shifted = any(not is_random(v) and jnp.ndim(v) > 0 for v in (x, y))
    drawable = shifted or any(is_random(v) and v.drawable for v in (x, y))
    mean = equation.bind(*(v.mean if is_random(v) else v for v in (x, y)))
    var = sum(v.var for v in (x, y) if is_random(v))
    var = jnp.broadcast_to(var, mean.shape)
    return Random(mean, var, merge_leaves(x, y), drawable, _copied(mean, x, y))


@register_rule("mul")
def _mul(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    if not is_random(x) and not is_random(y):
        return equation.bind(x, y)
    drawable = any(jnp.ndim(v) > 0 if not is_random(v) else v.drawable for v in (x, y))
    mean, var = _bilinear(equation, x, y)
    return Random(mean, var, merge_leaves(x, y), drawable, _copied(mean, x, y))


@register_rule("div")
def _div(equation: Equation, x: Any, y: Any) -> Any:
    if is_random(y):
        return equation.bind(*settle(equation, x, y))
    drawable = x.drawable or jnp.ndim(y) > 0
    mean, var = equation.bind(x.mean, y), x.var / jnp.square(_widen(y))
    return Random(mean, var, x.leaves, drawable, _copied(mean, x))


@register_rule("neg")
def _neg(equation: Equation, x: Random) -> Random:
    return Random(equation.bind(x.mean), x.var, x.leaves, x.drawable, x.copied)


@register_rule("dot_general")
def _dot(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    (x_axes, _), _ = equation.params["dimension_numbers"]
    summands = math.prod(jnp.shape(x)[axis] for axis in x_axes)
    sampled = equation.reading == "sampled"
    if sampled and is_random(x) and not is_random(y):
        return _weight_first(equation, x, y, summands)
    return _contraction(equation, x, y, summands)


def _weight_first(equation: Equation, x: Any, y: Any, summands: int) -> Any:
    """W x; if a transpose follows, it is computed and drawn as xᵀ Wᵀ.

    In a vmapped W x the batch is the last axis of the product. XLA rewrites (W x)ᵀ as
    xᵀ Wᵀ, but not if noise is added between the product and its transpose. The order of
    the factors determines the kernel, and thus the last bits and the speed. So the
    factors are swapped exactly where XLA swaps them in the ordinary network.
    """
    mean, var = _bilinear(equation, x, y)
    (x_axes, _), (x_batch, _) = equation.params["dimension_numbers"]
    batch, free = len(x_batch), x.ndim - len(x_axes)
    swap = (*range(batch), *range(free, mean.ndim), *range(batch, free))
    if equation.turned != swap:
        return equation.contract(mean, var, x, summands=summands)
    mean, var = jnp.transpose(mean, swap), jnp.transpose(var, swap)
    drawn = equation.contract(mean, var, x, summands=summands)
    return jnp.transpose(drawn, sorted(range(mean.ndim), key=swap.__getitem__))


@register_rule("conv_general_dilated")
def _conv(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    _, inputs, *window = equation.params["dimension_numbers"].rhs_spec
    # A strided transposed convolution has zeros between the inputs.
    summands = math.prod(jnp.shape(y)[axis] for axis in (inputs, *window))
    return _contraction(
        equation, x, y, summands / math.prod(equation.params["lhs_dilation"])
    )


@register_rule("reduce_sum")
def _reduce_sum(equation: Equation, x: Random) -> Any:
    if equation.reading == "sampled" and x.drawable and x.copied:
        return equation.bind(equation.draw(x))
    summands = math.prod(x.shape[axis] for axis in equation.params["axes"])
    mean, var = equation.bind(x.mean), equation.bind(x.var)
    return equation.contract(mean, var, x, summands=summands)


@register_rule("cumsum", reading="moments")
@register_rule("reduce_window_sum", reading="moments")
def _overlapping_sums(equation: Equation, x: Random) -> Random:
    """Sums that share summands, such as average pooling; exact for single entries."""
    if not x.drawable:
        raise equation.refuse(x, because="one weight would be in several sums")
    return Random(equation.bind(x.mean), equation.bind(x.var), x.leaves, drawable=True)


def _contraction(equation: Equation, x: Any, y: Any, summands: int | float) -> Any:
    if not is_random(x) and not is_random(y):
        return equation.bind(x, y)
    return equation.contract(*_bilinear(equation, x, y), x, y, summands=summands)


def _bilinear(equation: Equation, x: Any, y: Any) -> tuple[Any, Any]:
    """Mean and variance of a bilinear primitive with independent operands."""
    mean = equation.bind(*(v.mean if is_random(v) else v for v in (x, y)))
    if not is_random(x):
        return mean, _spread(equation, y, jnp.square(_widen(x)), first=False)
    if not is_random(y):
        return mean, _spread(equation, x, jnp.square(_widen(y)), first=True)
    if not x.drawable:
        var = _spread(equation, x, jnp.square(y.mean) + y.var, first=True)
        return mean, var + _bind_var(equation, jnp.square(x.mean), y.var)
    var = _spread(equation, y, jnp.square(x.mean) + x.var, first=False)
    return mean, var + _bind_var(equation, x.var, jnp.square(y.mean))


def _spread(equation: Equation, random: Random, square: Any, first: bool) -> Any:
    """Σ V b, with V the variance of a random operand, which may be either operand."""
    var, rows = random.var, None
    if equation.context.delta and not random.drawable:
        found = factored(equation, var, first)
        var, rows = found or (var, None)
    operands = (var, square) if first else (square, var)
    total = _bind_var(equation, *operands)
    return total if rows is None else total * rows


def _widen(x: Any) -> Any:
    """Convert types whose range is too small for squares (float16, short integers)."""
    x = jnp.asarray(x)
    narrow = x.dtype == jnp.float16 or jnp.issubdtype(x.dtype, jnp.integer)
    return x.astype(jnp.float32) if narrow else x


def _bind_var(equation: Equation, x: Any, y: Any) -> Any:
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    if dtype == jnp.float32 and equation.params.get("preferred_element_type"):
        return equation.bind(x, y, preferred_element_type=jnp.dtype("float32"))
    return equation.bind(x, y)


def _one_weight(equation: Equation, x: Any, y: Any) -> tuple[Any, Any]:
    """In the sampled reading, draw factors until at most one is random."""
    if equation.reading == "moments" or not (is_random(x) and is_random(y)):
        return x, y
    if not x.drawable and not y.drawable:
        raise equation.refuse(x, y, because=PRODUCT)
    if x.drawable:
        x = equation.draw(x)
    else:
        y = equation.draw(y)
    return x, y


def _apart(equation: Equation, x: Any, y: Any, because: str) -> tuple[Any, Any]:
    """Draw operands with a common weight (sampled reading); refuse undrawable ones."""
    if not (is_random(x) and is_random(y)) or not set(x.leaves) & set(y.leaves):
        return x, y
    if not (x.drawable and y.drawable):
        raise equation.refuse(x, y, because=because)
    if equation.reading == "moments":
        return x, y
    return equation.draw(x), equation.draw(y)


@register_rule("max", reading="moments")
def _max(equation: Equation, x: Any, y: Any) -> Any:
    """The maximum of two signals from different contractions."""
    x, y = _apart(equation, x, y, "a weight would be compared with itself")
    if not all(v.drawable for v in (x, y) if is_random(v)):
        raise equation.refuse(x, y)
    x, y = lift(x), lift(y)
    shape = equation.shape
    parts = [jnp.broadcast_to(p, shape) for p in (x.mean, x.var, y.mean, y.var)]
    return Random(*maximum(*parts), merge_leaves(x, y), drawable=True)


def _copied(result: Any, *operands: Any) -> tuple[int, ...]:
    axes = set()
    for value in filter(is_random, operands):
        # A scalar is repeated along every axis, without an explicit broadcast.
        spread = value.ndim == 0
        axes |= set(range(result.ndim)) if spread else set(value.copied)
    return tuple(sorted(axes))
