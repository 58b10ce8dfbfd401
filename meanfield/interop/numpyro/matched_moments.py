"""One draw of a spike-and-slab site: matched moments, and the exact divergence."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import PRNGKeyArray
from numpyro.infer import RenyiELBO

from meanfield.checks import require
from meanfield.spikeslab import SpikeSlab, safe_sqrt


def unwrap(distribution: Any) -> Any:
    """The distribution under `expand` and `to_event`."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def spike_slab_of(distribution: Any) -> SpikeSlab:
    """The weights of an expanded `SpikeAndSlab`, in the shape of one draw."""
    weights = unwrap(distribution).weights
    parts = (weights.spike_prob, weights.slab_mean, weights.slab_var)
    return SpikeSlab(*(jnp.broadcast_to(part, distribution.shape()) for part in parts))


def require_plain_bound(what: str) -> None:
    """Refuse an objective that weighs draws by their densities.

    NumPyro tells neither a model nor a guide which objective has called it; the frames
    of the callers do.

    Args:
        what: what is called, for the message.

    Raises:
        ValueError: the caller is `RenyiELBO`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        require(
            not isinstance(frame.f_locals.get("self"), RenyiELBO),
            f"{what} has no density for each draw, by which RenyiELBO weighs them: the "
            "number would be no bound. Use Trace_ELBO or TraceMeanField_ELBO.",
        )
        frame = frame.f_back


class MatchedMoments(dist.Delta):
    """One draw w = μ + √V ε that is charged the exact KL(q ‖ prior).

    An objective takes E[ln prior(w) − ln q(w)] from a site. Its log-density is
    ln prior(w) + KL(q ‖ prior), so that exactly −KL(q ‖ prior) is left.

    Args:
        weights: q, in the shape of one draw.
        prior: distribution of the site in the model.
        key: randomness of ε.
    """

    pytree_data_fields = ("weights",)

    def __init__(self, weights: SpikeSlab, prior: dist.Distribution, key: PRNGKeyArray):
        self.weights = weights
        noise = jax.random.normal(key, weights.shape, weights.dtype)
        value = weights.mean + safe_sqrt(weights.var) * noise
        event = tuple(range(-prior.event_dim, 0))
        divergence = weights.kl(spike_slab_of(prior)).sum(axis=event)
        super().__init__(
            value, prior.log_prob(value) + divergence, event_dim=prior.event_dim
        )
