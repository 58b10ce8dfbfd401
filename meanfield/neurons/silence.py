r"""Units that are silent: their incoming connections and biases are cut.

A silent unit sends what its activation gives at 0 (0 for ReLU, tanh, GELU, SiLU), the
same for every input. It hears nothing, so that a unit outside a coalition is really
absent from the network: its incoming weights are absent for certain (π = 1), and
`meanfield.deploy.shrink` removes it.
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
        masks: for a layer, the units that act.
        sources: for a layer, the parameters that feed its units.
        forget: whether the slabs of what is cut become 0 as well. Otherwise they wait
            for the unit to come back.
    """
    cuts: dict[str, list[tuple[int, Any]]] = {}
    for layer, mask in masks.items():
        # The last entry, number −1, stands for what belongs to no unit.
        acting = jnp.append(jnp.asarray(mask), True)
        for name, source in sources[layer].items():
            cuts.setdefault(name, []).append(
                (source.axis, acting[np.array(source.owner)])
            )

    def cut(name: str, leaf: Any) -> Any:
        for axis, acting in cuts.get(name, ()):
            leaf = _cut(leaf, axis, acting, forget)
        return leaf

    params = map_named(cut, ensemble.params, is_spike_slab)
    return eqx.tree_at(lambda e: e.params, ensemble, params)


def _cut(leaf: Any, axis: int, acting: Any, forget: bool) -> Any:
    shape = [1] * len(leaf.shape)
    shape[axis] = -1
    acting = acting.reshape(shape)

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
    """Refuse a layer whose units still say something when they are silenced.

    Raises:
        ValueError: the silenced units vary from example to example, or are not finite.
    """
    nothing = {layer: np.zeros(units.size, bool)}
    silent = silence(ensemble, nothing, {layer: units.sources})
    value = np.asarray(activations(program, silent.mean_params(), x, units))
    constant = np.isfinite(value).all() and (value == value[:1, :1]).all()
    require(
        bool(constant),
        f"the units of layer {layer!r} cannot be silenced: with their own weights and "
        "biases cut they still depend on the input (something else is added to them, "
        "or divides by a parameter). Leave that layer out of `layers`.",
    )
