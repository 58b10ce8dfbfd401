"""Values of neurons, channels and recurrent units against the games they stand for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.games.exact import all_coalitions, marginal_values, shapley_weights
from meanfield.neurons.unit_shapley import all_layers
from meanfield.program.steps import trace

KEY = jax.random.key(0)


def assert_close(found, exact, errors, count=5):
    assert np.all(np.abs(found - exact) <= count * errors + 1e-5), (
        np.abs(found - exact) / errors
    )


def relative_error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def classifier(widths=(6, 10, 8, 3), seed=0):
    network = mlp(widths, key=jax.random.key(seed))
    network = jax.tree.map(lambda a: 2 * a if eqx.is_array(a) else a, network)
    x = jax.random.normal(jax.random.key(seed + 1), (80, widths[0]))
    return network, (x, jax.vmap(network)(x).argmax(1))


def exact_values(ensemble, layer, data, **settings):
    game = mf.NeuronGame(ensemble, layer, data, **settings)
    found = mf.shapley_values(game, game.num_players, budget=2**game.num_players)
    assert found.method == "exact"
    return found


@pytest.mark.parametrize("replacement", ["mean", "zero"])
@pytest.mark.parametrize("layer", ["layers/0", "layers/1"])
def test_neurons_of_a_small_layer_agree_with_enumeration(layer, replacement):
    network, data = classifier()
    ensemble = mf.Ensemble.from_points(network)
    exact = exact_values(ensemble, layer, data, replacement=replacement)
    found = mf.unit_values(
        ensemble, data, key=KEY, layer=layer, replacement=replacement, num_samples=64
    )
    # Eight or ten units are few for a Gaussian sum.
    assert relative_error(found.values[layer], exact.values) < 0.2
    assert np.corrcoef(found.values[layer], exact.values)[0, 1] > 0.97
    np.testing.assert_allclose(found.payoff, exact.grand_value, atol=1e-6)
    np.testing.assert_allclose(found.empty_payoff, exact.empty_value, atol=1e-6)
    assert abs(found.efficiency_gap) < 5 * found.gap_error + found.quadrature_error


def test_a_linear_readout_is_exact():
    network = mlp((4, 7, 2), key=KEY, activation=jnp.tanh)
    ensemble = mf.Ensemble.from_points(network)
    x = jax.random.normal(KEY, (60, 4))
    data = x, jnp.sin(x[:, :2])
    found = mf.unit_values(
        ensemble, data, key=KEY, likelihood=mf.Gaussian(scale=1.0), num_samples=128
    )
    exact = mf.neurons.readout_values(ensemble, "layers/0", data)
    errors = found.standard_errors["layers/0"]
    assert_close(found.values["layers/0"], exact, errors)
    assert np.linalg.norm(exact) > 5 * np.linalg.norm(errors)


def test_two_linear_layers_in_one_game_are_exact():
    rng = np.random.default_rng(0)
    first, second, last = (rng.normal(0.3, 0.7, s) for s in ((3, 4), (4, 3), (3, 1)))
    names = ("first", "second", "last")
    params = {
        name: {"w": jnp.asarray(w, jnp.float32)}
        for name, w in zip(names, (first, second, last), strict=True)
    }

    def apply(params, x):
        for name in names:
            x = x @ params[name]["w"]
        return x

    x = rng.normal(0.5, 1, (30, 3))
    y = rng.normal(0, 1, (30, 1))
    hidden = x @ first
    rests = hidden.mean(0), (hidden @ second).mean(0)
    payoffs = []
    for mask in all_coalitions(7):
        a = np.where(mask[:4], hidden, rests[0])
        b = np.where(mask[4:], a @ second, rests[1])
        payoffs.append(-np.square(b @ last - y).mean())
    exact = marginal_values(np.array(payoffs), shapley_weights(6))
    found = mf.unit_values(
        mf.Ensemble.from_points((apply, params)),
        (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)),
        key=KEY,
        likelihood=mf.Gaussian(scale=1.0),
        num_samples=256,
    )
    assert list(found.values) == ["first", "second"]
    values, errors = (
        np.concatenate([part["first"], part["second"]])
        for part in (found.values, found.standard_errors)
    )
    assert_close(values, exact, errors)
    np.testing.assert_allclose(found.empty_payoff, payoffs[0], rtol=1e-4)
    np.testing.assert_allclose(found.payoff, payoffs[-1], rtol=1e-4)


def test_units_without_effect_get_exactly_nothing():
    network, (x, y) = classifier()
    first, second = network.layers[0], network.layers[1]
    network = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[0].bias, n.layers[1].weight),
        network,
        (
            first.weight.at[2].set(0.0),  # constant: its bias alone
            first.bias.at[5].set(-100.0),  # never fires
            second.weight.at[:, 7].set(0.0),  # nobody reads it
        ),
    )
    found = mf.unit_values(mf.Ensemble.from_points(network), (x, y), key=KEY)
    for part in (found.values, found.standard_errors, found.rms):
        assert (part["layers/0"][np.array([2, 5, 7])] == 0).all()
        assert (part["layers/0"][np.array([0, 1, 3])] != 0).all()


class Channels(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.b = nnx.Linear(384, 3, rngs=rngs)

    def __call__(self, x):
        return 3 * self.b(nnx.relu(self.a(x)).reshape(x.shape[0], -1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return 3 * nn.Dense(3)(nn.RNN(nn.GRUCell(7, name="cell"))(x)[:, -1])


def channels():
    x = jax.random.normal(jax.random.key(5), (40, 8, 8, 1))
    return Channels(), x, "a"


def recurrent():
    x = jax.random.normal(jax.random.key(6), (40, 5, 2))
    return (Recurrent().apply, Recurrent().init(KEY, x)), x, "params/cell"


@pytest.mark.parametrize("make", [channels, recurrent])
def test_channels_and_recurrent_units_play_their_game(make):
    model, x, layer = make()
    ensemble = mf.Ensemble.from_points(model)
    y = ensemble(x, key=KEY).argmax(1)
    exact = exact_values(ensemble, layer, (x, y))
    found = mf.unit_values(ensemble, (x, y), key=KEY, num_samples=48)
    (name,) = found.values
    assert name.startswith(layer)  # gates of one state count once
    assert relative_error(found.values[name], exact.values) < 0.2
    np.testing.assert_allclose(found.payoff, exact.grand_value, atol=1e-6)
    np.testing.assert_allclose(found.empty_payoff, exact.empty_value, atol=1e-6)


class EquinoxHeads(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __init__(self):
        self.attention = eqx.nn.MultiheadAttention(4, 8, key=KEY)
        self.out = eqx.nn.Linear(8, 3, key=jax.random.key(1))

    def __call__(self, xs):
        return 3 * self.out((xs + self.attention(xs, xs, xs)).mean(0))


class LinenHeads(nn.Module):
    @nn.compact
    def __call__(self, xs):
        attention = nn.MultiHeadDotProductAttention(4, name="attention")
        return 3 * nn.Dense(3)((xs + attention(xs)).mean(1))


class NNXHeads(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(
            4, 8, deterministic=True, decode=False, rngs=rngs
        )
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, xs):
        return 3 * self.out((xs + self.attention(xs)).mean(1))


SEQUENCES = 2 * jax.random.normal(jax.random.key(2), (30, 5, 8))


def linen_heads():
    return LinenHeads().apply, LinenHeads().init(KEY, SEQUENCES)


HEADS = [
    (EquinoxHeads, "attention"),
    (linen_heads, "params/attention"),
    (NNXHeads, "attention"),
]


@pytest.mark.parametrize(("make", "layer"), HEADS)
def test_heads_of_an_attention_play_their_game(make, layer):
    ensemble = mf.Ensemble.from_points(make())
    y = ensemble(SEQUENCES, key=KEY).argmax(1)
    exact = exact_values(ensemble, layer, (SEQUENCES, y))
    program = trace(ensemble.apply_fn, ensemble.mean_params(), SEQUENCES)
    # The heads stand for the layers that feed them.
    playing = {name.rpartition("/")[2] for name in all_layers(program)}
    assert "attention" in playing
    assert not playing & {"query", "query_proj", "value", "value_proj"}
    found = mf.unit_values(
        ensemble, (SEQUENCES, y), key=KEY, layer=layer, num_samples=64
    )
    assert relative_error(found.values[layer], exact.values) < 0.2
    np.testing.assert_allclose(found.payoff, exact.grand_value, atol=1e-6)
    np.testing.assert_allclose(found.empty_payoff, exact.empty_value, atol=1e-6)


def test_a_head_outside_rests_at_its_mean_output():
    model = NNXHeads()
    y = model(SEQUENCES).argmax(1)
    game = mf.NeuronGame(mf.Ensemble.from_points(model), "attention", (SEQUENCES, y))
    attention = model.attention
    parts = [
        part(SEQUENCES) for part in (attention.query, attention.key, attention.value)
    ]
    heads = nnx.dot_product_attention(*parts)
    rest = heads.mean((0, 1))
    for mask in all_coalitions(4)[::3]:
        held = jnp.where(mask[:, None], heads, rest)
        logits = 3 * model.out((SEQUENCES + attention.out(held)).mean(1))
        payoff = jax.nn.softmax(logits)[jnp.arange(len(y)), y].mean()
        np.testing.assert_allclose(game(mask[None])[0], payoff, atol=1e-5)


def test_groups_of_examples_add_up_and_an_ensemble_plays_its_means():
    network, (x, y) = classifier()
    ensemble = mf.Ensemble.from_model(network, key=jax.random.key(4))
    found = mf.unit_values(ensemble, (x, y), key=KEY, groups=y, num_checks=8)
    for layer, value in found.values.items():
        parts = [group[layer] for group in found.by_group.values()]
        np.testing.assert_allclose(sum(parts), value, atol=1e-6)
    means = mf.Ensemble.from_points(ensemble.mean_network())
    same = mf.unit_values(means, (x, y), key=KEY, groups=y)
    np.testing.assert_allclose(same.values["layers/0"], found.values["layers/0"])
    assert found.check.verdict in ("agrees", "differs", "cannot tell")
    drawn = sum(found.check.drawn_sums.values())
    scale = found.payoff - found.empty_payoff
    np.testing.assert_allclose(drawn, scale, atol=1e-5)


def test_a_second_call_compiles_nothing(caplog):
    network, data = classifier()
    ensemble = mf.Ensemble.from_points(network)
    mf.unit_values(ensemble, data, key=KEY)
    with jax.log_compiles():
        mf.unit_values(ensemble, data, key=jax.random.key(1))
    assert not [r for r in caplog.records if "_integrate" in r.getMessage()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "layers/9"}, "`layer` must be a layer with weights"),
        ({"replacement": "median"}, "`replacement` must be 'mean' or 'zero'"),
        ({"payoff": "accuracy"}, 'must have a gradient; got "accuracy"'),
        ({"num_samples": 1}, "`num_samples` must be at least 2"),
        ({"groups": [1]}, "one label for each of the 80 examples"),
    ],
)
def test_bad_input_is_refused(settings, message):
    network, data = classifier()
    with pytest.raises(ValueError, match=message):
        mf.unit_values(mf.Ensemble.from_points(network), data, key=KEY, **settings)


def test_a_layer_whose_units_cannot_be_gated_is_named():
    params = {"table": {"w": jnp.ones((5, 4))}, "out": {"w": jnp.ones((4, 3))}}
    apply = lambda p, x: p["table"]["w"][x] @ p["out"]["w"]
    data = jnp.arange(10) % 5, jnp.arange(10) % 3
    with pytest.raises(ValueError, match=r"'table' cannot be masked"):
        mf.unit_values(
            mf.Ensemble.from_points((apply, params)), data, key=KEY, layer="table"
        )
    with pytest.raises(ValueError, match="at least two units in total; got 0"):
        mf.unit_values(mf.Ensemble.from_points((apply, params)), data, key=KEY)
