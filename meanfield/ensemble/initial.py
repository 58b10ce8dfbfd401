r"""Initial spike-and-slab weights, which keep the scale of activations across layers.

With z = Σ_k w_k a_k over N inputs and independent weights, the mean square q = ⟨z²⟩ of
the pre-activations of wide layers changes from layer to layer as

    q' = σ_w² ⟨φ(z)²⟩,     σ_w² = N E[w²] = N E[(1 − π)(Ξ + m²)].

For φ = ReLU, ⟨φ(z)²⟩ = q/2, so the map is q' = (σ_w²/2) q, with the critical point
σ_w² = 2: below it q falls exponentially with depth, above it q grows exponentially. A
gain g = σ_w² is given by

    E m² = (1 − s) g / (N (1 − π)),     Ξ = s g / (N (1 − π)),

where s is the fraction of the second moment that is slab variance. With g = 2, q is
still the same after twenty layers. (For tanh, g = 1 is critical, and g = 2 only
saturates it.) The published MNIST initialisation, m ~ N(0, 2/784) and Ξ ~ U(0, 0.01),
both for w √N, has σ_w² = 0.0076.

Source: Li & Huang 2020, arXiv:2001.03354, and its code; Poole et al. 2016,
arXiv:1606.05340; He et al. 2015, arXiv:1502.01852.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require
from meanfield.spikeslab import SpikeSlab

Initial = Callable[[str, Array, int | float, PRNGKeyArray], SpikeSlab]


# Defaults of `critical`: σ_w² = N E[w²], and the fraction of it that is slab variance.
GAIN, SLAB_SHARE = 2.0, 0.1


def critical(
    gain: float = GAIN, slab_share: float = SLAB_SHARE, spike_prob: float = 0.0
) -> Initial:
    r"""Fresh slab means at the critical scale, σ_w² = gain in every layer.

    Args:
        gain: σ_w² = N E[(1 − π)(Ξ + m²)]; 2 is critical for ReLU, 1 for tanh.
        slab_share: fraction of the second moment that is slab variance, in [0, 1).
        spike_prob: initial π, in [0, 1).

    Returns:
        A function of (path name, point value, fan-in, key) that makes a `SpikeSlab`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(400, 1, 400, 1, key=jax.random.key(0))
        >>> start = mf.ensemble.critical(gain=1.0)
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1), initial=start)
        >>> weight = ensemble.weights()["layers/0/weight"]
        >>> round(float(400 * (weight.var + weight.mean**2).mean()), 1)
        1.0
    """
    require(gain > 0, f"`gain` must be positive; got {gain}. 2 is critical for ReLU.")
    require(0 <= slab_share < 1, f"`slab_share` must lie in [0, 1); got {slab_share}.")
    require(0 <= spike_prob < 1, f"`spike_prob` must lie in [0, 1); got {spike_prob}.")

    def start(
        name: str, value: Array, fan_in: int | float, key: PRNGKeyArray
    ) -> SpikeSlab:
        second = gain / (fan_in * (1 - spike_prob))
        std = math.sqrt((1 - slab_share) * second)
        # The barrier keeps the compiler from merging this factor with factors of the
        # draw.
        draw = jax.random.normal(key, value.shape, value.dtype)
        mean = std * lax.optimization_barrier(draw)
        var = jnp.full_like(value, slab_share * second)
        return SpikeSlab(jnp.full_like(value, spike_prob), mean, var)

    return start


def from_weights(slab_share: float = 0.01, spike_prob: float = 0.0) -> Initial:
    r"""The model's own weights as slab means, for a network that is already trained.

    Ξ is `slab_share` of each tensor's mean square weight (of 1 if all its weights are
    0).

    Args:
        slab_share: slab variance as a fraction of ⟨w²⟩ of the tensor.
        spike_prob: initial π, in [0, 1).

    Returns:
        A function of (path name, point value, fan-in, key) that makes a `SpikeSlab`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
        >>> start = mf.ensemble.from_weights(slab_share=0.1)
        >>> ensemble = mf.Ensemble.from_model(net, initial=start)
        >>> weight = ensemble.weights()["layers/0/weight"]
        >>> bool((weight.slab_mean == net.layers[0].weight).all())
        True
    """
    require(slab_share >= 0, f"`slab_share` must not be negative; got {slab_share}.")
    require(0 <= spike_prob < 1, f"`spike_prob` must lie in [0, 1); got {spike_prob}.")

    def start(
        name: str, value: Array, fan_in: int | float, key: PRNGKeyArray
    ) -> SpikeSlab:
        square = jnp.mean(jnp.square(value))
        var = jnp.full_like(value, slab_share * jnp.where(square > 0, square, 1))
        return SpikeSlab(jnp.full_like(value, spike_prob), value, var)

    return start


def share_spikes(weight: SpikeSlab, axis: int) -> SpikeSlab:
    """The weight with one spike for all connections of an input unit.

    Args:
        weight: the weight.
        axis: its axis that counts the input units. The shared π is the average over the
            other axes.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    spike = weight.spike_prob.mean(others, keepdims=True)
    return SpikeSlab(spike, weight.slab_mean, weight.slab_var)


def choose_initial(initial: Initial | str | None, key: Any) -> Initial:
    """The initialisation for `from_model`: given by name or as a function.

    Raises:
        ValueError: an unknown name, or no key if one is needed.
    """
    if callable(initial):
        return initial
    name = initial or ("model" if key is None else "critical")
    require(
        name in ("critical", "model"),
        f"`initial` must be 'critical', 'model' or a function; got {initial!r}.",
    )
    require(
        name == "model" or key is not None,
        "`key` is needed to draw fresh weights; pass key=jax.random.key(seed), or "
        "initial='model' to keep the model's own.",
    )
    return _FRESH if name == "critical" else _KEPT


# Always the same function objects, so that programs compiled with them are reused.
_FRESH, _KEPT = critical(), from_weights()
