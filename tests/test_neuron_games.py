"""Sweeps, recurrent units, what ships, the posterior and the closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.games.evaluation import Evaluator

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(5), (20, 1, 8, 8))
SEQUENCES = jax.random.normal(jax.random.key(6), (20, 7, 2))
Y = jnp.arange(20) % 3


class Convolutions(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    dense: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(KEY, 4)
        self.first = eqx.nn.Conv2d(1, 4, 3, key=keys[0])
        self.second = eqx.nn.Conv2d(4, 5, 3, key=keys[1])
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.dense = eqx.nn.Linear(20, 6, key=keys[2])
        self.last = eqx.nn.Linear(6, 3, key=keys[3])

    def __call__(self, x):
        a = jax.nn.relu(self.first(x))
        a = self.pool(jax.nn.relu(self.second(a)))
        return self.last(jax.nn.gelu(self.dense(a.ravel())))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.tanh(nn.Dense(5, name="below")(x)))
        return nn.Dense(3, name="last")(nn.silu(nn.Dense(6, name="plain")(x)))


class Plain(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.b = nnx.Linear(256, 3, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)).reshape(x.shape[0], -1))


class Recurrent(nn.Module):
    kind: type

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.kind(5, name="cell"))(x)[:, -1])


def linen(module, x):
    return module.apply, module.init(KEY, x)


def game_of(model, layer, x, **settings):
    ensemble = mf.Ensemble.from_model(model, key=jax.random.key(1))
    return ensemble, mf.NeuronGame(ensemble, layer, (x, Y), **settings)


FLAT = X.reshape(20, -1)
LAST = jnp.moveaxis(X, 1, -1)
NETWORKS = {
    "a convolution before a convolution": (Convolutions, "first", X, False),
    "a convolution, pooled and flattened": (Convolutions, "second", X, True),
    "an Equinox dense layer": (Convolutions, "dense", X, True),
    "a Flax Linen dense layer": (
        lambda: linen(Normed(), FLAT),
        "params/plain",
        FLAT,
        True,
    ),
    "a layer under a norm": (
        lambda: linen(Normed(), FLAT),
        "params/below",
        FLAT,
        False,
    ),
    "a Flax NNX convolution": (Plain, "a", LAST, True),
    "a GRU": (
        lambda: linen(Recurrent(nn.GRUCell), SEQUENCES),
        "params/cell",
        SEQUENCES,
        False,
    ),
    "an LSTM": (
        lambda: linen(Recurrent(nn.OptimizedLSTMCell), SEQUENCES),
        "params/cell",
        SEQUENCES,
        False,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_pays_what_its_coalitions_are_paid_one_by_one(name):
    make, layer, x, by_sums = NETWORKS[name]
    _, game = game_of(make(), layer, x)
    n = game.num_players
    assert (game._network.sums is not None) == by_sums
    orders = np.stack([np.random.default_rng(i).permutation(n) for i in range(3)])
    masks = np.argsort(orders, 1)[:, None] < np.arange(n + 1)[:, None]
    one_by_one = game(masks.reshape(-1, n)).reshape(3, n + 1)
    np.testing.assert_allclose(game.sweep(orders), one_by_one, atol=1e-6)
    assert np.ptp(one_by_one) > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "a convolution before a convolution",
        "a convolution, pooled and flattened",
        "a Flax NNX convolution",
    ],
)
def test_a_payoff_is_that_of_the_network_that_ships(name):
    make, layer, x, _ = NETWORKS[name]
    ensemble, game = game_of(make(), layer, x)
    mask = np.arange(game.num_players) % 2 == 0
    network = ensemble.mean_network()
    small = mf.deploy.shrink(network, x, coalition={layer: mask}, data=x).model
    outputs = jax.vmap(small)(x) if isinstance(small, eqx.Module) else small(x)
    shipped = jax.nn.softmax(outputs)[jnp.arange(20), Y].mean()
    np.testing.assert_allclose(game(mask[None])[0], shipped, rtol=1e-5)


class Tanh(eqx.Module):
    weight: jax.Array
    loop: jax.Array
    last: eqx.nn.Linear

    def __call__(self, x):
        step = lambda h, row: (jnp.tanh(self.weight @ row + self.loop @ h), None)
        return self.last(jax.lax.scan(step, jnp.zeros(4), x)[0])


@pytest.mark.parametrize("replacement", ["mean", "zero"])
def test_a_recurrent_unit_outside_is_read_at_its_mean_by_loop_and_read_out(replacement):
    class Whole(eqx.Module):
        cell: Tanh

        def __call__(self, x):
            return self.cell(x)

    keys = jax.random.split(KEY, 3)
    cell = Tanh(
        jax.random.normal(keys[0], (4, 2)),
        jax.random.normal(keys[1], (4, 4)),
        eqx.nn.Linear(4, 3, key=keys[2]),
    )
    ensemble = mf.Ensemble.from_model(Whole(cell), key=jax.random.key(1))
    game = mf.NeuronGame(ensemble, "cell", (SEQUENCES, Y), replacement=replacement)
    cell = ensemble.mean_network().cell
    weight, loop = np.asarray(cell.weight), np.asarray(cell.loop)
    mask = np.array([True, False, True, False])

    def run(mask, read, final):
        h, reads = np.zeros((20, 4)), []
        for t in range(7):
            reads.append(h)
            seen = np.where(mask, h, read)
            h = np.tanh(np.asarray(SEQUENCES[:, t]) @ weight.T + seen @ loop.T)
        return np.stack(reads), h, np.where(mask, h, final)

    reads, last, _ = run(np.ones(4, bool), 0, 0)
    at_rest = (reads.mean((0, 1)), last.mean(0)) if replacement == "mean" else (0, 0)
    _, _, held = run(mask, *at_rest)
    out = held @ np.asarray(cell.last.weight).T + np.asarray(cell.last.bias)
    probs = np.exp(out) / np.exp(out).sum(1, keepdims=True)
    expected = probs[np.arange(20), np.asarray(Y)].mean()
    np.testing.assert_allclose(game(mask[None])[0], expected, rtol=1e-5)


def test_values_by_sweeps_are_those_by_calls_within_the_budget():
    _, game = game_of(Convolutions(), "dense", X)
    assert not game.null_players().any()
    key = jax.random.key(3)
    swept = mf.shapley_values(game, 6, budget=52, key=key)
    called = mf.shapley_values(
        lambda s: game(s), 6, budget=52, key=key, method="antithetic"
    )
    np.testing.assert_allclose(swept.values, called.values, atol=1e-6)
    assert swept.num_evaluations == called.num_evaluations == 52
    assert abs(swept.efficiency_gap) < 1e-6


@pytest.fixture(scope="module")
def dense():
    ensemble = mf.Ensemble.from_model(mlp((3, 6, 5, 2), key=KEY), key=KEY)
    x = jax.random.normal(jax.random.key(2), (30, 3))
    return ensemble, x, jax.vmap(ensemble.mean_network())(x).argmax(1)


def silenced(ensemble):
    """Unit 2 of layer 1 is constant, unit 4 is read by nobody."""
    weights = ensemble.weights()
    first, last = weights["layers/1/weight"], weights["layers/2/weight"]
    prob = first.spike_prob.at[2].set(1.0)
    silent = mf.SpikeSlab(prob, first.slab_mean, first.slab_var)
    prob = last.spike_prob.at[:, 4].set(1.0)
    unread = mf.SpikeSlab(prob, last.slab_mean, last.slab_var)
    return ensemble.with_weights({"layers/1/weight": silent, "layers/2/weight": unread})


def test_null_players_are_not_played_and_get_exactly_zero(dense):
    ensemble, x, y = dense
    dead = mf.NeuronGame(ensemble, "layers/1", (x, y)).null_players()
    game = mf.NeuronGame(silenced(ensemble), "layers/1", (x, y))
    null = game.null_players()
    assert not dead[[2, 4]].any()
    assert (~null).sum() >= 2
    np.testing.assert_array_equal(null, dead | np.array([0, 0, 1, 0, 1], bool))
    played = []

    class Watched:
        null_players = staticmethod(game.null_players)

        def __call__(self, coalitions):
            return game(coalitions)

        def sweep(self, orders):
            played.append(orders)
            return game.sweep(orders)

    found = mf.shapley_values(Watched(), 5, budget=26, key=KEY)
    # A pair of orders costs two evaluations a living player but one.
    cost = 2 * ((~null).sum() - 1)
    assert sum(len(orders) for orders in played) == 2 * (24 // cost)
    np.testing.assert_array_equal(found.values[null], 0)
    np.testing.assert_array_equal(found.intervals[null], 0)
    exact = mf.shapley_values(game, 5, method="exact").values
    assert (np.abs(found.values - exact) <= 5 * found.standard_errors + 1e-6).all()


def test_zero_in_place_of_a_constant_unit_is_not_nothing(dense):
    ensemble, x, y = dense
    changed = eqx.tree_at(
        lambda e: e.params.layers[1].bias, silenced(ensemble), jnp.full(5, 0.7)
    )
    game = mf.NeuronGame(changed, "layers/1", (x, y), replacement="zero")
    null = game.null_players()
    assert null[4]
    assert not null[2]


def test_a_sweep_that_is_no_sweep_is_refused():
    class Wrong:
        def __call__(self, coalitions):
            return np.zeros(len(coalitions))

        def sweep(self, orders):
            return np.zeros((len(orders), 2))

    with pytest.raises(ValueError, match="`value_fn.sweep` must return finite payoffs"):
        mf.shapley_values(Wrong(), 6, budget=40, key=KEY)
    evaluate = Evaluator(lambda s: s[:, 0], 3, budget=2, chunk_size=8, progress=None)
    assert evaluate.sweep(np.array([[0, 1, 2]]), 3) is None


def test_orders_are_checked(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, "layers/1", (x, y))
    with pytest.raises(ValueError, match="`orders` must have rows that order"):
        game.sweep(np.array([[0, 1, 2, 3, 3]]))


# Under the posterior


def uncertain(ensemble, var=0.3):
    weights = {
        name: mf.SpikeSlab(
            jnp.full_like(w.spike_prob, 0.2),
            w.slab_mean,
            jnp.full_like(w.slab_var, var),
        )
        for name, w in ensemble.weights().items()
    }
    return ensemble.with_weights(weights)


def test_posterior_values_average_those_of_the_drawn_networks(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(
        uncertain(ensemble), "layers/1", (x, y), num_samples=6, key=jax.random.key(4)
    )
    found = mf.neurons.posterior_shapley_values(
        game, key=jax.random.key(5), budget=6 * 402
    )
    each = []
    for draw in range(6):
        orders = np.array([np.random.default_rng(s).permutation(5) for s in range(400)])
        path = game.sweep(orders, draw)
        values = np.zeros((400, 5))
        np.put_along_axis(values, orders, np.diff(path), axis=1)
        each.append(values.mean(0))
    exact = mf.shapley_values(lambda s: game(s), 5, method="exact").values
    error = np.abs(found.values - exact)
    assert (error <= 5 * found.monte_carlo_errors + 1e-6).all()
    # The spread between networks, known to within its own sampling error.
    np.testing.assert_allclose(
        found.posterior_scale, np.std(each, 0, ddof=1), rtol=0.35
    )
    assert (found.standard_errors > 3 * found.monte_carlo_errors).all()
    gain = found.grand_value - found.empty_value
    np.testing.assert_allclose(found.values.sum(), gain, atol=1e-6)
    assert found.num_evaluations <= 6 * 402


def test_one_network_has_no_posterior_spread(dense):
    ensemble, x, y = dense
    game = mf.NeuronGame(ensemble, "layers/1", (x, y))
    with pytest.raises(ValueError, match="at least 2 sub-networks"):
        mf.neurons.posterior_shapley_values(game, key=KEY)
    game = mf.NeuronGame(ensemble, "layers/1", (x, y), num_samples=2, key=KEY)
    with pytest.raises(ValueError, match="`budget` must be at least"):
        mf.neurons.posterior_shapley_values(game, key=KEY, budget=5)


# The closed form of a linear read-out


@pytest.fixture(scope="module")
def regression():
    ensemble = mf.Ensemble.from_model(mlp((3, 6, 2), key=KEY), key=KEY)
    x = jax.random.normal(jax.random.key(2), (30, 3))
    return ensemble, x, jnp.sin(x[:, :2]) + 0.3


@pytest.mark.parametrize("replacement", ["mean", "zero"])
def test_the_closed_form_meets_enumeration(regression, replacement):
    ensemble, x, y = regression
    certain = ensemble.with_weights(
        {
            name: mf.SpikeSlab(jnp.zeros_like(w.mean), w.mean, jnp.zeros_like(w.mean))
            for name, w in ensemble.weights().items()
        }
    )
    game = mf.NeuronGame(
        certain,
        "layers/0",
        (x, y),
        likelihood=mf.Gaussian(scale=1.0),
        replacement=replacement,
    )
    exact = mf.shapley_values(game, 6, method="exact").values
    found = mf.neurons.readout_values(
        certain, "layers/0", (x, y), replacement=replacement
    )
    np.testing.assert_allclose(found, exact, atol=1e-5)


@pytest.mark.parametrize("replacement", ["mean", "zero"])
def test_the_closed_form_is_the_mean_over_read_outs(regression, replacement):
    ensemble, x, y = regression
    name = "layers/1/weight"
    law = ensemble.weights()[name]
    law = mf.SpikeSlab(
        jnp.full(law.shape, 0.3), law.slab_mean, jnp.full(law.shape, 0.2)
    )
    ensemble = ensemble.with_weights({name: law})
    found = mf.neurons.readout_values(
        ensemble, "layers/0", (x, y), replacement=replacement
    )
    rng = np.random.default_rng(0)
    present = rng.random((4000, 2, 6)) > 0.3
    slab = np.asarray(law.slab_mean) + 0.2**0.5 * rng.normal(size=(4000, 2, 6))
    network = ensemble.mean_network()
    acts = np.maximum(np.asarray(jax.vmap(network.layers[0])(x)), 0).astype(float)
    bias = np.asarray(network.layers[1].bias, float)
    held = acts.mean(0) if replacement == "mean" else np.zeros(6)
    masks = (np.arange(64)[:, None] >> np.arange(6)) & 1
    signals = np.where(masks[:, None] == 1, acts, held)
    outputs = np.einsum("cej,wkj->wcek", signals, present * slab) + bias
    payoffs = -np.square(outputs - np.asarray(y)).mean((2, 3))
    from meanfield.games.exact import marginal_values, shapley_weights

    each = np.array([marginal_values(v, shapley_weights(5)) for v in payoffs])
    error = each.std(0, ddof=1) / 4000**0.5
    assert (np.abs(found - each.mean(0)) <= 5 * error).all()


def test_a_layer_that_feeds_no_read_out_has_no_closed_form(dense):
    ensemble, x, _ = dense
    with pytest.raises(ValueError, match="must feed one dense output layer"):
        mf.neurons.readout_values(ensemble, "layers/0", (x, x[:, :2]))


# Payoffs


def test_answers_of_zero_and_one_are_two_classes():
    network = mlp((3, 4, 1), key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    x = jax.random.normal(KEY, (10, 3))
    y = jnp.arange(10) % 2
    logit = jax.vmap(ensemble.mean_network())(x)[:, 0]
    right = jax.nn.sigmoid(jnp.where(y == 1, logit, -logit))
    expected = {
        "probability": right,
        "accuracy": right > 0.5,
        "brier": -2 * (1 - right) ** 2,
        "log_likelihood": jnp.log(right),
        "free_energy": 2 * jax.nn.log_sigmoid(jnp.where(y == 1, logit, -logit) / 2),
    }
    for payoff, values in expected.items():
        game = mf.NeuronGame(
            ensemble,
            "layers/0",
            (x, y),
            likelihood=mf.Bernoulli(),
            payoff=payoff,
            temperature=2.0,
        )
        paid = game.scores(np.ones((1, 4), bool))[0]
        np.testing.assert_allclose(paid, values, rtol=1e-4, atol=1e-6)


def test_the_energy_of_real_targets_is_half_the_squared_error(regression):
    ensemble, x, y = regression
    gauss = mf.Gaussian(scale=1.0)
    game = mf.NeuronGame(
        ensemble, "layers/0", (x, y), likelihood=gauss, payoff="free_energy"
    )
    outputs = jax.vmap(ensemble.mean_network())(x)
    expected = -0.5 * jnp.square(outputs - y).sum(1)
    paid = game.scores(np.ones((1, 6), bool))[0]
    np.testing.assert_allclose(paid, expected, rtol=1e-5)
    assert mf.NeuronGame(ensemble, "layers/0", (x, y), likelihood=gauss).payoff == "mse"
    for payoff in ("accuracy", "brier"):
        with pytest.raises(ValueError, match="needs classes"):
            mf.NeuronGame(ensemble, "layers/0", (x, y), likelihood=gauss, payoff=payoff)


def test_a_squared_error_of_classes_is_refused(dense):
    ensemble, x, y = dense
    with pytest.raises(ValueError, match='"mse" needs real targets'):
        mf.NeuronGame(ensemble, "layers/0", (x, y), payoff="mse")
    with pytest.raises(ValueError, match="`fixed` must not have the layer of the game"):
        mf.NeuronGame(
            ensemble, "layers/0", (x, y), fixed={"layers/0": np.ones(6, bool)}
        )
    with pytest.raises(ValueError, match="`fixed` must have a mask of"):
        mf.NeuronGame(
            ensemble, "layers/0", (x, y), fixed={"layers/1": np.ones(6, bool)}
        )


# Layer by layer


def test_layers_play_with_earlier_coalitions_in_force(dense):
    ensemble, x, y = dense
    last = ensemble.weights()["layers/2/weight"]
    sure = mf.SpikeSlab(last.spike_prob, 20 * last.slab_mean, last.slab_var)
    ensemble = ensemble.with_weights({"layers/2/weight": sure})
    y = jax.vmap(ensemble.mean_network())(x).argmax(1)
    found = mf.neurons.play_layers(
        ensemble, (x, y), (x[::-1], y[::-1]), key=KEY, epsilon=0.5, budget=200
    )
    assert list(found) == ["layers/0", "layers/1"]
    first, second = found["layers/0"], found["layers/1"]
    game = mf.NeuronGame(
        ensemble, "layers/1", (x[::-1], y[::-1]), fixed={"layers/0": first.strong.mask}
    )
    everybody = game(np.ones((1, 5), bool))[0]
    np.testing.assert_allclose(second.strong.payoffs[-1], everybody, rtol=1e-6)
    members = second.strong.memberships
    assert (members[second.strong.mask] >= 0.5).all()
    assert (members[~second.strong.mask] <= 0.5).all()


def test_soft_membership_has_its_limits():
    values, mask = np.array([3.0, 1.0, 0.5]), np.array([True, False, False])
    cold = mf.neurons.soft_membership(values, mask, temperature=1e-4)
    np.testing.assert_array_equal(cold, mask)
    warm = mf.neurons.soft_membership(values, mask, temperature=1.0)
    np.testing.assert_allclose(warm, 1 / (1 + np.exp(2.0 - values)))
    assert (mf.neurons.soft_membership(values, np.ones(3, bool)) == 1).all()
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        mf.neurons.soft_membership(values, mask, temperature=0)
    with pytest.raises(ValueError, match="one entry per unit"):
        mf.neurons.soft_membership(values, np.ones(2, bool))
