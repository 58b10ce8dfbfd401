r"""Where learning starts: spike-and-slab weights that keep the signal at scale.

With z = Σ_k w_k a_k over N inputs and independent weights, a pre-activation of a wide
layer has the mean square q = ⟨z²⟩

    q' = σ_w² ⟨φ(z)²⟩,     σ_w² = N E[w²] = N E[(1 − π)(Ξ + m²)].

For φ = ReLU, ⟨φ(z)²⟩ = q/2: the map is q' = (σ_w²/2) q, and σ_w² = 2 is its only
scale-free, critical point. Below it the signal dies exponentially with depth, above it
it explodes. So for a gain g = σ_w²

    E m² = (1 − s) g / (N (1 − π)),     Ξ = s g / (N (1 − π)),

where s is the slab's share of the second moment. Twenty layers deep the signal then has
the scale it had in the first. (Twice the critical gain of tanh, g = 1, only saturates.)
The published MNIST start, m ~ N(0, 2/784) with a further 1/√N, has σ_w² = 0.0076.

Source: Li & Huang 2020, arXiv:2001.03354, and its code; Poole et al. 2016,
arXiv:1606.05340; He et al. 2015, arXiv:1502.01852.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from .checks import require
from .spikeslab import SpikeSlab
from .trees import named_leaves

Initial = Callable[[str, Array, int, PRNGKeyArray], SpikeSlab]


def critical(
    gain: float = 2.0, slab_share: float = 0.1, spike_prob: float = 0.0
) -> Initial:
    r"""Fresh slab means at the critical scale, σ_w² = gain in every layer.

    Args:
        gain: σ_w² = N E[(1 − π)(Ξ + m²)]; 2 is critical for ReLU, 1 for tanh.
        slab_share: part of the second moment that is slab variance, in [0, 1).
        spike_prob: π at the start, in [0, 1).

    Returns:
        A function of (path name, point value, fan-in, key) that makes a `SpikeSlab`.

    Raises:
        ValueError: an argument leaves its range.
    """
    require(gain > 0, f"`gain` must be positive; got {gain}. 2 is critical for ReLU.")
    require(0 <= slab_share < 1, f"`slab_share` must lie in [0, 1); got {slab_share}.")
    require(0 <= spike_prob < 1, f"`spike_prob` must lie in [0, 1); got {spike_prob}.")

    def start(name: str, value: Array, fan_in: int, key: PRNGKeyArray) -> SpikeSlab:
        second = gain / (fan_in * (1 - spike_prob))
        std = math.sqrt((1 - slab_share) * second)
        mean = std * jax.random.normal(key, value.shape, value.dtype)
        var = jnp.full_like(value, slab_share * second)
        return SpikeSlab(jnp.full_like(value, spike_prob), mean, var)

    return start


def from_weights(slab_share: float = 0.01, spike_prob: float = 0.0) -> Initial:
    r"""The model's own weights as slab means: for a network that is trained already.

    Ξ is `slab_share` of each tensor's mean square weight (of 1 where all are 0).

    Args:
        slab_share: slab variance as a fraction of ⟨w²⟩ of the tensor.
        spike_prob: π at the start, in [0, 1).
    """
    require(slab_share >= 0, f"`slab_share` must not be negative; got {slab_share}.")
    require(0 <= spike_prob < 1, f"`spike_prob` must lie in [0, 1); got {spike_prob}.")

    def start(name: str, value: Array, fan_in: int, key: PRNGKeyArray) -> SpikeSlab:
        square = jnp.mean(jnp.square(value))
        var = jnp.full_like(value, slab_share * jnp.where(square > 0, square, 1))
        return SpikeSlab(jnp.full_like(value, spike_prob), value, var)

    return start


def share_spikes(weight: SpikeSlab, axis: int) -> SpikeSlab:
    """The weight with one spike for all connections of an input unit.

    Args:
        weight: the weight.
        axis: its axis that counts the input units. The spikes along the other axes,
            averaged, become one.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    spike = weight.spike_prob.mean(others, keepdims=True)
    return SpikeSlab(spike, weight.slab_mean, weight.slab_var)


def input_axes(model: Any, inputs_last: bool) -> dict[str, int]:
    """The axis of input units of every matrix and kernel that has one.

    Args:
        model: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer. A look-up has
            no input units, a convolution in groups none of its own.
    """
    found = {}
    for name, array in named_leaves(model).items():
        last = name.split("/")[-1]
        if (
            eqx.is_array(array)
            and array.ndim >= 2
            and last not in ("embedding", "bias")
        ):
            if array.ndim == 2:
                found[name] = 1 if inputs_last else 0
            elif not inputs_last:
                found[name] = array.ndim - 2
    known = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding)
    layers = named_leaves(model, is_leaf=lambda node: isinstance(node, known))
    for path, layer in layers.items():
        name = f"{path}/weight" if path else "weight"
        if isinstance(layer, eqx.nn.Embedding):
            found.pop(name, None)
        elif isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
            found.pop(name, None)
            if layer.groups == 1:
                found[name] = 1
    return found


def fan_ins(model: Any, inputs_last: bool) -> dict[str, int]:
    """Number of summands in one output of every array of two or more dimensions.

    Equinox layers are known by type. Elsewhere the layout decides: Equinox puts the
    inputs last, Flax and ``x @ w`` put the outputs last. A looked-up row is not summed.

    Args:
        model: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer.
    """
    found = {}
    for name, array in named_leaves(model).items():
        if eqx.is_array(array) and array.ndim >= 2:
            inner = array.shape[1:] if inputs_last else array.shape[:-1]
            if array.ndim == 2 or not inputs_last:
                found[name] = math.prod(inner)
            else:
                found[name] = array.shape[-1]
            if name.split("/")[-1] == "embedding":
                found[name] = 1
    known = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding)
    layers = named_leaves(model, is_leaf=lambda node: isinstance(node, known))
    for name, layer in layers.items():
        if isinstance(layer, eqx.nn.Embedding):
            found[f"{name}/weight" if name else "weight"] = 1
        elif isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
            axes = layer.num_spatial_dims + 1
            inner = layer.weight.shape[-axes:]
            found[f"{name}/weight" if name else "weight"] = math.prod(inner)
    return found
