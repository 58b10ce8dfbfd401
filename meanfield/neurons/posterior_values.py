r"""Shapley values of neurons under the posterior, with two separate uncertainties.

K sub-networks θ_k are drawn, each with its own M antithetic pairs of orders. Then

    Monte-Carlo error     due to the finite number of orders      (within draws)
    posterior spread      standard deviation of φ[v_θ] over θ     (between draws)

are separated by a one-way random-effects model (`clustered_statistics`). Orders of one
draw use the same network, so the standard error treats draws, not orders, as
independent.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.games.clusters import clustered_statistics
from meanfield.games.evaluation import check_budget, check_settings, default_budget
from meanfield.games.index_values import AbstractValues
from meanfield.games.permutations import pair_cost, random_orders
from meanfield.keys import numpy_generator

from .neuron_game import NeuronGame


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorValues(AbstractValues):
    """Shapley values of neurons under the posterior: φ[E_θ v_θ] = E_θ φ[v_θ].

    For values, standard errors (due to finitely many draws and orders), intervals,
    evaluations and level see `AbstractValues`. In addition it has:

    Attributes:
        monte_carlo_errors: the part of the standard errors that more orders per draw
            would remove; NaN with one pair per draw.
        posterior_scale: standard deviation over θ of φ[v_θ], without the Monte-Carlo
            noise; NaN with one pair per draw.
        credible_intervals: (players, 2), intervals for the value in one drawn network,
            each at `level` (Gaussian approximation).
        null_players: mask of the units whose value is exactly 0; they are not sampled.
        num_samples: K, number of drawn sub-networks.
        num_pairs: M, number of antithetic pairs per draw.
        empty_value: mean over draws of v(∅).
        grand_value: mean over draws of v(N).
    """

    monte_carlo_errors: Float[np.ndarray, " players"]
    posterior_scale: Float[np.ndarray, " players"]
    credible_intervals: Float[np.ndarray, "players 2"]
    null_players: Bool[np.ndarray, " players"]
    num_samples: int
    num_pairs: int
    empty_value: float
    grand_value: float


def posterior_shapley_values(
    game: NeuronGame,
    *,
    key: PRNGKeyArray,
    budget: int | None = None,
    level: float = 0.95,
) -> PosteriorValues:
    r"""Shapley values of a layer's units, averaged over sub-networks of the posterior.

    Args:
        game: a `NeuronGame` with ``num_samples`` of at least 2.
        key: a `jax.random.key`, for the orders.
        budget: at most this many evaluations over all draws. Default: 64 per player and
            draw.
        level: probability that all intervals cover their values at once.

    Returns:
        `PosteriorValues`.

    Raises:
        ValueError: fewer than two draws, or a budget below one antithetic pair per
            draw.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 2)), jnp.arange(8) % 2
        >>> game = mf.NeuronGame(ensemble, "layers/0", data, num_samples=3,
        ...                      key=jax.random.key(3))
        >>> found = mf.neurons.posterior_shapley_values(game, key=jax.random.key(4))
        >>> found.posterior_scale.shape
        (4,)

    References:
        Mitchell et al. 2022, arXiv:2104.12199 (antithetic permutations). The separation
        of the two errors is this project's own.
    """
    n, draws = game.num_players, game.num_samples
    check_settings(level, 1, None)
    require(
        draws >= 2,
        "`game` must have at least 2 sub-networks for the posterior's spread; got "
        f"{draws}. Make it with NeuronGame(..., num_samples=8, key=...), or use "
        "shapley_values for one network.",
    )
    budget = draws * default_budget(n) if budget is None else check_budget(budget)
    null = game.null_players()
    live = np.flatnonzero(~null)
    cost = max(pair_cost(len(live)), 1)
    pairs = (budget // draws - 2) // cost
    require(
        pairs >= 1,
        f"`budget` must be at least {draws * (2 + cost)} evaluations for one "
        f"antithetic pair per draw; got {budget}.",
    )
    rng = numpy_generator(key)
    replicates = np.zeros((draws, pairs, n))
    ends = np.zeros((draws, 2))
    for draw in range(draws):
        orders = live[random_orders(len(live))(rng, pairs)]
        both = np.concatenate([orders, orders[:, ::-1]])
        rest = np.tile(np.flatnonzero(null), (len(both), 1))
        path = game.sweep(np.concatenate([both, rest], axis=1).astype(int), draw)
        gains = np.diff(path[:, : len(live) + 1], axis=1)
        values = np.zeros((2 * pairs, n))
        np.put_along_axis(values, both, gains, axis=1)
        replicates[draw] = (values[:pairs] + values[pairs:]) / 2
        ends[draw] = path[0, 0], path[0, -1]
    found = clustered_statistics(replicates, level=level)
    empty, grand = ends.mean(0)
    certain = lambda entries: np.where(
        null.reshape(-1, *[1] * (entries.ndim - 1)), 0.0, entries
    )
    return PosteriorValues(
        values=found.values,
        standard_errors=found.standard_errors,
        monte_carlo_errors=certain(found.monte_carlo_errors),
        posterior_scale=certain(found.posterior_scale),
        intervals=certain(found.intervals),
        credible_intervals=certain(found.credible_intervals),
        null_players=null,
        num_evaluations=draws * (2 + pairs * cost),
        num_samples=draws,
        num_pairs=pairs,
        method="antithetic",
        level=level,
        empty_value=float(empty),
        grand_value=float(grand),
    )
