r"""Values, standard errors and simultaneous intervals from replicates.

A replicate is one unbiased estimate of all players' values at once, such as one
antithetic pair of permutations. With R independent replicates x_r:

    φ̂_i = mean_r x_ri         s.e._i = sd_r(x_ri) / √R

Marginal contributions are often sparse and skewed: a player that matters in one
coalition out of fifty shows no variance at all in a short run. Two corrections of
order 1/R keep the coverage of the intervals there:

- moments are moderated: PSEUDO_REPLICATES replicates with the players' mean second and
  fourth moments are added to each player's own, as Agresti & Coull do for proportions,
  so that a player without observed variance gets some from the other players;
- Student's degrees of freedom follow from the kurtosis κ of these moments, because
  Var(s²)/σ⁴ ≈ (κ − 1)/R, which is 2/(degrees of freedom) for a χ² variable.

In short runs the intervals are therefore wide rather than wrong. An empirical Bernstein
bound, from the widest range among the replicates of any one player, limits the width of
all intervals. With fewer than four replicates the intervals are (−∞, ∞). If no player
showed any variance, a rare payoff may still have been missed: the errors then follow
from the share of cases that may be unseen (`with_unseen`), and are infinite if all
payoffs were equal.

The intervals are simultaneous: each has level (1 − α)^{1/n} (Šidák), so that all n
cover their values together with probability 1 − α if players are independent, and at
least about that under the weak negative dependence due to efficiency.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from meanfield.checks import require

from .index_values import Estimate

# Agresti & Coull 1998: z² ≈ 4 pseudo-observations at 95 %.
PSEUDO_REPLICATES = 4

# Two or three replicates may coincide although the game varies.
MIN_REPLICATES = 4

# Telescoping sums of n payoffs lose a few units in the last place.
ROUNDING_UNITS = 32


def replicate_statistics(
    replicates: Shaped[np.ndarray, "replicates players"], *, level: float = 0.95
) -> Estimate:
    r"""Values and simultaneous intervals from independent unbiased replicates.

    φ̂_i = mean_r x_ri; its half-width is the smaller of

        t_{ν_i} √(s̃_i²/R)                           ν_i = min(R − 1, 2R/(κ̃_i − 1))
        √(2 s_i² L/R) + 7 M L/(3(R − 1))            L = ln(4/α_i)

    where s̃² and κ̃ are variance and kurtosis after moderation (see the module), M the
    widest range that any player's replicates show, and α_i = 1 − (1 − α)^{1/n}. The
    second, Maurer & Pontil's bound, is smaller if tails are so heavy that Student's
    quantile is useless.

    Args:
        replicates: x, (replicates, players): independent, identically distributed
            rows, each unbiased for φ, such as the mean marginal contributions over one
            antithetic pair of permutations.
        level: 1 − α, the probability that all intervals hold at once.

    Returns:
        An `Estimate`. With a single replicate, or two or three equal ones, the standard
        errors are infinite, because they cannot be estimated. With fewer than four
        replicates the intervals are (−∞, ∞).

    Raises:
        ValueError: not two axes, an empty axis, or a value that is not finite.

    Example:
        >>> import numpy as np
        >>> from meanfield.games.intervals import replicate_statistics
        >>> x = np.array([[1.0, 2.0], [3.0, 2.0]])
        >>> replicate_statistics(x).standard_errors.tolist()
        [1.0, 0.577...]

    References:
        Agresti & Coull 1998, The American Statistician 52:119. Šidák 1967, JASA 62:626.
        Maurer & Pontil 2009, arXiv:0907.3740 (empirical Bernstein bounds).
    """
    x = checked_replicates(replicates, ("replicates", "players"))
    count, _ = x.shape
    values = x.mean(axis=0)
    if count == 1:
        infinite = np.full_like(values, np.inf)
        return _estimate(values, infinite, infinite, level)
    # A common scale keeps the fourth powers of very large payoffs finite.
    scale = np.abs(x).max()
    scale = scale if scale > 0 else 1.0
    centred = (x - values) / scale
    # The widest range that any player showed is used as a bound for all players.
    spread = float(np.ptp(centred, axis=0).max())
    second = np.square(centred).mean(axis=0)
    fourth = np.square(np.square(centred)).mean(axis=0)
    variance = second * count / (count - 1)
    square = _moderate(second, count) ** 2
    kurtosis = _moderate(fourth, count) / np.where(square > 0, square, 1)
    excess = np.maximum(kurtosis - 1, 2 * count / (count - 1))
    quantile = student_quantile(2 * count / excess, level, len(values))
    moderated = _moderate(variance, count)
    half_width = np.minimum(
        quantile * np.sqrt(moderated / count),
        _bernstein_width(variance, spread, count, level),
    )
    # A player without observed variance has an error from the others' variance.
    seen = np.sqrt(variance) > rounding_error(1.0)
    errors = scale * np.sqrt(np.where(seen, variance, moderated) / count)
    if count < MIN_REPLICATES:
        half_width = np.full_like(values, np.inf)
        if not seen.any():
            errors = half_width
    half_width = scale * half_width + rounding_error(scale)
    return _estimate(values, errors, half_width, level)


def gaussian_statistics(
    values: Float[np.ndarray, " players"],
    standard_errors: Float[np.ndarray, " players"],
    degrees_of_freedom: Float[np.ndarray, " players"],
    *,
    level: float,
    rounding: float,
) -> Estimate:
    """Simultaneous Student intervals around estimates that are nearly Gaussian."""
    quantile = student_quantile(degrees_of_freedom, level, len(values))
    # The quantile may be infinite; if the error is 0 the interval is one point.
    width = np.where(standard_errors > 0, quantile, 0) * standard_errors
    return _estimate(values, standard_errors, width + rounding, level)


def exact_estimate(
    values: Float[np.ndarray, " players"],
    payoffs: Float[np.ndarray, " coalitions"],
    level: float,
) -> Estimate:
    """Exact values, whose intervals allow for rounding only."""
    rounding = rounding_error(float(np.abs(payoffs).max()))
    ends = np.stack([values - rounding, values + rounding], axis=1)
    return Estimate(
        values=values,
        standard_errors=np.zeros_like(values),
        intervals=ends,
        level=level,
    )


def padded_estimate(
    estimate: Estimate, players: Int[np.ndarray, " some"], num_players: int
) -> Estimate:
    """Extend an estimate of some players to all; the others are 0 without error."""

    def padded(entries):
        whole = np.zeros((num_players, *entries.shape[1:]))
        whole[players] = entries
        return whole

    return Estimate(
        values=padded(estimate.values),
        standard_errors=padded(estimate.standard_errors),
        intervals=padded(estimate.intervals),
        level=estimate.level,
    )


def with_unseen(estimate: Estimate, payoff_range: float, count: int) -> Estimate:
    r"""The estimate with an error for players without observed variance.

    If m random cases are all equal, a share f of all cases may still differ, because
    (1 − f)^m is not small: f is about 1/m, and at most ln(1/α_i)/m with probability
    1 − α_i. Each of them changes a value by at most the range M of the payoffs:

        s.e._i = M/m        half-width_i = M ln(1/α_i)/m

    If M = 0, all payoffs were equal and the size of a missed payoff cannot be bounded:
    then both are infinite.

    Args:
        estimate: a sampled estimate; values with errors beyond rounding are kept.
        payoff_range: M, largest minus smallest payoff in the sample.
        count: m, replicates or pairs of coalitions in the sample.

    References:
        Hanley & Lippman-Hand 1983, JAMA 249:1743 (the rule of three).
    """
    players = len(estimate.values)
    scale = max(payoff_range, float(np.abs(estimate.values).max()))
    unseen = estimate.standard_errors <= rounding_error(scale * players)
    if not unseen.any():
        return estimate
    tail = -np.expm1(np.log(estimate.level) / players)
    error = payoff_range / count if payoff_range > 0 else np.inf
    width = np.where(unseen, max(1.0, -np.log(tail)) * error, 0.0)[:, None]
    return dataclasses.replace(
        estimate,
        standard_errors=np.where(unseen, error, estimate.standard_errors),
        intervals=estimate.intervals + np.array([-1.0, 1.0]) * width,
    )


def unpromised(estimate: Estimate) -> Estimate:
    """The estimate with intervals (−∞, ∞), which claim no coverage."""
    line = np.tile([-np.inf, np.inf], (len(estimate.values), 1))
    return dataclasses.replace(estimate, intervals=line)


def rounding_error(scale: float) -> float:
    """Bound of the rounding error of a sum of payoffs of this size, in float64."""
    return ROUNDING_UNITS * np.finfo(float).eps * scale


def student_quantile(
    degrees_of_freedom: Float[np.ndarray, " players"], level: float, num_players: int
) -> Float[np.ndarray, " players"]:
    """Two-sided Student quantile at Šidák's level (1 − α)^{1/n}."""
    # log1p and expm1 keep the digits of a small tail probability for many players.
    tail = -np.expm1(np.log(level) / num_players)
    return stats.t.isf(tail / 2, degrees_of_freedom)


