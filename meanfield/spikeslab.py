r"""One weight: a spike at zero and a Gaussian slab.

    P(w) = π δ(w) + (1 − π) N(w | m, Ξ)

| on paper | in code          | meaning                                      |
|----------|------------------|----------------------------------------------|
| π        | `spike_prob`     | probability that the connection is absent    |
| 1 − π    | `inclusion_prob` | derived                                      |
| m, Ξ     | `slab_mean`, `slab_var` | mean and variance of the slab         |

Connections may share a spike: they are present together or absent together, and each
has its own slab. Then π has length 1 along the axes of those connections.

Source: Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from .checks import is_concrete, require, require_in_range
from .elementary import safe_log, safe_sqrt, xlogx


@jax.custom_jvp
def _factored_var(
    spike_prob: Float[Array, "..."],
    slab_mean: Float[Array, "*shape"],
    slab_var: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    return (1 - spike_prob) * (slab_var + spike_prob * jnp.square(slab_mean))


@_factored_var.defjvp
def _factored_var_jvp(values: Any, tangents: Any) -> tuple[Any, Any]:
    """dV = (1 − π) dΞ + 2π(1 − π) m dm − (Ξ + (2π − 1) m²) dπ.

    Written out so that no factor of V has to be stored for the backward pass.
    """
    spike, mean, var = values
    d_spike, d_mean, d_var = tangents
    by_spike = var + (2 * spike - 1) * jnp.square(mean)
    change = (1 - spike) * (d_var + 2 * spike * mean * d_mean) - by_spike * d_spike
    return _factored_var(*values), change


class SpikeSlab(eqx.Module):
    r"""An array of spike-and-slab weights, independent except for shared spikes.

    P(w) = π δ(w) + (1 − π) N(w | m, Ξ), one such distribution for every entry.

    Args:
        spike_prob: π, the probability of an exact zero, in [0, 1].
        slab_mean: m, the mean of the slab.
        slab_var: Ξ ≥ 0, the variance (not the standard deviation) of the slab.

    The three arrays have one shape; their dtypes are promoted to one floating type. In
    two or more dimensions `spike_prob` may have length 1 along some axes (`shared`):
    the n connections along them share one spike,

        P(w₁ … w_n) = π Π δ(w_i) + (1 − π) Π N(w_i | m_i, Ξ_i),

    so that a unit is present or absent as a whole. Entropy and KL divergence count such
    a spike once, and assign an n-th of that to each of its connections.

    Raises:
        ValueError: shapes differ, π is outside [0, 1], Ξ is negative, or m or Ξ is not
            finite.

    Example:
        >>> import jax, meanfield as mf
        >>> w = mf.SpikeSlab([0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [0.0, 0.1, 0.1])
        >>> w.mean.tolist()
        [1.0, 0.5, 0.0]

    References:
        Li & Huang 2020, arXiv:2001.03354.
    """

    spike_prob: Float[Array, "..."]
    slab_mean: Float[Array, "*shape"]
    slab_var: Float[Array, "*shape"]

    def __init__(self, spike_prob: Any, slab_mean: Any, slab_var: Any):
        given = {
            "spike_prob": jnp.asarray(spike_prob),
            "slab_mean": jnp.asarray(slab_mean),
            "slab_var": jnp.asarray(slab_var),
        }
        shapes = {name: value.shape for name, value in given.items()}
        require(
            shapes["slab_mean"] == shapes["slab_var"]
            and _fits(shapes["spike_prob"], shapes["slab_mean"]),
            "`spike_prob`, `slab_mean` and `slab_var` must have one shape; got "
            f"{shapes}. Broadcast them first, for example with jnp.full. (With two or "
            "more axes `spike_prob` may have length 1 along those on which connections "
            "share a spike.)",
        )
        dtype = jnp.result_type(*given.values())
        require(
            not jnp.issubdtype(dtype, jnp.complexfloating),
            f"`spike_prob`, `slab_mean` and `slab_var` must be real; got {dtype}. Use "
            "separate weights for the real and the imaginary parts.",
        )
        if not jnp.issubdtype(dtype, jnp.floating):
            dtype = jnp.result_type(float)
        require_in_range(
            "spike_prob",
            given["spike_prob"],
            0.0,
            1.0,
            "It is the probability that the weight is absent.",
        )
        require_in_range(
            "slab_var",
            given["slab_var"],
            0.0,
            float("inf"),
            "It is a variance; square a standard deviation first.",
        )
        for name in ("slab_mean", "slab_var"):
            require(
                not is_concrete(given[name])
                or bool(np.isfinite(np.asarray(given[name], np.float64)).all()),
                f"`{name}` must be finite; got NaN or infinity. Look for an overflow "
                "or a division by 0 where it is computed.",
            )
        self.spike_prob = given["spike_prob"].astype(dtype)
        self.slab_mean = given["slab_mean"].astype(dtype)
        self.slab_var = given["slab_var"].astype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of weights."""
        return self.slab_mean.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions of the array of weights."""
        return self.slab_mean.ndim

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.slab_mean.size

    @property
    def dtype(self) -> Any:
        """Floating type of the weights."""
        return self.slab_mean.dtype

    @property
    def shared(self) -> tuple[int, ...]:
        """Axes along which connections share one spike; usually none."""
        sizes = zip(self.spike_prob.shape, self.shape, strict=True)
        return tuple(axis for axis, (one, all_) in enumerate(sizes) if one != all_)

    @property
    def inclusion_prob(self) -> Float[Array, "*shape"]:
        """Probability that the connection is present, 1 − π, in the weights' shape."""
        return jnp.broadcast_to(1 - self.spike_prob, self.shape)

    @property
    def mean(self) -> Float[Array, "*shape"]:
        """Mean weight μ = (1 − π) m."""
        return self.inclusion_prob * self.slab_mean

    @property
    def var(self) -> Float[Array, "*shape"]:
        """Variance V = (1 − π)(Ξ + π m²).

        The factored form loses no digits in float32; E[w²] − μ² would.
        """
        return _factored_var(self.spike_prob, self.slab_mean, self.slab_var)

    def entropy(self, resolution: float = 0.0) -> Float[Array, "*shape"]:
        r"""Entropy in nats per weight, for counting measure at 0 plus Lebesgue measure.

            S = H_b(π) + (1 − π) ½ ln(2πe Ξ)        H_b in nats; 2πe is 17.08

        With Ξ = 0 the slab is an atom: S = H_b(π), or 0 if m = 0, because the atom is
        then part of the spike. A spike alone (π = 1) has S = 0. The value is negative
        for small Ξ.

        Args:
            resolution: δ ≥ 0. Weights with |w| < δ count as absent: the slab's mass
                in (−δ, δ) is added to the spike. With the default 0 the slab has no
                mass at zero and S is the closed form above.

        Returns:
            S of every weight, in nats.

        Raises:
            ValueError: `resolution` is negative or not finite, or it is not 0 although
                connections share a spike.

        References:
            Li & Huang 2020, arXiv:2001.03354 (its code smooths the spike in two
            inconsistent ways; with the mixed measure no smoothing is needed).
        """
        if is_concrete(resolution):
            require(
                bool(0 <= resolution < float("inf")),
                f"`resolution` must be a finite number, 0 or more; got {resolution}.",
            )
        require(
            not self.shared or (is_concrete(resolution) and resolution == 0),
            "`resolution` must be 0 for connections that share a spike, because the "
            f"spike belongs to several slabs; got {resolution}.",
        )
        spike, mean, var = self._widened()
        has_width = var > 0
        std = jnp.where(has_width, safe_sqrt(var), 1)
        upper, lower = (resolution - mean) / std, (-resolution - mean) / std
        inside = jnp.where(
            has_width, norm.cdf(upper) - norm.cdf(lower), jnp.abs(mean) <= resolution
        )
        # E[1{|w| ≥ δ} (w − m)²/Ξ] of the slab, by the truncated normal's moments.
        square = 1 - inside + upper * norm.pdf(upper) - lower * norm.pdf(lower)
        log_norm = 0.5 * jnp.log(2 * jnp.pi) + jnp.log(std)
        slab = jnp.where(has_width, (1 - inside) * log_norm + 0.5 * square, 0)
        present = 1 - spike
        if self.shared:
            inside = inside.min(self.shared, keepdims=True)
        rest = present * (1 - inside)
        coin = -xlogx(spike + present * inside) - rest * safe_log(present)
        entropy = self._share(coin) + present * slab
        return entropy.astype(self.dtype)

    def kl(self, prior: Any) -> Float[Array, "*shape"]:
        r"""KL divergence to a spike-and-slab prior, in nats per weight.

            KL = [ π ln(π/π₀) + (1 − π) ln((1 − π)/(1 − π₀)) ] / n
                 + (1 − π) ½ [ r − 1 − ln r + m²/s² ]

        with r = Ξ/s² and n the number of connections that share the spike, usually 1
        (the prior's spike is shared by the same connections). KL is infinite if the
        weight is not absolutely continuous with respect to the prior: exactly one of
        the two slabs has zero width, both are points but differ, or a spike or slab
        of positive probability has probability 0 in the prior. A slab that is a point
        at 0 (Ξ = m = 0) is part of the spike.

        Args:
            prior: anything with `inclusion_prob` (1 − π₀) and `slab_scale` (s > 0),
                such as `meanfield.SpikeSlabPrior`; or a `SpikeSlab` of a shape that
                broadcasts, whose slab may have its own mean.

        Returns:
            KL(q‖prior) of every weight, in nats, in float32 or the wider type of q.

        Raises:
            ValueError: the prior shares its spikes along other axes.

        Example:
            >>> import meanfield as mf
            >>> w = mf.SpikeSlab(0.9, 0.0, 1.0)
            >>> prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0)
            >>> round(float(w.kl(prior)), 4) == 0
            True
        """
        spike, mean, var = self._merge_points()
        if isinstance(prior, SpikeSlab):
            require(
                set(prior.shared) <= set(self.shared)
                and np.broadcast_shapes(prior.spike_prob.shape, spike.shape)
                == spike.shape,
                "`prior` must share its spikes along the same axes as the weight, "
                f"{self.shared}; got spikes of shape {prior.spike_prob.shape} for "
                f"{spike.shape}.",
            )
            prior_spike, prior_mean, prior_var = prior._merge_points()
            prior_present = 1 - prior_spike
        else:
            prior_mean = jnp.zeros((), mean.dtype)
            prior_present = jnp.asarray(prior.inclusion_prob, mean.dtype)
            prior_var = jnp.square(jnp.asarray(prior.slab_scale, mean.dtype))
            prior_spike = 1 - prior_present
        present = 1 - spike
        both_wide = (var > 0) & (prior_var > 0)
        precision = 1 / jnp.where(prior_var > 0, prior_var, 1)
        ratio = jnp.where(both_wide, var * precision, 1)
        shift = jnp.square(mean - prior_mean) * precision
        slab = 0.5 * (ratio - 1 - jnp.log(ratio) + shift)
        coin = (
            xlogx(spike)
            - spike * safe_log(prior_spike)
            + xlogx(present)
            - present * safe_log(prior_present)
        )
        finite = self._share(coin) + present * slab
        same_point = (var <= 0) & (prior_var <= 0) & (mean == prior_mean)
        slab_fits = (prior_present > 0) & (both_wide | same_point)
        excluded = ((spike > 0) & (prior_spike <= 0)) | ((present > 0) & ~slab_fits)
        return jnp.where(excluded, jnp.inf, finite)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        """Draw the weights: exact zeros with probability π, else N(m, Ξ)."""
        # Half-precision uniform numbers are too coarse for small probabilities.
        spike, mean, var = self._widened()
        spike_key, slab_key = jax.random.split(key)
        present = jax.random.bernoulli(spike_key, 1 - spike, spike.shape)
        noise = jax.random.normal(slab_key, self.shape, mean.dtype)
        drawn = jnp.where(present, mean + safe_sqrt(var) * noise, 0)
        return drawn.astype(self.dtype)

    def _widened(self) -> tuple[Array, Array, Array]:
        """π, m and Ξ in float32 or wider."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return (
            self.spike_prob.astype(wide),
            self.slab_mean.astype(wide),
            self.slab_var.astype(wide),
        )

    def _merge_points(self) -> tuple[Array, Array, Array]:
        """Add the mass of a slab that is a point at 0 to the spike."""
        spike, mean, var = self._widened()
        points = (mean == 0) & (var <= 0)
        if self.shared:
            points = points.all(self.shared, keepdims=True)
        return jnp.where(points, 1, spike), mean, var

    def _share(self, coin: Array) -> Array:
        """Divide the entropy or divergence of a spike among its connections."""
        sizes = [self.shape[axis] for axis in self.shared]
        return coin / math.prod(sizes) if sizes else coin


def _fits(spike: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether spikes of one shape can belong to weights of another."""
    alike = len(spike) == len(shape) and all(
        one in (1, size) for one, size in zip(spike, shape, strict=True)
    )
    return spike == shape or (alike and len(shape) >= 2)


def is_spike_slab(leaf: Any) -> bool:
    """Whether a leaf of a parameter tree is a `SpikeSlab` (for `is_leaf=`)."""
    return isinstance(leaf, SpikeSlab)
