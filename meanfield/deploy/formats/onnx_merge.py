"""Store and compute only once the parts that networks in one ONNX file share.

Sub-networks may share their first layers: equal nodes that read equal tensors are
merged into one node.
"""

from collections.abc import Iterator
from typing import Any


def merge_equal_tensors(tensors: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """The distinct tensors, and for each removed tensor the name of the equal one."""
    first: dict[Any, str] = {}
    kept, renamed = [], {}
    for tensor in tensors:
        content = tensor.data_type, tuple(tensor.dims), tensor.raw_data
        name = first.setdefault(content, tensor.name)
        if name == tensor.name:
            kept.append(tensor)
        else:
            renamed[tensor.name] = name
    return kept, renamed


def merge_equal_nodes(nodes: list[Any], renamed: dict[str, str]) -> list[Any]:
    """The nodes, without those that repeat the computation of an earlier node.

    Inputs are renamed in place, also those that the bodies of loops read from outside.

    Args:
        nodes: all nodes, in the order of computation.
        renamed: map from old to new names of tensors.
    """
    renamed, first, kept = dict(renamed), {}, []
    for node in nodes:
        for names in _inputs(node):
            names[:] = [renamed.get(name, name) for name in names]
        settings = tuple(
            a.SerializeToString(deterministic=True) for a in node.attribute
        )
        content = node.op_type, tuple(node.input), settings
        equal = first.setdefault(content, node)
        if equal is node:
            kept.append(node)
        else:
            renamed |= dict(zip(node.output, equal.output, strict=True))
    return kept


def _inputs(node: Any) -> Iterator[Any]:
    yield node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from _inputs(inner)