def _bernstein_width(variance, spread: float, count: int, level: float):
    """Maurer & Pontil's half-widths for replicates with a range of `spread`."""
    tail = -np.expm1(np.log(level) / len(variance))
    log_term = np.log(4 / tail)
    return np.sqrt(2 * variance * log_term / count) + 7 * spread * log_term / (
        3 * (count - 1)
    )


def _moderate(moment: Float[np.ndarray, " players"], count: int):
    """A moment over `count` replicates and the pseudo-replicates together."""
    pooled = PSEUDO_REPLICATES * moment.mean()
    return (count * moment + pooled) / (count + PSEUDO_REPLICATES)


def _estimate(values, standard_errors, half_width, level: float) -> Estimate:
    intervals = np.stack([values - half_width, values + half_width], axis=1)
    return Estimate(
        values=values, standard_errors=standard_errors, intervals=intervals, level=level
    )


def checked_replicates(replicates, axes: tuple[str, ...]) -> Float[np.ndarray, "..."]:
    """Replicates as float64.

    Raises:
        ValueError: other axes, an empty axis, or a value that is not finite.
    """
    x = np.asarray(replicates, dtype=np.float64)
    require(
        x.ndim == len(axes) and x.size > 0,
        f"`replicates` must have the axes {axes}, none of them empty; got shape "
        f"{x.shape}.",
    )
    require(
        bool(np.isfinite(x).all()),
        "`replicates` must be finite; got NaN or infinity. Look for the coalition "
        "whose payoff is not a number.",
    )
    return x
