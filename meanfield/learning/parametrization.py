"""The parameters that an optimizer updates, and how they represent (π, m, Ξ).

`Projected` is the published method: the optimizer updates π, m and Ξ themselves, and
every step ends with the projection

    π ← clip(π, 0, 1),     Ξ ← max(Ξ, Ξ_min),

which creates exact zeros and ones. `Unconstrained` updates logit π, m and ln √Ξ, which
can take any value; π is then never exactly 0 or 1.

Source: Li & Huang 2020, arXiv:2001.03354.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from meanfield.checks import is_concrete, require
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import named_leaves


class AbstractParametrization(eqx.Module):
    """How parameters that an optimizer updates represent (π, m, Ξ)."""

    @abc.abstractmethod
    def encode(self, weight: SpikeSlab) -> Any:
        """The optimizer's parameters for a weight."""

    @abc.abstractmethod
    def decode(self, numbers: Any) -> SpikeSlab:
        """The weights that the optimizer's parameters represent."""

    @abc.abstractmethod
    def kl(self, numbers: Any, prior: Any) -> Float[Array, "..."]:
        """KL(q‖prior) of every weight in nats, equal to `SpikeSlab.kl`."""

    @abc.abstractmethod
    def project(self, numbers: Any) -> Any:
        """The parameters after a step, projected to their range."""


class Projected(AbstractParametrization):
    r"""π, m and Ξ themselves, projected after every step; exact zeros and ones occur.

    Args:
        smallest_var: Ξ_min ≥ 0, the smallest slab variance; 0 as published. A positive
            value keeps a KL term finite.
    """

    smallest_var: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        require(
            self.smallest_var >= 0,
            f"`smallest_var` must not be negative; got {self.smallest_var}.",
        )

    def encode(self, weight: SpikeSlab) -> SpikeSlab:
        """The weight as it is, apart from a Ξ below Ξ_min."""
        if self.smallest_var == 0:
            return weight
        numpy = _numpy_of(weight)
        least = numpy.asarray(self.smallest_var, weight.dtype)
        var = numpy.maximum(numpy.asarray(weight.slab_var), least)
        return SpikeSlab(weight.spike_prob, weight.slab_mean, jnp.asarray(var))

    def decode(self, numbers: SpikeSlab) -> SpikeSlab:
        """The weight as it is."""
        return numbers

    def kl(self, numbers: SpikeSlab, prior: Any) -> Float[Array, "..."]:
        """The divergence of the weight."""
        return numbers.kl(prior)

    def project(self, numbers: SpikeSlab) -> SpikeSlab:
        """Clip π to [0, 1] and Ξ to [Ξ_min, ∞)."""
        # With `hold="means"`, `slab_mean` is None here.
        spread = (
            jnp.clip(numbers.spike_prob, 0, 1),
            jnp.maximum(numbers.slab_var, self.smallest_var),
        )
        return eqx.tree_at(lambda n: (n.spike_prob, n.slab_var), numbers, spread)


class _Numbers(eqx.Module):
    """logit π, m and ln √Ξ."""

    spike_logit: Float[Array, "..."]
    slab_mean: Float[Array, "*shape"]
    log_slab_std: Float[Array, "*shape"]


