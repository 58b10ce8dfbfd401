import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deploy_networks import (
    STRUCTURES,
    Attention,
    Recurrent,
    Residual,
    batch,
    dense,
    mask,
    sizes,
)
from oracles_deploy import mlp, units_on_live_paths

from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shrinking.shrink import shrink

KEY = jax.random.key(0)


def put(model, **arrays):
    network = as_network(model)
    named = {name.replace("__", "/"): jnp.asarray(a) for name, a in arrays.items()}
    return network.rebuild({**network.arrays, **named})


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("density", [0.5, 0.25, 0.12, 0.06])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_shrunk_network_equals_the_masked_one(name, density, seed):
    make, shape = STRUCTURES[name]
    model = mask(make(jax.random.key(seed)), density, seed)
    before = as_network(model).arrays
    shrunk = shrink(model, batch(shape), allow_constant=True)
    assert shrunk.largest_difference <= 1e-5
    assert type(shrunk.model) is type(model)
    after = as_network(shrunk.model).arrays
    assert all(after[k].size <= before[k].size for k in before)
    # What was kept is the old array, at the indices given, but for folded biases.
    for array in (k for k in before if "weight" in k):
        np.testing.assert_array_equal(
            after[array], shrunk.slice_like(array, before[array])
        )


@pytest.mark.parametrize("name", STRUCTURES)
def test_jax_runs_the_shrunk_model_to_the_same_outputs(name):
    make, shape = STRUCTURES[name]
    model, x = mask(make(KEY), 0.15, 4), batch(shape, 3)
    shrunk = shrink(model, x, allow_constant=True)
    expected = jax.jit(jax.vmap(model))(x)
    actual = jax.jit(jax.vmap(shrunk.model))(shrunk.select_inputs(x))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_a_dense_network_keeps_exactly_the_units_on_live_paths(seed):
    model = mask(eqx.nn.MLP(6, 3, 7, 2, key=jax.random.key(seed)), 0.25, seed)
    weights = [np.asarray(layer.weight) for layer in model.layers]
    live = units_on_live_paths(weights)
    if not live[0]:
        with pytest.raises(ValueError, match="shrunk to nothing"):
            shrink(model, batch((6,)))
        return
    shrunk = shrink(model, batch((6,)))
    widths = [layer.out_features for layer in shrunk.model.layers[:-1]]
    assert widths == [len(live[1]), len(live[2])]
    kept = shrunk.kept_inputs.get(0, np.arange(6))
    assert set(kept.tolist()) == live[0]
    assert set(shrunk.kept["layers/1/weight"][0].tolist()) == live[2]
    assert shrunk.model.in_size == len(live[0])
    assert shrunk.model.out_size == 3


