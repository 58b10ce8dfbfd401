"""From an ordinary model to its ensemble and back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import meanfield as mf

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (5, 3))


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.relu(x))


class NNXNormed(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.dense(x))))


def models():
    linen = LinenNormed()
    return {
        "equinox": eqx.nn.MLP(3, 2, 4, 1, key=KEY),
        "linen": (linen.apply, linen.init(KEY, X)),
        "nnx": NNXNormed(nnx.Rngs(0)),
        "plain": (
            lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"] + w["b"],
            {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2)), "b": jnp.zeros(2)},
        ),
    }


def call(model, x):
    if isinstance(model, tuple):
        return model[0](model[1], x)
    return jax.vmap(model)(x) if isinstance(model, eqx.Module) else model(x)


@pytest.mark.parametrize("name", models())
def test_a_model_comes_back_as_the_type_it_was(name):
    model = models()[name]
    ensemble = mf.Ensemble.from_model(model)
    drawn, mean = ensemble.sample(KEY), ensemble.mean_network()
    assert type(drawn) is type(mean) is type(model)
    np.testing.assert_allclose(call(mean, X), call(model, X), rtol=1e-5, atol=1e-6)
    assert not np.allclose(call(drawn, X), call(model, X), atol=1e-3)
    np.testing.assert_array_equal(call(ensemble.sample(KEY), X), call(drawn, X))
    assert ensemble.num_weights == sum(w.size for w in ensemble.weights().values())
    moments = ensemble.moments(X)
    assert moments.mean.shape == call(model, X).shape
    assert (moments.var > 0).all()


@pytest.mark.parametrize("name", models())
def test_learning_leaves_running_statistics_alone(name):
    ensemble = mf.Ensemble.from_model(models()[name], key=KEY)
    y = jnp.array([0, 1, 1, 0, 1])
    result = mf.fit(
        ensemble, (X, y), key=KEY, epochs=2, batch_size=5, progress=False, prior=None
    )
    before, after = (
        {mf_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(e.params)}
        for e in (ensemble, result.ensemble)
    )
    frozen = set(ensemble.frozen)
    assert bool(frozen) == (name in ("linen", "nnx"))
    moved = {
        n for n in before if eqx.is_array(before[n]) and (before[n] != after[n]).any()
    }
    assert moved
    assert not moved & frozen


def mf_name(path):
    from meanfield.trees import path_name

    return path_name(path)


def test_draws_have_exact_zeros_where_the_spike_says_so():
    ensemble = mf.Ensemble.from_model(eqx.nn.MLP(3, 2, 50, 2, key=KEY), key=KEY)
    half = {
        name: mf.SpikeSlab(jnp.full(w.shape, 0.5), w.slab_mean, w.slab_var)
        for name, w in ensemble.weights().items()
    }
    drawn = ensemble.with_weights(half).sample(KEY)
    zeros = sum(int((layer.weight == 0).sum()) for layer in drawn.layers)
    number = ensemble.num_weights
    assert abs(zeros - number / 2) < 5 * np.sqrt(number / 4)


def test_where_says_which_leaves_are_random():
    network = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    some = mf.Ensemble.from_model(
        network, where=lambda name, _: name == "layers/1/weight"
    )
    assert list(some.weights()) == ["layers/1/weight"]
    biased = mf.Ensemble.from_model(
        network, key=KEY, where=lambda name, array: name.endswith("bias")
    )
    assert set(biased.weights()) == {"layers/0/bias", "layers/1/bias"}
    assert biased(X, key=KEY).shape == (5, 2)


def test_an_example_gives_layers_stacked_for_a_scan_their_fan_in():
    def network(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    model = (network, jnp.zeros((7, 3, 3)))
    guessed = mf.Ensemble.from_model(model, key=KEY).weights()[""]
    told = mf.Ensemble.from_model(model, key=KEY, example=X).weights()[""]
    np.testing.assert_allclose(told.slab_var / guessed.slab_var, 7, rtol=1e-5)


def test_replacing_weights_checks_names_and_shapes():
    ensemble = mf.Ensemble.from_model(eqx.nn.Linear(3, 2, key=KEY))
    with pytest.raises(ValueError, match="`weights` must .*got 'nope' of shape"):
        ensemble.with_weights({"nope": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"got 'weight' of shape \(3, 2\)"):
        ensemble.with_weights({"weight": jnp.ones((3, 2))})


class NoWeights(eqx.Module):
    scale: jax.Array

    def __call__(self, x):
        return self.scale * x


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        (NoWeights(jnp.ones(3)), {}, ValueError, "no weight to make random.*float32"),
        (NoWeights(jnp.ones((3, 3), int)), {}, ValueError, r"no weight.*int32\[3, 3\]"),
        ((lambda p, x: x, {}), {}, ValueError, "its arrays are none"),
        (lambda x: x, {}, TypeError, "`model` must be an Equinox module.*function"),
        (
            nn.Dense(3),
            {},
            TypeError,
            "Linen module as .module.apply, variables",
        ),
        (
            eqx.nn.Linear(3, 2, key=KEY),
            {"initial": "xavier"},
            ValueError,
            "`initial` must be 'critical', 'model' or a function; got 'xavier'",
        ),
        (
            eqx.nn.Linear(3, 2, key=KEY),
            {"initial": "critical"},
            ValueError,
            "`key` is needed to draw fresh weights",
        ),
        (
            eqx.nn.Linear(3, 2, key=KEY),
            {"where": lambda name, array: False},
            ValueError,
            "with `where`: none that it accepts",
        ),
    ],
)
def test_models_without_random_weights_are_refused(model, settings, error, message):
    with pytest.raises(error, match=message):
        mf.Ensemble.from_model(model, **settings)


def test_parameters_of_a_draw_and_of_the_mean_are_those_of_the_models():
    net = eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
    key = jax.random.key(2)
    for params, model in [
        (ensemble.sample_params(key), ensemble.sample(key)),
        (ensemble.mean_params(), ensemble.mean_network()),
    ]:
        assert eqx.tree_equal(params, model)
    mean = ensemble.mean_params().layers[0].weight
    weight = ensemble.weights()["layers/0/weight"]
    np.testing.assert_array_equal(mean, (1 - weight.spike_prob) * weight.slab_mean)
    dictionary = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    plain = mf.Ensemble.from_model((lambda p, x: x @ p["w"] + p["b"], dictionary))
    drawn = plain.sample_params(key)
    assert set(drawn) == {"w", "b"}
    assert drawn["w"].shape == (2, 3)


def test_numbers_of_python_among_the_parameters_are_settings_and_stay():
    params = {"w": np.ones((4, 3), np.float32), "steepness": 0.2, "layers": 2}

    def apply(p, x):
        for _ in range(p["layers"]):
            x = jax.nn.leaky_relu(x, p["steepness"])
        return x @ p["w"]

    ensemble = mf.Ensemble.from_model((apply, params))
    assert ensemble.params["steepness"] == 0.2
    assert ensemble.params["layers"] == 2
    point, x = mf.Ensemble.from_points((apply, params)), jnp.full((5, 4), -1.0)
    expected = np.full((5, 3), -4 * 0.2**2, np.float32)
    np.testing.assert_allclose(point(x, key=KEY), expected, rtol=1e-6)


def test_a_pair_with_a_module_keeps_what_the_module_fixes():
    layers = [eqx.nn.Linear(4, 8, key=KEY), eqx.nn.Dropout(0.5)]
    network = eqx.nn.inference_mode(eqx.nn.Sequential(layers))
    pair = (lambda m, x: jax.vmap(lambda row: m(row))(x), network)
    x = jax.random.normal(KEY, (16, 4))
    point = mf.Ensemble.from_points(pair)
    np.testing.assert_allclose(point(x, key=KEY), pair[0](network, x), rtol=1e-6)
