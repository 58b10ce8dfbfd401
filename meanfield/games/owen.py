r"""Owen values: Shapley values of players in unions whose members join in succession.

    φ_i = mean marginal contribution over orders that keep every union together

References:
    Owen 1977, Values of games with a priori unions, Springer LNEMS 141:76.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.keys import numpy_generator

from . import exact, permutations as sampling
from .evaluation import (
    DEFAULT_BUDGET_PER_PLAYER,
    Evaluator,
    ProgressCallback,
    ValueFunction,
    check_budget,
    check_game,
    check_settings,
    require_budget,
)
from .index_values import Estimate, IndexValues
from .intervals import exact_estimate


def owen_values(
    value_fn: ValueFunction,
    unions: Sequence[Sequence[int]],
    *,
    key: PRNGKeyArray | None = None,
    budget: int | None = None,
    level: float = 0.95,
    tolerance: float | None = None,
    chunk_size: int = 4096,
    progress: bool | ProgressCallback | None = None,
) -> IndexValues:
    r"""Owen values: Shapley values of players that join union by union.

    The values of a union's members sum to the union's Shapley value in the game of the
    unions. If all unions are singletons, or there is a single union, they are the
    Shapley values.

    Args:
        value_fn: v, bool (coalitions, players) -> (coalitions,); deterministic.
        unions: a partition of the players 0 … n − 1, such as [[0, 2], [1, 3], [4]].
        key: a `jax.random.key`; not needed when the values are enumerated.
        budget: at most this many evaluations. Enumeration needs the coalitions that
            split at most one union, 2^k + Σ_u 2^{k−1}(2^{|u|} − 2) for k unions u.
            Default: 64 per player, or the enumeration if that is fewer.
        level: probability that all intervals cover their values at once.
        tolerance: stop early, as in `meanfield.shapley_values`.
        chunk_size: coalitions passed to `value_fn` at once.
        progress: True for a bar, or a function (num_evaluations, budget).

    Returns:
        `IndexValues`, in units of the payoff; they sum to v(N) − v(∅).

    Raises:
        ValueError: `unions` is not a partition; or as for `meanfield.shapley_values`.

    Example:
        >>> import meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> mf.games.owen_values(gloves, [[0], [1, 2]]).values.tolist()
        [0.5, 0.25, 0.25]

    References:
        Owen 1977, Values of games with a priori unions.
    """
    groups = _checked_unions(unions)
    n = check_game(value_fn, sum(len(union) for union in groups))
    check_settings(level, chunk_size, progress)
    sampling.check_tolerance(tolerance)
    all_of_them = _num_coalitions(groups)
    if budget is None:
        budget = min(all_of_them, DEFAULT_BUDGET_PER_PLAYER * n)
    budget = check_budget(budget)
    enumerated = budget >= all_of_them
    if not enumerated:
        require_budget(budget, 2 + sampling.pair_cost(n), "antithetic")
    evaluate = Evaluator(
        value_fn,
        n,
        budget=all_of_them if enumerated else budget,
        chunk_size=chunk_size,
        progress=progress,
    )
    try:
        if enumerated:
            estimate = _enumerated_owen(evaluate, groups, level)
        else:
            rng = numpy_generator(key)
            empty, grand = evaluate.ends()
            draw = sampling.union_orders(groups)
            estimate, _ = sampling.stopped_estimate(
                evaluate,
                lambda count: sampling.antithetic_replicates(
                    evaluate, draw(rng, count), empty, grand
                ),
                sampling.affordable_pairs(n, budget),
                level=level,
                half_width=None
                if tolerance is None
                else tolerance * abs(grand - empty),
            )
    finally:
        evaluate.close()
    return IndexValues(
        **vars(dataclasses.replace(estimate, level=level)),
        num_evaluations=evaluate.num_evaluations,
        method="exact" if enumerated else "antithetic",
    )


def _num_coalitions(unions: list[list[int]]) -> int:
    """Number of coalitions that split at most one union."""
    split = sum(2 ** len(union) - 2 for union in unions)
    return 2 ** len(unions) + 2 ** (len(unions) - 1) * split


def _enumerated_owen(
    evaluate: Evaluator, unions: list[list[int]], level: float
) -> Estimate:
    n, num_others = evaluate.num_players, len(unions) - 1
    joined = exact.all_coalitions(num_others)
    weights = exact.shapley_weights(num_others)[joined.sum(axis=1)]
    tables = [
        _split_coalitions(unions, index, joined, n) for index in range(len(unions))
    ]
    rows, places = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    payoffs = evaluate(rows)
    values, start = np.zeros(n), 0
    for union, table in zip(unions, tables, strict=True):
        ours = payoffs[places.ravel()[start : start + len(table)]]
        start += len(table)
        # First the mean over coalitions of other unions, then the union's own game.
        values[union] = exact.marginal_values(
            weights @ ours.reshape(len(joined), -1),
            exact.shapley_weights(len(union) - 1),
        )
    return exact_estimate(values, payoffs, level)


def _split_coalitions(unions, index: int, joined, num_players: int):
    """All coalitions of `joined` other unions and any subset of union `index`."""
    union, others = unions[index], unions[:index] + unions[index + 1 :]
    outside = np.zeros((len(joined), num_players), dtype=bool)
    for column, other in enumerate(others):
        outside[:, other] = joined[:, column, None]
    inside = np.zeros((2 ** len(union), num_players), dtype=bool)
    inside[:, union] = exact.all_coalitions(len(union))
    return (outside[:, None] | inside).reshape(-1, num_players)


def _checked_unions(unions: Sequence[Sequence[int]]) -> list[list[int]]:
    groups = [[int(player) for player in union] for union in unions]
    players = sorted(player for union in groups for player in union)
    require(
        all(groups) and players == list(range(len(players))),
        "`unions` must be a partition of the players 0 … n − 1 into groups that are "
        f"not empty, such as [[0, 2], [1], [3]]; got {groups}.",
    )
    return groups
