"""An ONNX file that takes raw rows or images, and returns named classes or targets.

    columns → features → the network → output → class, probabilities | mean, deviation
              ‾‾‾‾‾‾‾‾                          ‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾
The two underlined parts are added. They are made from two parts of the model card: the
input contract, and the description of the targets. The file of a table has one input
for each column, an array (batch, 1); see `raw_inputs`. A missing number gives NaN if
none was missing in training. A category that did not occur in training raises an error,
as in `meanfield predict`. The network's own output is the last one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.learning.likelihoods import LARGEST_LOG_RATE, SMALLEST_SCALE

from .extras import need
from .onnx_emitter import onnx_type
from .onnx_scale import divide_weights
from .raw_inputs import INPUT

NETWORK = "network/"
# The operators for texts are in a second operator set; its version 3 fits opset 17.
TEXTS, TEXTS_VERSION = "ai.onnx.ml", 3


def take_raw(model: Any, source: Mapping[str, Any]) -> Any:
    """An ONNX model extended by the preprocessing and the decoding of the outputs.

    Args:
        model: model of a network with input `input` and one output.
        source: the source of a card, with the parts `input` and `targets`.

    Returns:
        A model whose inputs are the columns of the table, or one raw array. Its outputs
        are named as in the predictions of a run:

        - classes: the name of the most probable one, and the probabilities;
        - answers 0 or 1: the answer, and the probability of 1;
        - numbers: mean and deviation of each target, in its own units.

        The last output is the network's own.

    Raises:
        ValueError: two names are equal, or the source lacks one of the two parts.
    """
    onnx = need("onnx")
    contract, targets = source.get("input", {}), source.get("targets", {})
    noisy = targets.get("likelihood") in ("gaussian", "student_t")
    require(
        "kind" in contract and "names" in targets and ("noise" in targets or not noisy),
        "the card must describe its inputs and targets; a card of an earlier version "
        "does not. Ship again, or with inputs='features'.",
    )
    wrapped = onnx.compose.add_prefix(model, NETWORK)
    around = _Around()
    (own_input,), (own_output,) = wrapped.graph.input, wrapped.graph.output
    if contract["kind"] == "table":
        inputs = _columns(around, contract["columns"], own_input.name)
    else:
        inputs = _array(around, contract, own_input.name, wrapped.graph)
    before, around.nodes = around.nodes, []
    outputs = _answers(around, targets, own_output.name)
    names = [value.name for value in (*inputs, *outputs)]
    require(
        len(set(names)) == len(names) and not any(n.startswith(NETWORK) for n in names),
        "names of columns and of answers must differ, and not begin with "
        f"{NETWORK!r}; got {sorted(names)}. Ship with inputs='features'.",
    )
    graph = wrapped.graph
    nodes = [*before, *graph.node, *around.nodes]
    for part, new in (
        (graph.node, nodes),
        (graph.input, inputs),
        (graph.output, [*outputs, own_output]),
    ):
        kept = list(new)
        del part[:]
        part.extend(kept)
    graph.initializer.extend(around.tensors)
    if any(node.domain == TEXTS for node in before):
        wrapped.opset_import.append(onnx.helper.make_opsetid(TEXTS, TEXTS_VERSION))
    return wrapped


class _Around:
    """Collects the nodes and constants around a network."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def fresh(self) -> str:
        return f"{NETWORK}around/{len(self.nodes)}/{len(self.tensors)}"

    def emit(self, op: str, inputs: Sequence[str], output: str = "", **settings) -> str:
        output = output or self.fresh()
        make = need("onnx").helper.make_node
        node = make(op, inputs, [output], name=f"make {output}", **settings)
        self.nodes.append(node)
        return output

    def constant(self, array: Any) -> str:
        name = self.fresh()
        self.tensors.append(need("onnx.numpy_helper").from_array(array, name))
        return name


def _array(
    around: _Around, contract: Mapping[str, Any], output: str, graph: Any
) -> list[Any]:
    """Divide one raw array, and give it the shape of the features.

    If the network begins with products, their weights are divided instead; this is done
    once, and saves a pass over every input.
    """
    sizes = around.constant(np.asarray([-1, *contract["feature_shape"]], np.int64))
    divisor = np.asarray(contract["divide_by"], np.float32)
    if divisor == 1:
        around.emit("Reshape", [INPUT, sizes], output)
    else:
        number = around.constant(divisor)
        if divide_weights(graph, output, number):
            around.emit("Reshape", [INPUT, sizes], output)
        else:
            raw = around.emit("Reshape", [INPUT, sizes])
            around.emit("Div", [raw, number], output)
    return [_info(INPUT, np.float32, contract["shape"])]


def _columns(around: _Around, columns: Sequence[Any], output: str) -> list[Any]:
    """Standardise numbers and encode categories, in the order of the features.

    All numbers are standardised together, as one array (batch, numbers); then the parts
    are gathered into the order of the features.
    """
    numbers = [column for column in columns if "one_hot" not in column]
    parts, order = [], np.zeros(columns[-1]["features"][1], np.int64)
    if numbers:
        parts = _numbers(around, numbers)
        for place, column in enumerate(numbers):
            first = column["features"][0]
            order[first] = place
            if "missing_becomes" in column:
                order[first + 1] = len(numbers) + place
    done = 2 * len(numbers)
    for column in columns:
        if "one_hot" in column:
            parts.append(_one_hot(around, column))
            first, end = column["features"]
            order[first:end] = np.arange(done, done + end - first)
            done += end - first
    features = around.emit("Concat", parts, axis=1)
    around.emit("Gather", [features, around.constant(order)], output, axis=1)
    return [
        _info(column["name"], object if "one_hot" in column else np.float64, [1])
        for column in columns
    ]


