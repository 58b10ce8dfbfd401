r"""Draws of each input from its conditional distribution given the other inputs.

The inputs are jointly normal, with a mean and a covariance that nobody knows. With H
the projection on the other inputs and a constant,

    x̃_j = H x_j + ‖(1 − H) x_j‖ u,      u uniform among unit vectors with H u = 0.

Given the other inputs, H x_j and ‖(1 − H) x_j‖, which are sufficient statistics, x̃_j
and x_j have the same distribution. So nothing has to be estimated. An input that the
others determine (a duplicate, one of the columns for all categories) stays as it is.

With hardly more examples than inputs, or fewer, nothing is left for u. Then H is
replaced by a regression with a covariance shrunk by Ledoit and Wolf's method, and u is
any unit vector. A shrunk regression leaves part of what the others say in x_j − H x_j,
so x̃_j lacks it, and an input may seem to matter because another one does.

References:
    Huang & Janson 2020, Annals of Statistics 48:3021.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.covariance import LedoitWolf


class Conditional(NamedTuple):
    """The conditional distribution of each input given the others, on a sample.

    Attributes:
        predicted: H x_j.
        lengths: ‖(1 − H) x_j‖.
        directions: unit vectors along (1 − H) x_j, or 0.
        basis: orthonormal vectors that span a constant and all inputs; none with a
            shrunk covariance.
    """

    predicted: Float[np.ndarray, "examples inputs"]
    lengths: Float[np.ndarray, " inputs"]
    directions: Float[np.ndarray, "examples inputs"]
    basis: Float[np.ndarray, "examples rank"]


def conditional_distribution(x: Float[np.ndarray, "examples inputs"]) -> Conditional:
    """H x_j, and all that is needed to draw x̃_j; see the top of the module."""
    mean, spread = x.mean(0), x.std(0)
    standard = (x - mean) / np.where(spread > 0, spread, 1)
    left, values, right = np.linalg.svd(standard, full_matrices=False)
    present = values > values.max(initial=0) * 1e-6
    left, values, right = left[:, present], values[present], right[present]
    if len(values) >= len(x) - 1:
        rest, basis = _shrunk_rest(standard, spread > 0), x[:, :0]
        warnings.warn(
            f"`data` have {len(x)} examples of {len(values)} independent inputs, too "
            "few for a guaranteed rate of false discoveries. Pass more examples, or "
            "fewer inputs.",
            stacklevel=3,
        )
    else:
        # Column j of the transposed pseudo-inverse is orthogonal to all inputs but j.
        # An input that takes part in a linear dependence is not of this kind.
        dual = left @ (right / values[:, None])
        alone = (right**2).sum(0) > 1 - 1e-6
        lengths = np.linalg.norm(dual, axis=0)
        rest = np.divide(
            dual, lengths**2, out=np.zeros_like(dual), where=alone & (lengths > 0)
        )
        basis = np.column_stack([left, np.full(len(x), len(x) ** -0.5)])
        _warn_of_determined(np.flatnonzero(~alone & (spread > 0)))
    rest = rest * spread
    lengths = np.linalg.norm(rest, axis=0)
    directions = np.divide(
        rest, lengths, out=np.zeros_like(rest), where=(lengths > 0) & bool(basis.size)
    )
    return Conditional(x - rest, lengths, directions, basis)


def _shrunk_rest(
    standard: Float[np.ndarray, "examples inputs"], varies: Bool[np.ndarray, " inputs"]
) -> Float[np.ndarray, "examples inputs"]:
    """x_j − E[x_j | others] of normal inputs with a shrunk covariance."""
    rest = np.zeros_like(standard)
    if varies.any():
        fit = LedoitWolf(assume_centered=True).fit(standard[:, varies])
        precision = np.asarray(fit.precision_)
        rest[:, varies] = standard[:, varies] @ precision / np.diag(precision)
    return rest


def _warn_of_determined(inputs: Int[np.ndarray, " some"]) -> None:
    if inputs.size:
        warnings.warn(
            f"`data` inputs {inputs[:8].tolist()} are determined by the others "
            "(duplicates, or one column for each category): none of them can be "
            "selected. Leave one of each such group out.",
            stacklevel=4,
        )
