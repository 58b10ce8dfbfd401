"""One draw of a spike-and-slab site: matched moments, and the exact divergence."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import PRNGKeyArray
from numpyro.infer import (
    ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

# Objectives that are linear in ln p − ln q of each draw.
AVERAGING = (Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO)


def unwrap(distribution: Any) -> Any:
    """The distribution inside `expand` and `to_event`."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def spike_slab_of(distribution: Any) -> SpikeSlab:
    """The weights of an expanded `SpikeAndSlab`, in the shape of one draw."""
    weights = unwrap(distribution).weights
    parts = (weights.spike_prob, weights.slab_mean, weights.slab_var)
    return SpikeSlab(*(jnp.broadcast_to(part, distribution.shape()) for part in parts))


def require_plain_bound(what: str) -> None:
    """Raise unless the objective averages ln p − ln q over draws with equal weights.

    NumPyro does not pass the objective to a model or guide. But both are traced while a
    method of the objective runs, so the objective is the first argument of a function
    in the call stack.

    Args:
        what: name of the called object, for the message.

    Raises:
        ValueError: the objective is `RenyiELBO`, or another that is not known to
            average.
    """
    frame = sys._getframe(1)
    while frame is not None:
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        first = frame.f_locals.get(names[0]) if names else None
        if isinstance(first, ELBO):
            kind = type(first).__name__
            require(
                isinstance(first, AVERAGING) or getattr(first, "averages", False),
                f"{what} has a KL divergence but no density for each draw. {kind} may "
                "weight draws by densities, which would give no bound. Use Trace_ELBO "
                "or TraceMeanField_ELBO; if your own objective averages ln p − ln q, "
                "set its attribute averages = True.",
            )
        frame = frame.f_back


class MatchedMoments(dist.Delta):
    """One draw w = μ + √V ε that contributes the exact KL(q ‖ prior) to an objective.

    An objective adds ln prior(w) − ln q(w) for a site. For ln q(w) this distribution
    returns ln prior(w) + KL(q ‖ prior), so exactly −KL(q ‖ prior) is added.

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
