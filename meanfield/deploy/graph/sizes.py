"""Set the sizes that layers store beside their weights to those of the weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np


def resize_equinox(tree: Any) -> Any:
    """A copy in which layers of `equinox.nn` store the sizes of their arrays."""
    if isinstance(tree, eqx.Module):
        copy = object.__new__(type(tree))
        for field in dataclasses.fields(tree):
            value = getattr(tree, field.name, None)
            object.__setattr__(copy, field.name, resize_equinox(value))
        for name, size in _equinox_sizes(copy).items():
            object.__setattr__(copy, name, size)
        return copy
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(resize_equinox, tree))
    if type(tree) in (list, tuple):
        return type(tree)(map(resize_equinox, tree))
    if type(tree) is dict:
        return {key: resize_equinox(value) for key, value in tree.items()}
    return tree


def _equinox_sizes(layer: Any) -> dict[str, Any]:
    """Static sizes of one layer, whose parts already have the right sizes.

    Arrays of layers that are stacked for a loop have more axes in front. A weight that
    is not an array, such as a masked one, keeps its sizes.
    """
    if not hasattr(getattr(layer, "weight", np.zeros(0)), "shape"):
        return {}
    for kind, sizes in _EQUINOX.items():
        if isinstance(layer, kind):
            return sizes(layer)
    return {}


def _linear(layer: Any) -> dict[str, Any]:
    out, inputs = layer.weight.shape[-2:]
    sizes = {"out_features": out, "in_features": inputs}
    return {k: v for k, v in sizes.items() if getattr(layer, k) != "scalar"}


def _conv(layer: Any) -> dict[str, Any]:
    out, inputs = layer.weight.shape[-layer.num_spatial_dims - 2 :][:2]
    groups = _groups(layer.groups, layer.in_channels, layer.out_channels, out)
    return {"out_channels": out, "in_channels": inputs * groups, "groups": groups}


def _groups(groups: int, inputs: int, outputs: int, now: int) -> int:
    """Number of groups of a convolution that now has another number of outputs.

    Only if every input channel has one output channel does the number change: then each
    channel is a group. In other grouped convolutions no channel is removed.
    """
    return now if 1 < groups == inputs == outputs else groups


def _cell(layer: Any) -> dict[str, Any]:
    return {
        "input_size": layer.weight_ih.shape[-1],
        "hidden_size": layer.weight_hh.shape[-1],
    }


def _mlp(layer: Any) -> dict[str, Any]:
    sizes = {"in_size": layer.layers[0].in_features}
    sizes["out_size"] = layer.layers[-1].out_features
    # Hidden layers may now differ in width; the largest width is kept as `width_size`.
    widths = [part.out_features for part in layer.layers[:-1]]
    if widths:
        sizes["width_size"] = max(widths)
    return sizes


def _embedding(layer: Any) -> dict[str, Any]:
    return dict(
        zip(("num_embeddings", "embedding_size"), layer.weight.shape[-2:], strict=True)
    )


def _channels(layer: Any) -> dict[str, Any]:
    return {} if layer.weight is None else {"channels": layer.weight.shape[-1]}


def _batch_norm(layer: Any) -> dict[str, Any]:
    return {} if layer.weight is None else {"input_size": layer.weight.shape[0]}


def _attention(layer: Any) -> dict[str, Any]:
    return {
        "query_size": layer.query_proj.in_features,
        "key_size": layer.key_proj.in_features,
        "value_size": layer.value_proj.in_features,
        "output_size": layer.output_proj.out_features,
    }


_EQUINOX: dict[type, Callable[[Any], dict[str, Any]]] = {
    eqx.nn.Linear: _linear,
    eqx.nn.Conv: _conv,
    eqx.nn.ConvTranspose: _conv,
    eqx.nn.GRUCell: _cell,
    eqx.nn.LSTMCell: _cell,
    eqx.nn.MLP: _mlp,
    eqx.nn.Embedding: _embedding,
    eqx.nn.GroupNorm: _channels,
    eqx.nn.BatchNorm: _batch_norm,
    eqx.nn.MultiheadAttention: _attention,
}


def resize_nnx(model: Any) -> Any:
    """Set the sizes of the layers of `flax.nnx` in place, and return the model."""
    from flax import nnx

    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, nnx.Linear):
            layer.in_features, layer.out_features = _shape(layer.kernel)
        elif isinstance(layer, nnx.Conv):
            kernel = layer.kernel_shape = _shape(layer.kernel)
            groups = layer.feature_group_count = _groups(
                layer.feature_group_count,
                layer.in_features,
                layer.out_features,
                kernel[-1],
            )
            layer.in_features, layer.out_features = kernel[-2] * groups, kernel[-1]
        elif isinstance(layer, nnx.BatchNorm):
            layer.num_features = _shape(layer.mean)[0]
        elif isinstance(layer, nnx.Embed):
            layer.num_embeddings, layer.features = _shape(layer.embedding)
    # A cell takes its sizes from its dense layers, whose sizes are set by now.
    modules = [n for _, n in nnx.iter_graph(model) if isinstance(n, nnx.Module)]
    cell: Any
    for cell in modules:  # `nnx.Rngs` is no cell, but has every attribute.
        for inner, outer in (("dense_h", "dense_i"), ("hi", "ii")):
            if hasattr(cell, "hidden_features") and hasattr(cell, inner):
                cell.hidden_features = getattr(cell, inner).in_features
                cell.in_features = getattr(cell, outer).in_features
    return model


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(parameter[...].shape)


def resized_apply(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`resized_linen` for the `apply` of a Flax Linen module; else the function."""
    module = getattr(apply_fn, "__self__", None)
    own = getattr(apply_fn, "__name__", "") == "apply" and _is_linen(module)
    return resized_linen(apply_fn) if own else apply_fn


def resized_linen(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls a Flax Linen module, changed to accept smaller arrays.

    A Linen layer compares its fixed number of features with its arrays; here it takes
    the number from the arrays instead.
    """
    from flax import linen

    def adapt(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer, arrays = context.module, context.module.variables.get("params", {})
        if isinstance(layer, linen.Dense | linen.Conv) and "kernel" in arrays:
            kernel = arrays["kernel"].shape
            if isinstance(layer, linen.Conv):
                inputs = kernel[-2] * layer.feature_group_count
                groups = _groups(
                    layer.feature_group_count, inputs, layer.features, kernel[-1]
                )
                object.__setattr__(layer, "feature_group_count", groups)
            object.__setattr__(layer, "features", kernel[-1])
        if isinstance(layer, linen.Embed) and "embedding" in arrays:
            object.__setattr__(layer, "features", arrays["embedding"].shape[-1])
        return call(*args, **kwargs)

    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        with linen.intercept_methods(adapt):
            return apply_fn(variables, *args, **kwargs)

    return apply


def _is_linen(module: Any) -> bool:
    return any(
        base.__module__.startswith("flax.linen") for base in type(module).__mro__
    )
