import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def dense():
    network = mlp((3, 6, 5, 2), key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (30, 3))
    return ensemble, x, jax.vmap(ensemble.mean_network())(x).argmax(1)


def by_hand(ensemble, x, y, layer, mask):
    """Mean probability of the right class with units held at their mean, in NumPy."""
    network = ensemble.mean_network()
    a = np.asarray(x, np.float64)
    for number, part in enumerate(network.layers):
        a = a @ np.asarray(part.weight, np.float64).T + np.asarray(part.bias)
        if number < len(network.layers) - 1:
            a = np.maximum(a, 0)
        if number == layer:
            a = np.where(mask, a, a.mean(0))
    p = np.exp(a - a.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p[np.arange(len(y)), np.asarray(y)].mean()


@pytest.mark.parametrize("layer", [0, 1])
def test_a_payoff_is_that_of_the_network_with_units_held_at_their_mean(dense, layer):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, f"layers/{layer}", (x, y))
    masks = np.random.default_rng(0).random((20, game.num_players)) < 0.5
    expected = [by_hand(ensemble, x, y, layer, mask) for mask in masks]
    np.testing.assert_allclose(game(masks), expected, rtol=1e-5)


def test_a_coalition_of_another_layer_can_hold_already(dense):
    ensemble, x, y = dense
    held = np.array([True, False, True, True, False, True])
    game = mf.NeuronGame(ensemble, "layers/1", (x, y), fixed={"layers/0": held})
    # Everybody in layer 1 acts: only layer 0 is held.
    payoff = game(np.ones((1, 5), bool))[0]
    np.testing.assert_allclose(payoff, by_hand(ensemble, x, y, 0, held), rtol=1e-5)


def test_shapley_values_of_neurons_match_enumeration_and_are_efficient(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, "layers/1", (x, y))
    exact = mf.shapley_values(game, 5, method="exact")
    sampled = mf.shapley_values(game, 5, budget=400, key=jax.random.key(3))
    ends = game(np.array([[False] * 5, [True] * 5]))
    np.testing.assert_allclose(exact.values.sum(), ends[1] - ends[0], atol=1e-6)
    error = np.abs(sampled.values - exact.values)
    assert (error <= 5 * sampled.standard_errors + 1e-6).all()


def test_a_constant_unit_and_an_unread_unit_are_worth_exactly_nothing(dense):
    ensemble, x, y = dense
    weights = ensemble.weights()
    first, last = weights["layers/1/weight"], weights["layers/2/weight"]
    silent = mf.SpikeSlab(
        first.spike_prob.at[2].set(1.0), first.slab_mean, first.slab_var
    )
    unread = mf.SpikeSlab(
        last.spike_prob.at[:, 4].set(1.0), last.slab_mean, last.slab_var
    )
    changed = ensemble.with_weights(
        {"layers/1/weight": silent, "layers/2/weight": unread}
    )
    game = mf.NeuronGame(changed, "layers/1", (x, y))
    assert game.null_players()[2]
    values = mf.shapley_values(game, 5, budget=100, key=jax.random.key(4)).values
    assert values[2] == 0
    assert values[4] == 0


def test_draws_from_the_posterior_average_their_payoffs(dense):
    ensemble, x, y = dense
    key = jax.random.key(5)
    game = mf.NeuronGame(ensemble, "layers/0", (x, y), num_samples=3, key=key)
    everybody = np.ones((1, 6), bool)
    expected = np.mean(
        [by_hand_of(ensemble.sample(each), x, y) for each in jax.random.split(key, 3)]
    )
    np.testing.assert_allclose(game(everybody)[0], expected, rtol=1e-5)


def by_hand_of(network, x, y):
    probs = jax.nn.softmax(jax.vmap(network)(x))
    return float(probs[jnp.arange(len(y)), y].mean())


def test_a_replayed_game_is_the_new_networks_own_and_compiles_nothing(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, "layers/1", (x, y))
    masks = np.random.default_rng(1).random((20, 5)) < 0.5
    game(masks)
    other = mf.Ensemble.from_model(mlp((3, 6, 5, 2), key=KEY), key=jax.random.key(9))
    data = x[::-1], y[::-1]
    fresh = mf.NeuronGame(other, "layers/1", data)(masks)
    compiled = game._network.scores._cached._cache_size()
    np.testing.assert_array_equal(game.replay(other, data)(masks), fresh)
    assert game._network.scores._cached._cache_size() == compiled
    wider = mf.Ensemble.from_model(mlp((3, 7, 5, 2), key=KEY), key=KEY)
    with pytest.raises(ValueError, match="`ensemble` must have the form"):
        game.replay(wider)
    with pytest.raises(ValueError, match="`data` must have the shapes"):
        game.replay(other, (x[:7], y[:7]))


class Convolution(eqx.Module):
    first: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __call__(self, x):
        a = jax.nn.relu(self.first(x))
        return self.last(a.mean((1, 2)))


