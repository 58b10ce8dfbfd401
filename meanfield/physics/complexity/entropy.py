r"""Entropy in bits from counts and from binary states, with bias corrections.

The plug-in entropy Ĥ = −Σ p̂ log₂ p̂ of K states in N samples is too small by about
(K − 1)/(2N ln 2) bits. The corrections below are the usual ones; none is exact.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import digamma, entr, xlogy

from meanfield.checks import require

ESTIMATORS = ("plug-in", "miller-madow", "grassberger", "chao-shen")


def binary_entropy(probability: Any) -> Float64[np.ndarray, "..."]:
    """Entropy of a binary variable, −p log₂ p − (1 − p) log₂(1 − p), in bits.

    Args:
        probability: p in [0, 1], of any shape.

    Returns:
        Bits of the same shape: 0 at p = 0 and 1, and 1 at p = ½, exactly.

    Example:
        >>> from meanfield.physics.complexity.entropy import binary_entropy
        >>> binary_entropy([0.0, 0.5, 1.0]).tolist()
        [0.0, 1.0, 0.0]
    """
    p = np.asarray(probability, dtype=np.float64)
    return np.asarray((entr(p) + entr(1 - p)) / np.log(2))


def count_entropy(
    counts: Int[np.ndarray, " states"], estimator: str = "grassberger"
) -> float:
    r"""Entropy in bits of the distribution that produced the counts.

        plug-in        −Σ (n/N) log₂ (n/N)
        miller-madow   plug-in + (K − 1)/(2N ln 2), K the number of observed states
        grassberger    [ln N − (1/N) Σ n G(n)]/ln 2,
                       G(n) = ψ(n) + ½(−1)ⁿ [ψ((n + 1)/2) − ψ(n/2)]
        chao-shen      −Σ p̃ log₂ p̃ / (1 − (1 − p̃)ᴺ), p̃ = (1 − f₁/N) n/N,
                       f₁ the number of states observed once

    Args:
        counts: number of observations of each state; zeros are left out.
        estimator: one of the four names.

    Raises:
        ValueError: an unknown estimator, a negative count, or no sample.

    Example:
        >>> import numpy as np
        >>> from meanfield.physics.complexity.entropy import count_entropy
        >>> count_entropy(np.array([4, 4]), "plug-in")
        1.0

    References:
        Miller 1955; Grassberger 2003, arXiv:physics/0307138; Chao & Shen 2003.
    """
    require(
        estimator in ESTIMATORS,
        f"`estimator` must be one of {', '.join(ESTIMATORS)}; got {estimator!r}.",
    )
    require(
        bool((counts >= 0).all()) and bool(counts.sum() > 0),
        "`counts` must be non-negative with at least one sample; got "
        f"{counts.tolist()[:10]}.",
    )
    n = counts[counts > 0].astype(np.float64)
    total = n.sum()
    if len(n) == 1:  # One state: every estimator is 0 up to rounding.
        return 0.0
    if estimator == "grassberger":
        sign = 1 - 2 * (n % 2)
        g = digamma(n) + 0.5 * sign * (digamma((n + 1) / 2) - digamma(n / 2))
        nats = np.log(total) - (n * g).sum() / total
    elif estimator == "chao-shen":
        # If each state occurred once, the coverage would be 0: count one as a repeat.
        singletons = min((n == 1).sum(), total - 1)
        p = (1 - singletons / total) * n / total
        nats = (entr(p) / -np.expm1(total * np.log1p(-p))).sum()
    else:
        nats = entr(n / total).sum()
        if estimator == "miller-madow":
            nats += (len(n) - 1) / (2 * total)
    return float(nats / np.log(2))


def count_entropy_error(counts: Int[np.ndarray, " states"]) -> float:
    r"""Standard error in bits of Grassberger's entropy from counts.

        Var ≈ σ²/N + (K − 1)/(2N²) + K/(4N²)        σ² = Σ p ln² p − (Σ p ln p)², nats²

    The first term is that of the delta method; with observed shares it is too large by
    (K − 1)/N², which is subtracted. The second term is the variance that remains if all
    states are equally likely (σ² = 0); the third is due to the alternating sign in G.
    """
    n = counts[counts > 0].astype(np.float64)
    total = n.sum()
    p = n / total
    observed = xlogy(p, p) @ np.log(p) - xlogy(p, p).sum() ** 2
    excess = (len(n) - 1) / total**2
    first = max(observed / total - excess, 0.0)
    alternating = len(n) / (4 * total**2) if len(n) > 1 else 0.0
    return float(np.sqrt(first + excess / 2 + alternating) / np.log(2))


def unit_entropies(
    states: Bool[np.ndarray, "examples units"],
) -> tuple[Float64[np.ndarray, " units"], float]:
    """Bits of every unit, and their sum with a bias correction.

    Args:
        states: True for units that were on.

    Returns:
        The plug-in entropies c_i in [0, 1], exactly 0 for a unit that never changes;
        and Σ c_i + (units that change)/(2N ln 2), the Miller–Madow correction.
    """
    share = states.mean(axis=0)
    bits = binary_entropy(share)
    changing = ((share > 0) & (share < 1)).sum()
    return bits, float(bits.sum() + changing / (2 * len(states) * np.log(2)))


def count_states(
    states: Bool[np.ndarray, "examples units"],
) -> Int[np.ndarray, " states"]:
    """Number of observations of each joint state of the units."""
    packed = np.packbits(states, axis=1)
    _, counts = np.unique(packed, axis=0, return_counts=True)
    return counts.astype(np.int64)
