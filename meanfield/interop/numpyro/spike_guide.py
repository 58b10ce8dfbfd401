r"""`AutoSpikeSlab`: a mean-field guide with spikes for NumPyro's SVI.

Every latent site whose prior is `SpikeAndSlab` gets independent spike-and-slab factors
q(w) = π δ(w) + (1 − π) N(w | m, Ξ). With μ and V the mean and variance of q, the
objective is

    E[ln P(data | w)] − KL(q ‖ prior),     w = μ + √V ε,  ε ~ N(0, 1)

The divergence is exact. In the likelihood, weights are drawn from the normal
distribution with the same mean and variance, as in generalized back-propagation: a
spike has no useful pathwise gradient, but the moments have one for π, m and Ξ. The
objective is therefore

* exactly the evidence lower bound if the log-likelihood is quadratic in the weights
  (linear regression);
* the bound up to third and higher cumulants of the weights otherwise. These vanish if
  many weights are added in each sum.

`SpikeSlabELBO` is the exact bound for every model; its gradients are noisier.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, PRNGKeyArray
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoGuide

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.spikeslab import SpikeSlab

from .guided_sites import GuidedSites
from .matched_moments import (
    require_plain_bound,
    unwrap,
)
from .spike_and_slab import SpikeAndSlab


class AutoSpikeSlab(AutoGuide):
    r"""Spike-and-slab guide for every `SpikeAndSlab` site of a NumPyro model.

    Other continuous sites get an independent normal distribution in unconstrained
    space, as with `AutoNormal`. Use the guide with `Trace_ELBO` or
    `TraceMeanField_ELBO`, which agree here, or with `SpikeSlabELBO`. Bounds that weight
    samples (`RenyiELBO`) raise an error, because draws of this guide have no density.

    To give spikes to a model with normal priors use
    `add_spikes(model, inclusion_prob)`.

    Args:
        model: a NumPyro model.
        prefix: parameters are called ``<site>_<prefix>_spike_prob``, ``…_slab_mean``,
            ``…_slab_scale``; for other sites ``…_loc`` and ``…_scale``.
        init_spike_prob: initial π, in (0, 1).
        init_scale: initial √Ξ, and standard deviation of the initial m, both in units
            of the prior's slab scale.
        init_values: initial distributions of sites by name, such as a trained
            ensemble's weights; π is kept in [0.001, 0.999] and √Ξ above a thousandth of
            the prior's slab scale.

    Raises:
        ValueError: a discrete site, or a site under a mask.

    Example:
        >>> import jax, numpyro, optax
        >>> import numpyro.distributions as dist
        >>> from numpyro.infer import SVI, TraceMeanField_ELBO
        >>> import meanfield as mf
        >>> def model(y):
        ...     w = numpyro.sample("w", mf.SpikeAndSlab(0.5, 0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(w, 1.0), obs=y)
        >>> guide = mf.numpyro.AutoSpikeSlab(model)
        >>> svi = SVI(model, guide, optax.adam(0.1), TraceMeanField_ELBO())
        >>> params = svi.run(jax.random.key(0), 5, 2.0, progress_bar=False).params
        >>> sorted(guide.spike_slabs(params))
        ['w']

    References:
        Li & Huang 2020, arXiv:2001.03354 (the matched moments).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        prefix: str = "auto",
        init_spike_prob: float = 0.1,
        init_scale: float = 0.1,
        init_values: Mapping[str, SpikeSlab] | None = None,
    ):
        require(
            0 < init_spike_prob < 1,
            f"`init_spike_prob` must lie strictly between 0 and 1; got "
            f"{init_spike_prob}. At 0 or 1 its gradient would always be zero.",
        )
        require(
            init_scale > 0,
            f"`init_scale` must be positive; got {init_scale}.",
        )
        super().__init__(model, prefix=prefix)
        self.init_spike_prob = init_spike_prob
        self.init_scale = init_scale
        self.init_values = dict(init_values or {})
        # Support of each guided site; None for a spike-and-slab site. Set by the first
        # call, so that a later call without data guides the same sites.
        self.supports: dict[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw every latent site; the sites come in the order of the model.

        Raises:
            ValueError: called without a seed, or by `RenyiELBO`.
        """
        require_plain_bound("AutoSpikeSlab")
        if self.supports is None:
            self._find_sites(*args, **kwargs)
        guided = self.supports or {}
        hidden = lambda site: (
            site["type"] not in ("param", "plate") and site.get("name") not in guided
        )
        key = numpyro.prng_key()
        require(
            key is not None,
            "AutoSpikeSlab needs a random key; call it under numpyro.handlers.seed.",
        )
        with (
            handlers.block(hide_fn=hidden),
            GuidedSites(self) as draws,
            handlers.seed(rng_seed=key),
        ):
            self.model(*args, **kwargs)
        return draws.values

    def spike_slabs(self, params: Mapping[str, Any]) -> dict[str, SpikeSlab]:
        """The learned distributions of the spike-and-slab sites.

        Args:
            params: the result of `svi.get_params(state)` or `svi.run(...).params`.

        Returns:
            By site name, the `SpikeSlab` with π, m, Ξ.
        """
        return {
            name: SpikeSlab(
                params[self.param_name(name, "spike_prob")],
                params[self.param_name(name, "slab_mean")],
                jnp.square(params[self.param_name(name, "slab_scale")]),
            )
            for name in self._sites(spikes=True)
        }

    def sample_posterior(
        self,
        rng_key: PRNGKeyArray,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw from the learned distribution, with exact zeros.

        Args:
            rng_key: a `jax.random.key`.
            params: the result of `svi.get_params(state)`.
            *args: ignored, as the guide does not depend on them.
            sample_shape: leading shape of the draws.
            **kwargs: ignored.

        Returns:
            By site name, draws of shape `sample_shape` + shape of the site, to be
            passed to `Predictive(model, posterior_samples=...)`.
        """
        distributions = self._distributions(params)
        keys = jax.random.split(rng_key, max(len(distributions), 1))
        return {
            name: distribution.sample(key, sample_shape)
            for key, (name, distribution) in zip(
                keys, distributions.items(), strict=False
            )
        }

    def median(self, params: Mapping[str, Any]) -> dict[str, Array]:
        """The median of every entry, which may be 0 exactly."""
        return {
            name: distribution.icdf(0.5)
            for name, distribution in self._distributions(params).items()
        }

    def quantiles(self, params: Mapping[str, Any], quantiles: Any) -> dict[str, Array]:
        """Quantiles of every entry, stacked along a new first axis."""
        levels = jnp.asarray(quantiles)
        return {
            name: jax.vmap(distribution.icdf)(levels)
            if levels.ndim
            else distribution.icdf(levels)
            for name, distribution in self._distributions(params).items()
        }

    def _distributions(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Distribution of every entry of every site, without event dimensions."""
        distributions: dict[str, Any] = {
            name: SpikeAndSlab(w.spike_prob, w.slab_mean, safe_sqrt(w.slab_var))
            for name, w in self.spike_slabs(params).items()
        }
        for name in self._sites(spikes=False):
            loc = params[self.param_name(name, "loc")]
            normal = dist.Normal(loc, params[self.param_name(name, "scale")])
            transform = biject_to((self.supports or {})[name])
            event_dim = transform.domain.event_dim
            distributions[name] = dist.TransformedDistribution(
                normal.to_event(event_dim), transform
            )
        return distributions

    def _sites(self, spikes: bool) -> list[str]:
        require(
            self.supports is not None,
            "The guide must be run with its model first; call svi.init or svi.run.",
        )
        supports = self.supports or {}
        return [name for name, s in supports.items() if (s is None) == spikes]

    def param_name(self, name: str, part: str) -> str:
        """Name of a parameter of a site."""
        return f"{name}_{self.prefix}_{part}"

    def _find_sites(self, *args: Any, **kwargs: Any) -> None:
        seeded = handlers.seed(self.model, rng_seed=0)
        with handlers.block():
            trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        supports = {}
        for name, site in trace.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            distribution = site["fn"]
            if isinstance(unwrap(distribution), SpikeAndSlab):
                supports[name] = None
                continue
            require(
                not distribution.support.is_discrete,
                f"Site {name!r} must be continuous for AutoSpikeSlab; got a discrete "
                "site. Sum it out with numpyro.contrib.funsor, or sample it by MCMC.",
            )
            require(
                not isinstance(distribution, dist.MaskedDistribution),
                f"Site {name!r} must not be masked. Apply the mask in the likelihood.",
            )
            supports[name] = distribution.support
        spiky = [name for name, support in supports.items() if support is None]
        unknown = sorted(set(self.init_values) - set(spiky))
        require(
            not unknown,
            f"`init_values` must name SpikeAndSlab sites of the model, {spiky}; got "
            f"{unknown}.",
        )
        self.supports = supports
