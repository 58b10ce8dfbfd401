r"""Exact decimation in depth: integrate out layers, keep the large-scale behaviour.

| system                          | b layers become one                              |
|---------------------------------|--------------------------------------------------|
| linear chain h' = w h + N(0, τ) | w' = w^b,  τ' = τ (1 + w² + … + w^{2(b−1)})      |
| linear layers                   | W' = W₂W₁,  Σ' = Σ₂ + W₂Σ₁W₂ᵀ,  b' = b₂ + W₂b₁   |
| binary chain, coupling K        | tanh K' = tanhᵇ K                                |
| binary mean field m' = tanh(Km) | same m*, gradient^b                              |

All satisfy the composition rule: decimating by 2 twice is decimating by 4. The depth
scale ξ becomes ξ/b at every step. For wide nonlinear layers see `wide_flow`. These
flows are this project's own construction, in the spirit of arXiv:2410.00396.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from meanfield.checks import require
from meanfield.physics.roots import bracketed_root

# Beyond this K, −ln tanh K equals 2 e^{−2K} up to rounding.
LARGE_COUPLING = 20.0


@dataclass(frozen=True)
class LinearLayer:
    """h' = W h + b + noise, noise ~ N(0, Σ).

    Args:
        weight: W, (out, in).
        bias: b, (out,).
        noise_cov: Σ, (out, out).
    """

    weight: Float[np.ndarray, "out in"]
    bias: Float[np.ndarray, " out"]
    noise_cov: Float[np.ndarray, "out out"]


def decimate_chain(
    weight: float | int, noise_var: float | int, block: int = 2
) -> tuple[float, float]:
    """Effective (w', τ') of b scalar layers h' = w h + N(0, τ).

    The stationary variance τ/(1 − w²) does not change.

    Args:
        weight: w.
        noise_var: τ ≥ 0.
        block: b, layers that become one.

    Returns:
        (w', τ').

    Raises:
        ValueError: τ is negative, or b < 1.

    Example:
        >>> [round(x, 6) for x in decimate_chain(0.9, 0.3)]
        [0.81, 0.543]
    """
    require_block(block)
    require(
        noise_var >= 0,
        f"`noise_var` must be at least 0; got {noise_var}. It is a variance.",
    )
    total = sum(float(weight) ** (2 * step) for step in range(block))
    return float(weight) ** block, float(noise_var) * total


def decimate_linear(layers: Sequence[LinearLayer], block: int = 2) -> list[LinearLayer]:
    """Compose every b consecutive linear layers to one.

    Args:
        layers: layers from input to output; their number is a multiple of b.
        block: b.

    Returns:
        One `LinearLayer` for every b layers.

    Raises:
        ValueError: the number of layers is not a multiple of b.

    Example:
        >>> import numpy as np
        >>> layer = LinearLayer(np.array([[2.0]]), np.array([3.0]), np.array([[1.0]]))
        >>> (both,) = decimate_linear([layer, layer])
        >>> float(both.weight[0, 0]), float(both.noise_cov[0, 0]), float(both.bias[0])
        (4.0, 5.0, 9.0)
    """
    require_block(block)
    require(
        len(layers) > 0 and len(layers) % block == 0,
        f"`layers` must hold a multiple of {block} layers; got {len(layers)}. Leave "
        "out some layers, or use another block.",
    )
    groups = [layers[i : i + block] for i in range(0, len(layers), block)]
    return [_compose(group) for group in groups]


def decimate_binary_chain(coupling: float | int, block: int = 2) -> float:
    """Effective coupling of a chain of spins, tanh K' = tanhᵇ K.

    For b = 2 this is K' = ½ ln cosh 2K. K flows to 0 from any finite value: a chain has
    no transition.

    Args:
        coupling: K ≥ 0.
        block: b, layers that become one.

    Returns:
        K'.

    Raises:
        ValueError: K is negative, or b < 1.

    Example:
        >>> import math
        >>> round(math.tanh(decimate_binary_chain(0.7)), 5)
        0.36526
    """
    require_block(block)
    require(
        coupling >= 0,
        f"`coupling` must be at least 0; got {coupling}. Redefine every second spin "
        "with opposite sign first.",
    )
    if coupling > LARGE_COUPLING:
        return coupling - 0.5 * math.log(block)
    return 0.5 * _dual(0.5 * block * _dual(coupling))


def binary_depth_scale(coupling: float | int) -> float:
    """ξ = −1/ln tanh K of a chain of spins, in layers.

    Args:
        coupling: K ≥ 0.

    Returns:
        ξ; infinite at K = 0.

    Raises:
        ValueError: K is negative.

    Example:
        >>> import math
        >>> round(binary_depth_scale(math.atanh(math.exp(-0.5))), 6)
        2.0
    """
    dual = _dual(coupling)
    return math.inf if dual == 0 else 1 / dual


def binary_layer_fixed_point(gain: float | int) -> tuple[float, float]:
    """Magnetisation m* of the layer m' = tanh(K m), and the gradient of the map at m*.

    K = βw is the gain of a mean-field layer of spins, which is critical at K = 1; just
    above it m* ≈ √(3(K − 1)).

    Args:
        gain: K ≥ 0.

    Returns:
        (m*, K (1 − m*²)), with m* = 0 for K ≤ 1.

    Raises:
        ValueError: K is negative.

    Example:
        >>> binary_layer_fixed_point(0.5)
        (0.0, 0.5)
    """
    require(
        gain >= 0,
        f"`gain` must be at least 0; got {gain}. A negative gain only flips the units.",
    )
    if gain <= 1:
        return 0.0, float(gain)
    # tanh(Km) > m at m = √(K − 1)/K for every K > 1, and < m at 1.
    low = 0.5 * math.sqrt(gain - 1) / gain
    m = bracketed_root(lambda m: math.tanh(gain * m) - m, low, 1.0)
    return m, float(gain * (1 - m * m))


def _dual(x: float | int) -> float:
    """−ln tanh x, accurate for small and large x; ½ (−ln tanh(x/2)) is its inverse.

    The decimation of a chain multiplies the dual coupling −ln tanh K by b.
    """
    if x == 0:
        return math.inf
    return -math.log(math.tanh(x)) if x < 1 else 2 * math.atanh(math.exp(-2 * x))


def _compose(group: Sequence[LinearLayer]) -> LinearLayer:
    result = group[0]
    for layer in group[1:]:
        w = layer.weight
        result = LinearLayer(
            w @ result.weight,
            layer.bias + w @ result.bias,
            layer.noise_cov + w @ result.noise_cov @ w.T,
        )
    return result


def require_block(block: int) -> None:
    """Raise unless a block has at least one layer."""
    require(block >= 1, f"`block` must be at least 1; got {block}. Use 2.")
