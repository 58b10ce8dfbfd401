r"""Indices by enumeration of all 2^n coalitions, vectorised, for n ≤ 20.

Row c of the table of payoffs is the coalition in which player i is present if bit i of
c is set. If the table is viewed as an array with an axis of length 2 for player i, one
subtraction gives all marginal contributions of i; a null player gets exactly 0.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

MAX_PLAYERS = 20


def all_coalitions(num_players: int) -> Bool[np.ndarray, "coalitions players"]:
    """All 2^n coalitions; bit i of the row's number is player i."""
    rows = np.arange(2**num_players, dtype=np.uint32)
    return (rows[:, None] >> np.arange(num_players, dtype=np.uint32)) & 1 == 1


def coalition_sizes(num_players: int) -> Int[np.ndarray, " coalitions"]:
    """The number of players in each of the 2^n coalitions."""
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(num_players):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes


def shapley_weights(num_others: int) -> Float[np.ndarray, " sizes"]:
    """Weight of one coalition of s others: s! (m − s)! / (m + 1)!, m = `num_others`.

    The weights of all coalitions sum to 1: m + 1 sizes, each with mass 1/(m + 1).
    """
    weights = np.empty(num_others + 1)
    weight = 1.0 / (num_others + 1)
    for size in range(num_others + 1):
        weights[size] = weight
        # 1 / C(m, s + 1) from 1 / C(m, s).
        weight *= (size + 1) / max(num_others - size, 1)
    return weights


def banzhaf_weights(num_others: int) -> Float[np.ndarray, " sizes"]:
    """Weight of one coalition of others if each joins with probability ½: 2^−m."""
    return np.full(num_others + 1, 0.5**num_others)


def marginal_values(
    payoffs: Float[np.ndarray, " coalitions"], weights: Float[np.ndarray, " sizes"]
) -> Float[np.ndarray, " players"]:
    """Σ_S weight(|S|) [v(S + i) − v(S)] for every player i, S without i.

    Args:
        payoffs: v of all 2^n coalitions in the order of `all_coalitions`.
        weights: weight of one coalition by its size, 0 … n − 1.
    """
    num_players = int(np.log2(len(payoffs)))
    weight_of = weights[coalition_sizes(num_players - 1)]
    values = np.empty(num_players)
    for player in range(num_players):
        table = payoffs.reshape(-1, 2, 2**player)
        values[player] = weight_of @ (table[:, 1] - table[:, 0]).ravel()
    return values


def pair_values(
    payoffs: Float[np.ndarray, " coalitions"], weights: Float[np.ndarray, " sizes"]
) -> Float[np.ndarray, "players players"]:
    """Σ_S weight(|S|) [v(S+i+j) − v(S+i) − v(S+j) + v(S)] for all pairs, diagonal 0.

    Args:
        payoffs: v of all 2^n coalitions in the order of `all_coalitions`.
        weights: weight of one coalition by its size, 0 … n − 2.
    """
    num_players = int(np.log2(len(payoffs)))
    weight_of = weights[coalition_sizes(num_players - 2)]
    values = np.zeros((num_players, num_players))
    for high in range(num_players):
        for low in range(high):
            table = payoffs.reshape(-1, 2, 2 ** (high - low - 1), 2, 2**low)
            # Grouped so that a null player gives exactly 0.
            with_high = table[:, 1, :, 1] - table[:, 1, :, 0]
            second = with_high - (table[:, 0, :, 1] - table[:, 0, :, 0])
            values[high, low] = values[low, high] = weight_of @ second.ravel()
    return values
