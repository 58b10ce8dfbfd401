"""Evaluate a graph with NumPy, and keep every value, including those inside loops."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from meanfield.deploy.formats.numpy_runtime import OPERATIONS
from meanfield.program.jaxprs import bind

from .graph import Graph, Node, Value

# For chosen nodes: index of an operand, a mask, and the replacement.
Patches = Mapping[Node, tuple[int, np.ndarray, np.ndarray]]


def evaluate(
    graph: Graph, x: Any, patches: Patches | None = None
) -> dict[Value, np.ndarray]:
    """Every value of a graph for a batch x.

    Args:
        graph: the network.
        x: a batch.
        patches: for a node, (operand, mask, replacement): where the mask is True the
            node reads the replacement (both broadcast against the operand).

    Returns:
        Arrays by value. A value inside a loop has an additional first axis, the steps.
    """
    inputs = {
        value: np.asarray(array, value.dtype)
        for value, array in zip(graph.inputs.values(), jax.tree.leaves(x), strict=True)
    }
    values = {**graph.constants, **inputs}
    # BLAS sometimes raises this flag in small matrix products of finite numbers whose
    # results are right. A true NaN is still found when outputs are compared.
    with np.errstate(invalid="ignore"):
        _run(graph, graph.nodes, values, len(inputs[graph.input]), patches or {})
    return values


def outputs_of(graph: Graph, values: Mapping[Value, np.ndarray]) -> list[np.ndarray]:
    """The network's outputs among its values."""
    return [values[value] for value in graph.outputs]


def evaluate_node(node: Node, operands: Sequence[Any], batch: int) -> list[np.ndarray]:
    """Results of a node that is not a loop, by NumPy, or by JAX if NumPy lacks it."""
    if node.eqn is not None:
        sizes = {k: _sized(v, batch) for k, v in node.eqn.params.items()}
        with jax.ensure_compile_time_eval():
            results = bind(node.eqn, *map(jax.numpy.asarray, operands), **sizes)
    else:
        results = operate(node, operands, batch)
    pairs = zip(results, node.outputs, strict=True)
    return [np.asarray(array, value.dtype) for array, value in pairs]


def _sized(parameter: Any, batch: int) -> Any:
    """A parameter of a primitive, with the number `batch` for the symbolic length."""
    if type(parameter) is tuple:
        return tuple(_sized(part, batch) for part in parameter)
    symbolic = jax.export.is_symbolic_dim(parameter) and str(parameter) == "batch"
    return batch if symbolic else parameter


def operate(node: Node, operands: Sequence[Any], batch: int) -> list[Any]:
    """Apply the operation of a portable node to arrays of any type."""
    settings = dict(node.settings)
    if "shape" in settings:
        settings["shape"] = [batch if n == "batch" else n for n in settings["shape"]]
    results = OPERATIONS[node.op](*operands, **settings)
    return results if isinstance(results, list) else [results]


def _run(
    graph: Graph,
    nodes: Sequence[Node],
    values: dict[Value, np.ndarray],
    batch: int,
    patches: Patches,
) -> None:
    for node in graph.dynamic_nodes(nodes):
        operands = [values[value] for value in node.inputs]
        if node in patches:
            index, mask, replacement = patches[node]
            operands[index] = np.where(mask, replacement, operands[index])
        if node.body is not None:
            results = _loop(graph, node, operands, values, batch, patches)
        else:
            results = evaluate_node(node, operands, batch)
        values.update(zip(node.outputs, results, strict=True))


def _loop(
    graph: Graph,
    node: Node,
    operands: Sequence[np.ndarray],
    values: dict[Value, np.ndarray],
    batch: int,
    patches: Patches,
) -> list[np.ndarray]:
    body, setting = node.loop, node.settings
    carries = list(operands[: setting["carries"]])
    rows = operands[setting["carries"] :]
    steps, collected = [], []
    times = range(setting["length"])
    for t in reversed(times) if setting["reverse"] else times:
        inside = dict(values)
        given = [*carries, *(row[t] for row in rows)]
        inside.update(zip(body.inputs, given, strict=True))
        _run(graph, body.nodes, inside, batch, patches)
        results = [inside[value] for value in body.outputs]
        carries = results[: setting["carries"]]
        collected.append(results[setting["carries"] :])
        steps.append(inside)
    new = [value for value in steps[0] if value not in values]
    values.update({value: np.stack([step[value] for step in steps]) for value in new})
    if setting["reverse"]:
        collected.reverse()
    return [*carries, *(np.stack(column) for column in zip(*collected, strict=True))]
