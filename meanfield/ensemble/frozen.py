"""Parameters that an ensemble leaves as they are, by path name."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
from jaxtyping import Array

from meanfield.checks import require
from meanfield.trees import is_inside, named_leaves

Where = Callable[[str, Array], bool]
Frozen = str | Sequence[str] | Where


def frozen_names(params: Any, frozen: Frozen) -> tuple[str, ...]:
    """Path names of the arrays that `frozen` names or accepts.

    Args:
        params: a tree of parameters.
        frozen: as for `Ensemble.from_model`.

    Raises:
        ValueError: a name matches no array.
    """
    # If the parameters are a single array, its path is empty and its name `params`.
    arrays = {n: leaf for n, leaf in named_leaves(params).items() if eqx.is_array(leaf)}
    if callable(frozen):
        return tuple(name for name, leaf in arrays.items() if frozen(name, leaf))
    begins = (frozen,) if isinstance(frozen, str) else tuple(frozen)

    for begin in begins:
        require(
            any(is_inside(name or "params", begin) for name in arrays),
            f"`frozen` must name parameters of the model; {begin!r} is neither the "
            f"name of one nor a beginning of it. The names are {sorted(arrays)}.",
        )
    return tuple(
        n for n in arrays if any(is_inside(n or "params", begin) for begin in begins)
    )
