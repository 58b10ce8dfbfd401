"""The interface through which functions write nodes of an ONNX graph."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from meanfield.deploy.graph.graph import Node, Value

from .extras import need


class UnwritableError(Exception):
    """A form of an operation that ONNX, or this writer, does not support.

    The writer turns it into the message for the user, which names the operation.
    """


class Emitter(abc.ABC):
    """Collects ONNX nodes; subclasses define the names of values."""

    nodes: list[Any]

    @abc.abstractmethod
    def name(self, value: Value) -> str:
        """The ONNX name of a value."""

    @abc.abstractmethod
    def known(self, value: Value) -> np.ndarray | None:
        """The array of a value that does not depend on the input, else None."""

    @abc.abstractmethod
    def tensor(self, array: Any) -> str:
        """The name of a new constant."""

    @abc.abstractmethod
    def fresh(self) -> str:
        """An unused name."""

    @abc.abstractmethod
    def batch_size(self) -> str:
        """The name of a one-entry tensor with the length of the batch."""

    def emit(self, op: str, inputs: Sequence[str], output: str = "", **settings) -> str:
        """Add a node with one output, and return the output's name."""
        output = output or self.fresh()
        make = need("onnx").helper.make_node
        self.nodes.append(make(op, inputs, [output], name=f"make {output}", **settings))
        return output

    def ints(self, values: Sequence[int]) -> str:
        """The name of a constant list of integers."""
        return self.tensor(np.array(values, np.int64))

    def shape(self, sizes: Sequence[Any]) -> str:
        """The name of a tensor of sizes; one "batch" may be left to be inferred."""
        if sum(not isinstance(size, int) for size in sizes) <= 1 and 0 not in sizes:
            return self.ints([n if isinstance(n, int) else -1 for n in sizes])
        return self.exact_shape(sizes)

    def exact_shape(self, sizes: Sequence[Any]) -> str:
        """The same, with the actual length of the batch, computed at run time."""
        if "batch" not in sizes:
            return self.ints(sizes)
        parts = [
            self.batch_size() if size == "batch" else self.ints([size])
            for size in sizes
        ]
        return self.emit("Concat", parts, axis=0)


Write = Callable[[Emitter, Node, list[str], dict[str, Any]], None]


def onnx_type(dtype: Any) -> int:
    """ONNX's number for a dtype."""
    return need("onnx").helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
