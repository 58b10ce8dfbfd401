"""A network of any framework as named arrays and a function of a batch.

An exported network runs in inference mode, and its arrays may have been shrunk.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.ensemble.frameworks import Call, open_model
from meanfield.ensemble.opened import Modes, OpenedModel
from meanfield.trees import map_named, named_leaves

from .sizes import resize_equinox, resize_nnx, resized_apply, resized_linen

Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model taken apart.

    Args:
        arrays: its arrays by path, such as ``layers/0/weight``.
        apply: ``apply(arrays, x)``, the outputs for a batch x.
        rebuild: ``rebuild(arrays)``, a model of the same kind with these arrays,
            whose shapes may differ from the old ones.
        call: how the module from `rebuild` is called, if not as ``module(x)``.
        fixed_sizes: whether the model's layers take no smaller arrays.
        graphs: its graphs by shape and type of an example, staged when first needed.
    """

    arrays: dict[str, Any]
    apply: Callable[[Arrays, Any], Any]
    rebuild: Callable[[Arrays], Any]
    call: Call | None = None
    fixed_sizes: bool = False
    graphs: dict[Any, Any] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def __call__(self, x: Any) -> Any:
        """Outputs for a batch x."""
        return self.apply(self.arrays, x)


def as_network(model: Any, call: Call | None = None) -> Network:
    """Take a model apart, for running in inference mode.

    Args:
        model: as for `Ensemble.from_model`.
        call: as for `Ensemble.from_model`.

    Raises:
        UnknownModelError: the model is of no supported kind.
    """
    if isinstance(model, Network):
        return model
    opened = open_model(model, call)
    numbers = {k: v for k, v in named_leaves(opened.params).items() if is_array(v)}

    def apply(arrays: Arrays, x: Any) -> Any:
        return opened.apply_fn(put_arrays(opened.params, arrays), x)

    def rebuild(arrays: Arrays) -> Any:
        params = put_arrays(opened.params, arrays)
        if opened.kind == "linen":  # A Linen module does not take smaller arrays.
            return _resize_linen(opened), params
        return _RESIZED[opened.kind](opened.rebuild(params))

    call = None if opened.kind == "linen" else call
    return Network(numbers, apply, rebuild, call, opened.kind == "keras")


def put_arrays(tree: Any, arrays: Arrays) -> Any:
    """A copy of a tree whose leaves named in `arrays` are replaced.

    Raises:
        ValueError: a name is not that of a leaf of the tree.
    """
    unknown = sorted(set(arrays) - set(named_leaves(tree)))
    require(
        not unknown,
        f"`arrays` must have the names of leaves of the model; got {unknown[:5]}. Use "
        "the paths of the model whose weights were learned.",
    )
    return map_named(lambda name, leaf: arrays.get(name, leaf), tree)


def is_array(leaf: Any) -> bool:
    """Whether a leaf holds numbers, or their shape (a random key holds none)."""
    arrays = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    return isinstance(leaf, arrays) and not jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _resize_linen(opened: OpenedModel) -> Callable[..., Any]:
    infer = resized_linen(opened.apply_fn)
    if opened.training is None:
        return infer
    train = resized_linen(opened.training.apply)
    return Modes(infer, train, opened.training.moving)


def _resize_pair(pair: tuple[Callable[..., Any], Any]) -> Any:
    apply_fn, params = pair
    return resized_apply(apply_fn), params


# Set the sizes that a framework stores beside its arrays to those of the arrays.
_RESIZED: dict[str, Callable[[Any], Any]] = {
    "equinox": resize_equinox,
    "nnx": resize_nnx,
    "keras": lambda model: model,
    "function": _resize_pair,
}
