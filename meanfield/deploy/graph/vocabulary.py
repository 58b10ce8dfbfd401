"""JAX's primitives in the vocabulary of `numpy_runtime`.

Each entry maps the parameters of an equation to an operation and its settings, which
JSON can hold, or to None if the vocabulary has no such operation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from meanfield.deploy.formats.numpy_runtime import OPERATIONS
from meanfield.program.primitives import ENTRYWISE

Portable = tuple[str, dict[str, Any]] | None
Params = Mapping[str, Any]

PASS_THROUGH = frozenset(
    {"stop_gradient", "copy", "copy_p", "sharding_constraint", "optimization_barrier"}
)

ELEMENTWISE = frozenset({*(ENTRYWISE & OPERATIONS.keys()), "select", "cast"})

REDUCTIONS = frozenset({"sum", "prod", "amax", "amin", "any", "all"})


def _named(op: str) -> Callable[[Params, Any], Portable]:
    return lambda params, eqn: (op, {})


def _round(params: Params, eqn: Any) -> Portable:
    # JAX's method 1 rounds halves to even, as NumPy and ONNX do; they have no other.
    return ("round", {}) if int(params["rounding_method"]) == 1 else None


def _logical(op: str) -> Callable[[Params, Any], Portable]:
    def convert(params: Params, eqn: Any) -> Portable:
        return (op, {}) if eqn.outvars[0].aval.dtype == np.bool_ else None

    return convert


def _select(params: Params, eqn: Any) -> Portable:
    two = len(eqn.invars) == 3 and eqn.invars[0].aval.dtype == np.bool_
    return ("select", {}) if two else None


def _axes(op: str) -> Callable[[Params, Any], Portable]:
    return lambda params, eqn: (op, {"axes": _ints(params["axes"])})


def _arg(op: str) -> Callable[[Params, Any], Portable]:
    def convert(params: Params, eqn: Any) -> Portable:
        if len(params["axes"]) != 1:
            return None
        dtype = str(np.dtype(params["index_dtype"]))
        return op, {"axis": int(params["axes"][0]), "dtype": dtype}

    return convert


def _broadcast(params: Params, eqn: Any) -> Portable:
    axes = _ints(params["broadcast_dimensions"])
    return "broadcast", {"shape": list(params["shape"]), "axes": axes}


def _reshape(params: Params, eqn: Any) -> Portable:
    if params.get("dimensions") is not None:
        return None
    return "reshape", {"shape": list(params["new_sizes"])}


def _slice(params: Params, eqn: Any) -> Portable:
    # An axis of symbolic size (the batch) can only be taken as a whole.
    sizes = eqn.invars[0].aval.shape
    start, stop = list(params["start_indices"]), list(params["limit_indices"])
    step = list(params["strides"] or [1] * len(start))
    for axis, size in enumerate(sizes):
        if not isinstance(size, int):
            if str(stop[axis]) != str(size) or str(start[axis]) != "0":
                return None
            start[axis], stop[axis] = 0, 2**31 - 1
    return "cut", {"start": _ints(start), "stop": _ints(stop), "step": _ints(step)}


def _pad(params: Params, eqn: Any) -> Portable:
    config = [tuple(_ints(entry)) for entry in params["padding_config"]]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        return None
    return "pad", {"widths": [[low, high] for low, high, _ in config]}


def _dot(params: Params, eqn: Any) -> Portable:
    contract, batch = params["dimension_numbers"]
    return "dot", {
        "contract": [_ints(axes) for axes in contract],
        "batch": [_ints(axes) for axes in batch],
    }


def _conv(params: Params, eqn: Any) -> Portable:
    if params["batch_group_count"] != 1:
        return None
    if any(low < 0 or high < 0 for low, high in params["padding"]):
        return None
    numbers = params["dimension_numbers"]
    return "conv", {
        "layout": [
            _ints(numbers.lhs_spec),
            _ints(numbers.rhs_spec),
            _ints(np.argsort(numbers.out_spec).tolist()),
        ],
        "strides": _ints(params["window_strides"]),
        "padding": [_ints(pair) for pair in params["padding"]],
        "spread": _ints(params["lhs_dilation"]),
        "dilation": _ints(params["rhs_dilation"]),
        "groups": int(params["feature_group_count"]),
    }


def _gather(params: Params, eqn: Any) -> Portable:
    """Look-up of whole slices along one axis, as an embedding does."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    table, indices = (var.aval for var in eqn.invars)
    cut = [a for a, size in enumerate(sizes) if size != table.shape[a]]
    ends = range(indices.ndim - 1, eqn.outvars[0].aval.ndim)
    usual = not (numbers.operand_batching_dims or numbers.start_indices_batching_dims)
    if len(cut) != 1 or sizes[cut[0]] != 1 or not usual:
        return None
    (axis,) = cut
    if tuple(numbers.offset_dims) != tuple(ends) or axis not in numbers.start_index_map:
        return None
    collapsed = tuple(numbers.collapsed_slice_dims)
    if collapsed not in ((), (axis,)):
        return None
    column = list(numbers.start_index_map).index(axis)
    return "take", {"axis": axis, "column": column, "keep": not collapsed}


def _pool(kind: str) -> Callable[[Params, Any], Portable]:
    def convert(params: Params, eqn: Any) -> Portable:
        if any(d != 1 for d in params["base_dilation"]):
            return None
        return "pool", {
            "kind": kind,
            "sizes": _ints(params["window_dimensions"]),
            "strides": _ints(params["window_strides"]),
            "padding": [_ints(pair) for pair in params["padding"]],
            "dilation": _ints(params["window_dilation"]),
        }

    return convert


def _ints(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


PRIMITIVES: dict[str, Callable[[Params, Any], Portable]] = {
    **{
        name: _named(name)
        for name in ELEMENTWISE - {"select", "cast", "round", "and", "or", "not"}
    },
    "integer_pow": lambda params, eqn: ("integer_pow", {"y": int(params["y"])}),
    "add_any": _named("add"),
    "and": _logical("and"),
    "or": _logical("or"),
    "not": _logical("not"),
    "round": _round,
    "select_n": _select,
    "convert_element_type": lambda params, eqn: (
        "cast",
        {"dtype": str(np.dtype(params["new_dtype"]))},
    ),
    "reduce_sum": _axes("sum"),
    "reduce_prod": _axes("prod"),
    "reduce_max": _axes("amax"),
    "reduce_min": _axes("amin"),
    "reduce_or": _axes("any"),
    "reduce_and": _axes("all"),
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": lambda params, eqn: (
        "transpose",
        {"axes": _ints(params["permutation"])},
    ),
    "squeeze": lambda params, eqn: ("squeeze", {"axes": _ints(params["dimensions"])}),
    "rev": lambda params, eqn: ("reverse", {"axes": _ints(params["dimensions"])}),
    "slice": _slice,
    "concatenate": lambda params, eqn: (
        "concatenate",
        {"axis": int(params["dimension"])},
    ),
    "stack": lambda params, eqn: ("stack", {"axis": int(params["axis"])}),
    "unstack": lambda params, eqn: ("unstack", {"axis": int(params["axis"])}),
    "tile": lambda params, eqn: ("tile", {"reps": _ints(params["reps"])}),
    "split": lambda params, eqn: (
        "split",
        {"axis": int(params["axis"]), "sizes": _ints(params["sizes"])},
    ),
    "pad": _pad,
    "gather": _gather,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_max": _pool("max"),
    "reduce_window_min": _pool("min"),
    "reduce_window_sum": _pool("sum"),
}
