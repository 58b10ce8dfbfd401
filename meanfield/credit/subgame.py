"""A game among some of its players, the others staying out."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from meanfield.checks import require


class SubGame:
    """The game of some players when the others never join.

        w(T) = v(T) for T among `players`

    A ranking by Shapley values is an average over coalitions of all sizes. To cut a
    layer to a small size, cut in rounds: drop the least of those who are left, and let
    the rest play again without them.

    Args:
        game: a value function; its `sweep` is used if it has one.
        players: boolean, who may join; at least two.

    Attributes:
        num_players: how many may join; they are numbered in order.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> pair = mf.SubGame(gloves, np.array([True, False, True]))
        >>> mf.shapley_values(pair, pair.num_players, budget=4).values.tolist()
        [0.5, 0.5]
    """

    def __init__(self, game: Any, players: Bool[np.ndarray, " all_players"]):
        inside = np.asarray(players, bool)
        require(
            inside.ndim == 1 and inside.sum() >= 2,
            "`players` must be booleans, True for at least two players; got shape "
            f"{inside.shape} with {int(inside.sum())}.",
        )
        self._game, self._inside = game, inside
        self.num_players = int(inside.sum())
        if hasattr(game, "sweep"):
            self.sweep = self._sweep
        if hasattr(game, "null_players"):
            self.null_players = lambda: np.asarray(game.null_players())[inside]

    def __call__(
        self, coalitions: Bool[Any, "coalitions players"]
    ) -> Float[np.ndarray, " coalitions"]:
        """Payoff of each coalition of those who may join."""
        rows = np.asarray(coalitions, bool)
        whole = np.zeros((len(rows), len(self._inside)), bool)
        whole[:, self._inside] = rows
        return np.asarray(self._game(whole), np.float64)

    def _sweep(
        self, orders: Int[Any, "orders players"]
    ) -> Float[np.ndarray, "orders sizes"]:
        """Payoffs along orders of those who may join."""
        joined = np.flatnonzero(self._inside)[np.asarray(orders)]
        out = np.tile(np.flatnonzero(~self._inside), (len(joined), 1))
        path = self._game.sweep(np.concatenate([joined, out], axis=1))
        return np.asarray(path)[:, : self.num_players + 1]
