"""Turn the arrays of an opened model into distributions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.propagation.transformation import Noise
from meanfield.trees import map_named, named_leaves

from .frozen import Where
from .initial import (
    Initial,
    choose_initial,
    fan_ins_by_example,
    from_weights,
    input_axes,
    model_fan_ins,
    share_spikes,
)
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
        opened: the same, taken apart.
        frozen: path names of further arrays that stay as they are.
        key: as for `Ensemble.from_model`, like the five that follow.
        initial: as there.
        where: as there.
        spikes: as there.
        example: as there.
        noise: as there.

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
    seed = jax.random.key(0) if key is None else key
    keys = dict(zip(selected, jax.random.split(seed, len(selected)), strict=True))

    def convert(name: str, leaf: Any) -> Any:
        if name not in keys:
            return leaf
        if name not in fans:  # A bias or a scale has no fan-in.
            return from_weights()(name, leaf, 1, keys[name])
        weight = start(name, leaf, fans[name], keys[name])
        return share_spikes(weight, units[name]) if name in units else weight

    return map_named(convert, params)


def _describe(params: Any) -> str:
    arrays = {
        name: f"{leaf.dtype}{list(leaf.shape)}"
        for name, leaf in named_leaves(params).items()
        if eqx.is_array(leaf)
    }
    return str(arrays) if arrays else "none"
