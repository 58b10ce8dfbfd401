r"""Shapley values of any cooperative game, with standard errors and intervals.

    φ_i = Σ_{S ∌ i} |S|! (n − |S| − 1)! / n! · [v(S + i) − v(S)]

A game is any function v from a boolean array (coalitions, players) to payoffs. If the
budget covers all 2^n coalitions, they are enumerated, whatever the method. Otherwise:

| `method`       | idea                             | choose it                      |
|----------------|----------------------------------|--------------------------------|
| `"auto"`       | surrogate up to 32 evaluations   | by default                     |
|                | per player, else antithetic      |                                |
| `"antithetic"` | orders of the players, each with | for intervals: unbiased, null  |
|                | its reverse                      | players exactly 0, stops early |
| `"stratified"` | every coalition informs every    | when the payoff depends mainly |
|                | player, size by size             | on the coalition's size        |
| `"kernel"`     | paired least squares             | for nearly additive games      |
| `"leverage"`   | the same, all sizes drawn        | for nearly additive games      |
|                | equally often                    | with many players              |
| `"surrogate"`  | Gaussian process over coalitions | for the smallest error when    |
|                | with a kernel that fits the game | evaluations are expensive      |

All methods evaluate pairs of complementary coalitions, and their values sum to
v(N) − v(∅). Permutations and least squares are exact for quadratic games. The intervals
of all methods but the surrogate assume nothing except that coalitions are drawn at
random. The surrogate's error follows from its prior: correct on average over games
drawn from this prior, and wrong for a single game unlike them (for example an airport
game of a hundred players). So its intervals are (−∞, ∞), which claim nothing.

If a game has a method `sweep(orders)`, which returns all n + 1 payoffs along each order
at once, as that of `meanfield.NeuronGame` does, "auto" is "antithetic" whatever the
budget. If it has `null_players()`, these are left out of the orders and get exactly 0.

References:
    Shapley 1953. Castro, Gómez & Tejada 2009, Computers & OR 36:1726 (permutations).
    Mitchell et al. 2022, arXiv:2104.12199 (antithetic permutations).
"""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.keys import numpy_generator

from . import exact, permutations as sampling, regression, stratified, surrogate
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
from .index_values import Estimate, ShapleyValues
from .intervals import exact_estimate
from .shrinkage import checked_control, shrink

Method = Literal[
    "auto", "antithetic", "stratified", "kernel", "leverage", "surrogate", "exact"
]
# Up to this many evaluations per player the surrogate has by far the smallest error,
# and there are too few antithetic pairs to estimate their error.
SURROGATE_PER_PLAYER = 32


