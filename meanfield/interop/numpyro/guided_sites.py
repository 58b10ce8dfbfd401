r"""Draw the sites of a NumPyro model from a spike-and-slab guide.

A site with spikes is drawn with matched moments (`MatchedMoments`); any other site is
normal in unconstrained space.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import PRNGKeyArray
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

from .matched_moments import MatchedMoments, spike_slab_of, unwrap


class GuidedSites(Messenger):
    """Runs a model with every guided site drawn from an `AutoSpikeSlab` guide.

    A site's prior is replaced when the model reaches the site, after the site's parents
    are drawn; so hierarchical priors, plates and parameters of the model need no
    special treatment.
    """

    def __init__(self, guide: Any):
        super().__init__()
        self.guide = guide
        self.values: dict[str, Any] = {}

    def __enter__(self) -> Any:
        super().__enter__()
        return self

    def process_message(self, msg: Any) -> None:
        """Replace the distribution of a guided site before it is drawn."""
        supports = self.guide.supports or {}
        if msg["type"] != "sample" or msg["is_observed"] or msg["name"] not in supports:
            return
        spiky = supports[msg["name"]] is None
        msg["fn"] = (self._spike_slab if spiky else self._normal)(msg)

    def postprocess_message(self, msg: Any) -> None:
        """Record the value of a guided site."""
        if msg["type"] == "sample" and msg["name"] in (self.guide.supports or {}):
            self.values[msg["name"]] = msg["value"]

    def _spike_slab(self, msg: Any) -> dist.Distribution:
        prior, name, guide = msg["fn"], msg["name"], self.guide
        prior_weights = spike_slab_of(prior)
        start = lambda key: _start(guide, name, prior_weights, key)
        event = {"event_dim": prior.event_dim}
        spike_prob = numpyro.param(
            guide.param_name(name, "spike_prob"),
            lambda key: start(key).spike_prob,
            constraint=constraints.unit_interval,
            **event,
        )
        slab_mean = numpyro.param(
            guide.param_name(name, "slab_mean"),
            lambda key: start(key).slab_mean,
            **event,
        )
        slab_scale = numpyro.param(
            guide.param_name(name, "slab_scale"),
            lambda key: safe_sqrt(start(key).slab_var),
            constraint=constraints.softplus_positive,
            **event,
        )
        posterior = SpikeSlab(
            spike_prob, slab_mean, jnp.square(jnp.asarray(slab_scale))
        )
        return MatchedMoments(posterior, prior, msg["kwargs"]["rng_key"])

    def _normal(self, msg: Any) -> dist.Distribution:
        prior, name, guide = msg["fn"], msg["name"], self.guide
        transform = biject_to(prior.support)
        shape = transform.inverse_shape(prior.shape())
        extra = len(shape) - len(prior.shape())
        event_dim = prior.event_dim + extra
        # Small random initial values break the symmetry between units of a network.
        loc = numpyro.param(
            guide.param_name(name, "loc"),
            lambda key: guide.init_scale * jax.random.normal(key, shape),
            event_dim=event_dim,
        )
        scale = numpyro.param(
            guide.param_name(name, "scale"),
            lambda key: jnp.full(shape, guide.init_scale),
            constraint=constraints.softplus_positive,
            event_dim=event_dim,
        )
        normal = dist.Normal(loc, scale).to_event(event_dim)
        if isinstance(unwrap(prior).support, type(constraints.real)):
            return normal
        return dist.TransformedDistribution(normal, transform)


def _start(guide: Any, name: str, prior: SpikeSlab, key: PRNGKeyArray) -> SpikeSlab:
    """The initial distribution of one site."""
    scale = safe_sqrt(prior.slab_var)
    if name in guide.init_values:
        given = guide.init_values[name]
        require(
            given.shape == prior.shape,
            f"`init_values[{name!r}]` must have the shape of the site, {prior.shape}; "
            f"got {given.shape}.",
        )
        smallest = jnp.square(1e-3 * scale)
        return SpikeSlab(
            jnp.clip(given.spike_prob, 1e-3, 1 - 1e-3),
            given.slab_mean,
            jnp.maximum(given.slab_var, smallest),
        )
    noise = jax.random.normal(key, prior.shape, prior.dtype)
    return SpikeSlab(
        jnp.full(prior.shape, guide.init_spike_prob, prior.dtype),
        prior.slab_mean + guide.init_scale * scale * noise,
        jnp.square(guide.init_scale * scale),
    )
