"""Values of connections: enumeration, closed forms, axioms, groups, and the check."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ZOO, make_random
from scipy.special import beta

import meanfield as mf
from meanfield.credit.connection_gates import thin
from meanfield.credit.quadrature import choose_rule
from meanfield.ensemble.networks import mlp
from meanfield.games.exact import (
    all_coalitions,
    banzhaf_weights,
    marginal_values,
    shapley_weights,
)

KEY = jax.random.key(0)
MSE = mf.Gaussian(scale=1.0)
SETTINGS = {"likelihood": MSE, "num_checks": 0, "chunk_size": 8}


def linear_network(*widths, certain=False, seed=0):
    """A deep linear network; with a squared error the Gaussian step is exact."""
    rng = np.random.default_rng(seed)
    params, shapes = {}, zip(widths, widths[1:], strict=False)
    for number, shape in enumerate(shapes):
        spike, var = rng.uniform(0.1, 0.5, shape), rng.uniform(0.05, 0.3, shape)
        if certain:
            spike, var = np.zeros(shape), np.zeros(shape)
        parts = (spike, rng.normal(0.7, 0.6, shape), var)
        slab = mf.SpikeSlab(*(jnp.asarray(p, jnp.float32) for p in parts))
        params[f"w{number}"] = slab

    def apply(params, x):
        for number in range(len(params)):
            x = x @ params[f"w{number}"]
        return x

    points = {name: slab.slab_mean for name, slab in params.items()}
    return mf.Ensemble.from_model((apply, points)).with_weights(params)


def regression_data(inputs, examples=24, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.4, 1, (examples, inputs))
    y = x @ rng.normal(0.5, 0.7, (inputs, 1)) + 0.3
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays.values()])


def payoffs_of_all(ensemble, x, y, path="posterior"):
    """v(S) for every coalition and example, the posterior averaged in closed form.

    E W and E W² of independent entries carry a second moment from layer to layer:
    E[z zᵀ] = Mᵀ A M + diag(Vᵀ diag(A)) for a signal of second moment A.
    """
    weights = list(ensemble.weights().values())
    sizes = np.cumsum([0, *(w.size for w in weights)])
    table = all_coalitions(int(sizes[-1]))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)[:, 0]
    spikes = [
        np.asarray(w.spike_prob if path == "posterior" else 0 * w.spike_prob)
        for w in weights
    ]
    means = [
        (1 - p) * np.asarray(w.slab_mean, np.float64)
        for p, w in zip(spikes, weights, strict=True)
    ]
    seconds = [
        (1 - p) * (np.asarray(w.slab_var) + np.square(w.slab_mean))
        for p, w in zip(spikes, weights, strict=True)
    ]
    mean = np.broadcast_to(x, (len(table), *x.shape))
    square = mean[..., :, None] * mean[..., None, :]
    for number, w in enumerate(weights):
        inside = table[:, sizes[number] : sizes[number + 1]].reshape(-1, *w.shape)
        m = inside * means[number]
        v = inside * (seconds[number] - means[number] ** 2)
        diagonal = np.einsum("snii,sij->snj", square, v)
        square = m.transpose(0, 2, 1)[:, None] @ square @ m[:, None]
        square += np.eye(w.shape[1]) * diagonal[..., None]
        mean = mean @ m
    return -(square[..., 0, 0] - 2 * y * mean[..., 0] + y**2)


def assert_close(found, exact, errors, count=5):
    assert np.all(np.abs(found - exact) <= count * errors + 1e-5), (
        found,
        exact,
        np.abs(found - exact) / errors,
    )


@pytest.mark.parametrize("widths", [(9, 1), (2, 3, 1), (2, 2, 2, 1)])
@pytest.mark.parametrize("path", ["posterior", "full"])
def test_deep_linear_networks_agree_with_enumeration(widths, path):
    ensemble, data = linear_network(*widths), regression_data(widths[0])
    num_samples = 64 if len(widths) < 4 else 512
    found = mf.connection_values(
        ensemble,
        data,
        key=KEY,
        path=path,
        num_samples=num_samples,
        num_nodes=8,
        **SETTINGS,
    )
    payoffs = payoffs_of_all(ensemble, *data, path=path).mean(1)
    n = int(np.log2(len(payoffs)))
    exact = marginal_values(payoffs, shapley_weights(n - 1))
    assert_close(flat(found.values), exact, flat(found.standard_errors))
    assert np.linalg.norm(exact) > 2 * np.linalg.norm(flat(found.standard_errors))
    np.testing.assert_allclose(found.empty_payoff, payoffs[0], rtol=1e-5)
    assert abs(found.efficiency_gap) <= 5 * found.gap_error + 1e-4
    total = sum(value.sum() for value in found.values.values())
    gap = total - (found.payoff - found.empty_payoff)
    np.testing.assert_allclose(gap, found.efficiency_gap, atol=1e-5)


def test_the_product_of_two_is_shared_evenly():
    params = {"a": jnp.array([[2.0]]), "b": jnp.array([[3.0]])}
    point = mf.Ensemble.from_points((lambda p, x: x @ p["a"] @ p["b"], params))
    data = jnp.ones((4, 1)), jnp.full((4, 1), 5.0)
    found = mf.connection_values(
        point, data, key=KEY, num_samples=256, num_nodes=6, **SETTINGS
    )
    # v(both) − v(∅) = −(5 − 6)² + 5²; either one alone earns what nobody earns.
    assert_close(flat(found.values), 12.0, flat(found.standard_errors))


def test_values_are_the_mean_of_those_of_drawn_subnetworks():
    ensemble, data = linear_network(2, 2, 1), regression_data(2)
    found = mf.connection_values(
        ensemble, data, key=KEY, num_samples=64, num_nodes=8, **SETTINGS
    )
    drawn = []
    for key in jax.random.split(jax.random.key(7), 300):
        names = zip(ensemble.weights().items(), jax.random.split(key, 2), strict=True)
        points = {
            name: mf.SpikeSlab(jnp.zeros(w.shape), w.sample(k), jnp.zeros(w.shape))
            for (name, w), k in names
        }
        payoffs = payoffs_of_all(ensemble.with_weights(points), *data).mean(1)
        drawn.append(marginal_values(payoffs, shapley_weights(5)))
    error = np.hypot(np.std(drawn, 0) / np.sqrt(300), flat(found.standard_errors))
    assert_close(flat(found.values), np.mean(drawn, 0), error)


def semivalue_weights(n, a, b):
    sizes = np.arange(n)
    return beta(sizes + a, n - 1 - sizes + b) / beta(a, b)


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("banzhaf", banzhaf_weights(8)),
        ((2.0, 3.0), semivalue_weights(9, 2.0, 3.0)),
        (lambda t: 2 * t, semivalue_weights(9, 2.0, 1.0)),
    ],
    ids=["banzhaf", "beta", "function"],
)
def test_semivalues_agree_with_enumeration(weighting, weights):
    ensemble, data = linear_network(2, 3, 1), regression_data(2)
    found = mf.connection_values(
        ensemble,
        data,
        key=KEY,
        weighting=weighting,
        num_samples=96,
        num_nodes=8,
        **SETTINGS,
    )
    payoffs = payoffs_of_all(ensemble, *data).mean(1)
    assert_close(
        flat(found.values),
        marginal_values(payoffs, weights),
        flat(found.standard_errors),
    )
    assert found.efficiency_gap is None


def test_the_root_mean_square_is_that_of_the_values_of_single_examples():
    ensemble, data = linear_network(2, 3, 1), regression_data(2, examples=40)
    each = payoffs_of_all(ensemble, *data)
    exact = [marginal_values(each[:, i], shapley_weights(8)) for i in range(40)]
    for chunk_size, tolerance in ((1, 0.1), (4, 0.35)):
        found = mf.connection_values(
            ensemble,
            data,
            key=KEY,
            num_samples=128,
            num_nodes=8,
            **SETTINGS | {"chunk_size": chunk_size},
        )
        wanted = np.sqrt(np.square(exact).mean(0))
        np.testing.assert_allclose(flat(found.rms), wanted, rtol=tolerance)
        assert (flat(found.rms) >= np.abs(flat(found.values)) - 1e-6).all()


def test_standard_errors_are_those_of_repeated_runs():
    ensemble, data = linear_network(2, 3, 1), regression_data(2)
    runs = [
        mf.connection_values(
            ensemble, data, key=key, num_samples=3, num_nodes=6, **SETTINGS
        )
        for key in jax.random.split(KEY, 80)
    ]
    spread = np.std([flat(run.values) for run in runs], 0, ddof=1)
    claimed = np.sqrt(np.mean([flat(r.standard_errors) ** 2 for r in runs], 0))
    np.testing.assert_allclose(claimed, spread, rtol=0.4)
    gap = np.std([run.efficiency_gap for run in runs], ddof=1)
    claimed_gap = np.sqrt(np.mean([run.gap_error**2 for run in runs]))
    np.testing.assert_allclose(claimed_gap, gap, rtol=0.4)


def classifier(widths=(6, 7, 5, 3), seed=0, **change):
    network = mlp(widths, key=jax.random.key(seed))
    ensemble = mf.Ensemble.from_model(network)
    rng = np.random.default_rng(seed)
    slabs = {}
    for name, w in ensemble.weights().items():
        spike = rng.uniform(0, 0.4, w.shape)
        slabs[name] = mf.SpikeSlab(
            jnp.asarray(spike, jnp.float32), 3 * w.slab_mean, jnp.full(w.shape, 0.02)
        )
    return ensemble.with_weights(slabs | change)


def class_data(examples=60, inputs=6, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (examples, inputs))
    y = np.digitize(x[:, 0] + x[:, 1], [-0.7, 0.7])
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def test_null_players_get_exactly_nothing():
    ensemble = classifier()
    first, last = (ensemble.weights()[f"layers/{i}/weight"] for i in (0, 2))
    spike = first.spike_prob.at[2, 3].set(1.0)
    mean = first.slab_mean.at[4, 5].set(0.0)
    var = first.slab_var.at[4, 5].set(0.0)
    last = mf.SpikeSlab(
        last.spike_prob, last.slab_mean.at[:, 1].set(0), last.slab_var.at[:, 1].set(0)
    )
    ensemble = ensemble.with_weights(
        {"layers/0/weight": mf.SpikeSlab(spike, mean, var), "layers/2/weight": last}
    )
    x, y = class_data()
    x = x.at[:, 2].set(0.0)
    found = mf.connection_values(ensemble, (x, y), key=KEY, num_checks=0)
    for part in (found.values, found.standard_errors, found.rms):
        first, second = part["layers/0/weight"], part["layers/1/weight"]
        assert first[2, 3] == first[4, 5] == 0
        assert (first[:, 2] == 0).all()  # an input that is always zero
        assert (second[1] == 0).all()  # a unit that nobody reads
        assert (part["layers/2/weight"][:, 1] == 0).all()
        assert (first[:, 0] != 0).any()
    full = mf.connection_values(ensemble, (x, y), key=KEY, num_checks=0, path="full")
    assert full.values["layers/0/weight"][2, 3] != 0  # there it may join


def test_equal_connections_get_equal_values():
    ensemble, (x, y) = linear_network(3, 2, 1), regression_data(3)
    w = ensemble.weights()["w0"]
    copy = lambda a: a.at[1].set(a[0])
    alike = mf.SpikeSlab(*map(copy, (w.spike_prob, w.slab_mean, w.slab_var)))
    found = mf.connection_values(
        ensemble.with_weights({"w0": alike}),
        (x.at[:, 1].set(x[:, 0]), y),
        key=KEY,
        num_samples=64,
        num_nodes=8,
        **SETTINGS,
    )
    values, errors = found.values["w0"], found.standard_errors["w0"]
    assert_close(values[0], values[1], np.hypot(errors[0], errors[1]))
    assert np.abs(values[0] - values[2]).max() > 5 * errors.max()


def test_values_are_linear_in_the_payoff():
    ensemble, data = linear_network(2, 3, 1), regression_data(2)
    settings = SETTINGS | {"likelihood": mf.Gaussian(scale=0.5)}
    by = {
        payoff: mf.connection_values(ensemble, data, key=KEY, payoff=payoff, **settings)
        for payoff in ("mse", "log_likelihood")
    }
    for name, value in by["log_likelihood"].values.items():
        # ln N = −err²/(2 · 0.25) + a constant that nobody earns.
        np.testing.assert_allclose(
            value, 2 * by["mse"].values[name], rtol=2e-3, atol=1e-5
        )


def test_groups_add_up_and_are_what_they_are_alone():
    ensemble, (x, y) = classifier(), class_data()
    labels = np.array(["low", "mid", "high"])[np.asarray(y)]
    found = mf.connection_values(
        ensemble, (x, y), key=KEY, groups=labels, num_samples=8, num_checks=0
    )
    assert set(found.by_group) == {"low", "mid", "high"}
    for name, value in found.values.items():
        total = sum(group[name] for group in found.by_group.values())
        np.testing.assert_allclose(total, value, atol=1e-6)
    ends = np.sum(list(found.group_payoffs.values()), 0)
    np.testing.assert_allclose(ends, [found.payoff, found.empty_payoff], atol=1e-6)
    mine = labels == "mid"
    alone = mf.connection_values(
        ensemble,
        (x[mine], y[mine]),
        key=jax.random.key(5),
        num_samples=8,
        num_checks=0,
    )
    part, share = flat(found.by_group["mid"]), mine.mean()
    error = np.hypot(flat(found.standard_errors), share * flat(alone.standard_errors))
    assert_close(part, share * flat(alone.values), error)


def test_one_example_is_data_of_length_one():
    ensemble, (x, y) = classifier(), class_data()
    found = mf.connection_values(
        ensemble, (x[:1], y[:1]), key=KEY, num_samples=64, num_checks=0
    )
    np.testing.assert_allclose(found.sampling_errors["layers/0/weight"].shape, (7, 6))
    assert abs(found.efficiency_gap) <= 5 * found.gap_error + found.quadrature_error


def test_an_ordinary_network_is_an_ensemble_without_doubt():
    network, data = mlp((6, 7, 3), key=KEY), class_data()
    points = mf.Ensemble.from_points(network)
    sure = mf.Ensemble.from_model(network)
    sure = sure.with_weights(
        {
            name: mf.SpikeSlab(0 * w.slab_mean, w.slab_mean, 0 * w.slab_mean)
            for name, w in sure.weights().items()
        }
    )
    values = [
        mf.connection_values(e, data, key=KEY, num_checks=0).values
        for e in (points, sure)
    ]
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])
    biases = mf.connection_values(
        points, data, key=KEY, num_checks=0, where=lambda name, leaf: "bias" in name
    )
    assert set(biases.values) == {"layers/0/bias", "layers/1/bias"}
    one = mf.connection_values(
        sure, data, key=KEY, num_checks=0, where=lambda name, leaf: "1/weight" in name
    )
    assert set(one.values) == {"layers/1/weight"}


def test_a_thinned_weight_has_the_moments_of_its_draws():
    weight = mf.SpikeSlab([0.3, 0.0], [1.5, -0.7], [0.2, 0.0])
    thinned = thin(weight, jnp.float32(0.4))
    keys = jax.random.split(KEY, 40_000)
    drawn = jax.vmap(weight.sample)(keys) * (
        jax.random.uniform(jax.random.key(1), (40_000, 2)) < 0.4
    )
    error = np.std(drawn, 0) / 200
    assert (np.abs(np.mean(drawn, 0) - thinned.mean) < 5 * error).all()
    np.testing.assert_allclose(np.var(drawn, 0), thinned.var, rtol=0.05)
    whole = thin(weight, jnp.float32(1.0))
    for before, after in zip(
        jax.tree.leaves(weight), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_gradients_are_finite_at_certainty():
    ensemble = classifier()
    w = ensemble.weights()["layers/0/weight"]
    spike = jnp.where(jnp.arange(6) % 2 == 0, 0.0, 1.0) * jnp.ones(w.shape)
    sure = mf.SpikeSlab(spike, w.slab_mean, jnp.zeros(w.shape))
    x, y = class_data()
    x = x.at[:5].set(0.0).at[5:9].multiply(1e-20).at[9:12].multiply(1e4)
    found = mf.connection_values(
        ensemble.with_weights({"layers/0/weight": sure}), (x, y), key=KEY, num_checks=0
    )
    for part in (found.values, found.standard_errors, found.rms):
        assert np.isfinite(flat(part)).all()


class SlidingSum(eqx.Module):
    """One linear convolution: three weights, which all places share."""

    kernel: jax.Array

    def __call__(self, x):
        return jnp.convolve(x[:, 0], self.kernel[:, 0], "valid").sum()[None]


def test_weights_drawn_once_keep_the_gate_that_positions_share():
    kernel = jnp.array([[0.9], [-0.4], [0.6]])
    point = mf.Ensemble.from_points(SlidingSum(kernel))
    x = jax.random.normal(KEY, (20, 8, 1)) + 0.5
    y = jax.vmap(SlidingSum(kernel))(x) + 0.5
    reads = np.stack([np.asarray(x[:, 2 - k : 8 - k, 0]).sum(1) for k in range(3)], 1)
    table = all_coalitions(3)
    outputs = (table * np.asarray(kernel)[:, 0]) @ reads.T
    payoffs = -np.square(outputs - np.asarray(y)[:, 0]).mean(1)
    exact = marginal_values(payoffs, shapley_weights(2))
    found = {
        noise: mf.connection_values(
            point,
            (x, y),
            key=KEY,
            noise=noise,
            num_samples=400,
            num_nodes=6,
            **SETTINGS,
        )
        for noise in ("weights", "preactivations")
    }
    shared, fresh = found["weights"], found["preactivations"]
    assert_close(flat(shared.values), exact, flat(shared.standard_errors))
    density = np.prod(
        np.where(table[:, :, None], shared.nodes, 1 - shared.nodes), axis=1
    )
    for found, agrees in ((shared, True), (fresh, False)):
        off = np.abs(found.path_payoff - payoffs @ density)
        # Noise for each position loses the covariance of a weight's readings.
        assert (off < 5 * found.path_errors).all() == agrees


MODELS = [
    "equinox_conv2d_max_pool_group_norm_residual",
    "equinox_gru_scan",
    "equinox_embedding_layer_norm_weight_tying",
    "equinox_attention_residual_dropout",
]


@pytest.mark.parametrize("noise", ["preactivations", "weights"])
@pytest.mark.parametrize("name", MODELS)
def test_values_of_any_model_share_out_its_payoff(name, noise):
    case = ZOO[name]()
    params = make_random(case.params)
    start = mf.Ensemble.from_model((case.apply, case.params))
    ensemble = eqx.tree_at(lambda e: e.params, start, params)
    outputs = case.apply(case.params, case.x)
    data = case.x, jnp.ones(outputs.shape)
    found = mf.connection_values(
        ensemble,
        data,
        key=KEY,
        likelihood=MSE,
        payoff="probability",
        noise=noise,
        num_samples=48,
        num_checks=0,
    )
    assert set(found.values) == set(ensemble.weights())
    allowed = 5 * found.gap_error + found.quadrature_error + 1e-5
    assert abs(found.efficiency_gap) <= allowed
    assert all(np.isfinite(value).all() for value in found.values.values())


def test_sampled_orders_of_connections_agree():
    ensemble, (x, y) = classifier((6, 9, 3)), class_data()
    found = mf.connection_values(ensemble, (x, y), key=KEY, num_samples=32)
    names = list(ensemble.weights())
    sizes = [ensemble.weights()[name].size for name in names]
    starts = np.cumsum([0, *sizes])

    @jax.jit
    def gains(key):
        order_key, draw_key = jax.random.split(key)
        drawn = ensemble.sample(draw_key)
        rank = jnp.argsort(jax.random.permutation(order_key, starts[-1]))

        def pay(count):
            inside = rank < count
            parts = [
                drawn.layers[i].weight
                * inside[starts[i] : starts[i + 1]].reshape(
                    drawn.layers[i].weight.shape
                )
                for i in range(2)
            ]
            hidden = jax.nn.relu(x @ parts[0].T + drawn.layers[0].bias)
            logits = hidden @ parts[1].T + drawn.layers[1].bias
            return jax.nn.softmax(logits)[jnp.arange(len(y)), y].mean()

        payoffs = jax.vmap(pay)(jnp.arange(starts[-1] + 1))
        return jnp.diff(payoffs)[rank]

    drawn = np.asarray(jax.lax.map(gains, jax.random.split(jax.random.key(4), 1500)))
    reference, error = drawn.mean(0), drawn.std(0) / np.sqrt(len(drawn))
    values = flat(found.values)
    assert np.corrcoef(values, reference)[0, 1] > 0.97
    # Six inputs are few: the Gaussian step may be off by a tenth of the norm.
    off = np.linalg.norm(values - reference)
    assert off < 0.2 * np.linalg.norm(reference) + 2 * np.linalg.norm(error)
    layer = [drawn[:, a:b].sum(1) for a, b in zip(starts, starts[1:], strict=False)]
    for sums, name in zip(layer, names, strict=True):
        spread = found.check.drawn_sum_errors[name]
        allowed = 5 * np.hypot(spread, sums.std() / np.sqrt(1500)) + 0.01
        assert abs(found.check.drawn_sums[name] - sums.mean()) < allowed


def test_the_check_trusts_many_inputs():
    ensemble, (x, _) = classifier((40, 30, 3)), class_data(256, 40)
    y = jax.vmap(ensemble.mean_network())(x).argmax(1)
    found = mf.connection_values(
        ensemble, (x, y), key=KEY, num_checks=300, num_samples=24
    )
    check = found.check
    assert check.verdict == "agrees"
    assert check.trusted
    assert (np.abs(check.drawn_payoff - check.path_payoff) < 0.05).all()
    total = sum(check.drawn_sums.values())
    np.testing.assert_allclose(total, sum(check.sums.values()), atol=0.05)


def test_the_check_distrusts_few_inputs_and_a_log_likelihood():
    params = {"a": jnp.full((1, 2), 4.0), "b": jnp.array([[5.0, -5.0], [-5.0, 5.0]])}
    point = mf.Ensemble.from_points(
        (lambda p, x: jax.nn.relu(x @ p["a"]) ** 2 @ p["b"], params)
    )
    x = jnp.ones((16, 1))
    found = mf.connection_values(
        point,
        (x, jnp.zeros(16, int)),
        key=KEY,
        payoff="log_likelihood",
        num_samples=16,
        num_checks=200,
    )
    assert found.check.verdict == "differs"
    assert found.check.trusted is False


def test_two_runs_with_one_key_are_equal():
    ensemble, data = classifier(), class_data()
    runs = [
        mf.connection_values(ensemble, data, key=KEY, num_checks=4) for _ in range(2)
    ]
    np.testing.assert_array_equal(flat(runs[0].values), flat(runs[1].values))
    assert runs[0].check.largest_difference == runs[1].check.largest_difference


def test_a_rule_integrates_polynomials_and_doubts_what_it_cannot():
    rule = choose_rule(None, 8)
    np.testing.assert_allclose(rule.weights @ rule.nodes**9, 0.1, rtol=1e-12)
    smooth, rough = rule.nodes**3, np.sin(20 * rule.nodes)
    errors = rule.error(np.stack([smooth, rough], 1))
    assert errors[0] < 1e-12
    exact = (1 - np.cos(20)) / 20
    assert errors[1] > abs(rule.weights @ rough - exact)


def call(**settings):
    ensemble, data = classifier(), class_data()
    settings = {"ensemble": ensemble, "data": data, "key": KEY} | settings
    return mf.connection_values(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": (class_data()[0], None)}, "`data` must be a pair of arrays"),
        ({"data": class_data()[0]}, "`data` must be a pair of arrays"),
        ({"payoff": "accuracy"}, 'must have a gradient; got "accuracy"'),
        ({"groups": [0, 1]}, "one label for each of the 60 examples"),
        ({"num_samples": 1}, "`num_samples` must be at least 2"),
        ({"num_checks": 1}, "`num_checks` must be 0"),
        ({"num_nodes": 2}, "`num_nodes` must be at least 3"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1"),
        ({"path": "prior"}, "`path` must be 'posterior'"),
        ({"noise": "none"}, "`noise` must be 'preactivations'"),
        ({"weighting": "owen"}, "`weighting` must be None"),
        ({"weighting": (0.0, 1.0)}, "pair \\(a, b\\) of positive numbers"),
        ({"weighting": lambda t: -t}, "one finite number ≥ 0 for each t"),
        ({"where": lambda name, leaf: False}, "at least 2 connections with a gate"),
        ({"payoff": "mse"}, "needs real targets"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        call(**settings)


def test_a_payoff_that_is_not_finite_names_t_and_the_example():
    def apply(params, x):
        return jnp.log(x[:, :1]) + x @ params["w"]

    point = mf.Ensemble.from_points((apply, {"w": jnp.ones((2, 3))}))
    x = jnp.ones((6, 2)).at[4, 0].set(-1.0)
    with pytest.raises(ValueError, match=r"t = 0 for example 4 of `data`"):
        mf.connection_values(point, (x, jnp.zeros(6, int)), key=KEY, num_checks=0)
