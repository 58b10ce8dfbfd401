import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import meanfield as mf
from meanfield.learning.epochs import run_epochs
from meanfield.learning.training import AbstractRestriction

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (96, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def ensemble():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    return mf.Ensemble.from_model(network, key=jax.random.key(1))


def learn(ensemble, data=(X, Y), **settings):
    defaults = {"key": KEY, "epochs": 3, "batch_size": 16, "progress": False}
    defaults["prior"] = None
    return mf.fit(ensemble, data, **defaults | settings)


def same(one, two):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs if eqx.is_array(a))


def test_the_same_key_gives_the_same_bits_and_another_key_others(ensemble):
    one, two = learn(ensemble), learn(ensemble)
    assert same(one.ensemble.params, two.ensemble.params)
    other = learn(ensemble, key=jax.random.key(9))
    assert not same(one.ensemble.params, other.ensemble.params)


def test_learning_lowers_the_loss_and_leaves_the_start_alone(ensemble):
    before = jax.tree.map(np.asarray, eqx.filter(ensemble.params, eqx.is_array))
    result = learn(ensemble, epochs=60)
    assert result.history["nll"][-1] < 0.5 * result.history["nll"][0]
    assert same(before, eqx.filter(ensemble.params, eqx.is_array))
    assert len({len(values) for values in result.history.values()}) == 1
    assert result.stopped == "finished"


def test_all_epochs_of_all_equal_runs_are_one_program(ensemble):
    optimizer = optax.adam(1e-3)
    learn(ensemble, optimizer=optimizer)
    compiled = run_epochs._cached._cache_size()
    learn(ensemble, optimizer=optimizer, epochs=7, key=jax.random.key(4))
    assert run_epochs._cached._cache_size() == compiled


def test_projection_makes_exact_certainty_and_the_smooth_way_never(ensemble):
    hard = learn(ensemble, optimizer=optax.adam(0.3), epochs=20)
    weights = hard.ensemble.weights().values()
    assert any((w.spike_prob == 0).any() for w in weights)
    assert any((w.slab_var == 0).any() for w in weights)
    assert all(((w.spike_prob >= 0) & (w.spike_prob <= 1)).all() for w in weights)
    soft = learn(ensemble, parametrization=mf.learning.Unconstrained(), epochs=20)
    for weight in soft.ensemble.weights().values():
        assert ((weight.spike_prob > 0) & (weight.spike_prob < 1)).all()
        assert (weight.slab_var > 0).all()


def test_batches_from_outside_are_learned_from(ensemble):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    listed = learn(ensemble, batches, epochs=40)
    called = learn(ensemble, lambda: iter(batches), epochs=40)
    assert same(listed.ensemble.params, called.ensemble.params)
    assert listed.history["nll"][-1] < listed.history["nll"][0]
    with pytest.raises(ValueError, match="used only once"):
        learn(ensemble, iter(batches))
    with pytest.raises(ValueError, match="`num_data` is needed with a prior"):
        learn(
            ensemble,
            batches,
            prior=mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0),
        )


def test_both_terms_are_reported_per_example(ensemble):
    prior = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0)
    half = learn(ensemble, prior=prior, temperature=0.5, epochs=1)
    row = {name: values[0] for name, values in half.history.items()}
    assert row["kl"] > 0
    np.testing.assert_allclose(row["loss"], row["nll"] + 0.5 * row["kl"], rtol=1e-5)
    warm = learn(ensemble, prior=prior, temperature=lambda step: 0.0 * step, epochs=1)
    np.testing.assert_allclose(warm.history["loss"], warm.history["nll"], rtol=1e-6)


def test_a_warm_up_weighs_the_divergence_step_by_step(ensemble):
    prior = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0)
    schedule = optax.linear_schedule(0.0, 1.0, 12)
    history = learn(ensemble, prior=prior, temperature=schedule, epochs=3).history
    share = (np.array(history["loss"]) - history["nll"]) / history["kl"]
    # Six steps an epoch, in which the KL hardly moves: the mean weight of the steps.
    middle = np.array([2.5, 8.5]) / 12
    np.testing.assert_allclose(share, [*middle, 1.0], rtol=0.1)


def test_a_loss_that_breaks_keeps_the_last_good_state(ensemble):
    rate = optax.piecewise_constant_schedule(1e-2, {7: 1e30})
    optimizer = optax.sgd(rate)
    with pytest.raises(
        mf.learning.NonFiniteLossError, match="not finite at step"
    ) as caught:
        learn(ensemble, optimizer=optimizer, epochs=4)
    good = caught.value.result.ensemble
    assert caught.value.step >= 7
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.weights())]
    assert all(finite)


