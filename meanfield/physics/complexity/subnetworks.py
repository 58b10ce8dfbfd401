"""Complexity of an ensemble: its sub-networks one by one, and during training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require

from .measure import LayerComplexity, NetworkComplexity, measure_complexity
from .recording import layer_activations

Record = Callable[[Any, Any], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a number over the draws of a posterior.

    Args:
        mean: over the draws that have the number.
        deviation: between them (n − 1 in the denominator).
        num_draws: how many have it.
    """

    mean: float
    deviation: float
    num_draws: int


@dataclasses.dataclass(frozen=True)
class LayerSpread:
    """One layer over the draws; None where fewer than two draws have the number.

    Args:
        layer: its name.
        marginal: Σ c_i in bits.
        joint: joint entropy in bits.
        dimension: effective dimension D.
        participation: participation ratio PR.
        always_on: units that are always on.
        always_off: units that are always off.
    """

    layer: str
    marginal: Spread | None
    joint: Spread | None
    dimension: Spread | None
    participation: Spread | None
    always_on: Spread | None
    always_off: Spread | None


@dataclasses.dataclass(frozen=True)
class ComplexitySpread:
    """Complexity of an ensemble: every layer with its spread over drawn networks.

    Args:
        data: name of the data.
        num_draws: networks drawn.
        layers: in forward order.
    """

    data: str
    num_draws: int
    layers: tuple[LayerSpread, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        layers = {layer.layer: dataclasses.asdict(layer) for layer in self.layers}
        return {"data": self.data, "num_draws": self.num_draws, "layers": layers}


# How each number is read off a layer.
_NUMBERS: dict[str, Callable[[LayerComplexity], float | None]] = {
    "marginal": lambda layer: layer.marginal,
    "joint": lambda layer: layer.joint and layer.joint.bits,
    "dimension": lambda layer: layer.dimension and layer.dimension.dimension,
    "participation": lambda layer: layer.dimension and layer.dimension.participation,
    "always_on": lambda layer: float(layer.always_on),
    "always_off": lambda layer: float(layer.always_off),
}


def complexity_spread(draws: Sequence[NetworkComplexity]) -> ComplexitySpread:
    """Mean and standard deviation of every number over drawn networks.

    Args:
        draws: one `measure_complexity` a network, on the same data with the same key,
            so that only the networks differ.

    Raises:
        ValueError: fewer than two draws, or draws with different layers.
    """
    require(
        len(draws) >= 2,
        f"`draws` must hold at least two networks to have a spread; got {len(draws)}.",
    )
    names = [tuple(layer.layer for layer in draw.layers) for draw in draws]
    require(
        len(set(names)) == 1,
        "`draws` must have the same layers in every network; got "
        f"{sorted(set(names))}.",
    )
    layers = []
    for index, name in enumerate(names[0]):
        same = [draw.layers[index] for draw in draws]
        numbers = {key: _spread(map(read, same)) for key, read in _NUMBERS.items()}
        layers.append(LayerSpread(name, **numbers))
    return ComplexitySpread(draws[0].data, len(draws), tuple(layers))


def sampled_complexity(
    ensemble: Any,
    x: Any,
    *,
    key: PRNGKeyArray,
    num_samples: int = 10,
    record: Record = layer_activations,
    joint: bool = False,
    **options: Any,
) -> ComplexitySpread:
    """Complexity of sub-networks drawn from an ensemble, with the posterior's spread.

    Args:
        ensemble: anything with ``sample(key)`` that returns a network.
        x: examples, of the shape the network takes.
        key: a `jax.random.key`: for the networks, and one for every measurement.
        num_samples: networks to draw, at least two.
        record: ``record(network, x)`` returns {layer name: pre-activations}; the
            default reads an Equinox module.
        joint: whether to estimate joint entropies too (the expensive part).
        **options: `data`, `activation`, `threshold`, … of `measure_complexity`.

    Raises:
        ValueError: fewer than two samples, or activations that cannot be used.
    """
    network_key, measure_key = jax.random.split(key)
    draws = [
        measure_complexity(
            record(ensemble.sample(one), x),
            key=measure_key,
            joint=joint,
            **{"num_shuffles": 0, **options},
        )
        for one in jax.random.split(network_key, num_samples)
    ]
    return complexity_spread(draws)


class ComplexityTrace:
    """A callback of `fit` that measures complexity as training goes on.

    It is called with a state that has `epoch` (int) and `ensemble`, and measures the
    network of posterior means every so many epochs. `steps` and `curve` then go to
    `fit_scaling`. Call `add` instead to follow any other training loop.

    Args:
        x: examples, of the shape the network takes.
        key: a `jax.random.key`, the same for every measurement.
        every: epochs between measurements.
        record: ``record(network, x)`` returns {layer name: pre-activations}; the
            default reads an Equinox module.
        joint: whether to estimate joint entropies too (slow).
        **options: `data`, `activation`, … of `measure_complexity`.

    Attributes:
        steps: when a measurement was made, in the order they came.
        measurements: the `NetworkComplexity` of each.

    Example:
        >>> import jax, numpy as np
        >>> from meanfield.physics.complexity.subnetworks import ComplexityTrace
        >>> trace = ComplexityTrace(None, key=jax.random.key(0))
        >>> rng = np.random.default_rng(0)
        >>> for step in (1, 2, 3):
        ...     trace.add(step, {"layer": rng.normal(size=(100, step))})
        >>> [round(bits, 1) for bits in trace.curve("layer", "marginal")]
        [1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        x: Any,
        *,
        key: PRNGKeyArray,
        every: int = 1,
        record: Record = layer_activations,
        joint: bool = False,
        **options: Any,
    ):
        require(every >= 1, f"`every` must be at least 1 epoch; got {every}.")
        self.x, self.key, self.every = x, key, every
        self.record, self.joint = record, joint
        self.options = {"num_shuffles": 0, **options}  # nulls once are enough
        self.steps: list[int] = []
        self.measurements: list[NetworkComplexity] = []

    def __call__(self, state: Any) -> None:
        """Measure the mean network of `state.ensemble` if the epoch's turn has come."""
        if state.epoch % self.every == 0:
            network = state.ensemble.mean_network()
            self.add(state.epoch, self.record(network, self.x))

    def add(self, step: int, activations: Mapping[str, Any]) -> None:
        """Measure recorded activations and keep the result under a step."""
        measured = measure_complexity(
            activations, key=self.key, joint=self.joint, **self.options
        )
        self.steps.append(step)
        self.measurements.append(measured)

    def curve(self, layer: str, number: str) -> list[float | None]:
        """One number of one layer at every step.

        Args:
            layer: the layer's name.
            number: "marginal", "joint", "dimension", "participation", "always_on" or
                "always_off".

        Raises:
            ValueError: an unknown number, or a layer that was not measured.
        """
        require(
            number in _NUMBERS,
            f"`number` must be one of {', '.join(_NUMBERS)}; got {number!r}.",
        )
        found = [
            {entry.layer: entry for entry in measured.layers}
            for measured in self.measurements
        ]
        require(
            all(layer in layers for layers in found),
            f"`layer` must be one that was measured, "
            f"{sorted(found[0]) if found else []}; got {layer!r}.",
        )
        return [_NUMBERS[number](layers[layer]) for layers in found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: steps, and every layer's curves."""
        names = (
            [entry.layer for entry in self.measurements[0].layers] if self.steps else []
        )
        curves = {
            name: {number: self.curve(name, number) for number in _NUMBERS}
            for name in names
        }
        return {"steps": list(self.steps), "layers": curves}


def _spread(values: Any) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)), len(known))
