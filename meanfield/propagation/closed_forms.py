"""Functions of one random array that have exact moments, recognised by their steps.

In a jaxpr, softmax, norms and maxima consist of primitives. Each form below checks all
steps, and that all sums are over the same axes and are broadcast along these axes. All
other programs are integrated by the general methods of `deferred`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from . import delta, extremes, moments, softmax
from .deferred import Deferred
from .norm_forms import product_form, quotient_form
from .patterns import (
    MOVES,
    SAME,
    in_order,
    is_step,
    join_last,
    number,
    on_last,
    one_random,
    places_in,
    plain_operand,
    random_operand,
    reduced,
    reduced_axes,
    same,
    scalar,
    skip,
    spreads,
    wide_moments,
    with_axes,
)
from .values import Random, variance_dtype

INCREASING = frozenset("max min tanh logistic exp erf log1p expm1 cbrt asinh".split())


def closed_form(value: Deferred) -> Callable[[], Random] | None:
    """A function that gives the moments of a deferred value by a formula, or None."""
    recognise = _FORMS.get(value.name)
    form = recognise(value) if recognise else None
    if form is None:
        return None

    def take() -> Random:
        mean, var = form()
        dtype = value.root.mean.dtype
        var = var.astype(variance_dtype(dtype))
        return Random(mean.astype(dtype), var, value.root.leaves, drawable=True)

    return take


def _module(value: Deferred) -> Any:
    """The module with the moments of softmax and the like: exact, or linearised."""
    return delta if value.delta else softmax


def _softmax(value: Deferred) -> Any:
    """e^a / Σ e^a."""
    top, bottom = value.inputs
    found = _summed_exponential(bottom, value.shape)
    if found is None or not is_step(top, "exp"):
        return None
    if not same(found[0].inputs[0], top.inputs[0]):
        return None
    _, logits, axes = found
    return on_last(_module(value).softmax, logits, axes, value.shape)


def _difference(value: Deferred) -> Any:
    """a − ln Σ e^a."""
    top, bottom = value.inputs
    log = skip(bottom, MOVES | SAME)
    found = is_step(log, "log") and _summed_exponential(bottom, value.shape, {"log"})
    if not found or not same(found[0].inputs[0], top):
        return None
    _, logits, axes = found
    return on_last(_module(value).log_softmax, logits, axes, value.shape)


def _sum(value: Deferred) -> Any:
    """c + ln Σ e^{a − c}."""
    for log, shift in (value.inputs, value.inputs[::-1]):
        inner = skip(log, MOVES | SAME)
        if not is_step(inner, "log") or not isinstance(shift, Deferred):
            continue
        found = _summed_exponential(log, None, {"log", "abs"})
        difference = found and found[0].inputs[0]
        if not is_step(difference, "sub"):
            continue
        taken = skip(difference.inputs[1], MOVES | SAME)
        if not same(taken, skip(shift, MOVES | SAME)):
            continue
        _, logits, axes = found
        places = places_in(shift, [taken])
        kept = places_in(difference.inputs[1], [taken])
        if places is None or kept is None or not in_order(log, axes):
            continue
        rows = with_axes(places, axes, difference.shape)
        whole = [np.broadcast_to(part, difference.shape) for part in (rows, kept)]
        if value.shape == shift.shape and (whole[0] == whole[1]).all():
            return reduced(_module(value).logsumexp, logits, axes, value.shape)
    return None


def _log(value: Deferred) -> Any:
    """ln Σ e^a without a shift."""
    found = _summed_exponential(value.inputs[0], None)
    if found is None or not same(found[0].inputs[0], found[1]):
        return None
    if not in_order(value.inputs[0], found[2]):
        return None
    return reduced(_module(value).logsumexp, found[1], found[2], value.shape)


def _summed_exponential(node: Any, shape: Any, through: Any = frozenset()) -> Any:
    """The e^b, the Gaussian a with b = a − (constant along the axes), and the axes."""
    total = skip(node, MOVES | SAME | through)
    if not is_step(total, "reduce_sum") or not is_step(total.inputs[0], "exp"):
        return None
    exponential, axes = total.inputs[0], reduced_axes(total)
    if shape is not None and not spreads(node, total, axes, exponential.shape):
        return None
    logits = exponential.inputs[0]
    while isinstance(logits, Deferred) and not logits.normal:
        if not is_step(logits, "sub") or not isinstance(logits.inputs[1], Deferred):
            return None
        base = skip(logits.inputs[1], MOVES | SAME)
        places = places_in(logits.inputs[1], [base])
        if places is None:
            return None
        places = np.broadcast_to(places, exponential.shape)
        first = places[
            tuple(slice(1) if a in axes else slice(None) for a in range(places.ndim))
        ]
        if not (places == first).all():
            return None
        logits = logits.inputs[0]
    known = isinstance(logits, Deferred) and logits.shape == exponential.shape
    return (exponential, logits, axes) if known else None


def _maximum(value: Deferred) -> Any:
    """The maximum, along axes or in windows, of one increasing function of entries."""
    inner, apply, moves = value.inputs[0], lambda t: t, []
    while isinstance(inner, Deferred) and not inner.normal:
        if inner.name in MOVES | {"transpose"} and _same_size(inner):
            moves.insert(0, inner.bind)
            inner = inner.inputs[0]
            continue
        if inner.name not in INCREASING | SAME or not one_random(inner):
            return None
        inner, apply = random_operand(inner), _after(inner, apply)
    if not isinstance(inner, Deferred):
        return None
    if set(value.params.get("base_dilation", (1,))) != {1}:
        return None
    if value.delta:
        return lambda: delta.selected(value.function, value.root)

    def form() -> Any:
        mean, var = wide_moments(inner)
        for move in moves:
            mean, var = move(mean), move(var)
        if value.name == "reduce_max":
            axes = reduced_axes(value)
            mean, var = (jnp.moveaxis(join_last(a, axes), -1, 0) for a in (mean, var))
        else:
            mean = _windows(mean, value.params, -jnp.inf)
            var = _windows(var, value.params, 0.0)
        found = extremes.largest(mean, var, apply)
        return tuple(part.reshape(value.shape) for part in found)

    return form


def _same_size(node: Deferred) -> bool:
    return math.prod(node.shape) == math.prod(node.inputs[0].shape)


def _after(node: Deferred, then: Callable) -> Callable:
    def apply(t: Any) -> Any:
        operands = (t if isinstance(v, Deferred) else scalar(v) for v in node.inputs)
        assert node.bind is not None
        if node.name in ("max", "min"):
            return then(getattr(jnp, f"{node.name}imum")(*operands))
        return then(node.bind(*operands))

    return apply


def _windows(array: Any, params: Any, fill: float) -> Any:
    """The entries of every window along a new first axis."""
    sizes, strides = params["window_dimensions"], params["window_strides"]
    steps, padding = params["window_dilation"], params["padding"]
    padded = jnp.pad(array, padding, constant_values=fill)
    shape = [
        (total - (size - 1) * step - 1) // stride + 1
        for total, size, step, stride in zip(
            padded.shape, sizes, steps, strides, strict=True
        )
    ]
    parts = []
    for offset in np.ndindex(*sizes):
        start = [o * step for o, step in zip(offset, steps, strict=True)]
        index = tuple(
            slice(begin, begin + (length - 1) * stride + 1, stride)
            for begin, length, stride in zip(start, shape, strides, strict=True)
        )
        parts.append(padded[index])
    return jnp.stack(parts)


def _activation(value: Deferred) -> Any:
    """A single function of Gaussian entries whose moments have a closed form."""
    if value.delta:
        return None
    names = {"abs": "absolute", "integer_pow": "square", "max": "relu"}
    if value.name == "integer_pow" and value.params["y"] != 2:
        return None
    if value.name == "max":
        one = one_random(value) and len(value.inputs) == 2
        if not one or number(plain_operand(value)) != 0:
            return None
    entries = random_operand(value)
    if not entries.normal or entries.shape != value.shape:
        return None
    form = getattr(moments, names.get(value.name, value.name))
    return lambda: form(*wide_moments(entries))


def _threshold(value: Deferred) -> Any:
    """The probability that a Gaussian entry lies above, or below, a plain number."""
    entries, level = random_operand(value), plain_operand(value)
    if (
        value.delta
        or level is None
        or not entries.normal
        or entries.shape != value.shape
    ):
        return None
    bind = value.bind
    assert bind is not None
    above = (value.name in ("gt", "ge")) == isinstance(value.inputs[0], Deferred)

    def form() -> Any:
        mean, var = wide_moments(entries)
        gap = mean - level if above else level - mean
        random = var > 0
        chance = norm.cdf(gap / jnp.sqrt(jnp.where(random, var, 1)))
        # An entry of variance 0 lies on one side with certainty.
        certain = bind(*(mean if v is entries else v for v in value.inputs))
        chance = jnp.where(random, chance, certain.astype(mean.dtype))
        return chance, chance * (1 - chance)

    return form


_FORMS: dict[str, Callable[[Deferred], Any]] = {
    "div": lambda value: _softmax(value) or quotient_form(value),
    "sub": _difference,
    "add": _sum,
    "log": _log,
    "mul": product_form,
    **dict.fromkeys(("gt", "ge", "lt", "le"), _threshold),
    **dict.fromkeys(
        ("abs", "erf", "exp", "integer_pow", "max", "sign", "square"), _activation
    ),
    "reduce_max": _maximum,
    "reduce_window_max": _maximum,
}
