"""Strong coalitions: the smallest set of neurons that keeps the payoff."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import t as student

from meanfield.checks import require

from .neuron_game import NeuronGame


@dataclasses.dataclass(frozen=True)
class StrongCoalition:
    """The result of `strong_coalition`.

    Attributes:
        mask: mask of the units in the coalition.
        payoffs: payoff of the first 0 … n units in order of value, on the game's data.
        lower_bounds: one-sided lower bounds of v(S_k) − (1 − ε) v(N) − ε v(∅); S_k
            passes the test if its bound is not negative.
        order: the units in order of decreasing value.
        level: level of the bounds.
        certified: False if not even the whole layer passes the test (too few examples).
        memberships: membership of each unit in [0, 1]; see `soft_membership`.
    """

    mask: Bool[np.ndarray, " players"]
    payoffs: Float[np.ndarray, " sizes"]
    lower_bounds: Float[np.ndarray, " sizes"]
    order: Any
    level: float
    certified: bool
    memberships: Float[np.ndarray, " players"]

    @property
    def size(self) -> int:
        """Number of units in the coalition."""
        return int(self.mask.sum())


def soft_membership(
    values: Float[Any, " players"],
    mask: Bool[Any, " units"],
    *,
    temperature: float | int | None = None,
) -> Float[np.ndarray, " players"]:
    r"""Soft memberships of the units in a coalition, from their values.

        p_i = 1 / (1 + exp(−(φ_i − θ) / T))

    These are Gibbs probabilities with the energy −φ_i of a member; the threshold θ is
    halfway between the smallest value inside and the largest outside. T → 0 gives the
    coalition itself.

    Args:
        values: Shapley values φ.
        mask: the strong coalition, a prefix of their ranking.
        temperature: T > 0 in units of the payoff; by default the standard deviation of
            the values.

    Returns:
        Memberships in [0, 1]; all 1 if every unit is inside, all 0 if none is.

    Raises:
        ValueError: shapes differ, or T ≤ 0.

    Example:
        >>> import numpy as np
        >>> from meanfield.neurons.strong import soft_membership
        >>> mask = np.array([True, False])
        >>> soft_membership(np.array([3.0, 1.0]), mask, temperature=1.0).round(3)
        array([0.731, 0.269])

    References:
        Bouchaffra et al. 2024, arXiv:2410.12264 (neurons under a Gibbs
        distribution); this form is this project's own.
    """
    phi, inside = np.asarray(values, np.float64), np.asarray(mask, bool)
    require(
        phi.ndim == 1 and phi.shape == inside.shape,
        f"`values` and `mask` must have one entry per unit; got {phi.shape} and "
        f"{inside.shape}.",
    )
    if temperature is None:
        temperature = float(phi.std()) or 1.0
    require(temperature > 0, f"`temperature` must be positive; got {temperature}.")
    if inside.all() or not inside.any():
        return inside.astype(np.float64)
    threshold = (phi[inside].min() + phi[~inside].max()) / 2
    return expit((phi - threshold) / temperature)


def strong_coalition(
    game: NeuronGame,
    shapley: Any,
    *,
    epsilon: float = 0.02,
    level: float = 0.95,
) -> StrongCoalition:
    r"""The smallest prefix of the ranking that keeps (1 − ε) of the payoff's gain.

    Let S_k be the first k units in order of decreasing Shapley value. S_k is sufficient
    if, on the game's examples,

        v(S_k) − (1 − ε) v(N) − ε v(∅)  ≥  0

    at the given confidence, by a one-sided t-bound over examples. Sizes are tested from
    n − 1 downwards until one fails, so no correction for many tests is needed;
    `certified` says whether n passes.

    Args:
        game: the game on other data than those on which `shapley` was estimated.
        shapley: result of `shapley_values`, or an array of one number for each
            unit, such as ``unit_values(...).values[layer]``.
        epsilon: fraction of the payoff's gain that may be lost, in [0, 1).
        level: confidence of the bound, in (0.5, 1).

    Returns:
        A `StrongCoalition`.

    Raises:
        ValueError: there are not as many values as units, or a number is out of range.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (32, 4))
        >>> game = mf.NeuronGame(ensemble, layer="layers/0", data=(x, x.argmax(1) % 3))
        >>> shapley = mf.shapley_values(game, game.num_players, key=jax.random.key(3))
        >>> mf.strong_coalition(game, shapley).mask.shape
        (8,)

    References:
        Bouchaffra et al. 2024, arXiv:2410.12264 (only the strong coalition
        propagates); the test that certifies it is this project's own.
    """
    values = np.asarray(getattr(shapley, "values", shapley), np.float64)
    n = game.num_players
    require(
        values.shape == (n,),
        f"`shapley` must have one value for each of the {n} units; got {values.shape}.",
    )
    require(0 <= epsilon < 1, f"`epsilon` must lie in [0, 1); got {epsilon}.")
    require(0.5 < level < 1, f"`level` must lie in (0.5, 1); got {level}.")
    order = np.argsort(-values, kind="stable")
    prefixes = np.zeros((n + 1, n), bool)
    for size in range(1, n + 1):
        prefixes[size, order[:size]] = True
    scores = game.scores(prefixes)
    kept = scores - (1 - epsilon) * scores[-1] - epsilon * scores[0]
    examples = scores.shape[1]
    require(examples >= 2, f"`game` must have at least two examples; got {examples}.")
    error = kept.std(1, ddof=1) / np.sqrt(examples)
    bounds = kept.mean(1) - student.ppf(level, examples - 1) * error
    passed = bounds >= 0
    size = n
    while size > 0 and passed[size - 1]:
        size -= 1
    return StrongCoalition(
        prefixes[size],
        scores.mean(1),
        bounds,
        order,
        level,
        bool(passed[n]),
        soft_membership(values, prefixes[size]),
    )
