"""K networks in one ONNX graph: mean, standard deviation and mutual information."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.graph import Graph, Value

from .extras import need
from .onnx_emitter import onnx_type
from .onnx_merge import merge_equal_nodes, merge_equal_tensors
from .onnx_writer import Writer, onnx_model


def ensemble_to_onnx(graphs: Sequence[Graph], link: str = "softmax") -> Any:
    r"""An ONNX model of K networks, with uncertainty.

    With p_k the probabilities of member k, the outputs are

        mean = (1/K) Σ_k p_k        std = √((1/K) Σ_k (p_k − mean)²)
        mutual_information = H[mean] − (1/K) Σ_k H[p_k]        (nats, one per example)

    Layers that are equal in several members are stored and computed once.

    Args:
        graphs: the members; each takes the same inputs and gives one output.
        link: map from outputs to p_k: "softmax" (logits of classes), "sigmoid" (a logit
            for each yes-or-no answer), or "none" (real targets: mean and std only).

    Raises:
        ValueError: inputs or outputs of the members differ, or an unknown `link`.
    """
    require(
        link in ("softmax", "sigmoid", "none"),
        f"`link` must be 'softmax', 'sigmoid' or 'none'; got {link!r}.",
    )
    require(len(graphs) > 0, "`graphs` must hold at least one member; got none.")
    kinds = {(_signature(g.inputs.values()), _signature(g.outputs)) for g in graphs}
    require(
        len(kinds) == 1 and len(graphs[0].outputs) == 1,
        "`graphs` must have the same inputs and one output of the same shape; got "
        f"{sorted(map(str, kinds))}.",
    )
    first = Writer(graphs[0], "member0/")
    writers = [first]
    writers += [Writer(g, f"member{k}/", first) for k, g in enumerate(graphs) if k]
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
    return onnx_model(first, first.input_infos(), infos)


def _combine(writer: Writer, members: list[str], link: str) -> list[str]:
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
    # If members agree, rounding may give a tiny negative number.
    writer.emit("Max", [gain, zero], "mutual_information")
    return ["mean", "std", "mutual_information"]


def _signature(values: Iterable[Value]) -> tuple[Any, ...]:
    return tuple((value.shape, value.dtype) for value in values)
