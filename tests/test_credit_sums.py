"""Credit added up from connections to the payoff, and coalitions that start from it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.games.exact import all_coalitions, marginal_values, shapley_weights

KEY = jax.random.key(0)
WIDTHS = (3, 4, 1)  # 16 connections


@pytest.fixture(scope="module")
def linear():
    """A network of two linear layers, for which Gaussian pre-activations are exact."""
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (1, 4)]
    params = {
        f"layer{n}": {"w": jnp.asarray(rng.normal(0.6, 0.5, shape), jnp.float32)}
        for n, shape in enumerate(shapes)
    }
    apply = lambda p, x: x @ p["layer0"]["w"].T @ p["layer1"]["w"].T
    x = jnp.asarray(rng.normal(0.3, 1, (24, 3)), jnp.float32)
    y = jnp.asarray(np.asarray(x) @ rng.normal(size=(3, 1)), jnp.float32)
    return mf.Ensemble.from_points((apply, params)), (x, y)


@pytest.fixture(scope="module")
def found(linear):
    ensemble, data = linear
    likelihood = mf.Gaussian(scale=1.0)
    return mf.connection_values(
        ensemble,
        data,
        key=KEY,
        likelihood=likelihood,
        num_samples=64,
        num_checks=0,
        chunk_size=8,
    )


@pytest.fixture(scope="module")
def enumerated(linear):
    """Shapley values of the 16 connections from all 65,536 coalitions, and the gain."""
    ensemble, (x, y) = linear
    params = ensemble.mean_params()
    first, last = (np.asarray(params[f"layer{n}"]["w"], np.float64) for n in range(2))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)[:, 0]
    masks = all_coalitions(16)
    hidden = np.einsum("cui,ni->cnu", masks[:, :12].reshape(-1, 4, 3) * first, x)
    outputs = np.einsum("cnu,cu->cn", hidden, masks[:, 12:] * last)
    payoffs = -np.square(outputs - y).mean(1)
    values = marginal_values(payoffs, shapley_weights(15))
    arrays = {
        "layer0/w": values[:12].reshape(4, 3),
        "layer1/w": values[12:].reshape(1, 4),
    }
    return arrays, float(payoffs[-1] - payoffs[0])


def test_enumerated_values_are_one_exact_sum_at_every_scale(linear, found, enumerated):
    ensemble, (x, _) = linear
    values, gain = enumerated
    sums = mf.neurons.credit_sums(
        ensemble, dataclasses.replace(found, values=values), x
    )
    for layer, units in sums.neurons.items():
        np.testing.assert_allclose(units, values[f"{layer}/w"].sum(1), rtol=1e-12)
        np.testing.assert_allclose(units.sum(), sums.layers[layer], rtol=1e-12)
    assert sums.connections == {"layer0": 12, "layer1": 4}
    np.testing.assert_allclose(sum(sums.layers.values()), sums.total, rtol=1e-12)
    np.testing.assert_allclose(sums.total, gain, rtol=1e-12)
    # The payoffs of the network itself are in float32.
    np.testing.assert_allclose(sums.gain, gain, rtol=1e-5)


def test_the_sums_of_neurons_are_those_of_enumeration(linear, found, enumerated):
    ensemble, (x, _) = linear
    sums = mf.neurons.credit_sums(ensemble, found, x)
    for layer, units in sums.neurons.items():
        exact = enumerated[0][f"{layer}/w"].sum(1)
        # Values share their noise: the error of a sum is at most the sum of errors.
        most = 5 * found.standard_errors[f"{layer}/w"].sum(1)
        assert (np.abs(units - exact) <= most).all()
    np.testing.assert_allclose(sums.gap, found.efficiency_gap, atol=1e-6)
    assert sums.gap_error == found.gap_error


def test_the_game_of_units_is_another_one(linear, found):
    ensemble, (x, y) = linear
    units = mf.unit_values(
        ensemble, (x, y), layer="layer0", key=KEY, likelihood=mf.Gaussian(scale=1.0)
    )
    # Without any unit the outputs keep their mean; without connections they are zero.
    mean = np.asarray(ensemble.apply_fn(ensemble.mean_params(), x)).mean()
    np.testing.assert_allclose(units.empty_payoff, -np.square(mean - y).mean(), 1e-4)
    np.testing.assert_allclose(found.empty_payoff, -np.square(y).mean(), 1e-5)
    np.testing.assert_allclose(units.payoff, found.payoff, rtol=1e-5)


def test_channels_sum_kernels_and_recurrent_units_their_gates():
    class Both(eqx.Module):
        table: eqx.nn.Embedding
        conv: eqx.nn.Conv1d
        cell: eqx.nn.GRUCell
        last: eqx.nn.Linear

        def __call__(self, x):
            step = lambda h, row: (self.cell(row, h), None)
            x = jax.vmap(self.table)(x).T
            rows = jax.nn.relu(self.conv(x)).T
            return self.last(jax.lax.scan(step, jnp.zeros(4), rows)[0])

    network = Both(
        eqx.nn.Embedding(5, 2, key=KEY),
        eqx.nn.Conv1d(2, 3, 3, key=KEY),
        eqx.nn.GRUCell(3, 4, key=KEY),
        eqx.nn.Linear(4, 2, key=KEY),
    )
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    rng = np.random.default_rng(0)
    values = {n: rng.normal(size=w.shape) for n, w in ensemble.weights().items()}
    total = sum(array.sum() for array in values.values())
    credit = mf.credit.ConnectionValues(
        *(values, values, values, total + 1, 1.5, -0.5, 0.1, 0.0),
        *(np.zeros(1), np.zeros(1), np.zeros(1), None, None, 4, 1, "probability"),
    )
    sums = mf.neurons.credit_sums(ensemble, credit, jnp.ones((4, 5), int))
    # The bias of a convolution has two axes, so that it is random too.
    conv = sum(a.reshape(3, -1).sum(1) for n, a in values.items() if "conv" in n)
    np.testing.assert_allclose(sums.neurons["conv"], conv)
    np.testing.assert_allclose(sums.neurons["last"], values["last/weight"].sum(1))
    # Three gates of four units, one behind the other.
    gates = [values[f"cell/weight_{part}"].reshape(3, 4, -1) for part in ("ih", "hh")]
    cell = sum(gate.sum((0, 2)) for gate in gates)
    np.testing.assert_allclose(sums.neurons["cell"], cell)
    assert sums.neurons["table"] is None
    np.testing.assert_allclose(sums.layers["table"], values["table/weight"].sum())
    np.testing.assert_allclose((sums.total, sums.gap), (total, 0.5))


def test_values_that_are_no_such_sum_are_refused(linear, found):
    ensemble, (x, _) = linear
    other = dataclasses.replace(found, efficiency_gap=None)
    with pytest.raises(ValueError, match="`credit` must hold values that add up"):
        mf.neurons.credit_sums(ensemble, other, x)
    other = dataclasses.replace(found, values={"layer0/w": np.ones((2, 2))})
    with pytest.raises(ValueError, match="`credit` must belong to the ensemble"):
        mf.neurons.credit_sums(ensemble, other, x)


def test_a_test_of_links_takes_credit_where_it_is_at_hand(linear, found):
    ensemble, (x, _) = linear
    network = mf.Ensemble.from_model(mlp((3, 4, 1), key=KEY), key=KEY)
    labels = mf.label_connections(network)
    shapes = {n: w.shape for n, w in network.weights().items()}
    values = {n: np.arange(np.prod(s)).reshape(s) * 1.0 for n, s in shapes.items()}
    counted, valued = (
        mf.neurons.neuron_links(network, labels, "layers/0", x, given)
        for given in (None, values)
    )
    np.testing.assert_array_equal(counted.strength, counted.total("important"))
    np.testing.assert_array_equal(
        valued.strength,
        values["layers/0/weight"].sum(1) + values["layers/1/weight"][0],
    )
    mask = np.array([False, False, True, True])
    of_counts = mf.neurons.link_test(mask, counted, key=KEY)
    of_credit = mf.neurons.link_test(mask, valued, key=KEY)
    assert of_counts.compared == "important connections"
    assert (of_credit.compared, of_credit.effect) == ("credit", 1.0)
    same = mf.neurons.link_test(mask, valued.strength, key=KEY)
    assert dataclasses.replace(same, compared="credit") == of_credit
    tiny = mf.neurons.link_test(mask, 1e-12 * valued.strength, key=KEY)
    assert tiny.p_value == of_credit.p_value


@pytest.fixture(scope="module")
def sharp():
    """Fourteen ReLU units held at zero: a game that few orders do not settle."""
    ensemble = mf.Ensemble.from_points(mlp((6, 14, 6, 4), key=KEY))
    x = 2 * jax.random.normal(jax.random.key(2), (300, 6))
    data = x, jax.vmap(ensemble.mean_network())(3 * x).argmax(1)
    settings = {"layer": "layers/0", "replacement": "zero"}
    game = mf.NeuronGame(ensemble, data=data, **settings)
    units = mf.unit_values(ensemble, data, key=jax.random.key(5), **settings)
    exact = mf.shapley_values(game, method="exact")
    return ensemble, data, game, units.values, mf.strong_coalition(game, exact)


def test_unit_values_lead_to_the_same_coalition_without_an_evaluation(sharp):
    _, _, game, units, wanted = sharp
    assert 0 < wanted.size < 14
    found = mf.strong_coalition(game, units["layers/0"])
    np.testing.assert_array_equal(found.mask, wanted.mask)


def test_unit_values_save_evaluations_of_the_same_coalition(sharp):
    _, _, game, units, wanted = sharp

    def hits(budget, control):
        masks = [
            mf.strong_coalition(
                game,
                mf.shapley_values(
                    game, budget=budget, control=control, key=jax.random.key(seed)
                ),
            ).mask
            for seed in range(20)
        ]
        return sum((mask == wanted.mask).all() for mask in masks)

    with_start = hits(60, units["layers/0"])
    # A quarter of the evaluations, and at least as often right.
    assert with_start >= max(18, hits(240, None) - 1)
    assert hits(60, None) < with_start


def test_layers_are_played_from_unit_values(sharp):
    ensemble, data, _, units, wanted = sharp
    play = lambda **given: mf.neurons.play_layers(
        ensemble,
        data,
        data,
        layers=["layers/0"],
        replacement="zero",
        key=KEY,
        budget=60,
        **given,
    )["layers/0"]
    plain, started = play(), play(control=units)
    away = lambda turn: np.linalg.norm(turn.values.values - units["layers/0"])
    assert away(started) < away(plain)
    np.testing.assert_array_equal(started.strong.mask, wanted.mask)
    with pytest.raises(ValueError, match="`control` must have values by layer"):
        play(control={"layers/7": units["layers/0"]})
