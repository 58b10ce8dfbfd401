"""The game played layer by layer, earlier strong coalitions holding for later layers.

Layer l plays with S_1 … S_{l−1} in force: their outside units are held at their means,
later means are those of the network that is left, and what is certified at the last
layer is what the network that ships achieves.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.games.index_values import ShapleyValues
from meanfield.games.shapley import shapley_values

from .neuron_game import NeuronGame
from .strong import StrongCoalition, strong_coalition


@dataclasses.dataclass(frozen=True)
class PlayedLayer:
    """One layer's turn.

    Attributes:
        values: Shapley values on the data that select.
        strong: the coalition, certified on the data that certify.
        null_players: units that can change nothing.
        payoff: name of the payoff.
    """

    values: ShapleyValues
    strong: StrongCoalition
    null_players: Bool[np.ndarray, " players"]
    payoff: str


def play_layers(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    key: PRNGKeyArray,
    layers: Sequence[str] | None = None,
    budget: int | None = None,
    epsilon: float | int = 0.02,
    level: float = 0.95,
    **settings: Any,
) -> dict[str, PlayedLayer]:
    """Strong coalitions of several layers, one after the other.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y) that Shapley values are estimated on.
        validation: arrays (x, y), apart from `data`, that coalitions are certified on.
        key: a `jax.random.key`.
        layers: in the order of play; all layers but the last by default.
        budget: evaluations a layer; see `shapley_values`.
        epsilon: part of the payoff's gain that each layer may lose.
        level: of intervals and bounds.
        **settings: as of `NeuronGame` (likelihood, payoff, replacement, num_samples).

    Returns:
        By layer a `PlayedLayer`.

    Raises:
        ValueError: no hidden layer, or as `NeuronGame` and `strong_coalition`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 2, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 2)), jnp.arange(8) % 2
        >>> sorted(mf.neurons.play_layers(ensemble, data, data, key=jax.random.key(3)))
        ['layers/0', 'layers/1']

    References:
        Bouchaffra et al. 2024, arXiv:2410.12264 (a forward pass is a sequence of
        games); the order of play and its certificates are ours.
    """
    if layers is None:
        names = [name.rpartition("/")[0] for name in ensemble.weights()]
        layers = list(dict.fromkeys(names))[:-1]
    require(
        len(layers) > 0,
        "`ensemble` has no hidden layer, so no neurons to value.",
    )
    held: dict[str, np.ndarray] = {}
    found: dict[str, PlayedLayer] = {}
    for number, layer in enumerate(layers):
        orders, draws, again = jax.random.split(jax.random.fold_in(key, number), 3)
        game = NeuronGame(
            ensemble, layer, data, fixed=dict(held), key=draws, **settings
        )
        values = shapley_values(
            game, game.num_players, budget=budget, level=level, key=orders
        )
        certify = NeuronGame(
            ensemble, layer, validation, fixed=dict(held), key=again, **settings
        )
        strong = strong_coalition(certify, values, epsilon=epsilon, level=level)
        held[layer] = strong.mask
        found[layer] = PlayedLayer(values, strong, game.null_players(), game.payoff)
    return found