@pytest.mark.parametrize("breaks", [False, True])
def test_epochs_in_one_call_are_the_same_epochs(ensemble, monkeypatch, breaks):
    """A callback looks on after each; without one they share calls."""
    rate = {7 * 6: 1e30} if breaks else {}  # In the eighth epoch of six steps.
    optimizer = optax.sgd(optax.piecewise_constant_schedule(1e-2, rate))
    monkeypatch.setattr("meanfield.learning.loop.CALL_SECONDS", 1e6)

    def run(**settings):
        try:
            return learn(ensemble, optimizer=optimizer, epochs=150, **settings), None
        except mf.learning.NonFiniteLossError as error:
            return error.result, str(error)

    (one, message), (other, same_message) = run(), run(callbacks=[lambda report: None])
    assert same(one.ensemble.params, other.ensemble.params)
    assert message == same_message
    assert (message is not None) == breaks
    assert len(one.history["epoch"]) == len(one.history["seconds"])
    for name in ("epoch", "loss", "nll", "kl"):
        assert one.history[name] == other.history[name]


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_do_not_count_epochs_by_their_clocks(
    ensemble, monkeypatch, processes
):
    monkeypatch.setattr("meanfield.learning.loop.CALL_SECONDS", 1e6)
    monkeypatch.setattr("jax.process_count", lambda: processes)
    counts = []

    def spy(constants, state):
        counts.append(int(constants[5]))
        return run_epochs(constants, state)

    monkeypatch.setattr("meanfield.learning.loop.run_epochs", spy)
    learn(ensemble, epochs=5)
    assert counts == ([1, 4] if processes == 1 else [1] * 5)


def test_early_stopping_returns_the_best_epoch(ensemble):
    wrong = (X, 1 - Y)  # Learning can only make it worse on these.
    result = learn(ensemble, validation=wrong, patience=2, epochs=50)
    assert result.stopped == "early"
    assert len(result.history["epoch"]) < 50
    assert "val_nll" in result.history
    assert "val_accuracy" in result.history
    best = int(np.argmin(result.history["val_nll"])) + 1
    again = learn(ensemble, epochs=50, callbacks=[lambda r: r.epoch == best])
    assert same(result.ensemble.params, again.ensemble.params)


def test_a_callback_sees_the_epoch_and_can_end_the_training(ensemble):
    seen = []

    def watch(report):
        seen.append((report.epoch, report.ensemble.num_weights))
        return report.epoch == 2

    result = learn(ensemble, epochs=9, callbacks=[watch])
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert result.stopped == "callback"


def test_a_checkpoint_continues_to_the_same_bits(ensemble, tmp_path):
    optimizer = optax.adam(1e-2)
    whole = learn(ensemble, epochs=6, optimizer=optimizer)
    learn(ensemble, epochs=3, optimizer=optimizer, checkpoint=tmp_path)
    rest = learn(ensemble, epochs=6, optimizer=optimizer, checkpoint=tmp_path)
    assert same(whole.ensemble.params, rest.ensemble.params)
    assert rest.history["epoch"] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="belongs to another run"):
        learn(
            ensemble, epochs=6, checkpoint=tmp_path, batch_size=8, optimizer=optimizer
        )
    other = mf.Ensemble.from_model(eqx.nn.MLP(3, 2, 9, 1, key=KEY), key=KEY)
    with pytest.raises(ValueError, match="architecture"):
        learn(other, epochs=6, checkpoint=tmp_path, optimizer=optimizer)


def test_learned_noise_finds_the_noise_of_the_data():
    x = jax.random.normal(KEY, (512, 1))
    y = 2 * x[:, 0] + 0.3 * jax.random.normal(jax.random.key(1), (512,))
    network = eqx.nn.Linear(1, 1, key=KEY)
    start = mf.Ensemble.from_model(network, key=KEY)
    result = mf.fit(
        start,
        (x, y),
        likelihood=mf.Gaussian("learned"),
        key=KEY,
        epochs=60,
        batch_size=32,
        optimizer=optax.adam(optax.cosine_decay_schedule(2e-2, 960)),
        progress=False,
        prior=None,
    )
    assert abs(float(result.likelihood.scale) - 0.3) < 0.05


