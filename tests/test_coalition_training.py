import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx

import meanfield as mf
from meanfield.credit.energy import (
    excess_energy,
    free_energy,
    gibbs_membership,
    gibbs_probs,
)
from meanfield.ensemble.networks import mlp
from meanfield.learning.epochs import run_epochs
from meanfield.neurons.silence import silence
from meanfield.neurons.training.layers import find_layers
from meanfield.neurons.training.restriction import CoalitionRestriction
from meanfield.neurons.training.rounds import choose_credit

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (120, 3))
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
OPTIMIZER = optax.adam(5e-3)


def train(model, data=(X, Y), **settings):
    defaults = {
        "key": jax.random.key(7),
        "epochs": 6,
        "every": 2,
        "batch_size": 20,
        "keep": 0.5,
        "optimizer": OPTIMIZER,
        "budget_per_unit": 8,
        "progress": False,
    }
    return mf.neurons.train_coalitions(model, data, **defaults | settings)


def network(key=KEY):
    return mlp((3, 8, 6, 2), key=key)


class Convolutional(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, key=KEY):
        self.first = eqx.nn.Conv2d(1, 4, 3, padding=1, key=key)
        self.second = eqx.nn.Conv2d(4, 6, 3, stride=2, key=key)
        self.out = eqx.nn.Linear(24, 2, key=key)

    def __call__(self, x):
        x = jax.nn.relu(self.second(jax.nn.tanh(self.first(x))))
        return self.out(x.ravel())


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="one")(x))
        return nn.Dense(2, name="out")(nn.relu(nn.Dense(6, name="two")(x)))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.out = nnx.Linear(36, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.norm(self.conv(x)))
        return self.out(x.reshape(x.shape[0], -1))


def plain(params, x):
    x = jnp.tanh(x @ params["one"]["w"] * params["one"]["scale"] + params["one"]["b"])
    return x @ params["out"]["w"]


def linen():
    module = LinenNet()
    return module.apply, module.init(KEY, X[:1])


def functions():
    rng = np.random.default_rng(0)
    one = {"w": rng.normal(size=(3, 3)), "scale": np.ones(3), "b": np.full(3, 0.3)}
    params = {"one": one, "out": {"w": rng.normal(size=(3, 2))}}
    return plain, jax.tree.map(jnp.float32, params)


IMAGES = jax.random.normal(jax.random.key(3), (120, 1, 6, 6))
FEEDING = {
    "equinox": (network, X, {"layers/0": {"weight": 0, "bias": 0}}),
    "convolution": (Convolutional, IMAGES, {"second": {"weight": 0, "bias": 0}}),
    "linen": (linen, X, {"params/two": {"kernel": 1, "bias": 0}}),
    "nnx": (
        lambda: NNXNet(nnx.Rngs(0)),
        IMAGES[:, 0, :3, :3, None],
        {"conv": {"kernel": 3, "bias": 0}},
    ),
    "square": (functions, X, {"one": {"w": 1, "scale": 0, "b": 0}}),
}


@pytest.mark.parametrize("kind", FEEDING)
def test_what_feeds_the_units_is_found_and_silencing_it_silences_them(kind):
    make, x, expected = FEEDING[kind]
    ensemble = mf.Ensemble.from_model(make(), key=KEY)
    found = find_layers(ensemble, x[:3], None)
    for layer, axes in expected.items():
        own = {
            name.removeprefix(f"{layer}/"): source.axis
            for name, source in found.sources[layer].items()
            if name.startswith(f"{layer}/")
        }
        assert own == axes
        size = found.units[layer].size
        mask = np.arange(size) % 2 == 0
        silent = silence(ensemble, {layer: mask}, found.sources)
        drawn = mf.Ensemble.from_points(silent.sample(KEY))
        values = mf.neurons.coalition_features(drawn, layer, x[:9])
        assert (values[:, ~mask] == 0).all()
        assert (values[:, mask] != 0).any()


