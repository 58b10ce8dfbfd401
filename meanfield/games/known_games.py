r"""Cooperative games whose Shapley values are known in closed form.

Each is a value function, bool (coalitions, players) -> payoffs, with its exact values,
so that estimators of this and other libraries can be tested. Voting games are solved by
dynamic programming over (size, weight) instead of 2^n coalitions.

References:
    Littlechild & Owen 1973, Management Science 20:370 (airport). Shapley & Shubik 1954
    (voting); Mann & Shapley 1962 (its dynamic programme).
"""

from collections.abc import Callable, Sequence
from math import comb

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from meanfield.checks import require


class ClosedFormGame(eqx.Module):
    """A game together with its exact Shapley values.

    Args:
        name: name of the game in tables.
        payoff: bool (coalitions, players) -> (coalitions,).
        shapley_values: φ, (players,).

    Example:
        >>> from meanfield.games.known_games import airport
        >>> game = airport([1, 2, 4])
        >>> game.shapley_values.round(3).tolist()
        [0.333, 0.833, 2.833]
    """

    name: str
    payoff: Callable[[np.ndarray], np.ndarray]
    shapley_values: Float[np.ndarray, " players"]

    @property
    def num_players(self) -> int:
        """Number of players."""
        return len(self.shapley_values)

    def __call__(self, coalitions: ArrayLike) -> Float[np.ndarray, " coalitions"]:
        """Payoffs of the coalitions, a boolean array (coalitions, players).

        One coalition, (players,), is treated as a matrix of one row, for shapiq.
        """
        return self.payoff(np.atleast_2d(np.asarray(coalitions, bool))).astype(float)


def airport(costs: ArrayLike) -> ClosedFormGame:
    """Runway costs: a coalition pays for its largest plane, v(S) = max_{i∈S} c_i.

    φ_(k) = Σ_{j≤k} (c_(j) − c_(j−1)) / (n − j + 1), costs in increasing order: the cost
    of every section of the runway is shared equally by the players who need it.

    Args:
        costs: c ≥ 0, (players,).

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: a cost is negative or not finite.

    Example:
        >>> import meanfield as mf
        >>> mf.games.airport([1.0, 3.0]).shapley_values.tolist()
        [0.5, 2.5]
    """
    cost = _vector("costs", costs)
    require(
        bool((cost >= 0).all()), f"`costs` must not be negative; got {cost.min():g}."
    )
    order = np.argsort(cost)
    steps = np.diff(cost[order], prepend=0.0) / np.arange(len(cost), 0, -1)
    values = np.empty(len(cost))
    values[order] = np.cumsum(steps)
    return ClosedFormGame("airport", lambda s: (s * cost).max(axis=1), values)


def glove(num_left: int, num_right: int) -> ClosedFormGame:
    """Pairs of gloves: v(S) = min(left gloves, right gloves); left owners come first.

    A left owner completes a pair if more right than left gloves precede in the order;
    the number of right gloves among k predecessors is hypergeometric.

    Args:
        num_left: owners of a left glove, at least 1.
        num_right: owners of a right glove, at least 1.

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: no owner on one side.

    Example:
        >>> import meanfield as mf
        >>> mf.games.glove(1, 2).shapley_values.round(3).tolist()
        [0.667, 0.167, 0.167]
    """
    for name, count in (("num_left", num_left), ("num_right", num_right)):
        require(count >= 1, f"`{name}` must be at least 1; got {count}.")
    left = _completes_pair(num_left - 1, num_right)
    right = _completes_pair(num_right - 1, num_left)

    def payoff(s):
        return np.minimum(s[:, :num_left].sum(axis=1), s[:, num_left:].sum(axis=1))

    values = np.repeat([left, right], [num_left, num_right])
    return ClosedFormGame("glove", payoff, values)


