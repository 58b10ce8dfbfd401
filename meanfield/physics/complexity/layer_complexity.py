"""Results for one layer and for a network: complexity, dimension and a verdict."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from .dimension import EffectiveDimension
from .entropy import unit_entropies
from .joint_entropy import JointEntropy

Verdict = Literal["measured", "few examples", "cannot tell"]
# With fewer examples than this, a fraction of ½ has a standard error above 7 %.
MIN_EXAMPLES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class LayerComplexity:
    """One layer: complexity in bits, dimension of its features, and a verdict.

    Args:
        layer: name of the layer.
        verdict: "measured"; "few examples" (fewer than 10 per unit: the joint entropy
            is biased, and the dimension is biased low); or "cannot tell".
        reason: why the verdict is not "measured"; empty if it is.
        num_units: number of units (channels of a convolution).
        num_examples: N.
        always_on: number of units on for every example (affine on these data).
        always_off: number of units off for every example (dead on these data).
        unit_bits: plug-in estimate of c_i for every unit, in bits.
        marginal: Σ c_i with the Miller–Madow correction, in bits; None for fewer than
            50 examples.
        joint: the joint entropy, or None.
        dimension: dimension of the features, or None.
    """

    layer: str
    verdict: Verdict
    reason: str
    num_units: int
    num_examples: int
    always_on: int
    always_off: int
    unit_bits: Float64[np.ndarray, " units"]
    marginal: float | None
    joint: JointEntropy | None
    dimension: EffectiveDimension | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `unit_bits` as a list."""
        plain = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        plain["unit_bits"] = self.unit_bits.tolist()
        for part in ("joint", "dimension"):
            plain[part] = None if plain[part] is None else plain[part].to_dict()
        return plain


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkComplexity:
    """All layers of a network on one data set.

    Args:
        data: name of the data on which the network was evaluated.
        layers: the layers in forward order.
    """

    data: str
    layers: tuple[LayerComplexity, ...]

    @property
    def marginal(self) -> float | None:
        """Sum of the layers' marginal complexities, in bits."""
        return _sum(layer.marginal for layer in self.layers)

    @property
    def joint(self) -> float | None:
        """Sum of the layers' joint entropies, in bits; None if one is unknown."""
        return _sum(layer.joint and layer.joint.bits for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "data": self.data,
            "marginal": self.marginal,
            "joint": self.joint,
            "layers": {layer.layer: layer.to_dict() for layer in self.layers},
        }


# The quantities of a layer by name, and functions that return them.
LAYER_NUMBERS: dict[str, Callable[[LayerComplexity], float | None]] = {
    "marginal": lambda layer: layer.marginal,
    "joint": lambda layer: layer.joint and layer.joint.bits,
    "dimension": lambda layer: layer.dimension and layer.dimension.dimension,
    "participation": lambda layer: layer.dimension and layer.dimension.participation,
    "always_on": lambda layer: float(layer.always_on),
    "always_off": lambda layer: float(layer.always_off),
}


def judge_layer(
    name: str,
    states: Bool[np.ndarray, "examples units"],
    joint: JointEntropy | None,
    dimension: EffectiveDimension | None,
    reason: str,
) -> LayerComplexity:
    """One layer's result, with its verdict.

    Args:
        name: name of the layer.
        states: True for units that were on.
        joint: the joint entropy, if it was estimated.
        dimension: the effective dimension of the features, if they vary.
        reason: reason why neither can be estimated (`too_few_examples`); empty if both
            can.
    """
    num_examples, num_units = states.shape
    bits, marginal = unit_entropies(states)
    verdict: Verdict = "measured"
    if reason:
        verdict = "cannot tell"
    elif dimension is None:
        verdict = "cannot tell"
        reason = "the features never vary: they have no dimension"
    elif num_examples < 10 * num_units:
        verdict = "few examples"
        reason = f"{num_examples} examples are fewer than 10 per unit"
    return LayerComplexity(
        layer=name,
        verdict=verdict,
        reason=reason,
        num_units=num_units,
        num_examples=num_examples,
        always_on=int(states.all(axis=0).sum()),
        always_off=int((~states).all(axis=0).sum()),
        unit_bits=bits,
        marginal=None if num_examples < MIN_EXAMPLES else marginal,
        joint=joint,
        dimension=dimension,
    )


def too_few_examples(num_examples: int, num_units: int) -> str:
    """The reason why there are too few examples; empty if there are enough."""
    if num_examples < MIN_EXAMPLES:
        return (
            f"{num_examples} examples are too few: at least {MIN_EXAMPLES} are needed"
        )
    if num_examples < num_units:
        return (
            f"{num_examples} examples are fewer than the {num_units} units: joint "
            "entropy and dimension would measure the sample"
        )
    return ""


def _sum(values: Any) -> float | None:
    listed = list(values)
    return None if any(value is None for value in listed) else float(sum(listed))
