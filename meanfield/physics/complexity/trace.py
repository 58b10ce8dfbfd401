"""Measure complexity during training, by a callback of `fit`."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import PRNGKeyArray

from meanfield.checks import require

from .layer_complexity import LAYER_NUMBERS, NetworkComplexity
from .measure import measure_complexity
from .recording import Recorder, layer_activations


class ComplexityTrace:
    """A callback of `fit` that measures complexity during training.

    It is called with a state that has `epoch` (int) and `ensemble`, and measures the
    network of posterior means once in `every` epochs. Pass `steps` and a
    `curve(...)` to `fit_scaling` afterwards. In any other training loop call `add`.

    Args:
        x: inputs of the network.
        key: a `jax.random.key`, the same for every measurement.
        every: epochs between measurements.
        record: ``record(network, x)`` returns {layer name: pre-activations}; the
            default reads an Equinox module.
        joint: whether to estimate joint entropies too (slow).
        **options: `data`, `activation`, … of `measure_complexity`.

    Attributes:
        steps: the epoch (or step) of every measurement, in order.
        measurements: the `NetworkComplexity` of every measurement.

    Example:
        >>> import jax, numpy as np
        >>> from meanfield.physics.complexity.trace import ComplexityTrace
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
        record: Recorder = layer_activations,
        joint: bool = False,
        **options: Any,
    ):
        require(every >= 1, f"`every` must be at least 1 epoch; got {every}.")
        self.x, self.key, self.every = x, key, every
        self.record, self.joint = record, joint
        self.options = {"num_shuffles": 0, **options}  # no nulls by default: slow
        self.steps: list[int] = []
        self.measurements: list[NetworkComplexity] = []

    def __call__(self, state: Any) -> None:
        """Measure the mean network of `state.ensemble`, once in `every` epochs."""
        if state.epoch % self.every == 0:
            network = state.ensemble.mean_network()
            self.add(state.epoch, self.record(network, self.x))

    def add(self, step: int, activations: Mapping[str, Any]) -> None:
        """Measure recorded activations, and store the result with its step."""
        measured = measure_complexity(
            activations, key=self.key, joint=self.joint, **self.options
        )
        self.steps.append(step)
        self.measurements.append(measured)

    def curve(self, layer: str, number: str) -> list[float | None]:
        """One quantity of one layer at every step.

        Args:
            layer: the layer's name.
            number: "marginal", "joint", "dimension", "participation", "always_on" or
                "always_off".

        Raises:
            ValueError: an unknown `number`, or a layer that was not measured.
        """
        require(
            number in LAYER_NUMBERS,
            f"`number` must be one of {', '.join(LAYER_NUMBERS)}; got {number!r}.",
        )
        found = [
            {entry.layer: entry for entry in measured.layers}
            for measured in self.measurements
        ]
        require(
            all(layer in layers for layers in found),
            "`layer` must be one of the measured layers "
            f"{sorted(found[0]) if found else []}; got {layer!r}.",
        )
        return [LAYER_NUMBERS[number](layers[layer]) for layers in found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: steps, and every layer's curves."""
        names = (
            [entry.layer for entry in self.measurements[0].layers] if self.steps else []
        )
        curves = {
            name: {number: self.curve(name, number) for number in LAYER_NUMBERS}
            for name in names
        }
        return {"steps": list(self.steps), "layers": curves}
