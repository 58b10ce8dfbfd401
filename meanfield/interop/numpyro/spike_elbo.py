r"""`SpikeSlabELBO`: the exact evidence lower bound, with spikes in every draw.

    E_q[ln P(data | w)] − KL(q ‖ prior),      w = b (m + √Ξ ε),  b ~ Bernoulli(1 − π)

Gradients with respect to m and Ξ are pathwise. The spikes of one evaluation are an
antithetic pair, b from u and b̃ from 1 − u with one uniform u for each weight, and

    ∂/∂φ_j ≈ ½ (f(b) − f(b̃)) (−1)^{b̃_j} 1[b_j ≠ b̃_j] σ(|φ_j|),   φ = ln((1 − π)/π)

which is unbiased. Its variance grows with the number of weights, so this objective
suits models of up to some hundreds of weights, and tests of the cheaper objective
(`spike_guide`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray
from numpyro import handlers
from numpyro.distributions.util import scale_and_mask
from numpyro.infer import ELBO
from numpyro.util import check_model_guide_match

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

from .matched_moments import MatchedMoments, spike_slab_of


class SpikeSlabELBO(ELBO):
    """Exact bound for an `AutoSpikeSlab` guide, unbiased in value and gradient.

    Args:
        num_particles: number of antithetic pairs averaged in one evaluation.

    References:
        Dong, Mnih & Tucker 2020, DisARM, arXiv:2006.10680.
    """

    averages = True

    def __init__(self, num_particles: int = 1):
        super().__init__(num_particles=num_particles)

    def loss_with_mutable_state(
        self,
        rng_key: PRNGKeyArray,
        param_map: Any,
        model: Any,
        guide: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Negative bound in nats, averaged over the particles."""
        one = lambda key: _one_pair(key, param_map, model, guide, args, kwargs)
        bounds = jax.vmap(one)(jax.random.split(rng_key, self.num_particles))
        return {"loss": -bounds.mean(), "mutable_state": None}


def _one_pair(
    key: PRNGKeyArray, params: Any, model: Any, guide: Any, args: Any, kwargs: Any
) -> Array:
    guide_key, model_key, spike_key, slab_key = jax.random.split(key, 4)
    seeded_guide = handlers.substitute(handlers.seed(guide, guide_key), data=params)
    guide_trace = handlers.trace(seeded_guide).get_trace(*args, **kwargs)
    posteriors = {
        name: site["fn"].weights
        for name, site in guide_trace.items()
        if isinstance(site.get("fn"), MatchedMoments)
    }
    require(
        bool(posteriors),
        "SpikeSlabELBO needs an AutoSpikeSlab guide with a SpikeAndSlab site; for "
        "other guides use numpyro.infer.TraceMeanField_ELBO.",
    )
    uniforms = _draw(jax.random.uniform, spike_key, posteriors)
    noise = _draw(jax.random.normal, slab_key, posteriors)

    def bound(uniforms: dict[str, Array]) -> Array:
        drawn: Any = guide_trace.copy()
        for name, w in posteriors.items():
            present = uniforms[name] >= w.spike_prob
            slab = w.slab_mean + safe_sqrt(w.slab_var) * noise[name]
            drawn[name] = guide_trace[name] | {"value": jnp.where(present, slab, 0)}
        replayed = handlers.replay(handlers.seed(model, model_key), drawn)
        substituted = handlers.substitute(replayed, data=params)
        trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        check_model_guide_match(trace, guide_trace)
        return _bound(trace, drawn, posteriors)

    mirrored = {name: 1 - u for name, u in uniforms.items()}
    value, other = bound(uniforms), bound(mirrored)
    half_difference = jax.lax.stop_gradient(0.5 * (value - other))
    score = sum(_score(w.spike_prob, uniforms[name]) for name, w in posteriors.items())
    score = half_difference * score
    # The difference is zero; it is added for its gradient with respect to π.
    return 0.5 * (value + other) + score - jax.lax.stop_gradient(score)


def _draw(draw: Any, key: PRNGKeyArray, weights: dict[str, SpikeSlab]) -> Any:
    keys = jax.random.split(key, len(weights))
    return {
        name: draw(k, w.shape, w.dtype)
        for k, (name, w) in zip(keys, weights.items(), strict=True)
    }


def _bound(trace: Any, drawn: Any, posteriors: dict[str, SpikeSlab]) -> Array:
    total = jnp.zeros(())
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        if name in posteriors:
            divergence = posteriors[name].kl(spike_slab_of(site["fn"]))
            event = tuple(range(-site["fn"].event_dim, 0))
            divergence = divergence.sum(axis=event)
            total -= scale_and_mask(divergence, drawn[name]["scale"]).sum()
            continue
        total += _log_prob(site)
        if not site["is_observed"]:
            total -= _log_prob(drawn[name])
    return total


def _log_prob(site: Any) -> Array:
    log_prob = site["fn"].log_prob(site["value"])
    return jnp.sum(scale_and_mask(log_prob, site["scale"]))


def _score(spike_prob: Array, uniform: Array) -> Array:
    """Σ φ_j (−1)^{b̃_j} 1[b_j ≠ b̃_j] σ(|φ_j|), where only φ is differentiated."""
    fixed = jax.lax.stop_gradient(spike_prob)
    present, mirrored = uniform >= fixed, 1 - uniform >= fixed
    sign = jnp.where(present == mirrored, 0, jnp.where(present, 1, -1))
    weight = sign * jnp.maximum(fixed, 1 - fixed)
    eps = jnp.finfo(spike_prob.dtype).eps
    inside = jnp.clip(spike_prob, eps, 1 - eps)
    return jnp.sum(weight * (jnp.log1p(-inside) - jnp.log(inside)))
