r"""The neuron game: which neurons of a layer carry the decision.

Players are the output units of a layer. In a coalition S the units outside are held at
their mean activation, as in the network that would ship without them (the mean folds
into the next bias); the payoff v(S) is what that network achieves on data, averaged
over draws from the posterior.

Source: Bouchaffra et al. 2024, arXiv:2410.12264 (neurons as players, energy-driven
payoff); Ghorbani & Zou 2020, arXiv:2002.09815 (neuron Shapley). Mean replacement and
the bounded payoff are this project's choice: with zeros in their place partial
coalitions are over-confident, and the log-likelihood game is then a bad one.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble import Ensemble
from meanfield.learning.batches import array_data, check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.propagation.program import Units, trace

PAYOFFS = ("probability", "accuracy", "brier", "log_likelihood", "mse", "free_energy")
REPLACEMENTS = ("mean", "zero")
AT_ONCE = 16


class NeuronGame:
    r"""A cooperative game of the units of a layer: call it with coalitions.

        v(S) = ⟨ payoff of the network in which only S acts ⟩ over draws and examples

    Args:
        ensemble: a trained ensemble.
        layer: a parameter path without its last name, such as ``"layers/1"``. Players
            are the units of a dense layer or the channels of a convolution.
        data: arrays (x, y): the examples that the payoff averages over, and those that
            the mean activations come from.
        likelihood: as in `fit`.
        payoff: "probability" of the right class or exp(log-likelihood) (default for
            classes), "accuracy", "brier" (negative), "log_likelihood", "mse" (negative;
            default for real targets), or "free_energy",
            −⟨E(x, y) + T ln Σ_y' exp(−E(x, y')/T)⟩ with E = −logit: minus T times
            the cross-entropy of the Gibbs distribution at temperature T.
        replacement: "mean" activation (default) or "zero" for units outside.
        temperature: T > 0 of the free energy.
        num_draws: sub-networks to average over; 0 takes the network of posterior means.
        fixed: coalitions of other layers that hold already, by layer.
        key: a `jax.random.key`; needed when `num_draws` is not 0.

    Attributes:
        num_players: number of units.

    Raises:
        ValueError: an unknown layer (those there are get listed), a layer whose units
            cannot be masked, an unknown payoff, or data that do not fit.

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
        temperature: float = 1.0,
        num_draws: int = 0,
        fixed: Mapping[str, Any] | None = None,
        key: PRNGKeyArray | None = None,
    ):
        pair = array_data(data)
        if pair is None:
            raise TypeError("`data` must be a pair of arrays (x, y).")
        check_batch(ensemble, likelihood, *pair)
        payoff = payoff or (
            "probability" if isinstance(likelihood, Categorical) else "mse"
        )
        require(
            payoff in PAYOFFS,
            f"`payoff` must be one of {', '.join(PAYOFFS)}; got {payoff!r}.",
        )
        require(
            replacement in REPLACEMENTS,
            f"`replacement` must be 'mean' or 'zero'; got {replacement!r}.",
        )
        require(temperature > 0, f"`temperature` must be positive; got {temperature}.")
        require(num_draws >= 0, f"`num_draws` must not be negative; got {num_draws}.")
        require(
            num_draws == 0 or key is not None,
            "`key` is needed to draw sub-networks; pass key=jax.random.key(seed), or "
            "num_draws=0 for the network of posterior means.",
        )
        self.layer, self.payoff = layer, payoff
        self._x, self._y = pair
        points = _point_params(ensemble, None)
        program = trace(ensemble.apply_fn, points, self._x)
        units = program.units(layer)
        self.num_players = units.size
        held = {
            program.units(name).place: (program.units(name), np.asarray(mask, bool))
            for name, mask in (fixed or {}).items()
        }
        for known, mask in held.values():
            require(
                mask.shape == (known.size,),
                f"`fixed` has a mask of shape {mask.shape} for a layer of {known.size} "
                "units.",
            )
        drawn = _draws(ensemble, num_draws, key)
        measure = _measure(payoff, likelihood, temperature)

        @eqx.filter_jit
        def scores(params: Any, masks: Any, x: Any, y: Any) -> Any:
            def one(mask: Any) -> Any:
                change = _masking({units.place: (units, mask), **held}, replacement)
                return measure(program.run(params, x, change), y)

            return jax.lax.map(one, masks, batch_size=AT_ONCE)

        self._scores: Callable[..., Any] = scores
        self._drawn, self._num_draws, self._likelihood = drawn, num_draws, likelihood
        self._program, self._units, self._points = program, units, points
        self._held, self._replacement = held, replacement

    def replay(
        self,
        ensemble: Ensemble,
        data: tuple[Any, Any] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> "NeuronGame":
        """The same game of another network of the same form: nothing is compiled anew.

        Args:
            ensemble: the same network with other weights, as training leaves it.
            data: arrays (x, y) of the same shapes; the game's own if not given.
            key: a `jax.random.key`; needed when the game draws sub-networks.

        Raises:
            ValueError: a network of another form, data of other shapes, or no `key`.
        """
        x, y = (self._x, self._y) if data is None else array_data(data) or (None, None)
        check_batch(ensemble, self._likelihood, x, y)
        require(
            not self._num_draws or key is not None,
            "`key` is needed to draw sub-networks; pass key=jax.random.key(seed).",
        )
        points = _point_params(ensemble, None)
        require(
            _form(points) == _form(self._points),
            "`ensemble` must have the form of the network that the game was made "
            "with: the same arrays and shapes. Make a new game for another network.",
        )
        require(
            _form((x, y)) == _form((self._x, self._y)),
            f"`data` must have the shapes of the game's own, {_shapes(self._x)} and "
            f"{_shapes(self._y)}; got {_shapes(x)} and {_shapes(y)}.",
        )
        other = copy.copy(self)
        other._x, other._y, other._points = x, y, points
        other._drawn = _draws(ensemble, self._num_draws, key)
        return other

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
            ValueError: coalitions of another number of players.
        """
        masks = np.asarray(coalitions, bool)
        require(
            masks.ndim == 2 and masks.shape[1] == self.num_players,
            f"`coalitions` must have shape (coalitions, {self.num_players}); got "
            f"{masks.shape}.",
        )
        # One size of block, so that any number of coalitions is one program.
        blocks = []
        size = max(AT_ONCE, min(256, 1 << (max(len(masks), 1) - 1).bit_length()))
        for start in range(0, len(masks), size):
            block = masks[start : start + size]
            padded = np.zeros((size, self.num_players), bool)
            padded[: len(block)] = block
            draws = [
                np.asarray(self._scores(params, padded, self._x, self._y), np.float64)
                for params in self._drawn
            ]
            blocks.append(np.mean(draws, axis=0)[: len(block)])
        return np.concatenate(blocks)

    def null_players(self) -> Bool[np.ndarray, " players"]:
        """Units whose activation is the same for every example, in every draw.

        Held at their mean they are what they are: their value is exactly 0.
        """
        constant = np.ones(self.num_players, bool)
        for params in self._drawn:
            seen: dict[int, Any] = {}

            def keep(place: int, value: Any, seen: dict[int, Any] = seen) -> Any:
                if place in self._held:
                    known, mask = self._held[place]
                    value = _hold(value, known, jnp.asarray(mask), self._replacement)
                if place == self._units.place:
                    seen[place] = value
                return value

            self._program.run(params, self._x, keep)
            value = jnp.moveaxis(seen[self._units.place], self._units.axis, 0)
            rows = np.asarray(value.reshape(self.num_players, -1))
            constant &= (rows == rows[:, :1]).all(1)
        return constant


def _draws(ensemble: Ensemble, num_draws: int, key: Any) -> list[Any]:
    """Parameters of the sub-networks to average over, or of the posterior means."""
    if not num_draws:
        return [_point_params(ensemble, None)]
    keys = jax.random.split(key, num_draws)
    return [_point_params(ensemble, each) for each in keys]


def _form(tree: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    return [(a.shape, a.dtype) for a in leaves], treedef, jax.tree.leaves(rest)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def _point_params(ensemble: Ensemble, key: Any) -> Any:
    """Parameters of one sub-network, or of the posterior means."""
    laws = ensemble.weights()
    if key is None:
        return ensemble.with_weights(
            {name: law.mean for name, law in laws.items()}
        ).params
    keys = dict(zip(laws, jax.random.split(key, len(laws)), strict=True))
    drawn = {name: law.sample(keys[name]) for name, law in laws.items()}
    return ensemble.with_weights(drawn).params


def _masking(
    held: Mapping[int, tuple[Units, Any]], replacement: str
) -> Callable[[int, Any], Any]:
    def change(place: int, value: Any) -> Any:
        if place not in held:
            return value
        units, mask = held[place]
        return _hold(value, units, jnp.asarray(mask), replacement)

    return change


def _hold(value: Array, units: Units, mask: Array, replacement: str) -> Array:
    """Units outside the mask at their mean over everything else, or at zero."""
    shape = [1] * value.ndim
    shape[units.axis] = units.size
    others = tuple(axis for axis in range(value.ndim) if axis != units.axis)
    rest = jnp.zeros_like(value)
    if replacement == "mean":
        # A constant unit is its own mean, to the bit: its value is exactly 0.
        constant = value.max(others, keepdims=True) == value.min(others, keepdims=True)
        rest = jnp.where(constant, value, value.mean(others, keepdims=True))
    return jnp.where(mask.reshape(shape), value, rest)


def _measure(
    payoff: str, likelihood: Any, temperature: float
) -> Callable[[Any, Any], Any]:
    """Payoff of every example from outputs and targets."""

    def measure(outputs: Any, y: Any) -> Any:
        if payoff == "free_energy":
            logits = outputs / temperature
            chosen = jnp.take_along_axis(logits, y[:, None], -1)[:, 0]
            return temperature * (chosen - jax.nn.logsumexp(logits, -1))
        distribution: Any = output_distribution(likelihood, outputs)
        targets = align_targets(distribution, y)
        if payoff in ("probability", "log_likelihood"):
            log_prob = distribution.log_prob(targets)
            return jnp.exp(log_prob) if payoff == "probability" else log_prob
        if payoff == "mse":
            error = jnp.square(distribution.mean - targets)
            return -error.reshape(error.shape[0], -1).mean(1)
        probs = distribution.probs
        if payoff == "accuracy":
            return (probs.argmax(-1) == targets).astype(probs.dtype)
        return -jnp.square(probs - jax.nn.one_hot(targets, probs.shape[-1])).sum(-1)

    return measure