def test_silencing_nobody_changes_no_bit_and_the_cut_is_what_the_mask_says():
    ensemble = mf.Ensemble.from_model(network(), key=KEY)
    found = find_layers(ensemble, X[:3], None)
    everybody = {name: np.ones(u.size, bool) for name, u in found.units.items()}
    same = silence(ensemble, everybody, found.sources)
    for one, two in zip(
        jax.tree.leaves(eqx.filter(ensemble, eqx.is_array)),
        jax.tree.leaves(eqx.filter(same, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    mask = np.arange(8) < 5
    masks = {**everybody, "layers/0": mask}
    for forget in (False, True):
        weight = silence(ensemble, masks, found.sources, forget=forget).weights()[
            "layers/0/weight"
        ]
        assert (weight.spike_prob[~mask] == 1).all()
        assert (weight.mean[~mask] == 0).all()
        assert (weight.var[~mask] == 0).all()
        assert (weight.slab_mean[~mask] == 0).all() == forget


# Energies.


def test_energies_match_their_definitions_term_by_term():
    rng = np.random.default_rng(0)
    energies = rng.normal(size=(5, 4))
    labels = rng.integers(0, 4, 5)
    for temperature in (0.3, 1.0, 2.5):
        weights = np.exp(-energies / temperature)
        partition = weights.sum(1)
        own = energies[np.arange(5), labels]
        given = jnp.asarray(energies), temperature
        np.testing.assert_allclose(
            gibbs_probs(*given), weights / partition[:, None], rtol=1e-5
        )
        free = -temperature * np.log(partition)
        np.testing.assert_allclose(free_energy(*given), free, rtol=1e-5, atol=1e-6)
        excess = excess_energy(given[0], jnp.asarray(labels), temperature)
        np.testing.assert_allclose(excess, own - free, rtol=1e-4, atol=1e-6)
        # T times the surprise, and F = ⟨E⟩ − T × entropy: the thermodynamic identity.
        probs = weights / partition[:, None]
        surprise = -np.log(probs[np.arange(5), labels])
        np.testing.assert_allclose(excess, temperature * surprise, rtol=1e-4, atol=1e-6)
        entropy = -(probs * np.log(probs)).sum(1)
        mean = (probs * energies).sum(1)
        np.testing.assert_allclose(free, mean - temperature * entropy, rtol=1e-10)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        gibbs_probs(jnp.zeros(3), 0.0)


def test_the_free_energy_game_pays_minus_the_mean_excess_energy():
    ensemble = mf.Ensemble.from_points(network())
    game = mf.NeuronGame(
        ensemble, "layers/1", (X, Y), payoff="free_energy", temperature=0.7
    )
    logits = jax.vmap(network())(X)
    expected = -excess_energy(-logits, Y, 0.7).mean()
    np.testing.assert_allclose(game(np.ones((1, 6), bool))[0], expected, rtol=1e-5)


def test_gibbs_membership_is_a_sigmoid_and_a_step_at_zero_temperature():
    values = jnp.array([-1.0, 0.2, 0.3, 2.0])
    soft = gibbs_membership(values, 0.25, 0.5)
    expected = 1 / (1 + np.exp(-(np.asarray(values) - 0.25) / 0.5))
    np.testing.assert_allclose(soft, expected, rtol=1e-6)
    assert gibbs_membership(values, 0.25, 0.0).tolist() == [0, 0, 1, 1]
    near = gibbs_membership(values, 0.25, 1e-4)
    np.testing.assert_allclose(near, [0, 0, 1, 1], atol=1e-6)


def test_the_penalty_is_the_mean_square_activation_of_who_is_outside():
    ensemble = mf.Ensemble.from_model(network(), key=KEY)
    found = find_layers(ensemble, X[:3], None)
    members = {
        "layers/0": np.linspace(0, 1, 8, dtype=np.float32),
        "layers/1": np.array([1, 0, 1, 0, 0.5, 0], np.float32),
    }
    sources = tuple((n, tuple(a.items())) for n, a in found.sources.items())
    gates = CoalitionRestriction(
        {n: jnp.asarray(m) for n, m in members.items()}, sources, 0.3
    )
    a, expected = np.asarray(X, np.float64), 0.0
    mean = ensemble.mean_network()
    for number, layer in enumerate(mean.layers[:2]):
        a = np.maximum(a @ np.asarray(layer.weight).T + np.asarray(layer.bias), 0)
        member = members[f"layers/{number}"]
        expected += ((1 - member) * (a**2).mean(0)).sum()
        a = a * member
    np.testing.assert_allclose(gates.penalty(ensemble, X), 0.3 * expected, rtol=1e-5)


def test_units_act_as_often_as_their_membership_says():
    ensemble = mf.Ensemble.from_points(network())
    found = find_layers(ensemble, X[:3], ["layers/0"])
    members = jnp.array([0, 1, 0.5, 0.9, 0.1, 0.3, 1, 0])
    sources = tuple((n, tuple(a.items())) for n, a in found.sources.items())
    gates = CoalitionRestriction({"layers/0": members}, sources, 0.0)

    def acts(key):
        return gates.restrict(ensemble, key).params.layers[0].bias != 0

    draws = 2000
    share = np.asarray(jax.vmap(acts)(jax.random.split(KEY, draws))).mean(0)
    error = np.sqrt(members * (1 - members) / draws)
    assert (np.abs(share - members) <= 5 * error).all()


# Training.


@pytest.mark.parametrize("kind", ["point", "ensemble"])
def test_only_the_coalition_is_left_and_shrinking_changes_no_answer(kind):
    model = network()
    if kind == "ensemble":
        model = mf.Ensemble.from_model(model, key=KEY)
    result = train(model)
    sizes = {name: int(mask.sum()) for name, mask in result.coalitions.items()}
    assert sizes == {"layers/0": 4, "layers/1": 3}
    assert result.num_active == 7
    drawn = result.ensemble.sample(jax.random.key(1))
    small = mf.deploy.shrink(drawn, X).model
    widths = [layer.out_features for layer in small.layers]
    assert widths[0] <= 4
    assert widths[1] <= 3
    np.testing.assert_allclose(
        jax.vmap(small)(X), jax.vmap(drawn)(X), rtol=1e-4, atol=1e-5
    )
    history = result.history
    assert history["active_units"] == [14, 14, 10, 10, 7, 7]
    assert len({len(values) for values in history.values()}) == 1
    assert [r.epoch for r in result.rounds] == [2, 2, 4, 4]


def test_rounds_and_coalitions_compile_no_epoch_anew():
    by_order = lambda ensemble, layer, data, key: np.arange(
        {"layers/0": 8.0, "layers/1": 6.0}[layer]
    )
    train(network(), epochs=2, settle=0, credit=by_order)
    compiled = run_epochs._cached._cache_size()
    train(network(), epochs=8, credit=by_order)
    train(network(), credit=by_order, keep={"layers/0": 2, "layers/1": 5})
    train(network(), credit=by_order, softness=0.5, key=KEY)
    assert run_epochs._cached._cache_size() == compiled


def test_the_same_key_gives_the_same_bits():
    one, two = (train(network(), epochs=4) for _ in range(2))
    for a, b in zip(
        jax.tree.leaves(eqx.filter(one.ensemble, eqx.is_array)),
        jax.tree.leaves(eqx.filter(two.ensemble, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_batches_are_learned_from_as_the_arrays_they_make():
    size = {"keep": 0.5, "validation": (X[:40], Y[:40])}
    whole = train(network(), batch_size=len(X), **size)
    batches = train(network(), data=[(X, Y)], **size)
    np.testing.assert_allclose(batches.history["nll"], whole.history["nll"], rtol=1e-4)
    for layer, mask in whole.coalitions.items():
        np.testing.assert_array_equal(batches.coalitions[layer], mask)
        assert mask.sum() == len(mask) // 2


def test_everybody_belonging_is_plain_training():
    held = (X[:40], Y[:40])
    result = train(network(), keep=1.0, validation=held, layers=["layers/1"])
    fit_key = jax.random.split(jax.random.key(7), 3)[1]
    whole = mf.fit(
        mf.Ensemble.from_points(network()),
        (X, Y),
        key=fit_key,
        epochs=6,
        batch_size=20,
        optimizer=OPTIMIZER,
        progress=False,
        prior=None,
    )
    np.testing.assert_allclose(result.history["nll"], whole.history["nll"], rtol=1e-5)


def test_an_unheard_unit_is_left_out_and_one_whose_value_rises_returns():
    def credit(ensemble, layer, data, key):
        calls.append(layer)
        order = np.arange(8.0)
        return order if len(calls) == 1 else 10 * order[::-1]

    calls = []
    result = train(
        network(), layers=["layers/0"], credit=credit, keep=4, memory=0.5, epochs=9
    )
    first, second, last = result.rounds
    assert first.mask.sum() == 6
    assert not first.mask[:2].any()
    assert last.mask.tolist() == [True] * 4 + [False] * 4
    assert second.num_returned + last.num_returned == 2
    np.testing.assert_allclose(
        second.values, 0.5 * np.arange(8) + 5 * np.arange(8)[::-1]
    )


def test_shapley_credit_leaves_out_a_unit_that_nobody_hears():
    model = network()
    deaf = model.layers[1].weight.at[:, jnp.array([1, 6])].set(0)
    model = eqx.tree_at(lambda m: m.layers[1].weight, model, deaf)
    still = optax.sgd(0.0)
    result = train(model, layers=["layers/0"], keep=6, optimizer=still)
    values = result.values["layers/0"]
    assert values[1] == values[6] == 0
    # Among those that are heard, a value is the payoff's own: by enumeration.
    ensemble = mf.Ensemble.from_points(model)
    held = train(
        model,
        layers=["layers/0"],
        keep=8,
        optimizer=still,
        validation=(X, Y),
        num_examples=120,
        budget_per_unit=32,
    )
    game = mf.NeuronGame(ensemble, "layers/0", (X, Y), payoff="free_energy")
    exact = mf.shapley_values(game, 8, method="exact").values
    np.testing.assert_allclose(held.values["layers/0"], exact, atol=1e-5)


def test_without_a_size_the_smallest_certified_coalition_is_taken():
    settings = {"keep": None, "validation": 0.5, "epochs": 3, "layers": ["layers/0"]}
    loose = train(network(), epsilon=0.5, **settings).coalitions["layers/0"]
    strict = train(network(), epsilon=0.0, **settings).coalitions["layers/0"]
    assert 1 <= loose.sum() < strict.sum() <= 8


def test_channels_play_and_real_targets_do():
    targets = IMAGES[:, 0].mean((1, 2))[:, None]

    def regress(net):
        return eqx.tree_at(lambda m: m.out, net, eqx.nn.Linear(24, 1, key=KEY))

    result = train(
        regress(Convolutional()),
        (IMAGES, targets),
        likelihood=mf.Gaussian(),
        credit="banzhaf",
        softness=0.2,
        regularizer=0.01,
        epochs=3,
        every=1,
    )
    assert {k: int(m.sum()) for k, m in result.coalitions.items()} == {
        "first": 2,
        "second": 3,
    }
    assert result.history["penalty"][-1] > 0
    small = mf.deploy.shrink(result.ensemble.mean_network(), IMAGES[:8]).model
    assert small.second.weight.shape[:2] == (3, 2)
    features = result.features(IMAGES[:9])
    assert features.shape == (9, 3)
    net = result.ensemble.mean_network()
    hidden = jax.vmap(lambda x: jax.nn.relu(net.second(jnp.tanh(net.first(x)))))
    expected = hidden(IMAGES[:9]).mean((2, 3))[:, result.coalitions["second"]]
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flax_networks_train_and_shrink_in_their_own_type(kind):
    make, x, _ = FEEDING[kind]
    result = train(make(), (x, Y), epochs=3, every=1)
    model = result.ensemble.mean_network()
    small = mf.deploy.shrink(model, x).model
    one = small[0](small[1], x) if kind == "linen" else small(x)
    other = model[0](model[1], x) if kind == "linen" else model(x)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Bad input.


class Doubled(eqx.Module):
    inner: eqx.nn.Linear
    out: eqx.nn.Linear

    def __call__(self, x):
        divided = self.inner(x) / self.inner.bias
        return self.out(divided)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["layers/9"]}, r"got 'layers/9'. There are \['layers/0'"),
        ({"layers": ["layers/2"]}, "'layers/2' computes the network's outputs"),
        ({"layers": []}, "must have a layer with separate units"),
        ({"keep": 1.5}, "`keep` must be a fraction of a layer"),
        ({"keep": 9}, "`keep` must be a fraction .* got 9 for the 8 units"),
        ({"keep": 0.01}, "`keep` must be a fraction of a layer"),
        ({"keep": {"layers/0": 3}}, "`keep` must name the layers with coalitions"),
        ({"every": 0}, "`every` must be at least 1"),
        ({"every": 6}, "`epochs` must be at least `every`"),
        ({"settle": -1}, "`epochs` must be at least `every`"),
        ({"epsilon": 1.0}, "`epsilon` must lie in"),
        ({"memory": 1.0}, "`memory` must lie in"),
        ({"softness": -1.0}, "`softness` must not be negative"),
        ({"regularizer": -1.0}, "`regularizer` must not be negative"),
        ({"credit": "shapely"}, "`credit` must be 'shapley', 'banzhaf' or a function"),
        ({"budget_per_unit": 0}, "`budget_per_unit` must be at least 1"),
        ({"num_examples": 1}, "`num_examples` must be at least 4"),
        ({"validation": 0.0}, "`validation` must be a fraction of the examples"),
        ({"validation": 0.001}, "`validation` must be a fraction of the examples"),
        ({"validation": (X[:5, :2], Y[:5])}, "`validation` must be a batch"),
        ({"patience": 2}, "`patience` must be left out of coalition"),
        ({"payoff": "money"}, "`payoff` must be one of"),
        (
            {"credit": lambda ensemble, layer, data, key: np.ones(3)},
            "`credit` must return one finite number for each of the 8 units",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        train(network(), **settings)


def test_bad_networks_and_data_are_refused():
    with pytest.raises(ValueError, match="must have a layer with separate units"):
        train(eqx.nn.Linear(3, 2, key=KEY))
    doubled = Doubled(eqx.nn.Linear(3, 4, key=KEY), eqx.nn.Linear(4, 2, key=KEY))
    with pytest.raises(ValueError, match="layer 'inner' cannot be silenced"):
        train(doubled)
    with pytest.raises(TypeError, match="`data` must be a pair of arrays"):
        train(network(), [(X, Y)])
    with pytest.raises(TypeError, match="`model` must be an Equinox module"):
        train("network")
    result = train(network(), epochs=3, every=1)
    with pytest.raises(ValueError, match="`layer` must be among the layers in `mask`"):
        result.features(X, "layers/2")
    with pytest.raises(ValueError, match="`mask` must have one entry for each"):
        mf.neurons.coalition_features(
            result.ensemble, "layers/0", X, mask=np.ones(3, bool)
        )
    assert choose_credit(len, 1) is len
