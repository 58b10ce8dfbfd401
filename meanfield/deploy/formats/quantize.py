"""Eight-bit ONNX: weights as integers if outputs change little on calibration data.

| precision                 | weights                      | activations               |
|---------------------------|------------------------------|---------------------------|
| `weights and activations` | 7 bits, the last layer float | 8 bits, ranges measured   |
| `weights`                 | 8 bits                       | float                     |
| `weights, n of m layers`  | 8 bits, in the others 16     | float                     |

Every output channel of a weight has its own scale. Matrices are rounded so that the
outputs of their layers change least, kernels to the nearest levels (`rounding`). The
precisions are tried in this order, until the bound on the change of a probability
(`compare.worst_change`) is small enough on the calibration data, or too few weights
would be integers. The layers whose rounding changes the outputs most get 16 bits.
Ranges are measured once, so that a prediction does not depend on the other examples of
its batch. The result is checked for integers, because the quantiser does not change
graphs that it does not support.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.inputs import (
    as_batch,
    batch_size,
    named_inputs,
    take_examples,
)
from meanfield.files import write_bytes

from .compare import INT8_TOLERANCE, worst_change
from .extras import need
from .lacking import LackingFormatError
from .rounding import channel_scales, round_nearest, round_together

_BATCH = 64
# Fraction of the weights that must become integers for the file to be called int8.
_ENOUGH = 0.5
# Processors without VNNI add two products in 16 bits, which overflows for weights of 8
# bits but not for 7 bits.
_LEVELS_WITH_ACTIVATIONS, _LEVELS = 64, 127
_CONTRACTIONS = ("Gemm", "MatMul", "Conv")


def save_int8(
    path: str | os.PathLike, model: Any, calibration: Any, link: str = "softmax"
) -> str:
    """Quantise an ONNX model and write it atomically.

    Args:
        path: the file.
        model: the result of `to_onnx`.
        calibration: a batch of inputs like those that the network will be used on.
        link: map from outputs to probabilities: "softmax", "sigmoid" or "none".

    Returns:
        The precision of the file, as in the table above.

    Raises:
        ValueError: a weight is not float32, or fewer than half of the weights became
            integers.
        ImportError: onnxruntime is missing.
    """
    strange = {w.array.dtype.name for _, w in _weights(model)} - {"float32"}
    if strange:
        raise LackingFormatError(
            "`model` must have float32 weights to be rounded to 8 bits; got "
            f"{', '.join(sorted(strange))}."
        )
    x = as_batch(calibration, "calibration")
    expected, signals = _run_with_signals(model, x)
    chosen = None
    for precision, small in _candidates(model, signals, x, expected, link):
        part = int8_part(small)
        if chosen is not None and part < _ENOUGH:
            break
        require(
            part >= _ENOUGH,
            f"`model` must allow at least {_ENOUGH:.0%} of its weights to become 8-bit "
            f"integers; got {part:.0%}, because the quantiser does not support this "
            "kind of network (loops, for example). Use format 'onnx'.",
        )
        chosen = precision, small
        if worst_change(expected, _run(small, x)[0], link) <= INT8_TOLERANCE:
            break
    assert chosen is not None
    write_bytes(path, chosen[1].SerializeToString(deterministic=True))
    return chosen[0]


def _candidates(
    model: Any, signals: dict[str, np.ndarray], x: Any, expected: Any, link: str
) -> Iterator[tuple[str, Any]]:
    """Precisions with their models, from the fewest bits to the most."""
    yield "weights and activations", _with_activations(model, signals, x)
    names = [node.name for node, _ in _weights(model)]
    yield "weights", _weights_alone(model, signals, names, [])
    changes = {}
    for name in names:
        alone = _run(_weights_alone(model, signals, [name], []), x)[0]
        changes[name] = worst_change(expected, alone, link)
    order = sorted(names, key=lambda name: -changes[name])
    for count in range(1, len(order)):
        kept = len(order) - count
        small = _weights_alone(model, signals, order[count:], order[:count])
        yield f"weights, {kept} of {len(order)} layers", small


def int8_part(model: Any) -> float:
    """Fraction of the numbers in matrices and kernels that are 8-bit integers."""
    types = need("onnx").TensorProto
    sizes = {True: 0, False: 0}
    for tensor in _tensors(model.graph):
        if len(tensor.dims) >= 2:
            small = tensor.data_type in (types.INT8, types.UINT8)
            sizes[small] += int(np.prod(tensor.dims))
    total = sum(sizes.values())
    return sizes[True] / total if total else 0.0


def _with_activations(model: Any, signals: dict[str, np.ndarray], x: Any) -> Any:
    """Weights and activations of all layers but the last as integers."""
    quantization = need("onnxruntime.quantization")
    onnx = need("onnx")
    exact = _last_contraction(model)
    # The quantiser rounds to the nearest level, so weights already on a level stay.
    gridded = _copy(model)
    for node, weight in _weights(gridded):
        if node.name not in exact:
            turned, back = _rows_first(node, weight.array)
            levels = _rounded(node, turned, signals, _LEVELS_WITH_ACTIVATIONS)
            scales = channel_scales(turned, _LEVELS_WITH_ACTIVATIONS)
            weight.replace(back(levels * _along_rows(scales, turned.ndim)))
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder, "plain.onnx"), Path(folder, "small.onnx")
        onnx.save(gridded, plain)
        quantization.quantize_static(
            plain,
            small,
            _reader(quantization, x),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=exact,
        )
        return onnx.load(small)


def _weights_alone(
    model: Any,
    signals: dict[str, np.ndarray],
    eight: Sequence[str],
    sixteen: Sequence[str],
) -> Any:
    """Store weights of nodes in fewer bits; they become float when the model is run."""
    onnx, small = need("onnx"), _copy(model)
    for node, weight in _weights(small):
        whole = f"{weight.name}/whole"
        if node.name in eight:
            turned, back = _rows_first(node, weight.array)
            scales = channel_scales(turned, _LEVELS)
            stored = {
                f"{weight.name}/levels": back(_rounded(node, turned, signals, _LEVELS)),
                f"{weight.name}/scale": scales,
                f"{weight.name}/zero": np.zeros(len(scales), np.int8),
            }
            axis = 0 if node.op_type == "Conv" else turned.ndim - 1
            op, settings = "DequantizeLinear", {"axis": axis}
        elif node.name in sixteen:
            stored = {f"{weight.name}/half": weight.array.astype(np.float16)}
            op, settings = "Cast", {"to": onnx.TensorProto.FLOAT}
        else:
            continue
        weight.replace_by(stored)
        node.input[1] = whole
        made = onnx.helper.make_node(op, list(stored), [whole], **settings)
        small.graph.node.insert(list(small.graph.node).index(node), made)
    return small


class _Weight:
    """A stored array that one node multiplies with."""

    def __init__(self, graph: Any, tensor: Any):
        self.graph, self.tensor, self.name = graph, tensor, tensor.name
        self.array = need("onnx.numpy_helper").to_array(tensor)

    def replace(self, array: np.ndarray) -> None:
        make = need("onnx.numpy_helper").from_array
        self.tensor.CopyFrom(make(array.astype(self.array.dtype), self.name))

    def replace_by(self, arrays: dict[str, np.ndarray]) -> None:
        make = need("onnx.numpy_helper").from_array
        self.graph.initializer.remove(self.tensor)
        self.graph.initializer.extend(make(a, name) for name, a in arrays.items())


def _weights(model: Any) -> list[tuple[Any, _Weight]]:
    """The contractions outside loops whose weight no other node reads."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    return [
        (node, _Weight(graph, tensors[node.input[1]]))
        for node in graph.node
        if node.op_type in _CONTRACTIONS
        and node.input[1] in tensors
        and len(tensors[node.input[1]].dims) >= 2
        and readers.count(node.input[1]) == 1
    ]


