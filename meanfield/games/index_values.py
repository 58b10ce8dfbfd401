"""Results of the estimators: values of players with their uncertainty."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
    """Values with their uncertainty, for any method.

    Attributes:
        values: φ̂, (players,), in units of the payoff.
        standard_errors: Monte-Carlo standard error of every value; infinite if there
            was only one replicate.
        intervals: (players, 2), lower and upper ends, simultaneous at `level`.
        level: probability that all intervals cover their values at once.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"]
    intervals: Float[np.ndarray, "players 2"]
    level: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AbstractValues:
    """The attributes that the results of all indices share.

    Attributes:
        values: a value for each player, or for each pair, in units of the payoff.
        standard_errors: standard error of every value; 0 if exact, infinite if the
            budget was too small for an estimate.
        intervals: lower and upper ends on a last axis of 2; all of them cover their
            values at once with probability `level`. (−∞, ∞) if no coverage is claimed.
        num_evaluations: number of evaluated payoffs, including those of ∅ and N.
        method: the method; "exact" if the values were found by enumeration.
        level: probability that all intervals cover their values at once.
    """

    values: Float[np.ndarray, "*players"]
    standard_errors: Float[np.ndarray, "*players"]
    intervals: Float[np.ndarray, "*players 2"]
    num_evaluations: int
    method: str
    level: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class IndexValues(AbstractValues):
    """Banzhaf or Owen values, one for each player; see `AbstractValues`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InteractionValues(AbstractValues):
    """Interactions of pairs, a symmetric array (players, players) with diagonal 0.

    An interaction is positive if two players contribute more together than separately.
    For the attributes see `AbstractValues`; the intervals are (players, players, 2).
    """


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShapleyValues(AbstractValues):
    """Shapley values, which sum to v(N) − v(∅).

    In addition to the attributes of `AbstractValues` it has:

    Attributes:
        empty_value: v(∅).
        grand_value: v(N).
        converged: whether `tolerance` was reached; None without a tolerance.
    """

    empty_value: float
    grand_value: float
    converged: bool | None

    @property
    def efficiency_gap(self) -> float:
        """Σ_i φ_i − [v(N) − v(∅)]: 0 up to rounding."""
        return float(self.values.sum() - (self.grand_value - self.empty_value))
