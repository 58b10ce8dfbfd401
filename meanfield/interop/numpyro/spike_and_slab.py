r"""`SpikeAndSlab`: the distribution of one weight as a NumPyro distribution.

    P(w) = π δ(w) + (1 − π) N(w | m, s²)

It has no density with respect to Lebesgue measure. `log_prob` is the logarithm of the
density with respect to counting measure at 0 plus Lebesgue measure elsewhere:

    log_prob(0) = ln π,        log_prob(w ≠ 0) = ln(1 − π) + ln N(w | m, s²)

Its support, the real line with an atom at 0, is a separate constraint. Gradient-based
samplers such as NUTS would never sample the atom, so they raise an error. Use
`SpikeSlabReparam` with `numpyro.infer.DiscreteHMCGibbs` instead.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.transforms import biject_to

from meanfield.spikeslab import SpikeSlab


class _RealWithAtom(constraints.Constraint):
    """Any real number; exactly 0 has positive probability."""

    def __call__(self, x: Any) -> Any:
        return jnp.isfinite(x)

    def feasible_like(self, prototype: Any) -> Any:
        return jnp.zeros_like(prototype)

    def eq(self, other: object, static: bool = False) -> bool:
        return isinstance(other, _RealWithAtom)

    def tree_flatten(self) -> Any:
        return (), ((), {})


real_with_atom = _RealWithAtom()


@biject_to.register(_RealWithAtom)
def _no_bijection(constraint: _RealWithAtom) -> Any:
    # The exception that `biject_to` itself raises for a set without a bijection.
    raise NotImplementedError(
        "A SpikeAndSlab site has no smooth transform to the real line: exactly 0 has "
        "positive probability, and gradient-based inference would never sample it. Use "
        "the guide AutoSpikeSlab, or rewrite the site with SpikeSlabReparam and sample "
        "with numpyro.infer.DiscreteHMCGibbs."
    )


class SpikeAndSlab(dist.Distribution):
    r"""Exactly zero with probability π, else normal with mean m and deviation s.

    Args:
        spike_prob: π, the probability of an exact zero, in [0, 1].
        slab_mean: m, the mean of the slab.
        slab_scale: s > 0, the standard deviation (not the variance) of the slab.
        validate_args: whether NumPyro checks the parameters; its default if None.

    The three parameters broadcast to the batch shape; an event is one number.

    Example:
        >>> import jax, meanfield as mf
        >>> distribution = mf.SpikeAndSlab(0.5, 1.0, 0.1)
        >>> float(distribution.mean)
        0.5
        >>> float(distribution.log_prob(0.0))
        -0.6931...
    """

    arg_constraints = {
        "spike_prob": constraints.unit_interval,
        "slab_mean": constraints.real,
        "slab_scale": constraints.positive,
    }
    support = real_with_atom  # pyright: ignore[reportAssignmentType]
    spike_prob: Float[Array, "..."]
    slab_mean: Float[Array, "..."]
    slab_scale: Float[Array, "..."]
    reparametrized_params = ["slab_mean", "slab_scale"]

    def __init__(
        self,
        spike_prob: Any = 0.5,
        slab_mean: Any = 0.0,
        slab_scale: Any = 1.0,
        *,
        validate_args: bool | None = None,
    ):
        dtype = jnp.result_type(spike_prob, slab_mean, slab_scale, float)
        self.spike_prob, self.slab_mean, self.slab_scale = (
            part.astype(dtype)
            for part in jnp.broadcast_arrays(spike_prob, slab_mean, slab_scale)
        )
        super().__init__(self.slab_mean.shape, validate_args=validate_args)

    @property
    def weights(self) -> SpikeSlab:
        """The same distribution as a `SpikeSlab` of the batch shape."""
        return SpikeSlab(self.spike_prob, self.slab_mean, jnp.square(self.slab_scale))

    @property
    def inclusion_prob(self) -> Float[Array, "..."]:
        """Probability that the weight is not zero, 1 − π."""
        return 1 - self.spike_prob

    def sample(
        self, key: PRNGKeyArray | None, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        """Draw weights, including exact zeros."""
        if key is None:
            raise ValueError("`key` is needed to draw; pass jax.random.key(seed).")
        spike_key, slab_key = jax.random.split(key)
        shape = tuple(sample_shape) + self.batch_shape
        present = jax.random.bernoulli(spike_key, self.inclusion_prob, shape)
        noise = jax.random.normal(slab_key, shape, self.slab_mean.dtype)
        return jnp.where(present, self.slab_mean + self.slab_scale * noise, 0)

    def log_prob(
        self, value: Any, intermediates: list[Any] | None = None
    ) -> Float[Array, "..."]:
        """Log-density with respect to counting at 0 plus Lebesgue elsewhere."""
        if self._validate_args:
            self._validate_sample(value)
        at_zero = jnp.equal(value, 0)
        # Only the case that applies is differentiated, because the other may be −∞.
        log_spike = jnp.log(jnp.where(at_zero, self.spike_prob, 1.0))
        log_present = jnp.log1p(-jnp.where(at_zero, 0.0, self.spike_prob))
        slab = norm.logpdf(value, self.slab_mean, self.slab_scale)
        return jnp.where(at_zero, log_spike, log_present + slab)

    @property
    def mean(self) -> Float[Array, "..."]:
        """Mean (1 − π) m."""
        return self.weights.mean

    @property
    def variance(self) -> Float[Array, "..."]:
        """Variance (1 − π)(s² + π m²)."""
        return self.weights.var

    def entropy(self) -> Float[Array, "..."]:
        """Entropy in nats with respect to counting at 0 plus Lebesgue elsewhere."""
        return self.weights.entropy()

    def cdf(self, value: Any) -> Float[Array, "..."]:
        """Probability of a weight at most `value`."""
        slab = norm.cdf(value, self.slab_mean, self.slab_scale)
        atom = jnp.where(jnp.asarray(value) >= 0, self.spike_prob, 0)
        return self.inclusion_prob * slab + atom

    def icdf(self, q: Any) -> Float[Array, "..."]:
        """Quantile: the smallest weight whose `cdf` is at least q."""
        below = self.inclusion_prob * norm.cdf(0, self.slab_mean, self.slab_scale)
        negative, positive = q < below, q > below + self.spike_prob
        level = jnp.where(positive, q - self.spike_prob, q)
        present = jnp.where(self.inclusion_prob > 0, self.inclusion_prob, 1)
        level = jnp.where(negative | positive, level / present, 0.5)
        slab = norm.ppf(level, self.slab_mean, self.slab_scale)
        return jnp.where(negative | positive, slab, 0)


@kl_divergence.register(SpikeAndSlab, SpikeAndSlab)
def _spike_from_spike(p: SpikeAndSlab, q: SpikeAndSlab) -> Array:
    return p.weights.kl(q.weights)


@kl_divergence.register(SpikeAndSlab, dist.Normal)
def _spike_from_normal(p: SpikeAndSlab, q: dist.Normal) -> Array:
    """Infinite if p has an atom, to which a normal distribution gives probability 0."""
    return p.weights.kl(SpikeAndSlab(0.0, q.loc, q.scale).weights)


@kl_divergence.register(dist.Normal, SpikeAndSlab)
def _normal_from_spike(p: dist.Normal, q: SpikeAndSlab) -> Array:
    return SpikeAndSlab(0.0, p.loc, p.scale).weights.kl(q.weights)
