"""Complexity of sub-networks drawn from an ensemble: mean and spread."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require

from .layer_complexity import LAYER_NUMBERS, NetworkComplexity
from .measure import measure_complexity
from .recording import Recorder, layer_activations


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a quantity over draws of a posterior.

    Args:
        mean: mean over the draws for which the quantity is defined.
        deviation: standard deviation between them (n − 1 in the denominator).
        num_samples: number of draws for which the quantity is defined.
    """

    mean: float
    deviation: float
    num_samples: int


@dataclasses.dataclass(frozen=True)
class LayerSpread:
    """One layer over the draws; None for a quantity with fewer than two values.

    Args:
        layer: name of the layer.
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
        num_samples: networks drawn.
        layers: the layers in forward order.
    """

    data: str
    num_samples: int
    layers: tuple[LayerSpread, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        layers = {layer.layer: dataclasses.asdict(layer) for layer in self.layers}
        return {"data": self.data, "num_samples": self.num_samples, "layers": layers}


def complexity_spread(draws: Sequence[NetworkComplexity]) -> ComplexitySpread:
    """Mean and standard deviation of every quantity over drawn networks.

    Args:
        draws: the result of `measure_complexity` for every network, on the same data
            with the same key, so that only the networks differ.

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
        numbers = {key: _spread(map(read, same)) for key, read in LAYER_NUMBERS.items()}
        layers.append(LayerSpread(name, **numbers))
    return ComplexitySpread(draws[0].data, len(draws), tuple(layers))


def sampled_complexity(
    ensemble: Any,
    x: Any,
    *,
    key: PRNGKeyArray,
    num_samples: int = 10,
    record: Recorder = layer_activations,
    joint: bool = False,
    **options: Any,
) -> ComplexitySpread:
    """Complexity of sub-networks drawn from an ensemble, with the posterior's spread.

    Args:
        ensemble: anything with ``sample(key)`` that returns a network.
        x: inputs of the network.
        key: a `jax.random.key`, for the networks and for the measurements.
        num_samples: networks to draw, at least two.
        record: ``record(network, x)`` returns {layer name: pre-activations}; the
            default reads an Equinox module.
        joint: whether to estimate joint entropies too (the expensive part).
        **options: `data`, `activation`, `threshold`, … of `measure_complexity`.

    Returns:
        A `ComplexitySpread`: mean and standard deviation over the networks, by layer.

    Raises:
        ValueError: fewer than two samples, or activations that cannot be used.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (200, 4))
        >>> key = jax.random.key(3)
        >>> found = sampled_complexity(ensemble, x, key=key, num_samples=2)
        >>> [layer.layer for layer in found.layers]
        ['layers/0', 'layers/1']

    References:
        Janik & Witaszczyk 2020, arXiv:2006.04791 (complexity of a network).
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


def _spread(values: Any) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)), len(known))
