"""Choose connections of each label at random, and change them in a sub-network.

The candidates of an arm (see `perturbation`) are put in random order; to change n of
them is to change the first n.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named

from .labels import ConnectionLabels, Label


def candidates_of(
    labels: ConnectionLabels, layers: Sequence[str], arm: str
) -> dict[str, Bool[np.ndarray, "..."]]:
    """By layer, a mask of the connections that an arm may change."""
    found = {}
    for name in layers:
        array = labels.labels[name]
        found[name] = (
            np.ones(array.shape, bool)
            if arm == "random"
            else array == Label[arm.upper()]
        )
        if labels.never_learned is not None:
            found[name] = found[name] & ~labels.never_learned[name]
    return found


def numbers_of(
    labels: ConnectionLabels, name: str, arm: str, fractions: Sequence[float | int]
) -> Int[np.ndarray, " fractions"]:
    """Number of connections of a layer that an arm changes at every fraction."""
    reference = "absent" if arm == "absent" else "important"
    total = int(candidates_of(labels, [name], reference)[name].sum())
    available = int(candidates_of(labels, [name], arm)[name].sum())
    # The small term keeps rounding from making ⌊0.3 · 10⌋ equal to 2.
    wanted = [math.floor(f * total + 1e-9) for f in fractions]
    return np.minimum(wanted, available)


def fresh_scale(weight: SpikeSlab, absent_scale: float | None) -> float:
    """s of `perturbation`; by default √⟨(1 − π)(Ξ + m²)⟩ over connections of π < 1."""
    if absent_scale is not None:
        return absent_scale
    square = np.square(weight.mean) + np.asarray(weight.var)
    present = np.asarray(weight.inclusion_prob) > 0
    return float(np.sqrt(square[present].mean())) if present.any() else 0.0


@eqx.filter_jit
def draw_changes(
    candidates: Mapping[str, Any],
    scales: Mapping[str, Array],
    randomise: bool,
    key: PRNGKeyArray,
) -> dict[str, tuple[Array, Array]]:
    """By layer, the ranks of connections in the order of changes, and new values."""
    changes = {}
    for number, (name, mask) in enumerate(candidates.items()):
        order_key, value_key = jax.random.split(jax.random.fold_in(key, number))
        mask = jnp.asarray(mask)
        shuffled = jax.random.permutation(order_key, mask.size)
        # A stable sort of the shuffled connections, candidates first.
        order = shuffled[jnp.argsort(~mask.ravel()[shuffled], stable=True)]
        turn = jnp.zeros(mask.size, jnp.int32).at[order].set(jnp.arange(mask.size))
        noise = jax.random.normal(value_key, mask.shape) * scales[name]
        changes[name] = turn.reshape(mask.shape), noise * randomise
    return changes


@eqx.filter_jit
def apply_changes(
    params: Any,
    changes: Mapping[str, tuple[Array, Array]],
    numbers: Mapping[str, Array],
) -> Any:
    """Change the first `numbers[name]` connections of each layer of a sub-network."""

    def change(name: str, leaf: Any) -> Any:
        if name not in changes:
            return leaf
        turn, value = changes[name]
        return jnp.where(turn < numbers[name], value.astype(leaf.dtype), leaf)

    return map_named(change, params)
