"""Modules that are called in another way, and parameters that stay as they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import meanfield as mf
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.sizes import resize_equinox

X = jnp.asarray(np.random.default_rng(1).normal(size=(12, 4)), jnp.float32)
Y = jnp.arange(12) % 3


class Coder(eqx.Module):
    """A module without `__call__`, whose method needs a second argument."""

    layers: list

    def __init__(self, key):
        keys = jax.random.split(key)
        self.layers = [eqx.nn.Linear(4, 5, key=keys[0])]
        self.layers += [eqx.nn.Linear(5, 3, key=keys[1])]

    def encode(self, x, scale):
        return self.layers[1](jnp.tanh(scale * self.layers[0](x)))


def encode(model, x):
    return model.encode(x, 0.5)


class NNXCoder(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 5, rngs=rngs)
        self.last = nnx.Linear(5, 3, rngs=rngs)

    def encode(self, x, scale):
        return self.last(jnp.tanh(scale * self.first(x)))


MODELS = {
    "equinox": (
        lambda: Coder(jax.random.key(0)),
        lambda m, x: jax.vmap(lambda x: encode(m, x))(x),
    ),
    "nnx": (lambda: NNXCoder(nnx.Rngs(0)), encode),
}


def fitted(ensemble):
    return mf.fit(
        ensemble,
        (X, Y),
        key=jax.random.key(1),
        epochs=1,
        batch_size=4,
        progress=False,
        prior=None,
    )


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, run = MODELS[request.param]
    model = make()
    ensemble = mf.Ensemble.from_model(model, call=encode)
    result = fitted(ensemble)
    return model, run, ensemble, result.ensemble


def test_a_module_is_called_by_the_given_function_and_drawn_in_its_own_type(case):
    model, run, ensemble, trained = case
    np.testing.assert_allclose(
        ensemble.apply_fn(ensemble.mean_params(), X), run(model, X), atol=1e-6
    )
    key = jax.random.key(2)
    drawn = trained.sample(key)
    assert type(drawn) is type(model)
    outputs = trained.apply_fn(trained.sample_params(key), X)
    np.testing.assert_allclose(run(drawn, X), outputs, atol=1e-6)


def test_a_drawn_network_is_shrunk_exported_and_shipped_by_the_same_call(
    case, tmp_path
):
    model, run, _, trained = case
    drawn = trained.sample(jax.random.key(2))
    shrunk = mf.deploy.shrink(drawn, X, call=encode)
    np.testing.assert_allclose(
        run(shrunk.model, shrunk.select_inputs(X)), run(drawn, X), atol=1e-5
    )
    done = mf.deploy.export(
        drawn, tmp_path / "a.npz", probe=X, format="numpy", call=encode
    )
    assert done.largest_difference < 1e-5
    networks = mf.deploy.sample_subnetworks(trained, 1, key=jax.random.key(3))
    mf.deploy.ship(networks, tmp_path / "out", data=(X, Y), measure=False)
    checked = mf.deploy.check_shipped(tmp_path / "out", like=model, call=encode)
    assert [one.file for one in checked] == ["subnetwork-0.safetensors"]


def test_a_pair_is_refused_a_call_because_its_function_is_the_call():
    pair = lambda params, x: x @ params, jnp.ones((4, 3))
    with pytest.raises(ValueError, match="`call` must be left out for a pair"):
        mf.Ensemble.from_model(pair, call=encode)


def test_a_call_without_a_needed_argument_is_explained_by_the_check_of_the_data():
    ensemble = mf.Ensemble.from_model(
        Coder(jax.random.key(0)), call=lambda model, x: model.encode(x)
    )
    with pytest.raises(ValueError, match="for which the model raises: .*'scale'"):
        mf.evaluate(ensemble, (X, Y), key=jax.random.key(1))


@pytest.mark.parametrize(
    "frozen",
    [
        "layers/0",
        ["layers/0/weight", "layers/0/bias"],
        lambda name, array: name.startswith("layers/0/"),
    ],
)
def test_frozen_parameters_are_neither_random_nor_learned(frozen):
    model = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(model, key=jax.random.key(1), frozen=frozen)
    assert list(ensemble.weights()) == ["layers/1/weight"]
    trained = fitted(ensemble).ensemble
    drawn = trained.sample(jax.random.key(2))
    for one, other in zip(drawn.layers, model.layers, strict=True):
        same = (
            bool((one.bias == other.bias).all()),
            bool((one.weight == other.weight).all()),
        )
        assert same == ((True, True) if one is drawn.layers[0] else (False, False))


def test_a_frozen_name_that_matches_nothing_is_refused():
    model = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
    with pytest.raises(
        ValueError, match="`frozen` must name .*'layers/0/w' is neither"
    ):
        mf.Ensemble.from_model(model, frozen=["layers/1", "layers/0/w"])
    with pytest.raises(ValueError, match="`frozen` does not name"):
        mf.Ensemble.from_model(model, frozen="layers")


def test_the_single_array_of_a_pair_can_be_frozen_and_python_leaves_stay_static():
    params = {"w": jnp.ones((4, 3)), "power": 2, "name": "tanh", "scale": 0.5}

    def apply(params, x):
        # Static leaves choose the program; a tracer would fail here.
        z = params["scale"] * x @ params["w"]
        return (
            getattr(jnp, params["name"])(z) ** params["power"]
            * range(3)[params["power"]]
        )

    ensemble = mf.Ensemble.from_model((apply, params))
    result = fitted(ensemble)
    _, drawn = result.ensemble.sample(jax.random.key(2))
    assert {k: v for k, v in drawn.items() if k != "w"} == {
        "power": 2,
        "name": "tanh",
        "scale": 0.5,
    }
    alone = lambda params, x: x @ params
    with pytest.raises(ValueError, match="no weight to make random"):
        mf.Ensemble.from_model((alone, jnp.ones((4, 3))), frozen="params")


def test_a_network_that_is_itself_a_layer_is_the_layer_of_the_empty_path():
    layer = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(layer, key=jax.random.key(1))
    assert mf.NeuronGame(ensemble, "", (X, Y)).num_players == 3


def test_a_module_that_keeps_its_random_streams_is_taken_apart_for_export():
    model = NNXCoder(nnx.Rngs(0))
    model.rngs = nnx.Rngs(1)
    network = as_network(model, encode)
    assert network.rebuild(network.arrays).first.out_features == 5


def test_stacked_layers_and_weights_that_are_no_arrays_keep_their_sizes():
    stacked = eqx.filter_vmap(lambda k: eqx.nn.Linear(3, 4, key=k))(
        jax.random.split(jax.random.key(0), 2)
    )
    wrapped = eqx.tree_at(lambda m: m.weight, stacked, (stacked.weight,))
    for layer in (stacked, wrapped):
        resized = resize_equinox(layer)
        assert (resized.in_features, resized.out_features) == (3, 4)