@pytest.mark.parametrize("seed", range(6))
def test_a_convolutional_network_keeps_exactly_the_channels_on_live_paths(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 6, 3, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(6, 5, 2, key=keys[1]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(20, 7, key=keys[2]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(7, 3, key=keys[3]),
        ]
    )
    # Whole kernels go, so that channels become unreachable.
    random = np.random.default_rng(seed)
    arrays = as_network(model).arrays
    kernels = {
        name.replace("/", "__"): array * (random.random((*array.shape[:2], 1, 1)) < 0.3)
        for name, array in arrays.items()
        if array.ndim == 4
    }
    dense = {
        name.replace("/", "__"): array * (random.random(array.shape) < 0.2)
        for name, array in arrays.items()
        if array.ndim == 2
    }
    model = put(model, **kernels, **dense)
    first, second = (
        np.asarray(model.layers[i].weight).any(axis=(2, 3)) for i in (0, 3)
    )
    flat = np.asarray(model.layers[6].weight).reshape(7, 5, 4).any(axis=2)
    live = units_on_live_paths(
        [first, second, flat, np.asarray(model.layers[8].weight)]
    )
    assert live[0], "a seed with a live path is wanted"
    shrunk = shrink(model, batch((2, 8, 8)))
    channels = [shrunk.model.layers[i].out_channels for i in (0, 3)]
    assert channels == [len(live[1]), len(live[2])]
    assert shrunk.model.layers[6].in_features == 4 * len(live[2])
    assert shrunk.model.layers[6].out_features == len(live[3])
    assert len(shrunk.kept_inputs.get(0, range(2))) == len(live[0])


@pytest.mark.parametrize("name", STRUCTURES)
def test_shrinking_twice_changes_nothing(name):
    make, shape = STRUCTURES[name]
    x = batch(shape)
    once = shrink(mask(make(KEY), 0.15, 2), x, allow_constant=True)
    small = once.select_inputs(x)
    twice = shrink(once.model, small, allow_constant=True)
    assert sizes(twice.model) == sizes(once.model)
    assert twice.kept_inputs == {}


def test_a_constant_unit_folds_its_activation_into_the_next_bias():
    model = eqx.nn.MLP(4, 2, 5, 1, activation=jnp.tanh, key=KEY)
    weight = model.layers[0].weight.at[3].set(0)
    model = eqx.tree_at(lambda m: m.layers[0].weight, model, weight)
    shrunk = shrink(model, batch((4,)))
    constant = math.tanh(float(model.layers[0].bias[3]))
    expected = model.layers[1].bias + model.layers[1].weight[:, 3] * constant
    np.testing.assert_allclose(shrunk.model.layers[1].bias, expected, atol=1e-6)
    assert shrunk.kept["layers/0/weight"][0].tolist() == [0, 1, 2, 4]


def test_a_constant_unit_stays_where_no_bias_can_take_it():
    model = eqx.nn.MLP(4, 2, 5, 1, use_final_bias=False, key=KEY)
    layer = model.layers[0]
    model = eqx.tree_at(
        lambda m: (m.layers[0].weight, m.layers[0].bias),
        model,
        (layer.weight.at[:2].set(0), layer.bias.at[:2].set([0.7, -0.7])),
    )
    shrunk = shrink(model, batch((4,)))
    # relu(0.7) is needed and has nowhere to go; relu(-0.7) = 0 may go.
    assert shrunk.kept["layers/0/weight"][0].tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize(("padding", "left"), [(0, 4), (1, 5)])
def test_a_constant_channel_folds_unless_padding_breaks_it_at_the_border(padding, left):
    one, two = jax.random.split(KEY)
    first = eqx.nn.Conv2d(2, 6, 3, key=one)
    # Channels 1 and 2 hear nothing: constants 0.5 and, after the ReLU, 0.
    weight = first.weight.at[1:3].set(0)
    bias = first.bias.at[1].set(0.5).at[2].set(-0.5)
    first = eqx.tree_at(lambda c: (c.weight, c.bias), first, (weight, bias))
    second = eqx.nn.Conv2d(6, 3, 3, padding=padding, key=two)
    model = eqx.nn.Sequential([first, eqx.nn.Lambda(jax.nn.relu), second])
    shrunk = shrink(model, batch((2, 8, 8)))
    assert shrunk.model.layers[0].out_channels == left
    assert shrunk.model.layers[2].in_channels == left


def test_dead_inputs_are_left_out_and_listed():
    model = eqx.nn.MLP(6, 2, 5, 1, key=KEY)
    weight = model.layers[0].weight.at[:, jnp.array([0, 4])].set(0)
    model = eqx.tree_at(lambda m: m.layers[0].weight, model, weight)
    x = batch((6,))
    shrunk = shrink(model, x)
    assert shrunk.kept_inputs[0].tolist() == [1, 2, 3, 5]
    np.testing.assert_array_equal(shrunk.select_inputs(x), x[:, [1, 2, 3, 5]])


def test_a_unit_of_a_residual_stream_goes_only_if_dead_in_all_its_readers():
    model = Residual(KEY)
    inner, joined = model.inner.weight, model.joined.weight
    unread = put(
        model,
        inner__weight=inner.at[:, 2].set(0).at[:, 7].set(0),
        joined__weight=joined.at[:, 7].set(0),
    )
    shrunk = shrink(unread, batch((6,)))
    # Unit 2 is still read by `joined`, unit 7 by nobody.
    stream = [i for i in range(12) if i != 7]
    for name, axis in [("first/weight", 0), ("inner/weight", 1), ("back/weight", 0)]:
        assert shrunk.kept[name][axis].tolist() == stream
    assert shrunk.kept["joined/weight"][1].tolist() == [*stream, *range(12, 18)]


@pytest.mark.parametrize(("kind", "gates"), [(eqx.nn.GRUCell, 3), (eqx.nn.LSTMCell, 4)])
def test_a_unit_goes_from_every_gate_of_a_recurrent_cell(kind, gates):
    model = Recurrent(kind, KEY, hidden=6)
    # Unit 1 feeds only itself; unit 4 feeds unit 1 alone: neither reaches the output.
    rows = np.array([g * 6 + u for g in range(gates) for u in range(6) if u != 1])
    hh = np.array(model.cell.weight_hh)
    hh[np.ix_(rows, [1, 4])] = 0
    readout = model.readout.weight.at[:, jnp.array([1, 4])].set(0)
    dead = put(model, cell__weight_hh=hh, readout__weight=readout)
    x = batch((4, 5))
    shrunk = shrink(dead, x)
    assert shrunk.model.cell.hidden_size == 4
    assert shrunk.model.cell.weight_ih.shape == (4 * gates, 5)
    # A longer sequence than the probe has the same answer.
    longer = batch((9, 5), 2, seed=8)
    np.testing.assert_allclose(
        jax.vmap(shrunk.model)(longer), jax.vmap(dead)(longer), atol=1e-5
    )


def test_normalised_units_stay():
    class Normalised(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        last: eqx.nn.Linear

        def __call__(self, x):
            return self.last(self.norm(jax.nn.relu(self.first(x))))

    first, last = eqx.nn.Linear(4, 6, key=KEY), eqx.nn.Linear(6, 2, key=KEY)
    last = eqx.tree_at(lambda m: m.weight, last, last.weight.at[:, 1].set(0))
    shrunk = shrink(Normalised(first, eqx.nn.LayerNorm(6), last), batch((4,)))
    assert shrunk.model.first.out_features == 6


def test_attention_with_an_embedding_stays_equal():
    words = np.random.default_rng(0).integers(0, 7, (5, 6)).astype(np.int32)
    shrunk = shrink(mask(Attention(KEY), 0.5, 0), words)
    assert shrunk.largest_difference <= 1e-5


def test_a_network_shrunk_to_nothing_is_refused():
    model = mask(dense(KEY), 0.0, 0)
    with pytest.raises(
        ValueError, match="`model` is shrunk to nothing.*allow_constant"
    ):
        shrink(model, batch((8,)))


def test_a_network_with_everything_absent_may_become_a_constant():
    model, x = mask(dense(KEY), 0.0, 0), batch((8,))
    shrunk = shrink(model, x, allow_constant=True)
    assert [layer.out_features for layer in shrunk.model.layers] == [1, 1, 1, 3]
    answers = jax.vmap(shrunk.model)(shrunk.select_inputs(x))
    np.testing.assert_allclose(
        answers, np.tile(model.layers[-1].bias, (7, 1)), atol=1e-6
    )


def test_a_single_output_that_hears_nothing_is_recognised():
    model = mask(eqx.nn.MLP(3, 1, 4, 1, key=KEY), 0.0, 0)
    with pytest.raises(ValueError, match="shrunk to nothing"):
        shrink(model, batch((3,)))


def test_units_outside_a_coalition_are_held_at_their_mean():
    model = eqx.nn.MLP(4, 3, 5, 2, activation=jnp.tanh, key=KEY)
    x = batch((4,), 40)
    inside = {
        "layers/0": np.array([True, False, True, True, False]),
        "layers/1": np.array([False, True, True, True, True]),
    }
    shrunk = shrink(model, x, coalition=inside)
    weights = [np.asarray(layer.weight) for layer in model.layers]
    biases = [np.asarray(layer.bias) for layer in model.layers]
    # The means are those of the whole network, unit by unit.
    first = np.tanh(x.astype(np.float64) @ weights[0].T + biases[0])
    second = np.tanh(first @ weights[1].T + biases[1])
    hold = {(0, 1): first[:, 1].mean(), (0, 4): first[:, 4].mean()}
    hold[1, 0] = second[:, 0].mean()
    expected = mlp(weights, biases, x, math.tanh, hold)
    actual = jax.vmap(shrunk.model)(shrunk.select_inputs(x))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert [layer.out_features for layer in shrunk.model.layers] == [3, 4, 3]


def test_a_layer_wholly_outside_its_coalition_keeps_one_silent_unit():
    x = batch((6,), 30)
    nobody = np.zeros(10, bool)
    shrunk = shrink(Residual(KEY), x, coalition={"inner": nobody})
    assert shrunk.model.inner.out_features == 1
    assert shrunk.largest_difference <= 1e-5
    np.testing.assert_array_equal(shrunk.model.back.weight, 0)


@pytest.mark.parametrize(
    ("coalition", "match"),
    [
        ({"nowhere": np.ones(5, bool)}, "must name layers.*got 'nowhere'"),
        ({"layers/0": np.ones(4, bool)}, "must be 12 booleans"),
        ({"layers/0": np.ones(12)}, "must be 12 booleans.*got float64"),
        ({"layers/3": np.array([True, False, True])}, "must not leave out outputs"),
    ],
)
def test_a_coalition_that_cannot_be_folded_is_refused(coalition, match):
    with pytest.raises(ValueError, match=f"`coalition`.*{match}"):
        shrink(dense(KEY), batch((8,)), coalition=coalition)


def test_a_coalition_before_a_padded_convolution_is_refused():
    first = eqx.nn.Conv2d(2, 4, 3, key=KEY)
    second = eqx.nn.Conv2d(4, 3, 3, padding=1, key=KEY)
    model = eqx.nn.Sequential([first, eqx.nn.Lambda(jax.nn.relu), second])
    inside = {"layers/0": np.array([True, True, True, False])}
    with pytest.raises(ValueError, match="zero-padded convolution"):
        shrink(model, batch((2, 6, 6)), coalition=inside)


class FixedSizes(eqx.Module):
    """Writes the width of its hidden layer down."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    halves: bool = eqx.field(static=True)

    def __call__(self, x):
        hidden = jax.nn.relu(self.first(x))
        if self.halves:
            hidden = jnp.concatenate([hidden[:6], 2 * hidden[6:]])
        else:
            hidden = hidden + jnp.ones(12)
        return self.last(hidden)


@pytest.mark.parametrize("halves", [True, False])
def test_units_whose_number_the_code_fixes_are_held(halves):
    first, last = eqx.nn.Linear(6, 12, key=KEY), eqx.nn.Linear(12, 3, key=KEY)
    # One dead unit in the first half shifts what the code calls the second.
    last = eqx.tree_at(lambda m: m.weight, last, last.weight.at[:, 2].set(0))
    first = eqx.tree_at(lambda m: m.weight, first, first.weight.at[:, 5].set(0))
    shrunk = shrink(FixedSizes(first, last, halves), batch((6,)))
    assert shrunk.model.first.out_features == 12
    assert shrunk.kept_inputs[0].tolist() == [0, 1, 2, 3, 4]


def test_a_function_that_fixes_the_shapes_of_its_arrays_is_refused_by_name():
    def apply(params, x):
        return x @ jnp.reshape(params["weight"], (4, 2))

    params = {"weight": jnp.zeros((4, 2)).at[1].set(1.0)}
    with pytest.raises(ValueError, match="`model` does not run with smaller arrays"):
        shrink((apply, params), batch((4,)))


def test_a_pair_of_function_and_params_comes_back_as_one():
    def apply(params, x):
        hidden = jnp.tanh(x @ params["in"] + params["bias"])
        return hidden @ params["out"] + params["last"]

    random = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(random.normal(size=(4, 6)), jnp.float32).at[:, 2].set(0),
        "bias": jnp.ones(6),
        "out": jnp.asarray(random.normal(size=(6, 2)), jnp.float32),
        "last": jnp.zeros(2),
    }
    x = batch((4,))
    function, smaller = shrink((apply, params), x).model
    assert smaller["in"].shape == (4, 5)
    np.testing.assert_allclose(function(smaller, x), apply(params, x), atol=1e-5)


def test_flax_nnx_modules_shrink_to_nnx_modules_that_state_their_sizes():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 6, (3, 3), padding="VALID", rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.hidden = nnx.Linear(6 * 9, 9, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(9, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
            x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
            return self.last(self.drop(x))

    model = Net(nnx.Rngs(0))
    arrays = as_network(model).arrays
    kernel = arrays["hidden/kernel"].reshape(9, 6, 9).at[:, 3].set(0).reshape(54, 9)
    dead = put(model, hidden__kernel=kernel)
    x = batch((8, 8, 2))
    shrunk = shrink(dead, x)
    assert isinstance(shrunk.model, Net)
    assert shrunk.model.conv.out_features == 5
    assert shrunk.model.norm.num_features == 5
    assert shrunk.model.hidden.in_features == 45
    dead.eval()
    shrunk.model.eval()
    np.testing.assert_allclose(shrunk.model(x), dead(x), atol=1e-5)


def test_flax_nnx_recurrent_cells_state_their_sizes():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(nnx.GRUCell(4, 6, rngs=rngs))
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.rnn(x)[:, -1])

    model = Net(nnx.Rngs(0))
    arrays = as_network(model).arrays
    others = np.array([g * 6 + u for g in range(3) for u in range(6) if u != 2])
    inner = np.array(arrays["rnn/cell/dense_h/kernel"])
    inner[np.ix_([2], others)] = 0
    last = arrays["last/kernel"].at[2].set(0)
    dead = put(model, rnn__cell__dense_h__kernel=inner, last__kernel=last)
    shrunk = shrink(dead, batch((5, 4)))
    assert shrunk.model.rnn.cell.hidden_features == 5
    assert shrunk.largest_difference <= 1e-5


def test_flax_linen_functions_take_the_smaller_arrays():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3)(linen.relu(linen.Dense(16)(x)))

    net, x = Net(), batch((6,))
    variables = net.init(KEY, x)
    # Flax numbers layers as they are made: the outer one first.
    hidden = variables["params"]["Dense_1"]
    hidden["kernel"] = hidden["kernel"].at[:, :5].set(0)
    hidden["bias"] = jnp.full(16, 0.3)
    apply, smaller = shrink((net.apply, variables), x).model
    assert smaller["params"]["Dense_1"]["kernel"].shape == (6, 11)
    np.testing.assert_allclose(apply(smaller, x), net.apply(variables, x), atol=1e-5)


def test_a_model_that_draws_random_numbers_is_refused():
    def apply(params, x):
        return x @ params["w"] + jax.random.normal(jax.random.key(0), (2,))

    with pytest.raises(ValueError, match="`model` must not draw random numbers"):
        shrink((apply, {"w": jnp.ones((3, 2))}), batch((3,)))


@pytest.mark.parametrize("model", [jnp.tanh, {"weight": 1}, "network"])
def test_something_that_is_no_network_is_refused(model):
    with pytest.raises(ValueError, match="`model` must be an Equinox module"):
        shrink(model, batch((3,)))


def test_an_empty_probe_is_refused():
    with pytest.raises(ValueError, match="`probe` must be a batch of at least one"):
        shrink(dense(KEY), np.zeros((0, 8), np.float32))


def test_a_network_that_gives_nan_is_refused_as_such():
    network = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    weight = lambda network: network.layers[0].weight
    broken = eqx.tree_at(weight, network, weight(network).at[0, 0].set(np.nan))
    with pytest.raises(ValueError, match=r"`model` must give numbers .*got NaN"):
        shrink(broken, np.ones((4, 3), np.float32))
