r"""Renormalization in depth: where a network stands, and where it flows.

    (σ_w², σ_b²) of every layer  →  q*, χ₁, ξ and phase  →  the same under b = 2

This module reads weights alone, as from a file: every layer is placed in the phase
diagram of wide layers with its own measured variances, the layers are compared with
each other (`symmetry`), and their common point is followed under decimation
(`wide_flow`). With examples at hand, `fitted_decimation.decimate_network` measures the
flow instead of assuming wide random layers. The pieces: `hamiltonian`, `decimation`,
`wide_flow`, `ensemble_map`.

Theory of wide random layers, arXiv:1606.05340 and arXiv:1611.01232; the decimation is
this project's own construction, in the spirit of arXiv:2410.00396.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.spikeslab import is_spike_slab

from .activations import Activation, find_activation
from .ensemble_map import WeightVariances, ensemble_fixed_point, weight_variances
from .fixed_points import FixedPoint
from .symmetry import Symmetry, translational_symmetry
from .tensors import fan_in, named_tensors, parent_name
from .wide_flow import WideLayer, wide_flow, wide_layer

MIN_WEIGHTS = 50
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class LayerPoint:
    """Place of one layer in the phase diagram; `None` where nothing can be said.

    Args:
        verdict: "ordered", "critical", "chaotic", "unbounded" or "cannot tell".
        reason: why, in words.
        num_inputs: N, the fan-in.
        weight_var: σ_w² = N E w² (of a drawn network, for an ensemble).
        weight_var_error: its standard error.
        shared_var: σ_μ² = N E μ²; σ_w² itself for plain weights.
        bias_var: σ_b² = E b², 0 without a bias.
        drawn: fixed point of drawn sub-networks, or of plain weights.
        sampled: fixed point of the sampled reading, for ensembles only.
    """

    verdict: str
    reason: str
    num_inputs: int
    weight_var: float | None = None
    weight_var_error: float | None = None
    shared_var: float | None = None
    bias_var: float | None = None
    drawn: FixedPoint | None = None
    sampled: FixedPoint | None = None


@dataclass(frozen=True)
class Renormalization:
    """Reading of a whole network.

    Args:
        verdict: "ordered", "critical", "chaotic", "unbounded" or "cannot tell", for
            the hidden layers' median (σ_w², σ_b²).
        reason: why, in words.
        activation: name of the φ assumed.
        layers: place of every layer by name.
        symmetry: are the layers alike?
        flow: (σ_w², σ_b², q*, χ₁, ξ) under b = 2, empty where there is no finite,
            positive fixed length.
    """

    verdict: str
    reason: str
    activation: str
    layers: dict[str, LayerPoint]
    symmetry: Symmetry
    flow: list[WideLayer]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON; infinity becomes the word."""
        return _plain(dataclasses.asdict(self))


