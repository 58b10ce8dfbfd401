"""Turn the arrays of an opened model into distributions."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from meanfield.checks import require
from meanfield.propagation.noise_kinds import Noise
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named, named_leaves

from .fan_ins import fan_ins_by_example, input_axes, model_fan_ins
from .frozen import Where
from .initial import Initial, choose_initial, from_weights, share_spikes
from .opened import OpenedModel


def random_weights(
    model: Any,
    opened: OpenedModel,
    frozen: tuple[str, ...],
    *,
    key: Any,
    initial: Initial | str | None,
    where: Where | None,
    spikes: str,
    example: Any,
    noise: Noise,
) -> Any:
    """The parameters of a model, with a `SpikeSlab` for every chosen array.

    Args:
        model: the model.
        opened: the same model, split by `open_model`.
        frozen: path names of further arrays that stay as they are.
        key: as for `Ensemble.from_model`.
        initial: as for `Ensemble.from_model`.
        where: as for `Ensemble.from_model`.
        spikes: as for `Ensemble.from_model`.
        example: as for `Ensemble.from_model`.
        noise: as for `Ensemble.from_model`.

    Raises:
        ValueError: as for `Ensemble.from_model`.
    """
    params = opened.params
    start = choose_initial(initial, key)
    chosen = where or (lambda name, array: array.ndim >= 2)
    require(
        spikes in ("connection", "unit"),
        f"`spikes` must be 'connection' or 'unit'; got {spikes!r}.",
    )
    units = {}
    if spikes == "unit":
        units = input_axes(params, opened.kind == "equinox")
    selected = [
        name
        for name, leaf in named_leaves(params).items()
        if eqx.is_inexact_array(leaf)
        and name not in (*opened.frozen, *frozen)
        and chosen(name, leaf)
    ]
    require(
        bool(selected),
        "`model` has no weight to make random: no floating-point array of two or more "
        "dimensions is left that `frozen` does not name (with `where`: none that it "
        f"accepts); its arrays are {_describe(params)}. Check the model, or pass "
        "`where`.",
    )
    leaves = named_leaves(params)
    narrow = [name for name in selected if leaves[name].dtype == jnp.float16]
    require(
        not narrow,
        f"`model` must not have float16 weights, whose variances are outside the "
        f"range of float16; got {narrow}. Convert them to float32, or to bfloat16, "
        "which has the range of float32.",
    )
    fans = model_fan_ins(model, opened)
    if example is not None:
        fans |= fan_ins_by_example(opened.apply_fn, params, selected, example, noise)
    arrays = {name: leaves[name] for name in selected}
    plan = tuple((name, fans.get(name), units.get(name)) for name in selected)
    if callable(initial):  # A user's own function may not be compilable.
        made = _weights(arrays, key, start, plan)
    else:
        made = _compiled_weights(arrays, key, start, plan)
        # Numbers that are not finite raise an error here, because traced code cannot
        # check them.
        made = {
            name: SpikeSlab(w.spike_prob, w.slab_mean, w.slab_var)
            for name, w in made.items()
        }
    return map_named(lambda name, leaf: made.get(name, leaf), params)


# For every array its name, its fan-in or None, and the axis of its input units if each
# of these has one spike, else None.
Plan = tuple[tuple[str, int | float | None, int | None], ...]


def _weights(
    arrays: Mapping[str, Array], key: Any, start: Initial, plan: Plan
) -> dict[str, SpikeSlab]:
    """The distribution of every array."""
    seed = jax.random.key(0) if key is None else key
    keys, made = jax.random.split(seed, len(plan)), {}
    for number, (name, fan_in, axis) in enumerate(plan):
        # A bias or a scale has no fan-in.
        own = from_weights() if fan_in is None else start
        made[name] = own(name, arrays[name], fan_in or 1, keys[number])
        if fan_in is not None and axis is not None:
            made[name] = share_spikes(made[name], axis)
    return made


_compiled_weights = jax.jit(_weights, static_argnums=(2, 3))


def _describe(params: Any) -> str:
    arrays = {
        name: f"{leaf.dtype}{list(leaf.shape)}"
        for name, leaf in named_leaves(params).items()
        if eqx.is_array(leaf)
    }
    return str(arrays) if arrays else "none"
