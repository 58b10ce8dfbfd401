"""Connections that leave together at the end of a run under the selective rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.keys import numpy_generator
from meanfield.learning import joint_removal
from meanfield.learning.divergence import total_kl
from meanfield.learning.joint_removal import remove_jointly
from meanfield.learning.validation import example_losses
from meanfield.spikeslab import is_spike_slab
from meanfield.trees import map_named

KEY = jax.random.key(0)
TOLERANCE = 0.003  # Nats per example.
RHO, PRICE = 0.01, 0.1 / 400
PRIOR = mf.SpikeSlabPrior(inclusion_prob=RHO, slab_scale="learned")
NAMES = ("layers/0/weight", "layers/1/weight")


def linear(first, second, spike=0.01, var=1e-6) -> mf.Ensemble:
    """Two linear layers with given means, and no biases."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    sizes = (first.shape[1], len(first), len(second))
    network = mlp(sizes, key=KEY, activation=lambda x: x)
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    params = map_named(
        lambda name, leaf: 0 * leaf if name.endswith("bias") else leaf,
        ensemble.params,
        is_spike_slab,
    )
    ensemble = eqx.tree_at(lambda e: e.params, ensemble, params)
    means = dict(zip(NAMES, (first, second), strict=True))
    return ensemble.with_weights(
        {
            name: mf.SpikeSlab(np.full_like(mean, spike), mean, np.full_like(mean, var))
            for name, mean in means.items()
        }
    )


