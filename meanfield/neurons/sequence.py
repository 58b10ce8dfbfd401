"""Strong coalitions layer by layer, each given the coalitions of earlier layers.

In the game of layer l the units outside of S_1 … S_{l−1} are held at their means, and
the means of layer l are those of this reduced network. So the certified payoff of the
last layer is the payoff of the exported network.
"""

import dataclasses
from collections.abc import Mapping, Sequence
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
    """The results of one layer.

    Attributes:
        values: Shapley values on `data`.
        strong: the coalition, certified on `validation`.
        null_players: units that cannot change the payoff.
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
    control: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, PlayedLayer]:
    """Strong coalitions of several layers, one after the other.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y) on which Shapley values are estimated.
        validation: arrays (x, y), other than `data`, on which coalitions are certified.
        key: a `jax.random.key`.
        layers: layers in order; by default all layers but the last.
        budget: evaluations per layer; see `shapley_values`.
        epsilon: fraction of the payoff's gain that each layer may lose.
        level: level of intervals and bounds.
        control: by layer, values of the units from another method, such as
            ``unit_values(ensemble, data, layer=layer, key=key).values``: sampled values
            are shrunk towards these, so that fewer evaluations find the same coalition;
            see `shapley_values`.
        **settings: further arguments of `NeuronGame` (likelihood, payoff, replacement,
            num_samples).

    Returns:
        A `PlayedLayer` by layer.

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
        games); the order of the games and the certificates are this project's own.
    """
    if layers is None:
        names = [name.rpartition("/")[0] for name in ensemble.weights()]
        layers = list(dict.fromkeys(names))[:-1]
    require(
        len(layers) > 0,
        "`ensemble` must have a hidden layer; got none, so there are no neurons.",
    )
    require(
        control is None or set(control) <= set(layers),
        f"`control` must have values by layer, of {list(layers)}; got "
        f"{sorted(control or ())}.",
    )
    held: dict[str, np.ndarray] = {}
    found: dict[str, PlayedLayer] = {}
    for number, layer in enumerate(layers):
        orders, draws, again = jax.random.split(jax.random.fold_in(key, number), 3)
        game = NeuronGame(
            ensemble, layer, data, fixed=dict(held), key=draws, **settings
        )
        values = shapley_values(
            game,
            budget=budget,
            level=level,
            control=None if control is None else control.get(layer),
            key=orders,
        )
        certify = NeuronGame(
            ensemble, layer, validation, fixed=dict(held), key=again, **settings
        )
        strong = strong_coalition(certify, values, epsilon=epsilon, level=level)
        held[layer] = strong.mask
        found[layer] = PlayedLayer(values, strong, game.null_players(), game.payoff)
    return found
