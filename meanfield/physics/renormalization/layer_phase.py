r"""Position of one layer in the phase diagram of wide layers, with its uncertainty.

A verdict accounts for the sampling error by the interval of χ₁ within two standard
errors of σ_w² and σ_b². It is "ordered" or "chaotic" if the interval lies on one side
of 1. Otherwise it is "critical" if the interval is narrower than 0.2, else "cannot
tell". It is also "cannot tell" for networks with normalisation, recurrence or
attention, because the maps are those of plain layers. Recurrence and attention are
recognised by words in the path of a tensor, and normalisation by such a word, or the
name of a running statistic, in a layer without a matrix. (Skip connections cannot be
recognised by the names of weights.)
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.ensemble.fan_ins import fan_in
from meanfield.physics.named_weights import name_words, parent_name
from meanfield.spikeslab import is_spike_slab

from .activations import Activation
from .ensemble_map import WeightVariances, ensemble_fixed_point, weight_variances
from .fixed_points import FixedPoint, fixed_point

MIN_WEIGHTS = 50
CRITICAL_WIDTH = 0.2
ROUNDING = 1e-9
# Words in the paths of tensors that indicate networks outside the theory of plain
# layers.
OUTSIDE_THEORY = {
    "recurrent": r"(bi|conv|simple|char)?(rnn|lstm|gru)(lm|cell)?|hh",
    "an attention network": r"(self|cross|multihead)?(attn|attention|attentions|mha)",
}
NORMALISATION = (
    r"(batch|layer|group|instance|rms|re)*(norms?|normali[sz]ation)|bn|ln|gn"
)
# Last names of statistics of data, which only normalisation layers have.
STATISTICS = (
    "running_mean",
    "running_var",
    "moving_mean",
    "moving_var",
    "moving_variance",
    "num_batches_tracked",
)
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class LayerPoint:
    """Position of one layer in the phase diagram; undefined numbers are `None`.

    Args:
        verdict: "ordered", "critical", "chaotic", "unbounded" or "cannot tell",
            according to `gradient_interval`.
        reason: the reason for the verdict, in words.
        num_inputs: N, the fan-in.
        weight_var: σ_w² = N E w² (for an ensemble, that of drawn networks).
        weight_var_error: standard error of σ_w².
        shared_var: σ_μ² = N E μ²; equal to σ_w² for plain weights.
        bias_var: σ_b² = E b², 0 without a bias.
        bias_var_error: standard error of σ_b².
        gradient_interval: range of χ₁ with σ_w² and σ_b² ± two standard errors.
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
    bias_var_error: float | None = None
    gradient_interval: tuple[float, float] | None = None
    drawn: FixedPoint | None = None
    sampled: FixedPoint | None = None


def outside_theory(tensors: dict[str, Any]) -> str | None:
    """Why the maps of plain dense and convolutional layers do not apply, or None.

    Args:
        tensors: all tensors of the network by name.
    """
    matrices = {_layer_of(name) for name in tensors if _is_matrix(tensors[name])}
    for name, tensor in tensors.items():
        kinds = [kind for kind, word in OUTSIDE_THEORY.items() if _says(name, word)]
        if not _is_matrix(tensor) and _layer_of(name) not in matrices:
            own = [
                part for part in re.split(r"[/.]", name) if re.search("[a-zA-Z]", part)
            ]
            if _says(" ".join(own[-2:]), NORMALISATION) or own[-1] in STATISTICS:
                kinds = ["normalised"]
        if kinds:
            return (
                f"The network is {kinds[0]} ({name!r}): its signals do not follow the "
                "maps of plain layers, whatever σ_w² is."
            )
    return None


def _says(name: str, pattern: str) -> bool:
    return any(re.fullmatch(pattern, word) for word in name_words(name))


def _layer_of(name: str) -> str:
    """Path of a tensor's layer; for a name without slashes, all but its last word."""
    return parent_name(name) or name.rpartition("_")[0]


def _is_matrix(tensor: Any) -> bool:
    """Whether a tensor has two or more dimensions of length above one."""
    return sum(length > 1 for length in tensor.shape) >= 2


