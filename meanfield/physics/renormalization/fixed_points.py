r"""Fixed points of a wide layer, its order-to-chaos transition, and its depth scale.

    q* = σ_w² E φ(√q* z)² + σ_b²,    χ₁ = σ_w² E φ'(√q* z)²,    ξ = −1/ln χ

The transition is χ₁ = 1. Near it ξ diverges as |δσ_w²|^{−ν} with ν = 1. All roots are
found by bracketing, because iterating the maps is arbitrarily slow at the transition.

References:
    Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from meanfield.checks import require
from meanfield.physics.roots import bracketed_root

from .activations import Activation, find_activation
from .meanfield_map import correlation_map, length_map

LARGEST_LENGTH = 1e12
CRITICAL_BAND = 1e-9
NEAR_CRITICAL = 1e-6


@dataclass(frozen=True)
class FixedPoint:
    """Fixed point of the length map, and quantities at it.

    Args:
        length: q*; infinite if lengths grow without bound, `None` if every length is a
            fixed point.
        gradient: χ₁ at q*; `None` if q* is infinite and χ₁ depends on it.
        depth_scale: ξ in layers: −1/ln χ₁ in the ordered phase, −1/ln of the gradient
            at the fixed point of the correlation in the chaotic phase; infinite at the
            transition.
        correlation: c*, the limit of the correlation of two different inputs; `None` if
            lengths go to 0, grow without bound, or are all fixed points.
        phase: "ordered", "critical", "chaotic", or "unbounded" if lengths grow without
            bound and χ₁ has no limit.
    """

    length: float | None
    gradient: float | None
    depth_scale: float | None
    correlation: float | None
    phase: str


def fixed_length(
    weight_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
) -> float | None:
    """q* = σ_w² E φ(√q* z)² + σ_b²: the stable solution, by bracketing.

    Unlike iteration of the map, bracketing is not slow at the transition.

    Returns:
        q*; infinity if lengths grow without bound; `None` if the map is the identity,
        so that every length is a fixed point.

    Raises:
        ValueError: a variance is negative or not finite.

    Example:
        >>> round(fixed_length(1.76095, 0.05), 5)
        0.57005
    """
    _require_variance("weight_var", weight_var)
    _require_variance("bias_var", bias_var)
    phi = find_activation(activation)

    def excess(q: float) -> float:
        return length_map(q, weight_var, bias_var, phi) - q

    # Below this q the map is linear, and its gradient at 0 decides whether q* is 0.
    small = 1e-9
    grows = excess(small)
    if bias_var == 0 and abs(grows) < 1e-9 * small:
        return _marginal_length(excess)
    if grows <= 0:
        return 0.0 if bias_var == 0 else bracketed_root(excess, 0.0, small)
    upper = max(1.0, 2 * bias_var)
    while excess(upper) > 0:
        upper *= 2
        if upper > LARGEST_LENGTH:
            return math.inf
    return bracketed_root(excess, small, upper)


def fixed_point(
    weight_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
) -> FixedPoint:
    """Fixed point of both maps, gradient, depth scale and phase.

    Args:
        weight_var: σ_w².
        bias_var: σ_b².
        activation: φ.

    Returns:
        A `FixedPoint`: q*, c*, χ₁, ξ and the phase.

    Raises:
        ValueError: a variance is negative or not finite.

    Example:
        >>> fixed_point(1.5, 0.05).phase
        'ordered'
    """
    phi = find_activation(activation)
    q, gradient = length_and_gradient(weight_var, bias_var, phi)
    rest = None if q is None or math.isinf(q) else q
    if gradient is None:
        return FixedPoint(q, None, None, None, "unbounded")
    if abs(gradient - 1) < CRITICAL_BAND:
        return FixedPoint(q, gradient, math.inf, 1.0 if q else None, "critical")
    if gradient < 1:
        return FixedPoint(
            q, gradient, depth_scale(gradient), 1.0 if q else None, "ordered"
        )
    if not rest:
        return FixedPoint(q, gradient, None, None, "chaotic")
    c = fixed_correlation(rest, weight_var, bias_var, phi)
    # Just above the transition, 1 − c* is too small for float64. With ε = 1 − c the map
    # is ε' = χ₁ ε − k ε², which has the gradient 2 − χ₁ at its fixed point.
    near = gradient < 1 + NEAR_CRITICAL
    gradient_there = (
        2 - gradient if near else weight_var * phi.derivative_product(rest, c)
    )
    return FixedPoint(q, gradient, depth_scale(gradient_there), c, "chaotic")


def length_and_gradient(
    weight_var: float | int, bias_var: float | int, phi: Activation
) -> tuple[float | None, float | None]:
    """q* and χ₁ = σ_w² E φ'(√q* z)²; χ₁ is None if it has no value at q*."""
    q = fixed_length(weight_var, bias_var, phi)
    rest = None if q is None or math.isinf(q) else q
    if rest is None and not _is_scale_free(phi):
        return q, None
    return q, weight_var * phi.derivative_moment(1.0 if rest is None else rest)


