r"""Permutation sweeps: the marginal contributions of players who join one by one.

Player i's marginal contribution is v(P + i) − v(P), P the players before i. Its mean
over all orders is the Shapley value; over orders that keep unions together, the Owen
value. An antithetic pair is one order and its reverse. With the odd part
g(S) = ½[v(S) − v(N∖S)] the mean of the pair is g(P + i) − g(P), so everything even in
the game cancels: one pair is exact whenever g is linear, as in every quadratic game.

Every sweep telescopes: its contributions sum to v(N) − v(∅) exactly. A player that
never changes the payoff gets exactly 0.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from meanfield.checks import require

from .evaluation import Evaluator
from .index_values import Estimate
from .intervals import padded_estimate, replicate_statistics, with_unseen

FIRST_ROUND = 16  # replicates before the first look at a stopping rule
ROWS_AT_ONCE = 4096  # coalitions in memory at once
# A game that implements `sweep` itself needs no coalitions in memory; its blocks are
# small so that progress is reported often.
PAIRS_AT_ONCE = 64

Orders = Int[np.ndarray, "replicates players"]
DrawOrders = Callable[[np.random.Generator, int], Orders]


def random_orders(num_players: int) -> DrawOrders:
    """Uniform orders of the players."""

    def draw(rng: np.random.Generator, count: int) -> Orders:
        return rng.permuted(np.tile(np.arange(num_players), (count, 1)), axis=1)

    return draw


def union_orders(unions: list[list[int]]) -> DrawOrders:
    """Orders of the unions and of the players inside each, unions kept together."""

    def draw(rng: np.random.Generator, count: int) -> Orders:
        rows = []
        for _ in range(count):
            blocks = [
                rng.permutation(unions[union]) for union in rng.permutation(len(unions))
            ]
            rows.append(np.concatenate(blocks))
        return np.array(rows)

    return draw


def pair_cost(num_players: int) -> int:
    """Evaluations of one antithetic pair, ∅ and N (paid once) not counted."""
    return 2 * (num_players - 1)


def affordable_pairs(num_players: int, budget: int) -> int:
    """Antithetic pairs within a budget that also pays for ∅ and N."""
    return (budget - 2) // pair_cost(num_players)


def rounds(count: int, *, doubling: bool) -> Iterator[int]:
    """Sizes of the rounds: a single round, or with totals of 16, 32, 64, …."""
    total = 0
    target = FIRST_ROUND if doubling else count
    while total < count:
        upto = min(target, count)
        yield upto - total
        total, target = upto, 2 * target


def antithetic_replicates(
    evaluate: Evaluator,
    orders: Int[np.ndarray, "replicates entries"],
    empty: float,
    grand: float,
) -> Float[np.ndarray, "replicates players"]:
    """Mean marginal contributions over every order and its reverse.

    Players that an order leaves out get 0.
    """
    block = max(1, ROWS_AT_ONCE // max(pair_cost(orders.shape[1]), 1))
    if evaluate.sweeps:
        block = PAIRS_AT_ONCE
    replicates = np.zeros((len(orders), evaluate.num_players))
    for start in range(0, len(orders), block):
        part = orders[start : start + block]
        forward, backward = sweep(
            evaluate, np.stack([part, part[:, ::-1]]), empty, grand
        )
        replicates[start : start + len(part)] = (forward + backward) / 2
    return replicates


def sweep(
    evaluate: Evaluator, orders: Int[np.ndarray, "*batch entries"], empty, grand
) -> Float[np.ndarray, "*batch players"]:
    """Marginal contributions along every order, by n − 1 evaluations for n players.

    If the game has its own `sweep`, it is used together with the payoffs of ∅ and N
    that it returns, so that a null player gets exactly 0.
    """
    count, lengths = orders.shape[-1], np.arange(1, orders.shape[-1])[:, None]
    flat = orders.reshape(-1, count)
    path = evaluate.sweep(_with_the_rest(flat, evaluate.num_players), count)
    if path is None:
        ranks = np.full((len(flat), evaluate.num_players), count)
        np.put_along_axis(ranks, flat, np.arange(count)[None], axis=1)
        coalitions = ranks[:, None, :] < lengths
        payoffs = evaluate(coalitions.reshape(-1, evaluate.num_players))
        path = np.empty((len(flat), count + 1))
        path[:, 0], path[:, -1] = empty, grand
        path[:, 1:-1] = payoffs.reshape(len(flat), -1)
    values = np.zeros((len(flat), evaluate.num_players))
    np.put_along_axis(values, flat, np.diff(path, axis=1), axis=1)
    return values.reshape(*orders.shape[:-1], -1)


def _with_the_rest(
    orders: Int[np.ndarray, "orders entries"], num_players: int
) -> Int[np.ndarray, "orders players"]:
    """Orders completed to all players: the players left out are added at the end."""
    missing = np.setdiff1d(np.arange(num_players), orders[0])
    return np.concatenate([orders, np.tile(missing, (len(orders), 1))], axis=1)


def check_tolerance(tolerance: float | None) -> None:
    """Raise `ValueError` unless the tolerance is absent or positive."""
    require(
        tolerance is None or tolerance > 0,
        f"`tolerance` must be positive, a share of |v(N) - v(∅)|; got {tolerance}.",
    )


def stopped_estimate(
    evaluate: Evaluator,
    draw_replicates: Callable[[int], np.ndarray],
    count: int,
    *,
    level: float,
    half_width: float | None,
    players: Int[np.ndarray, " some"] | None = None,
) -> tuple[Estimate, bool | None]:
    """Statistics of at most `count` replicates, stopping early on narrow intervals.

    Interim look s uses α/2^s of the error probability α = 1 − `level`. So whenever the
    sampling stops, all intervals cover their values together with probability at least
    `level` (union bound).

    Args:
        evaluate: the game.
        draw_replicates: count -> (count, players), independent of earlier draws.
        count: the most replicates that the budget allows.
        level: 1 − α.
        half_width: stop when no half-width is larger than this; None means never.
        players: the players to estimate, all if None; the others are known to be 0.

    Returns:
        The estimate, and whether the half-width was reached (None when none was set).
    """
    replicates: list[np.ndarray] = []
    share = 1.0
    estimate, converged = None, None
    for size in rounds(count, doubling=half_width is not None):
        replicates.append(draw_replicates(size))
        if half_width is not None:
            share /= 2
        look_level = 1 - (1 - level) * share
        seen = np.concatenate(replicates)
        estimate = replicate_statistics(
            seen if players is None else seen[:, players], level=look_level
        )
        estimate = with_unseen(estimate, evaluate.payoff_range, len(seen))
        if half_width is not None:
            reach = estimate.intervals[:, 1] - estimate.values
            converged = bool((reach <= half_width).all())
            if converged:
                break
    assert estimate is not None
    if players is not None:
        estimate = padded_estimate(estimate, players, seen.shape[1])
    return estimate, converged
