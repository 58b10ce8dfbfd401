"""Rules for sums, scalings and contractions: where the central limit theorem enters.

A contraction of a plain array a with independent weights of mean μ and variance V has

    G = Σ_k μ_k a_k,      Δ² = Σ_k V_k a_k²

exactly. The sampled reading returns the draw G + ε Δ, ε ~ N(0, 1) fresh for every
output entry; the moments reading returns (G, Δ²), and for a random signal (a, v)

    Δ² = Σ_k [ V_k (a_k² + v_k) + μ_k² v_k ],

which takes the entries of the signal as independent.

Source: Li & Huang 2020, arXiv:2001.03354; Kingma, Salimans & Welling 2015,
arXiv:1506.02557 (local reparametrisation).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .equation import Equation
from .interpreter import settle
from .registry import register_rule
from .values import Random, is_random, merge_leaves

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
    return Random(mean, var, merge_leaves(x, y), drawable, _copied(x, y))


@register_rule("mul")
def _mul(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    if not is_random(x) and not is_random(y):
        return equation.bind(x, y)
    drawable = any(jnp.ndim(v) > 0 if not is_random(v) else v.drawable for v in (x, y))
    mean, var = _bilinear(equation, x, y)
    return Random(mean, var, merge_leaves(x, y), drawable, _copied(x, y))


@register_rule("div")
def _div(equation: Equation, x: Any, y: Any) -> Any:
    if is_random(y):
        return equation.bind(*settle(equation, x, y))
    drawable = x.drawable or jnp.ndim(y) > 0
    var = x.var / jnp.square(y)
    return Random(equation.bind(x.mean, y), var, x.leaves, drawable, x.copied)


@register_rule("neg")
def _neg(equation: Equation, x: Random) -> Random:
    return Random(equation.bind(x.mean), x.var, x.leaves, x.drawable, x.copied)


@register_rule("dot_general")
def _dot(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    (x_axes, y_axes), _ = equation.params["dimension_numbers"]
    _refuse_copies(equation, x, x_axes)
    _refuse_copies(equation, y, y_axes)
    return _contraction(equation, x, y)


@register_rule("conv_general_dilated")
def _conv(equation: Equation, x: Any, y: Any) -> Any:
    x, y = _one_weight(equation, x, y)
    for value in (x, y):
        _refuse_copies(equation, value, range(jnp.ndim(value)))
    return _contraction(equation, x, y)


@register_rule("reduce_sum")
def _reduce_sum(equation: Equation, x: Random) -> Any:
    _refuse_copies(equation, x, equation.params["axes"])
    if equation.reading == "sampled" and x.drawable and x.copied:
        return equation.bind(equation.draw(x))
    return equation.contract(equation.bind(x.mean), equation.bind(x.var), x)


def _contraction(equation: Equation, x: Any, y: Any) -> Any:
    if not is_random(x) and not is_random(y):
        return equation.bind(x, y)
    return equation.contract(*_bilinear(equation, x, y), x, y)


def _bilinear(equation: Equation, x: Any, y: Any) -> tuple[Any, Any]:
    """Mean and variance of a bilinear primitive of independent entries."""
    if is_random(x) and is_random(y):
        (x, v), (y, w) = (x.mean, x.var), (y.mean, y.var)
        var = _bind_var(equation, jnp.square(x) + v, w)
        return equation.bind(x, y), var + _bind_var(equation, v, jnp.square(y))
    if is_random(x):
        y_squared = _widen(y) * _widen(y)
        return equation.bind(x.mean, y), _bind_var(equation, x.var, y_squared)
    x_squared = _widen(x) * _widen(x)
    return equation.bind(x, y.mean), _bind_var(equation, x_squared, y.var)


def _widen(x: Any) -> Any:
    """Squares leave the range of float16."""
    return x.astype(jnp.float32) if x.dtype == jnp.float16 else x


def _bind_var(equation: Equation, x: Any, y: Any) -> Any:
    if jnp.float32 in (x.dtype, y.dtype) and x.dtype != y.dtype:
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        if "preferred_element_type" in equation.params:
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
    """Two summands that share no weight, drawn if that makes them so."""
    if not (is_random(x) and is_random(y)) or not set(x.leaves) & set(y.leaves):
        return x, y
    if equation.reading == "moments":
        if x.drawable or y.drawable:
            return x, y
        raise equation.refuse(x, y, because=because)
    if not x.drawable and not y.drawable:
        raise equation.refuse(x, y, because=because)
    return tuple(equation.draw(v) if v.drawable else v for v in (x, y))


def _copied(*values: Any) -> tuple[int, ...]:
    axes = {axis for v in values if is_random(v) for axis in v.copied}
    return tuple(sorted(axes))


def _refuse_copies(equation: Equation, x: Any, axes: Sequence[int]) -> None:
    if is_random(x) and not x.drawable and set(x.copied) & set(axes):
        raise equation.refuse(x, because="it sums over copies made by broadcasting")
