"""The selective rule: its judgement, its held-out part, and runs under it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf
from meanfield.learning import device_mesh
from meanfield.learning.schedule import free_batches
from meanfield.learning.selective import (
    hold_out,
    selective_epochs,
    selective_rule,
    selective_start,
)
from meanfield.learning.steering import LOWEST, STRIDE, Pressure, Steering, judge
from meanfield.learning.training import run_epoch

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


# The judgement

BEST = np.array([0.2, 0.4, 0.6])
STOOD = Pressure(level=-1.0, stride=0.4, kept=-1.4, best_nll=0.3, rounds=3)


def test_the_first_round_stands_whatever_it_lost():
    after, stands, new_best = judge(Pressure(), BEST, np.zeros(3), 9.0, 0.0)
    assert stands
    assert new_best
    assert np.isclose(after.level, LOWEST + STRIDE)
    assert np.isclose(after.loss, 0.4)


@pytest.mark.parametrize(
    ("change", "nll", "stands", "new_best"),
    [
        (-0.1, 0.5, True, True),  # better
        (0.01, 0.5, True, False),  # within the tolerance
        (0.1, 0.2, True, True),  # worse on what is held out alone: memory
        (0.1, 0.5, False, False),  # worse on both
    ],
)
def test_a_round_is_judged_by_both_losses(change, nll, stands, new_best):
    after, stood, best = judge(STOOD, BEST + change, BEST, nll, 0.02)
    assert (stood, best) == (stands, new_best)
    assert after.rounds == 4
    assert np.isclose(after.kept, -1.0 if stands else -1.4)
    assert np.isclose(after.stride, 0.4 if stands else 0.2)
    assert np.isclose(after.level, after.kept + after.stride)
    assert after.best_nll == (nll if new_best else 0.3)


def test_first_the_temperature_rises_then_the_price():
    steering = Steering(
        mf.Selective(price=2.0),
        ceiling=0.5,
        num_weights=1000,
        num_data=10_000,
        epochs=10,
        batch_size=4,
        held=np.arange(20) < 5,
        held_data=(np.zeros((5, 1)), np.zeros(5)),
        cools=True,
        learned=jnp.zeros(2),
    )
    most = np.log(1000) + 0.5 * np.log(10_000)
    for level, temperature, price in [
        (-1.0, 0.5 / np.e, 2.0),
        (9.0, 0.5, most),
        (1.0, 0.5, 2 * np.e),
    ]:
        steering.pressure = dataclasses.replace(steering.pressure, level=level)
        schedule = steering.schedule()
        assert np.isclose(steering.temperature, temperature)
        assert np.isclose(steering.price, price)
        # Fewer examples are learned from than the divergence is divided by.
        assert np.isclose(schedule.temperature, temperature / 0.75)
        included = steering.prior().inclusion_prob
        assert np.isclose(np.log((1 - included) / included), price, rtol=1e-5)
    assert schedule.num_steps == 3
    steering.pressure = dataclasses.replace(
        steering.pressure, cooling=4, cool_from=12, level=-1.0
    )
    schedule = steering.schedule()
    assert not schedule.held.any()
    assert np.isclose(schedule.temperature, 0.5 / np.e)
    one = jnp.ones(1)
    factors = [schedule.shrink(one, jnp.asarray(s))[0] for s in (0, 12, 21, 30, 40)]
    assert np.allclose(factors, [1, 1, 0.5, 0, 0], atol=1e-6)


# What is held out


@pytest.mark.parametrize(
    ("examples", "held"), [(96, 24), (1000, 250), (5000, 750), (100_000, 10_000)]
)
def test_so_many_examples_are_held_out(examples, held):
    mask = hold_out(mf.Selective(), examples, 16, KEY)
    assert mask.sum() == held
    assert (mask == hold_out(mf.Selective(), examples, 16, KEY)).all()


def test_held_examples_take_no_part_until_they_are_given_back():
    steering = Steering(
        mf.Selective(),
        ceiling=1.0,
        num_weights=1000,
        num_data=10_000,
        epochs=10,
        batch_size=5,
        held=np.arange(40) % 4 == 0,
        held_data=(np.zeros((10, 1)), np.zeros(10)),
        cools=True,
        learned=jnp.zeros(2),
    )
    seen = np.ravel(free_batches(KEY, steering.schedule(), 5))
    assert sorted(seen) == [i for i in range(40) if i % 4]
    steering.pressure = dataclasses.replace(steering.pressure, cooling=4)
    drawn = [
        np.ravel(free_batches(jax.random.key(i), steering.schedule(), 5))
        for i in range(20)
    ]
    assert all(len(set(batch)) == 30 for batch in drawn)
    assert set(np.concatenate(drawn)) == set(range(40))


def test_small_data_are_passed_over_more_often():
    assert selective_epochs(60_000, 128) == 30
    assert selective_epochs(640, 64) == 600
    assert selective_epochs(None, 64) == 30


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


def test_the_history_shows_the_pressure_and_the_held_out_loss(ensemble):
    history = learn(ensemble).history
    assert len({len(values) for values in history.values()}) == 1
    assert np.isclose(history["temperature"][0], 0.03)
    assert history["temperature"][-1] > 0.03
    assert np.isfinite(history["heldout_nll"]).all()
    # Seven of twelve epochs for the rise, then everything stays.
    assert len(set(history["temperature"][7:])) == 1
    assert len(set(history["price"][7:])) == 1


def test_no_stage_compiles_anew(ensemble):
    sizes = []
    optimizer = optax.adam(1e-3)
    learn(
        ensemble,
        optimizer=optimizer,
        callbacks=[lambda report: sizes.append(run_epoch._cached._cache_size())],
    )
    assert len(set(sizes)) == 1


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
    for name in ("temperature", "price", "heldout_nll"):
        assert whole.history[name] == resumed.history[name]
    with pytest.raises(ValueError, match="`checkpoint` .* belongs to another run"):
        learn(ensemble, checkpoint=folder, prior=mf.Selective(tolerance=0.5))


def test_early_stopping_counts_only_what_the_last_pressure_gave(ensemble):
    result = learn(ensemble, epochs=40, validation=(X, 1 - Y), patience=2)
    risen = 1 + max(
        i
        for i in range(1, len(result.history["epoch"]))
        if result.history["temperature"][i] != result.history["temperature"][i - 1]
        or result.history["price"][i] != result.history["price"][i - 1]
    )
    assert result.stopped == "early"
    assert len(result.history["epoch"]) >= risen + 2


def test_it_goes_with_batches_weights_a_mesh_and_an_optimizer(ensemble):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    outside = learn(ensemble, batches, validation=(X, Y), num_data=96)
    assert np.isfinite(outside.history["heldout_nll"]).all()
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
        ({"price": 100}, "`price` must lie in"),
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
