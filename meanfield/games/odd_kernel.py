"""A Gaussian process prior over games: the covariance of two coalitions' payoffs.

The odd part g(S) = ½[v(S) − v(N∖S)] determines the Shapley values. Its covariance is

    k(S, T) = c_s c_t { K[s,t,d] − K[s,n−t,n−d] + b (q_st − q_s,n−t) + ε 1[S = T] }
    K[s,t,d] = r_st z^d        r_st = exp(−(h_s − h_t)²/2ℓ²)        q: r with ℓ = 1

with s = |S|, t = |T|, d = |S △ T|, h_s = ln((s + ½)/(n − s + ½)) and c_s proportional
to (s(n − s))^{−γ/2}. In words: payoffs are correlated if few players differ and if the
log odds of the sizes are similar (ℓ). With z = (1 − ρ)/(1 + ρ), an interaction of k
players has variance proportional to ρ^k, so that ρ → 0 leaves additive games. Small and
large coalitions may vary more (γ). A smooth function of the size has a separate
variance (b), because it contributes the same to all players and does not affect the
differences of values. Every complementary pair has an independent term (ε).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln


@dataclasses.dataclass(frozen=True)
class OddKernel:
    """The kernel without its scale σ²: tables over sizes and distances for n players.

    Args:
        num_players: n.
        correlation: ρ in (0, 1).
        size_scale: ℓ > 0, infinite for no dependence on the size.
        size_variance: b > 0.
        amplitude_power: γ.
        surprise: ε > 0.
    """

    num_players: int
    correlation: float
    size_scale: float
    size_variance: float
    amplitude_power: float
    surprise: float

    @property
    def decay(self) -> float:
        """z, the factor of the correlation for each player that differs."""
        return (1 - self.correlation) / (1 + self.correlation)

    def size_correlation(self, scale: float) -> Float[np.ndarray, "sizes sizes"]:
        """r_st for all sizes 0 … n."""
        s = np.arange(self.num_players + 1)
        log_odds = np.log((s + 0.5) / (self.num_players - s + 0.5))
        return np.exp(-0.5 * np.square((log_odds[:, None] - log_odds) / scale))

    def amplitude(self) -> Float[np.ndarray, " sizes"]:
        """c_s for all sizes, 1 at sizes 1 and n − 1."""
        s = np.arange(self.num_players + 1)
        product = np.maximum(s * (self.num_players - s), self.num_players - 1)
        return (product / (self.num_players - 1)) ** (-self.amplitude_power / 2)

    def gram(
        self, distances: Int[np.ndarray, "rows rows"], sizes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows rows"]:
        """k / (c_s c_t) between coalitions, without the independent term ε."""
        return GramParts(self.num_players, distances, sizes).gram(self)

    def shapley_covariance(self) -> tuple[Float[np.ndarray, " sizes"], float]:
        r"""Δ(t)/c_t for t = 0 … n (0 at the ends), and A = ½ Var(φ_i − φ_j).

        Here Δ(t) = Cov(φ_i − φ_j, g(T)) with i ∈ T ∌ j. The difference φ_i − φ_j
        averages g(S + i) − g(S + j) over S of uniform size among the n − 2 others.
        Adding i to both S and T keeps their distance; adding i to one and j to the
        other increases it by 2. So with H(s, u) the mean of z^{|S△U|} over random
        subsets S and U of these others, of sizes s and u,

            Δ(t) = (1 − z²)/(n − 1) Σ_s c_{s+1} [ r_{s+1,t} H(s, t−1)
                                                + r_{s+1,n−t} H(s, n−1−t) ]

        and the independent terms add 2ε c_t / ((n − 1) C(n − 2, t − 1)).
        """
        n = self.num_players
        near = self.size_correlation(self.size_scale)[1:n, 1:n]
        mean_power = mean_distance_power(n - 2, self.decay)
        amplitude = self.amplitude()[1:n]
        similar = near * mean_power + near[:, ::-1] * mean_power[:, ::-1]
        inner = (1 - self.decay**2) / (n - 1) * (amplitude @ similar)
        s = np.arange(n - 1)
        log_count = gammaln(n - 1) - gammaln(s + 1) - gammaln(n - 1 - s)
        weight = np.exp(-log_count) / (n - 1)
        contrast_variance = (amplitude @ inner) / (n - 1)
        contrast_variance += (
            2 * self.surprise * (amplitude**2 @ np.exp(-log_count)) / (n - 1) ** 2
        )
        covariance = np.zeros(n + 1)
        covariance[1:n] = inner + 2 * self.surprise * amplitude * weight
        return covariance, float(contrast_variance)


class GramParts:
    """Parts of the Gram matrices of some coalitions that many kernels share.

    Args:
        num_players: n.
        distances: d of every two coalitions.
        sizes: sizes of the coalitions.
    """

    def __init__(
        self,
        num_players: int,
        distances: Int[np.ndarray, "rows rows"],
        sizes: Int[np.ndarray, " rows"],
    ):
        self._n, self._distances, self._sizes = num_players, distances, sizes
        self._near: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._powers: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def of(cls, coalitions: Bool[np.ndarray, "rows players"]) -> "GramParts":
        """The parts of the coalitions with these members."""
        signs = np.where(coalitions, 1.0, -1.0)
        n = coalitions.shape[1]
        distances = np.rint((n - signs @ signs.T) / 2).astype(np.int64)
        return cls(n, distances, coalitions.sum(axis=1))

    def gram(self, kernel: OddKernel) -> Float[np.ndarray, "rows rows"]:
        """k / (c_s c_t), without the independent term ε."""
        near, near_across = self._by_size(kernel, kernel.size_scale)
        free, free_across = self._by_size(kernel, 1.0)
        power, power_across = self._by_distance(kernel.decay)
        rest = kernel.size_variance * (free - free_across)
        return near * power - near_across * power_across + rest

    def _by_size(
        self, kernel: OddKernel, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """r of S and T, and of S and N∖T."""
        if scale not in self._near:
            table = kernel.size_correlation(scale)[self._sizes]
            self._near[scale] = (
                table[:, self._sizes],
                table[:, self._n - self._sizes],
            )
        return self._near[scale]

    def _by_distance(self, decay: float) -> tuple[np.ndarray, np.ndarray]:
        """z^d of S and T, and of S and N∖T."""
        if decay not in self._powers:
            power = decay ** np.arange(self._n + 1)
            self._powers[decay] = power[self._distances], power[::-1][self._distances]
        return self._powers[decay]


def mean_distance_power(
    num_players: int, decay: float
) -> Float[np.ndarray, "sizes sizes"]:
    """H(s, u): mean of z^|S△U| over random subsets S, U of sizes s and u.

    The size of S ∩ U is hypergeometric, so H is a sum over these sizes, in log space.
    """
    m = num_players
    sizes = np.arange(m + 1)
    log_factorial = gammaln(np.arange(m + 1) + 1)
    table = np.empty((m + 1, m + 1))
    s, overlap = sizes[:, None], sizes[None, :]
    for u in range(m // 2 + 1):
        # Rows are s, columns overlaps ≤ u; impossible pairs have probability 0.
        o = overlap[:, : u + 1]
        rest = s - o
        feasible = (rest >= 0) & (rest <= m - u)
        safe = np.where(feasible, rest, 0)
        log_prob = (
            log_factorial[u]
            - log_factorial[o]
            - log_factorial[u - o]
            + log_factorial[m - u]
            - log_factorial[safe]
            - log_factorial[m - u - safe]
            - (log_factorial[m] - log_factorial[s] - log_factorial[m - s])
        )
        distance = safe + u - o
        terms = np.where(feasible, np.exp(log_prob + distance * np.log(decay)), 0)
        table[:, u] = terms.sum(axis=1)
    # The complements of S and U have the same distance as S and U.
    table[:, m - m // 2 :] = table[::-1, : m // 2 + 1][:, ::-1]
    return table
