"""A network as a short list of portable operations.

The operations are those of `numpy_runtime`, whichever framework the network came from.
Shrinking, ONNX and the NumPy runtime all read this one description.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """One array in the program; its sizes are numbers, or "batch", or -1 (derived)."""

    shape: tuple[Any, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """What a loop does in each step; it also reads values from outside."""

    inputs: tuple[Value, ...]
    nodes: tuple["Node", ...]
    outputs: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    `eqn` is the equation it came from, for operations that only JAX knows; without it
    (None) the operation is one of `numpy_runtime`.
    """

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    eqn: JaxprEqn | None = None
    body: Body | None = None

    @property
    def loop(self) -> Body:
        """The body of a loop."""
        if self.body is None:
            raise TypeError(f"the operation `{self.op}` is no loop")
        return self.body


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network from its arrays and a batch to its outputs.

    `constants` holds every value known without the batch: the arrays, and what nodes
    compute from them. Those nodes stay, for whoever follows the arrays through.
    """

    arrays: dict[str, Value]
    input: Value
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: dict[Value, np.ndarray]

    def dynamic_nodes(self, nodes: Sequence[Node] | None = None) -> list[Node]:
        """The nodes that must run for each batch."""
        nodes = self.nodes if nodes is None else nodes
        return [n for n in nodes if not all(v in self.constants for v in n.outputs)]


def needed(nodes: Sequence[Node], wanted: set[Value]) -> tuple[Node, ...]:
    """The nodes whose results somebody reads."""
    kept = []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        kept.append(node)
        wanted.update(reads_of(node))
    return tuple(reversed(kept))


def reads_of(node: Node) -> set[Value]:
    """Every value a node reads, a loop's reads from outside included."""
    reads = set(node.inputs)
    if node.body is not None:
        reads.update(node.body.outputs, *map(reads_of, node.body.nodes))
        reads.difference_update(node.body.inputs)
        reads.difference_update(v for n in node.body.nodes for v in n.outputs)
    return reads
