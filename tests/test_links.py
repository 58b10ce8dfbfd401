"""Labels and coalitions: connections of neurons, and inclusion as a game."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def labelled():
    ensemble = mf.Ensemble.from_model(mlp((3, 6, 5, 2), key=KEY), key=KEY)
    rng = np.random.default_rng(0)
    weights = {}
    for name, w in ensemble.weights().items():
        kind = rng.integers(0, 3, w.shape)
        # Important: surely there, without variance. Absent: surely not there.
        weights[name] = mf.SpikeSlab(
            jnp.where(kind == 0, 0.0, jnp.where(kind == 1, 1.0, 0.4)),
            w.slab_mean,
            jnp.where(kind == 0, 0.0, w.slab_var),
        )
    ensemble = ensemble.with_weights(weights)
    return ensemble, mf.label_connections(ensemble, tolerance=0.0)


@pytest.mark.parametrize("layer", [0, 1])
def test_connections_of_a_neuron_are_rows_in_and_columns_out(labelled, layer):
    ensemble, labels = labelled
    links = mf.neurons.neuron_links(
        ensemble, labels, f"layers/{layer}", jnp.ones((1, 3))
    )
    own = np.asarray(labels.labels[f"layers/{layer}/weight"])
    after = np.asarray(labels.labels[f"layers/{layer + 1}/weight"])
    for label in mf.Label:
        name = label.name.lower()
        np.testing.assert_array_equal(links.incoming[name], (own == label).sum(1))
        np.testing.assert_array_equal(links.outgoing[name], (after == label).sum(0))
        both = (own == label).sum(1) + (after == label).sum(0)
        np.testing.assert_array_equal(links.total(name), both)
    prob = np.asarray(ensemble.weights()[f"layers/{layer}/weight"].spike_prob)
    np.testing.assert_allclose(links.expected_in, (1 - prob).sum(1), rtol=1e-6)


def test_credit_is_one_sum_at_every_scale(labelled):
    ensemble, labels = labelled
    rng = np.random.default_rng(1)
    values = {n: rng.normal(size=w.shape) for n, w in ensemble.weights().items()}
    for number in range(2):
        layer, after = f"layers/{number}", f"layers/{number + 1}"
        links = mf.neurons.neuron_links(
            ensemble, labels, layer, jnp.ones((1, 3)), values
        )
        own = values[f"{layer}/weight"]
        np.testing.assert_allclose(links.value_in, own.sum(1))
        np.testing.assert_allclose(links.value_in.sum(), own.sum())
        np.testing.assert_allclose(links.value_out, values[f"{after}/weight"].sum(0))
        mask = links.value_in > np.median(links.value_in)
        test = mf.neurons.link_test(mask, links.value_in, key=KEY)
        assert test.effect == 1.0
    plain = mf.neurons.neuron_links(ensemble, labels, "layers/0", jnp.ones((1, 3)))
    assert plain.value_in is None


def test_labels_share_the_credit_of_their_layer(labelled):
    ensemble, labels = labelled
    rng = np.random.default_rng(1)
    values = {n: rng.normal(size=w.shape) for n, w in ensemble.weights().items()}
    data = jnp.ones((4, 3)), jnp.arange(4) % 2
    game = mf.neurons.label_game(ensemble, "layers/0", labels, data, values)
    own = np.asarray(labels.labels["layers/0/weight"])
    for label in mf.Label:
        expected = values["layers/0/weight"][own == label].sum()
        np.testing.assert_allclose(game.credit[label.name.lower()], expected)
    assert mf.neurons.label_game(ensemble, "layers/0", labels, data).credit is None


class Flattened(eqx.Module):
    conv: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __call__(self, x):
        return self.last(jax.nn.relu(self.conv(x)).ravel())


def test_connections_of_a_channel_are_its_kernel_and_all_that_reads_its_positions():
    network = Flattened(
        eqx.nn.Conv2d(2, 3, 3, key=KEY), eqx.nn.Linear(3 * 4, 2, key=KEY)
    )
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    weight = ensemble.weights()["last/weight"]
    prob = weight.spike_prob.at[:, 4:8].set(1.0)
    ensemble = ensemble.with_weights(
        {"last/weight": mf.SpikeSlab(prob, weight.slab_mean, weight.slab_var)}
    )
    labels = mf.label_connections(ensemble, tolerance=0.0)
    links = mf.neurons.neuron_links(ensemble, labels, "conv", jnp.ones((1, 2, 4, 4)))
    assert sum(links.incoming.values()).tolist() == [18, 18, 18]
    assert links.outgoing["absent"].tolist() == [0, 8, 0]
    assert links.outgoing["variable"].tolist() == [8, 0, 8]


def test_a_recurrent_layer_has_gates_in_place_of_connections():
    class Cell(eqx.Module):
        cell: eqx.nn.GRUCell
        last: eqx.nn.Linear

        def __call__(self, x):
            step = lambda h, row: (self.cell(row, h), None)
            return self.last(jax.lax.scan(step, jnp.zeros(4), x)[0])

    network = Cell(eqx.nn.GRUCell(2, 4, key=KEY), eqx.nn.Linear(4, 2, key=KEY))
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    labels = mf.label_connections(ensemble)
    with pytest.raises(ValueError, match="is recurrent"):
        mf.neurons.neuron_links(ensemble, labels, "cell", jnp.ones((1, 3, 2)))


def test_shuffled_coalitions_have_uniform_p_values():
    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(200):
        mask = rng.permutation(np.arange(20) < 8)
        found = mf.neurons.link_test(
            mask, rng.poisson(3, 20), key=jax.random.key(seed), num_shuffles=199
        )
        p_values.append(found.p_value)
    # Ties make it conservative; 200 trials: sd of a share is at most 0.035.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 5 * 0.0154
    assert 0.3 < np.mean(p_values) < 0.65


def test_the_p_value_is_that_of_all_shuffles():
    counts = np.array([5, 1, 4, 2, 2, 0])
    mask = np.array([True, False, True, False, False, False])
    found = mf.neurons.link_test(mask, counts, key=KEY, num_shuffles=20_000)
    pairs = [counts[i] + counts[j] for i in range(6) for j in range(i)]
    exact = np.mean(np.array(pairs) >= 9)
    assert abs(found.p_value - exact) < 5 * (exact * (1 - exact) / 20_000) ** 0.5
    assert found.effect == 1.0
    np.testing.assert_allclose(found.difference, 4.5 - 1.25)


def test_a_test_without_two_sides_is_refused():
    with pytest.raises(ValueError, match="units inside and outside"):
        mf.neurons.link_test(np.ones(4, bool), np.arange(4), key=KEY)
    with pytest.raises(ValueError, match="`links` must have one number"):
        mf.neurons.link_test(np.ones(4, bool), np.arange(3), key=KEY)
    with pytest.raises(ValueError, match="`num_shuffles` must be at least 1"):
        mf.neurons.link_test(np.arange(4) < 2, np.arange(4), key=KEY, num_shuffles=0)


# Inclusion as a game


def table(seed, n=5):
    payoffs = np.random.default_rng(seed).normal(size=2**n)
    return lambda s: payoffs[s @ 2 ** np.arange(n)]


def test_halves_give_banzhaf_and_the_diagonal_gives_shapley():
    game = table(0)
    halves = mf.credit.probabilistic_values(game, np.full(5, 0.5))
    np.testing.assert_allclose(halves, mf.games.banzhaf_values(game, 5).values)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    along = [
        mf.credit.probabilistic_values(game, np.full(5, (1 + t) / 2)) for t in nodes
    ]
    shapley = mf.shapley_values(game, 5, method="exact").values
    np.testing.assert_allclose(weights / 2 @ np.array(along), shapley)


def test_a_probabilistic_value_is_a_mean_over_joining_others():
    game, q = table(1), np.array([0.1, 0.9, 0.4, 1.0, 0.0])
    rows = np.random.default_rng(2).random((40_000, 5)) < q
    found = mf.credit.probabilistic_values(game, q)
    for player in range(5):
        with_it, without = rows.copy(), rows.copy()
        with_it[:, player], without[:, player] = True, False
        gain = game(with_it) - game(without)
        assert abs(found[player] - gain.mean()) <= 5 * gain.std() / 200 + 1e-12
    with pytest.raises(ValueError, match="`probs` must be probabilities"):
        mf.credit.probabilistic_values(game, np.full(5, 1.5))


def test_the_gradient_is_the_value_of_a_connection_that_joins():
    def linear(params, x):
        return x @ params["w"]

    w = jnp.array([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.2]])
    ensemble = mf.Ensemble.from_model((linear, {"w": w}))
    distribution = mf.SpikeSlab(
        jnp.array([[0.2, 0.5], [0.3, 0.6], [0.5, 0.1]]), w, jnp.full((3, 2), 0.1)
    )
    ensemble = ensemble.with_weights({"w": distribution})
    x = jax.random.normal(KEY, (40, 3))
    y = jax.random.normal(jax.random.key(1), (40, 2))
    found = mf.credit.inclusion_gradients(
        ensemble,
        (x, y),
        key=jax.random.key(2),
        likelihood=mf.Gaussian(scale=1.0),
        num_samples=2000,
    )["w"]

    def expected(present):
        # E(y − xw)² of independent weights, with one connection there or not.
        prob, mean = (
            1 - np.asarray(distribution.spike_prob, float),
            np.asarray(w, float),
        )
        first = present * mean
        var = present * (0.1 + mean**2) - first**2
        assert prob.shape == present.shape
        bias = np.asarray(x, float) @ first - np.asarray(y)
        return -(bias**2 + np.asarray(x, float) ** 2 @ var).mean()

    for place in np.ndindex(3, 2):
        present = 1 - np.asarray(distribution.spike_prob, float)
        there, gone = present.copy(), present.copy()
        there[place], gone[place] = 1, 0
        value = expected(there) - expected(gone)
        np.testing.assert_allclose(found[place], value, atol=0.03, rtol=0.03)
    with pytest.raises(ValueError, match='must have a gradient; got "accuracy"'):
        mf.credit.inclusion_gradients(
            ensemble, (x, y), key=KEY, payoff="accuracy", likelihood=mf.Gaussian()
        )


def test_connections_that_share_a_spike_are_counted_one_by_one():
    net = eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1), spikes="unit")
    labels = mf.label_connections(ensemble)
    links = mf.neurons.neuron_links(ensemble, labels, "layers/0", jnp.ones((1, 3)))
    present = [1 - np.asarray(w.spike_prob) for w in ensemble.weights().values()]
    incoming = np.broadcast_to(present[0], (5, 3)).sum(1)
    outgoing = np.broadcast_to(present[1], (2, 5)).sum(0)
    np.testing.assert_allclose(links.expected_in, incoming, rtol=1e-6)
    np.testing.assert_allclose(links.expected_out, outgoing, rtol=1e-6)
    assert sum(links.incoming[name].sum() for name in links.incoming) == 15
