"""Tensors of a network by name, for `microstructure` and `renormalization`.

A network can be a mapping of names to arrays, an open npz file, any JAX parameter tree,
or the weights of an ensemble. A spike-and-slab leaf gives several kinds of values with
different distributions, so each is a separate tensor:

| reading          | values                                              |
|------------------|-----------------------------------------------------|
| `slab_mean`      | m, whether or not the connection is present         |
| `posterior_mean` | μ = (1 − π) m, the mean weight                      |
| `drawn`          | one draw, including exact zeros (needs a `key`)     |
| `important`      | m of the important connections only                 |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import named_leaves

EMBEDDING = r"[a-z]*embed(s|der|ding|dings)?"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a network under one reading.

    Args:
        name: its path, such as ``layers/0/weight``.
        values: the values, in their own shape.
        kind: ``connections`` (two or more dimensions), ``embedding`` (the same, with
            "embed" or "embedding" in its name) or ``vector`` (biases and norm scales).
            Statements about connection weights hold only for the first kind.
        reading: ``weights`` for plain arrays, else a row of the table above.
    """

    name: str
    values: Any
    kind: str
    reading: str

    @property
    def title(self) -> str:
        """Name and reading, such as ``layers/0/weight:slab_mean``."""
        return self.name if self.reading == "weights" else f"{self.name}:{self.reading}"


def read_tensors(
    weights: Any,
    *,
    key: PRNGKeyArray | None = None,
    important: Mapping[str, Any] | None = None,
) -> list[Tensor]:
    """All numeric tensors of a network in order of depth, one entry per reading.

    Args:
        weights: an array, a mapping of names to arrays or `SpikeSlab`s, or any JAX
            parameter tree.
        key: a typed key; if given, every `SpikeSlab` is drawn once as well.
        important: boolean masks by name, such as those of the labels IMPORTANT.
            By default the published rule is used: π = 0 and Ξ = 0, exactly.

    Raises:
        ValueError: there are no numeric arrays, a number is complex, or a mask has
            another shape.
    """
    leaves = named_tensors(weights)
    masks = dict(important or {})
    spike_slabs = {name for name, leaf in leaves.items() if is_spike_slab(leaf)}
    unknown = sorted(set(masks) - spike_slabs)
    require(
        not unknown,
        "`important` must name `SpikeSlab`s of the network, "
        f"{sorted(spike_slabs)}; got {unknown}. Use the names of `weights`.",
    )
    keys = (
        [None] * len(leaves)
        if key is None
        else list(jax.random.split(key, len(leaves)))
    )
    tensors = []
    for (name, leaf), leaf_key in zip(leaves.items(), keys, strict=True):
        if is_spike_slab(leaf):
            readings = _spike_slab_readings(name, leaf, leaf_key, masks.get(name))
        else:
            readings = {"weights": np.asarray(leaf)}
        kind = _kind(name, leaf)
        tensors += [Tensor(name, v, kind, reading) for reading, v in readings.items()]
    return tensors


def named_tensors(weights: Any) -> dict[str, Any]:
    """Numeric arrays and `SpikeSlab`s of a network by path name, in order of depth.

    Mappings are read in their own order (JAX would sort the names, and put layer 10
    before layer 2); everything else in tree order. Leaves that are not numeric
    (activation functions, random keys, flags) are not weights and are left out.

    Raises:
        ValueError: there are no numeric arrays, or a number is complex.
    """
    tensors = {
        name or "weights": leaf
        for name, leaf in _leaves_in_order(weights).items()
        if is_spike_slab(leaf) or _is_numeric(leaf)
    }
    require(
        bool(tensors),
        "`weights` must hold at least one array of numbers; got none. Pass a mapping "
        "of names to arrays, a parameter tree, or `ensemble.weights()`.",
    )
    for name, leaf in tensors.items():
        require(
            not jnp.issubdtype(leaf.dtype, jnp.complexfloating),
            f"`weights` must be real; got complex numbers in {name!r}. Pass the real "
            "and the imaginary part as two arrays.",
        )
    return tensors


def parent_name(name: str) -> str:
    """Path of the layer that holds a tensor: ``layers/0`` of ``layers/0/weight``."""
    cut = max(name.rfind("/"), name.rfind("."))
    return name[:cut] if cut >= 0 else ""


def name_words(name: str) -> list[str]:
    """Words of a path in lower case, split at punctuation, digits and inner capitals.

    Example:
        >>> name_words("encoder/LayerNorm_0/ln1.weight_hh")
        ['encoder', 'layer', 'norm', 'ln', 'weight', 'hh']
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [word.lower() for word in words]


def is_embedding(name: str) -> bool:
    """Whether one of the words of a path is "embed" or "embedding"."""
    return any(re.fullmatch(EMBEDDING, word) for word in name_words(name))


def _leaves_in_order(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return named_leaves(tree, is_leaf=is_spike_slab)
    return {
        f"{name}/{inner}" if inner else str(name): leaf
        for name, part in tree.items()
        for inner, leaf in _leaves_in_order(part).items()
    }


def _is_numeric(leaf: Any) -> bool:
    if not isinstance(leaf, np.ndarray | jax.Array):
        return False
    return bool(jnp.issubdtype(leaf.dtype, jnp.number))


def _kind(name: str, leaf: Any) -> str:
    if leaf.ndim < 2:
        return "vector"
    return "embedding" if is_embedding(name) else "connections"


def _spike_slab_readings(
    name: str, weight: SpikeSlab, key: PRNGKeyArray | None, mask: Any
) -> dict[str, np.ndarray]:
    if mask is None:
        mask = (weight.spike_prob == 0) & (weight.slab_var == 0)
    mask = np.asarray(mask)
    require(
        mask.dtype == bool and mask.shape == weight.shape,
        f"`important` must hold boolean masks of the weight's shape {weight.shape}; "
        f"got {mask.dtype} of shape {mask.shape} for {name!r}. Compare the labels "
        "with Label.IMPORTANT first.",
    )
    readings = {
        "slab_mean": np.asarray(weight.slab_mean),
        "posterior_mean": np.asarray(weight.mean),
    }
    if key is not None:
        readings["drawn"] = np.asarray(weight.sample(key))
    readings["important"] = np.asarray(weight.slab_mean)[mask]
    return readings
