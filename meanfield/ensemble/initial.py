r"""Initial spike-and-slab weights, which keep the scale of activations across layers.

With z = Σ_k w_k a_k over N inputs and independent weights, a pre-activation of a wide
layer has the mean square q = ⟨z²⟩

    q' = σ_w² ⟨φ(z)²⟩,     σ_w² = N E[w²] = N E[(1 − π)(Ξ + m²)].

For φ = ReLU, ⟨φ(z)²⟩ = q/2, so the map is q' = (σ_w²/2) q, with the critical point
σ_w² = 2: below it q falls exponentially with depth, above it q grows exponentially. So
for a gain g = σ_w²

    E m² = (1 − s) g / (N (1 − π)),     Ξ = s g / (N (1 − π)),

where s is the slab's share of the second moment. After twenty layers q is then still
that of the first layer. (For tanh g = 1 is critical, and g = 2 only saturates it.)
The published MNIST initialisation, m ~ N(0, 2/784) times 1/√N, has σ_w² = 0.0076.

Source: Li & Huang 2020, arXiv:2001.03354, and its code; Poole et al. 2016,
arXiv:1606.05340; He et al. 2015, arXiv:1502.01852.
"""

import math
import sys
from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require
from meanfield.propagation import count_summands
from meanfield.propagation.noise_kinds import Noise
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named, named_leaves

from .opened import OpenedModel

Initial = Callable[[str, Array, int | float, PRNGKeyArray], SpikeSlab]


def critical(
    gain: float = 2.0, slab_share: float = 0.1, spike_prob: float = 0.0
) -> Initial:
    r"""Fresh slab means at the critical scale, σ_w² = gain in every layer.

    Args:
        gain: σ_w² = N E[(1 − π)(Ξ + m²)]; 2 is critical for ReLU, 1 for tanh.
        slab_share: part of the second moment that is slab variance, in [0, 1).
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
        # The barrier keeps the compiler from merging the factor with those inside.
        draw = jax.random.normal(key, value.shape, value.dtype)
        mean = std * lax.optimization_barrier(draw)
        var = jnp.full_like(value, slab_share * second)
        return SpikeSlab(jnp.full_like(value, spike_prob), mean, var)

    return start


def from_weights(slab_share: float = 0.01, spike_prob: float = 0.0) -> Initial:
    r"""The model's own weights as slab means, for a network that is already trained.

    Ξ is `slab_share` of each tensor's mean square weight (of 1 where all are 0).

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


def input_axes(model: Any, inputs_last: bool) -> dict[str, int]:
    """The axis of input units of every matrix and kernel that has one.

    Args:
        model: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer. A look-up and a
            convolution in groups have no such axis.
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


def fan_ins(params: Any, inputs_last: bool) -> dict[str, int | float]:
    """Number of summands in one output of every array of two or more dimensions.

    Equinox layers are recognised by type, the projections of Flax's attention by name.
    Elsewhere the layout decides: Equinox puts the inputs last, Flax and ``x @ w`` put
    the outputs last. A looked-up row is not summed, and a bias has no fan-in. For
    layers stacked for a scan and contractions over several axes the layout is not
    enough; pass an example to `Ensemble.from_model`, and their fan-in is found from the
    program.

    Args:
        params: a tree of parameters, or an Equinox module.
        inputs_last: the layout of arrays that belong to no known layer.
    """
    found: dict[str, int | float] = {}
    for name, array in named_leaves(params).items():
        if not eqx.is_array(array) or array.ndim < 2 or is_bias(name):
            continue
        layer, _, kind = name.rpartition("/")
        if kind == "embedding":
            found[name] = 1
        elif array.ndim == 3 and layer.rpartition("/")[2] in _PROJECTIONS:
            found[name] = array.shape[0]
        elif inputs_last:
            found[name] = array.shape[-1]
        else:
            found[name] = math.prod(array.shape[:-1])
    known = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding)
    layers = named_leaves(params, is_leaf=lambda node: isinstance(node, known))
    for name, layer in layers.items():
        weight = f"{name}/weight" if name else "weight"
        if isinstance(layer, eqx.nn.Embedding):
            found[weight] = 1
        elif isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
            inner = math.prod(layer.weight.shape[-layer.num_spatial_dims - 1 :])
            up = isinstance(layer, eqx.nn.ConvTranspose)
            found[weight] = max(inner / math.prod(layer.stride), 1) if up else inner
    return found


_PROJECTIONS = ("query", "key", "value")


def is_bias(name: str) -> bool:
    """Whether a path name is that of a bias, which has no fan-in."""
    return name.rpartition("/")[2] in ("bias", "b")


def nnx_fan_ins(nnx: Any, model: Any) -> dict[str, int | float]:
    """`fan_ins` for a Flax NNX module, whose layers store their sizes."""
    found: dict[str, int | float] = {}
    # A function in newer versions of Flax, a method in older ones.
    walk = getattr(nnx, "iter_modules", lambda model: model.iter_modules())
    for path, layer in walk(model):
        name = "/".join(map(str, (*path, "kernel")))
        if isinstance(layer, nnx.LinearGeneral):
            features = layer.in_features
            found[name] = (
                math.prod(features) if isinstance(features, tuple) else features
            )
        elif isinstance(layer, nnx.Linear):
            found[name] = layer.in_features
        elif isinstance(layer, nnx.Conv):
            found[name] = math.prod(layer.kernel_shape[:-1])
        elif isinstance(layer, nnx.ConvTranspose):
            strides: Any = layer.strides or 1
            if isinstance(strides, int):
                strides = [strides] * len(layer.kernel_size)
            inner = math.prod(layer.kernel_shape[:-1])
            found[name] = max(inner / math.prod(strides), 1)
    return found


def fan_ins_by_example(
    apply_fn: Callable[..., Any],
    params: Any,
    chosen: Collection[str],
    example: Any,
    noise: Noise = "preactivations",
) -> dict[str, int | float]:
    """Fan-ins from the program: the number of summands in each array's longest sum.

    No fan-in is found for arrays that are drawn once per call, because only functions
    of them enter sums.

    Args:
        apply_fn: ``apply_fn(params, x)``.
        params: a tree of parameters.
        chosen: path names of the arrays in question.
        example: a batch, or its shape.
        noise: as for `mean_field`.
    """
    random = map_named(
        lambda name, leaf: (
            SpikeSlab(jnp.zeros_like(leaf), leaf, jnp.ones_like(leaf))
            if name in chosen
            else leaf
        ),
        params,
    )
    found = count_summands(apply_fn, random, example, noise=noise)
    if "" in chosen:  # The parameters are one array, which errors call `params`.
        found = {"": found["params"]} if found else {}
    return {name: max(sizes) for name, sizes in found.items() if not is_bias(name)}


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


# The same functions every time, so that what is compiled with them is found again.
_FRESH, _KEPT = critical(), from_weights()


def model_fan_ins(model: Any, opened: OpenedModel) -> dict[str, int | float]:
    """Fan-ins by path name, as far as types, names and shapes determine them."""
    fans = fan_ins(opened.params, opened.kind == "equinox")
    if opened.kind == "nnx":
        fans |= nnx_fan_ins(sys.modules["flax.nnx"], model)
    return fans
