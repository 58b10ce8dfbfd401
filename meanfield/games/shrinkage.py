r"""Shrink sampled values towards values from another method.

The sampled φ̂ is unbiased with standard errors s; the control c, such as the values of
`meanfield.unit_values`, has no noise but an unknown bias. For more than three players

    φ̃ = c + λ (φ̂ − c),       λ = max(0, 1 − Σ_i s_i² / Σ_i (φ̂_i − c_i)²)

has a smaller expected squared error than φ̂ whatever the bias is, if no direction has
more than a quarter of the variance Σ s_i² (Stein). If noise can explain the difference,
φ̃ is the control; as the noise vanishes, φ̃ → φ̂. Standard errors and intervals remain
those of the sample, because only these are valid for every control; but an interval
that does not include φ̃ is widened to do so.

A control variate in the strict sense is not possible: the contribution of a player to a
linear game is the same in every order, so subtracting it does not change the variance.

References:
    James & Stein 1961, Proc. 4th Berkeley Symp. 1:361. Baranchik 1964 (positive part).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from meanfield.checks import require

from .index_values import Estimate


def checked_control(
    control: Any, num_players: int
) -> Float[np.ndarray, " players"] | None:
    """The control as float64.

    Raises:
        ValueError: `control` does not have one finite value for each player.
    """
    if control is None:
        return None
    values = np.asarray(control, np.float64)
    require(
        values.shape == (num_players,) and bool(np.isfinite(values).all()),
        f"`control` must have one finite value for each of the {num_players} players, "
        f"such as `unit_values(...).values[layer]`; got shape {values.shape}.",
    )
    return values


def shrink(
    estimate: Estimate, control: Float[np.ndarray, " players"], gain: float
) -> Estimate:
    """Shrink an estimate to a control; intervals are widened to include the new values.

    Args:
        estimate: an estimate for all players. Values with error 0 do not change.
        control: c; it is shifted so that the values still sum to `gain`.
        gain: v(N) − v(∅).
    """
    free = estimate.standard_errors > 0
    errors = estimate.standard_errors[free]
    if free.sum() < 4 or not np.isfinite(errors).all():
        return estimate
    target = control[free]
    target = target + (gain - estimate.values[~free].sum() - target.sum()) / free.sum()
    away = estimate.values[free] - target
    noise, distance = np.square(errors).sum(), np.square(away).sum()
    kept = max(0.0, 1 - noise / distance) if distance > 0 else 0.0
    values = estimate.values.copy()
    values[free] = target + kept * away
    lower, upper = estimate.intervals.T
    ends = np.stack([np.minimum(lower, values), np.maximum(upper, values)], axis=1)
    return dataclasses.replace(estimate, values=values, intervals=ends)
