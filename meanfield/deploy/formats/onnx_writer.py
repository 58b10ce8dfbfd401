"""ONNX files, written node by node with the `onnx` package.

Opset 17 and IR version 8, which old runtimes support too; the batch may have any
length.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.graph import Graph, Node, Value
from meanfield.files import write_bytes

from .extras import need
from .lacking import LackingFormatError
from .onnx_emitter import Emitter, UnwritableError, onnx_type
from .onnx_nodes import SIMPLE, WRITERS

OPSET = 17
IR_VERSION = 8
# Key of the metadata.
ABOUT = "meanfield"
# Names that no input may have: those of outputs and of the length of the batch.
_RESERVED = {"output", "mean", "std", "mutual_information", "batch_size"}


def to_onnx(graph: Graph) -> Any:
    """An ONNX model of one network, with input `input` and output `output`.

    Several inputs are named by their paths in the batch.

    Raises:
        ValueError: an operation that ONNX or this writer does not support, or an input
            whose name the file uses for another value.
        ImportError: the package `onnx` is missing.
    """
    writer = Writer(graph, "")
    outputs = writer.write_outputs(_output_names(graph))
    return onnx_model(writer, writer.input_infos(), outputs)


def save_onnx(path: str | os.PathLike, model: Any) -> None:
    """Check a model and write it atomically."""
    need("onnx").checker.check_model(model)
    write_bytes(path, model.SerializeToString(deterministic=True))


def load_onnx(path: str | os.PathLike) -> Any:
    """The model in a file."""
    return need("onnx").load(path)


def note_about(path: str | os.PathLike, about: Mapping[str, Any] | None) -> None:
    """Write the description of a network into the metadata of its file, as JSON.

    Its key is "meanfield"; read it from a session's
    `get_modelmeta().custom_metadata_map`.
    """
    if not about:
        return
    onnx = need("onnx")
    model = load_onnx(path)
    onnx.helper.set_model_props(model, {ABOUT: json.dumps(about, sort_keys=True)})
    write_bytes(path, model.SerializeToString(deterministic=True))


class Writer(Emitter):
    """Names, constants and nodes of one network, added to those of `first` if given."""

    def __init__(self, graph: Graph, prefix: str, first: "Writer | None" = None):
        self.graph, self.prefix = graph, prefix
        taken = sorted(_RESERVED & graph.inputs.keys())
        require(
            not taken,
            f"`probe` must not have inputs named {', '.join(taken)}, which an ONNX "
            "file uses for its own values. Rename them.",
        )
        self.names: dict[Value, str] = {v: name for name, v in graph.inputs.items()}
        self.tensors: list[Any] = [] if first is None else first.tensors
        self.nodes = [] if first is None else first.nodes
        self.counter: list[int] = [0] if first is None else first.counter
        self.batch: list[str] = [] if first is None else first.batch
        self.paths = {value: path for path, value in graph.arrays.items()}

    def name(self, value: Value) -> str:
        """The ONNX name of a value; stores a constant when it is first named."""
        if value not in self.names:
            array = self.known(value)
            if array is None:
                self.names[value] = self.fresh()
            else:
                path = self.paths.get(value)
                self.names[value] = self.tensor(array, path and self.prefix + path)
        return self.names[value]

    def known(self, value: Value) -> np.ndarray | None:
        """The array of a value that does not depend on the input."""
        return self.graph.constants.get(value)

    def tensor(self, array: Any, name: str | None = None) -> str:
        """Store a constant, and return its name."""
        # An array may have the name of an input.
        name = self.fresh() if not name or name in self.graph.inputs else name
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        self.tensors.append(need("onnx.numpy_helper").from_array(array, name))
        return name

    def fresh(self) -> str:
        """An unused name."""
        self.counter[0] += 1
        name = f"{self.prefix}v{self.counter[0]}"
        return self.fresh() if name in self.graph.inputs else name

    def batch_size(self) -> str:
        """The name of a one-entry tensor with the length of the batch."""
        # It is computed before all other nodes, so that loops can read it as well.
        if not self.batch:
            helper = need("onnx").helper
            first = [next(iter(self.graph.inputs))]
            shape = helper.make_node("Shape", first, ["batch_size"], start=0, end=1)
            self.nodes_of_all().insert(0, shape)
            self.batch.append("batch_size")
        return self.batch[0]

    def nodes_of_all(self) -> list[Any]:
        """The nodes outside of loops, also while a loop is being written."""
        return self.outermost if self.inside else self.nodes

    inside = False
    outermost: list[Any]

    def write(self, nodes: Sequence[Node]) -> None:
        """Add the nodes of a graph in order.

        Raises:
            ValueError: an operation that ONNX or this writer does not support.
        """
        for node in nodes:
            names = [self.name(value) for value in node.inputs]
            if node.body is not None:
                self.loop(node, names)
            elif node.eqn is not None or node.op not in SIMPLE | WRITERS:
                raise self.refuse(node, "")
            elif node.op in WRITERS:
                try:
                    WRITERS[node.op](self, node, names, node.settings)
                except UnwritableError as error:
                    raise self.refuse(node, f" ({error})") from error
            else:
                self.emit(SIMPLE[node.op], names, self.name(node.outputs[0]))

    def refuse(self, node: Node, why: str) -> LackingFormatError:
        """The error for an operation that is not supported."""
        return LackingFormatError(
            f"the ONNX writer does not know the operation `{node.op}`{why}.",
            convertible=True,
        )

    def loop(self, node: Node, names: list[str]) -> None:
        """Write a loop over time steps as ONNX's Scan."""
        body, setting = node.loop, node.settings
        carries, helper = setting["carries"], need("onnx").helper
        info = helper.make_tensor_value_info
        outer, was_inside = self.nodes, self.inside
        if not was_inside:
            self.outermost = outer
        self.nodes, self.inside = [], True
        inputs = [_info(info, self.name(v), v) for v in body.inputs]
        rows = names[carries:]
        if not rows:
            # Scan needs a sequence, even if only the number of steps matters.
            rows = [self.tensor(np.zeros((setting["length"], 1), np.float32))]
            inputs.append(info(self.fresh(), onnx_type(np.float32), [1]))
        self.write(
            [n for n in body.nodes if n in set(self.graph.dynamic_nodes(body.nodes))]
        )
        results = []
        for value in body.outputs:
            results.append(self.emit("Identity", [self.name(value)]))
        outputs = [
            _info(info, name, v) for name, v in zip(results, body.outputs, strict=True)
        ]
        inner = helper.make_graph(self.nodes, self.fresh(), inputs, outputs)
        self.nodes, self.inside = outer, was_inside
        # The default direction is forward; ONNX allows no empty list as an attribute.
        count = {"input": len(rows), "output": len(node.outputs) - carries}
        backward = {
            f"scan_{end}_directions": [1] * number
            for end, number in count.items()
            if setting["reverse"] and number
        }
        self.nodes.append(
            helper.make_node(
                "Scan",
                [*names[:carries], *rows],
                list(map(self.name, node.outputs)),
                body=inner,
                num_scan_inputs=len(rows),
                **backward,
            )
        )

    def input_infos(self) -> list[Any]:
        """Names, types and shapes of the inputs."""
        make = need("onnx").helper.make_tensor_value_info
        return [_info(make, name, value) for name, value in self.graph.inputs.items()]

    def write_outputs(self, names: Sequence[str]) -> list[Any]:
        """Add all nodes and name the outputs; returns their types and shapes."""
        self.write(self.graph.dynamic_nodes())
        make = need("onnx").helper.make_tensor_value_info
        for name, value in zip(names, self.graph.outputs, strict=True):
            self.emit("Identity", [self.name(value)], name)
        pairs = zip(names, self.graph.outputs, strict=True)
        return [_info(make, name, value) for name, value in pairs]


def _info(make: Any, name: str, value: Value) -> Any:
    shape = [None if size == -1 else size for size in value.shape]
    return make(name, onnx_type(value.dtype), shape)


def _output_names(graph: Graph) -> list[str]:
    if len(graph.outputs) == 1:
        return ["output"]
    return [f"output_{i}" for i in range(len(graph.outputs))]


def onnx_model(writer: Writer, inputs: list[Any], outputs: list[Any]) -> Any:
    """The ONNX model with everything that a writer has written."""
    onnx = need("onnx")
    read = _names_read(writer.nodes)
    tensors = [tensor for tensor in writer.tensors if tensor.name in read]
    graph = onnx.helper.make_graph(
        writer.nodes, "network", inputs, outputs, initializer=tensors
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="meanfield",
    )


def _names_read(nodes: Sequence[Any]) -> set[str]:
    """Names that nodes read, including nodes inside loops."""
    read = {name for node in nodes for name in node.input}
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= _names_read(attribute.g.node)
    return read
