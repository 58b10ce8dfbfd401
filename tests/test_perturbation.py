"""Connections changed by label, and the error that follows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import meanfield as mf
from meanfield.credit import changes as module
from meanfield.credit.labelling import label_connections
from meanfield.credit.labels import ConnectionLabels, Label
from meanfield.credit.perturbation import Perturbation, perturb_connections

KEY = jax.random.key(7)


def linear(params, x):
    return x @ params["w"]


def ensemble_of(weights, apply_fn=linear):
    params = {name: jnp.zeros(weight.shape) for name, weight in weights.items()}
    return mf.Ensemble.from_model(
        (apply_fn, params), initial=lambda name, *_: weights[name]
    )


def mixed(rows=12, columns=4, seed=0):
    """A certain network: a third of its weights is absent; labels are drawn freely."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(Label), (rows, columns), p=[0.3, 0.3, 0.4]).astype(np.int8)
    mean = rng.normal(size=kinds.shape).astype(np.float32)
    spike = (kinds == Label.ABSENT).astype(np.float32)
    weight = mf.SpikeSlab(spike, mean, 0 * mean)
    labels = ConnectionLabels({"w": kinds}, 0.0, "given")
    x = rng.normal(size=(60, rows)).astype(np.float32)
    y = (x @ np.asarray(weight.mean)).argmax(1)
    return ensemble_of({"w": weight}), labels, (x, y)


def numpy_error(weight, data):
    x, y = data
    return ((x @ weight).argmax(1) != y).mean()


def test_removing_everything_under_a_label_is_removing_those_weights():
    ensemble, labels, data = mixed()
    found = perturb_connections(ensemble, labels, data, key=KEY, num_samples=2)
    mean = np.asarray(ensemble.weights()["w"].mean)
    kinds = labels.labels["w"]
    left = np.where(kinds == Label.IMPORTANT, 0, mean)
    assert (found.errors["important"][-1] == numpy_error(left, data)).all()
    assert found.metric == "error"


def test_nothing_changed_is_the_error_of_the_subnetworks_in_every_arm():
    ensemble, labels, data = mixed()
    # Slabs of some width: each repetition has a sub-network of its own.
    weight = ensemble.weights()["w"]
    wide = mf.SpikeSlab(weight.spike_prob, weight.slab_mean, 1.0 + weight.slab_var)
    ensemble = ensemble.with_weights({"w": wide})
    found = perturb_connections(ensemble, labels, data, key=KEY, fractions=[0.0])
    first, *others = found.errors.values()
    for errors in others:
        assert (errors == first).all()
    assert len(np.unique(first)) > 1


def test_the_numbers_changed_follow_the_labels():
    ensemble, labels, data = mixed()
    fractions = (0.0, 0.3, 0.5, 1.0)
    found = perturb_connections(
        ensemble, labels, data, key=KEY, fractions=fractions, num_samples=2
    )
    counts = labels.counts["w"]
    important = [int(np.floor(f * counts["important"] + 1e-9)) for f in fractions]
    absent = [int(np.floor(f * counts["absent"] + 1e-9)) for f in fractions]
    for arm in ("important", "variable", "random"):
        assert found.num_changed[arm].tolist() == important
    assert found.num_changed["absent"].tolist() == absent
    available = {**counts, "random": labels.labels["w"].size}
    assert found.num_available == available


def test_fewer_variable_connections_than_important_ones_are_all_removed():
    ensemble, labels, data = mixed()
    kinds = labels.labels["w"]
    kinds[kinds == Label.VARIABLE] = Label.IMPORTANT
    kinds[0, :2] = Label.VARIABLE
    found = perturb_connections(ensemble, labels, data, key=KEY, num_samples=2)
    assert found.num_changed["variable"][-1] == 2
    assert found.num_changed["important"][-1] > 2


def test_exact_fractions_of_a_count_do_not_fall_to_rounding():
    kinds = np.full((1, 10), Label.IMPORTANT, np.int8)
    labels = ConnectionLabels({"w": kinds}, 0.0, "given")
    fractions = [i / 10 for i in range(11)]
    numbers = module.numbers_of(labels, "w", "important", fractions)
    assert numbers.tolist() == list(range(11))