def examples(number=400, inputs=3):
    """Inputs, and the first of them with noise of deviation 0.1 as the target."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(number, inputs)).astype(np.float32)
    return x, x[:, :1] + 0.1 * rng.normal(size=(number, 1)).astype(np.float32)


# The second input enters both units, and its effects cancel in the output.
CANCELS = linear([[0.5, 1.0, 0.0], [0.5, -1.0, 0.0]], [[1.0, 1.0]])
GAUSSIAN = mf.Gaussian(scale=0.1)


def absent(ensemble: mf.Ensemble, name: str = NAMES[0]) -> np.ndarray:
    """Which connections are absent for sure."""
    return np.asarray(ensemble.weights()[name].spike_prob) == 1


def test_connections_that_cancel_leave_together_and_no_others():
    found = remove_jointly(
        CANCELS, GAUSSIAN, examples(), PRIOR, PRICE, TOLERANCE, 100, key=KEY
    )
    np.testing.assert_array_equal(absent(found), [[False, True, True]] * 2)
    assert not absent(found, NAMES[1]).any()
    # Nothing but spikes has changed.
    for name, weight in found.weights().items():
        before = CANCELS.weights()[name]
        stays = ~absent(found, name)
        np.testing.assert_array_equal(weight.slab_mean, before.slab_mean)
        np.testing.assert_array_equal(weight.slab_var, before.slab_var)
        np.testing.assert_array_equal(
            np.asarray(weight.spike_prob)[stays], np.asarray(before.spike_prob)[stays]
        )


def test_the_loss_of_the_run_falls():
    data = examples()

    def loss(ensemble):
        x, y = (jnp.asarray(part) for part in data)
        draws = [ensemble(x, key=key) for key in jax.random.split(KEY, 200)]
        terms = [-jnp.asarray(GAUSSIAN(out).log_prob(y)).mean() for out in draws]
        return np.mean(terms) + PRICE * float(total_kl(ensemble.weights(), PRIOR))

    found = remove_jointly(
        CANCELS, GAUSSIAN, data, PRIOR, PRICE, TOLERANCE, 100, key=KEY
    )
    assert loss(found) < loss(CANCELS)


def test_the_tolerance_limits_what_all_removals_cost_together():
    # At this price nearly every connection leaves, or as many as the tolerance allows.
    data = examples()

    def nll(ensemble):
        losses = example_losses(ensemble, GAUSSIAN, *data, key=KEY)
        return losses.mean()

    for tolerance in (0.0, 1e6):
        found = remove_jointly(
            CANCELS, GAUSSIAN, data, PRIOR, 1e4, tolerance, 400, key=KEY
        )
        assert nll(found) <= nll(CANCELS) + tolerance
        left = [int((~absent(found, name)).sum()) for name in NAMES]
        assert min(left) > 0
        assert (left == [1, 1]) == (tolerance == 1e6)  # No layer loses its last one.


def test_units_without_an_effect_lose_what_they_read():
    ensemble = linear([[1.0, 0.0], [0.8, 0.8]], [[1.0, 0.0]])
    start = ensemble.with_weights(
        {
            NAMES[1]: mf.SpikeSlab(
                np.array([[0.01, 1.0]]), np.array([[1.0, 0.0]]), np.full((1, 2), 1e-6)
            )
        }
    )
    data = examples(inputs=2)
    found = remove_jointly(start, GAUSSIAN, data, PRIOR, PRICE, TOLERANCE, 100, key=KEY)
    assert absent(found)[1].all()
    assert not absent(found)[0, 0]


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_nothing_leaves_a_network_that_needs_all(noise):
    # Two inputs, both of which count.
    ensemble = linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]], var=1e-8)
    live = np.eye(2, dtype=bool)
    ensemble = ensemble.with_weights(
        {
            NAMES[0]: mf.SpikeSlab(
                np.where(live, 0.0, 1.0), np.eye(2), np.full((2, 2), 1e-8)
            )
        }
    )
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = x.sum(1, keepdims=True) + noise * rng.normal(size=(400, 1))
    data = x, y.astype(np.float32)
    found = remove_jointly(
        ensemble, mf.Gaussian(scale=noise), data, PRIOR, PRICE, TOLERANCE, 100, key=KEY
    )
    np.testing.assert_array_equal(absent(found), ~live)
    assert not absent(found, NAMES[1]).any()


def test_estimates_are_those_of_gates_on_the_mean_network():
    rng = np.random.default_rng(3)
    ensemble = linear(rng.normal(size=(4, 3)), rng.normal(size=(1, 4)), spike=0.2)
    x, y = (jnp.asarray(part[:7]) for part in examples())
    found = joint_removal._estimates(ensemble, GAUSSIAN, (x, y), PRIOR, PRICE)
    means = {name: weight.mean for name, weight in ensemble.weights().items()}
    for name, axes in found.items():
        weight = ensemble.weights()[name]
        divergence = weight.kl(PRIOR.for_layer(name, weight))
        for axis, estimates in axes.items():
            single = axis == joint_removal.SINGLE
            for index, estimate in np.ndenumerate(estimates):
                chosen = np.zeros(weight.shape, bool)
                (chosen if single else np.moveaxis(chosen, axis, 0))[index] = True

                def nll(gate, x, y, name=name, chosen=chosen):
                    changed = means | {name: means[name] * jnp.where(chosen, gate, 1)}
                    points = {
                        n: mf.SpikeSlab(jnp.zeros_like(m), m, jnp.zeros_like(m))
                        for n, m in changed.items()
                    }
                    network = ensemble.with_weights(points)
                    out = network.apply_fn(network.mean_params(), x[None])
                    return -jnp.asarray(GAUSSIAN(out).log_prob(y[None])).sum()

                per_example = jax.vmap(jax.grad(nll), (None, 0, 0))
                gradients = np.asarray(per_example(1.0, x, y))
                expected = (0.5 * gradients**2 - gradients).mean()
                expected -= PRICE * float(np.asarray(divergence)[chosen].sum())
                np.testing.assert_allclose(estimate, expected, rtol=2e-4, atol=1e-5)


def test_shared_spikes_leave_as_they_are_shared():
    weight = CANCELS.weights()[NAMES[0]]
    shared = CANCELS.with_weights(
        {
            NAMES[0]: mf.SpikeSlab(
                jnp.full((1, 3), 0.01), weight.slab_mean, weight.slab_var
            )
        }
    )
    found = remove_jointly(
        shared, GAUSSIAN, examples(), PRIOR, PRICE, TOLERANCE, 100, key=KEY
    )
    np.testing.assert_array_equal(absent(found), [[False, True, True]])


def data_with_a_useless_input():
    """Labels of a circle in two of three inputs; more examples than a table has."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (1500, 3)).astype(np.float32)
    return x, ((x[:, :2] ** 2).sum(1) > 0.6).astype(int)


def learn(**settings):
    network = eqx.nn.MLP(3, 2, 16, 2, key=KEY)
    return mf.fit(
        mf.Ensemble.from_model(network, key=KEY),
        data_with_a_useless_input(),
        key=KEY,
        batch_size=32,
        progress=False,
        **settings,
    )


