"""Portable operations as ONNX nodes (opset 17)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.deploy.graph.graph import Node, Value

from .extras import need
from .onnx_emitter import Emitter, UnwritableError, Write, onnx_type
from .onnx_windows import write_conv, write_pool

SIMPLE = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "add": "Add", "and": "And",
    "asin": "Asin", "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil",
    "cos": "Cos", "cosh": "Cosh", "div": "Div", "eq": "Equal", "erf": "Erf",
    "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less",
    "matmul": "MatMul", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg",
    "not": "Not", "or": "Or", "pow": "Pow", "round": "Round", "sign": "Sign",
    "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "sub": "Sub", "tan": "Tan",
    "tanh": "Tanh",
}  # fmt: skip


def _out(node: Node) -> Value:
    return node.outputs[0]


def _like(emitter: Emitter, node: Node, number: int | float) -> str:
    return emitter.tensor(np.asarray(number, node.inputs[0].dtype))


def _composed(
    build: Callable[[Emitter, Node, list[str]], tuple[str, list[str]]],
) -> Write:
    def write(
        emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
    ) -> None:
        op, inputs = build(emitter, node, names)
        emitter.emit(op, inputs, emitter.name(_out(node)))

    return write


def _max(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    for value, other in (node.inputs, node.inputs[::-1]):
        floor = emitter.known(other)
        if floor is not None and not floor.any() and value.shape == _out(node).shape:
            emitter.emit("Relu", [emitter.name(value)], emitter.name(_out(node)))
            return
    emitter.emit("Max", names, emitter.name(_out(node)))


def _power(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    exponent = _like(emitter, node, s["y"])
    emitter.emit("Pow", [*names, exponent], emitter.name(_out(node)))


def _cast(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    emitter.emit(
        "Cast", names, emitter.name(_out(node)), to=onnx_type(_out(node).dtype)
    )


def _reduction(op: str) -> Write:
    def write(
        emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
    ) -> None:
        out = emitter.name(_out(node))
        emitter.emit(op, names, out, axes=s["axes"], keepdims=0)

    return write


def _sum(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    axes = emitter.ints(s["axes"])
    emitter.emit("ReduceSum", [*names, axes], emitter.name(_out(node)), keepdims=0)


def _logical_reduction(op: str) -> Write:
    def write(
        emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
    ) -> None:
        number = emitter.emit("Cast", names, to=onnx_type(np.int32))
        found = emitter.emit(op, [number], axes=s["axes"], keepdims=0)
        emitter.emit("Cast", [found], emitter.name(_out(node)), to=onnx_type(np.bool_))

    return write


def _arg(op: str) -> Write:
    def write(
        emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
    ) -> None:
        place = emitter.emit(op, names, axis=s["axis"], keepdims=0)
        out = emitter.name(_out(node))
        emitter.emit("Cast", [place], out, to=onnx_type(s["dtype"]))

    return write


def _broadcast(
    emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
) -> None:
    sizes: list[Any] = [1] * len(s["shape"])
    for size, axis in zip(node.inputs[0].shape, s["axes"], strict=True):
        sizes[axis] = size
    placed = emitter.emit("Reshape", [*names, emitter.shape(sizes)])
    if -1 in s["shape"]:
        raise UnwritableError("repetition to a size derived from the batch")
    shape = emitter.exact_shape(s["shape"])
    emitter.emit("Expand", [placed, shape], emitter.name(_out(node)))


def _reshape(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    shape = emitter.shape(_out(node).shape)
    emitter.emit("Reshape", [*names, shape], emitter.name(_out(node)))


def _transpose(
    emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
) -> None:
    emitter.emit("Transpose", names, emitter.name(_out(node)), perm=s["axes"])


def _reverse(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    count, last = len(s["axes"]), -(2**31)
    parts = [[-1] * count, [last] * count, s["axes"], [-1] * count]
    inputs = [*names, *map(emitter.ints, parts)]
    emitter.emit("Slice", inputs, emitter.name(_out(node)))


def _cut(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    parts = [s["start"], s["stop"], list(range(len(s["start"]))), s["step"]]
    inputs = [*names, *map(emitter.ints, parts)]
    emitter.emit("Slice", inputs, emitter.name(_out(node)))


def _concatenate(
    emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]
) -> None:
    emitter.emit("Concat", names, emitter.name(_out(node)), axis=s["axis"])


def _stack(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    axes = emitter.ints([s["axis"]])
    parts = [emitter.emit("Unsqueeze", [name, axes]) for name in names]
    emitter.emit("Concat", parts, emitter.name(_out(node)), axis=s["axis"])


def _unstack(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    for i, value in enumerate(node.outputs):
        which = emitter.tensor(np.asarray(i, np.int64))
        emitter.emit("Gather", [*names, which], emitter.name(value), axis=s["axis"])


def _tile(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    emitter.emit("Tile", [*names, emitter.ints(s["reps"])], emitter.name(_out(node)))


def _split(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    inputs, outputs = (
        [*names, emitter.ints(s["sizes"])],
        map(emitter.name, node.outputs),
    )
    make = need("onnx").helper.make_node
    emitter.nodes.append(make("Split", inputs, list(outputs), axis=s["axis"]))


def _pad(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    lows, highs = zip(*s["widths"], strict=True)
    inputs = [names[0], emitter.ints([*lows, *highs]), names[1]]
    emitter.emit("Pad", inputs, emitter.name(_out(node)))


def _pick(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    output = emitter.name(_out(node))
    if s["axis"] != 1 or len(_out(node).shape) != 2:
        emitter.emit("Gather", names, output, axis=s["axis"])
        return
    # ONNX Runtime takes longer to copy single features than to multiply them, but
    # copies whole rows fast, and merges the second transposition with the matrix
    # product.
    rows = emitter.emit("Transpose", names[:1], perm=[1, 0])
    rows = emitter.emit("Gather", [rows, names[1]], axis=0)
    emitter.emit("Transpose", [rows], output, perm=[1, 0])


def _take(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    table, indices = node.inputs
    which = emitter.tensor(np.asarray(s["column"], np.int64))
    rows = emitter.emit("Gather", [names[1], which], axis=len(indices.shape) - 1)
    low, high = (
        emitter.tensor(np.asarray(n, indices.dtype))
        for n in (0, table.shape[s["axis"]] - 1)
    )
    rows = emitter.emit("Min", [emitter.emit("Max", [rows, low]), high])
    order = list(range(len(table.shape)))
    order.insert(0, order.pop(s["axis"]))
    turned = emitter.emit("Transpose", [names[0]], perm=order)
    found = emitter.emit("Gather", [turned, rows], axis=0)
    emitter.emit(
        "Reshape",
        [found, emitter.shape(_out(node).shape)],
        emitter.name(_out(node)),
    )


def _linear(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    if len(node.inputs[0].shape) == 2:
        emitter.emit("Gemm", names, emitter.name(_out(node)))
        return
    product = emitter.emit("MatMul", names[:2])
    emitter.emit("Add", [product, names[2]], emitter.name(_out(node)))


def _dot(emitter: Emitter, node: Node, names: list[str], s: dict[str, Any]) -> None:
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in node.inputs[0].shape]
    right = [next(letters) for _ in node.inputs[1].shape]
    pairs = [*zip(*s["contract"], strict=True), *zip(*s["batch"], strict=True)]
    for i, j in pairs:
        right[j] = left[i]
    used = [{*s["contract"][side], *s["batch"][side]} for side in (0, 1)]
    kept = [left[i] for i in s["batch"][0]]
    kept += [one for i, one in enumerate(left) if i not in used[0]]
    kept += [one for j, one in enumerate(right) if j not in used[1]]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    emitter.emit("Einsum", names, emitter.name(_out(node)), equation=equation)


WRITERS: dict[str, Write] = {
    "max": _max,
    "integer_pow": _power,
    "square": _composed(lambda e, n, names: ("Mul", [*names, *names])),
    "exp2": _composed(lambda e, n, names: ("Pow", [_like(e, n, 2), *names])),
    "ne": _composed(lambda e, n, names: ("Not", [e.emit("Equal", names)])),
    "rsqrt": _composed(lambda e, n, names: ("Reciprocal", [e.emit("Sqrt", names)])),
    "expm1": _composed(
        lambda e, n, names: ("Sub", [e.emit("Exp", names), _like(e, n, 1)])
    ),
    "log1p": _composed(
        lambda e, n, names: ("Log", [e.emit("Add", [*names, _like(e, n, 1)])])
    ),
    "erfc": _composed(
        lambda e, n, names: ("Sub", [_like(e, n, 1), e.emit("Erf", names)])
    ),
    "is_finite": _composed(
        lambda e, n, names: (
            "Not",
            [e.emit("Or", [e.emit("IsInf", names), e.emit("IsNaN", names)])],
        )
    ),
    "clamp": _composed(
        lambda e, n, names: ("Min", [e.emit("Max", [names[0], names[1]]), names[2]])
    ),
    "select": _composed(lambda e, n, names: ("Where", [names[0], names[2], names[1]])),
    "cast": _cast,
    "sum": _sum,
    "prod": _reduction("ReduceProd"),
    "amax": _reduction("ReduceMax"),
    "amin": _reduction("ReduceMin"),
    "any": _logical_reduction("ReduceMax"),
    "all": _logical_reduction("ReduceMin"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "broadcast": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "reverse": _reverse,
    "cut": _cut,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "split": _split,
    "pad": _pad,
    "pick": _pick,
    "take": _take,
    "linear": _linear,
    "dot": _dot,
    "conv": write_conv,
    "pool": write_pool,
}
