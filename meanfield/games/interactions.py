r"""The Shapley interaction index of every pair of players.

    I_ij = Σ_{S∌i,j} s! (n−s−2)!/(n−1)! [v(S+i+j) − v(S+i) − v(S+j) + v(S)]

References:
    Grabisch & Roubens 1999, Int. J. Game Theory 28:547.
"""

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from meanfield.keys import numpy_generator

from . import exact, permutations as sampling
from .evaluation import (
    Evaluator,
    ProgressCallback,
    ValueFunction,
    check_budget,
    check_game,
    check_settings,
    require_budget,
)
from .index_values import InteractionValues
from .intervals import exact_estimate, replicate_statistics, with_unseen


def interaction_values(
    value_fn: ValueFunction,
    num_players: int | None = None,
    *,
    key: PRNGKeyArray | None = None,
    budget: int | None = None,
    level: float = 0.95,
    chunk_size: int = 4096,
    progress: bool | ProgressCallback | None = None,
) -> InteractionValues:
    r"""Shapley interaction index of every pair of players.

        I_ij = Σ_{S∌i,j} s! (n−s−2)!/(n−1)! [v(S+i+j) − v(S+i) − v(S+j) + v(S)]

    A replicate is a set of orders in which every two players are neighbours exactly
    once, with their reverses. It estimates all pairs by about 2n² evaluations, and is
    exact for games with interactions up to order three.

    Args:
        value_fn: v, bool (coalitions, players) -> (coalitions,); deterministic.
        num_players: n ≥ 2; by default the game's own `num_players`.
        key: a `jax.random.key`; not needed when all coalitions are evaluated.
        budget: at most this many evaluations. Default: those of 16 replicates, or 2^n
            if that is fewer.
        level: probability that the intervals of all pairs cover their values at once.
        chunk_size: coalitions passed to `value_fn` at once.
        progress: True for a bar, or a function (num_evaluations, budget).

    Returns:
        `InteractionValues`, in units of the payoff.

    Raises:
        ValueError: as `meanfield.shapley_values`.

    Example:
        >>> import meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> mf.games.interaction_values(gloves, 3).values.tolist()
        [[0.0, 0.5, 0.5], [0.5, 0.0, -0.5], [0.5, -0.5, 0.0]]

    References:
        Grabisch & Roubens 1999, Int. J. Game Theory 28:547.
    """
    n = check_game(value_fn, num_players)
    check_settings(level, chunk_size, progress)
    paths = neighbour_paths(n)
    cost = 2 * len(paths) * 2 * (paths.shape[1] - 1)
    if budget is None:
        budget = min(2**n, 2 + sampling.FIRST_ROUND * cost)
    budget = check_budget(budget)
    enumerated = n <= exact.MAX_PLAYERS and budget >= 2**n
    if not enumerated:
        require_budget(budget, 2 + cost, "antithetic")
    evaluate = Evaluator(
        value_fn,
        n,
        budget=2**n if enumerated else budget,
        chunk_size=chunk_size,
        progress=progress,
    )
    upper = np.triu_indices(n, 1)
    try:
        if enumerated:
            payoffs = evaluate(exact.all_coalitions(n))
            table = exact.pair_values(payoffs, exact.shapley_weights(n - 2))
            estimate = exact_estimate(table[upper], payoffs, level)
        else:
            rng = numpy_generator(key)
            ends = evaluate.ends()
            replicates = [
                _interaction_replicate(evaluate, rng, paths, ends)[upper]
                for _ in range((budget - 2) // cost)
            ]
            estimate = with_unseen(
                replicate_statistics(np.array(replicates), level=level),
                evaluate.payoff_range,
                len(replicates),
            )
    finally:
        evaluate.close()

    def symmetric(entries):
        matrix = np.zeros((n, n, *entries.shape[1:]))
        matrix[upper] = entries
        return matrix + np.swapaxes(matrix, 0, 1)

    return InteractionValues(
        values=symmetric(estimate.values),
        standard_errors=symmetric(estimate.standard_errors),
        intervals=symmetric(estimate.intervals),
        num_evaluations=evaluate.num_evaluations,
        method="exact" if enumerated else "antithetic",
        level=level,
    )


def neighbour_paths(num_players: int) -> Int[np.ndarray, "paths even_players"]:
    """Orders in which every two players are neighbours exactly once (Walecki).

    The zigzag r, r+1, r−1, r+2, … modulo m, for r < m/2, where m is n if n is even.
    Otherwise m is n + 1, and the additional player n is a null player.
    """
    m = num_players + num_players % 2
    zigzag = np.array([(k + 1) // 2 * (1 if k % 2 else -1) for k in range(m)])
    return (np.arange(m // 2)[:, None] + zigzag) % m


def _interaction_replicate(
    evaluate: Evaluator,
    rng: np.random.Generator,
    paths: Int[np.ndarray, "paths even_players"],
    ends: tuple[float, float],
) -> Float[np.ndarray, "players players"]:
    """All second differences along relabelled paths and their reverses."""
    n, m = evaluate.num_players, paths.shape[1]
    labelled = rng.permutation(m)[paths]
    orders = np.concatenate([labelled, labelled[:, ::-1]])
    ranks = np.argsort(orders, axis=1)[:, None, :]
    place = np.arange(m + 1)[:, None]
    prefixes = ranks < place[1:m]
    # Each prefix with its last player replaced by the next player.
    skipping = (ranks < place[: m - 1]) | (ranks == place[1:m])
    payoffs = evaluate(
        np.concatenate([prefixes, skipping], axis=1)[..., :n].reshape(-1, n)
    ).reshape(len(orders), 2, m - 1)
    path = np.empty((len(orders), m + 1))
    path[:, 0], path[:, -1], path[:, 1:-1] = *ends, payoffs[:, 0]
    # Grouped so that a null player gives exactly 0.
    second = (path[:, 2:] - path[:, 1:-1]) - (payoffs[:, 1] - path[:, :-2])
    table = np.zeros((m, m))
    # Every pair occurs once forwards and once backwards.
    np.add.at(table, (orders[:, :-1], orders[:, 1:]), second / 2)
    return (table + table.T)[:n, :n]
