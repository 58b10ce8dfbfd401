r"""Quadrature nodes and weights for values that are integrals along a path.

A value is an integral over the share t of the players in the coalition,

    φ = ∫₀¹ b(t) g(t) dt  ≈  Σ_k w_k g(t_k),

with g the derivative of the payoff along the player's gate (see `path_integral`).
b = 1 gives the Shapley value, all mass at t = ½ the Banzhaf value, and any density b a
semivalue. The error is estimated by embedded rules. The columns of N are orthonormal
vectors orthogonal to all polynomials of degree ≤ n − 3 at the n nodes. A rule
w + ‖w‖ N u with ‖u‖ = 1 still integrates these polynomials exactly, and its integral of
g differs from that of w by

    |ΔI| ≤ ‖w‖ ‖Nᵀ g‖.

This bound is the estimate of the error. A Gauss rule is exact up to degree 2n − 1, so
for a smooth g its error is much smaller.

References:
    Dubey, Neyman & Weber 1981, Math. Oper. Res. 6:122 (semivalues). Kwon & Zou 2022,
    arXiv:2110.14049 (Beta-Shapley). Berntsen & Espelid 1991, ACM TOMS 17:233 (null
    rules).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import null_space
from scipy.special import roots_jacobi

from meanfield.checks import require

Weighting = str | tuple[float, float] | Callable[[Any], Any] | None
FEWEST_NODES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """Nodes in (0, 1) and their weights.

    Attributes:
        nodes: t_k, increasing.
        weights: w_k, including the density b.
        efficient: whether b = 1, so that the values add up to v(N) − v(∅).
    """

    nodes: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    efficient: bool

    def error(
        self, integrand: Float[np.ndarray, "nodes sums"]
    ) -> Float[np.ndarray, " sums"]:
        """‖w‖ ‖Nᵀ g‖, an upper estimate of the error of each integral."""
        if len(self.nodes) == 1:
            return np.zeros(integrand.shape[1])
        degree = len(self.nodes) - FEWEST_NODES
        smooth = np.polynomial.legendre.legvander(2 * self.nodes - 1, degree)
        rough = null_space(smooth.T).T @ integrand
        return np.linalg.norm(self.weights) * np.linalg.norm(rough, axis=0)


def choose_rule(weighting: Weighting, num_nodes: int) -> Rule:
    """Gauss rule for a weight function on the share t of players in the coalition.

    Args:
        weighting: None for b = 1; "banzhaf" for t = ½ alone; a pair (a, b) of positive
            numbers for the Beta density ∝ t^(a − 1) (1 − t)^(b − 1); or a function of
            an array of t, non-negative with mean 1.
        num_nodes: n ≥ 3; "banzhaf" uses a single node, whatever is given.

    Raises:
        ValueError: another string, a pair that is not a Beta density, a function that
            is negative or not finite, or too few nodes.
    """
    if weighting == "banzhaf":
        return Rule(np.array([0.5]), np.array([1.0]), False)
    require(
        num_nodes >= FEWEST_NODES,
        f"`num_nodes` must be at least {FEWEST_NODES}; got {num_nodes}. 12 are enough "
        "for most networks.",
    )
    if isinstance(weighting, tuple):
        return _beta_rule(weighting, num_nodes)
    points, weights = np.polynomial.legendre.leggauss(num_nodes)
    nodes, weights = (points + 1) / 2, weights / 2
    if weighting is None:
        return Rule(nodes, weights, True)
    require(
        callable(weighting),
        "`weighting` must be None (Shapley), 'banzhaf', a pair (a, b) of a Beta "
        f"density, or a function of t; got {weighting!r}.",
    )
    density = np.asarray(weighting(nodes), np.float64)  # type: ignore[operator]
    require(
        density.shape == nodes.shape
        and bool((np.isfinite(density) & (density >= 0)).all()),
        "`weighting` must return one finite number ≥ 0 for each t in (0, 1); got "
        f"{density}.",
    )
    return Rule(nodes, weights * density, False)


def _beta_rule(weighting: tuple[float, float], num_nodes: int) -> Rule:
    require(
        len(weighting) == 2 and all(np.isfinite(w) and w > 0 for w in weighting),
        "`weighting` must be a pair (a, b) of positive numbers, for the Beta density "
        f"of the share of players in the coalition; got {weighting!r}.",
    )
    a, b = weighting
    points, weights = roots_jacobi(num_nodes, b - 1, a - 1)
    return Rule((points + 1) / 2, weights / weights.sum(), False)
