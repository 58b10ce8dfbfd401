"""The selective rule: its search, its held-out part, and runs under it."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf
from meanfield.learning import device_mesh
from meanfield.learning.checkpoint import Checkpoint
from meanfield.learning.epochs import run_epochs
from meanfield.learning.schedule import Schedule, free_batches
from meanfield.learning.search import RATIO, find_pressure, is_worse, message_length
from meanfield.learning.selective import (
    hold_out,
    selective_plan,
    selective_rule,
    selective_start,
)

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (96, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def ensemble():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    return mf.Ensemble.from_model(network, key=jax.random.key(1))


def learn(ensemble, data=(X, Y), **settings):
    defaults = {
        "key": KEY,
        "epochs": 12,
        "batch_size": 16,
        "prior": "selective",
        "progress": False,
    }
    return mf.fit(ensemble, data, **defaults | settings)


def same(one, two):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs if eqx.is_array(a))


# The search


@pytest.mark.parametrize(
    ("losses", "worse"),
    [
        ([0.3, 0.5, 0.7], True),
        ([0.21, 0.41, 0.61], False),  # By no more than the tolerance.
        ([-0.1, 0.7, 0.9], False),  # Mean 0.1, standard error 0.163.
        ([0.1, 0.3, 0.5], False),
        ([np.inf, 0.0, 0.0], True),
    ],
)
def test_a_loss_is_worse_by_more_than_tolerance_and_noise(losses, worse):
    others = np.array([0.2, 0.4, 0.6])
    assert is_worse(np.array(losses), others, 0.02) is worse
    assert is_worse(others, np.array([np.nan, 0.0, 0.0]), 0.02) is False


def search(landscape, ceiling=1.0):
    """What is found where every example loses as much, and in which order."""
    tried = []

    def trial(temperature, price):
        tried.append((temperature, price))
        return np.full(5, landscape(np.log10(temperature), price / 8))

    return find_pressure(trial, ceiling, 8.0, 0.001), tried


@pytest.mark.parametrize(
    ("best", "price", "powers", "parts"),
    [
        (0.0, 1.0, [2, 1, 0], [0.25]),
        (-0.5, 1.0, [2, 1, 0], [0.25]),
        (-1.0, 1.0, [2, 1, 3], [0.25]),
        (-2.0, 0.25, [2, 1, 3, 4, 5], [0.25, 0.0]),
        (-3.0, 0.0, [2, 1, 3, 4, 5, 6], [0.25, 0.0]),
    ],
)
def test_the_search_walks_to_the_least_loss(best, price, powers, parts):
    found, tried = search(lambda t, part: (t - best) ** 2 + (part - price) ** 2)
    assert np.isclose(np.log10(found.temperature), best)
    assert found.price == 8 * price
    temperature = found.temperature
    steps = [(RATIO**-power, 8.0) for power in powers]
    steps += [(temperature, 8 * part) for part in parts]
    np.testing.assert_allclose(tried, steps, rtol=0.01)
    assert len(found.trials) == len(tried)


def test_of_losses_that_are_alike_the_sparsest_is_taken():
    found, tried = search(lambda t, part: 0.0, ceiling=0.5)
    assert (found.temperature, found.price) == (0.5, 8.0)
    assert len(tried) == 4


def test_a_run_that_breaks_down_is_not_chosen():
    found, _ = search(lambda t, part: np.nan if t > -0.9 else 0.0)
    assert np.isclose(found.temperature, 0.1)


def test_what_was_found_survives_a_file():
    found, _ = search(lambda t, part: t**2)
    assert type(found).restored(found.kept()) == found


def test_the_largest_price_is_the_length_of_a_message():
    assert np.isclose(message_length(1000, 10_000), np.log(1000) + np.log(100))
    assert message_length(0, 0) > 0


def schedule(held=None, **settings):
    return Schedule(
        temperature=jnp.asarray(0.5),
        steps=jnp.asarray(100.0),
        speed=jnp.asarray(1.0),
        held=held,
        **settings,
    )


def test_the_temperature_rises_and_the_steps_shrink():
    temperatures = [schedule().temperature_at(step) for step in (0, 20, 40, 99)]
    wanted = [0.015, 0.5 * 0.03**0.5, 0.5, 0.5]
    np.testing.assert_allclose(temperatures, wanted, rtol=1e-5)
    one = jnp.ones(1)
    factors = [schedule().shrink(one, jnp.asarray(step))[0] for step in (0, 50, 100)]
    np.testing.assert_allclose(factors, [1, 0.5, 0], atol=1e-6)
    fast = eqx.tree_at(lambda s: s.speed, schedule(), jnp.asarray(5.0))
    np.testing.assert_allclose(fast.shrink(one, jnp.asarray(50))[0], 2.5)
    assert schedule(cools=False).shrink(one, jnp.asarray(50))[0] == 1


# What is held out


@pytest.mark.parametrize(
    ("examples", "held"), [(96, 24), (1000, 250), (5000, 750), (100_000, 10_000)]
)
def test_so_many_examples_are_held_out(examples, held):
    mask = hold_out(mf.Selective(), examples, 16, KEY)
    assert mask.sum() == held
    assert (mask == hold_out(mf.Selective(), examples, 16, KEY)).all()


def test_held_examples_take_no_part_and_others_fill_their_place():
    held = jnp.arange(40) % 4 == 0
    seen = np.ravel(free_batches(KEY, schedule(held, num_steps=8), 5))
    assert set(seen) == {i for i in range(40) if i % 4}
    assert np.unique(seen, return_counts=True)[1].max() == 2
    none = schedule(jnp.zeros(40, bool), num_steps=8)
    assert sorted(np.ravel(free_batches(KEY, none, 5))) == list(range(40))


def test_small_data_are_passed_over_more_often():
    assert selective_plan(60_000, 128) == (30, 1)
    assert selective_plan(640, 64) == (80, 5)
    assert selective_plan(640, 64, own=True) == (400, 1)
    assert selective_plan(None, 64) == (30, 1)


@pytest.mark.parametrize("examples", [100, 640, 3000, 6000, 8000])
def test_fewer_steps_are_larger_in_proportion(examples):
    epochs, factor = selective_plan(examples, 64)
    assert epochs >= 30
    assert 1 < factor <= 5
    assert np.isclose(epochs * (examples // 64) * factor, 4000, rtol=0.03)


def test_spikes_of_a_fresh_ensemble_can_travel(ensemble):
    start = selective_start(ensemble)
    for name, weight in start.weights().items():
        assert (weight.spike_prob == np.float32(0.05)).all()
        assert same(weight.slab_mean, ensemble.weights()[name].slab_mean)
    assert same(selective_start(start).params, start.params)


# Runs


def test_the_same_key_gives_the_same_bits(ensemble):
    one, two = learn(ensemble), learn(ensemble, prior=mf.Selective())
    assert same(one.ensemble.params, two.ensemble.params)
    assert not same(
        one.ensemble.params, learn(ensemble, key=jax.random.key(5)).ensemble.params
    )


def test_the_result_tells_what_was_searched_and_how_it_rose(ensemble):
    result = learn(ensemble)
    found = result.search
    assert (found.temperature, found.price) in found.trials
    assert np.isfinite(list(found.trials.values())).all()
    temperatures = result.history["temperature"]
    assert len(temperatures) == 12
    assert all(a <= b for a, b in itertools.pairwise(temperatures))
    np.testing.assert_allclose(temperatures[-6:], found.temperature, rtol=1e-5)
    fixed = learn(ensemble, temperature=0.0)
    assert fixed.search.trials == {}
    assert fixed.history["temperature"] == [0] * 12
    assert learn(ensemble, prior=None, epochs=1).search is None


def test_no_trial_compiles_anew(ensemble):
    before = run_epochs._cached._cache_size()
    result = learn(ensemble, optimizer=optax.adam(1e-3))
    assert len(result.search.trials) > 3
    assert run_epochs._cached._cache_size() == before + 1


@pytest.mark.parametrize("stop", [3, 10])
def test_a_checkpoint_continues_to_the_same_bits(ensemble, tmp_path, stop):
    whole = learn(ensemble)
    folder = tmp_path / "run"
    learn(
        ensemble,
        checkpoint=folder,
        callbacks=[lambda report: report.epoch == stop],
    )
    resumed = learn(ensemble, checkpoint=folder)
    assert same(whole.ensemble.params, resumed.ensemble.params)
    assert whole.history["nll"] == resumed.history["nll"]
    assert whole.search == resumed.search
    with pytest.raises(ValueError, match="`checkpoint` .* belongs to another run"):
        learn(ensemble, checkpoint=folder, prior=mf.Selective(tolerance=0.5))


class Killed(BaseException):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("stop", [1, 3])
def test_a_search_that_was_killed_tries_only_what_is_left(
    ensemble, tmp_path, monkeypatch, stop
):
    whole = learn(ensemble)
    kept = Checkpoint.keep_search

    def keep_and_die(self, found, fingerprint):
        kept(self, found, fingerprint)
        if len(found) == stop:
            raise Killed

    monkeypatch.setattr(Checkpoint, "keep_search", keep_and_die)
    with pytest.raises(Killed):
        learn(ensemble, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="`checkpoint` .* belongs to another run"):
        learn(ensemble, checkpoint=tmp_path, prior=mf.Selective(tolerance=0.5))
    counts = []

    def count(self, found, fingerprint):
        counts.append(len(found))
        kept(self, found, fingerprint)

    monkeypatch.setattr(Checkpoint, "keep_search", count)
    resumed = learn(ensemble, checkpoint=tmp_path)
    assert counts == list(range(stop + 1, len(whole.search.trials) + 1))
    assert same(whole.ensemble.params, resumed.ensemble.params)
    assert whole.search == resumed.search


def test_early_stopping_counts_only_what_the_last_temperature_gave(ensemble):
    result = learn(ensemble, epochs=40, validation=(X, 1 - Y), patience=2)
    assert result.stopped == "early"
    # The temperature rises for sixteen epochs.
    assert len(result.history["epoch"]) >= 16 + 2


def test_it_goes_with_batches_weights_a_mesh_and_an_optimizer(ensemble):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    outside = learn(ensemble, batches, validation=(X, Y), num_data=96)
    assert np.isfinite(list(outside.search.trials.values())).all()
    doubled = learn(ensemble, batches, validation=(X, Y, np.ones(96)), num_data=96)
    assert doubled.search == outside.search
    weighted = learn(ensemble, sample_weight=np.ones(96))
    assert np.allclose(weighted.history["nll"], learn(ensemble).history["nll"])
    meshed = learn(ensemble, mesh=device_mesh(1))
    assert np.allclose(meshed.history["nll"], learn(ensemble).history["nll"])
    own = learn(ensemble, optimizer=optax.sgd(0.01))
    assert np.isfinite(own.history["loss"]).all()


def test_what_is_noise_is_let_go_and_what_is_signal_stays():
    """Labels that follow one of ten inputs, three of ten of them flipped."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 10)).astype(np.float32)
    y = ((x[:, 3] > 0) ^ (rng.random(600) < 0.3)).astype(int)
    network = eqx.nn.MLP(10, 2, 8, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    result = learn(ensemble, (x, y), epochs=120, batch_size=32)
    included = np.asarray(
        result.ensemble.weights()["layers/0/weight"].inclusion_prob.max(0)
    )
    assert included[3] > 0.5
    assert (np.delete(included, 3) < 0.5).all()
    # The entropy of a label given its input is 0.611 nats.
    x = rng.normal(size=(4000, 10)).astype(np.float32)
    y = ((x[:, 3] > 0) ^ (rng.random(4000) < 0.3)).astype(int)
    metrics = mf.evaluate(
        result.ensemble,
        (x, y),
        likelihood=mf.Categorical(),
        num_samples=32,
        key=KEY,
    )
    assert metrics.nll < 0.65


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "selectiv"}, "`prior` must be 'selective'.*got 'selectiv'"),
        ({"temperature": lambda step: 1.0}, "`temperature` must be one number"),
        (
            {"parametrization": mf.learning.Projected()},
            "`parametrization` must be Unconstrained.*got Projected",
        ),
        ({"batch_size": 90}, "holds out 24 of the 96 examples, which must leave"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
    ],
)
def test_what_cannot_go_with_it_is_refused(ensemble, change, message):
    with pytest.raises(ValueError, match=message):
        learn(ensemble, **change)


