r"""Renormalization in depth: the phase of a network, and its flow.

    (σ_w², σ_b²) of every layer  →  q*, χ₁, ξ and phase  →  the same under b = 2

This module needs only weights: every layer is placed in the phase diagram of wide
layers by its measured variances (`layer_phase`), the layers are compared with each
other (`symmetry`), and their median is followed under decimation (`wide_flow`). If
examples are available, `fitted_decimation` measures the flow without assuming wide
random layers. See also `hamiltonian`, `decimation` and `ensemble_map`.

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
from meanfield.physics.named_weights import is_embedding, named_tensors

from .activations import Activation, find_activation
from .fixed_points import fixed_point
from .layer_phase import (
    CANNOT_TELL,
    LayerPoint,
    describe_gradient,
    find_bias,
    find_layouts,
    gradient_interval,
    judge_gradient,
    outside_theory,
    place_layer,
)
from .symmetry import Symmetry, translational_symmetry
from .wide_flow import WideLayer, wide_flow, wide_layer


@dataclass(frozen=True)
class Renormalization:
    """Result for a whole network.

    Args:
        verdict: "ordered", "critical", "chaotic", "unbounded" or "cannot tell", for the
            layers' median (σ_w², σ_b²), according to `gradient_interval`.
        reason: the reason for the verdict, in words.
        gradient_interval: range of χ₁ with both medians ± two standard errors.
        activation: name of the φ that is assumed.
        layers: position of every layer in the phase diagram, by name.
        symmetry: comparison of the layers with each other.
        flow: (σ_w², σ_b², q*, χ₁, ξ) of the median under repeated decimation by b = 2;
            empty if there is no finite, positive fixed point q*.
    """

    verdict: str
    reason: str
    gradient_interval: tuple[float, float] | None
    activation: str
    layers: dict[str, LayerPoint]
    symmetry: Symmetry
    flow: list[WideLayer]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; infinity becomes "infinite"."""
        return _plain(dataclasses.asdict(self))


def analyze_renormalization(
    weights: Any,
    *,
    key: PRNGKeyArray,
    activation: str | Activation = "relu",
    layout: str = "auto",
    num_steps: int = 8,
) -> Renormalization:
    """Place every layer in the phase diagram, and follow their median under decimation.

    Args:
        weights: a mapping of names to arrays or `SpikeSlab`s (`ensemble.weights()`),
            an open npz file, or any JAX parameter tree, in order of depth. Biases are
            vectors with the name of a bias ("bias", "b") in the same layer as a weight,
            or with the number of a weight ("W1", "b1").
        key: a typed key, for the shuffled nulls.
        activation: φ between the layers, which weights alone do not determine.
        layout: which axes of a weight are its inputs: "out_in" (Equinox, PyTorch),
            "in_out" (Flax, Keras), or "auto": from the lengths of biases and the shapes
            of neighbouring layers if possible, else from the name ("kernel" is
            "in_out").
        num_steps: number of steps of the flow.

    Returns:
        A `Renormalization`. A layer of fewer than 50 weights, of equal weights, or with
        NaN or infinity has the verdict "cannot tell"; so has a network with fewer than
        two other layers.

    Raises:
        ValueError: there are no numeric arrays, or no weight of two or more dimensions.

    Example:
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> net = {f"{i}/weight": 0.1 * rng.normal(size=(99, 99)) for i in range(3)}
        >>> analyze_renormalization(net, key=jax.random.key(0)).verdict
        'ordered'
    """
    phi = find_activation(activation)
    tensors = named_tensors(weights)
    connections = {
        name: weight
        for name, weight in tensors.items()
        if weight.ndim >= 2 and not is_embedding(name)
    }
    require(
        bool(connections),
        "`weights` must hold a weight of two or more dimensions; got "
        f"{list(tensors)}. Pass the parameters of a network.",
    )
    outside = outside_theory(tensors)
    biases = {name: find_bias(name, tensors) for name in connections}
    layouts = find_layouts(connections, tensors, layout)
    layers = {
        name: place_layer(name, weight, biases[name], phi, layouts[name], outside)
        for name, weight in connections.items()
    }
    symmetry = translational_symmetry(connections, key=key, layout=layouts)
    placed = [point for point in layers.values() if point.drawn is not None]
    if len(placed) < 2:
        reason = outside or (
            f"{len(placed)} usable layers: a flow in depth needs two or more."
        )
        return Renormalization(
            CANNOT_TELL, reason, None, phi.name, layers, symmetry, []
        )
    weight_var, weight_error = _median(
        [(p.weight_var, p.weight_var_error) for p in placed]
    )
    bias_var, bias_error = _median([(p.bias_var, p.bias_var_error) for p in placed])
    common = fixed_point(weight_var, bias_var, phi)
    interval = gradient_interval(weight_var, weight_error, bias_var, bias_error, phi)
    flow = []
    if common.length is not None and 0 < common.length < math.inf:
        flow = wide_flow(wide_layer(weight_var, bias_var, phi), phi, num_steps)
    without = sum(bias is None for bias in biases.values())
    note = f" ({without} of {len(biases)} layers have no bias, which counts as 0)"
    reason = (
        f"Median over {len(placed)} layers: σ_w² = {weight_var:.4g} ± "
        f"{weight_error:.2g}, σ_b² = {bias_var:.4g} ± {bias_error:.2g}"
        f"{note if without else ''}; for wide "
        f"random {phi.name} layers {describe_gradient(common, interval)}."
    )
    return Renormalization(
        verdict=judge_gradient(common, interval),
        reason=reason,
        gradient_interval=interval,
        activation=phi.name,
        layers=layers,
        symmetry=symmetry,
        flow=flow,
    )


def _median(pairs: list[tuple[Any, Any]]) -> tuple[float, float]:
    """Median over layers, and its standard error.

    The standard error is the larger of two: that from the spread over layers, and that
    from the layers' own errors. √(π/2) is the ratio of the errors of median and mean.
    """
    values, errors = (np.array(column, float) for column in zip(*pairs, strict=True))
    within = float(np.sqrt(np.mean(np.square(errors))))
    spread = max(float(np.std(values, ddof=1)), within)
    return float(np.median(values)), math.sqrt(math.pi / 2 / values.size) * spread


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "infinite"
    return value
