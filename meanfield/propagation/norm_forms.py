"""Recognise layer norm and similar norms in the steps of a network.

Q is the sum of the squares of a − ā, or of a; c and e are numbers; see `normalization`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .deferred import Deferred
from .normalization import normalize, normalize_delta
from .patterns import (
    MOVES,
    is_centred,
    is_step,
    mean_of,
    number,
    on_last,
    one_random,
    plain_operand,
    random_operand,
    reduced_axes,
    same,
    scalar,
    skip,
    spreads,
    squared,
)


def product_form(value: Deferred) -> Any:
    """(a − ā) · scale · (Q/c + e)^{−1/2}, or a in place of a − ā."""
    for top, bottom in (value.inputs, value.inputs[::-1]):
        scale, inner = 1.0, bottom
        while is_step(inner, "mul") and one_random(inner):
            scale, inner = scale * plain_operand(inner), random_operand(inner)
        form = _normalized(value, top, inner, "rsqrt", scale)
        if form is not None:
            return form
    return None


def quotient_form(value: Deferred) -> Any:
    """(a − ā)/√(Q/c + e), or a in place of a − ā."""
    top, bottom = value.inputs
    return _normalized(value, top, bottom, "sqrt")


def _normalized(
    value: Deferred, top: Any, divisor: Any, root: str, scale: Any = 1.0
) -> Any:
    if not isinstance(top, Deferred) or not isinstance(divisor, Deferred):
        return None
    found = _inverse_size(divisor, root)
    if found is None:
        return None
    offset, wrong, (entries, centred, axes, count, total) = found
    if not entries.normal or value.shape != entries.shape:
        return None
    if not (is_centred(top, entries, axes) if centred else same(top, entries)):
        return None
    if not spreads(divisor, total, axes, entries.shape):
        return None
    if np.size(offset) != 1 or np.size(count) != 1:
        return None

    def form() -> Any:
        take = normalize_delta if value.delta else normalize
        norm = lambda m, v: take(m, v, scalar(count), scalar(offset), centred)
        mean, var = on_last(norm, entries, axes, value.shape)()
        if wrong is not None:
            mean, var = (jnp.where(wrong, jnp.nan, part) for part in (mean, var))
        return mean * scale, var * jnp.square(scale)

    return form


def _inverse_size(divisor: Deferred, root: str) -> Any:
    """e, a mask where the form does not hold, and `_spread` of Q/c, from √(Q/c + e)."""
    bottom = skip(divisor, MOVES)
    if not is_step(bottom, root) or not is_step(bottom.inputs[0], "add"):
        return None
    shifted = bottom.inputs[0]
    if not one_random(shifted):
        return None
    offset, wrong = plain_operand(shifted), None
    variance = skip(random_operand(shifted), MOVES)
    while isinstance(variance, Deferred) and variance.name in {"max", "select_n"}:
        if variance.name == "max":
            if not one_random(variance) or number(plain_operand(variance)) != 0:
                return None
        else:
            which, *cases = variance.inputs
            random = [isinstance(case, Deferred) for case in cases]
            if isinstance(which, Deferred) or len(cases) != 2 or sum(random) != 1:
                return None
            # The other case is not a variance of these entries, so the form does not
            # hold there.
            wrong = which if random[0] else jnp.logical_not(which)
        variance = skip(random_operand(variance), MOVES)
    found = _spread(variance)
    return found and (offset, wrong, found)


def _spread(node: Any) -> Any:
    """From Q/c: its entries, whether they are centred, the axes, c, and the sum."""
    if is_step(node, "sub"):  # ⟨a²⟩ − ⟨a⟩²
        squares, mean = node.inputs
        root = squared(mean)
        found = mean_of(squares)
        inner = found and squared(found[0].inputs[0])
        entries = inner if isinstance(inner, Deferred) else None
        if entries is None or root is None:
            return None
        total, axes = found
        taken = mean_of(root)
        if taken is None or taken[1] != axes or not same(taken[0].inputs[0], entries):
            return None
        count = np.prod([entries.shape[axis] for axis in axes])
        return entries, True, axes, float(count), total
    if not isinstance(node, Deferred) or not one_random(node):
        return None
    if node.name not in ("div", "mul"):
        return None
    if node.name == "div" and not isinstance(node.inputs[0], Deferred):
        return None
    count = plain_operand(node) if node.name == "div" else 1 / plain_operand(node)
    total = skip(random_operand(node), MOVES)
    if not is_step(total, "reduce_sum"):
        return None
    axes, inner = reduced_axes(total), squared(total.inputs[0])
    if not isinstance(inner, Deferred):
        return None
    if inner.normal:
        return inner, False, axes, count, total
    if is_step(inner, "sub") and isinstance(inner.inputs[0], Deferred):
        entries = inner.inputs[0]
        if is_centred(inner, entries, axes):
            return entries, True, axes, count, total
    return None
