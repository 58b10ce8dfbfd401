"""Labels of connections, their entropy, their table, and those that never learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from scipy.stats import norm

import meanfield as mf
from meanfield.credit.connections import connections, write_connections
from meanfield.credit.labelling import label_connections
from meanfield.credit.labels import Label, label, mean_entropy

I, A, V = Label.IMPORTANT, Label.ABSENT, Label.VARIABLE


def spike_slab(shape=(40, 30), seed=0):
    """Random weights of which some lie on the edges, and unevenly."""
    rng = np.random.default_rng(seed)
    spike = np.clip(rng.normal(0.4, 0.6, shape), 0, 1)
    var = np.maximum(rng.normal(0.02, 0.05, shape), 0)
    return mf.SpikeSlab(
        spike.astype(np.float32),
        rng.normal(0.1, 0.3, shape).astype(np.float32),
        var.astype(np.float32),
    )


def ensemble_of(weights, apply_fn=lambda params, x: x @ params["w"]):
    """An ensemble with exactly these weights."""
    params = {name: jnp.zeros(weight.shape) for name, weight in weights.items()}
    return mf.Ensemble.from_model(
        (apply_fn, params), initial=lambda name, *_: weights[name]
    )


def certain(mean):
    """Weights without any randomness."""
    mean = jnp.asarray(mean, jnp.float32)
    return mf.SpikeSlab(jnp.zeros_like(mean), mean, jnp.zeros_like(mean))


# The rule


@pytest.mark.parametrize(
    ("spike", "mean", "var", "expected"),
    [
        (0.0, 1.0, 0.0, I),
        (0.0, 0.0, 0.0, I),
        (0.0, 1.0, 1e-30, V),
        (1e-30, 1.0, 0.0, V),
        (1.0, 1.0, 0.0, A),
        (1.0, 1.0, 0.5, A),
        (1 - 1e-7, 1.0, 0.0, V),
        (0.5, 1.0, 0.0, V),
    ],
)
def test_the_exact_rule_at_its_corners(spike, mean, var, expected):
    assert int(label(mf.SpikeSlab(spike, mean, var))) == expected


@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.3])
def test_the_tolerant_rule_is_a_bound_on_two_probabilities(tolerance):
    weight = spike_slab()
    spike, mean, var = (np.asarray(a, np.float64) for a in jax.tree.leaves(weight))
    expected = np.full(weight.shape, V)
    for place in np.ndindex(weight.shape):
        std = np.sqrt(var[place])
        flips = norm.cdf(-abs(mean[place]) / std) if std > 0 else 0.0
        if spike[place] >= 1 - tolerance:
            expected[place] = A
        elif spike[place] <= tolerance and flips <= tolerance:
            expected[place] = I
    got = np.asarray(label(weight, tolerance))
    assert (got == expected).all()
    assert all((expected == kind).sum() > 20 for kind in Label)


def test_the_exact_rule_is_the_limit_of_the_tolerant_one():
    weight = spike_slab()
    exact = np.asarray(label(weight))
    assert (np.asarray(label(weight, 1e-300)) == exact).all()
    assert all((exact == kind).sum() > 20 for kind in Label)


def test_a_spike_probability_on_the_tolerance_counts_as_within():
    weight = mf.SpikeSlab([0.1, 0.9], [1.0, 1.0], [0.0, 0.0])
    assert label(weight, 0.1).tolist() == [I, A]


def test_the_rule_runs_under_jit_and_gives_small_integers():
    weight = spike_slab()
    got = jax.jit(label)(weight)
    assert got.dtype == jnp.int8
    assert (got == label(weight)).all()


# Choosing the rule


def test_an_exact_zero_anywhere_chooses_the_exact_rule():
    soft = mf.SpikeSlab([[0.3, 0.999]], [[1.0, 1.0]], [[0.1, 1e-6]])
    for edge in (
        ([[0.0, 0.5]], [[1.0, 1.0]], [[0.1, 0.2]]),
        ([[0.1, 0.5]],)
        + (
            [[1.0, 1.0]],
            [[0.1, 0.0]],
        ),
    ):
        found = label_connections(ensemble_of({"w": soft, "v": mf.SpikeSlab(*edge)}))
        assert found.tolerance == 0
        assert found.chosen.startswith("exact")
        assert found.labels["w"].tolist() == [[V, V]]


def test_without_exact_zeros_the_tolerance_is_a_tenth():
    soft = mf.SpikeSlab([[0.05, 0.95, 0.05]], [[1.0, 1.0, 1.0]], [[0.1, 0.1, 9.0]])
    found = label_connections(ensemble_of({"w": soft}))
    assert found.tolerance == 0.1
    assert found.chosen.startswith("tolerance")
    assert found.labels["w"].tolist() == [[I, A, V]]


def test_a_saturated_logit_alone_does_not_choose_the_exact_rule():
    # In float32 sigmoid(20) is exactly 1, without any projection.
    soft = mf.SpikeSlab([[0.05, 1.0]], [[1.0, 1.0]], [[0.1, 0.1]])
    assert label_connections(ensemble_of({"w": soft})).tolerance == 0.1


def test_a_given_tolerance_is_kept():
    found = label_connections(ensemble_of({"w": spike_slab()}), tolerance=0.25)
    assert (found.tolerance, found.chosen) == (0.25, "given")


@pytest.fixture(scope="module")
def problem():
    """Two inputs that teach, one that is always zero, one that is always one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype(np.float32)
    x[:, 1], x[:, 3] = 0, 1
    return jnp.asarray(x), jnp.asarray((x[:, 0] + x[:, 2] > 0.3).astype(np.int32))