def test_batches_from_outside_need_validation_data(ensemble):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    with pytest.raises(ValueError, match="`validation` is needed by the selective"):
        learn(ensemble, batches, num_data=96)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -0.1}, "`tolerance` must be a finite number ≥ 0"),
        ({"tolerance": np.nan}, "`tolerance` must be a finite number ≥ 0"),
        ({"price": 200}, "`price` must lie in"),
        ({"held_out": 0.9}, "`held_out` must lie in"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mf.Selective(**settings)


def test_only_the_word_asks_for_the_rule():
    assert selective_rule("selective") == mf.Selective()
    assert selective_rule(mf.SpikeSlabPrior()) is None
    assert selective_rule(None) is None


def test_the_estimators_take_it(monkeypatch):
    monkeypatch.setattr("meanfield.learning.selective.STEPS", 2000)
    monkeypatch.setattr("meanfield.learning.search.TRIAL_STEPS", 1000)
    x, y = np.asarray(X), np.asarray(Y)
    rule = mf.Selective(tolerance=0.01)
    model = mf.MeanFieldClassifier((4,), prior=rule, batch_size=24, random_state=0)
    model.fit(x, y)
    assert len(model.history_["temperature"]) == 100
    assert model.score(x, y) > 0.8
    model.partial_fit(x, y)  # One pass under a prior: there is no run to plan.
    assert model.n_iter_ == 101
    wrong = mf.MeanFieldRegressor((4,), prior="selectiv")
    with pytest.raises(ValueError, match="`prior` must be 'selective'.*'selectiv'"):
        wrong.fit(x, x[:, 0])