def shoe(num_pairs: int) -> ClosedFormGame:
    """Equal numbers of left and right shoes; the value of each owner is ½.

    Args:
        num_pairs: number of left shoes and of right shoes; at least 1.

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: no pair.

    Example:
        >>> import meanfield as mf
        >>> mf.games.shoe(2).shapley_values.tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    return ClosedFormGame(
        "shoe", glove(num_pairs, num_pairs).payoff, np.full(2 * num_pairs, 0.5)
    )


def unanimity(
    num_players: int, carriers: Sequence[Sequence[int]], weights: ArrayLike
) -> ClosedFormGame:
    """Sum of unanimity games: v(S) = Σ_T c_T 1[T ⊆ S], φ_i = Σ_{T∋i} c_T/|T|.

    Every game is such a sum; a single T with weight 1 is the unanimity game.

    Args:
        num_players: n.
        carriers: the sets T, none empty.
        weights: c_T, (carriers,).

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: an empty carrier, a player outside, or weights that do not fit.

    Example:
        >>> import meanfield as mf
        >>> mf.games.unanimity(3, [[0, 1]], [1.0]).shapley_values.tolist()
        [0.5, 0.5, 0.0]
    """
    weight = _vector("weights", weights)
    require(
        len(weight) == len(carriers),
        f"`weights` must have one entry per carrier; got {len(weight)} for "
        f"{len(carriers)} carriers.",
    )
    needed = np.zeros((len(carriers), num_players), dtype=bool)
    for row, carrier in enumerate(carriers):
        require(
            len(carrier) > 0 and all(0 <= i < num_players for i in carrier),
            f"`carriers` must be sets of players 0 … {num_players - 1}, none empty; "
            f"got {list(carrier)}.",
        )
        needed[row, list(carrier)] = True
    sizes = needed.sum(axis=1)

    def payoff(s):
        present = s.astype(float) @ needed.T.astype(float)
        return (present == sizes) @ weight

    return ClosedFormGame("unanimity", payoff, (weight / sizes) @ needed)


def quadratic(linear: ArrayLike, pairwise: ArrayLike) -> ClosedFormGame:
    """v(S) = Σ_{i∈S} a_i + ½ Σ_{i≠j∈S} J_ij; φ_i = a_i + ½ Σ_{j≠i} J_ij.

    Args:
        linear: a, (players,).
        pairwise: J, symmetric (players, players); the diagonal is ignored.

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: J is not symmetric, or shapes do not fit.

    Example:
        >>> import meanfield as mf
        >>> pairs = [[0.0, 4.0], [4.0, 0.0]]
        >>> mf.games.quadratic([1.0, 2.0], pairs).shapley_values.tolist()
        [3.0, 4.0]
    """
    a = _vector("linear", linear)
    j = np.array(pairwise, dtype=float)
    require(
        j.shape == (len(a), len(a)) and np.array_equal(j, j.T),
        "`pairwise` must be a symmetric matrix with one row per player; got shape "
        f"{j.shape} for {len(a)} players.",
    )
    np.fill_diagonal(j, 0.0)

    def payoff(s):
        present = s.astype(float)
        return present @ a + 0.5 * ((present @ j) * present).sum(axis=1)

    return ClosedFormGame("quadratic", payoff, a + 0.5 * j.sum(axis=1))


def weighted_voting(weights: Sequence[int], quota: int) -> ClosedFormGame:
    """A vote: v(S) = 1 if the weights of S reach the quota, else 0.

    Player i is decisive for the coalitions of the others with a weight in
    [quota − w_i, quota − 1]; these are counted by size and weight.

    Args:
        weights: whole numbers, not negative.
        quota: whole number, at least 1.

    Returns:
        A `ClosedFormGame`: the value function, with `.shapley_values` known.

    Raises:
        ValueError: a weight or the quota is out of range.

    Example:
        >>> import meanfield as mf
        >>> mf.games.weighted_voting([2, 1, 1], 3).shapley_values.round(3).tolist()
        [0.667, 0.167, 0.167]
    """
    weight = _vector("weights", weights)
    whole = weight.astype(np.int64)
    require(
        bool((whole == weight).all() and (whole >= 0).all()) and quota >= 1,
        "`weights` must be whole numbers, not negative, and `quota` at least 1; got "
        f"weights {list(weights)} and quota {quota}.",
    )
    # Python integers, because large counts of coalitions are not exact in float64.
    total = int(whole.sum())
    counts = np.zeros((len(whole) + 1, total + 1), dtype=object)
    counts[0, 0] = 1
    for w in whole.tolist():
        counts[1:, w:] += counts[:-1, : total + 1 - w].copy()
    values = [_swing_share(counts, w, quota, len(whole)) for w in whole.tolist()]
    return ClosedFormGame(
        "weighted voting", lambda s: s.astype(float) @ weight >= quota, np.array(values)
    )


def _swing_share(counts, weight: int, quota: int, num_players: int) -> float:
    """Σ_s (decisive coalitions of size s) / (n C(n − 1, s)) for a player's weight."""
    others = counts.copy()
    # Remove the player: others[s, w] = counts[s, w] − others[s − 1, w − weight].
    for size in range(1, num_players + 1):
        others[size, weight:] -= others[size - 1, : counts.shape[1] - weight]
    low, high = max(quota - weight, 0), min(quota, counts.shape[1])
    share = 0.0
    for size in range(num_players):
        swings = int(others[size, low:high].sum()) if high > low else 0
        share += swings / (num_players * comb(num_players - 1, size))
    return share


def _completes_pair(same: int, other: int) -> float:
    """Probability that more `other` than `same` gloves come first in a random order."""
    players = same + other
    chance = 0.0
    for before in range(players + 1):
        ways = sum(
            comb(other, k) * comb(same, before - k)
            for k in range(before + 1)
            if k > before - k
        )
        chance += ways / comb(players, before)
    return chance / (players + 1)


def _vector(name: str, values: ArrayLike) -> Float[np.ndarray, " entries"]:
    vector = np.asarray(values, dtype=float)
    require(
        vector.ndim == 1 and vector.size > 0 and bool(np.isfinite(vector).all()),
        f"`{name}` must be a vector of finite numbers; got shape {vector.shape}.",
    )
    return vector