@pytest.fixture(scope="module")
def untrained():
    net = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    return mf.Ensemble.from_model(net, key=jax.random.key(1))


@pytest.fixture(scope="module")
def trained(problem, untrained):
    """Ensembles after the first and the last epoch, by parametrization."""
    found = {}
    for parametrization in (mf.learning.Projected(), mf.learning.Unconstrained()):
        epochs = []
        mf.fit(
            untrained,
            problem,
            key=jax.random.key(2),
            epochs=20,
            batch_size=32,
            optimizer=optax.adam(0.02),
            parametrization=parametrization,
            callbacks=[lambda report, seen=epochs: seen.append(report.ensemble)],
            progress=False,
            prior=None,
        )
        found[type(parametrization)] = epochs[0], epochs[-1]
    return found


def test_both_parametrizations_get_the_rule_that_suits_them(trained):
    found = label_connections(trained[mf.learning.Projected][1])
    assert found.tolerance == 0
    assert found.overall["important"] > 0
    found = label_connections(trained[mf.learning.Unconstrained][1])
    assert found.tolerance == 0.1
    assert found.overall["important"] > 0


# Fractions


def test_counts_and_fractions_follow_the_labels_by_layer_and_overall():
    weights = {"w": spike_slab((7, 5), 1), "v": spike_slab((11, 3), 2)}
    found = label_connections(ensemble_of(weights), tolerance=0.0)
    everything = np.concatenate([found.labels[name].ravel() for name in weights])
    for kind in Label:
        word = kind.name.lower()
        for name, weight in weights.items():
            count = int((found.labels[name] == kind).sum())
            assert found.counts[name][word] == count
            assert found.fractions[name][word] == count / weight.size
        assert found.overall[word] == (everything == kind).mean()
    assert sum(found.overall.values()) == pytest.approx(1)


def test_fractions_without_what_never_learned_leave_it_out():
    weight = mf.SpikeSlab(
        [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.1, 0.1]]
    )
    x = jnp.array([[1.0, 0.0], [2.0, 0.0]])  # The second input is dead.
    found = label_connections(ensemble_of({"w": weight}), data=x, key=jax.random.key(0))
    assert found.never_learned["w"].tolist() == [[False, False], [True, True]]
    assert found.never_learned_fractions == {"w": 0.5}
    assert found.fractions["w"] == {"important": 0.25, "absent": 0.25, "variable": 0.5}
    expected = {"important": 0.5, "absent": 0.5, "variable": 0.0}
    assert found.learned_fractions["w"] == found.learned_overall == expected


def test_a_layer_of_which_nothing_learns_has_no_fractions():
    weight = certain([[1.0], [1.0]])
    found = label_connections(
        ensemble_of({"w": weight}), data=jnp.zeros((3, 2)), key=jax.random.key(0)
    )
    assert all(np.isnan(part) for part in found.learned_fractions["w"].values())


# What never learns


def masks(ensemble, x, **kwargs):
    found = label_connections(ensemble, data=x, key=jax.random.key(5), **kwargs)
    return found.never_learned


def relu_network(params, x):
    return jax.nn.relu(x @ params["first"] + params["bias"]) @ params["last"]


def relu_ensemble(first, bias, last):
    params = {"first": jnp.zeros(first.shape), "bias": jnp.asarray(bias)}
    params["last"] = jnp.zeros(last.shape)
    weights = {"first": first, "last": last}
    return mf.Ensemble.from_model(
        (relu_network, params), initial=lambda name, *_: weights[name]
    )


