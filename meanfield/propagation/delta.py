r"""Moments to lowest order in the variances: a network linearised about its means.

The delta method for a function f of a signal with means m and variances v is

    mean = f(m),     var_i = Σ_j (∂f_i/∂z_j)² v_j,

so all means are those of the mean network, and in addition only variances are
propagated. Softmax, norms and maxima have Jacobians in closed form; other functions of
one entry are differentiated in forward mode; other functions that mix entries are
averaged over draws, as in the moments reading.

For a contraction with weights of mean μ and variance V, the moments reading needs three
products, Σ μ a, Σ V (a² + v) and Σ μ² v. Here V is replaced by a product of its row and
column sums, V_jk → r_j c_k / Σ V, which has the same row and column sums:

    Δ²_j = (r_j / Σ V) Σ_k c_k (a_k² + v_k) + Σ_k μ_jk² v_k

The first term costs a fraction 1/outputs of a product. So a layer costs two products
instead of three, and the first layer, where v = 0, costs one.

Source: the delta method; Wang & Manning 2013, Fast dropout training (propagation of
variances through layers).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .equation import Equation
from .values import Random

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def linearized(function: Callable[[Any], Any], root: Random) -> tuple[Any, Any]:
    """f(m) and f′(m)² v, entry by entry."""
    mean, gradient = jax.jvp(function, (root.mean,), (jnp.ones_like(root.mean),))
    return mean, jnp.square(gradient) * root.var


def selected(function: Callable[[Any], Any], root: Random) -> tuple[Any, Any]:
    """f(m) and its variance, if each result depends on a single entry near m.

    Then Σ_j (∂f_i/∂z_j)² v_j = (Σ_j ∂f_i/∂z_j √v_j)², one squared derivative along √v.
    """
    random = root.var > 0
    std = jnp.where(random, jnp.sqrt(jnp.where(random, root.var, 1)), 0)
    mean, change = jax.jvp(function, (root.mean,), (std.astype(root.mean.dtype),))
    return mean, jnp.square(change)


def softmax(m: Float[Array, "..."], v: Float[Array, "..."]) -> Pair:
    """p = softmax(m) and Σ_j (∂p_k/∂z_j)² v_j = p_k² ((1 − 2 p_k) v_k + Σ p_j² v_j)."""
    p = jax.nn.softmax(m)
    spread = (jnp.square(p) * v).sum(-1, keepdims=True)
    return p, jnp.square(p) * ((1 - 2 * p) * v + spread)


def log_softmax(m: Float[Array, "..."], v: Float[Array, "..."]) -> Pair:
    """ln p_k, and (1 − 2 p_k) v_k + Σ p_j² v_j."""
    mean = jax.nn.log_softmax(m)
    p = jnp.exp(mean)
    return mean, (1 - 2 * p) * v + (jnp.square(p) * v).sum(-1, keepdims=True)


def logsumexp(m: Float[Array, "..."], v: Float[Array, "..."]) -> Pair:
    """ln Σ e^m and Σ p_j² v_j."""
    p = jax.nn.softmax(m)
    return jax.nn.logsumexp(m, axis=-1), (jnp.square(p) * v).sum(-1)


def factored(equation: Equation, var: Any, first: bool) -> tuple[Any, Any] | None:
    """The factors c_k and r_j / Σ V of a weight's variance in a contraction.

    Args:
        equation: a `dot_general` or `conv_general_dilated`.
        var: V.
        first: whether the weight is the first operand.

    Returns:
        Σ_j V_jk, with axes j of size one, and r / Σ V in the axes of the result; None
        if the equation is of another kind.
    """
    axes = _output_axes(equation, var.ndim, first)
    if axes is None:
        return None
    own, places = axes
    rows = var.sum(tuple(axis for axis in range(var.ndim) if axis not in own))
    total = rows.sum()
    shape = [1] * len(equation.shape)
    for size, place in zip(rows.shape, places, strict=True):
        shape[place] = size
    rows = rows / jnp.where(total > 0, total, 1)
    return var.sum(own, keepdims=True), rows.reshape(shape)


def _output_axes(equation: Equation, ndim: int, first: bool) -> Any:
    """Axes of a weight that are not summed, and the same axes of the result."""
    params = equation.params
    if equation.name == "dot_general":
        summed, batch = (pair[1 - first] for pair in params["dimension_numbers"])
        own = tuple(axis for axis in range(ndim) if axis not in summed)
        start = 0 if first else len(equation.shape) - len(own)
        return None if batch else (own, range(start, start + len(own)))
    if equation.name != "conv_general_dilated" or first:
        return None
    groups = params["feature_group_count"] * params["batch_group_count"]
    numbers = params["dimension_numbers"]
    return ((numbers.rhs_spec[0],), (numbers.out_spec[1],)) if groups == 1 else None
