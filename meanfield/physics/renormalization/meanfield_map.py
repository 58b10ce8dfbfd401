r"""Signal propagation through wide layers: the maps of length and of correlation.

For a layer with fan-in N, weights of variance σ_w²/N and biases of variance σ_b²,

    q'   = σ_w² E φ(√q z)² + σ_b²                       mean square pre-activation
    q c' = σ_s² E φ(√q z₁) φ(√q z₂) + σ_b²              correlation of two inputs
    χ₁   = σ_w² E φ'(√q* z)²                            growth of a small difference

where σ_s² = σ_w² for ordinary weights; it is smaller if part of the weight noise is
drawn independently for every input (see `ensemble_map`). χ₁ < 1 is the ordered phase,
in which all inputs converge, χ₁ > 1 the chaotic phase (see `fixed_points`).

References:
    Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.
"""

import numpy as np
from jaxtyping import Float

from .activations import Activation, find_activation


def length_map(
    length: float | int,
    weight_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
) -> float:
    """Length of the next layer, q' = σ_w² E φ(√q z)² + σ_b².

    Args:
        length: q ≥ 0, mean square pre-activation.
        weight_var: σ_w² = N E w².
        bias_var: σ_b².
        activation: φ, by name or as an `Activation`.

    Example:
        >>> length_map(1.0, 2.0, 0.0, "relu")
        1.0
    """
    return weight_var * find_activation(activation).second_moment(length) + bias_var


def correlation_map(
    correlation: float | int,
    length: float | int,
    shared_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
    next_length: float | int | None = None,
) -> float:
    """Correlation of the next layer, c' = (σ_s² E φ(√q z₁) φ(√q z₂) + σ_b²)/q'.

    Args:
        correlation: c between two inputs of the same length.
        length: q.
        shared_var: σ_s², the part of σ_w² that both inputs share.
        bias_var: σ_b².
        activation: φ.
        next_length: q'; q itself by default, as at the fixed point.
    """
    product = find_activation(activation).product_moment(length, correlation)
    reached = length if next_length is None else next_length
    return (shared_var * product + bias_var) / reached


def trajectory(
    length: float | int,
    correlation: float | int,
    depth: int,
    weight_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
    shared_var: float | int | None = None,
) -> Float[np.ndarray, "depth_plus_one 2"]:
    """Length and correlation of every layer, from those of the first pre-activation.

    Args:
        length: q of layer 0, > 0.
        correlation: c of layer 0, in [−1, 1].
        depth: number of layers.
        weight_var: σ_w².
        bias_var: σ_b².
        activation: φ.
        shared_var: σ_s²; σ_w² by default.

    Returns:
        Rows (q_l, c_l), l = 0 … depth.

    Raises:
        ValueError: an unknown activation.

    Example:
        >>> trajectory(1.0, 0.5, 2, 2.0, 0.0, "relu")[:, 0].tolist()
        [1.0, 1.0, 1.0]
    """
    phi = find_activation(activation)
    shared = weight_var if shared_var is None else shared_var
    rows = [(float(length), float(correlation))]
    for _ in range(depth):
        q, c = rows[-1]
        following = length_map(q, weight_var, bias_var, phi)
        both = correlation_map(c, q, shared, bias_var, phi, following)
        rows.append((following, both))
    return np.array(rows)
