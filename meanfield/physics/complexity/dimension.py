r"""Effective dimension of a set of features, from its principal components.

    p_k = λ_k / Σ λ      D = exp(−Σ p_k ln p_k)      PR = 1/Σ p_k²      1 ≤ PR ≤ D

with λ the eigenvalues of the covariance. With few examples both are biased low: N iid
Gaussian examples in d dimensions give D ≈ d exp(−d/2N) and PR ≈ d/(1 + d/N), although
all d directions have the same variance. Compare every measured value with these nulls.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, PRNGKeyArray

from meanfield.checks import first_bad, require
from meanfield.keys import numpy_generator

# Examples per dimension below which the bias exceeds 5 % of D.
ENOUGH = 10


@dataclasses.dataclass(frozen=True)
class EffectiveDimension:
    """Effective dimension and participation ratio with errors and nulls.

    Args:
        dimension: D, the exponential of the entropy of the spectrum.
        dimension_error: standard error of D over examples (delta method; up to 1.7
            times too large if all directions have the same variance).
        dimension_null: d exp(−d/2N), D of independent Gaussian features.
        dimension_shuffled: mean D after an independent shuffle of each feature over the
            examples, which keeps the variances and removes the correlations.
        participation: PR = 1/Σ p².
        participation_error: standard error of PR.
        participation_null: d/(1 + d/N), PR of independent Gaussian features.
        participation_shuffled: mean PR after the same shuffling.
        num_features: d, the number of features that vary.
        num_examples: N.
        enough: whether N ≥ 10 d, so that the bias of D stays below 5 %.
    """

    dimension: float
    dimension_error: float
    dimension_null: float
    dimension_shuffled: float | None
    participation: float
    participation_error: float
    participation_null: float
    participation_shuffled: float | None
    num_features: int
    num_examples: int
    enough: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return dataclasses.asdict(self)


def isotropic_dimension(num_features: int, num_examples: int) -> float:
    """D of N iid Gaussian examples in d ≤ N dimensions: d exp(−d/2N).

    From the Marchenko–Pastur distribution, for which E[λ ln λ] = d/2N.

    Example:
        >>> from meanfield.physics.complexity.dimension import isotropic_dimension
        >>> round(isotropic_dimension(100, 1000), 2)
        95.12
    """
    return float(num_features * np.exp(-num_features / (2 * num_examples)))


def isotropic_participation(num_features: int, num_examples: int) -> float:
    """PR of N iid Gaussian examples in d dimensions: d/(1 + d/N)."""
    return float(num_features / (1 + num_features / num_examples))


def spectrum_dimensions(spectrum: Float64[np.ndarray, " features"]) -> tuple:
    """(D, PR) of a spectrum of variances; zeros contribute nothing.

    Example:
        >>> import numpy as np
        >>> from meanfield.physics.complexity.dimension import spectrum_dimensions
        >>> d, pr = spectrum_dimensions(np.array([1.0, 1.0, 1.0, 0.0]))
        >>> round(d, 12), round(pr, 12)
        (3.0, 3.0)
    """
    positive = spectrum[spectrum > 0]
    p = positive / positive.sum()
    return float(np.exp(-(p * np.log(p)).sum())), float(1 / (p**2).sum())


def effective_dimension(
    features: Float[Any, "examples features"],
    *,
    key: PRNGKeyArray,
    num_shuffles: int = 3,
) -> EffectiveDimension:
    r"""Effective dimension D = exp(−Σ p ln p) and participation ratio of features.

    Args:
        features: one row per example. Features that never vary are left out.
        key: a `jax.random.key` for the shuffled null.
        num_shuffles: shuffled copies to average; 0 for none.

    Returns:
        An `EffectiveDimension`; all values lie between 1 and d.

    Raises:
        ValueError: NaN or infinity, no feature that varies, or fewer examples than
            varying features (D would then measure the number of examples).

    Example:
        >>> import jax
        >>> from meanfield.physics.complexity.dimension import effective_dimension
        >>> x = jax.random.normal(jax.random.key(0), (2000, 20))
        >>> result = effective_dimension(x, key=jax.random.key(1))
        >>> abs(result.dimension - result.dimension_null) < 0.1
        True

    References:
        Janik & Witaszczyk 2020, arXiv:2006.04791 (the idea; whether their definition
        is the same was not checked).
    """
    x = np.asarray(features, dtype=np.float64)
    finite = np.isfinite(x)
    require(
        bool(finite.all()),
        f"`features` must be finite; got NaN or infinity at {first_bad(~finite)}. "
        "Remove such examples.",
    )
    x = x[:, (x != x[:1]).any(axis=0)]
    num_examples, num_features = x.shape
    require(
        num_features > 0,
        "`features` must vary; got only constant features, which have no dimension. "
        "Use other examples.",
    )
    require(
        num_examples >= num_features,
        f"`features` must have at least as many examples as features that vary, "
        f"{num_features}; got {num_examples}. Use more examples.",
    )
    # p does not depend on the scale, but squares may overflow or underflow.
    x = (x - x.mean(axis=0)) / np.abs(x).max()
    rng = numpy_generator(key, spawn_key=(1,))
    spectrum, axes = _spectrum(x)
    dimension, participation = spectrum_dimensions(spectrum)
    dimension_error, participation_error = _errors(x, spectrum, axes)
    shuffled = np.array([_shuffled(x, rng) for _ in range(num_shuffles)])
    means = shuffled.mean(axis=0) if num_shuffles else (None, None)
    return EffectiveDimension(
        dimension=dimension,
        dimension_error=dimension_error,
        dimension_null=isotropic_dimension(num_features, num_examples),
        dimension_shuffled=None if means[0] is None else float(means[0]),
        participation=participation,
        participation_error=participation_error,
        participation_null=isotropic_participation(num_features, num_examples),
        participation_shuffled=None if means[1] is None else float(means[1]),
        num_features=num_features,
        num_examples=num_examples,
        enough=num_examples >= ENOUGH * num_features,
    )


def _errors(x: np.ndarray, spectrum: np.ndarray, axes: np.ndarray) -> tuple:
    r"""Standard errors of D and PR over examples, by the delta method.

    An example with component c_k along axis k changes λ_k by (c_k² − λ_k)/N, and

        ∂D/∂λ_k = −D (ln p_k + S)/L      ∂PR/∂λ_k = 2 (L/Q)(1 − λ_k L/Q)

    with L = Σ λ, Q = Σ λ² and S = −Σ p ln p. Directions without variance contribute 0.
    """
    spectrum, axes = spectrum[spectrum > 0], axes[:, spectrum > 0]
    moved = (x @ axes) ** 2 - spectrum
    total, square = spectrum.sum(), (spectrum**2).sum()
    p = spectrum / total
    entropy = -(p * np.log(p)).sum()
    gradients = (
        -np.exp(entropy) * (np.log(p) + entropy) / total,
        2 * total / square * (1 - spectrum * total / square),
    )
    return tuple(
        float(np.std(moved @ gradient) / np.sqrt(len(x))) for gradient in gradients
    )


def _spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances along the principal axes of centred features, and those axes."""
    spectrum, axes = np.linalg.eigh(x.T @ x / len(x))
    # By rounding, eigenvalues that should be 0 are of order eps.
    floor = spectrum[-1] * len(spectrum) * np.finfo(np.float64).eps
    return np.where(spectrum > floor, spectrum, 0.0), axes


def _shuffled(x: np.ndarray, rng: np.random.Generator) -> tuple:
    return spectrum_dimensions(_spectrum(rng.permuted(x, axis=0))[0])
