r"""Silent units: units without incoming connections and bias.

The pre-activation of a silent unit is 0, so its output is the same for every input: 0
for ReLU, tanh, GELU and SiLU. A unit outside a coalition is thus absent from the
network: its incoming weights have π = 1, and `meanfield.deploy.shrink` removes it.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.program.sources import UnitSource
from meanfield.program.steps import Program
from meanfield.program.units import Units
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named


def silence(
    ensemble: Ensemble,
    masks: Mapping[str, Bool[Any, " units"]],
    sources: Mapping[str, Mapping[str, UnitSource]],
    *,
    forget: bool = False,
) -> Ensemble:
    """The ensemble in which the units outside the masks are silent.

    Args:
        ensemble: a network and its weights.
        masks: by layer, the units that stay active.
        sources: by layer, the parameters that feed its units.
        forget: whether the slabs of the removed weights are set to 0 too. Otherwise the
            slabs are kept, so that the unit can become active again.
    """
    cuts: dict[str, list[tuple[UnitSource, Any]]] = {}
    for layer, mask in masks.items():
        # The last entry, index −1, stands for parameters that belong to no unit.
        acting = jnp.append(jnp.asarray(mask), True)
        for name, source in sources[layer].items():
            cuts.setdefault(name, []).append((source, acting[np.array(source.owner)]))

    def cut(name: str, leaf: Any) -> Any:
        for source, acting in cuts.get(name, ()):
            leaf = _cut(leaf, source, acting, forget)
        return leaf

    params = map_named(cut, ensemble.params, is_spike_slab)
    return eqx.tree_at(lambda e: e.params, ensemble, params)


def _cut(leaf: Any, source: UnitSource, acting: Any, forget: bool) -> Any:
    shape = [1] * len(leaf.shape)
    shape[source.axis + (source.row is not None)] = -1
    acting = acting.reshape(shape)
    if source.row is not None:
        others = np.arange(leaf.shape[0]) != source.row
        acting = acting | others.reshape(-1, *[1] * (len(shape) - 1))

    def keep(array: Shaped[Array, "..."], other: int) -> Array:
        return jnp.where(acting, array, jnp.asarray(other, array.dtype))

    if not is_spike_slab(leaf):
        return keep(leaf, 0)
    rest = (leaf.slab_mean, leaf.slab_var)
    if forget:
        rest = tuple(keep(array, 0) for array in rest)
    return SpikeSlab(keep(leaf.spike_prob, 1), *rest)


def activations(
    program: Program, params: Any, x: Any, units: Units
) -> Shaped[Array, "examples positions units"]:
    """Activations of the units of a layer, at the positions of each example."""

    assert units.place is not None
    place = units.place

    @eqx.filter_jit
    def read(params: Any, x: Any) -> Array:
        values = program.advance(program.start(params, x))
        value = jnp.moveaxis(values[place], units.axis, -1)
        return value.reshape(value.shape[0], -1, units.size)

    return read(params, x)


def check_silent(
    ensemble: Ensemble, program: Program, units: Units, layer: str, x: Any
) -> None:
    """Raise if silenced units of a layer still depend on the input.

    Raises:
        ValueError: the outputs of silenced units vary between examples, or are not
            finite.
    """
    nothing = {layer: np.zeros(units.size, bool)}
    silent = silence(ensemble, nothing, {layer: units.sources})
    value = np.asarray(activations(program, silent.mean_params(), x, units))
    constant = np.isfinite(value).all() and (value == value[:1, :1]).all()
    require(
        bool(constant),
        f"the units of layer {layer!r} cannot be silenced: without their own weights "
        "and biases they still depend on the input (another value is added to the "
        "units, or they are divided by a parameter). Leave that layer out of "
        "`layers`.",
    )
