"""What the estimators return: values of players with their uncertainty."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
    """Values with their uncertainty, however they were found.

    Attributes:
        values: φ̂, (players,), in units of the payoff.
        standard_errors: Monte-Carlo standard error of every value; infinite when
            there was one replicate only.
        intervals: (players, 2), lower and upper ends, simultaneous at `level`.
        level: probability that all intervals hold at once.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"]
    intervals: Float[np.ndarray, "players 2"]
    level: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AbstractValues:
    """The part that all indices share.

    Attributes:
        values: one for each player, or for each pair, in units of the payoff.
        standard_errors: of every value; 0 when exact, infinite when the budget was too
            small to tell.
        intervals: lower and upper ends on a last axis of 2, simultaneous: all hold at
            once with probability `level`. The whole line where nothing is promised.
        num_evaluations: payoffs asked for, those of ∅ and N included.
        method: how they were found; "exact" when all coalitions were evaluated.
        level: probability that all intervals hold.
    """

    values: Float[np.ndarray, "*players"]
    standard_errors: Float[np.ndarray, "*players"]
    intervals: Float[np.ndarray, "*players 2"]
    num_evaluations: int
    method: str
    level: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class IndexValues(AbstractValues):
    """Banzhaf or Owen values: one for each player, see `AbstractValues`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InteractionValues(AbstractValues):
    """Interactions of pairs, (players, players): symmetric, with a diagonal of 0.

    They are positive when two players are worth more together than apart. For the
    attributes see `AbstractValues`; the intervals are (players, players, 2).
    """


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShapleyValues(AbstractValues):
    """Shapley values: they sum to v(N) − v(∅).

    Besides the attributes of `AbstractValues` it has:

    Attributes:
        empty_value: v(∅).
        grand_value: v(N).
        converged: whether `tolerance` was reached; None when none was asked for.
    """

    empty_value: float
    grand_value: float
    converged: bool | None

    @property
    def efficiency_gap(self) -> float:
        """Σ_i φ_i − [v(N) − v(∅)]: 0 up to rounding."""
        return float(self.values.sum() - (self.grand_value - self.empty_value))
