"""Dead units leave an ensemble between stages, and come back as absent connections."""

import equinox as eqx
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

import meanfield as mf
from meanfield.deploy.staged_learning import rising_temperature
from meanfield.ensemble.networks import mlp

WIDTHS = (6, 5, 4, 3)
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 6))


def sizes(narrowed):
    weights = narrowed.ensemble.weights()
    return {name: weight.shape for name, weight in weights.items()}


def with_spikes(ensemble, changes):
    """The ensemble with π = 1 at some places of some weights."""
    changed = {}
    for name, places in changes.items():
        weight = ensemble.weights()[name]
        spike = weight.spike_prob
        for place in places:
            spike = spike.at[place].set(1.0)
        changed[name] = mf.SpikeSlab(spike, weight.slab_mean, weight.slab_var)
    return ensemble.with_weights(changed)


ALL = slice(None)


@pytest.fixture(scope="module")
def ensemble():
    """Input 2 and the second layer's unit 1 have lost all their connections."""
    full = mf.Ensemble.from_model(mlp(WIDTHS, key=KEY), key=KEY)
    return with_spikes(
        full,
        {
            "layers/0/weight": [(ALL, 2)],
            "layers/1/weight": [(1, ALL)],
            "layers/2/weight": [(ALL, 1)],
        },
    )


def test_dead_units_leave_and_the_means_stay_the_same(ensemble):
    smaller = mf.deploy.narrow(ensemble, X)
    assert list(sizes(smaller).values()) == [(5, 5), (3, 5), (3, 3)]
    assert smaller.kept_inputs[0].tolist() == [0, 1, 3, 4, 5]
    assert smaller.kept["layers/1/weight"][0].tolist() == [0, 2, 3]
    before = ensemble.apply_fn(ensemble.mean_params(), X)
    narrow = smaller.ensemble
    np.testing.assert_allclose(
        narrow.apply_fn(narrow.mean_params(), X), before, rtol=1e-5
    )
    model = narrow.mean_network()
    after = jax.vmap(model)(smaller.select_inputs(X))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_the_whole_shape_comes_back(ensemble):
    smaller = mf.deploy.narrow(ensemble, X)
    back = smaller.widen(smaller.ensemble)
    for name, weight in back.weights().items():
        old = ensemble.weights()[name]
        np.testing.assert_array_equal(weight.spike_prob, old.spike_prob)
        np.testing.assert_array_equal(weight.slab_mean, old.slab_mean)
    # New numbers of the smaller one are found again, and only there.
    moved = smaller.ensemble.with_weights(
        {
            name: mf.SpikeSlab(w.spike_prob, w.slab_mean + 1, w.slab_var)
            for name, w in smaller.ensemble.weights().items()
        }
    )
    change = smaller.widen(moved).weights()["layers/1/weight"].slab_mean
    change = change - ensemble.weights()["layers/1/weight"].slab_mean
    np.testing.assert_allclose(change[1], 0)
    np.testing.assert_allclose(change[jnp.array([0, 2, 3])], 1, rtol=1e-5)


def test_a_unit_without_successors_takes_its_inputs_along(ensemble):
    # Only unit 4 of the first layer sees input 5, and nobody sees unit 4.
    lonely = with_spikes(
        ensemble,
        {
            "layers/0/weight": [(slice(4), 5)],
            "layers/1/weight": [(ALL, 4)],
        },
    )
    smaller = mf.deploy.narrow(lonely, X)
    assert smaller.kept_inputs[0].tolist() == [0, 1, 3, 4]
    assert sizes(smaller)["layers/0/weight"] == (4, 4)


def test_the_constant_of_a_unit_without_inputs_stays(ensemble):
    deaf = with_spikes(ensemble, {"layers/0/weight": [(0, ALL)]})
    deaf = eqx.tree_at(
        lambda e: e.params.layers[0].bias,
        deaf,
        deaf.params.layers[0].bias.at[0].set(0.7),
    )
    smaller = mf.deploy.narrow(deaf, X).ensemble
    assert smaller.weights()["layers/0/weight"].shape == (4, 5)
    np.testing.assert_allclose(
        smaller.apply_fn(smaller.mean_params(), X),
        deaf.apply_fn(deaf.mean_params(), X),
        rtol=1e-5,
    )