def _numbers(around: _Around, columns: Sequence[Any]) -> list[str]:
    """Names of two arrays: standardised numbers, and indicators of missing ones.

    (x − mean) / deviation is computed in double precision.
    """

    def row(name: str) -> str:
        values = [column.get(name, math.nan) for column in columns]
        return around.constant(np.asarray([values], np.float64))

    raw = around.emit("Concat", [column["name"] for column in columns], axis=1)
    missing = around.emit("IsNaN", [raw])
    raw = around.emit("Where", [missing, row("missing_becomes"), raw])
    raw = around.emit("Sub", [raw, row("subtract")])
    raw = around.emit("Div", [raw, row("divide_by")])
    number = onnx_type(np.float32)
    return [around.emit("Cast", [part], to=number) for part in (raw, missing)]


def _one_hot(around: _Around, column: Mapping[str, Any]) -> str:
    """One-hot features; ONNX Runtime raises an error for an unknown category."""
    codes = codes_of(column)
    code = around.emit(
        "LabelEncoder",
        [column["name"]],
        domain=TEXTS,
        keys_strings=list(codes),
        values_int64s=list(codes.values()),
        default_int64=-1,
    )
    count = len(column["one_hot"])
    hot = around.emit(
        "OneHotEncoder",
        [code],
        domain=TEXTS,
        cats_int64s=list(range(count)),
        zeros=0,
    )
    return around.emit(
        "Reshape", [hot, around.constant(np.asarray([-1, count], np.int64))]
    )


def codes_of(column: Mapping[str, Any]) -> dict[str, int]:
    """The index of the category for every text that is read as a category."""
    known = {text or "": number for number, text in enumerate(column["one_hot"])}
    codes = dict.fromkeys(column.get("read_as_missing", ()), known.get("", -1)) | known
    for text, number in known.items() if column.get("any_case") else ():
        codes |= dict.fromkeys((text.lower(), text.upper(), text.title()), number)
    return codes


def _answers(around: _Around, targets: Mapping[str, Any], output: str) -> list[Any]:
    """Add the decoding of the outputs; returns names, types and shapes."""
    likelihood, names = targets["likelihood"], targets["names"]
    if likelihood == "categorical":
        return _class(around, names[0], targets["class_names"], output)
    if likelihood == "bernoulli":
        prob = around.emit("Sigmoid", [output])
        half = around.constant(np.asarray(0.5, np.float32))
        over = around.emit("Greater", [prob, half])
        answer = around.emit("Cast", [over], to=onnx_type(np.int64))
        pairs = ((answer, "", np.int64), (prob, "_prob_1", np.float32))
    else:
        mean, deviation = _moments(around, targets, output)
        pairs = ((mean, "", np.float32), (deviation, "_std", np.float32))
    infos = []
    for number, target in enumerate(names):
        place = around.constant(np.asarray([number], np.int64))
        for value, ending, dtype in pairs:
            around.emit("Gather", [value, place], target + ending, axis=1)
            infos.append(_info(target + ending, dtype, [1]))
    return infos


def _class(
    around: _Around, target: str, classes: Sequence[str], output: str
) -> list[Any]:
    around.emit("Softmax", [output], f"{target}_prob", axis=-1)
    best = around.emit("ArgMax", [output], axis=-1, keepdims=1)
    names = around.constant(np.asarray(list(classes), object))
    around.emit("Gather", [names, best], target)
    return [
        _info(target, object, [1]),
        _info(f"{target}_prob", np.float32, [len(classes)]),
    ]


def _moments(
    around: _Around, targets: Mapping[str, Any], output: str
) -> tuple[str, str]:
    """Mean and standard deviation of real targets, (batch, targets), in their units."""

    def number(value: Any) -> str:
        return around.constant(np.asarray(value, np.float32))

    if targets["likelihood"] == "poisson":
        limits = [number(-LARGEST_LOG_RATE), number(LARGEST_LOG_RATE)]
        rate = around.emit("Exp", [around.emit("Clip", [output, *limits])])
        return rate, around.emit("Sqrt", [rate])
    count, scale = len(targets["names"]), number(targets["scale"])
    df = targets.get("df")
    # The deviation of Student's distribution (df > 2) or of the normal one, at scale 1.
    wide = 1.0 if df is None else math.sqrt(df / (df - 2))

    def columns(first: int) -> str:
        places = np.arange(first, first + count, dtype=np.int64)
        return around.emit("Gather", [output, around.constant(places)], axis=1)

    location = columns(0)
    mean = around.emit("Mul", [location, scale])
    mean = around.emit("Add", [mean, number(targets["shift"])])
    if "noise" in targets:
        like = around.emit("Mul", [location, number(0)])
        noise = number(np.asarray(targets["noise"]) * wide)
        return mean, around.emit("Add", [like, noise])
    noise = around.emit("Softplus", [columns(count)])
    noise = around.emit("Add", [noise, number(SMALLEST_SCALE)])
    factor = number(np.asarray(targets["scale"]) * wide)
    return mean, around.emit("Mul", [noise, factor])


def _info(name: str, dtype: Any, shape: Sequence[int]) -> Any:
    onnx = need("onnx")
    kind = onnx.TensorProto.STRING if dtype is object else onnx_type(dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None, *shape])
