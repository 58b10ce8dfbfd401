r"""Sampled values moved towards values that were found in another way.

The sampled φ̂ is unbiased with standard errors s; the control c, such as the values of
`meanfield.unit_values`, has no noise but an unknown bias. With more than three players

    φ̃ = c + λ (φ̂ − c),       λ = max(0, 1 − Σ_i s_i² / Σ_i (φ̂_i − c_i)²)

has a smaller expected squared error than φ̂ whatever the bias is (Stein): where the
difference is no larger than the noise explains, φ̃ is the control, and as the noise
vanishes, φ̃ → φ̂. Standard errors and intervals remain those of the sample, because only
they hold for every control.

A control variate in the strict sense does not exist here: a player's share of a linear
game is the same in every order, so that subtracting it changes no variance.

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
        ValueError: not one finite value for each player.
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
    """The estimate moved towards the control; intervals grow to hold the new values.

    Args:
        estimate: of all players. Those with an error of 0 are known and stay.
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