def test_dead_inputs_dead_units_and_unread_units_never_learn():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    x[:, 1] = 0
    first = certain(rng.normal(size=(4, 3)))
    # Unit 0 never fires; unit 1 is never read; unit 2 lives.
    last = rng.normal(size=(3, 2))
    spike = np.zeros((3, 2))
    spike[1] = 1
    last = mf.SpikeSlab(spike.astype(np.float32), last.astype(np.float32), 0 * spike)
    found = masks(relu_ensemble(first, [-100.0, 0.0, 0.0], last), x)
    expected = np.ones((4, 3), bool)
    expected[[0, 2, 3], 2] = False
    assert (found["first"] == expected).all()
    # What an absent connection would carry is there: it could still come back.
    assert found["last"].tolist() == [[True, True], [False, False], [False, False]]


def test_the_mask_agrees_with_the_gradient_of_every_single_example():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(6, 5)).astype(np.float32) * (rng.random((6, 5)) < 0.3)
    first, last = rng.normal(size=(5, 8)), rng.normal(size=(8, 3))
    bias = jnp.asarray(rng.normal(-1.5, 1, 8), jnp.float32)
    ensemble = relu_ensemble(certain(first), bias, certain(last))
    points = {"first": jnp.asarray(first, jnp.float32), "bias": bias}
    points["last"] = jnp.asarray(last, jnp.float32)
    slopes = jax.jacrev(lambda p: relu_network(p, jnp.asarray(x)))(points)
    found = masks(ensemble, x)
    for name in ("first", "last"):
        expected = (np.asarray(slopes[name]) == 0).all(axis=(0, 1))
        assert (found[name] == expected).all()
        assert 0 < expected.sum() < expected.size


def test_examples_of_opposite_sign_do_not_cancel():
    x = jnp.array([[1.0], [-1.0]])
    assert not masks(ensemble_of({"w": certain([[2.0]])}), x)["w"].any()


def test_a_constant_input_that_is_not_zero_teaches():
    x = jnp.ones((5, 1))
    assert not masks(ensemble_of({"w": certain([[2.0]])}), x)["w"].any()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_the_size_of_a_batch_does_not_change_the_mask(batch_size):
    x = np.zeros((7, 4), np.float32)
    x[6, 2] = x[0, 0] = 1
    ensemble = ensemble_of({"w": certain(np.ones((4, 2)))})
    found = masks(ensemble, x, batch_size=batch_size)["w"]
    assert found[:, 0].tolist() == [False, True, False, True]


def test_a_unit_that_fires_only_by_its_noise_is_alive():
    x = jnp.ones((200, 1))
    narrow = mf.SpikeSlab([[0.0]], [[-1.0]], [[0.0]])
    wide = mf.SpikeSlab([[0.0]], [[-1.0]], [[1.0]])
    last, bias = certain([[1.0]]), [0.0]
    assert masks(relu_ensemble(narrow, bias, last), x)["first"].all()
    assert not masks(relu_ensemble(wide, bias, last), x)["first"].any()


def test_a_convolution_sees_a_dead_channel_and_a_kernel_out_of_reach():
    def network(params, x):
        return jax.lax.conv(x, params["w"], (1, 1), "SAME")

    ensemble = ensemble_of({"w": certain(np.ones((3, 2, 3, 3)))}, network)
    x = jnp.zeros((1, 2, 5, 5)).at[:, 0, 0, 0].set(1.0)
    found = masks(ensemble, x)["w"]
    # One corner pixel meets the kernel only at its centre and what lies above-left.
    expected = np.ones((3, 2, 3, 3), bool)
    expected[:, 0, :2, :2] = False
    assert (found == expected).all()


def test_recurrent_weights_are_seen_through_scan():
    def network(params, x):
        def step(state, row):
            return jnp.tanh(row @ params["in"] + state @ params["rec"]), None

        start = jnp.zeros((x.shape[0], 2))
        return jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[0]

    # Input 0 reaches unit 0 alone; unit 1 stays at 0 and is fed by nobody.
    weights = {
        "in": mf.SpikeSlab(jnp.array([[0.0, 1.0]]), jnp.ones((1, 2)), jnp.ones((1, 2))),
        "rec": mf.SpikeSlab(
            jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2)), jnp.ones((2, 2))
        ),
    }
    found = masks(ensemble_of(weights, network), jnp.ones((3, 4, 1)))
    assert found["in"].tolist() == [[False, False]]
    assert found["rec"].tolist() == [[False, False], [True, True]]


def test_words_that_never_occur_never_learn():
    embedding = eqx.nn.Embedding(5, 3, key=jax.random.key(0))
    ensemble = mf.Ensemble.from_model(embedding, key=jax.random.key(1))
    found = masks(ensemble, jnp.array([0, 3, 3, 1]))["weight"]
    assert found[:, 0].tolist() == [False, False, True, False, True]


