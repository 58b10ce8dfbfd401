r"""Stable coalitions of a given size: no exchange of two players raises the payoff.

The value of a player is an average over coalitions of all sizes and members. The best
coalition of k players is a different question: two players that can replace each other
have equal values, although one of them is enough. So the k players of largest value are
only the start of a local search. In each round with coalition S, v(S − i) is evaluated
for all members and v(S + j) for all others. Exchanges are tried between members whose
removal costs least and others whose addition gains most, and the best exchange is made
as long as it raises the payoff.
"""

import dataclasses
import sys
from typing import Any

import numpy as np
from jaxtyping import Bool

from meanfield.checks import require

from .evaluation import Evaluator, ValueFunction, check_budget, check_game

ROUNDING = 1e-6  # relative error of a float32 mean over examples


@dataclasses.dataclass(frozen=True)
class StableCoalition:
    """The result of `stable_coalition`.

    Attributes:
        mask: mask of the players in the coalition.
        payoff: payoff v of the coalition.
        first_payoff: payoff of the players of largest value, the start of the search.
        num_exchanges: number of rounds that changed the coalition.
        num_evaluations: number of evaluated payoffs.
        stable: False if the budget ended the search.
    """

    mask: Bool[np.ndarray, " players"]
    payoff: float
    first_payoff: float
    num_exchanges: int
    num_evaluations: int
    stable: bool


def stable_coalition(
    value_fn: ValueFunction,
    shapley: Any,
    size: int,
    *,
    width: int = 6,
    budget: int | None = None,
    chunk_size: int = 4096,
) -> StableCoalition:
    r"""A coalition of a given size in which no tried exchange raises the payoff.

    The search starts with the `size` players of largest value. A round evaluates
    v(S − i) for i ∈ S and v(S + j) for j ∉ S. Candidates are the `width` members with
    the largest v(S − i) and the `width` others with the largest v(S + j). Every
    exchange of two candidates is tried, and exchanges of the first 2, 3, … `width`
    candidates of both sides at once; the best one is made if it raises the payoff. In
    an additive game the first coalition is optimal, and no exchange is made.

    The payoff is maximized on the examples that `value_fn` averages over. A neuron game
    needs more examples for this than for values; measure the result on other examples.

    Args:
        value_fn: v, bool (coalitions, players) -> (coalitions,); deterministic.
        shapley: result of `shapley_values`, or an array of one number for each player.
        size: members, from 1 to n − 1.
        width: candidates on either side; with n every exchange of two is tried.
        budget: at most this many evaluations, of which a round costs up to
            n + width² + width − 1. Default: as many as the search needs.
        chunk_size: coalitions passed to `value_fn` at once.

    Returns:
        A `StableCoalition`. Its payoff is at least that of the players of largest
        value.

    Raises:
        ValueError: values are not finite or not one-dimensional, `size` leaves no
            player to exchange, `width` is below 1, or `budget` is below one round.

    Example:
        Player 2 is a copy of player 1, so that one of them is enough:

        >>> import numpy as np, meanfield as mf
        >>> copies = lambda s: 1.0 * s[:, 0] + 3.0 * (s[:, 1] | s[:, 2])
        >>> mf.shapley_values(copies, 3, budget=8).values.tolist()
        [1.0, 1.5, 1.5]
        >>> values = np.array([1.0, 1.5, 1.5])
        >>> mf.games.stable_coalition(copies, values, 2).mask.tolist()
        [True, False, True]

    References:
        This local search is this project's own.
    """
    values = np.asarray(getattr(shapley, "values", shapley), np.float64)
    require(
        values.ndim == 1 and bool(np.isfinite(values).all()),
        "`shapley` must have one finite value for each player; got an array of shape "
        f"{values.shape}.",
    )
    n = check_game(value_fn, len(values))
    require(
        1 <= size < n,
        f"`size` must lie between 1 and {n - 1}, so that there are members and others "
        f"to exchange; got {size}.",
    )
    require(width >= 1, f"`width` must be at least 1 candidate; got {width}.")
    leave, join = min(width, size), min(width, n - size)
    cost = n + leave * join + min(leave, join) - 1
    budget = sys.maxsize if budget is None else check_budget(budget)
    require(
        budget > cost,
        f"`budget` must be at least {cost + 1} evaluations, the first coalition and "
        f"one round; got {budget}.",
    )
    evaluate = Evaluator(
        value_fn, n, budget=budget, chunk_size=chunk_size, progress=None
    )
    mask = np.zeros(n, bool)
    mask[np.argsort(-values, kind="stable")[:size]] = True
    payoff = first = float(evaluate(mask[None])[0])
    exchanges, stable = 0, False
    while not stable and evaluate.num_evaluations + cost <= budget:
        flipped = evaluate(mask ^ np.eye(n, dtype=bool))
        tried = mask ^ _exchanges(mask, flipped, width)
        payoffs = evaluate(tried)
        best = int(payoffs.argmax())
        stable = bool(payoffs[best] - payoff <= ROUNDING * abs(payoff))
        if not stable:
            mask, payoff = tried[best], float(payoffs[best])
            exchanges += 1
    return StableCoalition(
        mask, payoff, first, exchanges, evaluate.num_evaluations, stable
    )


def _exchanges(mask, flipped, width: int) -> Bool[np.ndarray, "exchanges players"]:
    """Masks of exchanges: every pair of candidates, then the first 2, 3, … of both."""
    order = np.argsort(-flipped, kind="stable")
    leaving, joining = order[mask[order]][:width], order[~mask[order]][:width]
    sets = [((i,), (j,)) for i in leaving for j in joining]
    fewer = min(len(leaving), len(joining))
    sets += [(leaving[:count], joining[:count]) for count in range(2, fewer + 1)]
    change = np.zeros((len(sets), len(mask)), bool)
    for row, (out, into) in zip(change, sets, strict=True):
        row[[*out, *into]] = True
    return change