def test_every_example_weighs_what_it_is_given(ensemble):
    weights = jnp.where(jnp.arange(96) < 48, 1.0, 0.0)
    spoiled = Y.at[48:].set(1 - Y[48:])
    result = learn(ensemble, (X, spoiled), sample_weight=weights, epochs=150)
    outputs = jax.vmap(result.ensemble.mean_network())(X[48:])
    assert float((outputs.argmax(1) == Y[48:]).mean()) > 0.8
    with pytest.raises(ValueError, match="`sample_weight` must have one number"):
        learn(ensemble, sample_weight=np.ones(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (X, Y[:5])}, "one target for each example"),
        ({"data": (X[:0], Y[:0])}, "must have at least one example"),
        ({"data": (X.at[3, 1].set(jnp.nan), Y)}, "NaN or infinity in row 3"),
        ({"data": (X[:, :2], Y)}, "a batch that the model accepts"),
        ({"data": (X, Y + 5)}, "labels"),
        ({"batch_size": 97}, "`batch_size` must not exceed"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"temperature": -1.0}, "`temperature` must be"),
        ({"temperature": lambda step: -1.0}, "at step 0 it gives -1"),
        ({"temperature": lambda step: np.ones(2)}, "schedule of one finite number"),
        ({"patience": 3}, "needs `validation`"),
    ],
)
def test_bad_input_is_refused_before_anything_is_learned(ensemble, change, message):
    settings = dict(change)
    data = settings.pop("data", (X, Y))
    with pytest.raises(ValueError, match=message):
        learn(ensemble, data, **settings)


class HoldLastBias(AbstractRestriction):
    level: jax.Array

    def restrict(self, ensemble, key):
        return eqx.tree_at(
            lambda e: e.params.layers[-1].bias, ensemble, jnp.zeros(2) + self.level
        )

    def penalty(self, ensemble, x):
        return 0.5 * jnp.square(ensemble.params.layers[0].bias).sum()


def test_a_restriction_bounds_every_step_and_changes_without_a_new_program(ensemble):
    reports = []

    def change(report):
        reports.append(report.ensemble)
        report.restrict(HoldLastBias(jnp.asarray(float(report.epoch))))

    optimizer = optax.sgd(0.1)
    start = HoldLastBias(jnp.asarray(0.0))
    settings = {"optimizer": optimizer, "restriction": start, "validation": (X, Y)}
    learn(ensemble, epochs=1, **settings)
    compiled = run_epochs._cached._cache_size()
    result = learn(ensemble, epochs=4, callbacks=[change], **settings)
    assert run_epochs._cached._cache_size() == compiled
    # What the steps may not use has no gradient; what is costly shrinks.
    held = [np.asarray(e.params.layers[-1].bias) for e in reports]
    np.testing.assert_array_equal(held, [ensemble.params.layers[-1].bias] * 4)
    history = result.history
    np.testing.assert_allclose(
        history["loss"], np.add(history["nll"], history["penalty"]), rtol=1e-5
    )
    with pytest.raises(
        ValueError, match="`checkpoint` must be left out with a `restriction`"
    ):
        learn(ensemble, restriction=start, checkpoint="nowhere")


def test_a_point_network_learns_by_plain_back_propagation():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    point = mf.Ensemble.from_points(network)
    assert point.num_weights == 0
    assert not point.weights()
    settings = {"optimizer": optax.sgd(0.1), "epochs": 1, "batch_size": 96}
    learned = learn(point, **settings).ensemble.mean_network()

    def loss(network):
        logits = jax.vmap(network)(X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    slope = eqx.filter_grad(loss)(network)
    expected = eqx.apply_updates(network, jax.tree.map(lambda g: -0.1 * g, slope))
    for one, two in zip(
        jax.tree.leaves(eqx.filter(learned, eqx.is_array)),
        jax.tree.leaves(eqx.filter(expected, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_augmentation_reaches_the_learner_and_leaves_validation_alone(ensemble):
    def mirror(x, *, key):
        return -x

    settings = {"epochs": 40, "optimizer": optax.adam(1e-2), "validation": (X, Y)}
    history = learn(ensemble, augment=mirror, **settings).history
    assert history["nll"][-1] < 0.5 * history["nll"][0]
    # What was learned from mirrored inputs is wrong about those that are not.
    assert history["val_accuracy"][-1] < 0.3


def test_augmentation_has_a_fresh_key_each_step_and_works_on_outside_batches(ensemble):
    drawn = []

    def look(x, *, key):
        jax.debug.callback(lambda e: drawn.append(float(e)), jax.random.normal(key))
        return x

    learn(ensemble, augment=look, epochs=2)
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) == 12
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    learn(ensemble, batches, augment=look, epochs=1)
    jax.effects_barrier()
    assert len(drawn) == 18


def test_augmentation_that_changes_the_batch_is_refused(ensemble):
    def crop(x, *, key):
        return x[:, :2]

    with pytest.raises(ValueError, match=r"`augment` must return a batch like.*16, 3"):
        learn(ensemble, augment=crop)
    batches = [(X[:16], Y[:16])]
    with pytest.raises(ValueError, match=r"`augment` must return a batch like"):
        learn(ensemble, batches, augment=crop)
