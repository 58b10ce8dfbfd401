r"""The spike-and-slab prior of a whole network.

    P₀(w) = (1 − ρ) δ(w) + ρ N(w | 0, s²)

Every weight tensor ("layer") has one inclusion probability ρ and one slab scale s.
Either may be fixed, differ between layers, or adapt to the posterior: see
`hyperpriors`.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from meanfield.checks import is_concrete, require
from meanfield.spikeslab import SpikeSlab

from .hyperpriors import (
    BetaInclusion,
    LayerPrior,
    empirical_slab_scale,
    integrate_inclusion,
)


class _Learned(eqx.Module):
    """A slab scale found by empirical Bayes."""


class SpikeSlabPrior(eqx.Module):
    r"""A spike at zero and a Gaussian slab around zero, P₀ = (1 − ρ) δ + ρ N(0, s²).

    Args:
        inclusion_prob: ρ in (0, 1); or `numpyro.distributions.Beta(a, b)`, a
            hyper-prior under which ρ is inferred for each layer; or a mapping from path
            names (`"layers/0/weight"`) to either.
        slab_scale: s > 0, a standard deviation; or `"learned"`, for each layer by
            empirical Bayes; or a mapping from path names to either. The default 1 is
            a weakly informative scale for networks without 1/√fan-in factors. The
            default cannot depend on the fan-in, which the shape of a weight tensor does
            not determine.

    Raises:
        ValueError: ρ outside (0, 1), s not positive, or an unknown string.

    Example:
        >>> import meanfield as mf
        >>> prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned")
        >>> weight = mf.SpikeSlab([0.5, 0.5], [3.0, 0.0], [0.0, 9.0])
        >>> float(prior.for_layer("layers/0/weight", weight).slab_scale)
        3.0

    References:
        Mitchell & Beauchamp 1988 (the prior).
    """

    _inclusion: Any
    _slab: Any

    # Keyword-only, because ρ is 1 − π and the first argument of a `SpikeSlab` is π.
    def __init__(self, *, inclusion_prob: Any = 0.1, slab_scale: Any = 1.0):
        self._inclusion = _each(_inclusion, "inclusion_prob", inclusion_prob)
        self._slab = _each(_slab, "slab_scale", slab_scale)

    @property
    def inclusion_prob(self) -> Any:
        """ρ, if it is one number for the whole network."""
        return _one_number("inclusion_prob", self._inclusion)

    @property
    def slab_scale(self) -> Any:
        """Standard deviation s, if it is one number for the whole network."""
        return _one_number("slab_scale", self._slab)

    @property
    def names(self) -> set[str]:
        """Path names in the prior's mappings; empty without mappings."""
        mappings = [x for x in (self._inclusion, self._slab) if isinstance(x, dict)]
        return set().union(*mappings)

    @property
    def is_fixed(self) -> bool:
        """Whether ρ and s are given numbers in every layer, and neither is learned."""
        parts = [*_values(self._inclusion), *_values(self._slab)]
        return not any(isinstance(part, BetaInclusion | _Learned) for part in parts)

    def for_layer(self, name: str, weight: SpikeSlab) -> LayerPrior:
        """The prior of one weight tensor, with values for ρ and s.

        Args:
            name: path name of the tensor, such as `"layers/0/weight"`.
            weight: its posterior, which determines the learned values.

        Returns:
            The prior of this tensor, to be passed to `weight.kl(...)`.

        Raises:
            ValueError: the prior is a mapping without this name.
        """
        inclusion = of_layer("inclusion_prob", self._inclusion, name)
        scale = of_layer("slab_scale", self._slab, name)
        if isinstance(scale, _Learned):
            scale = empirical_slab_scale(weight)
        if isinstance(inclusion, BetaInclusion):
            inclusion, cost = integrate_inclusion(inclusion, weight)
            return LayerPrior(inclusion, scale, cost)
        return LayerPrior(inclusion, scale)


