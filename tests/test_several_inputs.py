"""Inputs that are dictionaries or tuples of arrays, through every function.

The oracle is the same network on one array, which its call takes apart.
"""

import collections
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.formats.formats import load_predictor
from meanfield.deploy.graph.inputs import named_inputs
from meanfield.deploy.shipping.served import convert

KEY = jax.random.key(1)
RNG = np.random.default_rng(1)
A = RNG.normal(size=(64, 4)).astype(np.float32)
B = RNG.normal(size=(64, 3)).astype(np.float32)
Y = (A[:, 0] + B[:, 0] > 0).astype(int)
NAMED, PAIR, WHOLE = {"a": A, "b": {"deep": B}}, (A, B), np.concatenate([A, B], 1)


class Sum(eqx.Module):
    """A layer for each of two inputs, and one for their sum."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(4, 5, key=keys[0])
        self.second = eqx.nn.Linear(3, 5, key=keys[1])
        self.last = eqx.nn.Linear(5, 2, key=keys[2])

    def __call__(self, x):
        a, b = (x["a"], x["b"]["deep"]) if isinstance(x, dict) else x
        return self.last(jnp.tanh(self.first(a) + self.second(b)))


def apart(model, x):
    return model({"a": x[:4], "b": {"deep": x[4:]}})


MODEL = Sum(jax.random.key(0))


@functools.cache
def trained(call=None):
    ensemble = mf.Ensemble.from_model(MODEL, key=KEY, call=call)
    x = NAMED if call is None else WHOLE
    return mf.fit(
        ensemble, (x, Y), key=KEY, epochs=2, batch_size=16, progress=False, prior=None
    )


FUNCTIONS = {
    "fit": lambda e, x: [w.slab_var for w in e.weights().values()],
    "moments": lambda e, x: e.moments(x),
    "evaluate": lambda e, x: mf.evaluate(e, (x, Y), key=KEY, num_samples=2).nll,
    "NeuronGame": lambda e, x: mf.NeuronGame(e, "first", (x, Y))(np.eye(5, dtype=bool)),
    "readings": lambda e, x: e.readings(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_several_inputs_give_what_the_same_numbers_in_one_array_give(name):
    run = FUNCTIONS[name]
    got = run(trained().ensemble, NAMED)
    expected = run(trained(apart).ensemble, WHOLE)
    for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


FORMATS = ("safetensors", "numpy", "onnx", "onnx-int8", "stablehlo")


@pytest.fixture(scope="module")
def drawn():
    return trained().ensemble.mean_network()


@pytest.mark.parametrize("x", [NAMED, PAIR], ids=["dictionary", "tuple"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_takes_several_inputs_by_name(format, x, drawn, tmp_path):
    expected = jax.vmap(drawn)(x)
    path = tmp_path / "file"
    mf.deploy.export(drawn, path, probe=x, format=format)
    predict = load_predictor(path, format, like=drawn)
    some = jax.tree.map(lambda array: array[:9], x)
    tolerance = 0.1 if format == "onnx-int8" else 1e-5
    np.testing.assert_allclose(predict(some), expected[:9], atol=tolerance)
    if format != "safetensors":
        by_name = load_predictor(path, format)(named_inputs(x))
        np.testing.assert_allclose(by_name, expected, atol=tolerance)


def test_the_numpy_runtime_says_which_inputs_it_needs(drawn, tmp_path):
    mf.deploy.export(drawn, tmp_path / "a.npz", probe=NAMED, format="numpy")
    predict = load_predictor(tmp_path / "a.npz", "numpy")
    with pytest.raises(ValueError, match="must be named a, b/deep; got a, c"):
        predict({"a": A, "c": B})


def test_shrinking_keeps_every_entry_of_several_inputs(drawn):
    silent = eqx.tree_at(
        lambda model: (model.first.weight, model.last.weight),
        drawn,
        (drawn.first.weight.at[:, 1:].set(0), drawn.last.weight.at[:, :2].set(0)),
    )
    shrunk = mf.deploy.shrink(silent, PAIR, coalition={"first": np.arange(5) != 4})
    assert shrunk.kept_inputs == {}
    assert shrunk.model.first.weight.shape == (2, 4)
    one = {"only": A}
    call = lambda model, x: model.first(x["only"])
    shrunk = mf.deploy.shrink(silent, one, call=call, allow_constant=True)
    assert shrunk.model.first.weight.shape == (5, 4)


def test_a_folder_of_networks_with_several_inputs_passes_its_check(tmp_path):
    networks = mf.deploy.sample_subnetworks(trained().ensemble, 1, key=KEY)
    half = lambda part: (A[part], B[part])
    mf.deploy.ship(
        networks,
        tmp_path / "out",
        data=(half(slice(32)), Y[:32]),
        validation=(half(slice(32, 64)), Y[32:]),
    )
    assert len(mf.deploy.check_shipped(tmp_path / "out", like=MODEL)) == 1
    archive = tmp_path / "out/subnetwork-0.safetensors"
    done = convert(archive, tmp_path / "one.onnx", format="onnx", like=MODEL)
    assert done.largest_difference < 1e-5


def test_networks_with_several_inputs_go_into_one_file(tmp_path):
    networks = mf.deploy.sample_subnetworks(trained().ensemble, 2, key=KEY)
    mf.deploy.ship(
        networks,
        tmp_path / "out",
        data=(NAMED, Y),
        format="onnx",
        together=True,
        measure=False,
    )
    assert len(mf.deploy.check_shipped(tmp_path / "out")) == 3


Point = collections.namedtuple("Point", "a b")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (Point(A, B), "which a shipped folder can store; got Point"),
        ({1: A, 2: B}, "which a shipped folder can store; got dict"),
        ((A, B[:5]), "equally many examples in all of its arrays; got shapes"),
    ],
)
def test_inputs_that_a_folder_cannot_store_are_refused(x, message, tmp_path):
    networks = mf.deploy.sample_subnetworks(trained().ensemble, 1, key=KEY)
    with pytest.raises(ValueError, match=message):
        mf.deploy.ship(networks, tmp_path / "out", data=(x, Y))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"output": A, "z": B}, "inputs named output, which an ONNX file"),
        ({"a": {"b": A}, "a/b": B}, "must have a name for each of its arrays"),
    ],
)
def test_inputs_that_a_format_cannot_name_are_refused(x, message, drawn, tmp_path):
    call = lambda model, x: model(jax.tree.leaves(x))
    with pytest.raises(ValueError, match=message):
        mf.deploy.export(drawn, tmp_path / "f", probe=x, call=call)
