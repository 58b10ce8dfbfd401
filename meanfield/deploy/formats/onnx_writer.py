"""ONNX files, written node by node over the `onnx` package.

Opset 17 and IR version 8, which old runtimes read too; the batch may have any length.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.graph import Graph, Node, Value
from meanfield.files import write_bytes

from .extras import need
from .onnx_emitter import Emitter, onnx_type
from .onnx_merge import merge_equal_nodes, merge_equal_tensors
from .onnx_nodes import SIMPLE, WRITERS

OPSET = 17
IR_VERSION = 8


def to_onnx(graph: Graph) -> Any:
    """An ONNX model of one network, with input `input` and output `output`.

    Raises:
        ValueError: an operation that ONNX or this writer does not have; it is named.
        ImportError: the package `onnx` is missing.
    """
    writer = _Writer(graph, "")
    outputs = writer.write_outputs(_output_names(graph))
    return _model(writer, [writer.input_info()], outputs)


def ensemble_to_onnx(graphs: Sequence[Graph], link: str = "softmax") -> Any:
    r"""An ONNX model of K networks side by side, with uncertainty.

    With p_k the probabilities of member k, the outputs are

        mean = (1/K) Σ_k p_k        std = √((1/K) Σ_k (p_k − mean)²)
        mutual_information = H[mean] − (1/K) Σ_k H[p_k]        (nats, one an example)

    Layers in which members agree are stored and computed once.

    Args:
        graphs: the members; each takes the same inputs and gives one output.
        link: from outputs to p_k: "softmax" (logits of classes), "sigmoid" (one logit
            for each yes-or-no answer), or "none" (real targets: mean and std only).

    Raises:
        ValueError: members that do not fit together, or an unknown `link`.
    """
    require(
        link in ("softmax", "sigmoid", "none"),
        f"`link` must be 'softmax', 'sigmoid' or 'none'; got {link!r}.",
    )
    require(len(graphs) > 0, "`graphs` must hold at least one member; got none.")
    kinds = {(g.input.shape, g.input.dtype, _signature(g)) for g in graphs}
    require(
        len(kinds) == 1 and len(graphs[0].outputs) == 1,
        "members of an ensemble must take the same inputs and give one output of the "
        f"same shape; got {sorted(map(str, kinds))}.",
    )
    first = _Writer(graphs[0], "member0/")
    writers = [first]
    writers += [_Writer(g, f"member{k}/", first) for k, g in enumerate(graphs) if k]
    members = []
    for writer, graph in zip(writers, graphs, strict=True):
        writer.write(graph.dynamic_nodes())
        members.append(writer.name(graph.outputs[0]))
    outputs = _combine(first, members, link)
    first.tensors, renamed = merge_equal_tensors(first.tensors)
    first.nodes = merge_equal_nodes(first.nodes, renamed)
    dtype, shape = onnx_type(graphs[0].outputs[0].dtype), graphs[0].outputs[0].shape
    info = need("onnx").helper.make_tensor_value_info
    sizes = [n if n != -1 else None for n in shape]
    infos = [
        info(name, dtype, sizes[:-1] if name == "mutual_information" else sizes)
        for name in outputs
    ]
    return _model(first, [first.input_info()], infos)


def save_onnx(path: str | os.PathLike, model: Any) -> None:
    """Check a model and write it atomically."""
    need("onnx").checker.check_model(model)
    write_bytes(path, model.SerializeToString(deterministic=True))


def _combine(writer: "_Writer", members: list[str], link: str) -> list[str]:
    dtype, shape = writer.graph.outputs[0].dtype, writer.graph.outputs[0].shape
    rank = len(shape)
    together = writer.emit("Concat", members, axis=0)
    sizes = [size if size != -1 else "batch" for size in shape]
    sizes = writer.shape([len(members), *sizes])
    together = writer.emit("Reshape", [together, sizes])
    if link == "softmax":
        together = writer.emit("Softmax", [together], axis=rank)
    elif link == "sigmoid":
        together = writer.emit("Sigmoid", [together])
    mean = writer.emit("ReduceMean", [together], "mean", axes=[0], keepdims=0)
    away = writer.emit("Sub", [together, mean])
    var = writer.emit("Mul", [away, away])
    var = writer.emit("ReduceMean", [var], axes=[0], keepdims=0)
    writer.emit("Sqrt", [var], "std")
    if link == "none":
        return ["mean", "std"]
    one = writer.tensor(np.ones((), dtype))
    tiny = writer.tensor(np.asarray(np.finfo(dtype).tiny, dtype))

    def plogp(p: str) -> str:
        log = writer.emit("Log", [writer.emit("Max", [p, tiny])])
        return writer.emit("Mul", [p, log])

    def negative_entropy(p: str, axis: int) -> str:
        terms = plogp(p)
        if link == "sigmoid":
            terms = writer.emit("Add", [terms, plogp(writer.emit("Sub", [one, p]))])
        axes = writer.ints([axis])
        return writer.emit("ReduceSum", [terms, axes], keepdims=0)

    inner = negative_entropy(together, rank)
    inner = writer.emit("ReduceMean", [inner], axes=[0], keepdims=0)
    whole = negative_entropy(mean, rank - 1)
    gain = writer.emit("Sub", [inner, whole])
    zero = writer.tensor(np.zeros((), dtype))
    # Rounding may leave a tiny negative number where members agree.
    writer.emit("Max", [gain, zero], "mutual_information")
    return ["mean", "std", "mutual_information"]


class _Writer(Emitter):
    """Names, constants and nodes of one network; members share those of the first."""

    def __init__(self, graph: Graph, prefix: str, first: "_Writer | None" = None):
        self.graph, self.prefix = graph, prefix
        self.names: dict[Value, str] = {graph.input: "input"}
        self.tensors: list[Any] = [] if first is None else first.tensors
        self.nodes = [] if first is None else first.nodes
        self.counter: list[int] = [0] if first is None else first.counter
        self.batch: list[str] = [] if first is None else first.batch
        self.paths = {value: path for path, value in graph.arrays.items()}

    def name(self, value: Value) -> str:
        """The ONNX name of a value; a constant is stored when first named."""
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
        """Store a constant; its name."""
        name = name or self.fresh()
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        self.tensors.append(need("onnx.numpy_helper").from_array(array, name))
        return name

    def fresh(self) -> str:
        """A name no one has."""
        self.counter[0] += 1
        return f"{self.prefix}v{self.counter[0]}"

    def batch_size(self) -> str:
        """The name of a one-entry tensor with the length of the batch."""
        # It is computed before all other nodes, so that loops can read it as well.
        if not self.batch:
            helper = need("onnx").helper
            shape = helper.make_node("Shape", ["input"], ["batch_size"], start=0, end=1)
            self.nodes_of_all().insert(0, shape)
            self.batch.append("batch_size")
        return self.batch[0]

    def nodes_of_all(self) -> list[Any]:
        return self.outermost if self.inside else self.nodes

    inside = False
    outermost: list[Any]

    def write(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            names = [self.name(value) for value in node.inputs]
            if node.body is not None:
                self.loop(node, names)
            elif node.eqn is not None or node.op not in SIMPLE | WRITERS:
                raise self.refuse(node, "")
            elif node.op in WRITERS:
                try:
                    WRITERS[node.op](self, node, names, node.settings)
                except NotImplementedError as error:
                    raise self.refuse(node, f" ({error})") from error
            else:
                self.emit(SIMPLE[node.op], names, self.name(node.outputs[0]))

    def refuse(self, node: Node, why: str) -> ValueError:
        return ValueError(
            f"the ONNX writer does not know the operation `{node.op}`{why}. Export as "
            "'stablehlo', which takes every JAX function, or convert with the package "
            "jax2onnx (fallback='jax2onnx')."
        )

    def loop(self, node: Node, names: list[str]) -> None:
        """A recurrent network in time is ONNX's Scan."""
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
            # Scan needs a sequence to run along, also when only the steps count.
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
        # The default direction is forward; an empty list is no attribute.
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

    def input_info(self) -> Any:
        make = need("onnx").helper.make_tensor_value_info
        return _info(make, "input", self.graph.input)

    def write_outputs(self, names: Sequence[str]) -> list[Any]:
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


def _signature(graph: Graph) -> tuple[Any, ...]:
    return tuple((value.shape, value.dtype) for value in graph.outputs)


def _model(writer: _Writer, inputs: list[Any], outputs: list[Any]) -> Any:
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
    """Names that nodes read, those inside loops included."""
    read = {name for node in nodes for name in node.input}
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= _names_read(attribute.g.node)
    return read