def test_channels_and_shared_spikes_leave_too():
    """A convolution, a flattening and a layer, with one spike for each input unit."""
    net = models.channels_read_by_a_layer(KEY)
    whole = mf.Ensemble.from_model(net, key=KEY, spikes="unit")
    images = jax.random.normal(KEY, (5, 1, 4, 4))
    last = "layers/3/weight"
    assert whole.weights()[last].spike_prob.shape == (1, 16)
    # Channel 2 is read by nobody.
    smaller = mf.deploy.narrow(
        with_spikes(whole, {last: [(ALL, slice(8, 12))]}), images
    )
    assert sizes(smaller)["layers/0/weight"][0] == 3
    assert smaller.ensemble.weights()[last].spike_prob.shape == (1, 12)
    back = smaller.widen(smaller.ensemble).weights()[last]
    assert (back.spike_prob[0, 8:12] == 1).all()
    assert (back.spike_prob[0, :8] < 1).all()


def test_a_network_without_a_live_path_keeps_a_unit_a_layer(ensemble):
    dead = with_spikes(ensemble, {"layers/1/weight": [(ALL, ALL)]})
    smaller = mf.deploy.narrow(dead, X).ensemble
    assert smaller.weights()["layers/1/weight"].shape[0] == 1
    np.testing.assert_allclose(
        smaller.apply_fn(smaller.mean_params(), X),
        dead.apply_fn(dead.mean_params(), X),
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_cannot_be_narrowed_is_refused(ensemble):
    with pytest.raises(ValueError, match="`threshold` must be a probability"):
        mf.deploy.narrow(ensemble, X, threshold=1.0)


def test_the_temperature_rises_over_the_stages_and_then_stays():
    whole, later = rising_temperature(2.0, 0, 100), rising_temperature(2.0, 60, 100)
    assert float(whole(0)) == pytest.approx(2.0 * 0.03)
    assert float(later(jnp.asarray(10))) == pytest.approx(float(whole(70)))
    assert float(whole(100)) == float(whole(1000)) == 2.0


def test_stages_let_inputs_of_noise_leave():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype(np.float32)
    y = (x[:, 1] > 0).astype(int)
    start = mf.ensemble.critical(slab_share=0.01, spike_prob=0.05)
    ensemble = mf.Ensemble.from_model(mlp((6, 5, 2), key=KEY), key=KEY, initial=start)
    shapes = []

    def look(result):
        shapes.append(result.ensemble.weights()["layers/0/weight"].shape)

    result = mf.deploy.fit_in_stages(
        ensemble,
        (x, y),
        stages=[(60, 2.0), (60, 1.0), (2, 1.0)],
        temperature=2.0,
        price=4.0,
        key=KEY,
        batch_size=16,
        threshold=0.1,
        after=look,
        progress=False,
    )
    assert shapes == [(5, 6)] * 3
    assert result.history["epoch"] == list(range(1, 123))
    there = np.asarray(result.ensemble.weights()["layers/0/weight"].inclusion_prob)
    assert there[:, 1].max() > 0.9
    assert np.delete(there, 1, 1).max() < 0.1
    assert (there == 0).any()  # π = 1 exactly: it left.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "`stages` must have at least one pair"),
        ({"stages": [(1, 0.0)]}, "`stages` must have at least one pair"),
        ({"temperature": -1.0}, "`temperature` and `price` must not be negative"),
    ],
)
def test_stages_out_of_range_are_refused(ensemble, change, message):
    settings = {"stages": [(1, 1.0)], "temperature": 0.1, "price": 3.0, "key": KEY}
    with pytest.raises(ValueError, match=message):
        mf.deploy.fit_in_stages(ensemble, (X, jnp.arange(7) % 3), **settings | change)
