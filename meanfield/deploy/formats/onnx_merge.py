"""Members of an ensemble that agree in a layer need it once.

Sub-networks on a common stem read the same inputs with the same weights; what equal
nodes compute from equal tensors is stored, and computed, once.
"""

from collections.abc import Iterator
from typing import Any


def merge_equal_tensors(tensors: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """The different ones, and under which name each that left is found."""
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
    """The nodes without those that compute what an earlier one computed.

    Inputs are renamed in place, also those that the bodies of loops take from outside.

    Args:
        nodes: in the order of computation.
        renamed: new names of tensors.
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