def fixed_correlation(
    length: float | int,
    shared_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
) -> float:
    """Stable c* = (σ_s² E φ(√q z₁) φ(√q z₂) + σ_b²)/q in [0, 1] at a fixed length q.

    This is the smallest solution, the limit for two different inputs.
    """
    phi = find_activation(activation)

    def excess(c: float) -> float:
        return correlation_map(c, length, shared_var, bias_var, phi) - c

    if excess(0.0) <= 0:
        return 0.0
    # c = 1 is always a fixed point of ordinary weights: search below it.
    below = 1 - 1e-9
    if excess(below) >= 0:
        return 1.0
    return bracketed_root(excess, 0.0, below)


def depth_scale(gradient: float | int) -> float:
    """ξ = −1/ln|χ|, in layers; infinite at |χ| = 1, zero at χ = 0.

    Raises:
        ValueError: |χ| > 1, where differences grow and no depth scale exists.
    """
    size = abs(gradient)
    require(
        size <= 1 + CRITICAL_BAND,
        f"`gradient` must have a magnitude of at most 1; got {gradient}. Use the "
        "gradient at the stable fixed point (see fixed_correlation).",
    )
    if size == 0:
        return 0.0
    return math.inf if size >= 1 else -1 / math.log(size)


def critical_weight_var(
    bias_var: float | int, activation: str | Activation = "tanh"
) -> float:
    """σ_w² at which χ₁ = 1, the transition from order to chaos, by bracketing.

    The length map must be concave (tanh, erf) or linear (ReLU, identity). For a concave
    map and σ_b² = 0, q = 0 becomes unstable at σ_w² = 1/φ'(0)²; for a linear map the
    transition is at 1/E φ'² for every σ_b².

    Args:
        bias_var: σ_b².
        activation: φ.

    Returns:
        The critical σ_w².

    Raises:
        ValueError: σ_b² is negative, or there is no transition below σ_w² = 10⁶ at
            which lengths stay bounded.

    Example:
        >>> round(critical_weight_var(0.05), 4)
        1.761
    """
    _require_variance("bias_var", bias_var)
    phi = find_activation(activation)
    if _is_scale_free(phi):
        return 1 / phi.derivative_moment(1.0)

    at_rest = phi.derivative_moment(0.0)
    if bias_var == 0 and at_rest > 0:
        return 1 / at_rest

    # With σ_w² = 1/E φ'² one equation is left, q = σ_w² E φ² + σ_b². Here it is
    # multiplied by E φ'².
    def excess(q: float) -> float:
        return (q - bias_var) * phi.derivative_moment(q) - phi.second_moment(q)

    upper = 1.0
    while excess(upper) < 0 and upper < LARGEST_LENGTH:
        upper *= 2
    found = bracketed_root(excess, 0.0, upper) if excess(upper) >= 0 else math.inf
    gradient = 0.0 if math.isinf(found) else phi.derivative_moment(found)
    require(
        gradient > 1e-6,
        f"`activation` must have a transition with bounded lengths; got {phi.name!r}, "
        f"which has none below σ_w² = 1e6 at `bias_var` {bias_var}. Use a smaller bias "
        "variance, or an activation that saturates.",
    )
    return 1 / gradient


def _is_scale_free(phi: Activation) -> bool:
    """Whether E φ'² is the same at every length, as for ReLU and the identity."""
    return math.isclose(
        phi.derivative_moment(1.0), phi.derivative_moment(2.0), rel_tol=1e-9
    )


def _marginal_length(excess: Callable[[float], float]) -> float | None:
    """q* if the map has gradient 1 at 0: 0 (concave), infinity, or None (identity)."""
    bend = excess(1.0)
    if abs(bend) < 1e-12:
        return None
    return 0.0 if bend < 0 else math.inf


def _require_variance(name: str, value: float | int) -> None:
    require(
        0 <= value < math.inf,
        f"`{name}` must be a finite number of at least 0; got {value}. It is a "
        "variance.",
    )