def test_places_are_drawn_without_replacement_and_nested():
    mask = np.zeros((5, 6), bool)
    mask[1:, ::2] = True
    scales = {"w": jnp.asarray(0.0)}
    changes = module.draw_changes({"w": mask}, scales, False, KEY)
    start, before = {"w": jnp.ones(mask.shape)}, np.zeros(mask.shape, bool)
    for number in range(mask.sum() + 1):
        left = module.apply_changes(start, changes, {"w": jnp.asarray(number)})["w"]
        gone = np.asarray(left == 0)
        assert gone.sum() == number
        assert not (gone & ~mask).any()
        assert not (before & ~gone).any()
        before = gone


def test_every_place_is_drawn_equally_often_the_last_row_and_column_too():
    mask, draws, number = np.ones((3, 4), bool), 2000, 5
    scales = {"w": jnp.asarray(0.0)}

    def gone(key):
        changes = module.draw_changes({"w": mask}, scales, False, key)
        return changes["w"][0] < number

    part = np.asarray(jax.vmap(gone)(jax.random.split(KEY, draws))).mean(0)
    expected = number / mask.size
    error = np.sqrt(expected * (1 - expected) / draws)
    assert np.abs(part - expected).max() < 5 * error


def gaussian(outputs):
    import numpyro.distributions as dist

    return dist.Normal(outputs, 1.0).to_event(1)


def test_absent_connections_come_back_at_the_scale_of_those_present():
    # One output, y = 0: the mean square error is s² ⟨Σ x²⟩ over the absent inputs.
    spike = np.r_[np.zeros(20), np.ones(30)].reshape(50, 1).astype(np.float32)
    mean = np.where(spike == 0, 0.5, 9.0).astype(np.float32)
    weight = mf.SpikeSlab(spike, mean, np.full_like(mean, 0.11))
    ensemble = ensemble_of({"w": weight})
    labels = label_connections(ensemble)
    x = np.zeros((8, 50), np.float32)
    x[:, 20:] = np.random.default_rng(0).normal(size=(8, 30))
    found = perturb_connections(
        ensemble,
        labels,
        (x, np.zeros((8, 1))),
        key=KEY,
        fractions=[1.0],
        arms=["absent"],
        likelihood=gaussian,
        num_samples=400,
    )
    assert found.metric == "RMSE"
    square = found.errors["absent"][0] ** 2
    scale = 0.5**2 + 0.11
    expected = scale * np.square(x).sum(1).mean()
    assert abs(square.mean() - expected) < 5 * stats.sem(square)


def test_a_scale_of_zero_or_no_absent_connection_changes_nothing():
    ensemble, labels, data = mixed()
    kwargs = {"key": KEY, "arms": ["absent"], "num_samples": 2}
    found = perturb_connections(ensemble, labels, data, absent_scale=0.0, **kwargs)
    assert len(np.unique(found.errors["absent"])) == 1
    labels.labels["w"][:] = Label.VARIABLE
    found = perturb_connections(ensemble, labels, data, **kwargs)
    assert found.num_available == {"absent": 0}
    assert len(np.unique(found.errors["absent"])) == 1


def test_only_the_chosen_layers_change():
    rng = np.random.default_rng(1)
    weights = {
        name: mf.SpikeSlab(np.zeros((4, 4)), rng.normal(size=(4, 4)), np.zeros((4, 4)))
        for name in ("first", "last")
    }
    ensemble = ensemble_of(weights, lambda p, x: jnp.tanh(x @ p["first"]) @ p["last"])
    labels = label_connections(ensemble)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    y = np.asarray(ensemble(jnp.asarray(x), key=KEY)).argmax(1)
    kwargs = {"key": KEY, "fractions": [1.0], "arms": ["important"], "num_samples": 2}
    found = perturb_connections(ensemble, labels, (x, y), layers=["last"], **kwargs)
    assert found.layers == ("last",)
    # All logits are zero: the first class is chosen always.
    assert found.errors["important"][0, 0] == pytest.approx((y != 0).mean())
    assert found.num_changed["important"].tolist() == [16]


def test_connections_that_never_learn_are_left_alone():
    ensemble, labels, data = mixed()
    mask = np.zeros((12, 4), bool)
    mask[:6] = True
    labels = ConnectionLabels(labels.labels, 0.0, "given", {"w": mask})
    found = perturb_connections(ensemble, labels, data, key=KEY, num_samples=2)
    kinds = labels.labels["w"][6:]
    assert found.num_available["important"] == (kinds == Label.IMPORTANT).sum()
    assert found.num_available["random"] == kinds.size


