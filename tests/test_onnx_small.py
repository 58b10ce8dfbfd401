"""ONNX files are small and fast: sparse arrays are packed, inputs read in one piece."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meanfield.deploy.formats.formats import export
from meanfield.deploy.formats.onnx_packed import pack_arrays
from meanfield.deploy.formats.onnx_scale import divide_weights
from meanfield.deploy.formats.whole_inputs import portable_graph
from meanfield.deploy.graph.execute import evaluate
from meanfield.deploy.graph.input_span import read_span
from meanfield.deploy.graph.inputs import take_examples
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.simplify import simplify
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.ensemble.networks import mlp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, numbers = onnx.helper, onnx.numpy_helper
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def product(weight, before=(), name="x"):
    """The model x @ W, with nodes before it."""
    rows, columns = weight.shape
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", rows), ("y", columns))
    ]
    nodes = [*before, helper.make_node("MatMul", [name, "W"], ["y"])]
    graph = helper.make_graph(
        nodes, "product", infos[:1], infos[1:], [numbers.from_array(weight, "W")]
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def answers(model, x):
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def sparse(shape, dtype, share=0.2):
    values = RNG.normal(size=shape).astype(dtype).astype(np.float32)
    return np.where(RNG.random(shape) < share, values, 0).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(40, 50), (37, 61)], ids=["bytes", "bits left"])
def test_a_packed_array_is_read_to_the_bit(shape, dtype):
    weight = sparse(shape, dtype)
    weight[0, :3] = 0.0, -0.0, 1.5
    model = product(weight)
    whole = len(model.SerializeToString())
    pack_arrays(model)
    # Every row of the identity reads a row of W.
    found = answers(model, np.eye(shape[0], dtype=np.float32))
    np.testing.assert_array_equal(found, weight)
    stored = sum(len(one.raw_data) for one in model.graph.initializer)
    size = np.dtype(dtype).itemsize
    assert stored == pytest.approx(weight.size / 8 + size * (weight != 0).sum(), abs=90)
    assert len(model.SerializeToString()) < whole


@pytest.mark.parametrize(
    "weight",
    [
        sparse((40, 50), np.float32, share=0.9),
        sparse((10, 10), np.float32),
        sparse((80, 80), np.float32).astype(np.float64),
    ],
    ids=["dense", "small", "other type"],
)
def test_what_would_save_less_than_half_stays_whole(weight):
    model = product(weight.astype(np.float32))
    if weight.dtype == np.float64:
        model.graph.initializer[0].CopyFrom(numbers.from_array(weight, "W"))
    before = model.SerializeToString()
    pack_arrays(model)
    assert model.SerializeToString() == before


def test_numbers_beyond_sixteen_bits_are_packed_in_thirty_two():
    weight = sparse((64, 64), np.float16)
    weight[3, 3] = 1e6
    model = product(weight)
    pack_arrays(model)
    (values,) = [one for one in model.graph.initializer if one.name.endswith("values")]
    assert values.data_type == onnx.TensorProto.FLOAT
    np.testing.assert_array_equal(answers(model, np.eye(64, dtype=np.float32)), weight)


def test_the_runtime_unpacks_when_it_loads_not_when_it_runs(tmp_path):
    model = product(sparse((64, 64), np.float16))
    pack_arrays(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(model.SerializeToString(), options)
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert [node.op_type for node in loaded.graph.node] == ["MatMul"]


def test_weights_are_divided_instead_of_inputs():
    weight, x = sparse((6, 4), np.float32, 1.0), sparse((5, 6), np.float32, 1.0)
    model = product(weight)
    model.graph.initializer.append(numbers.from_array(np.float32(255), "d"))
    assert divide_weights(model.graph, "x", "d")
    np.testing.assert_allclose(answers(model, x), x @ weight / 255, 1e-5, 1e-8)


def test_inputs_that_are_read_by_more_than_a_product_are_divided_themselves():
    model = product(np.ones((4, 4), np.float32))
    model.graph.node.append(helper.make_node("Relu", ["x"], ["other"]))
    before = model.SerializeToString()
    assert not divide_weights(model.graph, "x", "d")
    model_of_none = product(np.ones((4, 4), np.float32))
    del model_of_none.graph.initializer[:]
    assert not divide_weights(model_of_none.graph, "x", "d")
    assert model.SerializeToString() == before


def test_an_exported_network_with_few_connections_is_small(tmp_path):
    net = mlp((100, 50, 3), key=KEY)
    weight = jnp.asarray(sparse((50, 100), np.float32, 0.1))
    net = eqx.tree_at(lambda n: n.layers[0].weight, net, weight)
    x = RNG.normal(size=(60, 100)).astype(np.float32)
    done = export(net, tmp_path / "network.onnx", probe=x, format="onnx")
    assert done.bytes < 100 * 50 * 4 / 3
    assert done.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("live", "op", "rows"),
    [
        (np.arange(10, 50, 2), "cut", 39),
        (np.arange(100, 700, 2), "linear", 784),
        (np.array([3, 700]), None, 2),
    ],
    ids=["cut", "whole", "gathered"],
)
def test_inputs_are_read_in_the_cheapest_way(live, op, rows):
    small = mlp((len(live), 8, 3), key=KEY)
    x = RNG.normal(size=(4, 784)).astype(np.float32)
    graph = portable_graph(as_network(small), {0: live}, x)
    np.testing.assert_allclose(
        evaluate(graph, x)[graph.outputs[0]],
        jax.vmap(small)(jnp.asarray(x[:, live])),
        rtol=1e-5,
        atol=1e-6,
    )
    first = next(node for node in graph.nodes if node.op == "linear")
    assert graph.constants[first.inputs[1]].shape == (rows, 8)
    if op is not None:
        assert graph.nodes[0].op == op


def test_inputs_that_are_not_multiplied_at_once_are_gathered():
    x = RNG.normal(size=(4, 784)).astype(np.float32)
    live = np.arange(10, 50, 2)
    # A network that does more with its input than to multiply it keeps the gather.
    other = as_network((lambda p, x: jnp.tanh(x) @ p["w"], {"w": jnp.ones((20, 3))}))
    graph = simplify(trace_symbolic(other, take_examples(x[:, live], slice(None))))
    assert read_span(graph, {0: live}, (784,)) is None
