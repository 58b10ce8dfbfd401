r"""Hopfield network and Boltzmann machine as cases of the same arbitrage equilibrium.

Let the utility be linear minus quadratic in some coordinates x, minus a term for
competition:

    h(x) = aᵀx − ½ xᵀB x − ln p(x)

Equal h at every x with p(x) > 0 means p(x) ∝ exp(aᵀx − ½ xᵀB x). Three cases of this
form:

| coordinates x           | a      | B        | equilibrium                         |
|-------------------------|--------|----------|-------------------------------------|
| ln\|w\|, one connection | α + 1  | 2β       | lognormal microstructure            |
| spins s ∈ {−1, 1}^n     | b/T    | −W/T     | Boltzmann machine at temperature T  |
| the same, T → 0         | b/T    | −W/T     | Hopfield network: p on its minima   |

(The 1 in the first row is the Jacobian, because p is the density of x = ln|w| there and
not of |w|.) Derived here and tested by enumeration: at the Gibbs distribution of the
energy E(s) = −½ sᵀW s − bᵀs every state has h = ln Z, so no change of state increases
h; and as T → 0, T h tends to −min E, and p is nonzero only on the states of least
energy, which are the stored patterns. The abstract of arXiv:2310.06960 states that both
are special cases; the derivation is this project's own.
"""

import numpy as np
from jaxtyping import Float

from meanfield.checks import require

MAX_UNITS = 20


def quadratic_utility(
    coordinates: Float[np.ndarray, "points dim"],
    linear: Float[np.ndarray, " dim"],
    quadratic: Float[np.ndarray, "dim dim"],
) -> Float[np.ndarray, " points"]:
    """Utility aᵀx − ½ xᵀB x of every point, in nats.

    Args:
        coordinates: points x.
        linear: a, the benefit.
        quadratic: B, the cost.
    """
    bilinear = np.einsum("pi,ij,pj->p", coordinates, quadratic, coordinates)
    return coordinates @ linear - 0.5 * bilinear


def spin_states(num_units: int) -> Float[np.ndarray, "states units"]:
    """All 2^n states of n spins of value −1 or 1, for enumeration.

    Args:
        num_units: n.

    Returns:
        One state per row; the first spin changes fastest.

    Raises:
        ValueError: n is not between 1 and 20.

    Example:
        >>> spin_states(2).tolist()
        [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    require(
        1 <= num_units <= MAX_UNITS,
        f"`num_units` must lie between 1 and {MAX_UNITS}; got {num_units}. The states "
        "are listed one by one: sample a larger network instead.",
    )
    bits = (np.arange(2**num_units)[:, None] >> np.arange(num_units)) & 1
    return 2.0 * bits - 1.0


def boltzmann_utility(
    states: Float[np.ndarray, "states units"],
    weights: Float[np.ndarray, "units units"],
    biases: Float[np.ndarray, " units"],
    temperature: float | int = 1.0,
) -> Float[np.ndarray, " states"]:
    """Utility −E(s)/T of spin states, E(s) = −½ sᵀW s − bᵀs, in nats.

    This is `quadratic_utility` with a = b/T and B = −W/T.

    Args:
        states: spins of value −1 or 1, one state per row.
        weights: W, symmetric.
        biases: b.
        temperature: T > 0.

    Returns:
        −E(s)/T of every state.

    Raises:
        ValueError: W is not symmetric, or T is not positive.

    Example:
        >>> import numpy as np
        >>> pair = np.array([[0.0, 1.0], [1.0, 0.0]])  # positive coupling of two spins
        >>> states = np.array([[1.0, 1.0], [1.0, -1.0]])
        >>> boltzmann_utility(states, pair, np.zeros(2)).tolist()
        [1.0, -1.0]
    """
    require(
        temperature > 0,
        f"`temperature` must be positive; got {temperature}. For a Hopfield network "
        "use a small one, or look at the minima of the energy.",
    )
    require(
        bool(np.allclose(weights, weights.T)),
        "`weights` must be symmetric, or there is no energy; got a matrix that is not. "
        "Use (W + Wᵀ)/2.",
    )
    return quadratic_utility(states, biases / temperature, -weights / temperature)


def equilibrium_shares(
    utilities: Float[np.ndarray, " states"],
) -> Float[np.ndarray, " states"]:
    """Shares p ∝ exp(utility) at which utility − ln p is the same for all states.

    Args:
        utilities: utility of every state, in nats.

    Returns:
        p, summing to 1.

    Example:
        >>> import numpy as np
        >>> equilibrium_shares(np.log([1.0, 3.0])).round(6).tolist()
        [0.25, 0.75]
    """
    shifted = np.exp(utilities - utilities.max())
    return shifted / shifted.sum()


def hebbian_weights(
    patterns: Float[np.ndarray, "patterns units"],
) -> Float[np.ndarray, "units units"]:
    """Weights W = (1/n) Σ ξ ξᵀ with zero diagonal, which store patterns of ±1.

    Args:
        patterns: ξ, of value −1 or 1, one per row.

    Returns:
        W, symmetric, with a diagonal of zeros.

    Example:
        >>> import numpy as np
        >>> hebbian_weights(np.array([[1.0, -1.0]])).tolist()
        [[0.0, -0.5], [-0.5, 0.0]]
    """
    weights = patterns.T @ patterns / patterns.shape[1]
    np.fill_diagonal(weights, 0.0)
    return weights