def analyze_renormalization(
    weights: Any,
    *,
    key: PRNGKeyArray,
    activation: str | Activation = "relu",
    layout: str = "auto",
    num_steps: int = 8,
) -> Renormalization:
    """Place every layer in the phase diagram and follow the network under b = 2.

    Args:
        weights: a mapping of names to arrays or `SpikeSlab`s (`ensemble.weights()`),
            an open npz file, or any JAX parameter tree, in order of depth. Biases are
            the vectors named like a weight's bias, beside it.
        key: a typed key, for the shuffled nulls.
        activation: φ between the layers; weights alone do not tell it.
        layout: where the inputs of a weight lie, as in `tensors.fan_in`.
        num_steps: steps of the flow.

    Returns:
        A `Renormalization`. A network of one layer, and layers of fewer than 50
        weights, one value, zeros or NaN, get the verdict "cannot tell".

    Raises:
        ValueError: nothing numeric inside, or no weight of two or more dimensions.

    Example:
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> net = {f"{i}/weight": 0.1 * rng.normal(size=(99, 99)) for i in range(3)}
        >>> analyze_renormalization(net, key=jax.random.key(0)).verdict
        'ordered'
    """
    phi = find_activation(activation)
    tensors = named_tensors(weights)
    connections = {n: w for n, w in tensors.items() if w.ndim >= 2 and "embed" not in n}
    require(
        bool(connections),
        "`weights` must hold a weight of two or more dimensions; got "
        f"{list(tensors)}. Pass the parameters of a network.",
    )
    layers = {
        name: _place(name, weight, _bias(name, tensors), phi, layout)
        for name, weight in connections.items()
    }
    means = {
        name: np.asarray(weight.mean if is_spike_slab(weight) else weight)
        for name, weight in connections.items()
    }
    symmetry = translational_symmetry(means, key=key, layout=layout)
    placed = [point for point in layers.values() if point.drawn is not None]
    if len(placed) < 2:
        reason = f"{len(placed)} usable layers: a flow in depth needs two or more."
        return Renormalization(CANNOT_TELL, reason, phi.name, layers, symmetry, [])
    weight_var = float(np.median([point.weight_var for point in placed]))
    bias_var = float(np.median([point.bias_var for point in placed]))
    common = ensemble_fixed_point(WeightVariances(weight_var), bias_var, phi)
    flow = []
    if common.length is not None and 0 < common.length < math.inf:
        flow = wide_flow(wide_layer(weight_var, bias_var, phi), phi, num_steps)
    reason = (
        f"Median over {len(placed)} layers: σ_w² = {weight_var:.4g}, σ_b² = "
        f"{bias_var:.4g}; for wide random {phi.name} layers χ₁ = {_show(common.slope)}"
        f", ξ = {_show(common.depth_scale)} layers."
    )
    return Renormalization(common.phase, reason, phi.name, layers, symmetry, flow)


def _place(
    name: str, weight: Any, bias: Any, phi: Activation, layout: str
) -> LayerPoint:
    inputs = fan_in(name, weight.shape, layout)
    moments = weight_variances(weight, inputs)
    bias_var = 0.0
    if bias is not None:
        bias_var = float(np.mean(np.square(np.asarray(bias).astype(np.float64))))
    refusal = _refusal(weight, moments, bias_var)
    if refusal is not None:
        return LayerPoint(CANNOT_TELL, refusal, inputs)
    drawn = ensemble_fixed_point(moments, bias_var, phi, "drawn")
    sampled = None
    if is_spike_slab(weight):
        sampled = ensemble_fixed_point(moments, bias_var, phi, "sampled")
    error = _standard_error(weight, inputs)
    return LayerPoint(
        verdict=drawn.phase,
        reason=f"σ_w² = {moments.total:.4g} ± {error:.2g}, χ₁ = {_show(drawn.slope)}.",
        num_inputs=inputs,
        weight_var=moments.total,
        weight_var_error=error,
        shared_var=moments.shared,
        bias_var=bias_var,
        drawn=drawn,
        sampled=sampled,
    )


def _refusal(weight: Any, moments: WeightVariances, bias_var: float) -> str | None:
    if weight.size < MIN_WEIGHTS:
        return f"Only {weight.size} weights; {MIN_WEIGHTS} are the least we judge."
    if not math.isfinite(moments.total + bias_var):
        return "The weights or biases hold NaN or infinity."
    if moments.total == 0:
        return "All weights are exactly zero."
    values = np.asarray(weight.mean if is_spike_slab(weight) else weight)
    if moments.fresh == 0 and np.ptp(values) == 0:
        return f"All weights have one value, {float(values.flat[0]):.4g}."
    return None


def _standard_error(weight: Any, inputs: int) -> float:
    """Standard error of N times the mean second moment, over connections."""
    if is_spike_slab(weight):
        second = np.square(np.asarray(weight.mean, float)) + np.asarray(weight.var)
    else:
        second = np.square(np.asarray(weight).astype(np.float64))
    return float(inputs * np.std(second) / math.sqrt(second.size))


def _bias(name: str, tensors: dict[str, Any]) -> Any:
    """The bias beside a weight: a vector of its layer with "bias" in its last name."""
    parent = parent_name(name)
    for other, value in tensors.items():
        last = other[len(parent) :].lower()
        if other != name and parent_name(other) == parent and "bias" in last:
            return value if value.ndim == 1 and not is_spike_slab(value) else None
    return None


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "infinite"
    return value
