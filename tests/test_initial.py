"""Where learning starts: fan-ins, and the scale of a signal many layers deep."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx
from jax import lax
from models import ZOO, is_weight, keys

import meanfield as mf
from meanfield.ensemble.fan_ins import fan_ins_by_example, model_fan_ins
from meanfield.ensemble.frameworks import open_model
from meanfield.ensemble.initial import critical, from_weights
from meanfield.propagation import count_summands

KEY = jax.random.key(0)
DEPTH = 12
# Shapes tell neither that kernels are stacked, nor a stride, nor a second use.
NOT_TOLD_BY_SHAPE = {
    "linen_stacked_layers_run_by_scan",
    "linen_transposed_conv",
    "equinox_embedding_layer_norm_weight_tying",
    "linen_embedding_layer_norm_weight_tying",
    "nnx_embedding_layer_norm_weight_tying",
}


def power(z):
    return float(jnp.mean(jnp.square(z)))


def guessed(name, case):
    """Fan-ins by types, names and shapes, and the same read off the program."""
    if name.startswith("equinox"):
        model, x = case.params, case.x
    elif name.startswith("linen"):
        model, x = (case.apply, case.params), case.x
    else:
        graph = case.apply.__closure__[0].cell_contents
        model, x = nnx.merge(graph, case.params), case.x
    opened = open_model(model)
    params, apply_fn, fans = (
        opened.params,
        opened.apply_fn,
        model_fan_ins(model, opened),
    )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    chosen = [mf_name(path) for path, leaf in leaves if is_weight(leaf)]
    return fans, fan_ins_by_example(apply_fn, params, chosen, x)


def mf_name(path):
    from meanfield.trees import path_name

    return path_name(path)


@pytest.mark.parametrize("name", ZOO)
def test_fan_ins_by_type_and_shape_are_those_of_the_program(name):
    fans, exact = guessed(name, ZOO[name]())
    assert exact
    assert set(exact) <= set(fans)
    same = all(fans[leaf] == number for leaf, number in exact.items() if number > 1)
    assert same != (name in NOT_TOLD_BY_SHAPE), (fans, exact)


def test_summands_are_counted_once_for_each_use():
    weight = mf.SpikeSlab(*jnp.ones((3, 5, 4)))

    def network(params, x):
        w = params["w"]
        rows = x @ w
        _, again = lax.scan(lambda c, row: (c, row @ w.T), None, rows)
        return again, w[0] * x[:, :1]

    found = count_summands(
        network, {"w": weight}, jax.ShapeDtypeStruct((2, 5), "float32")
    )
    assert found["w"][0] == 5
    assert 4 in found["w"]
    assert found["w"][-1] == 1


class LinenTower(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.scan(
            LinenRelu,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=DEPTH,
        )
        return layer()(x, None)[0]


class LinenRelu(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(200, use_bias=False)(x)), None


class NNXTower(nnx.Module):
    def __init__(self, make):
        self.layers = nnx.List([make(nnx.Rngs(n)) for n in range(DEPTH)])

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


def equinox_tower(make):
    layers = [
        layer for k in keys(DEPTH) for layer in (make(k), eqx.nn.Lambda(jax.nn.relu))
    ]
    return eqx.nn.Sequential(layers)


def dense_towers():
    linen = LinenTower()
    x = jax.random.normal(KEY, (32, 200))
    wide = eqx.filter_vmap(lambda k: eqx.nn.Linear(200, 200, use_bias=False, key=k))

    class Stacked(eqx.Module):
        layers: eqx.nn.Linear

        def __call__(self, x):
            arrays, static = eqx.partition(self.layers, eqx.is_array)
            step = lambda x, a: (jax.nn.relu(eqx.combine(a, static)(x)), None)
            return lax.scan(step, x, arrays)[0]

    plain = lambda weights, x: lax.scan(
        lambda x, w: (
            jax.nn.relu(jnp.einsum("bhi,hij->bj", x.reshape(-1, 4, 50), w)),
            None,
        ),
        x,
        weights,
    )[0]
    return {
        "equinox": (equinox_tower(lambda k: eqx.nn.Linear(200, 200, key=k)), x, False),
        "equinox stacked": (Stacked(wide(keys(DEPTH))), x, False),
        "linen stacked": ((linen.apply, linen.init(KEY, x)), x, True),
        "plain einsum stacked": ((plain, jnp.ones((DEPTH, 4, 50, 200))), x, True),
        "nnx general": (
            NNXTower(lambda r: nnx.LinearGeneral(200, 200, use_bias=False, rngs=r)),
            x,
            False,
        ),
    }


@pytest.mark.parametrize("name", dense_towers())
def test_the_signal_keeps_its_scale_through_dense_layers(name):
    model, x, needs_example = dense_towers()[name]
    example = jax.ShapeDtypeStruct(x.shape, x.dtype) if needs_example else None
    powers = []
    for seed in range(4):
        ensemble = mf.Ensemble.from_model(
            model, key=jax.random.key(seed), example=example
        )
        powers.append(power(ensemble(x, key=jax.random.key(seed + 9))))
    # ⟨relu²⟩ is half of ⟨z²⟩, so it returns to ⟨x²⟩ = 1; ln q walks by √(5/width)
    # a layer, which four networks average to 0.27.
    assert abs(np.log(powers).mean()) < 3 * np.sqrt(5 * DEPTH / 200) / 2


def conv_towers():
    x = jax.random.normal(KEY, (4, 32, 8, 8))
    last = jnp.moveaxis(x, 1, -1)
    ring = {"padding": 1, "padding_mode": "CIRCULAR"}
    return {
        "equinox": (
            equinox_tower(lambda k: eqx.nn.Conv2d(32, 32, 3, groups=2, key=k, **ring)),
            x,
        ),
        "nnx": (
            NNXTower(lambda r: nnx.Conv(32, 32, (3, 3), padding="CIRCULAR", rngs=r)),
            last,
        ),
    }


@pytest.mark.parametrize("name", conv_towers())
def test_the_signal_keeps_its_scale_through_convolutions(name):
    model, x = conv_towers()[name]
    powers = []
    for seed in range(4):
        ensemble = mf.Ensemble.from_model(model, key=jax.random.key(seed))
        powers.append(power(ensemble(x, key=jax.random.key(seed + 9))))
    assert abs(np.log(powers).mean()) < 3 * np.sqrt(5 * DEPTH / 32) / 2


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_keeps_the_scale_whatever_its_stride(stride):
    x = jax.random.normal(KEY, (4, 64, 12, 12))
    layer = eqx.nn.ConvTranspose2d(64, 64, 4, stride=stride, use_bias=False, key=KEY)
    ratios = []
    for seed in range(4):
        ensemble = mf.Ensemble.from_model(layer, key=jax.random.key(seed))
        z = ensemble(x, key=KEY)
        edge = 4
        ratios.append(power(z[:, :, edge:-edge, edge:-edge]) / 2)
    assert abs(np.mean(ratios) - 1) < 0.1


def test_attention_projections_keep_the_scale():
    attention = nn.MultiHeadDotProductAttention(8)
    x = jax.random.normal(KEY, (2, 16, 128))
    variables = attention.init(KEY, x)
    ensemble = mf.Ensemble.from_model((attention.apply, variables), key=KEY)
    for kind in ("query", "key", "value"):
        weight = ensemble.weights()[f"params/{kind}/kernel"]
        second = jnp.mean(weight.var + jnp.square(weight.mean))
        assert abs(128 * float(second) / 2 - 1) < 0.05
    out = ensemble.weights()["params/out/kernel"]
    second = jnp.mean(out.var + jnp.square(out.mean))
    assert abs(128 * float(second) / 2 - 1) < 0.05


def test_biases_of_two_dimensions_keep_their_values():
    layer = eqx.nn.Conv2d(1, 8, 3, key=KEY)
    ensemble = mf.Ensemble.from_model(layer, key=jax.random.key(1))
    np.testing.assert_array_equal(ensemble.weights()["bias"].slab_mean, layer.bias)


def test_the_second_moment_is_the_gain_over_the_fan_in():
    start = critical(gain=2.0, slab_share=0.25, spike_prob=0.2)
    weight = start("w", jnp.zeros((400, 300)), 300, KEY)
    second = np.asarray(weight.var + jnp.square(weight.mean), np.float64)
    error = second.std() / np.sqrt(second.size)
    assert abs(second.mean() - 2 / 300) < 5 * error
    np.testing.assert_allclose(weight.slab_var, 0.25 * 2 / (300 * 0.8), rtol=1e-6)
    np.testing.assert_allclose(weight.spike_prob, 0.2, rtol=1e-6)


def test_a_trained_network_is_taken_as_it_is():
    weights = jnp.array([[1.0, -3.0], [0.0, 0.0]])
    weight = from_weights(slab_share=0.1)("w", weights, 2, KEY)
    np.testing.assert_array_equal(weight.slab_mean, weights)
    np.testing.assert_allclose(weight.slab_var, 0.25, rtol=1e-6)
    silent = from_weights(slab_share=0.1)("w", jnp.zeros((2, 2)), 2, KEY)
    np.testing.assert_allclose(silent.slab_var, 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: critical(gain=0.0), "`gain` must be positive; got 0.0"),
        (lambda: critical(slab_share=1.0), r"`slab_share` must lie in \[0, 1\)"),
        (lambda: critical(spike_prob=1.0), r"`spike_prob` must lie in \[0, 1\)"),
        (lambda: from_weights(slab_share=-1.0), "`slab_share` must not be negative"),
        (lambda: from_weights(spike_prob=-0.1), r"`spike_prob` must lie in \[0, 1\)"),
    ],
)
def test_starts_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_is_opened_by_one_program():
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(seconds)

    net = eqx.nn.MLP(5, 3, 7, 2, key=jax.random.key(0))  # Of sizes met nowhere else.
    key = jax.random.key(1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    ensemble = mf.Ensemble.from_model(net, key=key)
    assert len(compiled) <= 3
    compiled.clear()
    mf.Ensemble.from_model(net, key=jax.random.key(2))
    assert not compiled
    # The same numbers as one array after the other.
    steps = mf.Ensemble.from_model(net, key=key, initial=critical())
    for one, other in zip(
        jax.tree.leaves(ensemble.params), jax.tree.leaves(steps.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    broken = eqx.tree_at(lambda n: n.layers[0].weight, net, jnp.full((7, 5), jnp.nan))
    with pytest.raises(ValueError, match="must be finite"):
        mf.Ensemble.from_model(broken)