def _rows_first(node: Any, array: np.ndarray) -> tuple[np.ndarray, Callable]:
    """A weight with its output channels along the first axis, and the inverse."""
    if node.op_type == "Conv":
        return array, lambda turned: turned
    return np.swapaxes(array, 0, -1), lambda turned: np.swapaxes(turned, 0, -1)


def _along_rows(scales: np.ndarray, rank: int) -> np.ndarray:
    return scales.reshape(-1, *[1] * (rank - 1))


def _rounded(
    node: Any, weight: np.ndarray, signals: dict[str, np.ndarray], levels: int
) -> np.ndarray:
    if node.op_type == "Conv" or weight.ndim > 2:
        return round_nearest(weight, levels)
    signal = signals[node.input[0]].reshape(-1, weight.shape[1])
    return round_together(weight, signal, levels)


def _last_contraction(model: Any) -> list[str]:
    """The name of the node that computes the outputs, unless it is the only one.

    This node has few of the weights, and 256 levels are coarse for logits: on an MNIST
    network its quantisation doubles the largest change of a probability.
    """
    kinds = _CONTRACTIONS
    found = [node.name for node in model.graph.node if node.op_type in kinds]
    return found[-1:] if len(found) > 1 else []


def _copy(model: Any) -> Any:
    return type(model).FromString(model.SerializeToString())


def _run(model: Any, x: Any) -> list[np.ndarray]:
    runtime = need("onnxruntime")
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, named_inputs(x))


def _run_with_signals(model: Any, x: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The outputs, and the input of each contraction, by name."""
    shown, make = _copy(model), need("onnx").helper.make_empty_tensor_value_info
    names = {n.input[0] for n in model.graph.node if n.op_type in _CONTRACTIONS}
    inside = sorted(names - named_inputs(x).keys())
    shown.graph.output.extend(make(name) for name in inside)
    outputs, *signals = _run(shown, x)
    return outputs, {**named_inputs(x), **dict(zip(inside, signals, strict=True))}


def _tensors(graph: Any) -> list[Any]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _tensors(attribute.g)
    return found


def _reader(quantization: Any, calibration: Any) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Yields the calibration data in batches."""

        def __init__(self):
            starts = range(0, batch_size(calibration), _BATCH)
            rows = [slice(start, start + _BATCH) for start in starts]
            self.parts = iter([take_examples(calibration, some) for some in rows])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch, None at the end."""
            part = next(self.parts, None)
            return None if part is None else named_inputs(part)

    return Reader()
