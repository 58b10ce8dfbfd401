r"""Test whether a curve follows a power law, by comparison with other growth laws.

    power        y = a t^b
    exponential  y = a e^{bt}
    logarithmic  y = a + b ln t
    constant     y = a
    parabola     ln y = a + b ln t + c (ln t)²     not a law: a curve of another shape

All have independent Gaussian errors of ln y, so that their AICs can be compared:

    AIC = N ln(RSS/N) + 2k

Errors along one training curve are correlated, which makes AIC differences too large.
So the verdict also uses a bootstrap of curves, or of blocks of neighbouring points. A
law is accepted if it has the lowest AIC in 95 % of the draws; if on the curve itself
its AIC is lower by 2 than that of each other law, and not higher by 2 than that of the
parabola; and if t spans at least 1.5 decades. A power law must also explain at least a
fraction 0.9 of the variance of ln y.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import first_bad, require
from meanfield.keys import numpy_generator

from .growth_models import MODELS, compare_models

Verdict = Literal["power law", "exponential", "logarithmic", "cannot tell"]
MIN_DECADES = 1.5
MIN_POINTS = 8
# A difference in AIC below 2 is not evidence (Burnham & Anderson 2002).
MIN_AIC_LEAD = 2.0
MIN_SUPPORT = 0.95
# A poor fit must not pass because others are poorer, as for a curve that falls and
# rises.
MIN_R_SQUARED = 0.9


@dataclasses.dataclass(frozen=True)
class ScalingFit:
    """Fits of a curve, and a verdict.

    Args:
        verdict: the law, or "cannot tell".
        reason: the reason for the verdict.
        exponent: b of the power law a t^b, whatever the verdict.
        prefactor: a of the power law.
        interval: 95 % bootstrap interval of b.
        r_squared: fraction of the variance of ln y that the power law explains.
        aic: AIC of each law and of the parabola (only differences matter).
        support: fraction of bootstrap draws in which each law has the lowest AIC.
        decades: log₁₀(t_max/t_min).
        num_points: number of fitted points.
        num_curves: number of curves (seeds).
        block: number of points in a bootstrap block; 0 if whole curves are drawn.
    """

    verdict: Verdict
    reason: str
    exponent: float
    prefactor: float
    interval: tuple[float, float]
    r_squared: float
    aic: dict[str, float]
    support: dict[str, float]
    decades: float
    num_points: int
    num_curves: int
    block: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {**dataclasses.asdict(self), "interval": list(self.interval)}


def fit_scaling(
    t: Any,
    y: Any,
    *,
    key: PRNGKeyArray,
    t_min: float | int | None = None,
    t_max: float | int | None = None,
    num_bootstrap: int = 400,
) -> ScalingFit:
    r"""Fit y = a tᵇ and other laws between given limits, with bootstrap intervals.

    Args:
        t: positive and increasing, (points,): steps, widths, sample sizes.
        y: positive, (points,) for one curve or (curves, points) for several seeds.
        key: a `jax.random.key` for the bootstrap.
        t_min: first t to use; None for all. Choose it before looking at the fits.
        t_max: last t to use; None for all.
        num_bootstrap: number of draws. For one curve, moving blocks of about √N
            neighbouring points are drawn, which keeps serial correlations; for three or
            more curves, whole curves.

    Returns:
        A `ScalingFit`.

    Raises:
        ValueError: t or y is not positive and finite, t does not increase, shapes do
            not fit, there are two curves (pass one, or three or more), fewer than 8
            points in the range, or fewer than 20 bootstrap draws.

    Example:
        >>> import jax, numpy as np
        >>> from meanfield.physics.complexity.scaling import fit_scaling
        >>> t = np.geomspace(1, 1000, 40)
        >>> noise = np.random.default_rng(0).normal(size=40)
        >>> y = 3 * t**-0.5 * np.exp(0.02 * noise)
        >>> fit = fit_scaling(t, y, key=jax.random.key(0))
        >>> fit.verdict, round(fit.exponent, 2)
        ('power law', -0.5)

    References:
        Burnham & Anderson 2002 (AIC); Künsch 1989 (block bootstrap).
    """
    t, curves = _checked(t, y, t_min, t_max)
    require(
        num_bootstrap >= 20,
        f"`num_bootstrap` must be at least 20 for an interval; got {num_bootstrap}.",
    )
    num_curves, num_points = curves.shape
    log_t, log_y = np.log(t), np.log(curves)
    aic, slope, offset = compare_models(t, log_t, log_y.mean(axis=0))
    rng = numpy_generator(key, spawn_key=(1,))
    block = 0 if num_curves > 1 else max(2, round(np.sqrt(num_points)))
    slopes, winners = [], []
    for _ in range(num_bootstrap):
        if num_curves > 1:
            drawn = log_y[rng.integers(num_curves, size=num_curves)].mean(axis=0)
            index = np.arange(num_points)
        else:
            index = _blocks(num_points, block, rng)
            drawn = log_y[0, index]
        values, drawn_slope, _ = compare_models(t[index], log_t[index], drawn)
        slopes.append(drawn_slope)
        winners.append(min(MODELS, key=lambda law: values[law]))
    support = {law: winners.count(law) / num_bootstrap for law in MODELS}
    mean_curve = log_y.mean(axis=0)
    residual = mean_curve - offset - slope * log_t
    scatter = float(np.sum((mean_curve - mean_curve.mean()) ** 2))
    decades = float(np.log10(t[-1] / t[0]))
    unexplained = float(residual @ residual)
    r_squared = 1 - unexplained / scatter if scatter > 0 else 0.0
    verdict, reason = _judge(aic, support, decades, r_squared)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return ScalingFit(
        verdict=verdict,
        reason=reason,
        exponent=slope,
        prefactor=float(np.exp(offset)),
        interval=(float(low), float(high)),
        r_squared=r_squared,
        aic=aic,
        support=support,
        decades=decades,
        num_points=num_points,
        num_curves=num_curves,
        block=block,
    )


def _blocks(count: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of a moving-block bootstrap draw, cut to the original length."""
    starts = rng.integers(count - block + 1, size=-(-count // block))
    return (starts[:, None] + np.arange(block)).ravel()[:count]


def _judge(
    aic: dict[str, float],
    support: dict[str, float],
    decades: float,
    r_squared: float,
) -> tuple[Any, str]:
    first, second = sorted(MODELS, key=lambda law: aic[law])[:2]
    lead = aic[second] - aic[first]
    if first == "constant":
        return "cannot tell", "no trend: a constant does as well as any law"
    if lead < MIN_AIC_LEAD or support[first] < MIN_SUPPORT:
        return "cannot tell", (
            f"{first} leads {second} by {lead:.1f} in AIC and wins "
            f"{support[first]:.0%} of the bootstrap draws: not decided"
        )
    if aic["parabola"] < aic[first] - MIN_AIC_LEAD:
        return "cannot tell", (
            f"{first} fits best of the laws, but a parabola of the logarithms does "
            f"better by {aic[first] - aic['parabola']:.1f} in AIC: the curve is bent"
        )
    if decades < MIN_DECADES:
        return "cannot tell", (
            f"{first} fits best, but {decades:.2f} decades are fewer than {MIN_DECADES}"
        )
    if first == "power law" and r_squared < MIN_R_SQUARED:
        return "cannot tell", (
            f"a power law fits best of the laws, but explains only {r_squared:.0%} of "
            f"the variance of ln y (needs {MIN_R_SQUARED:.0%}): the curve has "
            "another shape"
        )
    return first, (
        f"leads {second} by {lead:.1f} in AIC and wins {support[first]:.0%} of the "
        f"bootstrap draws over {decades:.2f} decades"
    )


def _checked(t: Any, y: Any, t_min: Any, t_max: Any) -> tuple[np.ndarray, np.ndarray]:
    t, y = np.asarray(t, dtype=np.float64), np.asarray(y, dtype=np.float64)
    curves = y[None] if y.ndim == 1 else y
    require(
        t.ndim == 1 and curves.ndim == 2 and curves.shape[1:] == t.shape,
        "`y` must have shape (points,) or (curves, points) for `t` of shape (points,); "
        f"got {y.shape} for {t.shape}.",
    )
    for name, values in (("t", t), ("y", curves)):
        good = np.isfinite(values) & (values > 0)
        require(
            bool(good.all()),
            f"`{name}` must be positive and finite, as its logarithm is fitted; got "
            f"{values[first_bad(~good)] if not good.all() else ''} at "
            f"{first_bad(~good) if not good.all() else ''}.",
        )
    require(bool((np.diff(t) > 0).all()), "`t` must increase; got points that do not.")
    require(
        len(curves) != 2,
        "`y` must be one curve or at least three; got two, too few for a bootstrap.",
    )
    low, high = (t[0] if t_min is None else t_min), (t[-1] if t_max is None else t_max)
    inside = (t >= low) & (t <= high)
    require(
        int(inside.sum()) >= MIN_POINTS,
        f"`t` must have at least {MIN_POINTS} points between {low:g} and {high:g}; got "
        f"{inside.sum()}.",
    )
    return t[inside], curves[:, inside]
