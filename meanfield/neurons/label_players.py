r"""The label game: Shapley values of important, variable and absent connections.

The three players are the labels of one layer's connections. In a coalition S the
connections with a label outside S are removed (w = 0); v(S) is the payoff of the
remaining network. 2³ evaluations give the exact Shapley values. If absent connections
have no effect, their label is a null player with value 0; this is used as a test of the
trained model. (The combination of labels and games is this project's own.)
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from meanfield.checks import require
from meanfield.credit.labels import ConnectionLabels, Label
from meanfield.ensemble.ensemble import Ensemble
from meanfield.games.exact import all_coalitions, marginal_values, shapley_weights
from meanfield.spikeslab import SpikeSlab

from .neuron_game import NeuronGame


@dataclasses.dataclass(frozen=True)
class LabelGame:
    """The result of `label_game`.

    Attributes:
        values: Shapley value of each label, in units of the payoff.
        payoffs: payoff of the eight coalitions; bit i of the index is label i.
        counts: number of connections with each label.
        credit: sum of the values φ of the connections with each label, in the game
            whose players are connections; in `values` the players are whole labels.
            None without `connection_values`.
    """

    values: dict[str, float]
    payoffs: Float[np.ndarray, " coalitions"]
    counts: dict[str, int]
    credit: dict[str, float] | None = None


def label_game(
    ensemble: Ensemble,
    layer: str,
    labels: ConnectionLabels,
    data: tuple[Any, Any],
    connection_values: Mapping[str, Any] | None = None,
    **settings: Any,
) -> LabelGame:
    """Shapley values of the labels of one layer.

    Args:
        ensemble: a trained ensemble.
        layer: a parameter path without its last name, such as ``"layers/1"``.
        labels: the result of `label_connections`.
        data: arrays (x, y).
        connection_values: credit of the connections, by path name; optional.
        **settings: further arguments of `NeuronGame` (payoff, likelihood, num_samples,
            key).

    Returns:
        A `LabelGame`.

    Raises:
        ValueError: the layer has no labelled weights.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (8, 4))
        >>> labels = mf.label_connections(ensemble)
        >>> data = x, jax.numpy.arange(8) % 3
        >>> game = mf.neurons.label_game(
        ...     ensemble, "layers/0", labels, data, key=jax.random.key(3))
        >>> game.counts["variable"]
        32
    """
    names = [name for name in labels.labels if name.rpartition("/")[0] == layer]
    require(
        bool(names),
        f"`layer` must have labelled weights, which are {sorted(labels.labels)}; got "
        f"{layer!r}.",
    )
    own = ensemble.weights()
    masks = all_coalitions(len(Label))
    whole = NeuronGame(ensemble, layer, data, **settings)
    again = {"key": settings["key"]} if "key" in settings else {}
    payoffs = []
    for mask in masks:
        kept = {
            name: _cut(own[name], np.asarray(mask)[np.asarray(labels.labels[name])])
            for name in names
        }
        game = whole.replay(ensemble.with_weights(kept), **again)
        payoffs.append(game(np.ones((1, game.num_players), bool))[0])
    payoffs = np.array(payoffs)
    shares = marginal_values(payoffs, shapley_weights(len(Label) - 1))
    values = {label.name.lower(): float(shares[label]) for label in Label}
    counts = {
        label.name.lower(): int(
            sum((np.asarray(labels.labels[name]) == label).sum() for name in names)
        )
        for label in Label
    }
    credit = None
    if connection_values is not None:
        credit = {label.name.lower(): 0.0 for label in Label}
        for label, name in itertools.product(Label, names):
            own = np.asarray(connection_values[name], np.float64)
            share = own[np.asarray(labels.labels[name]) == label].sum()
            credit[label.name.lower()] += float(share)
    return LabelGame(values, payoffs, counts, credit)


def _cut(weight: SpikeSlab, kept: Any) -> SpikeSlab:
    """Remove the connections that are not kept."""
    if weight.shared:
        mean, var = (jnp.where(kept, v, 0) for v in (weight.slab_mean, weight.slab_var))
        return SpikeSlab(weight.spike_prob, mean, var)
    return SpikeSlab(
        jnp.where(kept, weight.spike_prob, 1), weight.slab_mean, weight.slab_var
    )
