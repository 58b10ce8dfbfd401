"""Eight-bit ONNX: weights and activations as integers, calibrated on data.

Static quantisation: the ranges of activations are measured once on a calibration batch,
so that an answer does not depend on what else is in its batch (dynamic quantisation
takes ranges from the batch at hand). The result is checked to hold integers: a graph
the quantiser does not understand would pass through it unchanged.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.files import write_bytes

from .extras import need

_BATCH = 64
# Part of the weights that must become integers for the file to be called int8.
_ENOUGH = 0.5


def save_int8(path: str | os.PathLike, model: Any, calibration: Any) -> None:
    """Quantise an ONNX model and write it atomically.

    Args:
        path: the file.
        model: what `to_onnx` returns.
        calibration: a batch of inputs that is like those to come.

    Raises:
        ValueError: hardly a weight became an integer.
        ImportError: onnxruntime is missing.
    """
    quantization = need("onnxruntime.quantization")
    onnx = need("onnx")
    exact = _last_contraction(model)
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder, "plain.onnx"), Path(folder, "small.onnx")
        onnx.save(model, plain)
        quantization.quantize_static(
            plain,
            small,
            _reader(quantization, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add two products in 16 bits: weights of 8 bits
            # overflow there, those of 7 do not.
            reduce_range=True,
            nodes_to_exclude=exact,
        )
        part = int8_part(onnx.load(small))
        require(
            part >= _ENOUGH,
            f"only {part:.0%} of the weights became 8-bit integers: the quantiser does "
            "not enter this kind of network (loops, for example). Use format 'onnx'.",
        )
        write_bytes(path, small.read_bytes())


def _last_contraction(model: Any) -> list[str]:
    """The node that makes the outputs, unless it is the only one.

    It holds few of the weights, and 256 steps are coarse for logits: on an MNIST
    network its quantisation doubles the largest change of a probability.
    """
    kinds = ("Gemm", "MatMul", "Conv")
    found = [node.name for node in model.graph.node if node.op_type in kinds]
    return found[-1:] if len(found) > 1 else []


def int8_part(model: Any) -> float:
    """Part of the stored numbers of matrices and kernels that are 8-bit integers."""
    types = need("onnx").TensorProto
    sizes = {True: 0, False: 0}
    for tensor in _tensors(model.graph):
        if len(tensor.dims) >= 2:
            small = tensor.data_type in (types.INT8, types.UINT8)
            sizes[small] += int(np.prod(tensor.dims))
    total = sum(sizes.values())
    return sizes[True] / total if total else 0.0


def _tensors(graph: Any) -> list[Any]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _tensors(attribute.g)
    return found


def _reader(quantization: Any, calibration: Any) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Hands out the calibration data in batches."""

        def __init__(self):
            x = np.asarray(calibration)
            self.parts = iter([x[i : i + _BATCH] for i in range(0, len(x), _BATCH)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch, None at the end."""
            part = next(self.parts, None)
            return None if part is None else {"input": part}

    return Reader()
