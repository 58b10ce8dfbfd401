r"""Scores of units: how much each one matters to the outputs of the mean network.

With a gate s_j = 1 on every connection that leaves unit j,

    r_j = √⟨(∂ ln P(y | x)/∂s_j)²⟩,

with ⟨·⟩ the mean over examples: r_j is small if removing the unit changes no output. A
unit that helps some examples as much as it harms others has ⟨∂ ln P/∂s_j⟩ ≈ 0 and a
large r_j.

Reference:
    Molchanov et al. 2019, arXiv:1906.10771 (the squared sensitivity of a unit).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.targets import log_prob
from meanfield.program.entries import Entries, incoming_entries, outgoing_entries
from meanfield.program.steps import trace
from meanfield.program.units import layer_names, units_or_none
from meanfield.trees import map_named

# Examples in memory at once.
CHUNK = 256
# Smallest fraction of all weights that a layer must have for its units to be removed.
LARGE = 0.2


def removable_units(ensemble: Ensemble, x: Any) -> dict[str, list[Entries]]:
    """The outgoing connections of the units that may be removed, by layer.

    Removable units are dense units or channels of large layers outside of loops, whose
    activations only enter products with the ensemble's random weights. A layer with
    less than a fifth of all weights keeps its units, because their removal saves
    little. Layers with shared spikes are left out: their spikes remove units
    themselves.

    Args:
        ensemble: the ensemble.
        x: a batch of inputs.

    Returns:
        By layer, the entries of the weights that multiply each unit.
    """
    program = trace(ensemble.apply_fn, ensemble.mean_params(), x)
    random, found = ensemble.weights(), {}
    for layer in layer_names(program):
        units = units_or_none(program, layer)
        if units is None or units.bodies or not units.reads:
            continue
        if any(read.others or not read.products for read in units.reads):
            continue
        parts, own = outgoing_entries(program, units), incoming_entries(program, units)
        size = sum(part.places.size for part in own)
        if size < LARGE * ensemble.num_weights:
            continue
        names = {part.name for part in (*parts, *own)}
        if names <= set(random) and not any(random[name].shared for name in names):
            found[layer] = parts
    return found


def count_units(layers: dict[str, list[Entries]]) -> dict[str, int]:
    """Number of units of each layer."""
    return {
        name: 1 + max(int(part.owner.max()) for part in parts)
        for name, parts in layers.items()
    }


def unit_scores(
    ensemble: Ensemble,
    likelihood: Any,
    data: tuple[Any, Any],
    layers: dict[str, list[Entries]],
) -> dict[str, Float[np.ndarray, " units"]]:
    """r of every unit, in nats, by layer.

    Args:
        ensemble: the ensemble, whose network of posterior means is used.
        likelihood: map from outputs to a distribution.
        data: inputs and targets.
        layers: the result of `removable_units`.
    """
    sizes = count_units(layers)
    gates = {name: jnp.ones(size) for name, size in sizes.items()}
    means = {name: weight.mean for name, weight in ensemble.weights().items()}

    def log_likelihood(gates: dict[str, Array], x: Any, y: Any) -> Array:
        gated = dict(means)
        for name, parts in layers.items():
            for part in parts:
                factor = jnp.ones(means[part.name].size)
                factor = factor.at[part.places].set(gates[name][part.owner][:, None])
                gated[part.name] *= factor.reshape(means[part.name].shape)
        params = map_named(
            lambda name, leaf: gated.get(name, leaf), ensemble.mean_params()
        )
        one_x, one_y = jax.tree.map(lambda leaf: leaf[None], (x, y))
        return log_prob(likelihood, ensemble.apply_fn(params, one_x), one_y).sum()

    @eqx.filter_jit
    def squares(x: Any, y: Any) -> dict[str, Array]:
        gradients = jax.vmap(jax.grad(log_likelihood), (None, 0, 0))(gates, x, y)
        return {name: jnp.square(g).sum(0) for name, g in gradients.items()}

    x, y = data
    number = len(jax.tree.leaves(x)[0])
    totals = {name: np.zeros(size) for name, size in sizes.items()}
    for start in range(0, number, CHUNK):
        rows = slice(start, start + CHUNK)
        part = jax.tree.map(lambda leaf, r=rows: jnp.asarray(leaf[r]), (x, y))
        for name, total in squares(*part).items():
            totals[name] += np.asarray(total)
    return {name: np.sqrt(total / number) for name, total in totals.items()}
