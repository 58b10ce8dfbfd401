r"""Renormalization flow of wide layers in depth, and critical exponents.

    q*' = q*,     χ₁' = χ₁^b,     ξ' = ξ/b                     b layers become one

No single wide layer has exactly the maps of two wide layers with the same activation.
The flow keeps the fixed point q* and the gradient χ at q*; the effective (σ_w², σ_b²)
are those of the single layer with this q* and this χ:

    σ_w'² = χ₁^b / E φ'(√q* z)²,     σ_b'² = q* − σ_w'² E φ(√q* z)²

Ordered networks flow to σ_w² = 0. Chaotic ones flow to larger σ_w², until no single
layer has the required q* and χ. χ₁ = 1 is a line of fixed points, one for every q*.
Across it R(χ₁) = χ₁^b has the relevant eigenvalue y = ln|dR/dχ₁|/ln b = 1, hence
ν = 1/y = 1.

This flow is this project's own construction, in the spirit of arXiv:2410.00396; the
maps from layer to layer are those of arXiv:1606.05340 and arXiv:1611.01232.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from meanfield.checks import require

from .activations import Activation, find_activation
from .decimation import require_block
from .fixed_points import depth_scale, fixed_point


@dataclass(frozen=True)
class WideLayer:
    """One point of the flow of wide layers.

    Args:
        weight_var: σ_w².
        bias_var: σ_b².
        length: q*, which is constant in the flow.
        gradient: χ₁.
        depth_scale: ξ in layers of this level, `None` in the chaotic phase.
    """

    weight_var: float
    bias_var: float
    length: float
    gradient: float
    depth_scale: float | None


def wide_layer(
    weight_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
) -> WideLayer:
    """A wide layer at its fixed point, from which a flow can start.

    Args:
        weight_var: σ_w².
        bias_var: σ_b².
        activation: φ.

    Returns:
        A `WideLayer`: (σ_w², σ_b²), q*, χ₁ and ξ.

    Raises:
        ValueError: there is no finite, positive fixed point q*.

    Example:
        >>> layer = wide_layer(1.5, 0.05)
        >>> layer.gradient < 1  # ordered
        True
    """
    point = fixed_point(weight_var, bias_var, activation)
    q = point.length
    require(
        q is not None and 0 < q < math.inf,
        f"`weight_var` and `bias_var` must give a finite, positive fixed length; got "
        f"q* = {q} at ({weight_var}, {bias_var}). Add biases, or change the gain.",
    )
    return _wide(weight_var, bias_var, float(q or 0), float(point.gradient or 0))


def decimate_wide_layer(
    layer: WideLayer, activation: str | Activation = "tanh", block: int = 2
) -> WideLayer | None:
    """The single wide layer with the fixed point and the gradient of b layers.

    Args:
        layer: a layer at its fixed point, from `wide_layer`.
        activation: φ.
        block: b, the number of layers that become one.

    Returns:
        The layer, or `None` if its σ_b² would be negative: deep in the chaotic phase
        no single layer of this activation has the q* and χ of b layers.

    Raises:
        ValueError: b < 1, or an unknown activation.

    Example:
        >>> layer = wide_layer(1.5, 0.05)
        >>> round(layer.depth_scale / decimate_wide_layer(layer).depth_scale, 6)
        2.0
    """
    require_block(block)
    phi = find_activation(activation)
    gradient = layer.gradient**block
    weight_var = gradient / phi.derivative_moment(layer.length)
    bias_var = layer.length - weight_var * phi.second_moment(layer.length)
    if bias_var < -1e-12 * layer.length:
        return None
    return _wide(weight_var, max(bias_var, 0.0), layer.length, gradient)


def wide_flow(
    layer: WideLayer,
    activation: str | Activation = "tanh",
    num_steps: int = 10,
    block: int = 2,
) -> list[WideLayer]:
    """Flow of (σ_w², σ_b², χ₁, ξ) under repeated decimation.

    It ends early if `decimate_wide_layer` returns None.

    Args:
        layer: a layer at its fixed point, from `wide_layer`.
        activation: φ.
        num_steps: largest number of decimations.
        block: b, the number of layers that become one.

    Returns:
        The layers of the flow; the first is `layer`.

    Example:
        >>> flow = wide_flow(wide_layer(1.5, 0.05), num_steps=2)
        >>> [round(flow[0].depth_scale / layer.depth_scale, 6) for layer in flow]
        [1.0, 2.0, 4.0]
    """
    flow = [layer]
    for _ in range(num_steps):
        following = decimate_wide_layer(flow[-1], activation, block)
        if following is None:
            break
        flow.append(following)
    return flow


def relevant_eigenvalue(
    step: Callable[[float], float], fixed: float | int, block: int = 2
) -> float:
    """y = ln|dR/dx| / ln b of a decimation step R at its fixed point; ν = 1/y.

    Args:
        step: R, with R(x*) = x*.
        fixed: x*.
        block: b, the number of layers that become one in a step.

    Returns:
        y; the critical exponent of the transition is ν = 1/y.

    Raises:
        ValueError: x* is not a fixed point of R.

    Example:
        >>> round(relevant_eigenvalue(lambda gradient: gradient**2, 1.0), 6)
        1.0
    """
    require(
        abs(step(fixed) - fixed) < 1e-9 * max(1.0, abs(fixed)),
        f"`fixed` must be a fixed point of `step`; got {fixed}, which it maps to "
        f"{step(fixed)}.",
    )
    width = 1e-5 * max(1.0, abs(fixed))
    gradient = (step(fixed + width) - step(fixed - width)) / (2 * width)
    return math.log(abs(gradient)) / math.log(block)


def critical_exponent(
    distances: Sequence[float], scales: Sequence[float]
) -> tuple[float, float]:
    """ν of ξ ∝ δ^{−ν}: least squares of ln ξ on ln δ, with its standard error.

    Args:
        distances: δ > 0 from the transition, three or more.
        scales: ξ at these distances, finite.

    Returns:
        (ν, its standard error).

    Raises:
        ValueError: fewer than three points, or a value that is not positive and finite.

    Example:
        >>> nu, error = critical_exponent([0.1, 0.01, 0.001], [10.0, 100.0, 1000.0])
        >>> round(nu, 6)
        1.0
    """
    x, y = np.asarray(distances, float), np.asarray(scales, float)
    require(
        x.size == y.size >= 3
        and bool(np.all((x > 0) & np.isfinite(x) & (y > 0) & np.isfinite(y))),
        f"`distances` and `scales` must be three or more positive, finite pairs; got "
        f"{distances} and {scales}. Stay on one side of the transition.",
    )
    design = np.stack([np.ones_like(x), np.log(x)], axis=1)
    solution = np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    residual = np.log(y) - design @ solution
    var = float(residual @ residual) / (x.size - 2)
    error = (var / float(np.sum(np.square(np.log(x) - np.log(x).mean())))) ** 0.5
    return float(-solution[1]), error


def _wide(weight_var: float, bias_var: float, q: float, gradient: float) -> WideLayer:
    scale = depth_scale(gradient) if gradient <= 1 else None
    return WideLayer(float(weight_var), float(bias_var), q, gradient, scale)