def posterior_as_prior(
    weights: Mapping[str, SpikeSlab],
    smallest_prob: float = 0.01,
    smallest_scale: float = 0.01,
) -> dict[str, SpikeSlab]:
    """The posterior of one task as the prior of the next.

    If the prior had π = 0, π = 1 or Ξ = 0, a weight could never change again, because
    its KL would be infinite. So π is kept inside (0, 1) and √Ξ above 0.

    Args:
        weights: posterior by path name.
        smallest_prob: ε in (0, 0.5); π is clipped to [ε, 1 − ε].
        smallest_scale: √Ξ is raised to at least this standard deviation.

    Returns:
        A mapping that `fit` and `total_kl` take as `prior`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import meanfield as mf
        >>> weights = {"weight": mf.SpikeSlab([0.0, 1.0], [2.0, 0.0], [0.0, 1.0])}
        >>> softened = mf.learning.posterior_as_prior(weights)["weight"]
        >>> [round(float(prob), 2) for prob in softened.spike_prob]
        [0.01, 0.99]
    """
    require(
        0 < smallest_prob < 0.5 and smallest_scale > 0,
        "`smallest_prob` must lie in (0, 0.5) and `smallest_scale` above 0; got "
        f"{smallest_prob} and {smallest_scale}.",
    )
    return {
        name: SpikeSlab(
            jnp.clip(weight.spike_prob, smallest_prob, 1 - smallest_prob),
            weight.slab_mean,
            jnp.maximum(weight.slab_var, smallest_scale**2),
        )
        for name, weight in weights.items()
    }


def _each(check: Any, name: str, given: Any) -> Any:
    if isinstance(given, Mapping):
        require(bool(given), f"`{name}` is an empty mapping; give every layer a value.")
        return {key: check(f"{name}[{key!r}]", value) for key, value in given.items()}
    return check(name, given)


def of_layer(argument: str, given: Any, name: str) -> Any:
    """The entry of one layer in a mapping by path name, or the value of all layers.

    Raises:
        ValueError: the mapping lacks the layer.
    """
    if not isinstance(given, Mapping):
        return given
    require(
        name in given,
        f"`{argument}` must have an entry for the weight {name!r}; got only "
        f"{sorted(given)}. Name every random weight.",
    )
    return given[name]


def _values(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, dict) else [given]


def _inclusion(name: str, given: Any) -> Any:
    if isinstance(given, dist.Beta):
        a, b = (np.asarray(x) for x in (given.concentration1, given.concentration0))
        require(
            a.ndim == 0 and b.ndim == 0 and bool(a > 0) and bool(b > 0),
            f"`{name}` must be one Beta(a, b) distribution with a > 0 and b > 0; got "
            f"shapes {a.shape} and {b.shape}, values {a} and {b}.",
        )
        return BetaInclusion(float(a), float(b))
    given = _real(name, given, "a probability or numpyro.distributions.Beta(a, b)")
    if is_concrete(given):
        inside = (np.asarray(given) > 0) & (np.asarray(given) < 1)
        require(
            bool(inside.all()),
            f"`{name}` must lie strictly between 0 and 1; got {given}. At 0 or 1 the "
            "KL divergence would be infinite.",
        )
    return given


def _slab(name: str, given: Any) -> Any:
    if isinstance(given, str):
        require(
            given == "learned",
            f"`{name}` must be a positive number or 'learned'; got {given!r}.",
        )
        return _Learned()
    given = _real(name, given, "a positive number, 'learned' or a mapping")
    if is_concrete(given):
        numbers = np.asarray(given)
        require(
            bool((np.isfinite(numbers) & (numbers > 0)).all()),
            f"`{name}` must be positive and finite; got {given}. It is the standard "
            "deviation of a present weight.",
        )
    return given


def _real(name: str, given: Any, needed: str) -> Any:
    number = isinstance(given, int | float | np.number | np.ndarray | jax.Array)
    require(
        number and not isinstance(given, bool),
        f"`{name}` must be {needed}; got {given!r}.",
    )
    return given if isinstance(given, jax.Array | np.ndarray) else float(given)


def _one_number(name: str, given: Any) -> Any:
    require(
        not isinstance(given, dict | _Learned | BetaInclusion),
        f"`{name}` of this prior has no single value, because it is learned or "
        "differs between layers. Use prior.for_layer(name, weight), or total_kl for "
        "the whole network.",
    )
    return given
