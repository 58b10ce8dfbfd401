r"""Training in which only the strong coalition of every layer is active.

Every K epochs, layer after layer, the units of a layer are the players of a game for
the network's payoff on validation examples. They are ranked by their Shapley values φ,
averaged over the evaluations so far; the strong coalition of the layer is the first k
of them, or the smallest set that keeps the payoff. From then on the units outside are
silent (see `silence`). Coalitions are constant between evaluations, and a change of
them causes no compilation.

A silent unit can become active again. Its weights get no gradient, but it remains a
player at every evaluation, and it becomes active when its averaged value exceeds that
of a member. After the last evaluation no unit becomes active again.

Source: the scheme (neurons as players, a layer as a game, an energy-driven payoff,
propagation of strong coalitions only, Shapley values in the regularizer) is that of
Bouchaffra et al. 2024, arXiv:2410.12264. How coalitions are chosen, scheduled and
silenced is this project's own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.fit import fit
from meanfield.learning.likelihoods import Categorical
from meanfield.neurons.features import coalition_features
from meanfield.neurons.silence import silence

from .layers import Layers, find_layers
from .rounds import CoalitionRound, CoalitionRounds, Credit, Rules, choose_credit

Keep = int | float | Mapping[str, int | float]


@dataclasses.dataclass(frozen=True)
class CoalitionResult:
    """The result of `train_coalitions`.

    Attributes:
        ensemble: the trained ensemble; units outside the coalitions have no incoming
            connections (π = 1, m = 0, Ξ = 0, bias 0), so that `shrink` can remove them.
        likelihood: the likelihood, with its learned parameters.
        coalitions: for each layer, a mask of the units in its coalition.
        values: the units' last values, in units of the payoff.
        rounds: the result for every layer at every evaluation.
        history: as from `fit`, and in addition `penalty`, `active_units` (during the
            epoch) and `evaluation_seconds` (after the epoch).
        stopped: as from `fit`.
    """

    ensemble: Ensemble
    likelihood: Any
    coalitions: dict[str, Bool[np.ndarray, " units"]]
    values: dict[str, Float[np.ndarray, " units"]]
    rounds: list[CoalitionRound]
    history: dict[str, list[Any]]
    stopped: str

    @property
    def num_active(self) -> int:
        """Number of units in all coalitions together."""
        return int(sum(mask.sum() for mask in self.coalitions.values()))

    def features(self, x: Any, layer: str | None = None) -> Any:
        """Activations of the units in the coalition of a layer (default: the last).

        Returns:
            Shape (examples, units); channels are averaged over their positions.
        """
        layer = list(self.coalitions)[-1] if layer is None else layer
        return coalition_features(self.ensemble, layer, x, mask=self.coalitions)


def train_coalitions(
    model: Any,
    data: Any,
    *,
    key: PRNGKeyArray,
    likelihood: Callable[[Any], Any] = Categorical(),  # noqa: B008  (frozen)
    layers: tuple[str, ...] | list[str] | None = None,
    epochs: int = 30,
    every: int = 3,
    settle: int | None = None,
    keep: Keep | None = None,
    epsilon: float = 0.02,
    credit: str | Credit = "shapley",
    payoff: str = "free_energy",
    energy_temperature: float = 1.0,
    budget_per_unit: int = 32,
    validation: float | tuple[Any, Any] = 0.1,
    num_examples: int = 512,
    memory: float = 0.5,
    softness: float = 0.0,
    regularizer: float = 0.0,
    **settings: Any,
) -> CoalitionResult:
    r"""Train a network in which only strong coalitions of units are active.

    Args:
        model: an `Ensemble`, or an ordinary model, which trains as a point network.
        data: arrays (x, y); with arrays as `validation`, anything that `fit` takes.
        key: a `jax.random.key`.
        likelihood: as in `fit`.
        layers: the layers with coalitions, by parameter path without its last name.
            Default: every dense and convolutional layer whose units feed another layer.
        epochs: passes over the data.
        every: K, epochs between two evaluations.
        settle: number of last epochs in which coalitions stay fixed. Default: a third.
        keep: size of the final coalition of a layer: a number of units, a fraction of
            the layer (a float up to 1), or a mapping from layers to these. Sizes
            decrease geometrically from all units to this over the evaluations. Default:
            at every evaluation the smallest coalition that keeps the payoff; see
            `strong_coalition`.
        epsilon: without `keep`, fraction of the payoff's gain that may be lost at an
            evaluation.
        credit: "shapley", "banzhaf", or a function
            ``credit(ensemble, layer, (x, y), key)`` that returns a number for each
            unit of the layer.
        payoff: as in `NeuronGame`. By default minus the mean excess of the true label's
            energy over the free energy; for real targets minus the energy ½ (y − ŷ)².
        energy_temperature: T > 0 of the free energy.
        budget_per_unit: evaluations of a game for each of its players.
        validation: arrays (x, y) for the games, or the fraction of the training
            examples to hold out for the games.
        num_examples: validation examples in one game, drawn again at each evaluation.
        memory: weight of earlier evaluations in the average of values, in [0, 1).
        softness: T of the memberships σ((φ − θ)/T), in units of the mean |φ|, with θ
            midway between the last member and the first unit outside. Until the last
            evaluation, units are active at random with probability σ; with T = 0 only
            members are active.
        regularizer: λ ≥ 0, see `CoalitionRestriction`.
        **settings: further arguments of `fit` (batch_size, optimizer, …); `prior` is
            None by default, the published rule.

    Returns:
        A `CoalitionResult`.

    Raises:
        ValueError: an argument does not fit; the message says which and why.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (96, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> result = mf.neurons.train_coalitions(
        ...     net, (x, y), key=jax.random.key(2), epochs=6, batch_size=16, keep=0.5,
        ...     progress=False)
        >>> small = mf.deploy.shrink(result.ensemble.mean_network(), x)
        >>> small.model.layers[0].out_features <= 4
        True

    References:
        Bouchaffra et al. 2024, arXiv:2410.12264.
    """
    ensemble = model if isinstance(model, Ensemble) else Ensemble.from_points(model)
    for name in ("patience", "checkpoint"):
        require(
            settings.get(name) is None,
            f"`{name}` must be left out of coalition training, because the network of "
            "an earlier epoch has other coalitions.",
        )
    settle = max(1, epochs // 3) if settle is None else settle
    _check(epochs, every, settle, epsilon, memory, softness, regularizer)
    require(
        num_examples >= 4,
        f"`num_examples` must be at least 4; got {num_examples}.",
    )
    split_key, fit_key, play_key = jax.random.split(key, 3)
    learned_from, held = _hold_out(data, validation, split_key)
    check_batch(ensemble, likelihood, *held, name="validation")
    few = jax.tree.map(lambda array: array[:2], held[0])
    found = find_layers(ensemble, few, layers)
    rules = Rules(
        sizes=_sizes(keep, found),
        every=every,
        last=epochs - settle,
        epsilon=epsilon,
        credit=choose_credit(credit, budget_per_unit),
        game={
            "payoff": payoff,
            "temperature": energy_temperature,
        },
        num_examples=num_examples,
        memory=memory,
        softness=softness,
        regularizer=float(regularizer),
        key=play_key,
    )
    games = CoalitionRounds(found, held, rules)
    settings = {"prior": None, **settings}
    settings["callbacks"] = (games, *settings.get("callbacks", ()))
    result = fit(
        ensemble,
        learned_from,
        likelihood=likelihood,
        key=fit_key,
        epochs=epochs,
        restriction=games.restriction(),
        **settings,
    )
    return CoalitionResult(
        silence(result.ensemble, games.masks, found.sources, forget=True),
        result.likelihood,
        dict(games.masks),
        dict(games.values),
        games.rounds,
        {**result.history, **games.history},
        result.stopped,
    )


def _sizes(keep: Keep | None, found: Layers) -> dict[str, int | None]:
    if keep is None:
        return dict.fromkeys(found.units)
    if isinstance(keep, Mapping):
        require(
            set(keep) == set(found.units),
            f"`keep` must name the layers with coalitions, {list(found.units)}; got "
            f"{list(keep)}.",
        )
    sizes: dict[str, int | None] = {}
    for layer, units in found.units.items():
        wanted = keep[layer] if isinstance(keep, Mapping) else keep
        part = isinstance(wanted, float)
        size = round(wanted * units.size) if part else wanted
        require(
            (not part or wanted <= 1) and 1 <= size <= units.size,
            "`keep` must be a fraction of a layer in (0, 1], or a number of units "
            f"from 1 on; got {wanted!r} for the {units.size} units of {layer!r}.",
        )
        sizes[layer] = int(size)
    return sizes


def _hold_out(data: Any, validation: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
    """Examples for training, and examples for the games."""
    if isinstance(validation, tuple):
        return data, array_pair(validation, name="validation")
    pair = array_pair(
        data,
        hint="A part of `data` is held out; or pass other examples as "
        "`validation=(x, y)`.",
    )
    count = len(jax.tree.leaves(pair[0])[0])
    part = round(validation * count) if 0 < validation < 1 else 0
    require(
        4 <= part < count,
        "`validation` must be a fraction of the examples in (0, 1) that holds out at "
        f"least four, or arrays (x, y); got {validation} of {count} examples.",
    )
    rows = jax.random.permutation(key, count)
    take = lambda rows: jax.tree.map(lambda array: array[rows], pair)
    return take(rows[part:]), take(rows[:part])


def _check(epochs, every, settle, epsilon, memory, softness, regularizer) -> None:
    require(every >= 1, f"`every` must be at least 1 epoch; got {every}.")
    require(
        settle >= 0 and every <= epochs - settle,
        "`epochs` must be at least `every` + `settle`, with `settle` ≥ 0; got "
        f"{epochs} epochs, the first evaluation after `every` = {every}, and `settle` "
        f"= {settle} after the last. Use more `epochs`, or a smaller `every` or "
        "`settle`.",
    )
    require(0 <= epsilon < 1, f"`epsilon` must lie in [0, 1); got {epsilon}.")
    require(0 <= memory < 1, f"`memory` must lie in [0, 1); got {memory}.")
    require(softness >= 0, f"`softness` must not be negative; got {softness}.")
    require(regularizer >= 0, f"`regularizer` must not be negative; got {regularizer}.")
