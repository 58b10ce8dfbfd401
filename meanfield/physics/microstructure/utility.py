r"""Utility of a connection's strength, and the lognormal of equal utility.

    h(w) = α ln|w| − β (ln|w|)² − γ ln p(|w|)      utility − cost − competition

with p the density of magnitudes and γ = 1 unless said otherwise. h is constant if p is
a lognormal LN(μ, σ²), whose parameters correspond one to one to (α, β):

    μ = (α + γ)/(2β)     σ² = γ/(2β)        β = γ/(2σ²)     α = γ (μ/σ² − 1)

β does not depend on the unit of |w|, but α and μ do, so state the unit.

The form of h and of the potential is attributed to arXiv:2310.06960 by a
re-implementation of it; the relation of (α, β) to (μ, σ²) is derived here.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from meanfield.checks import require


def utility_coefficients(
    mu: float | int, sigma: float | int, competition: float | int = 1.0
) -> tuple[float, float]:
    """Coefficients (α, β) whose equilibrium is the lognormal LN(μ, σ²).

    β = γ/(2σ²), α = γ (μ/σ² − 1).

    Args:
        mu: μ, mean of ln|w|.
        sigma: σ > 0, standard deviation of ln|w|.
        competition: γ > 0, weight of the competition term.

    Returns:
        (α, β).

    Raises:
        ValueError: σ or γ is not positive.

    Example:
        >>> utility_coefficients(1.5, 0.5)
        (5.0, 2.0)
    """
    require_positive("sigma", sigma)
    require_positive("competition", competition)
    precision = competition / sigma**2
    return float(precision * mu - competition), float(precision / 2)


def equilibrium_distribution(
    alpha: float | int, beta: float | int, competition: float | int = 1.0
) -> tuple[float, float]:
    """Parameters (μ, σ) of the lognormal at which every connection has equal h.

    μ = (α + γ)/(2β), σ² = γ/(2β); inverse of `utility_coefficients`.

    Args:
        alpha: α, weight of the utility of strength.
        beta: β > 0, weight of its cost.
        competition: γ > 0, weight of the competition term.

    Returns:
        (μ, σ), mean and standard deviation of ln|w|.

    Raises:
        ValueError: β or γ is not positive: no equilibrium exists.

    Example:
        >>> equilibrium_distribution(5.0, 2.0)
        (1.5, 0.5)
    """
    require_positive("beta", beta)
    require_positive("competition", competition)
    return (
        float((alpha + competition) / (2 * beta)),
        float((competition / (2 * beta)) ** 0.5),
    )


def effective_utility(
    magnitudes: Float[np.ndarray, " points"],
    densities: Float[np.ndarray, " points"],
    alpha: float | int,
    beta: float | int,
) -> Float[np.ndarray, " points"]:
    """h = α ln|w| − β (ln|w|)² − ln(density) at given points, in nats.

    Args:
        magnitudes: |w| > 0.
        densities: density of the magnitudes at these points, > 0.
        alpha: α, weight of the utility of strength.
        beta: β, weight of its cost.

    Returns:
        h at every point.

    Raises:
        ValueError: a magnitude or a density is not positive.

    Example:
        >>> import numpy as np
        >>> effective_utility(np.array([1.0]), np.array([1.0]), 5.0, 2.0).tolist()
        [0.0]
    """
    require_positive("magnitudes", np.min(magnitudes, initial=np.inf))
    require_positive("densities", np.min(densities, initial=np.inf))
    logs = np.log(magnitudes)
    return alpha * logs - beta * np.square(logs) - np.log(densities)


def potential(
    counts: Float[np.ndarray, " bins"],
    magnitudes: Float[np.ndarray, " bins"],
    alpha: float | int,
    beta: float | int,
) -> float:
    r"""Potential of a layer's histogram, maximal at equilibrium, in nats per weight.

        φ = α Σ x_k ln w_k − β Σ x_k (ln w_k)² + (1/M) ln[ M! / Π_k (M x_k)! ]

    M times its change when one connection moves between bins is the difference of the
    bins' effective utilities, up to O(1/M): a potential game.

    Args:
        counts: connections M x_k in every bin; factorials by the gamma function.
        magnitudes: |w_k| > 0 of every bin.
        alpha: α.
        beta: β.

    Returns:
        φ.

    Raises:
        ValueError: negative counts, only zero counts, or a magnitude that is not
            positive.

    Example:
        >>> import numpy as np
        >>> potential(np.array([1.0, 0.0]), np.array([1.0, 2.0]), 5.0, 2.0)
        0.0

    References:
        Attributed to arXiv:2310.06960 by a re-implementation of it.
    """
    total = float(np.sum(counts))
    require(
        total > 0 and bool(np.all(counts >= 0)),
        f"`counts` must be at least 0 with a positive sum; got {counts}. Count the "
        "weights in every bin.",
    )
    require_positive("magnitudes", np.min(magnitudes, initial=np.inf))
    logs, share = np.log(magnitudes), counts / total
    ways = special.gammaln(total + 1) - float(np.sum(special.gammaln(counts + 1)))
    utility = float(share @ (alpha * logs - beta * np.square(logs)))
    return utility + float(ways) / total


def require_positive(name: str, value: Any) -> None:
    """Raise unless a parameter of the equilibrium lognormal is positive."""
    require(
        bool(value > 0),
        f"`{name}` must be positive, or no lognormal exists; got {value}.",
    )
