"""Run ONNX files with ONNX Runtime on the CPU."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.inputs import named_inputs

from .extras import need
from .onnx_writer import ABOUT
from .raw_inputs import raw_feed


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


@dataclasses.dataclass(frozen=True)
class RawPredictor:
    """An ONNX file that takes raw inputs, as a function of features.

    Attributes:
        session: a session of ONNX Runtime.
        contract: the input contract of the card: how raw inputs become features.
    """

    session: Any
    contract: Mapping[str, Any]

    def __call__(self, x: Any) -> np.ndarray:
        """The network's own outputs."""
        return self.session.run([self._names[-1]], self.feed(x))[0]

    def feed(self, x: Any) -> dict[str, np.ndarray]:
        """Raw inputs that have the features x."""
        return raw_feed(self.contract, np.asarray(x))

    def answers(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name, except the network's own."""
        names = self._names[:-1]
        return dict(zip(names, self.session.run(names, feed), strict=True))

    @property
    def _names(self) -> list[str]:
        return [output.name for output in self.session.get_outputs()]


def onnx_predictor(
    path: str | os.PathLike, threads: int = 1
) -> Callable[[Any], np.ndarray]:
    """A function from a batch of features to the outputs of an ONNX file's network."""
    session = open_session(path, threads)
    about = json.loads(session.get_modelmeta().custom_metadata_map.get(ABOUT, "{}"))
    if about.get("inputs") == "raw":
        return RawPredictor(session, about["source"]["input"])
    return lambda x: session.run(None, named_inputs(x))[0]
