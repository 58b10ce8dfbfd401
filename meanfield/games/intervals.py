r"""From replicates to values, standard errors and simultaneous intervals.

A replicate is one unbiased estimate of all players' values at once, such as one
antithetic pair of permutations. With R independent replicates x_r:

    φ̂_i = mean_r x_ri         s.e._i = sd_r(x_ri) / √R

Marginal contributions are often sparse and skewed: a player that matters in one
coalition out of fifty shows no variance at all in a short run. Two corrections of
order 1/R keep the intervals honest there, and vanish as R grows:

- moments are moderated: PSEUDO_REPLICATES replicates with the players' mean second and
  fourth moments are added to each player's own (Agresti & Coull's device for
  proportions), so that what others show counts for a player not seen to vary yet;
- Student's degrees of freedom follow the kurtosis κ of those moments, because
  Var(s²)/σ⁴ ≈ (κ − 1)/R, which is 2/(degrees of freedom) for a χ² variable.

In short runs the intervals are therefore wide rather than wrong.

The intervals are simultaneous: each has level (1 − α)^{1/n} (Šidák), so that all n hold
together with probability 1 − α when players are independent, and at least about that
for the weak negative dependence which efficiency brings.

With clusters (several replicates under one posterior draw of the network) the
replicates of one draw share its error: the draw is then the unit that counts. One-way
random effects separate the Monte-Carlo error from the spread of the posterior.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from meanfield.checks import require

# Agresti & Coull 1998: z² ≈ 4 pseudo-observations at 95 %.
PSEUDO_REPLICATES = 4

# Telescoping sums of n payoffs lose a few units in the last place.
ROUNDING_UNITS = 32


class Estimate(eqx.Module):
    """Values with their uncertainty.

    Args:
        values: φ̂, (players,), in units of the payoff.
        standard_errors: Monte-Carlo standard error of every value; infinite when one
            replicate alone was seen.
        intervals: (players, 2), lower and upper ends, simultaneous at `level`.
        level: probability that all intervals hold at once.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"]
    intervals: Float[np.ndarray, "players 2"]
    level: float = eqx.field(static=True)


class IndexValues(eqx.Module):
    """Values of an index with their uncertainty.

    Args:
        values: (players,), in units of the payoff.
        standard_errors: (players,); 0 when exact, infinite after one replicate.
        intervals: (players, 2), simultaneous at `level`.
        num_evaluations: payoffs asked for.
        method: "exact" or how they were sampled.
        level: probability that all intervals hold.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"]
    intervals: Float[np.ndarray, "players 2"]
    num_evaluations: int
    method: str
    level: float


class ClusteredEstimate(eqx.Module):
    """Values under a posterior, with Monte-Carlo error and posterior spread apart.

    Args:
        values: estimate of φ[E_θ v] = E_θ φ[v_θ], (players,).
        standard_errors: cluster-robust s.e. of `values`: finitely many draws θ and
            finitely many permutations both count. Degrees of freedom: draws − 1.
        monte_carlo_errors: the part that more permutations per draw would remove.
        posterior_std: sd over θ of φ[v_θ], cleaned of Monte-Carlo noise (0 where
            the noise explains everything).
        intervals: (players, 2), simultaneous at `level`, for E_θ φ[v_θ].
        credible_intervals: (players, 2), where one network drawn from the posterior has
            its own value, player by player at `level` (Gaussian approximation).
        level: probability of the two kinds of interval.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"]
    monte_carlo_errors: Float[np.ndarray, " players"]
    posterior_std: Float[np.ndarray, " players"]
    intervals: Float[np.ndarray, "players 2"]
    credible_intervals: Float[np.ndarray, "players 2"]
    level: float = eqx.field(static=True)


def replicate_statistics(
    replicates: Shaped[np.ndarray, "replicates players"], *, level: float = 0.95
) -> Estimate:
    r"""Values and simultaneous intervals from independent unbiased replicates.

    φ̂_i = mean_r x_ri, with the half-width

        t_{ν_i} √(s̃_i²/R)        ν_i = min(R − 1, 2R/(κ̃_i − 1))

    where s̃² and κ̃ are variance and kurtosis after moderation (see the module).

    Args:
        replicates: x, (replicates, players): independent, identically distributed
            rows, each unbiased for φ, such as the mean marginal contributions over one
            antithetic pair of permutations.
        level: 1 − α, the probability that all intervals hold at once.

    Returns:
        An `Estimate`. One replicate cannot tell its own error: then the standard
        errors are infinite and the intervals are the whole line.

    Raises:
        ValueError: not two axes, an empty axis, or a value that is not finite.

    Example:
        >>> import numpy as np
        >>> from meanfield.games.intervals import replicate_statistics
        >>> x = np.array([[1.0, 2.0], [3.0, 2.0]])
        >>> replicate_statistics(x).standard_errors.tolist()
        [1.0, 0.0]

    References:
        Agresti & Coull 1998, The American Statistician 52:119. Šidák 1967, JASA 62:626.
    """
    x = _checked(replicates, ("replicates", "players"))
    count, _ = x.shape
    values = x.mean(axis=0)
    if count == 1:
        infinite = np.full_like(values, np.inf)
        return _estimate(values, infinite, infinite, level)
    # A common scale keeps the fourth powers of very large payoffs finite.
    scale = np.abs(x).max()
    scale = scale if scale > 0 else 1.0
    centred = (x - values) / scale
    second = np.square(centred).mean(axis=0)
    fourth = np.square(np.square(centred)).mean(axis=0)
    variance = second * count / (count - 1)
    square = _moderate(second, count) ** 2
    kurtosis = _moderate(fourth, count) / np.where(square > 0, square, 1)
    excess = np.maximum(kurtosis - 1, 2 * count / (count - 1))
    quantile = student_quantile(2 * count / excess, level, len(values))
    half_width = scale * quantile * np.sqrt(_moderate(variance, count) / count)
    half_width += rounding_error(scale)
    return _estimate(values, scale * np.sqrt(variance / count), half_width, level)


