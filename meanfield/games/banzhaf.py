r"""Banzhaf values: mean marginal contributions if others join with probability ½.

    β_i = 2^{−(n−1)} Σ_{S∌i} [v(S + i) − v(S)]

References:
    Banzhaf 1965, Rutgers Law Review 19:317. Wang & Jia 2023, arXiv:2205.15466.
"""

from jaxtyping import PRNGKeyArray

from meanfield.keys import numpy_generator

from . import exact
from .evaluation import (
    Evaluator,
    ProgressCallback,
    ValueFunction,
    check_budget,
    check_game,
    check_settings,
    default_budget,
    require_budget,
)
from .index_values import IndexValues
from .intervals import exact_estimate
from .regression import banzhaf_estimate


def banzhaf_values(
    value_fn: ValueFunction,
    num_players: int | None = None,
    *,
    key: PRNGKeyArray | None = None,
    budget: int | None = None,
    level: float = 0.95,
    chunk_size: int = 4096,
    progress: bool | ProgressCallback | None = None,
) -> IndexValues:
    r"""Banzhaf values: mean marginal contributions if others join with probability ½.

        β_i = 2^{−(n−1)} Σ_{S∌i} [v(S + i) − v(S)]

    They are the coefficients of the best linear approximation of v over all coalitions.
    They are estimated by least squares on complementary pairs; the estimate is exact
    for quadratic games. Unlike Shapley values they do not sum to v(N) − v(∅).

    Args:
        value_fn: v, bool (coalitions, players) -> (coalitions,); deterministic.
        num_players: n ≥ 2; by default the game's own `num_players`.
        key: a `jax.random.key`; not needed when all coalitions are evaluated.
        budget: at most this many evaluations. Default: 64 per player, or 2^n if fewer.
        level: probability that all intervals cover their values at once.
        chunk_size: coalitions passed to `value_fn` at once.
        progress: True for a bar, or a function (num_evaluations, budget).

    Returns:
        `IndexValues`, in units of the payoff.

    Raises:
        ValueError: as `meanfield.shapley_values`.

    Example:
        >>> import meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> mf.games.banzhaf_values(gloves, 3).values.tolist()
        [0.75, 0.25, 0.25]

    References:
        Hammer & Holzman 1992, ZOR 36:3 (best linear approximation). Wang & Jia 2023,
        arXiv:2205.15466.
    """
    n = check_game(value_fn, num_players)
    check_settings(level, chunk_size, progress)
    budget = default_budget(n) if budget is None else check_budget(budget)
    enumerated = n <= exact.MAX_PLAYERS and budget >= 2**n
    if not enumerated:
        require_budget(budget, 2 * n + 2, "banzhaf")
    evaluate = Evaluator(
        value_fn,
        n,
        budget=2**n if enumerated else budget,
        chunk_size=chunk_size,
        progress=progress,
    )
    try:
        if enumerated:
            payoffs = evaluate(exact.all_coalitions(n))
            values = exact.marginal_values(payoffs, exact.banzhaf_weights(n - 1))
            estimate = exact_estimate(values, payoffs, level)
        else:
            estimate = banzhaf_estimate(evaluate, numpy_generator(key), level=level)
    finally:
        evaluate.close()
    return IndexValues(
        **vars(estimate),
        num_evaluations=evaluate.num_evaluations,
        method="exact" if enumerated else "regression",
    )
