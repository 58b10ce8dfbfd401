"""Slow, obvious versions of the indices of a game: definitions, term by term."""

import itertools
from math import factorial

import numpy as np


def payoff_of(value_fn, players, num_players: int) -> float:
    row = np.zeros((1, num_players), dtype=bool)
    row[0, list(players)] = True
    return float(np.asarray(value_fn(row))[0])


def subsets(players):
    for size in range(len(players) + 1):
        yield from itertools.combinations(players, size)


def shapley_by_definition(value_fn, n: int) -> np.ndarray:
    """Σ_S |S|! (n−|S|−1)!/n! [v(S + i) − v(S)]."""
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for s in subsets(others):
            weight = factorial(len(s)) * factorial(n - len(s) - 1) / factorial(n)
            gain = payoff_of(value_fn, (*s, i), n) - payoff_of(value_fn, s, n)
            values[i] += weight * gain
    return values


def banzhaf_by_definition(value_fn, n: int) -> np.ndarray:
    """Mean marginal contribution over all coalitions of the others."""
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        gains = [
            payoff_of(value_fn, (*s, i), n) - payoff_of(value_fn, s, n)
            for s in subsets(others)
        ]
        values[i] = np.mean(gains)
    return values


def interactions_by_definition(value_fn, n: int) -> np.ndarray:
    """Σ_S s! (n−s−2)!/(n−1)! of the second difference in i and j."""
    values = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        others = [k for k in range(n) if k not in (i, j)]
        for s in subsets(others):
            weight = factorial(len(s)) * factorial(n - len(s) - 2) / factorial(n - 1)
            values[i, j] += weight * (
                payoff_of(value_fn, (*s, i, j), n)
                - payoff_of(value_fn, (*s, i), n)
                - payoff_of(value_fn, (*s, j), n)
                + payoff_of(value_fn, s, n)
            )
    return values


def owen_by_orders(value_fn, unions) -> np.ndarray:
    """Mean marginal contribution over every order that keeps the unions together."""
    n = sum(len(union) for union in unions)
    values, count = np.zeros(n), 0
    for order_of_unions in itertools.permutations(unions):
        inner = [itertools.permutations(union) for union in order_of_unions]
        for blocks in itertools.product(*inner):
            before: list[int] = []
            for player in itertools.chain(*blocks):
                values[player] += payoff_of(value_fn, [*before, player], n)
                values[player] -= payoff_of(value_fn, before, n)
                before.append(player)
            count += 1
    return values / count


def table_game(table: np.ndarray):
    """The game with these 2^n payoffs; bit i of the index is player i."""
    powers = 2 ** np.arange(int(np.log2(len(table))))
    return lambda coalitions: table[np.asarray(coalitions) @ powers]
