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
from meanfield.learning.steering import LOWEST, STRIDE, Steering, Verdict, judge
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
UNEVEN = np.array([-0.3, 0.3, 0.3])  # mean 0.1, standard error 0.163


def test_the_first_round_is_the_best_whatever_it_lost():
    assert judge(BEST, None, 9.0, 0.0, 0.0) is Verdict.BEST


@pytest.mark.parametrize(
    ("change", "nll", "verdict"),
    [
        (-0.1, 0.5, Verdict.BEST),
        (0.01, 0.5, Verdict.GOOD),
        (UNEVEN, 0.5, Verdict.DOUBTFUL),
        (0.1, 0.5, Verdict.BAD),
        (0.1, 0.2, Verdict.MEMORY),
    ],
)
def test_a_round_is_judged_by_both_losses(change, nll, verdict):
    assert judge(BEST + change, BEST, nll, 0.3, 0.02) is verdict


def rise(losses, nll=0.5, **settings):
    """A steering that has seen rounds with these mean held-out losses, and its path."""
    steering = Steering(
        mf.Selective(tolerance=0.02),
        **{
            "ceiling": 1.0,
            "num_weights": 1000,
            "num_data": 10_000,
            "epochs": 28,
            "batch_size": 4,
            "held": np.arange(40) % 4 == 0,
            "held_data": (np.zeros((10, 1)), np.zeros(10)),
            "cools": True,
            "learned": jnp.asarray(-1.0),
        }
        | settings,
    )
    path = []
    for epoch, loss in enumerate(losses, 1):
        learned = steering.after(
            epoch, 7 * epoch, np.full(10, loss), nll, jnp.asarray(float(epoch))
        )
        path.append(float(learned))
    return steering, path


def test_a_round_that_is_clearly_worse_is_undone_to_the_last_that_was_good():
    steering, path = rise([1.0, 0.9, 0.91, 1.2])
    assert path == [1, 2, 3, 3]
    assert np.isclose(steering.pressure.level, LOWEST + 2 * STRIDE)
    assert steering.pressure.cooling == 4
    assert steering.pressure.cool_from == 28
    assert not steering.pressure.together


def test_time_and_the_largest_price_end_the_rise_without_a_step_back():
    steering, path = rise([1.0] * 14)
    assert path[-1] == 14
    assert steering.pressure.cooling == 14
    assert np.isclose(steering.pressure.level, LOWEST + 13 * STRIDE)
    steering, _ = rise([1.0] * 14, num_weights=5, num_data=9)
    assert np.isclose(steering.price, np.log(15))
    assert steering.pressure.cooling < 14


def test_memory_raises_the_pressure_while_the_network_cools():
    steering, _ = rise([1.0, 0.9, 1.2])
    level = steering.pressure.level
    for epoch, loss, nll in [(4, 0.8, 0.4), (5, 0.9, 0.3), (6, 0.9, 0.35)]:
        steering.after(epoch, 7 * epoch, np.full(10, loss), nll, jnp.zeros(()))
    assert np.isclose(steering.pressure.level, level + STRIDE)
    steering.after(21, 147, np.full(10, 0.9), 0.35, jnp.zeros(()))
    assert steering.pressure.together
    steering.after(22, 154, np.full(10, 2.0), 0.1, jnp.zeros(()))
    assert np.isclose(steering.pressure.level, level + STRIDE)


def test_first_the_temperature_rises_then_the_price():
    steering, _ = rise([], ceiling=0.5)
    most = np.log(1000) + 0.5 * np.log(10_000)
    for level, temperature, price in [
        (-1.0, 0.5 / np.e, 2.2),
        (9.0, 0.5, most),
        (1.0, 0.5, 2.2 * np.e),
    ]:
        steering.pressure = dataclasses.replace(steering.pressure, level=level)
        schedule = steering.schedule()
        assert np.isclose(steering.temperature, temperature)
        assert np.isclose(steering.price, price)
        # Fewer examples are learned from than the divergence is divided by.
        assert np.isclose(schedule.temperature, temperature / 0.75)
        included = steering.prior().inclusion_prob
        assert np.isclose(np.log((1 - included) / included), price, rtol=1e-5)
    assert schedule.num_steps == 7


def test_steps_shrink_along_a_cosine_while_the_network_cools():
    steering, _ = rise([1.0, 1.2])
    schedule, one = steering.schedule(), jnp.ones(1)
    assert schedule.held.sum() == 10
    factors = [schedule.shrink(one, jnp.asarray(s))[0] for s in (0, 14, 105, 196, 300)]
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
    steering, _ = rise([], batch_size=5)
    seen = np.ravel(free_batches(KEY, steering.schedule(), 5))
    assert sorted(seen) == [i for i in range(40) if i % 4]
    steering.pressure = dataclasses.replace(steering.pressure, together=True)
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
    # Nine of twelve epochs at most, then everything stays.
    assert len(set(history["temperature"][9:])) == 1
    assert len(set(history["price"][9:])) == 1


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
    doubled = learn(ensemble, batches, validation=(X, Y, np.ones(96)), num_data=96)
    assert doubled.history["heldout_nll"] == outside.history["heldout_nll"]
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


def test_the_estimators_take_it(monkeypatch):
    monkeypatch.setattr("meanfield.learning.selective.STEPS", 800)
    x, y = np.asarray(X), np.asarray(Y)
    rule = mf.Selective(tolerance=0.01)
    model = mf.MeanFieldClassifier((4,), prior=rule, batch_size=24, random_state=0)
    model.fit(x, y)
    assert len(model.history_["temperature"]) == 200
    assert model.score(x, y) > 0.8
    with pytest.raises(ValueError, match="`prior` must not be the selective rule in"):
        model.partial_fit(x, y)
    wrong = mf.MeanFieldRegressor((4,), prior="selectiv")
    with pytest.raises(ValueError, match="`prior` must be 'selective'.*'selectiv'"):
        wrong.fit(x, x[:, 0])