def test_exactly_what_never_learns_stays_where_it_started(problem, untrained, trained):
    found = masks(untrained, problem[0])
    after_one_epoch, _ = trained[mf.learning.Projected]
    for name, before in untrained.weights().items():
        after = after_one_epoch.weights()[name]
        still = np.asarray(before.slab_mean == after.slab_mean)
        assert (still == found[name]).all()
        widths = np.asarray(before.slab_var == after.slab_var)
        assert widths[found[name]].all()
    assert found["layers/0/weight"][:, 1].all()


# Entropy


def test_mean_entropy_is_the_mean_of_the_closed_form_by_layer():
    weight = mf.SpikeSlab([[0.5, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]])
    found = mean_entropy(ensemble_of({"w": weight}))
    expected = (np.log(2) + 0.5 * np.log(2 * np.pi * np.e)) / 2
    assert found["w"] == pytest.approx(expected, rel=1e-6)
    left = mean_entropy(ensemble_of({"w": weight}), {"w": np.array([[False, True]])})
    assert left["w"] == pytest.approx(np.log(2), rel=1e-6)
    gone = mean_entropy(ensemble_of({"w": weight}), {"w": np.ones((1, 2), bool)})
    assert np.isnan(gone["w"])


# The table


def test_the_table_gives_every_number_back(tmp_path):
    weights = {"w": spike_slab((7, 5), 1), "deep": spike_slab((2, 3, 4), 2)}
    ensemble = ensemble_of(weights, lambda p, x: x @ p["w"] + p["deep"].sum())
    found = label_connections(ensemble, tolerance=0.0)
    write_connections(tmp_path / "connections.csv", ensemble, found)
    table = pd.read_csv(tmp_path / "connections.csv")
    assert set(table.layer) == set(weights)
    for name, weight in weights.items():
        rows = table[table.layer == name]
        index = rows[[f"index_{axis}" for axis in range(weight.ndim)]].astype(int)
        place = tuple(index.to_numpy().T)
        assert len(rows) == weight.size
        assert len(set(zip(*place, strict=True)))
        for column in ("spike_prob", "slab_mean", "slab_var"):
            expected = np.asarray(getattr(weight, column))[place]
            assert (rows[column].to_numpy(np.float32) == expected).all()
        words = [Label[word.upper()] for word in rows.label]
        assert (np.array(words) == found.labels[name][place]).all()
    assert table[table.layer == "w"].index_2.isna().all()


def test_small_chunks_make_the_same_table_and_carry_the_mask():
    weights = {"w": spike_slab((3, 4), 1), "v": spike_slab((5, 2), 2)}
    ensemble = ensemble_of(weights, lambda p, x: (x @ p["w"], x[:, :2] @ p["v"].T))
    x = jnp.array([[1.0, 0.0, 1.0]])
    found = label_connections(ensemble, data=x, key=jax.random.key(0))
    whole = pd.concat(connections(ensemble, found), ignore_index=True)
    parts = list(connections(ensemble, found, chunk=5))
    assert max(map(len, parts)) == 5
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True))
    dead = whole[(whole.layer == "w") & (whole.index_0 == 1)]
    assert dead.never_learned.all()
    assert len(dead) == 4


def test_labels_of_another_ensemble_are_refused_and_leave_no_file(tmp_path):
    own, other = (
        ensemble_of({"w": spike_slab()}),
        ensemble_of({"w": spike_slab((2, 2))}),
    )
    with pytest.raises(ValueError, match="`labels` must belong to the ensemble"):
        write_connections(tmp_path / "c.csv", own, label_connections(other))
    assert list(tmp_path.iterdir()) == []


# Bad input


@pytest.mark.parametrize("tolerance", [-0.1, 0.5, float("nan")])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ValueError, match="`tolerance` must lie in"):
        label_connections(ensemble_of({"w": spike_slab()}), tolerance=tolerance)


def test_data_that_do_not_fit_are_refused():
    ensemble, key = ensemble_of({"w": spike_slab()}), jax.random.key(0)
    with pytest.raises(ValueError, match="`key` is needed with `data`"):
        label_connections(ensemble, data=jnp.ones((2, 40)))
    with pytest.raises(ValueError, match="`data` must be inputs x that the network"):
        label_connections(ensemble, data=jnp.ones((2, 41)), key=key)
    with pytest.raises(ValueError, match="at least one"):
        label_connections(ensemble, data=jnp.ones((0, 40)), key=key)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        label_connections(ensemble, data=jnp.ones((2, 40)), key=key, num_samples=0)


def test_what_needs_data_says_so():
    found = label_connections(ensemble_of({"w": spike_slab()}))
    with pytest.raises(ValueError, match="made without data"):
        _ = found.learned_fractions
    with pytest.raises(ValueError, match="`never_learned` must hold a mask"):
        mean_entropy(ensemble_of({"w": spike_slab()}), {"v": np.ones((2, 2), bool)})
