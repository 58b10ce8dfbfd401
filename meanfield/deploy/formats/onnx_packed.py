"""Store sparse arrays of an ONNX file as a bit mask and the nonzero numbers.

The file rebuilds each array by operations on constants alone,

    bits = (mask >> (7, …, 0)) mod 2,    W = values[bits · cumsum(bits)],    values₀ = 0

which ONNX Runtime evaluates once, when it loads the file; afterwards the network is as
fast as one stored whole. Numbers are stored in 16 bits if this is exact, so packing
changes no bit of an array.
"""

from typing import Any

import numpy as np

from .extras import need

# Smaller arrays stay as they are: the operations take several hundred bytes.
SMALLEST = 4096
# Names of the constants and nodes that replace an array W begin with W and this;
# constants that all arrays share begin with this alone.
PART = "/packed/"


def pack_arrays(model: Any) -> None:
    """Pack the arrays of an ONNX model that are at most half as large when packed.

    Args:
        model: is changed; every value keeps its name.
    """
    graph, array_of = model.graph, need("onnx.numpy_helper").to_array
    stored, nodes = {}, []
    for tensor in graph.initializer:
        array = array_of(tensor)
        packed = _packed(array) if array.nbytes >= SMALLEST else None
        if packed is None:
            stored[tensor.name] = tensor
        else:
            _rebuild(tensor.name, array.shape, packed, stored, nodes)
    if not nodes:
        return
    nodes += list(graph.node)
    for field, content in ((graph.initializer, stored.values()), (graph.node, nodes)):
        del field[:]
        field.extend(content)


def _packed(array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The mask, and the values after a first 0; None if they save less than half."""
    if array.dtype != np.float32:
        return None
    # A negative zero is stored as a value, because its bits are not all zero.
    present = array.view(np.uint32).ravel() != 0
    values = np.concatenate([np.zeros(1, np.float32), array.ravel()[present]])
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        values = half
    mask = np.packbits(present)
    small = 2 * (mask.nbytes + values.nbytes) <= array.nbytes
    return (mask, values) if small else None


def _rebuild(
    name: str,
    shape: tuple[int, ...],
    packed: tuple[np.ndarray, np.ndarray],
    stored: dict[str, Any],
    nodes: list[Any],
) -> None:
    """Add the parts of an array, and the operations that rebuild it under its name."""
    onnx = need("onnx")
    mask, values = packed
    size, types = int(np.prod(shape)), onnx.TensorProto

    def constant(part: str, value: Any, own: bool = True) -> str:
        path = f"{name}{PART}{part}" if own else f"{PART}{part}"
        stored[path] = onnx.numpy_helper.from_array(np.asarray(value), path)
        return path

    def emit(op: str, inputs: list[str], part: str, **settings: Any) -> str:
        output = f"{name}{PART}{part}" if part else name
        nodes.append(onnx.helper.make_node(op, inputs, [output], **settings))
        return output

    # Constants that all arrays share are stored once.
    shifts = constant("shifts", np.arange(7, -1, -1, dtype=np.uint8)[None], own=False)
    two = constant("two", np.uint8(2), own=False)
    flat = constant("flat", np.array([-1]), own=False)
    zero = constant("axis", np.int32(0), own=False)
    bits = constant("mask", mask[:, None])
    bits = emit("BitShift", [bits, shifts], "b", direction="RIGHT")
    bits = emit("Mod", [bits, two], "c")
    bits = emit("Cast", [bits], "d", to=types.INT32)
    bits = emit("Reshape", [bits, flat], "e")
    if size % 8:
        ends = [constant("start", np.array([0])), constant("stop", np.array([size]))]
        bits = emit("Slice", [bits, *ends], "f")
    count = emit("CumSum", [bits, zero], "g")
    places = emit("Mul", [count, bits], "h")
    whole = constant("shape", np.array(shape, np.int64))
    places = emit("Reshape", [places, whole], "i")
    numbers = constant("values", values)
    if values.dtype == np.float16:
        numbers = emit("Cast", [numbers], "j", to=types.FLOAT)
    emit("Gather", [numbers, places], "", axis=0)
