r"""The credit of connections added up: to neurons, to layers, to the payoff.

A neuron is given the sum of the values of its incoming connections, a layer the sum of
the values of all its connections. Every connection of a dense layer, a convolution or a
recurrence has exactly one target unit, so the sum is the same at all three scales,

    Σ_connections φ = Σ_neurons φ_in = Σ_layers φ = v(N) − v(∅) + gap.

Here v(N) − v(∅) is the gain of the game whose players are connections. The game whose
players are neurons (`unit_values`) is a different game with a different gain: a whole
unit is removed by holding it at its mean or at zero, and outputs are not players.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from meanfield.checks import require
from meanfield.credit.connection_shapley import ConnectionValues
from meanfield.ensemble.ensemble import Ensemble
from meanfield.program.entries import add_up, incoming_entries
from meanfield.program.named_layers import layer_names
from meanfield.program.steps import Program, trace
from meanfield.program.units import Units, units_or_none


@dataclasses.dataclass(frozen=True, eq=False)
class CreditSums:
    """The sum of credit at three scales, from `credit_sums`.

    Attributes:
        connections: number of connections of every layer.
        neurons: by layer, Σφ over the connections into every unit (in a recurrence,
            into its gates); None for a layer whose connections do not each have one
            target unit, such as an embedding.
        layers: Σφ over the connections of every layer.
        total: Σφ over all connections.
        gain: payoff − empty payoff, which the values divide among the connections.
        gap: total − gain.
        gap_error: standard error of `gap`, over draws of the noise.
    """

    connections: dict[str, int]
    neurons: dict[str, Float[np.ndarray, " units"] | None]
    layers: dict[str, float]
    total: float
    gain: float
    gap: float
    gap_error: float


def credit_sums(ensemble: Ensemble, credit: ConnectionValues, x: Any) -> CreditSums:
    """Add up the values of connections to neurons, layers, and the payoff.

    Args:
        ensemble: the ensemble whose connections were valued.
        credit: their values, from `connection_values`.
        x: a batch of inputs (one example is enough), to trace the network with.

    Returns:
        `CreditSums`.

    Raises:
        ValueError: values of another ensemble, or values whose sum is not the payoff
            because of their `weighting`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (64, 2)), jnp.arange(64) % 2
        >>> credit = mf.connection_values(ensemble, data, key=jax.random.key(3))
        >>> sums = mf.neurons.credit_sums(ensemble, credit, data[0])
        >>> {layer: len(units) for layer, units in sums.neurons.items()}
        {'layers/0': 4, 'layers/1': 2}
        >>> bool(abs(sum(sums.layers.values()) - sums.total) < 1e-6)
        True

    References:
        Shapley 1953, A value for n-person games (values add up to the payoff); the sums
        over the connections into a neuron are this project's own.
    """
    require(
        credit.efficiency_gap is not None,
        "`credit` must hold values that add up to the payoff; got values of another "
        "`weighting`. Leave `weighting` out of connection_values.",
    )
    one = jax.tree.map(lambda leaf: leaf[:1], x)
    program = trace(ensemble.apply_fn, ensemble.mean_params(), one)
    known = {name: program.shapes[place] for name, place in program.leaves.items()}
    shapes = {name: np.shape(array) for name, array in credit.values.items()}
    require(
        all(known.get(name) == shape for name, shape in shapes.items()),
        f"`credit` must belong to the ensemble, whose arrays are {known}; got values "
        f"for {shapes}. Make them with connection_values(ensemble, ...).",
    )
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, array in credit.values.items():
        own = arrays.setdefault(name.rpartition("/")[0] or name, {})
        own[name] = np.asarray(array, np.float64)
    layers = {
        layer: float(sum(array.sum() for array in own.values()))
        for layer, own in arrays.items()
    }
    total, gain = sum(layers.values()), credit.payoff - credit.empty_payoff
    return CreditSums(
        {layer: sum(a.size for a in own.values()) for layer, own in arrays.items()},
        {layer: _of_units(program, layer, own) for layer, own in arrays.items()},
        layers,
        total,
        gain,
        total - gain,
        credit.gap_error,
    )


def _of_units(
    program: Program, layer: str, arrays: dict[str, np.ndarray]
) -> Float[np.ndarray, " units"] | None:
    """Sums by unit of a layer; None if some connection has no unit, or several."""
    units = units_or_none(program, layer) if layer in layer_names(program) else None
    if units is None:
        return None
    if set(arrays) <= set(units.sources):
        return _of_sources(units, arrays)
    # No later layer reads these units, so their parameters are not in `units.sources`.
    if units.product is None:
        return None
    (part,) = incoming_entries(program, units)
    size = arrays[part.name].size if set(arrays) == {part.name} else -1
    if not np.array_equal(np.sort(part.places, axis=None), np.arange(size)):
        return None
    return add_up([part], arrays, units.size)


def _of_sources(
    units: Units, arrays: dict[str, np.ndarray]
) -> Float[np.ndarray, " units"] | None:
    total = np.zeros(units.size)
    for name, array in arrays.items():
        source = units.sources[name]
        owner = np.asarray(source.owner)
        if (owner < 0).any():
            return None
        rows = np.moveaxis(array, source.axis, 0).reshape(len(owner), -1)
        np.add.at(total, owner, rows.sum(1))
    return total