def place_layer(
    name: str,
    weight: Any,
    bias: Any,
    phi: Activation,
    layout: str,
    outside: str | None = None,
) -> LayerPoint:
    """Find the position of one layer from its measured variances.

    Args:
        name: path of its weight.
        weight: a `SpikeSlab` or an array of two or more dimensions.
        bias: the bias vector of the layer, or None.
        phi: activation φ.
        layout: which axes of a weight are its inputs, as in `fan_in`.
        outside: the reason if the theory does not apply; then there is no fixed point.
    """
    inputs = fan_in(name, weight.shape, layout)
    moments = weight_variances(weight, inputs)
    bias_var, bias_error = 0.0, 0.0
    if bias is not None:
        squares = np.square(np.asarray(bias).astype(np.float64))
        bias_var = float(np.mean(squares))
        bias_error = float(np.std(squares) / math.sqrt(squares.size))
    refusal = _refusal(weight, moments, bias_var)
    if refusal is not None:
        return LayerPoint(CANNOT_TELL, refusal, inputs)
    error = _standard_error(weight, inputs)
    if outside is not None:
        return LayerPoint(
            CANNOT_TELL,
            outside,
            inputs,
            weight_var=moments.total,
            weight_var_error=error,
            shared_var=moments.shared,
            bias_var=bias_var,
            bias_var_error=bias_error,
        )
    drawn = ensemble_fixed_point(moments, bias_var, phi, "drawn")
    sampled = None
    if is_spike_slab(weight):
        sampled = ensemble_fixed_point(moments, bias_var, phi, "sampled")
    interval = gradient_interval(moments.total, error, bias_var, bias_error, phi)
    where = describe_gradient(drawn, interval)
    return LayerPoint(
        verdict=judge_gradient(drawn, interval),
        reason=f"σ_w² = {moments.total:.4g} ± {error:.2g}, {where}.",
        num_inputs=inputs,
        weight_var=moments.total,
        weight_var_error=error,
        shared_var=moments.shared,
        bias_var=bias_var,
        bias_var_error=bias_error,
        gradient_interval=interval,
        drawn=drawn,
        sampled=sampled,
    )


def _refusal(weight: Any, moments: WeightVariances, bias_var: float) -> str | None:
    if weight.size < MIN_WEIGHTS:
        return f"Only {weight.size} weights; a verdict needs {MIN_WEIGHTS} or more."
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


def find_bias(name: str, tensors: dict[str, Any]) -> Any:
    """The bias of a weight's layer: a vector with "bias" in its last name, or "b".

    If the last names are numbered (W1, b1, W2, b2), the numbers must agree.
    """
    parent = parent_name(name)
    for other, value in tensors.items():
        last = other[len(parent) :].lower().strip("/._")
        named = "bias" in last or last.rstrip("0123456789").rstrip("_") == "b"
        alike = parent_name(other) == parent and _number(other) == _number(name)
        if other != name and alike and named:
            return value if value.ndim == 1 and not is_spike_slab(value) else None
    return None


def find_layouts(
    connections: Mapping[str, Any], tensors: dict[str, Any], layout: str = "auto"
) -> dict[str, str]:
    """The layout of each weight, from shapes if possible, else from its name.

    The length of a bias is the number of outputs of its layer, and the outputs of one
    matrix are the inputs of the next.

    Args:
        connections: weights by path, in order of depth.
        tensors: all tensors of the network, including biases.
        layout: as for `fan_in`; any but "auto" is kept.
    """
    if layout != "auto":
        return dict.fromkeys(connections, layout)
    shapes = [weight.shape for weight in connections.values() if weight.ndim == 2]
    pairs = list(itertools.pairwise(shapes))
    onwards = bool(pairs) and all(a[1] == b[0] for a, b in pairs)
    back = all(a[0] == b[1] for a, b in pairs)
    found = {}
    for name, weight in connections.items():
        bias, (first, *_, last) = find_bias(name, tensors), weight.shape
        found[name] = "in_out" if onwards and not back and weight.ndim == 2 else layout
        if bias is not None and first != last and bias.size in (first, last):
            found[name] = "in_out" if bias.size == last else "out_in"
    return found


def _number(name: str) -> str:
    """The digits at the end of a path."""
    return name[len(name.rstrip("0123456789")) :]


def gradient_interval(
    weight_var: float,
    weight_error: float,
    bias_var: float,
    bias_error: float,
    phi: Activation,
) -> tuple[float, float] | None:
    """Range of χ₁ (rising with σ_w², falling with σ_b²) within two standard errors."""
    low = fixed_point(
        max(weight_var - 2 * weight_error, 0.0), bias_var + 2 * bias_error, phi
    ).gradient
    high = fixed_point(
        weight_var + 2 * weight_error, max(bias_var - 2 * bias_error, 0.0), phi
    ).gradient
    return None if low is None or high is None else (low, high)


def judge_gradient(point: FixedPoint, interval: tuple[float, float] | None) -> str:
    """The phase, by the side of χ₁ = 1 on which the whole interval lies."""
    if point.gradient is None or interval is None:
        return point.phase
    if interval[1] < 1 - ROUNDING:
        return "ordered"
    if interval[0] > 1 + ROUNDING:
        return "chaotic"
    return "critical" if interval[1] - interval[0] <= CRITICAL_WIDTH else CANNOT_TELL


def describe_gradient(point: FixedPoint, interval: tuple[float, float] | None) -> str:
    """χ₁ with its interval, and ξ, in words."""
    if point.gradient is None or interval is None:
        return "lengths grow without bound"
    low, high = interval
    text = f"χ₁ = {point.gradient:.4g} (between {low:.3g} and {high:.3g})"
    scale = point.depth_scale
    return text if scale is None else f"{text}, ξ = {scale:.4g} layers"