def test_a_finished_run_under_the_selective_rule_ends_with_it(monkeypatch):
    calls, tolerances = [], []

    def spy(ensemble, likelihood, data, prior, price, tolerance, *args, **kwargs):
        tolerances.append(tolerance)
        given = ensemble, likelihood, data, prior, price, tolerance
        calls.append(remove_jointly(*given, *args, **kwargs))
        return calls[-1]

    monkeypatch.setattr("meanfield.learning.search.remove_jointly", spy)
    rule = mf.Selective()
    found = learn(prior=rule, epochs=25)
    assert len(calls) == 1
    assert found.stopped == "finished"
    assert found.ensemble is calls[0]
    assert found.search is not None
    assert found.search.temperature < 1
    assert tolerances == [rule.tolerance * found.search.temperature]
    assert absent(found.ensemble)[:, 2].all()  # The useless input.
    assert not absent(found.ensemble)[:, :2].all(0).any()
    short = learn(prior=rule, epochs=2)
    assert short.stopped == "finished"
    assert len(calls) == 1
    stopped = learn(prior=rule, epochs=4, callbacks=[lambda report: True])
    assert stopped.stopped == "callback"
    assert len(calls) == 1
    learn(prior=mf.SpikeSlabPrior(), epochs=1)
    learn(prior=None, epochs=1)
    assert len(calls) == 1


def test_a_single_connection_without_an_effect_leaves():
    # All slices count: the first unit reads mostly the first input, the second unit the
    # second.
    live = np.array([[True, True], [False, True]])
    ensemble = linear(np.eye(2), [[1.0, 1.0]]).with_weights(
        {
            NAMES[0]: mf.SpikeSlab(
                np.where(live, 0.01, 1.0),
                [[1.0, 1e-3], [0.0, 1.0]],
                np.full((2, 2), 1e-6),
            )
        }
    )
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = x.sum(1, keepdims=True) + 0.1 * rng.normal(size=(400, 1))
    data = x, y.astype(np.float32)
    found = remove_jointly(
        ensemble, GAUSSIAN, data, PRIOR, PRICE, TOLERANCE, 100, key=KEY
    )
    np.testing.assert_array_equal(absent(found), [[False, True], [True, False]])
    assert not absent(found, NAMES[1]).any()


def test_what_has_no_effect_on_the_compared_examples_alone_stays(monkeypatch):
    # The second input is 0 in the examples that are compared, like a rare word.
    ensemble = linear([[1.0, 1.0, 0.0]], [[1.0]])
    x, _ = examples()
    compared = numpy_generator(KEY).permutation(len(x))[:100]
    x[compared, 1] = 0.0
    y = x[:, :1] + x[:, 1:2]
    for most in (100, 8192):
        monkeypatch.setattr(joint_removal, "EXAMPLES", most)
        found = remove_jointly(
            ensemble, GAUSSIAN, (x, y), PRIOR, PRICE, TOLERANCE, 100, key=KEY
        )
        np.testing.assert_array_equal(absent(found), [[False, False, True]])


def test_single_connections_are_tried_in_the_order_of_their_estimates():
    spikes = {"a": np.array([[0.1, 0.9], [0.1, 0.2]]), "b": np.array([[0.1, 0.1]])}
    weights = {n: mf.SpikeSlab(s, 0 * s, 0 * s + 1) for n, s in spikes.items()}
    single = joint_removal.SINGLE
    estimates: joint_removal.Estimates = {
        "a": {single: np.array([[-1.0, -9.0], [0.5, -2.0]])},
        "b": {single: np.array([[-3.0, 0.0]])},
    }
    found = joint_removal._singles(estimates, weights)
    assert found.tolist() == [4, 3, 0]  # An absent one and those that count stay.
    masks = joint_removal._masks(found[:2], weights)
    np.testing.assert_array_equal(masks["a"], [[False, False], [False, True]])
    np.testing.assert_array_equal(masks["b"], [[True, False]])
    assert set(joint_removal._masks(found[:1], weights)) == {"b"}


def test_only_slices_in_which_something_is_present_are_tried():
    spikes = np.array([[0.1, 0.9, 0.9], [0.9, 0.9, 0.9]])
    weight = mf.SpikeSlab(spikes, np.ones((2, 3)), np.ones((2, 3)))
    estimates: joint_removal.Estimates = {
        "w": {0: np.array([2.0, 0.0]), 1: np.array([1.0, 3.0, -1.0])}
    }
    assert joint_removal._order(estimates, {"w": weight}) == [("w", 1, 0), ("w", 0, 0)]
