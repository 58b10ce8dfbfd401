"""Spike-and-slab weights for MCMC: priors, initial values and reparametrisation."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import PRNGKeyArray
from numpyro.infer import init_to_value
from numpyro.infer.reparam import Reparam
from numpyro.primitives import Messenger

from meanfield.checks import is_concrete, require
from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

from .matched_moments import unwrap
from .spike_and_slab import SpikeAndSlab


class SpikeSlabReparam(Reparam):
    r"""Write w = b v with sites b ~ Bernoulli(1 − π) and v ~ N(m, s²).

    The posterior of w is the same, and `numpyro.infer.DiscreteHMCGibbs` or `MixedHMC`
    can sample it: b by Gibbs steps, v by NUTS.

    The sites are called ``<name>_present`` and ``<name>_slab``; the axes of an event
    become plates ``<name>_weights_…``, so a site with an event must not be in a plate.

    Example:
        >>> import numpyro, meanfield as mf
        >>> from numpyro.infer import DiscreteHMCGibbs, NUTS
        >>> def model():
        ...     numpyro.sample("w", mf.SpikeAndSlab(0.5, 0.0, 1.0))
        >>> config = {"w": mf.numpyro.SpikeSlabReparam()}
        >>> split = numpyro.handlers.reparam(model, config=config)
        >>> kernel = DiscreteHMCGibbs(NUTS(split))
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> Any:
        """Sample b and v in place of w."""
        require(
            obs is None,
            f"Site {name!r} must be latent for SpikeSlabReparam; got an observed site.",
        )
        distribution, event_dim = unwrap(fn), fn.event_dim
        require(
            isinstance(distribution, SpikeAndSlab),
            f"Site {name!r} must be a SpikeAndSlab for SpikeSlabReparam; got a "
            f"{type(distribution).__name__}.",
        )
        present = dist.Bernoulli(probs=distribution.inclusion_prob).expand(fn.shape())
        slab = dist.Normal(distribution.slab_mean, distribution.slab_scale).expand(
            fn.shape()
        )
        # Gibbs steps enumerate single entries, so event axes become batch axes.
        with numpyro.plate_stack(f"{name}_weights", list(fn.event_shape)):
            present = numpyro.sample(f"{name}_present", present)
        slab = numpyro.sample(f"{name}_slab", slab.to_event(event_dim))
        return None, jnp.where(present == 1, slab, 0)


def add_spikes(
    model: Callable[..., Any],
    inclusion_prob: float = 0.1,
    where: Callable[[str], bool] = lambda name: True,
) -> Callable[..., Any]:
    r"""Give the normal priors of a NumPyro model a spike at zero.

    N(m, s²)  →  (1 − ρ) δ + ρ N(m, s²)

    Args:
        model: a NumPyro model with normal latent sites.
        inclusion_prob: ρ in (0, 1), the probability that a weight is present.
        where: which sites to change, by name; all normal latent sites by default.

    Returns:
        A model with the same arguments, for the guide `AutoSpikeSlab`.

    Raises:
        ValueError: ρ outside (0, 1).

    Example:
        >>> import jax, meanfield as mf, numpyro
        >>> import numpyro.distributions as dist
        >>> def model():
        ...     return numpyro.sample("w", dist.Normal(0.0, 1.0))
        >>> spiked = mf.numpyro.add_spikes(model, inclusion_prob=0.2)
        >>> trace = numpyro.handlers.trace(
        ...     numpyro.handlers.seed(spiked, jax.random.key(0))).get_trace()
        >>> round(float(trace["w"]["fn"].inclusion_prob), 2)
        0.2
    """
    require(
        0 < inclusion_prob < 1,
        f"`inclusion_prob` must lie strictly between 0 and 1; got {inclusion_prob}.",
    )
    return _AddSpikes(model, 1 - inclusion_prob, where)


