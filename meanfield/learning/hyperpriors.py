r"""The hyperparameters of a layer's prior, found from its posterior.

* s learned by empirical Bayes: the KL of a layer is minimal at

      s² = Σ (1 − π)(Ξ + m²) / Σ (1 − π)

  which is substituted at every step. By the envelope theorem, the gradient of the
  objective is its partial gradient at fixed s, so s needs no optimizer. The objective
  then bounds the evidence of this s.

* ρ ~ Beta(a, b) has its own factor of the posterior; the optimal factor is q(ρ) =
  Beta(a + n₁, b + n₀) with n₁ = Σ (1 − π) and n₀ = Σ π. With it

      KL = Σ [−H_b(π) + (1 − π) KL_slab] + ln B(a, b) − ln B(a + n₁, b + n₀)

  and the objective bounds the evidence with ρ integrated out.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab


class LayerPrior(eqx.Module):
    """The prior of one weight tensor at given hyperparameters.

    Args:
        inclusion_prob: ρ, the probability that a connection is present.
        slab_scale: s, the standard deviation of a present weight.
        hyper_cost: the term of the KL of the layer that is due to the unknown ρ, in
            nats.
    """

    inclusion_prob: Any
    slab_scale: Any
    hyper_cost: Any = 0.0


class BetaInclusion(eqx.Module):
    """A Beta(a, b) hyper-prior on the inclusion probability of a layer."""

    a: float = eqx.field(static=True)
    b: float = eqx.field(static=True)


def empirical_slab_scale(weight: SpikeSlab) -> Float[Array, ""]:
    r"""Slab scale that minimizes the KL of one weight tensor.

        s² = Σ (1 − π)(Ξ + m²) / Σ (1 − π)

    Args:
        weight: posterior of the tensor, with π, m and Ξ.

    Returns:
        s, a standard deviation, held constant under differentiation (by the envelope
        theorem, see above). 1 if no weight is present.
    """
    fixed = jax.lax.stop_gradient(weight)
    wide = jnp.promote_types(fixed.dtype, jnp.float32)
    present = fixed.inclusion_prob.astype(wide)
    second = fixed.slab_var.astype(wide) + jnp.square(fixed.slab_mean.astype(wide))
    total = present.sum()
    some = total > 0
    variance = (present * second).sum() / jnp.where(some, total, 1)
    # A layer of exact zeros would have scale 0, at which the slab has no density.
    variance = jnp.maximum(variance, jnp.finfo(wide).tiny)
    return jnp.where(some, safe_sqrt(variance), 1)


def integrate_inclusion(
    beta: BetaInclusion, weight: SpikeSlab
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Posterior mean p of ρ, and the terms of the KL that are not in Σ KL(π ‖ 1 − p).

    In float32 the result would be lost in the difference of two log-Beta functions of
    size n ln n. With p = α/(α + β), α = a + n₁, β = b + n₀, Stirling's formula
    ln Γ(x) = (x − ½) ln x − x + ½ ln 2π + r(x) gives the well-conditioned

        −n₁ ln p − n₀ ln(1 − p)                      (inside Σ KL(π ‖ 1 − p))
        − a ln p − b ln(1 − p) + ½ ln[αβ / 2π(α + β)]
        − r(α) − r(β) + r(α + β) + ln B(a, b)        (the cost returned here)

    Args:
        beta: the hyper-prior, with a and b.
        weight: posterior of the tensor.

    Returns:
        p, a probability, and the cost in nats.
    """
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    # Spikes are counted, not connections: several connections may share one spike.
    present = beta.a + (1 - weight.spike_prob).sum(dtype=wide)
    absent = beta.b + weight.spike_prob.sum(dtype=wide)
    total = present + absent
    log_beta = math.lgamma(beta.a) + math.lgamma(beta.b) - math.lgamma(beta.a + beta.b)
    log_present, log_absent = jnp.log(present / total), jnp.log(absent / total)
    cost = (
        0.5 * (jnp.log(present) + log_absent - jnp.log(2 * jnp.pi))
        - beta.a * log_present
        - beta.b * log_absent
        - _stirling_rest(present)
        - _stirling_rest(absent)
        + _stirling_rest(total)
        + log_beta
    )
    return present / total, cost


def _stirling_rest(x: Array) -> Array:
    """r(x) = ln Γ(x) − (x − ½) ln x + x − ½ ln 2π, for x > 0."""
    large = x > 10
    big, small = jnp.where(large, x, 10), jnp.where(large, 10, x)
    series = (1 / 12 - (1 / 360 - 1 / (1260 * big**2)) / big**2) / big
    stirling = (small - 0.5) * jnp.log(small) - small + 0.5 * jnp.log(2 * jnp.pi)
    return jnp.where(large, series, gammaln(small) - stirling)
