"""A network as a short list of portable operations.

The operations are those of `numpy_runtime`, whatever framework the network is written
in. Shrinking, the ONNX export and the NumPy export all start from this description.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """One array in the program; a size is a number, "batch", or -1 (inferred)."""

    shape: tuple[Any, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """The operations of one step of a loop; they may read values from outside it."""

    inputs: tuple[Value, ...]
    nodes: tuple["Node", ...]
    outputs: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    `eqn` is the JAX equation of an operation that `numpy_runtime` lacks, else None.
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
            raise TypeError(f"the operation `{self.op}` is not a loop")
        return self.body


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network as a program that maps its arrays and a batch to its outputs.

    `inputs` are the arrays of the batch by name; a single one is called "input".

    `constants` holds every value known without the batch: the arrays, and the results
    of nodes that depend on the arrays alone. These nodes are kept in `nodes`, because
    shrinking follows the arrays through them.
    """

    arrays: dict[str, Value]
    inputs: dict[str, Value]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: dict[Value, np.ndarray]

    @property
    def input(self) -> Value:
        """The first or only input."""
        return next(iter(self.inputs.values()))

    def dynamic_nodes(self, nodes: Sequence[Node] | None = None) -> list[Node]:
        """The nodes that must run for each batch."""
        nodes = self.nodes if nodes is None else nodes
        return [n for n in nodes if not all(v in self.constants for v in n.outputs)]


def needed(nodes: Sequence[Node], wanted: set[Value]) -> tuple[Node, ...]:
    """The nodes on whose results the wanted values depend."""
    kept = []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        kept.append(node)
        wanted.update(reads_of(node))
    return tuple(reversed(kept))


def reads_of(node: Node) -> set[Value]:
    """Every value that a node reads, including values a loop reads from outside."""
    reads = set(node.inputs)
    if node.body is not None:
        reads.update(node.body.outputs, *map(reads_of, node.body.nodes))
        reads.difference_update(node.body.inputs)
        reads.difference_update(v for n in node.body.nodes for v in n.outputs)
    return reads