class _AddSpikes(Messenger):
    def __init__(self, model: Any, spike_prob: float, where: Callable[[str], bool]):
        super().__init__(model)
        self.spike_prob = spike_prob
        self.where = where

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        distribution = unwrap(msg["fn"])
        if isinstance(distribution, dist.Normal) and self.where(msg["name"]):
            shape, event_dim = msg["fn"].shape(), msg["fn"].event_dim
            spiky = SpikeAndSlab(self.spike_prob, distribution.loc, distribution.scale)
            msg["fn"] = spiky.expand(shape).to_event(event_dim)


def as_prior(
    weights: Mapping[str, SpikeSlab], kind: str = "moments"
) -> dict[str, dist.Distribution]:
    r"""A trained ensemble as priors of a NumPyro model.

    Args:
        weights: distributions by name, as `Ensemble.weights()` gives them.
        kind: `"moments"`, the normal N(μ, V) of the same mean and variance;
            `"slab"`, the slab N(m, Ξ) alone; `"spike_and_slab"`, the mixture itself.
            NUTS can be used with the first two.

    Returns:
        By name, a distribution whose event is the whole array.

    Raises:
        ValueError: an unknown kind, or an entry of variance 0, which has no density.

    Example:
        >>> import meanfield as mf
        >>> weights = {"weight": mf.SpikeSlab([0.5], [2.0], [1.0])}
        >>> prior = mf.numpyro.as_prior(weights)["weight"]
        >>> prior.mean.tolist(), prior.variance.round(6).tolist()
        ([1.0], [1.5])
    """
    makers = {"moments": _moments, "slab": _slab, "spike_and_slab": _mixture}
    require(
        kind in makers,
        f"`kind` must be one of {sorted(makers)}; got {kind!r}.",
    )
    priors = {}
    for name, weight in weights.items():
        # The values of an ensemble are constants even while a model is traced.
        with jax.ensure_compile_time_eval():
            variance = weight.var if kind == "moments" else weight.slab_var
            known = is_concrete(variance)
            wide = not known or bool((variance > 0).all())
        require(
            wide,
            f"`weights[{name!r}]` must have positive variances, because variance 0 has "
            "no density. Use for example posterior_as_prior first.",
        )
        priors[name] = makers[kind](weight).to_event(weight.ndim)
    return priors


def init_to_ensemble(
    weights: Mapping[str, SpikeSlab],
    key: PRNGKeyArray | None = None,
    site_name: Callable[[str], str] = lambda name: name,
) -> Any:
    """Start Markov chains, or another guide, at a trained ensemble.

    Args:
        weights: distributions by name, as `Ensemble.weights()` gives them.
        key: a `jax.random.key` to draw the initial sub-network; None for the mean
            network.
        site_name: function from the name of a weight to the name of its site, for
            example ``lambda name: f"net/{name}"``.

    Returns:
        An `init_strategy` for `numpyro.infer.NUTS`.

    Example:
        >>> import meanfield as mf, numpyro
        >>> import numpyro.distributions as dist
        >>> weights = {"w": mf.SpikeSlab([0.0], [2.0], [1.0])}
        >>> def model():
        ...     numpyro.sample("w", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        >>> start = mf.numpyro.init_to_ensemble(weights)
        >>> kernel = numpyro.infer.NUTS(model, init_strategy=start)
    """
    if key is None:
        return init_to_value(values={site_name(n): w.mean for n, w in weights.items()})
    keys = jax.random.split(key, max(len(weights), 1))
    pairs = zip(keys, weights.items(), strict=False)
    return init_to_value(values={site_name(n): w.sample(k) for k, (n, w) in pairs})


def _moments(weight: SpikeSlab) -> dist.Distribution:
    return dist.Normal(weight.mean, safe_sqrt(weight.var))


def _slab(weight: SpikeSlab) -> dist.Distribution:
    return dist.Normal(weight.slab_mean, safe_sqrt(weight.slab_var))


def _mixture(weight: SpikeSlab) -> dist.Distribution:
    require(
        not weight.shared,
        "`kind` 'spike_and_slab' needs a separate spike for each weight; got weights "
        "that share spikes. Use 'moments' or 'slab'.",
    )
    std = safe_sqrt(weight.slab_var)
    return SpikeAndSlab(weight.spike_prob, weight.slab_mean, std)
