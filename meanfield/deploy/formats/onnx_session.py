"""Run ONNX files with ONNX Runtime on the CPU."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.checks import require

from .extras import need


def open_session(path: str | os.PathLike, threads: int = 1) -> Any:
    """Open an ONNX file in ONNX Runtime.

    Raises:
        ValueError: the file is damaged, or stores arrays in other files.
    """
    runtime, onnx = need("onnxruntime"), need("onnx")
    content = Path(path).read_bytes()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        tensors = onnx.ModelProto.FromString(content).graph.initializer
        outside = [one.name for one in tensors if one.external_data]
        require(not outside, f"it stores {outside[:3]} in other files")
        return runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # Both packages raise their own exception types.
        raise ValueError(
            f"{path} must be an ONNX file that ONNX Runtime supports: {error}. Restore "
            "it from a copy, or export again."
        ) from error


def onnx_predictor(
    path: str | os.PathLike, threads: int = 1
) -> Callable[[Any], np.ndarray]:
    """A function from a batch to the first output of an ONNX file."""
    session = open_session(path, threads)
    return lambda x: session.run(None, {"input": x})[0]
