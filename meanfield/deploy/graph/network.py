"""A network of any kind seen as named arrays and a function of a batch.

An Equinox module, a Flax NNX module, and a pair ``(apply_fn, params)`` differ in how
they are called and taken apart. Everything after this module sees one shape of thing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.trees import map_named, named_leaves

from .sizes import resize_equinox, resize_nnx, resized_apply

Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model taken apart.

    Args:
        arrays: its arrays by path, such as ``layers/0/weight``.
        apply: ``apply(arrays, x)``, the outputs for a batch x.
        rebuild: ``rebuild(arrays)``, a model of the same kind with these arrays,
            whose shapes may differ from the old ones.
    """

    arrays: dict[str, Any]
    apply: Callable[[Arrays, Any], Any]
    rebuild: Callable[[Arrays], Any]

    def __call__(self, x: Any) -> Any:
        """Outputs for a batch x."""
        return self.apply(self.arrays, x)


def as_network(model: Any) -> Network:
    """Take a model apart.

    Args:
        model: an Equinox module (acts on one example), a Flax NNX module or a pair
            ``(apply_fn, params)`` (these take the batch).

    Raises:
        ValueError: the model is none of these.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        return _from_function(*model)
    if isinstance(model, eqx.Module):
        return _from_equinox(model)
    if _is_nnx(model):
        return _from_nnx(model)
    raise ValueError(
        "`model` must be an Equinox module, a Flax NNX module or a pair "
        f"(apply_fn, params); got {type(model).__name__}. Wrap a plain function as "
        "(apply_fn, params) with apply_fn(params, x) on a batch x."
    )


def put_arrays(tree: Any, arrays: Arrays) -> Any:
    """A copy of a tree whose leaves named in `arrays` are replaced.

    Raises:
        ValueError: a name is no leaf of the tree.
    """
    unknown = sorted(set(arrays) - set(named_leaves(tree)))
    require(
        not unknown,
        f"`arrays` names leaves that the model does not have: {unknown[:5]}. Use the "
        "paths of the model the weights were learned for.",
    )
    return map_named(lambda name, leaf: arrays.get(name, leaf), tree)


def is_array(leaf: Any) -> bool:
    """Whether a leaf holds numbers (a random key holds none)."""
    return isinstance(leaf, jax.Array | np.ndarray) and not jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _numbers(tree: Any) -> dict[str, Any]:
    return {k: leaf for k, leaf in named_leaves(tree).items() if is_array(leaf)}


def _from_equinox(model: Any) -> Network:
    def apply(arrays: Arrays, x: Any) -> Any:
        # Dropout and its kin must be silent in a network that ships.
        network = eqx.nn.inference_mode(put_arrays(model, arrays))
        return jax.vmap(network)(x)

    def rebuild(arrays: Arrays) -> Any:
        return resize_equinox(put_arrays(model, arrays))

    return Network(_numbers(model), apply, rebuild)


def _from_function(apply_fn: Callable[..., Any], params: Any) -> Network:
    def apply(arrays: Arrays, x: Any) -> Any:
        return apply_fn(put_arrays(params, arrays), x)

    def rebuild(arrays: Arrays) -> Any:
        return resized_apply(apply_fn), put_arrays(params, arrays)

    return Network(_numbers(params), apply, rebuild)


def _is_nnx(model: Any) -> bool:
    # An object of Flax can exist only where Flax is installed.
    if not any(base.__module__.startswith("flax.nnx") for base in type(model).__mro__):
        return False
    from flax import nnx

    return isinstance(model, nnx.Module)


def _from_nnx(model: Any) -> Network:
    from flax import nnx

    definition, state = nnx.split(model)
    pure = nnx.to_pure_dict(state)

    def merged(arrays: Arrays) -> Any:
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, put_arrays(pure, arrays))
        return nnx.merge(definition, filled)

    def apply(arrays: Arrays, x: Any) -> Any:
        network = merged(arrays)
        network.eval()
        return network(x)

    def rebuild(arrays: Arrays) -> Any:
        return resize_nnx(merged(arrays))

    return Network(_numbers(pure), apply, rebuild)