def test_channels_of_a_convolution_are_players():
    network = Convolution(eqx.nn.Conv2d(1, 4, 3, key=KEY), eqx.nn.Linear(4, 2, key=KEY))
    ensemble = mf.Ensemble.from_model(network, key=jax.random.key(1))
    x = jax.random.normal(KEY, (12, 1, 6, 6))
    y = jnp.arange(12) % 2
    game = mf.NeuronGame(ensemble, "first", (x, y), replacement="zero")
    assert game.num_players == 4
    point = ensemble.mean_network()
    mask = np.array([True, False, True, False])

    def masked(image):
        a = jax.nn.relu(point.first(image)) * mask[:, None, None]
        return point.last(a.mean((1, 2)))

    expected = by_hand_of(masked, x, y)
    np.testing.assert_allclose(game(mask[None])[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "payoff", ["accuracy", "brier", "log_likelihood", "free_energy", "mse"]
)
def test_every_payoff_has_its_definition(dense, payoff):
    ensemble, x, y = dense
    likelihood = mf.Gaussian(scale=1.0) if payoff == "mse" else mf.Categorical()
    targets = jnp.stack([y, -y], 1).astype(float) if payoff == "mse" else y
    game = mf.NeuronGame(
        ensemble,
        "layers/1",
        (x, targets),
        payoff=payoff,
        likelihood=likelihood,
        temperature=2.0,
    )
    outputs = jax.vmap(ensemble.mean_network())(x)
    probs = jax.nn.softmax(outputs)
    right = probs[jnp.arange(30), y]
    cold = jax.nn.log_softmax(outputs / 2.0)[jnp.arange(30), y]
    expected = {
        "accuracy": (probs.argmax(1) == y).mean(),
        "brier": -((probs - jax.nn.one_hot(y, 2)) ** 2).sum(1).mean(),
        "log_likelihood": jnp.log(right).mean(),
        "free_energy": 2.0 * cold.mean(),
        "mse": -((outputs - jnp.stack([y, -y], 1)) ** 2).mean(),
    }[payoff]
    np.testing.assert_allclose(game(np.ones((1, 5), bool))[0], expected, rtol=1e-4)


def test_the_strong_coalition_is_the_smallest_prefix_that_passes(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, "layers/1", (x, y))
    values = mf.shapley_values(game, 5, method="exact")
    found = mf.strong_coalition(game, values, epsilon=0.3)
    order = np.argsort(-values.values, kind="stable")
    assert found.mask[order[: found.size]].all()
    assert found.mask.sum() == found.size
    assert (found.lower_bounds[found.size :] >= 0).all()
    assert found.size == 0 or found.lower_bounds[found.size - 1] < 0
    everything = mf.strong_coalition(game, values, epsilon=0.0, level=0.999)
    assert everything.size >= found.size


def test_absent_connections_carry_nothing_in_the_label_game(dense):
    ensemble, x, y = dense
    weight = ensemble.weights()["layers/1/weight"]
    prob = weight.spike_prob.at[0].set(1.0).at[1, :3].set(0.5)
    var = weight.slab_var.at[2].set(0.0)
    changed = ensemble.with_weights(
        {"layers/1/weight": mf.SpikeSlab(prob, weight.slab_mean, var)}
    )
    labels = mf.label_connections(changed, tolerance=0.0)
    game = mf.neurons.label_game(changed, "layers/1", labels, (x, y))
    assert game.values["absent"] == 0.0
    assert game.counts == {"important": 6, "absent": 6, "variable": 18}
    total = sum(game.values.values())
    np.testing.assert_allclose(total, game.payoffs[-1] - game.payoffs[0], atol=1e-6)


def recurrent(params, x):
    def step(h, row):
        return jnp.tanh(row @ cell["in"] + h @ cell["loop"]), None

    cell = params["cell"]

    h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 4)), jnp.swapaxes(x, 0, 1))
    return h @ params["out"]


def embedded(params, x):
    return params["a"]["table"][x].mean(1)


def test_bad_games_are_refused_with_the_way_out(dense):
    ensemble, x, y = dense
    with pytest.raises(ValueError, match="There are .*layers/0"):
        mf.NeuronGame(ensemble, "layers/7", (x, y))
    with pytest.raises(ValueError, match="`payoff` must be one of"):
        mf.NeuronGame(ensemble, "layers/0", (x, y), payoff="money")
    with pytest.raises(ValueError, match="`key` is needed to draw"):
        mf.NeuronGame(ensemble, "layers/0", (x, y), num_samples=2)
    game = mf.NeuronGame(ensemble, "layers/0", (x, y))
    with pytest.raises(ValueError, match=r"must have shape \(coalitions, 6\)"):
        game(np.ones((2, 5), bool))
    with pytest.raises(ValueError, match="one value for each of the 6 units"):
        mf.strong_coalition(game, np.ones(4))
    look_up = mf.Ensemble.from_model((embedded, {"a": {"table": jnp.ones((4, 2))}}))
    with pytest.raises(ValueError, match="cannot be masked"):
        mf.NeuronGame(look_up, "a", (jnp.zeros((30, 3), int), y))
