r"""Connections of every neuron, by label and by credit.

For each unit of a layer: the numbers of incoming and outgoing connections that are
important, absent and variable, and its expected degrees Σ(1 − π). If the values of
connections are given, also the summed credit of its incoming and outgoing connections.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meanfield.checks import require
from meanfield.credit.labels import ConnectionLabels, Label
from meanfield.ensemble.ensemble import Ensemble
from meanfield.program.entries import (
    Entries,
    add_up,
    incoming_entries,
    outgoing_entries,
)
from meanfield.program.steps import trace
from meanfield.program.units import find_units


@dataclasses.dataclass(frozen=True)
class NeuronLinks:
    """Connections of the units of a layer.

    Attributes:
        incoming: number of incoming connections, (units,), by label: "important",
            "absent" or "variable".
        outgoing: the same for the connections to the next layer with weights.
        expected_in: Σ(1 − π) over incoming connections.
        expected_out: Σ(1 − π) over outgoing connections.
        value_in: Σφ over incoming connections; None without `values`. Every connection
            has one target unit, so these sum to the value of the layer's connections.
        value_out: Σφ over outgoing connections, which belong to the next layer.
    """

    incoming: dict[str, Int[np.ndarray, " units"]]
    outgoing: dict[str, Int[np.ndarray, " units"]]
    expected_in: Float[np.ndarray, " units"]
    expected_out: Float[np.ndarray, " units"]
    value_in: Float[np.ndarray, " units"] | None = None
    value_out: Float[np.ndarray, " units"] | None = None

    def total(self, label: str) -> Int[np.ndarray, " units"]:
        """Number of incoming plus outgoing connections with a label."""
        return self.incoming[label] + self.outgoing[label]

    @property
    def measure(self) -> str:
        """What `strength` measures: "credit", or else "important connections"."""
        return "important connections" if self.value_in is None else "credit"

    @property
    def strength(self) -> Float[np.ndarray, " units"]:
        """Summed credit of all connections, or else the number of important ones."""
        if self.value_in is None or self.value_out is None:
            return self.total("important").astype(np.float64)
        return self.value_in + self.value_out


def neuron_links(
    ensemble: Ensemble,
    labels: ConnectionLabels,
    layer: str,
    x: Any,
    values: Mapping[str, Any] | None = None,
) -> NeuronLinks:
    """Connections of every unit: how many have each label, and their summed credit.

    Connections that never learned (known for labels made with ``data=``) are not
    counted: their gradient is zero on all the data, so the data are not informative
    about their labels.

    Args:
        ensemble: a trained ensemble.
        labels: its labels.
        layer: a dense layer or a convolution, as for `NeuronGame`.
        x: a batch of inputs (one example is enough), to trace the network with.
        values: by path name, the values of connections, such as
            ``connection_values(...).values``.

    Returns:
        `NeuronLinks`: by label, numbers of incoming and outgoing connections per unit;
        with `values` also the sums of their credit.

    Raises:
        ValueError: there is no such layer; it is recurrent, so that a connection
            belongs to a gate and not to a unit; or it is an attention layer, whose
            heads have no connections of their own.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> links = mf.neurons.neuron_links(ensemble, mf.label_connections(ensemble),
        ...                         "layers/0", jax.numpy.ones((1, 2)))
        >>> links.incoming["variable"].tolist(), links.outgoing["variable"].tolist()
        ([2, 2, 2, 2], [3, 3, 3, 3])

    References:
        Credit and labels are those of `connection_values` and `label_connections`;
        their sums by neuron are this project's own.
    """
    program = trace(ensemble.apply_fn, ensemble.mean_params(), x)
    units = find_units(program, layer)
    require(
        not units.bodies,
        f"`layer` must be a dense layer or a convolution; got {layer!r}, which is "
        "recurrent: its connections belong to gates, not to units.",
    )
    require(
        units.product is not None,
        f"`layer` must be a dense layer or a convolution; got {layer!r}, an attention "
        "layer, whose heads have no connections of their own.",
    )
    first, later = incoming_entries(program, units), outgoing_entries(program, units)
    value_in = value_out = None
    if values is not None:
        value_in = add_up(first, values, units.size)
        value_out = add_up(later, values, units.size)
    # π has length 1 along the axes on which connections share a spike.
    present = {
        name: np.broadcast_to(1 - np.asarray(w.spike_prob, np.float64), w.shape)
        for name, w in ensemble.weights().items()
    }
    return NeuronLinks(
        _count(labels, first, units.size),
        _count(labels, later, units.size),
        add_up(first, present, units.size),
        add_up(later, present, units.size),
        value_in,
        value_out,
    )


def _count(
    labels: ConnectionLabels, parts: list[Entries], size: int
) -> dict[str, Int[np.ndarray, " units"]]:
    """Number of connections of every unit, by label."""
    counts = {label.name.lower(): np.zeros(size, int) for label in Label}
    for part in parts:
        if part.name not in labels.labels:
            continue
        own = part.pick(labels.labels[part.name])
        learned = np.ones(own.shape, bool)
        if labels.never_learned is not None:
            learned = ~part.pick(labels.never_learned[part.name])
        for label in Label:
            hits = ((own == label) & learned).sum(1)
            np.add.at(counts[label.name.lower()], part.owner, hits)
    return counts
