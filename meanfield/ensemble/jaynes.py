r"""Initial weights motivated by physics: lognormal magnitudes, critical variance.

    Jaynes     |w| ~ LN(μ, σ²), random sign,   μ = ½ ln(g/N) − σ²,   so E w² = g/N
    critical   N E[(1 − π)(Ξ + m²)] = σ_w²                       N the fan-in

The first has the lognormal distribution that is claimed for trained networks, with the
variance of an ordinary initialisation (g = 2 for ReLU). The second puts a
spike-and-slab layer at the transition from order to chaos if σ_w² has its critical
value (`fixed_points.critical_weight_var`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.fan_ins import fan_in
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named, named_leaves

DEFAULT_SIGMA = 0.65


def jaynes_weights(
    shape: tuple[int, ...],
    *,
    key: PRNGKeyArray,
    num_inputs: int,
    gain: float | int = 2.0,
    sigma: float | int = DEFAULT_SIGMA,
) -> Float[Array, "..."]:
    r"""Lognormal magnitudes with random signs and E w² = gain / num_inputs.

    |w| = exp(μ + σ z), μ = ½ ln(g/N) − σ²; then E w² = exp(2μ + 2σ²) = g/N.

    Args:
        shape: shape of the weights.
        key: a typed key.
        num_inputs: N, fan-in of the layer.
        gain: g > 0; 2 is critical for ReLU, 1 for tanh without biases.
        sigma: σ ≥ 0, standard deviation of ln|w|; 0 gives weights of one magnitude.

    Raises:
        ValueError: fan-in or gain not positive, or σ negative.

    Example:
        >>> import jax
        >>> w = jaynes_weights((400, 100), key=jax.random.key(0), num_inputs=100)
        >>> bool(abs(100 * (w**2).mean() - 2) < 0.1)
        True

    References:
        The variance-matched lognormal initialisation is found in re-implementations
        that cite arXiv:2310.06960. Its σ = 0.65 is taken from them; whether the paper
        uses it is not known.
    """
    require(
        num_inputs >= 1,
        f"`num_inputs` must be at least 1; got {num_inputs}. It is the fan-in.",
    )
    require(gain > 0, f"`gain` must be positive; got {gain}. Use 2 for ReLU.")
    require(sigma >= 0, f"`sigma` must be at least 0; got {sigma}. Use 0.65.")
    magnitude_key, sign_key = jax.random.split(key)
    mu = 0.5 * math.log(gain / num_inputs) - sigma**2
    magnitudes = jnp.exp(mu + sigma * jax.random.normal(magnitude_key, shape))
    return magnitudes * jax.random.rademacher(sign_key, shape, magnitudes.dtype)


def jaynes_initialize(
    params: Any,
    *,
    key: PRNGKeyArray,
    gain: float | int = 2.0,
    sigma: float | int = DEFAULT_SIGMA,
    layout: str = "auto",
) -> Any:
    """The same tree with new draws for every weight of two or more dimensions.

    A plain leaf gets `jaynes_weights`. A `SpikeSlab` keeps its π and Ξ and gets slab
    means of lognormal magnitude, such that (1 − π)(Ξ + m²) has mean gain / fan-in.

    Args:
        params: any JAX parameter tree, with or without `SpikeSlab` leaves.
        key: a typed key, split over the leaves.
        gain: as in `jaynes_weights`.
        sigma: as in `jaynes_weights`.
        layout: which axes of a weight are its inputs, as in `fan_in`.

    Raises:
        ValueError: no weight of two or more dimensions, or a slab too wide.
    """

    def draw(leaf_key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return jaynes_weights(shape, key=leaf_key, num_inputs=1, gain=1.0, sigma=sigma)

    return _reinitialize(params, draw, key, gain, layout)


def critical_initialize(
    params: Any,
    *,
    key: PRNGKeyArray,
    weight_var: float | int,
    layout: str = "auto",
) -> Any:
    """The same tree with Gaussian weights at N E[(1 − π)(Ξ + m²)] = σ_w².

    Args:
        params: any JAX parameter tree, with or without `SpikeSlab` leaves.
        key: a typed key, split over the leaves.
        weight_var: σ_w²: 2 for ReLU, or `fixed_points.critical_weight_var`.
        layout: which axes of a weight are its inputs, as in `fan_in`.

    Raises:
        ValueError: no weight of two or more dimensions, or a slab too wide.
    """

    return _reinitialize(params, jax.random.normal, key, weight_var, layout)


def _reinitialize(
    params: Any,
    draw: Callable[[PRNGKeyArray, tuple[int, ...]], Array],
    key: PRNGKeyArray,
    gain: float | int,
    layout: str,
) -> Any:
    leaves = named_leaves(params, is_leaf=is_spike_slab)
    names = [name for name, leaf in leaves.items() if _is_weight(leaf)]
    require(
        bool(names),
        "`params` must hold a floating-point weight of two or more dimensions; got "
        f"{list(leaves)}. Pass the parameter tree of the network.",
    )
    require(gain > 0, f"`gain` must be positive; got {gain}. Use 2 for ReLU.")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

    def replace(name: str, leaf: Any) -> Any:
        if name not in keys:
            return leaf
        inputs = fan_in(name, leaf.shape, layout)
        unit = draw(keys[name], leaf.shape).astype(leaf.dtype)
        if not is_spike_slab(leaf):
            return unit * math.sqrt(gain / inputs)
        mean = unit * math.sqrt(_slab_mean_gain(name, leaf, inputs, gain) / inputs)
        return SpikeSlab(leaf.spike_prob, mean, leaf.slab_var)

    return map_named(replace, params, is_leaf=is_spike_slab)


def _slab_mean_gain(
    name: str, weight: SpikeSlab, inputs: int, gain: float | int
) -> float:
    """N E m² such that N E[(1 − π)(Ξ + m²)] = gain, m independent of π and Ξ."""
    present = float(jnp.mean(weight.inclusion_prob))
    taken = inputs * float(jnp.mean(weight.inclusion_prob * weight.slab_var))
    require(
        present > 0 and taken < gain,
        f"`params` must have (1 − π) Ξ small enough in {name!r} that slab means can "
        f"reach the gain {gain}; got a share {present:.3g} of connections present and "
        f"slab variances that alone give {taken:.3g}. Start with a smaller slab_var "
        "or spike_prob.",
    )
    return (gain - taken) / present


def _is_weight(leaf: Any) -> bool:
    if is_spike_slab(leaf):
        return leaf.ndim >= 2
    if not isinstance(leaf, np.ndarray | jax.Array):
        return False
    return leaf.ndim >= 2 and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def jaynes_initial(
    gain: float | int = 2.0,
    sigma: float | int = DEFAULT_SIGMA,
    slab_share: float | int = 0.1,
) -> Callable[[str, Array, int, PRNGKeyArray], SpikeSlab]:
    """Jaynes initialisation for ``Ensemble.from_model(model, key=key, initial=...)``.

    Args:
        gain: g = N E[Ξ + m²] of every layer at π = 0; 2 is critical for ReLU.
        sigma: σ of ln|m|.
        slab_share: fraction of the second moment that is slab variance, in [0, 1).

    Returns:
        A function of (path name, point value, fan-in, key) that makes a `SpikeSlab`.

    Raises:
        ValueError: `slab_share` out of range.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
        >>> start = mf.ensemble.jaynes_initial()
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1), initial=start)
        >>> bool((ensemble.weights()["layers/0/weight"].slab_mean != 0).all())
        True
    """
    require(0 <= slab_share < 1, f"`slab_share` must lie in [0, 1); got {slab_share}.")

    def start(name: str, value: Array, num_inputs: int, key: PRNGKeyArray) -> SpikeSlab:
        mean = jaynes_weights(
            value.shape,
            key=key,
            num_inputs=num_inputs,
            gain=(1 - slab_share) * gain,
            sigma=sigma,
        ).astype(value.dtype)
        var = jnp.full_like(value, slab_share * gain / num_inputs)
        return SpikeSlab(jnp.zeros_like(value), mean, var)

    return start
