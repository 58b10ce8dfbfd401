r"""Weights whose connections share a spike, which acts as a gate on their input.

If all connections of an input unit k share one spike, W_jk = s_k W̃_jk with
s_k ~ Bernoulli(1 − π_k) and Gaussian W̃_jk ~ N(m_jk, Ξ_jk), a pre-activation

    z_j = Σ_k W̃_jk s_k a_k,     Cov(z_i, z_j) = Σ_k π_k (1 − π_k) m_ik m_jk a_k²
                                                + δ_ij Σ_k (1 − π_k) Ξ_jk a_k²

is correlated with the others, because they lose the same inputs. With many inputs it is
Gaussian, and its variance Δ_j² is the same as with separate spikes. So it is computed
as the ordinary layer after a gate with the same first two moments as s_k,

    a_k → a_k g_k,     g_k = 1 − π_k + η_k √(π_k (1 − π_k)),     η_k ~ N(0, 1),

which gives exactly this mean and covariance. η is drawn for every example, and in a
convolution once for each channel of an example. The moments reading treats the entries
of the gated signal as independent, like those of every signal.

A spike shared by the connections *into* a unit is not supported: z_j is then 0 with
probability π, so it is far from Gaussian.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .equation import Equation
from .registry import find_rule
from .values import Gated, Random, is_random, lift, merge_leaves

_MOVES = frozenset(
    "transpose squeeze reshape broadcast_in_dim convert_element_type slice rev copy "
    "copy_p reduce_precision stop_gradient sharding_constraint".split()
)
_SIDE = "its connections share a spike; "


def apply_gated(equation: Equation, operands: Sequence[Any]) -> Any:
    """Result of one equation with gated weights among its operands."""
    gated = [v for v in operands if isinstance(v, Gated)]
    name = equation.name
    if name in _MOVES and len(operands) == 1:
        parts = (_rule(equation, v) for v in (gated[0].weight, gated[0].gate))
        return Gated(*parts)
    if name in ("mul", "div", "neg") and _is_scaling(operands):
        plain = [v.weight if isinstance(v, Gated) else v for v in operands]
        return Gated(_rule(equation, *plain), gated[0].gate)
    if name not in ("dot_general", "conv_general_dilated") or len(gated) > 1:
        raise _refuse(equation, operands, "it may only enter a layer's product")
    place = [isinstance(v, Gated) for v in operands].index(True)
    layout = _dot_layout if name == "dot_general" else _conv_layout
    signal = _gate(equation, operands, place, *layout(equation, operands, place))
    weight = gated[0].weight
    return _rule(equation, *((weight, signal) if place == 0 else (signal, weight)))


def _rule(equation: Equation, *operands: Any) -> Any:
    rule = find_rule(equation.name, equation.reading)
    assert rule is not None
    return rule(equation, *operands)


def _is_scaling(operands: Sequence[Any]) -> bool:
    """Whether the operands are one gated weight and at most one plain number."""
    others = [v for v in operands if not isinstance(v, Gated)]
    numbers = all(not is_random(v) and jnp.ndim(v) == 0 for v in others)
    return numbers and len(others) == len(operands) - 1


def _dot_layout(
    equation: Equation, operands: Sequence[Any], place: int
) -> tuple[dict[int, int], list[int]]:
    """Corresponding axes of weight and signal in a matrix product.

    Returns:
        The axis of the signal for each contracted or batch axis of the weight, and the
        axes along which one draw of the noise is shared (none).
    """
    contract, batch = equation.params["dimension_numbers"]
    pairs = [*zip(*contract, strict=True), *zip(*batch, strict=True)]
    return {pair[place]: pair[1 - place] for pair in pairs}, []


def _conv_layout(
    equation: Equation, operands: Sequence[Any], place: int
) -> tuple[dict[int, int], list[int]]:
    """The same for a convolution, where a channel has one gate at all positions."""
    numbers = equation.params["dimension_numbers"]
    alone = equation.params["feature_group_count"] == 1
    if place == 0 or not alone or equation.params["batch_group_count"] != 1:
        raise _refuse(equation, operands, "a convolution in groups mixes its units")
    return {numbers.rhs_spec[1]: numbers.lhs_spec[1]}, list(numbers.lhs_spec[2:])


def _gate(
    equation: Equation,
    operands: Sequence[Any],
    place: int,
    meets: dict[int, int],
    together: list[int],
) -> Any:
    """The signal times the gates of a weight."""
    gate, signal = operands[place].gate, operands[1 - place]
    if isinstance(signal, Gated) or (is_random(signal) and not signal.drawable):
        raise _refuse(equation, operands, "the other factor is a weight, not a signal")
    free = [axis for axis in range(gate.ndim) if axis not in meets]
    if any(gate.shape[axis] > 1 and axis not in gate.copied for axis in free):
        raise _refuse(equation, operands, "the axes are not those of one unit")
    shape = list(jnp.shape(signal))
    for axis in (*together, *(meets[a] for a in gate.copied if a in meets)):
        shape[axis] = 1
    mean, var = (_laid_out(v, gate, meets, len(shape)) for v in (gate.mean, gate.var))
    if equation.reading == "moments":
        a = lift(signal)
        spread = a.var * jnp.square(mean) + (jnp.square(a.mean) + a.var) * var
        return Random(a.mean * mean, spread, merge_leaves(a, gate), drawable=True)
    signal = equation.draw(signal)
    drawn = equation.context.add_noise(
        jnp.broadcast_to(mean, shape), jnp.broadcast_to(var, shape)
    )
    return signal * drawn.astype(jnp.result_type(signal))


def _laid_out(values: Any, gate: Random, meets: dict[int, int], ndim: int) -> Any:
    """One number for each unit, along the corresponding axes of the signal."""
    for axis in range(gate.ndim):
        if axis not in meets or axis in gate.copied:
            values = jnp.take(values, jnp.array([0]), axis)
    order = sorted(meets, key=lambda axis: meets[axis])
    rest = [axis for axis in range(gate.ndim) if axis not in meets]
    values = jnp.transpose(values, [*order, *rest])
    sizes = [1] * ndim
    for place, axis in enumerate(order):
        sizes[meets[axis]] = values.shape[place]
    return values.reshape(sizes)


def _refuse(equation: Equation, operands: Sequence[Any], because: str) -> Exception:
    weights = [v.weight if isinstance(v, Gated) else v for v in operands]
    return equation.refuse(*weights, because=_SIDE + because)
