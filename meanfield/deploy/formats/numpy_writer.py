"""Write a network for NumPy: an .npz of arrays and steps, and the code that runs it."""

import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.deploy.graph.graph import Graph, Node, Value, reads_of
from meanfield.deploy.graph.inputs import ONE
from meanfield.files import atomic_path, write_text

from .lacking import LackingFormatError
from .numpy_runtime import FORMAT

RUNTIME = "numpy_runtime.py"
# Format number of a file with one input; older runtimes read such files too.
OF_ONE_INPUT = 1


def save_numpy(path: str | os.PathLike, graph: Graph) -> None:
    """Write a network for the NumPy runtime, and the runtime beside it.

    Args:
        path: the .npz file; `numpy_runtime.py` goes into the same folder.
        graph: a simplified graph.

    Raises:
        ValueError: the graph has an operation that only JAX can run.
    """
    path = Path(path)
    program, arrays = _program(graph)
    text = np.array(json.dumps(program, sort_keys=True))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, program=text, **arrays)
    write_text(path.parent / RUNTIME, runtime_source())


def runtime_source() -> str:
    """The text of the NumPy runtime."""
    folder = importlib.resources.files("meanfield.deploy.formats")
    return (folder / RUNTIME).read_text(encoding="utf-8")


def _program(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    nodes = graph.dynamic_nodes()
    read = set(graph.outputs).union(*map(reads_of, nodes))
    paths = {value: path for path, value in graph.arrays.items()}
    numbers: dict[Value, int] = {}
    arrays, names = {}, {}
    for value, array in graph.constants.items():
        if value in read:
            name = paths.get(value, f"constant_{len(numbers)}")
            names[name] = number_of(numbers, value)
            arrays[name] = array
    if list(graph.inputs) == [ONE]:
        taken = {
            "format": OF_ONE_INPUT,
            "dtype": str(graph.input.dtype),
            "input": number_of(numbers, graph.input),
        }
    else:
        inputs = {
            name: [number_of(numbers, value), str(value.dtype)]
            for name, value in graph.inputs.items()
        }
        taken = {"format": FORMAT, "inputs": inputs}
    program = {
        **taken,
        "constants": names,
        "steps": [_step(graph, node, numbers) for node in nodes],
        "outputs": [number_of(numbers, value) for value in graph.outputs],
    }
    return program, arrays


def number_of(numbers: dict[Value, int], value: Value) -> int:
    """The index of a value; values are numbered in the order of appearance."""
    return numbers.setdefault(value, len(numbers))


def _step(graph: Graph, node: Node, numbers: dict[Value, int]) -> dict[str, Any]:
    if node.eqn is not None:
        raise LackingFormatError(
            f"the NumPy runtime does not know the operation `{node.op}`."
        )

    def listed(values: Any) -> list[int]:
        return [number_of(numbers, value) for value in values]

    step: dict[str, Any] = {"op": node.op}
    step["in"], step["out"] = listed(node.inputs), listed(node.outputs)
    if node.body is None:
        step["set"] = node.settings
    else:
        inner = graph.dynamic_nodes(node.body.nodes)
        step |= node.settings
        step["body"] = {
            "in": listed(node.body.inputs),
            "steps": [_step(graph, n, numbers) for n in inner],
            "out": listed(node.body.outputs),
        }
    return step
