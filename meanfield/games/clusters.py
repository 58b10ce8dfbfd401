r"""Values under a posterior, from several replicates for each drawn network.

The replicates of one draw are correlated, so draws are the independent units. A one-way
random-effects model separates the Monte-Carlo error from the spread of the posterior.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from meanfield.checks import require

from .index_values import Estimate
from .intervals import checked_replicates, replicate_statistics


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ClusteredEstimate(Estimate):
    """Values under a posterior, with separate Monte-Carlo error and posterior spread.

    Attributes:
        values: estimate of φ[E_θ v] = E_θ φ[v_θ], (players,), where φ are the values of
            a game and v_θ is the payoff of the network θ.
        standard_errors: standard errors of `values`, with draws as clusters: they
            include the error due to finitely many draws θ and to finitely many
            permutations. Degrees of freedom: draws − 1.
        intervals: (players, 2), simultaneous at `level`, for E_θ φ[v_θ].
        level: probability with which each kind of interval holds.
        monte_carlo_errors: the part of the standard errors that more replicates per
            draw would remove.
        posterior_scale: standard deviation over θ of φ[v_θ], without the Monte-Carlo
            noise (0 if the noise explains all variance).
        credible_intervals: (players, 2), intervals for the value in one network drawn
            from the posterior, each at `level` (Gaussian approximation).
    """

    monte_carlo_errors: Float[np.ndarray, " players"]
    posterior_scale: Float[np.ndarray, " players"]
    credible_intervals: Float[np.ndarray, "players 2"]


def clustered_statistics(
    replicates: Shaped[np.ndarray, "draws replicates players"], *, level: float = 0.95
) -> ClusteredEstimate:
    r"""Values under a posterior, from nested draws: one-way random effects.

    K draws θ_k of the network, M replicates each, x_kmi = φ_i + u_ki + e_kmi, with
    posterior spread u and Monte-Carlo error e:

        MSB = M Var_k(x̄_k)       MSW = mean_k Var_m(x_km)
        s.e. = √(MSB / KM)       posterior variance = max(0, (MSB − MSW)/M)

    If all K·M replicates were treated as independent, intervals would be far too short
    (coverage 82 % instead of 95 % on a simulated posterior).

    Args:
        replicates: x, (draws, replicates, players), at least two draws. With one
            replicate per draw, posterior spread and Monte-Carlo noise cannot be
            separated: then `monte_carlo_errors` and `posterior_scale` are NaN.
        level: 1 − α.

    Returns:
        A `ClusteredEstimate`.

    Raises:
        ValueError: not three axes, fewer than two draws, or a value that is not finite.

    Example:
        >>> import numpy as np
        >>> from meanfield.games.clusters import clustered_statistics
        >>> x = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])
        >>> clustered_statistics(x).standard_errors.tolist()
        [2.0]
    """
    x = checked_replicates(replicates, ("draws", "replicates", "players"))
    draws, count, _ = x.shape
    require(
        draws >= 2,
        "`replicates` must hold at least 2 posterior draws; got 1. Use "
        "replicate_statistics for a single network.",
    )
    draw_means = x.mean(axis=1)
    outer = replicate_statistics(draw_means, level=level)
    between = count * draw_means.var(axis=0, ddof=1)
    if count > 1:
        within = x.var(axis=1, ddof=1).mean(axis=0)
        monte_carlo = np.sqrt(within / (draws * count))
        posterior_scale = np.sqrt(np.maximum(between - within, 0) / count)
    else:
        monte_carlo = np.full(x.shape[-1], np.nan)
        posterior_scale = np.full(x.shape[-1], np.nan)
    reach = stats.t.ppf(0.5 + level / 2, draws - 1) * np.sqrt(
        posterior_scale**2 + outer.standard_errors**2
    )
    return ClusteredEstimate(
        **vars(outer),
        monte_carlo_errors=monte_carlo,
        posterior_scale=posterior_scale,
        credible_intervals=np.stack([outer.values - reach, outer.values + reach], 1),
    )
