"""The rounds of coalition training: games that are evaluated between epochs.

Layer after layer, with the coalitions of earlier layers fixed, the values of the units
are estimated on validation examples and averaged with those of earlier evaluations, and
the coalition of the layer is chosen again among all its units.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.energy import gibbs_membership
from meanfield.ensemble.ensemble import Ensemble
from meanfield.games.banzhaf import banzhaf_values
from meanfield.games.shapley import shapley_values
from meanfield.learning.results import EpochReport
from meanfield.neurons.neuron_game import NeuronGame
from meanfield.neurons.silence import silence
from meanfield.neurons.strong import strong_coalition

from .layers import Layers
from .restriction import CoalitionRestriction

Credit = Callable[..., Any]
_FIXED = ("mse", "free_energy")  # payoffs that do not depend on a learned noise


@dataclasses.dataclass(frozen=True)
class CoalitionRound:
    """One layer at one evaluation.

    Attributes:
        epoch: number of epochs done before.
        layer: path of the layer.
        values: value of every unit, averaged over the evaluations so far.
        mask: mask of the chosen coalition.
        num_returned: number of units that entered the coalition.
    """

    epoch: int
    layer: str
    values: Float[np.ndarray, " units"]
    mask: Bool[np.ndarray, " units"]
    num_returned: int


@dataclasses.dataclass(frozen=True)
class Index:
    """Values of a game by a game-theoretic index."""

    find: Callable[..., Any]
    budget_per_unit: int

    def __call__(self, game: NeuronGame, key: PRNGKeyArray) -> np.ndarray:
        """One value for each player, with at least one antithetic pair."""
        budget = max(self.budget_per_unit * game.num_players, 2 * game.num_players + 2)
        return self.find(game, game.num_players, budget=budget, key=key).values


def choose_credit(credit: str | Credit, budget_per_unit: int) -> Any:
    """The index with a given name, or the given function.

    Raises:
        ValueError: an unknown name, or a budget that is not positive.
    """
    if callable(credit):
        return credit
    known = {"shapley": shapley_values, "banzhaf": banzhaf_values}
    require(
        credit in known,
        f"`credit` must be 'shapley', 'banzhaf' or a function; got {credit!r}.",
    )
    require(
        budget_per_unit >= 1,
        f"`budget_per_unit` must be at least 1; got {budget_per_unit}.",
    )
    return Index(known[credit], budget_per_unit)


@dataclasses.dataclass(frozen=True)
class Rules:
    """The settings of coalition training.

    Attributes:
        sizes: final size of each coalition, or None for the smallest sufficient one.
        every: epochs between evaluations.
        last: number of epochs after which there is no evaluation.
        epsilon: fraction of the payoff's gain that may be lost.
        credit: the function that computes values of units.
        game: payoff and temperature of the games.
        num_examples: number of examples in a game.
        memory: weight of earlier evaluations in the average of values.
        softness: temperature of the memberships.
        regularizer: strength of the penalty.
        key: a `jax.random.key`.
    """

    sizes: Mapping[str, int | None]
    every: int
    last: int
    epsilon: float
    credit: Any
    game: Mapping[str, Any]
    num_examples: int
    memory: float
    softness: float
    regularizer: float
    key: PRNGKeyArray

    def progress(self, epoch: int) -> float:
        """Fraction of the evaluations done, including the one after this epoch."""
        return epoch // self.every / (self.last // self.every)


class CoalitionRounds:
    """Computes values and chooses coalitions between epochs, and records both."""

    def __init__(self, found: Layers, held: Any, rules: Rules):
        self.found, self.held, self.rules = found, held, rules
        self.masks = {n: np.ones(u.size, bool) for n, u in found.units.items()}
        self.members = {n: m.astype(np.float32) for n, m in self.masks.items()}
        self.values: dict[str, np.ndarray] = {}
        self.games: dict[Any, NeuronGame] = {}
        self.rounds: list[CoalitionRound] = []
        self.history: dict[str, list[Any]] = {
            "active_units": [],
            "evaluation_seconds": [],
        }

    def restriction(self) -> CoalitionRestriction:
        """The current gates."""
        return CoalitionRestriction(
            {name: jnp.asarray(member) for name, member in self.members.items()},
            tuple((n, tuple(own.items())) for n, own in self.found.sources.items()),
            self.rules.regularizer,
        )

    def __call__(self, report: EpochReport) -> None:
        """After an epoch: evaluate, if an evaluation is due."""
        active = int(sum(mask.sum() for mask in self.masks.values()))
        start = time.perf_counter()
        epoch, last = report.epoch, self.rules.last
        if epoch % self.rules.every == 0 and epoch <= last:
            self.evaluate(epoch, report)
            report.restrict(self.restriction())
        self.history["active_units"].append(active)
        self.history["evaluation_seconds"].append(time.perf_counter() - start)

    def evaluate(self, epoch: int, report: EpochReport) -> None:
        """Evaluate the layers in order, each with the earlier coalitions fixed."""
        ensemble, likelihood = report.get()
        key = jax.random.fold_in(self.rules.key, epoch)
        progress = self.rules.progress(epoch)
        for number, layer in enumerate(self.masks):
            batch_key, credit_key = jax.random.split(jax.random.fold_in(key, number))
            others = {n: m for n, m in self.masks.items() if n != layer}
            opened = silence(ensemble, others, self.found.sources)
            judged, certified = self.examples(batch_key)
            values = self.credit(opened, likelihood, layer, judged, credit_key)
            past = self.values.get(layer, values)
            memory = self.rules.memory
            values = memory * past + (1 - memory) * values
            size = self.rules.sizes[layer]
            if size is None:
                game = self.game(opened, likelihood, layer, certified, "certify")
                mask = strong_coalition(
                    game, values, epsilon=self.rules.epsilon
                ).mask.copy()
                mask[np.argmax(values)] = True
            else:
                whole = len(values)
                mask = _best(values, round(whole * (size / whole) ** progress))
            returned = int((mask & ~self.masks[layer]).sum())
            self.masks[layer], self.values[layer] = mask, values
            self.rounds.append(CoalitionRound(epoch, layer, values, mask, returned))
            soft = self.rules.softness if progress < 1 else 0.0
            self.members[layer] = _memberships(values, mask, soft)

    def examples(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Random validation examples for values, and others to certify (or None)."""
        count = len(jax.tree.leaves(self.held[0])[0])
        half = min(self.rules.num_examples, count // 2)
        rows = jax.random.permutation(key, count)
        take = lambda rows: jax.tree.map(lambda array: array[rows], self.held)
        if all(size is not None for size in self.rules.sizes.values()):
            return take(rows[: min(self.rules.num_examples, count)]), None
        return take(rows[:half]), take(rows[half : 2 * half])

    def credit(
        self, opened: Ensemble, likelihood: Any, layer: str, data: Any, key: Any
    ) -> np.ndarray:
        """A number for each unit of a layer."""
        credit = self.rules.credit
        if isinstance(credit, Index):
            game = self.game(opened, likelihood, layer, data, "judge")
            return credit(game, key)
        values = np.asarray(credit(opened, layer, data, key), np.float64)
        size = self.found.units[layer].size
        require(
            values.shape == (size,) and bool(np.isfinite(values).all()),
            f"`credit` must return one finite number for each of the {size} units of "
            f"{layer!r}; got shape {values.shape}.",
        )
        return values

    def game(
        self, opened: Ensemble, likelihood: Any, layer: str, data: Any, part: str
    ) -> NeuronGame:
        """A layer's game; compiled once, unless its payoff depends on learned noise."""
        known = self.games.get((layer, part))
        learned = jax.tree.leaves(eqx.filter(likelihood, eqx.is_array))
        if known is not None and (not learned or self.rules.game["payoff"] in _FIXED):
            return known.replay(opened, data)
        game = NeuronGame(opened, layer, data, likelihood=likelihood, **self.rules.game)
        self.games[layer, part] = game
        return game


def _best(values: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[:size]] = True
    return mask


def _memberships(values: np.ndarray, mask: np.ndarray, softness: float) -> np.ndarray:
    if softness == 0 or mask.all():
        return mask.astype(np.float32)
    threshold = (values[mask].min() + values[~mask].max()) / 2
    temperature = softness * np.abs(values).mean()
    return np.asarray(gibbs_membership(values, threshold, temperature), np.float32)
