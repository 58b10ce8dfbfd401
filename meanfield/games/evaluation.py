"""Evaluate a game in chunks, and check and count its payoffs.

A game is any function from a boolean matrix (coalitions, players) to one payoff per
row, in NumPy or JAX. It must be deterministic: a coalition has one payoff.
Statistics are computed in NumPy float64 whatever the type of the payoffs, because a
Shapley value is a small difference of large numbers.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from tqdm import tqdm

from meanfield.checks import require

ValueFunction = Callable[[Bool[np.ndarray, "coalitions players"]], Any]
ProgressCallback = Callable[[int, int], None]

DEFAULT_BUDGET_PER_PLAYER = 64
NAMED_PLAYERS = 20  # largest number of players that a message lists


class Evaluator:
    """A game whose payoffs are computed in chunks, checked and counted.

    Args:
        value_fn: bool (coalitions, players) -> (coalitions,).
        num_players: n, at least 2.
        budget: evaluations that may be spent, ∅ and N included.
        chunk_size: rows passed to `value_fn` at once.
        progress: None, True for a progress bar, or a function called as
            ``progress(num_evaluations, budget)`` after every chunk.
    """

    def __init__(
        self,
        value_fn: ValueFunction,
        num_players: int,
        *,
        budget: int,
        chunk_size: int,
        progress: bool | ProgressCallback | None,
    ):
        self.num_players = num_players
        self.budget = budget
        self.num_evaluations = 0
        self._lowest, self._highest = np.inf, -np.inf
        self._value_fn: Any = value_fn
        self.sweeps = hasattr(value_fn, "sweep")
        self._chunk_size = chunk_size
        self._bar = tqdm(total=budget, unit="coalition") if progress is True else None
        self._report = progress if callable(progress) else None

    def __call__(
        self, coalitions: Bool[np.ndarray, "coalitions players"]
    ) -> Float[np.ndarray, " coalitions"]:
        """Payoffs of the rows, as float64."""
        if self.num_evaluations + len(coalitions) > self.budget:
            raise AssertionError("an estimator asked for more than its budget")
        payoffs = np.empty(len(coalitions))
        for start in range(0, len(coalitions), self._chunk_size):
            chunk = coalitions[start : start + self._chunk_size]
            payoffs[start : start + len(chunk)] = self._checked(chunk)
            self._count(len(chunk))
        self._see(payoffs)
        return payoffs

    @property
    def payoff_range(self) -> float:
        """Largest minus smallest payoff that was evaluated."""
        return self._highest - self._lowest

    def _see(self, payoffs: Float[np.ndarray, "..."]) -> None:
        self._lowest = min(self._lowest, payoffs.min(initial=np.inf))
        self._highest = max(self._highest, payoffs.max(initial=-np.inf))

    def _count(self, evaluations: int) -> None:
        self.num_evaluations += evaluations
        if self._bar is not None:
            self._bar.update(evaluations)
        if self._report is not None:
            self._report(self.num_evaluations, self.budget)

    def ends(self) -> tuple[float, float]:
        """Payoffs of the empty and of the grand coalition (two evaluations)."""
        rows = np.repeat([[False], [True]], self.num_players, axis=1)
        empty, grand = self(rows)
        return float(empty), float(grand)

    def null_players(self) -> Bool[np.ndarray, " players"]:
        """Players that the game's `null_players` reports; none without this method."""
        if not hasattr(self._value_fn, "null_players"):
            return np.zeros(self.num_players, bool)
        return np.asarray(self._value_fn.null_players(), bool)

    def sweep(
        self, orders: Int[np.ndarray, "orders players"], length: int
    ) -> Float[np.ndarray, "orders sizes"] | None:
        """Payoffs of the first 0, 1, …, `length` players of every order.

        The first and the last payoffs do not count as evaluations, because they are the
        known payoffs of ∅ and N (all players after `length` are null players). Returns
        None if the game has no `sweep`.
        """
        if not self.sweeps:
            return None
        cost = length - 1
        if self.num_evaluations + cost * len(orders) > self.budget:
            raise AssertionError("an estimator asked for more than its budget")
        path = np.asarray(self._value_fn.sweep(orders), np.float64)
        wanted = (len(orders), orders.shape[1] + 1)
        require(
            path.shape == wanted and bool(np.isfinite(path).all()),
            f"`value_fn.sweep` must return finite payoffs of shape {wanted}; got shape "
            f"{path.shape}.",
        )
        self._count(cost * len(orders))
        self._see(path)
        return path[:, : length + 1]

    def close(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _checked(
        self, coalitions: Bool[np.ndarray, "coalitions players"]
    ) -> Num[np.ndarray, " coalitions"]:
        payoffs = np.asarray(self._value_fn(coalitions))
        require(
            payoffs.shape == (len(coalitions),),
            "`value_fn` must return one payoff per coalition: for a boolean array of "
            "shape "
            f"{coalitions.shape} the shape ({len(coalitions)},); got shape "
            f"{payoffs.shape}. Reduce all axes but the first.",
        )
        # bfloat16 is a floating-point type to JAX, but not to NumPy.
        require(
            any(
                bool(jnp.issubdtype(payoffs.dtype, kind))
                for kind in (jnp.floating, jnp.integer, jnp.bool_)
            ),
            f"`value_fn` must return real numbers; got dtype {payoffs.dtype}.",
        )
        payoffs = payoffs.astype(np.float64)
        finite = np.isfinite(payoffs)
        if not finite.all():
            row = int(np.argmin(finite))
            raise ValueError(
                f"`value_fn` must return finite payoffs; got {payoffs[row]} for the "
                f"coalition {coalition_name(coalitions[row])}. Bound the payoff "
                "(probability rather than log-likelihood), or correct the game."
            )
        return payoffs


def coalition_name(coalition: Bool[np.ndarray, " players"]) -> str:
    """The players of a coalition, as {0, 3, 7} (the first twenty of them)."""
    players = np.flatnonzero(coalition)
    names = ", ".join(str(player) for player in players[:NAMED_PLAYERS])
    rest = len(players) - NAMED_PLAYERS
    if rest > 0:
        names += f", … and {rest} more"
    return f"{{{names}}} ({len(players)} of {len(coalition)} players)"


def check_game(value_fn: Any, num_players: Any = None) -> int:
    """The number of players as an int, after the checks that all indices need.

    By default it is the game's attribute `num_players`, or `n_players` as in shapiq.

    Raises:
        TypeError: `value_fn` cannot be called or `num_players` is not an integer.
        ValueError: fewer than two players, or their number is not known.
    """
    if not callable(value_fn):
        raise TypeError(
            "`value_fn` must be a function from a boolean array (coalitions, players) "
            f"to payoffs (coalitions,); got {type(value_fn).__name__}."
        )
    if num_players is None:
        num_players = getattr(value_fn, "num_players", None)
    if num_players is None:
        num_players = getattr(value_fn, "n_players", None)
    require(
        num_players is not None,
        "`num_players` is needed: `value_fn` is a function that does not state its "
        "number of players. Pass their number, or a game with an attribute "
        "`num_players`.",
    )
    if isinstance(num_players, bool) or not isinstance(num_players, (int, np.integer)):
        raise TypeError(
            f"`num_players` must be an integer; got {type(num_players).__name__}."
        )
    require(
        int(num_players) >= 2,
        f"`num_players` must be at least 2; got {num_players}. A single player's value "
        "is v(N) - v(∅).",
    )
    return int(num_players)


def check_settings(level: float, chunk_size: int, progress: Any) -> None:
    """Check the arguments that every index shares.

    Raises:
        ValueError: `level` outside (0, 1) or `chunk_size` below 1.
        TypeError: `progress` is neither None, a bool nor a function.
    """
    require(
        0 < level < 1,
        f"`level` must lie strictly between 0 and 1; got {level}. It is the "
        "probability that all intervals hold at once, such as 0.95.",
    )
    require(
        chunk_size >= 1,
        f"`chunk_size` must be at least 1 coalition; got {chunk_size}.",
    )
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(
            "`progress` must be None, True, or a function (num_evaluations, budget); "
            f"got {type(progress).__name__}."
        )


def default_budget(num_players: int) -> int:
    """64 evaluations per player, or all 2^n coalitions if they are fewer."""
    return min(2**num_players, DEFAULT_BUDGET_PER_PLAYER * num_players)


def check_budget(budget: Any) -> int:
    """The budget as an int.

    Raises:
        TypeError: `budget` is not an integer.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)):
        raise TypeError(
            f"`budget` must be an integer number of evaluations; got {budget!r}."
        )
    return int(budget)


def require_budget(budget: int, minimum: int, method: str) -> None:
    """Raise unless the budget reaches the minimum, which the message states."""
    require(
        budget >= minimum,
        f"`budget` must be at least {minimum} evaluations, including ∅ and N, for "
        f'method "{method}" with this number of players; got {budget}.',
    )