def clustered_statistics(
    replicates: Shaped[np.ndarray, "draws replicates players"], *, level: float = 0.95
) -> ClusteredEstimate:
    r"""Values under a posterior, from nested draws: one-way random effects.

    K draws θ_k of the network, M replicates each, x_kmi = φ_i + u_ki + e_kmi:

        MSB = M Var_k(x̄_k)       MSW = mean_k Var_m(x_km)
        s.e. = √(MSB / KM)       posterior variance = max(0, (MSB − MSW)/M)

    Pooling all K·M replicates as if they were independent gives intervals that are far
    too short (about 82 % instead of 95 % on a simulated posterior): do not.

    Args:
        replicates: x, (draws, replicates, players), at least two draws. With one
            replicate per draw the posterior spread cannot be told from Monte-Carlo
            noise: then `monte_carlo_errors` and `posterior_std` are NaN.
        level: 1 − α.

    Returns:
        A `ClusteredEstimate`.

    Raises:
        ValueError: not three axes, fewer than two draws, or a value that is not finite.

    Example:
        >>> import numpy as np
        >>> from meanfield.games.intervals import clustered_statistics
        >>> x = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])
        >>> clustered_statistics(x).standard_errors.tolist()
        [2.0]
    """
    x = _checked(replicates, ("draws", "replicates", "players"))
    draws, count, _ = x.shape
    require(
        draws >= 2,
        "`replicates` must hold at least 2 posterior draws; got 1. One draw says "
        "nothing of the posterior; use replicate_statistics for a single network.",
    )
    draw_means = x.mean(axis=1)
    outer = replicate_statistics(draw_means, level=level)
    between = count * draw_means.var(axis=0, ddof=1)
    if count > 1:
        within = x.var(axis=1, ddof=1).mean(axis=0)
        monte_carlo = np.sqrt(within / (draws * count))
        posterior_std = np.sqrt(np.maximum(between - within, 0) / count)
    else:
        monte_carlo = np.full(x.shape[-1], np.nan)
        posterior_std = np.full(x.shape[-1], np.nan)
    reach = stats.t.ppf(0.5 + level / 2, draws - 1) * np.sqrt(
        posterior_std**2 + outer.standard_errors**2
    )
    return ClusteredEstimate(
        values=outer.values,
        standard_errors=outer.standard_errors,
        monte_carlo_errors=monte_carlo,
        posterior_std=posterior_std,
        intervals=outer.intervals,
        credible_intervals=np.stack([outer.values - reach, outer.values + reach], 1),
        level=level,
    )


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
    # 0 · ∞ is no interval: without any error the interval is the point.
    width = np.where(standard_errors > 0, quantile, 0) * standard_errors
    return _estimate(values, standard_errors, width + rounding, level)


def exact_estimate(
    values: Float[np.ndarray, " players"],
    payoffs: Float[np.ndarray, " coalitions"],
    level: float,
) -> Estimate:
    """Values without sampling error, in intervals as wide as rounding."""
    rounding = rounding_error(float(np.abs(payoffs).max()))
    ends = np.stack([values - rounding, values + rounding], axis=1)
    return Estimate(values, np.zeros_like(values), ends, level)


def padded_estimate(
    estimate: Estimate, players: Int[np.ndarray, " some"], num_players: int
) -> Estimate:
    """The estimate of some players among all, the others 0 for certain."""

    def padded(entries):
        whole = np.zeros((num_players, *entries.shape[1:]))
        whole[players] = entries
        return whole

    return Estimate(
        padded(estimate.values),
        padded(estimate.standard_errors),
        padded(estimate.intervals),
        estimate.level,
    )


def unpromised(estimate: Estimate) -> Estimate:
    """The estimate with intervals that claim nothing: the whole line."""
    line = np.tile([-np.inf, np.inf], (len(estimate.values), 1))
    return Estimate(estimate.values, estimate.standard_errors, line, estimate.level)


def rounding_error(scale: float) -> float:
    """What a sum of payoffs of this size may lose to float64."""
    return ROUNDING_UNITS * np.finfo(float).eps * scale


def index_values(
    estimate: Estimate, num_evaluations: int, method: str, level: float
) -> IndexValues:
    """An estimate together with how it was come by."""
    return IndexValues(
        values=estimate.values,
        standard_errors=estimate.standard_errors,
        intervals=estimate.intervals,
        num_evaluations=num_evaluations,
        method=method,
        level=level,
    )


def student_quantile(
    degrees_of_freedom: Float[np.ndarray, " players"], level: float, num_players: int
) -> Float[np.ndarray, " players"]:
    """Two-sided Student quantile at Šidák's level (1 − α)^{1/n}."""
    # log1p and expm1 keep the tail's digits for many players.
    tail = -np.expm1(np.log(level) / num_players)
    return stats.t.isf(tail / 2, degrees_of_freedom)


def _moderate(moment: Float[np.ndarray, " players"], count: int):
    """A moment of `count` replicates and of the pseudo-replicates together."""
    pooled = PSEUDO_REPLICATES * moment.mean()
    return (count * moment + pooled) / (count + PSEUDO_REPLICATES)


def _estimate(values, standard_errors, half_width, level: float) -> Estimate:
    intervals = np.stack([values - half_width, values + half_width], axis=1)
    return Estimate(values, standard_errors, intervals, level)


def _checked(replicates, axes: tuple[str, ...]) -> Float[np.ndarray, "..."]:
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