def shapley_values(
    value_fn: ValueFunction,
    num_players: int | None = None,
    *,
    key: PRNGKeyArray | None = None,
    budget: int | None = None,
    method: Method = "auto",
    level: float = 0.95,
    tolerance: float | None = None,
    control: Any = None,
    chunk_size: int = 4096,
    progress: bool | ProgressCallback | None = None,
) -> ShapleyValues:
    r"""Shapley values φ_i of a game, with simultaneous intervals.

        φ_i = Σ_{S ∌ i} |S|! (n − |S| − 1)! / n! · [v(S + i) − v(S)]

    Args:
        value_fn: v, from a boolean NumPy array (coalitions, players) to one payoff per
            row, in NumPy or JAX (a jitted function is called with few different
            shapes). It must be deterministic. A `shapiq` game can be passed too.
        num_players: n ≥ 2; by default the game's own `num_players`.
        key: a `jax.random.key`; not needed when all coalitions are evaluated. The same
            key gives the same result, for any `chunk_size`.
        budget: at most this many evaluations, ∅ and N included. Default: 64 per player,
            or 2^n if that is fewer (all of them for ``method="exact"``). A budget of
            2^n or more (n ≤ 20) is spent on exact values.
        method: see the table at the top of the module. "auto" takes the antithetic
            method if there is a `tolerance` or a `control`. The surrogate makes at most
            8194 evaluations, even if the budget allows more.
        level: probability that all intervals cover their values at once.
        tolerance: stop as soon as every half-width is at most `tolerance` times
            |v(N) − v(∅)|. This is checked after 16, 32, 64, … pairs; the s-th check
            uses α/2^s of α = 1 − `level`, so that the intervals keep their level. Only
            for the antithetic method.
        control: values from another method, such as those of `meanfield.unit_values`
            for the units of a `NeuronGame`. The sampled values are shrunk towards them
            as far as sampling noise can explain the difference: this saves evaluations
            if the control is good, and costs nothing if it is bad. Errors remain those
            of the sample; intervals change only where they have to be widened to
            include the new values. Only for the antithetic method.
        chunk_size: coalitions passed to `value_fn` at once.
        progress: True for a bar, or a function (num_evaluations, budget).

    Returns:
        `ShapleyValues`: values and standard errors in units of the payoff.

    Raises:
        ValueError: fewer than two players; a budget below the method's minimum (the
            message states it); payoffs of the wrong shape or not finite (the message
            names the coalition); a `tolerance` for a method that cannot stop early; a
            `control` for another method, or not one value for each player.
        TypeError: `value_fn` is not a function, or `key` is not a typed key.

    Example:
        >>> import jax, meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> mf.shapley_values(gloves, 3, budget=8).values.round(3).tolist()
        [0.667, 0.167, 0.167]

    References:
        Shapley 1953, A value for n-person games. Mitchell et al. 2022,
        arXiv:2104.12199.
    """
    n = check_game(value_fn, num_players)
    check_settings(level, chunk_size, progress)
    require(
        method in get_args(Method),
        f"`method` must be one of {', '.join(get_args(Method))}; got {method!r}.",
    )
    budget = _budget(budget, n, method)
    if method == "auto":
        dear = budget <= SURROGATE_PER_PLAYER * n and not hasattr(value_fn, "sweep")
        plain = tolerance is None and control is None
        method = "surrogate" if dear and plain else "antithetic"
    enumerated = n <= exact.MAX_PLAYERS and budget >= 2**n
    _check_tolerance(tolerance, method)
    control = checked_control(control, n)
    require(
        control is None or method in ("antithetic", "exact"),
        '`control` needs method="antithetic", whose values are unbiased; got '
        f"method={method!r}. Leave `control` out.",
    )
    if not enumerated:
        require_budget(budget, _minimum_budget(method, n), method)
    evaluate = Evaluator(
        value_fn,
        n,
        budget=2**n if enumerated else budget,
        chunk_size=chunk_size,
        progress=progress,
    )
    converged = None if tolerance is None else True
    try:
        if enumerated:
            estimate, empty, grand = _enumerated(evaluate, level)
            method = "exact"
        elif method == "antithetic":
            estimate, empty, grand, converged = _antithetic(
                evaluate, numpy_generator(key), level, tolerance
            )
            if control is not None:
                estimate = shrink(estimate, control, grand - empty)
        elif method == "stratified":
            estimate, empty, grand = stratified.stratified_estimate(
                evaluate, numpy_generator(key), level=level
            )
        elif method == "surrogate":
            estimate, empty, grand = surrogate.surrogate_estimate(
                evaluate, numpy_generator(key), level=level
            )
        else:
            estimate, empty, grand = regression.regression_estimate(
                evaluate, numpy_generator(key), sampling=method, level=level
            )
    finally:
        evaluate.close()
    return ShapleyValues(
        **vars(dataclasses.replace(estimate, level=level)),
        num_evaluations=evaluate.num_evaluations,
        method=method,
        empty_value=empty,
        grand_value=grand,
        converged=converged,
    )


def _budget(budget: int | None, n: int, method: str) -> int:
    if method == "exact":
        require(n <= exact.MAX_PLAYERS, _too_many(n))
        return 2**n if budget is None else check_budget(budget)
    return default_budget(n) if budget is None else check_budget(budget)


def _too_many(n: int) -> str:
    return (
        f'method "exact" enumerates 2^n coalitions and needs `num_players` of at most '
        f'{exact.MAX_PLAYERS}; got {n}. Use the default, "antithetic".'
    )


def _minimum_budget(method: str, n: int) -> int:
    return {
        "antithetic": 2 + sampling.pair_cost(n),
        "stratified": stratified.minimum_budget(n),
        "kernel": regression.minimum_budget(n),
        "leverage": regression.minimum_budget(n),
        "surrogate": surrogate.MIN_BUDGET,
        "exact": 2**n,
    }[method]


def _check_tolerance(tolerance: float | None, method: str) -> None:
    sampling.check_tolerance(tolerance)
    require(
        tolerance is None or method in ("antithetic", "exact"),
        '`tolerance` needs method="antithetic", which can stop early; got '
        f"method={method!r}. Leave `tolerance` out.",
    )


def _enumerated(evaluate: Evaluator, level: float) -> tuple[Estimate, float, float]:
    n = evaluate.num_players
    payoffs = evaluate(exact.all_coalitions(n))
    values = exact.marginal_values(payoffs, exact.shapley_weights(n - 1))
    return exact_estimate(values, payoffs, level), payoffs[0], payoffs[-1]


def _antithetic(
    evaluate: Evaluator,
    rng: np.random.Generator,
    level: float,
    tolerance: float | None,
) -> tuple[Estimate, float, float, bool | None]:
    empty, grand = evaluate.ends()
    live = np.flatnonzero(~evaluate.null_players())
    if len(live) < 2:
        # The only player that is not null gets all of v(N) − v(∅).
        values = np.zeros(evaluate.num_players)
        values[live] = grand - empty
        estimate = exact_estimate(values, np.array([empty, grand]), level)
        return estimate, empty, grand, None if tolerance is None else True
    draw = sampling.random_orders(len(live))
    estimate, converged = sampling.stopped_estimate(
        evaluate,
        lambda count: sampling.antithetic_replicates(
            evaluate, live[draw(rng, count)], empty, grand
        ),
        sampling.affordable_pairs(len(live), evaluate.budget),
        level=level,
        half_width=None if tolerance is None else tolerance * abs(grand - empty),
        players=live,
    )
    return estimate, empty, grand, converged
