r"""Signal propagation through a wide spike-and-slab ensemble, and its critical line.

The parameters (π, m, Ξ) of the weights of a layer with fan-in N are independent draws,
with E m = 0. The second moment of the weights is the sum of a part due to their means,
which is the same for all inputs, and a part due to their noise:

    σ_w² = N E[(1 − π)(Ξ + m²)] = σ_μ² + σ_V²,   σ_μ² = N E μ²,   σ_V² = N E V
    μ = (1 − π) m,   V = (1 − π)(Ξ + π m²)

All three readings have a length map q' = σ² E φ(√q z)² + σ_b². They differ in which
variance is σ² there, in the correlation of two inputs, and in the gradient.

| reading | length | correlation of two inputs        | gradient χ           |
|---------|--------|----------------------------------|----------------------|
| drawn   | σ_w²   | σ_w²: one sub-network for both   | σ_w² E φ'(√q* z)²    |
| sampled | σ_w²   | σ_μ²: fresh ε for every input    | σ_μ² E φ'(√q* z)²    |
| mean    | σ_μ²   | σ_μ²                             | σ_μ² E φ'(√q* z)²    |

The sampled reading (z = G + εΔ, ε drawn for every unit and example) has σ_μ² in its
gradient, because ∂z_i/∂a_k = μ_ik + ε_i V_ik a_k/Δ_i. The mean square of the second
term, V² a²/Δ², is smaller than V by a factor of order N, because Δ² is a sum of N terms
V a².

There are two consequences. If σ_V² > 0, identical inputs do not stay identical: c* < 1.
And with σ_V² > 0, the signal and the gradient of a ReLU ensemble cannot both be
stationary: the signal needs σ_w² = 2, the gradient σ_μ² = 2. At the critical point of
the signal, gradients of the sampled reading therefore shrink by σ_μ²/σ_w² per layer.
This is a disadvantage of slab noise at initialisation, and the reason to start with Ξ ≪
m².

All of this is this project's derivation; the maps of ordinary weights are those of
arXiv:1606.05340 and arXiv:1611.01232.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.checks import require, require_in_range
from meanfield.physics.roots import bracketed_root
from meanfield.spikeslab import is_spike_slab

from .activations import Activation, find_activation
from .fixed_points import (
    FixedPoint,
    critical_weight_var,
    depth_scale,
    fixed_correlation,
    fixed_point,
    length_and_gradient,
)

READINGS = ("drawn", "sampled", "mean")


@dataclass(frozen=True)
class WeightVariances:
    """Second moments of a layer's weights, times its fan-in N.

    Args:
        shared: σ_μ² = N E μ², of the mean weights.
        fresh: σ_V² = N E V, of the noise around the means; 0 for ordinary weights.
    """

    shared: float
    fresh: float = 0.0

    @property
    def total(self) -> float:
        """σ_w² = σ_μ² + σ_V² = N E[(1 − π)(Ξ + m²)]."""
        return self.shared + self.fresh


def weight_variances(weight: Any, num_inputs: int) -> WeightVariances:
    """Measured σ_μ² and σ_V² of a `SpikeSlab` or of plain weights.

    Args:
        weight: a `SpikeSlab`, or an array (then σ_V² = 0).
        num_inputs: N, the fan-in.

    Returns:
        `WeightVariances`: (σ_μ², σ_V²).

    Example:
        >>> import meanfield as mf
        >>> weight_variances(mf.SpikeSlab([0.5, 0.5], [2.0, -2.0], [0.0, 0.0]), 1)
        WeightVariances(shared=1.0, fresh=1.0)
    """
    if is_spike_slab(weight):
        mean, var = np.asarray(weight.mean, float), np.asarray(weight.var, float)
        return WeightVariances(
            float(num_inputs * np.mean(np.square(mean))),
            float(num_inputs * np.mean(var)),
        )
    values = np.asarray(weight).astype(np.float64)
    return WeightVariances(float(num_inputs * np.mean(np.square(values))))


def slab_variances(
    spike_prob: float | int, slab_mean_var: float | int, slab_var: float | int
) -> WeightVariances:
    """σ_μ² and σ_V² of a layer whose connections all have one π and one Ξ.

    σ_μ² = (1 − π)² σ_m²,   σ_V² = (1 − π)(N Ξ + π σ_m²).

    Args:
        spike_prob: π in [0, 1].
        slab_mean_var: σ_m² = N E m² ≥ 0.
        slab_var: N Ξ ≥ 0, the slab's variance times the fan-in.

    Returns:
        `WeightVariances`: (σ_μ², σ_V²).

    Raises:
        ValueError: π is outside [0, 1], or a variance is negative.

    Example:
        >>> slab_variances(0.5, 4.0, 0.0)
        WeightVariances(shared=1.0, fresh=1.0)
    """
    require_in_range("spike_prob", spike_prob, 0.0, 1.0, "It is a probability.")
    require_in_range("slab_mean_var", slab_mean_var, 0.0, math.inf, "It is N E m².")
    require_in_range("slab_var", slab_var, 0.0, math.inf, "It is N times a variance.")
    present = 1 - spike_prob
    return WeightVariances(
        float(present**2 * slab_mean_var),
        float(present * (slab_var + spike_prob * slab_mean_var)),
    )


def ensemble_fixed_point(
    variances: WeightVariances,
    bias_var: float | int,
    activation: str | Activation = "tanh",
    reading: str = "sampled",
) -> FixedPoint:
    """Fixed point of an ensemble's maps under one reading.

    Args:
        variances: σ_μ² and σ_V².
        bias_var: σ_b².
        activation: φ.
        reading: "drawn", "sampled" or "mean", as in the module's table.

    Returns:
        A `FixedPoint` whose `gradient` is χ of the table. In the sampled reading,
        `correlation` is the limit of the correlation of two inputs, below 1 if there is
        noise, and `depth_scale` the number of layers over which this limit is
        approached.

    Raises:
        ValueError: an unknown reading, or a negative variance.

    Example:
        >>> point = ensemble_fixed_point(slab_variances(0.0, 1.5, 0.3), 0.05)
        >>> point.phase, point.correlation < 1
        ('ordered', True)
    """
    _require_reading(reading)
    phi = find_activation(activation)
    if reading != "sampled" or variances.fresh == 0:
        total = variances.shared if reading == "mean" else variances.total
        return fixed_point(total, bias_var, phi)
    q, drawn_gradient = length_and_gradient(variances.total, bias_var, phi)
    if drawn_gradient is None:
        return FixedPoint(q, None, None, None, "unbounded")
    gradient = drawn_gradient * variances.shared / variances.total
    phase = "critical" if abs(gradient - 1) < 1e-9 else "ordered"
    phase = "chaotic" if gradient > 1 + 1e-9 else phase
    if q is None or not 0 < q < math.inf:
        return FixedPoint(q, gradient, None, None, phase)
    c = fixed_correlation(q, variances.shared, bias_var, phi)
    scale = depth_scale(variances.shared * phi.derivative_product(q, c))
    return FixedPoint(q, gradient, scale, c, phase)


def critical_slab_mean_var(
    spike_prob: float | int,
    slab_var: float | int,
    bias_var: float | int,
    activation: str | Activation = "tanh",
    reading: str = "drawn",
) -> float:
    """σ_m² = N E m² of an ensemble on its critical line, χ = 1.

    | reading | σ_m²                                                             |
    |---------|------------------------------------------------------------------|
    | drawn   | σ_c²/(1 − π) − N Ξ, with σ_c² the critical σ_w² of the activation |
    | mean    | σ_c²/(1 − π)²                                                    |
    | sampled | root of (1 − π)² σ_m² E φ'(√q* z)² = 1, with q* of the total σ_w² |

    Args:
        spike_prob: π in [0, 1).
        slab_var: N Ξ ≥ 0.
        bias_var: σ_b².
        activation: φ.
        reading: "drawn" makes sub-networks critical, "sampled" the gradient of
            training, "mean" the network of means.

    Returns:
        σ_m².

    Raises:
        ValueError: π = 1, a slab so wide that its noise alone exceeds the critical
            value, or an unknown reading.

    Example:
        >>> critical_slab_mean_var(0.5, 1.0, 0.0, "relu")
        3.0
    """
    _require_reading(reading)
    require(
        0 <= spike_prob < 1,
        f"`spike_prob` must lie in [0, 1); got {spike_prob}. At 1 every connection is "
        "absent and nothing propagates.",
    )
    present = 1 - spike_prob
    phi = find_activation(activation)
    if reading == "mean":
        return critical_weight_var(bias_var, phi) / present**2
    if reading == "drawn":
        wanted = critical_weight_var(bias_var, phi) / present - slab_var
        require(
            wanted >= 0,
            f"`slab_var` must be at most {wanted + slab_var:.4g} for a critical line "
            f"to exist; got {slab_var}. Use narrower slabs.",
        )
        return wanted

    def excess(slab_mean_var: float) -> float:
        variances = slab_variances(spike_prob, slab_mean_var, slab_var)
        if variances.total == 0:
            return -1.0
        gradient = length_and_gradient(variances.total, bias_var, phi)[1] or 0.0
        return gradient * variances.shared / variances.total - 1

    upper = 1.0
    while excess(upper) < 0:
        upper *= 2
        require(
            upper < 1e6,
            "`slab_var` must allow a gradient of χ = 1; no σ_m² below 1e6 gives it "
            f"for {slab_var}. Use narrower slabs.",
        )
    return bracketed_root(excess, 0.0, upper)


def _require_reading(reading: str) -> None:
    require(
        reading in READINGS,
        f"`reading` must be one of {READINGS}; got {reading!r}. Use 'sampled' for the "
        "network that trains, 'drawn' for sub-networks.",
    )