class Unconstrained(AbstractParametrization):
    r"""logit π, m and ln √Ξ: no projection, no exact zeros or ones.

    Args:
        smallest_prob: an initial π is clipped to [smallest_prob, 1 − smallest_prob],
            because 0 and 1 have no finite logit.
        smallest_scale: an initial √Ξ below this value is raised to it.
    """

    smallest_prob: float = eqx.field(static=True, default=0.01)
    smallest_scale: float = eqx.field(static=True, default=1e-4)

    def __check_init__(self):
        require(
            0 < self.smallest_prob < 0.5,
            f"`smallest_prob` must lie in (0, 0.5); got {self.smallest_prob}.",
        )
        require(
            self.smallest_scale > 0,
            f"`smallest_scale` must be positive; got {self.smallest_scale}.",
        )

    def encode(self, weight: SpikeSlab) -> _Numbers:
        """Logit and logarithm, after π and √Ξ are clipped."""
        edge, dtype, numpy = self.smallest_prob, weight.dtype, _numpy_of(weight)
        wide = jnp.promote_types(dtype, jnp.float32)
        prob = numpy.clip(numpy.asarray(weight.spike_prob, wide), edge, 1 - edge)
        var = numpy.asarray(weight.slab_var, wide)
        logit = numpy.log(prob) - numpy.log1p(-prob)
        log_std = 0.5 * numpy.log(numpy.maximum(var, self.smallest_scale**2))
        logit, log_std = (jnp.asarray(part.astype(dtype)) for part in (logit, log_std))
        return _Numbers(logit, weight.slab_mean, log_std)

    def decode(self, numbers: _Numbers) -> SpikeSlab:
        """π = sigmoid(logit), Ξ = exp(2 ln √Ξ)."""
        return SpikeSlab(
            jax.nn.sigmoid(numbers.spike_logit),
            numbers.slab_mean,
            jnp.exp(2 * numbers.log_slab_std),
        )

    def kl(self, numbers: _Numbers, prior: Any) -> Float[Array, "..."]:
        r"""The KL divergence in terms of ℓ = logit π and λ = ln √Ξ.

        With n connections that share a spike

            KL = [ −H(π) − π ln π₀ − (1 − π) ln(1 − π₀) ] / n
                 + (1 − π) ½ [ (Ξ + m²)/s² − 1 − 2λ + 2 ln s ]

        where −H(π) = ln P − (1 − P) |ℓ|, P = max(π, 1 − π). Only ln P has to be
        computed; the derivative of −H with respect to ℓ, π (1 − π) ℓ, needs no
        logarithm.
        """
        if isinstance(prior, SpikeSlab):
            return self.decode(numbers).kl(prior)
        wide = jnp.promote_types(numbers.slab_mean.dtype, jnp.float32)
        logit, mean, log_std = (
            part.astype(wide)
            for part in (numbers.spike_logit, numbers.slab_mean, numbers.log_slab_std)
        )
        included = jnp.asarray(prior.inclusion_prob, wide)
        scale = jnp.asarray(prior.slab_scale, wide)
        spike = jax.nn.sigmoid(logit)
        coin = (
            _negative_entropy(logit)
            - spike * jnp.log1p(-included)
            - (1 - spike) * jnp.log(included)
        )
        square = (jnp.exp(2 * log_std) + jnp.square(mean)) * (1 / jnp.square(scale))
        slab = 0.5 * (square - 1) - log_std + jnp.log(scale)
        share = mean.size // spike.size
        return (coin / share if share > 1 else coin) + (1 - spike) * slab

    def project(self, numbers: _Numbers) -> _Numbers:
        """The parameters as they are."""
        return numbers


@jax.custom_jvp
def _negative_entropy(logit: Float[Array, "..."]) -> Float[Array, "..."]:
    """π ln π + (1 − π) ln(1 − π) of π = sigmoid(logit)."""
    spike = jax.nn.sigmoid(logit)
    likelier = jnp.maximum(spike, 1 - spike)
    return jnp.log(likelier) - (1 - likelier) * jnp.abs(logit)


@_negative_entropy.defjvp
def _negative_entropy_slope(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (logit,), (change,) = primals, tangents
    spike = jax.nn.sigmoid(logit)
    return _negative_entropy(logit), spike * (1 - spike) * logit * change


def _numpy_of(weight: SpikeSlab) -> Any:
    """NumPy, which compiles nothing, or JAX's NumPy for a traced weight."""
    return np if is_concrete(weight.spike_prob, weight.slab_var) else jnp


def _is_numbers(node: Any) -> bool:
    return isinstance(node, SpikeSlab | _Numbers)


def encode_all(parametrization: AbstractParametrization, params: Any) -> Any:
    """A tree of parameters with every `SpikeSlab` encoded for the optimizer."""
    return jax.tree.map(
        lambda leaf: parametrization.encode(leaf) if is_spike_slab(leaf) else leaf,
        params,
        is_leaf=is_spike_slab,
    )


def decode_all(parametrization: AbstractParametrization, numbers: Any) -> Any:
    """The tree of parameters that the optimizer's parameters represent."""
    return jax.tree.map(
        lambda leaf: parametrization.decode(leaf) if _is_numbers(leaf) else leaf,
        numbers,
        is_leaf=_is_numbers,
    )


def project_all(parametrization: AbstractParametrization, numbers: Any) -> Any:
    """The optimizer's parameters, projected to their range."""
    return jax.tree.map(
        lambda leaf: parametrization.project(leaf) if _is_numbers(leaf) else leaf,
        numbers,
        is_leaf=_is_numbers,
    )


def spread_alone(numbers: Any) -> Any:
    """A tree of booleans: True for the parameters of π and Ξ, else False."""

    def mask(leaf: Any) -> Any:
        if not _is_numbers(leaf):
            return False
        whole = jax.tree.map(lambda _: True, leaf)
        return eqx.tree_at(lambda n: n.slab_mean, whole, False)

    return jax.tree.map(mask, numbers, is_leaf=_is_numbers)


def divergence_of(
    parametrization: AbstractParametrization, numbers: Any
) -> Callable[[str, Any], Array]:
    """A function from a weight's path name and prior to its KL divergence."""
    named = named_leaves(numbers, _is_numbers)
    return lambda name, prior: parametrization.kl(named[name], prior)
