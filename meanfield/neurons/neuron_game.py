r"""The neuron game: how much each neuron of a layer contributes to the payoff.

Players are the output units of a layer. In a coalition S the units outside are held at
their mean activation, as in the exported network without these units (where their means
are added to the next biases); v(S) is the payoff of that network on data, averaged over
draws from the posterior.

Source: Bouchaffra et al. 2024, arXiv:2410.12264 (neurons as players, energy-driven
payoff); Ghorbani & Zou 2020, arXiv:2002.09815 (neuron Shapley). Mean replacement and
the bounded payoff are this project's choice: with zeros instead of means, partial
coalitions are over-confident, which distorts the log-likelihood game most.
"""

import copy
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.payoffs import choose_payoff, payoff_measure
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.sharding import Layout
from meanfield.program.steps import trace
from meanfield.program.units import find_units

from .blocks import scores_of, sweep_of
from .cut_network import CutNetwork
from .null_units import null_units

REPLACEMENTS = ("mean", "zero")


class NeuronGame:
    r"""A cooperative game of the units of a layer: call it with coalitions.

        v(S) = ⟨ payoff of the network in which only S acts ⟩ over draws and examples

    `shapley_values` uses two methods of this value function: `sweep` evaluates all
    n + 1 coalitions along an order from one running pre-activation, and `null_players`
    finds players of value 0 without evaluations.

    Args:
        ensemble: a trained ensemble.
        layer: a parameter path without its last name, such as ``"layers/1"``. Players
            are the units of a dense layer, the channels of a convolution, the units of
            a recurrent cell (from whose weights the state of a `scan` is computed) or,
            for the path of a whole attention module, its heads. A weight of a flat
            list or dictionary of parameters is a layer of its own path (``"w1"``);
            block 2 of layers stacked for a `scan` is ``"layers[2]"``.
        data: arrays (x, y), over which payoffs and mean activations are averaged.
        likelihood: as in `fit`.
        payoff: "probability" of the true class or exp(log-likelihood) (default for
            classes), "accuracy", "brier" (negative), "log_likelihood", "mse" (negative;
            default for real targets), or "free_energy",
            −⟨E(x, y) + T ln Σ_y' exp(−E(x, y')/T)⟩ with E = −logit: T times
            the log-likelihood of the Gibbs distribution at temperature T. See
            `meanfield.credit.payoffs`.
        replacement: "mean" activation (default) or "zero" for units outside. It is the
            mean of the value that the next layer reads, over examples, and over time
            and space if the next layer has the same weight at all times and positions.
        temperature: T > 0 of the free energy.
        num_samples: number of sub-networks to average over; 0 for the network of
            posterior means.
        fixed: fixed coalitions of other layers, by layer.
        key: a `jax.random.key`; needed if `num_samples` is not 0.
        mesh: devices to spread the examples over, as in `fit`.

    Attributes:
        num_players: number of units.
        num_samples: number of sub-networks.
        payoff: name of the payoff.

    Raises:
        ValueError: an unknown layer, a layer whose units cannot be masked, an unknown
            payoff, or data that do not fit.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 2)), jnp.arange(8) % 2
        >>> game = mf.NeuronGame(ensemble, layer="layers/0", data=data)
        >>> mf.shapley_values(game, game.num_players, budget=64,
        ...                   key=jax.random.key(3)).values.shape
        (4,)
    """

    def __init__(
        self,
        ensemble: Ensemble,
        layer: str,
        data: tuple[Any, Any],
        *,
        likelihood: Any = Categorical(),  # noqa: B008  (frozen)
        payoff: str | None = None,
        replacement: str = "mean",
        temperature: float | int = 1.0,
        num_samples: int = 0,
        fixed: Mapping[str, Any] | None = None,
        key: PRNGKeyArray | None = None,
        mesh: Mesh | None = None,
    ):
        x, y = _checked_data(ensemble, likelihood, data)
        _check_settings(replacement, temperature, num_samples)
        points = ensemble.mean_params()
        program = trace(ensemble.apply_fn, points, x)
        outputs = eqx.filter_eval_shape(ensemble.apply_fn, points, x)
        self.payoff = choose_payoff(payoff, likelihood, outputs)
        names = (layer, *(fixed or {}))
        require(
            len(set(names)) == len(names),
            f"`fixed` must not have the layer of the game; got {layer!r}.",
        )
        self.layer, self.num_samples = layer, num_samples
        self._layout = Layout(mesh, None)
        self._likelihood = likelihood
        self._network = CutNetwork(
            program,
            layer,
            {name: find_units(program, name) for name in names},
            payoff_measure(self.payoff, likelihood, temperature),
            replacement=replacement,
            stale=False,
        )
        self.num_players = self._network.units[layer].size
        self._begin(ensemble, x, y, fixed or {}, key)

    def replay(
        self,
        ensemble: Ensemble | None = None,
        data: tuple[Any, Any] | None = None,
        *,
        fixed: Mapping[str, Any] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> "NeuronGame":
        """The same game for another network of the same form, without new compilation.

        Args:
            ensemble: the same network with other weights, for example after training;
                by default the game's own.
            data: arrays (x, y) of the same shapes; by default the game's own.
            fixed: coalitions of the same layers; by default the game's own.
            key: a `jax.random.key`; needed if the game draws sub-networks.

        Raises:
            ValueError: the network has another form, the data have other shapes, the
                coalitions belong to other layers, or `key` is missing.
        """
        ensemble = self._ensemble if ensemble is None else ensemble
        x, y = self._x, self._y
        if data is not None:
            x, y = _checked_data(ensemble, self._likelihood, data)
        require(
            _form(ensemble.mean_params()) == _form(self._points),
            "`ensemble` must have the form of the network that the game was made "
            "with: the same arrays and shapes. Make a new game for another network.",
        )
        require(
            _form((x, y)) == _form((self._x, self._y)),
            f"`data` must have the shapes of the game's own, {_shapes(self._x)} and "
            f"{_shapes(self._y)}; got {_shapes(x)} and {_shapes(y)}.",
        )
        fixed = self._fixed if fixed is None else fixed
        require(
            set(fixed) == set(self._fixed),
            f"`fixed` must have the same layers as before, {sorted(self._fixed)}; got "
            f"{sorted(fixed)}. Make a new game for others.",
        )
        game = copy.copy(self)
        game._begin(ensemble, x, y, fixed, key)
        return game

    def _begin(self, ensemble, x, y, fixed, key) -> None:
        units = self._network.units
        masks = {name: np.asarray(mask, bool) for name, mask in fixed.items()}
        for name, mask in masks.items():
            require(
                mask.shape == (units[name].size,),
                f"`fixed` must have a mask of {units[name].size} units for {name!r}; "
                f"got shape {mask.shape}.",
            )
        require(
            self.num_samples == 0 or key is not None,
            "`key` is needed to draw sub-networks; pass key=jax.random.key(seed), or "
            "num_samples=0 for the network of posterior means.",
        )
        self._ensemble, self._fixed = ensemble, masks
        self._x, self._y = x, y = self._layout.split((x, y))
        self._points = ensemble.mean_params()
        drawn = [self._points]
        if self.num_samples and key is not None:
            keys = jax.random.split(key, self.num_samples)
            drawn = [ensemble.sample_params(each) for each in keys]
        drawn = self._layout.everywhere(drawn)
        arrays = {name: jnp.asarray(mask) for name, mask in masks.items()}
        self._states = [self._network.prepare(params, x, arrays) for params in drawn]

    def __call__(
        self, coalitions: Bool[Any, "coalitions players"]
    ) -> Float[np.ndarray, " coalitions"]:
        """Payoff of each coalition."""
        return self.scores(coalitions).mean(1)

    def scores(
        self, coalitions: Bool[Any, "coalitions players"]
    ) -> Float[np.ndarray, "coalitions examples"]:
        """Payoff of each coalition on each example, averaged over draws.

        Raises:
            ValueError: `coalitions` has another number of players.
        """
        masks = np.asarray(coalitions, bool)
        require(
            masks.ndim == 2 and masks.shape[1] == self.num_players,
            f"`coalitions` must have shape (coalitions, {self.num_players}); got "
            f"{masks.shape}.",
        )
        total = sum(
            scores_of(self._network, state, masks, self._y) for state in self._states
        )
        return np.asarray(total) / len(self._states)

    def sweep(
        self, orders: Int[Any, "orders players"], draw: int | None = None
    ) -> Float[np.ndarray, "orders sizes"]:
        """Payoffs of the first 0, 1, …, n players of every order.

        If the next layer is dense, its pre-activation is a running sum, to which every
        player adds an outer product, and one compiled call evaluates up to 32 orders.

        Args:
            orders: rows are orders of the players 0 … n − 1.
            draw: index of the sub-network to use; None averages over all.

        Raises:
            ValueError: a row is not an order of the players.
        """
        rows = np.asarray(orders)
        require(
            rows.ndim == 2
            and rows.shape[1] == self.num_players
            and bool((np.sort(rows, 1) == np.arange(self.num_players)).all()),
            f"`orders` must have rows that order the players 0 … "
            f"{self.num_players - 1}; got an array of shape {rows.shape}.",
        )
        states = self._states if draw is None else [self._states[draw]]
        total = sum(sweep_of(self._network, state, rows, self._y) for state in states)
        return np.asarray(total) / len(states)

    def null_players(self) -> Bool[np.ndarray, " players"]:
        """Units that are null players in every draw: their value is exactly 0.

        In a draw, either their activation equals, for every example, the constant that
        replaces it, or all weights that read them are zero.
        """
        found = [null_units(self._network, state) for state in self._states]
        return np.logical_and.reduce(found)


def _checked_data(ensemble: Ensemble, likelihood: Any, data: Any) -> tuple[Any, Any]:
    pair = array_pair(data)
    check_batch(ensemble, likelihood, *pair)
    return pair


def _check_settings(replacement: str, temperature: float, num_samples: int) -> None:
    require(
        replacement in REPLACEMENTS,
        f"`replacement` must be 'mean' or 'zero'; got {replacement!r}.",
    )
    require(temperature > 0, f"`temperature` must be positive; got {temperature}.")
    require(num_samples >= 0, f"`num_samples` must not be negative; got {num_samples}.")


def _form(tree: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    return [(a.shape, a.dtype) for a in leaves], treedef, jax.tree.leaves(rest)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]
