r"""What a layer's posterior says about the numbers of its own prior.

* s learned by empirical Bayes: the KL of a layer is minimal at

      s² = Σ (1 − π)(Ξ + m²) / Σ (1 − π)

  which is put in at every step. By the envelope theorem its gradient is the partial
  one, so s needs no optimizer. The objective then bounds the evidence at that s.

* ρ ~ Beta(a, b), integrated out by its own factor of the posterior,
  q(ρ) = Beta(a + n₁, b + n₀) with n₁ = Σ (1 − π) and n₀ = Σ π, which is optimal:

      KL = Σ [−H_b(π) + (1 − π) KL_slab] + ln B(a, b) − ln B(a + n₁, b + n₀)

  The objective stays a bound on the evidence with ρ integrated out.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from meanfield.spikeslab import SpikeSlab, safe_sqrt


class LayerPrior(eqx.Module):
    """The prior of one weight tensor with its numbers settled.

    Args:
        inclusion_prob: ρ, the probability that a connection is present.
        slab_scale: s, the standard deviation of a present weight.
        hyper_cost: what the unknown ρ adds to the KL of the layer, in nats.
    """

    inclusion_prob: Any
    slab_scale: Any
    hyper_cost: Any = 0.0


class BetaInclusion(eqx.Module):
    """A Beta(a, b) hyper-prior on the inclusion probability of a layer."""

    a: float = eqx.field(static=True)
    b: float = eqx.field(static=True)


def empirical_slab_scale(weight: SpikeSlab) -> Float[Array, ""]:
    r"""Slab scale that makes the KL of one weight tensor smallest.

        s² = Σ (1 − π)(Ξ + m²) / Σ (1 − π)

    Args:
        weight: posterior of the tensor, with π, m and Ξ.

    Returns:
        s, a standard deviation, held constant under differentiation (the gradient of
        the KL at its minimum over s is the partial one). 1 where no weight is present.
    """
    fixed = jax.lax.stop_gradient(weight)
    wide = jnp.promote_types(fixed.dtype, jnp.float32)
    present = fixed.inclusion_prob.astype(wide)
    second = fixed.slab_var.astype(wide) + jnp.square(fixed.slab_mean.astype(wide))
    total = present.sum()
    some = total > 0
    variance = (present * second).sum() / jnp.where(some, total, 1)
    # A layer of exact zeros would have scale 0, under which nothing has a density.
    variance = jnp.maximum(variance, jnp.finfo(wide).tiny)
    return jnp.where(some, safe_sqrt(variance), 1)


def integrate_inclusion(
    beta: BetaInclusion, weight: SpikeSlab
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Posterior mean of ρ, and what the collapsed KL has beside that of ρ's mean.

    The difference of two log-Beta functions of size n ln n would lose the result in
    float32. Stirling's formula, ln Γ(x) = (x − ½) ln x − x + ½ ln 2π + r(x), leaves
    with p = α/(α + β), α = a + n₁, β = b + n₀, the well-conditioned

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
    # Of spikes, not of connections: several may share one.
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
