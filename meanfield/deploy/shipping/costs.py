"""Costs of a network: stored numbers, multiplications, time."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from meanfield.deploy.formats.onnx_session import RawPredictor
from meanfield.deploy.graph.execute import evaluate
from meanfield.deploy.graph.graph import Graph, Node
from meanfield.deploy.graph.inputs import as_batch, batch_size, take_examples

_SECONDS = 0.2
_RUNS = 400


def count_weights(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of stored entries and of nonzero entries.

    `num_weights` and `num_nonzero` count arrays of two or more axes; `num_parameters`
    counts all.
    """
    weights = [np.asarray(a) for a in arrays.values() if np.ndim(a) >= 2]
    return {
        "num_weights": sum(w.size for w in weights),
        "num_nonzero": sum(int(np.count_nonzero(w)) for w in weights),
        "num_parameters": sum(int(np.size(a)) for a in arrays.values()),
    }


def count_macs(graph: Graph, example: Any) -> int:
    """Multiply-adds of contractions for one example, including those with zeros.

    Args:
        graph: a network.
        example: a batch of at least one input.
    """
    values = evaluate(graph, take_examples(as_batch(example, "example"), slice(1)))
    shapes = {v: a.shape[a.ndim - len(v.shape) :] for v, a in values.items()}
    return _macs(graph, graph.nodes, shapes)


def _macs(graph: Graph, nodes: Sequence[Node], shapes: Mapping[Any, Any]) -> int:
    total = 0
    for node in graph.dynamic_nodes(nodes):
        setting = node.settings
        if node.body is not None:
            total += setting["length"] * _macs(graph, node.body.nodes, shapes)
        elif node.op == "dot":
            shape, axes = shapes[node.inputs[0]], setting["contract"][0]
            terms = math.prod(shape[axis] for axis in axes)
            total += terms * math.prod(shapes[node.outputs[0]])
        elif node.op == "conv":
            kernel, rows = shapes[node.inputs[1]], setting["layout"][1][0]
            terms = math.prod(n for axis, n in enumerate(kernel) if axis != rows)
            total += terms * math.prod(shapes[node.outputs[0]])
    return total


def measure_latency(predict: Callable[[Any], Any], x: Any) -> float:
    """Median time of one call in microseconds, after three calls for warm-up."""
    for _ in range(3):
        predict(x)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _RUNS and (
        len(times) < 5 or time.perf_counter() - start < _SECONDS
    ):
        before = time.perf_counter()
        predict(x)
        times.append(time.perf_counter() - before)
    return 1e6 * statistics.median(times)


def latencies(predict: Callable[[Any], Any], x: Any) -> dict[str, float]:
    """Median microseconds for batches of 1 and of 256 (examples repeated if needed).

    For a file with raw inputs the time includes its preprocessing.
    """
    x = as_batch(x, "x")
    many = take_examples(x, np.arange(256) % batch_size(x))
    one = take_examples(many, slice(1))
    found = {}
    for name, batch in (("batch_1_us", one), ("batch_256_us", many)):
        run, given = predict, batch
        if isinstance(predict, RawPredictor):
            run, given = predict.answers, predict.feed(batch)
        found[name] = round(measure_latency(run, given), 2)
    return found