def test_intervals_are_students_and_differences_are_paired():
    errors = np.array([[0.1, 0.2, 0.4], [0.5, 0.5, 0.5]])
    found = Perturbation(
        np.array([0.0, 1.0]),
        {"important": errors, "variable": errors - [[0.01, 0.02, 0.03]]},
        {},
        {},
        "error",
        ("w",),
    )
    expected = stats.ttest_1samp(errors[0], 0).confidence_interval(0.95)
    assert found.intervals["important"][0] == pytest.approx([*expected])
    assert found.intervals["important"][1].tolist() == [0.5, 0.5]
    expected = stats.ttest_rel(errors[0], errors[0] - [0.01, 0.02, 0.03])
    expected = expected.confidence_interval(0.95)
    assert found.damage("important", "variable")[0] == pytest.approx([*expected])
    with pytest.raises(ValueError, match="must be among .*; got 'absent'"):
        found.damage("absent", "variable")


def test_the_same_key_gives_the_same_bits_whatever_else_runs():
    ensemble, labels, data = mixed()
    both = perturb_connections(ensemble, labels, data, key=KEY, num_samples=3)
    kwargs = {"arms": ["random"], "num_samples": 3}
    one = perturb_connections(ensemble, labels, data, key=KEY, **kwargs)
    assert (one.errors["random"] == both.errors["random"]).all()
    other = perturb_connections(ensemble, labels, data, key=jax.random.key(8), **kwargs)
    assert (one.errors["random"] != other.errors["random"]).any()


def test_the_size_of_a_batch_does_not_change_the_error():
    ensemble, labels, data = mixed()
    kwargs = {"key": KEY, "num_samples": 2, "arms": ["important"]}
    whole = perturb_connections(ensemble, labels, data, **kwargs)
    parts = perturb_connections(ensemble, labels, data, batch_size=7, **kwargs)
    assert whole.errors["important"] == pytest.approx(parts.errors["important"])


def test_two_class_answers_are_counted_as_errors():
    weight = mf.SpikeSlab([[0.0]], [[1.0]], [[0.0]])
    ensemble = ensemble_of({"w": weight})
    data = np.array([[1.0], [-1.0], [2.0], [3.0]], np.float32), np.array([1, 0, 1, 0])
    found = perturb_connections(
        ensemble,
        label_connections(ensemble),
        data,
        key=KEY,
        likelihood=mf.Bernoulli(),
        fractions=[0.0],
        num_samples=2,
        arms=["important"],
    )
    assert found.errors["important"].tolist() == [[0.25, 0.25]]


def test_important_connections_of_a_trained_network_matter_more_than_others():
    data = mf.data.load("digits")
    net = eqx.nn.MLP(64, 10, 32, 1, key=jax.random.key(0))
    result = mf.fit(
        mf.Ensemble.from_model(net, key=jax.random.key(1)),
        (data.x_train, data.y_train),
        key=jax.random.key(2),
        epochs=20,
        batch_size=64,
        progress=False,
        prior=None,
    )
    labels = label_connections(result.ensemble)
    assert 0.02 < labels.overall["important"] < 0.3
    found = perturb_connections(
        result.ensemble, labels, (data.x_test, data.y_test), key=KEY, fractions=[0, 1.0]
    )
    for other in ("variable", "random"):
        assert found.damage("important", than=other)[1, 0] > 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["v"]}, "`layers` must name random weights"),
        ({"layers": []}, "`layers` must name random weights"),
        ({"fractions": [0.5, 0.2]}, "`fractions` must increase"),
        ({"fractions": [1.5]}, "`fractions` must increase"),
        ({"fractions": []}, "`fractions` must increase"),
        ({"arms": ["vip"]}, "`arms` must be some of"),
        ({"arms": []}, "`arms` must be some of"),
        ({"num_samples": 1}, "`num_samples` must be at least 2"),
        ({"absent_scale": -1.0}, "`absent_scale` must be a finite number"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    ensemble, labels, data = mixed()
    with pytest.raises(ValueError, match=message):
        perturb_connections(ensemble, labels, data, key=KEY, **change)


def test_labels_and_targets_that_do_not_fit_are_refused():
    ensemble, labels, (x, y) = mixed()
    other = ConnectionLabels({"w": np.zeros((2, 2), np.int8)}, 0.0, "given")
    with pytest.raises(
        ValueError, match="`labels` must have labels of the right shape"
    ):
        perturb_connections(ensemble, other, (x, y), key=KEY)
    with pytest.raises(ValueError, match="labels 0 … 3"):
        perturb_connections(ensemble, labels, (x, y + 10), key=KEY)
