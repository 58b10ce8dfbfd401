"""Evaluate coalitions, and orders of players, in blocks of few different sizes.

The size of a block is a power of two, and the last block is padded, so that few
compiled programs serve any number of them. All calls are dispatched before the first
result is awaited.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from meanfield.learning.sharding import gathered

from .cut_network import CutNetwork, State

MOST_ORDERS = 32  # orders in one call
MOST_COALITIONS = 256  # coalitions in one call


def scores_of(
    network: CutNetwork,
    state: State,
    masks: Bool[np.ndarray, "coalitions players"],
    y: Any,
) -> Float[np.ndarray, "coalitions examples"]:
    """Payoff of each coalition on each example.

    Args:
        network: the compiled parts of the game.
        state: values that do not depend on the coalition.
        masks: the coalitions.
        y: targets.
    """
    size = _block_size(len(masks), MOST_COALITIONS)
    blocks = []
    for start in range(0, len(masks), size):
        part = masks[start : start + size]
        block = np.zeros((size, masks.shape[1]), bool)
        block[: len(part)] = part
        blocks.append(gathered(network.scores(state, block, y)))
    return _joined(blocks, len(masks))


def sweep_of(
    network: CutNetwork, state: State, orders: Int[np.ndarray, "orders players"], y: Any
) -> Float[np.ndarray, "orders sizes"]:
    """Mean payoff of the first 0, 1, …, n players of every order; see `scores_of`."""
    if network.sums is None:
        return _sweep_by_masks(network, state, orders, y)
    size = _block_size(len(orders), MOST_ORDERS)
    blocks = []
    for start in range(0, len(orders), size):
        part = orders[start : start + size]
        block = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
        blocks.append(gathered(network.sweep(state, block, y)))
    return _joined(blocks, len(orders))


def _sweep_by_masks(
    network: CutNetwork, state: State, orders: np.ndarray, y: Any
) -> np.ndarray:
    count, players = orders.shape
    ranks = np.argsort(orders, 1)[:, None, :]
    masks = ranks < np.arange(players + 1)[:, None]
    scores = scores_of(network, state, masks.reshape(-1, players), y)
    return scores.mean(1).reshape(count, -1)


def _block_size(count: int, most: int) -> int:
    """The next power of two, but at most the largest block."""
    return min(most, 1 << (max(count, 1) - 1).bit_length())


def _joined(blocks: list[Any], count: int) -> np.ndarray:
    whole = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    return whole[:count]
