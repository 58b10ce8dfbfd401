"""Connections that share a spike: their law, their gates, their learning."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import meanfield as mf
from meanfield.learning.divergence import total_kl
from meanfield.learning.hyperpriors import BetaInclusion, integrate_inclusion
from meanfield.learning.parametrization import Projected, Unconstrained

KEY = jax.random.key(0)


def shared(axis=1, shape=(3, 4), seed=0):
    """Random laws of a matrix whose spikes are one along all axes but one."""
    rng = np.random.default_rng(seed)
    sizes = [n if i == axis else 1 for i, n in enumerate(shape)]
    return mf.SpikeSlab(
        rng.uniform(0.1, 0.9, sizes).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
        rng.uniform(0.05, 0.5, shape).astype(np.float32),
    )


def log_density(weights, spike, mean, var):
    """Of a group, by its definition, against counting at 0 and Lebesgue beside it."""
    if not np.any(weights):
        return math.log(spike)
    squares = np.square(weights - mean) / var
    return math.log(1 - spike) - 0.5 * np.sum(squares + np.log(2 * np.pi * var))


def draws_of(weight, number, seed=1):
    keys = jax.random.split(jax.random.key(seed), number)
    return np.asarray(jax.jit(jax.vmap(weight.sample))(keys))


def test_a_group_comes_and_goes_as_one():
    weight = shared()
    assert weight.shared == (0,)
    assert weight.inclusion_prob.shape == weight.mean.shape == (3, 4)
    drawn = draws_of(weight, 20_000)
    present = drawn != 0
    assert (present == present[:, :1]).all()
    rate, expected = present[:, 0].mean(0), 1 - np.asarray(weight.spike_prob)[0]
    error = np.sqrt(expected * (1 - expected) / len(drawn))
    assert (np.abs(rate - expected) <= 5 * error).all()
    mean, mean_error, var, var_error = oracles.mean_and_errors(drawn)
    assert (np.abs(weight.mean - mean) <= 5 * mean_error).all()
    assert (np.abs(weight.var - var) <= 5 * var_error).all()


def test_entropy_and_divergence_are_those_of_the_joint_law():
    weight = shared()
    prior = mf.SpikeSlab(jnp.full((1, 4), 0.3), 0.2 + 0 * weight.mean, 0.4 + weight.var)
    drawn = draws_of(weight, 5_000).astype(np.float64)
    own, other = (
        [np.asarray(part, np.float64) for part in jax.tree.leaves(law)]
        for law in (weight, prior)
    )
    logs = np.zeros((2, len(drawn)))
    for unit, (i, one) in itertools.product(range(4), enumerate(drawn)):
        for k, (spike, mean, var) in enumerate((own, other)):
            group = one[:, unit]
            logs[k, i] += log_density(
                group, spike[0, unit], mean[:, unit], var[:, unit]
            )
    for values, got in (
        (-logs[0], weight.entropy()),
        (logs[0] - logs[1], weight.kl(prior)),
    ):
        error = values.std() / math.sqrt(len(values))
        assert abs(float(got.sum()) - values.mean()) <= 5 * error
        assert got.shape == weight.shape


def test_a_spike_is_paid_for_once():
    weight, rho, scale = shared(), 0.2, 0.7
    prior = mf.SpikeSlabPrior(inclusion_prob=rho, slab_scale=scale)
    pi, m, xi = (np.asarray(part, np.float64) for part in jax.tree.leaves(weight))
    coin = pi * np.log(pi / (1 - rho)) + (1 - pi) * np.log((1 - pi) / rho)
    ratio = xi / scale**2
    slab = 0.5 * (ratio - 1 - np.log(ratio) + m**2 / scale**2)
    expected = coin.sum() + ((1 - pi) * slab).sum()
    assert float(total_kl({"w": weight}, prior)) == pytest.approx(expected, rel=1e-5)


def test_units_that_share_nothing_are_as_they_were():
    alone = shared(shape=(1, 4))
    assert alone.shared == ()
    many = jax.tree.map(lambda part: jnp.tile(part, (5, 1)), alone)
    one_each = jax.tree.map(lambda part: part[:1], many)
    np.testing.assert_array_equal(alone.sample(KEY), one_each.sample(KEY))


def test_corners_of_a_shared_law_are_exact():
    means, zeros = jnp.ones((2, 3)), jnp.zeros((2, 3))
    spike = jnp.array([[0.0, 0.3, 1.0]])
    point = mf.SpikeSlab(spike, means, zeros)
    coin = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    np.testing.assert_allclose(point.entropy().sum(0), [0, coin, 0], rtol=1e-6)
    nothing = mf.SpikeSlab(spike, zeros, zeros)
    np.testing.assert_array_equal(nothing.entropy(), zeros)
    with pytest.raises(ValueError, match="`resolution` must be 0 for connections"):
        point.entropy(0.1)
    for leaf in jax.tree.leaves(jax.grad(lambda w: w.entropy().sum())(point)):
        assert np.isfinite(leaf).all()


def test_laws_that_share_otherwise_are_refused():
    own = mf.SpikeSlab(*jnp.full((3, 3, 4), 0.5))
    with pytest.raises(
        ValueError, match="`prior` must share its spikes along the same axes"
    ):
        shared().kl(own)
    with pytest.raises(
        ValueError, match="`prior` must share its spikes along the same axes"
    ):
        own.kl(shared())
    with pytest.raises(ValueError, match="must have one shape"):
        mf.SpikeSlab(jnp.full((2, 4), 0.5), jnp.ones((3, 4)), jnp.ones((3, 4)))


def linear(w, x):
    return jax.vmap(lambda row: w @ row)(x)


def through_scan(w, x):
    step = lambda carry, row: (carry, w @ row)
    return jax.lax.scan(step, 0.0, x)[1]


def kernel_last(w, x):
    return 2 * jnp.einsum("ab,bc->ca", x, w.T / 2).T


CALLS = {"vmap": linear, "scan": through_scan, "einsum": kernel_last}


@pytest.mark.parametrize("name", CALLS)
def test_preactivations_have_the_covariance_of_drawn_networks(name):
    weight, x = shared(), np.random.default_rng(3).normal(size=(2, 4)).astype("float32")
    network = mf.mean_field(CALLS[name])
    keys = jax.random.split(KEY, 40_000)
    got = jax.jit(jax.vmap(lambda key: network(weight, x, key=key)))(keys)
    got = np.asarray(got, np.float64)
    drawn = draws_of(weight, 40_000).astype(np.float64)
    for i in range(2):
        assert_same_second_moments(got[:, i], drawn @ x[i])
    # The noise is fresh for every example.
    apart = got - got.mean(0)
    cross = np.einsum("sj,sk->jk", apart[:, 0], apart[:, 1]) / len(got)
    scale = got.std(0)
    assert (np.abs(cross) <= 5 * np.outer(*scale) / math.sqrt(len(got))).all()


def assert_same_second_moments(one, other):
    for a, b in ((one, other), (products(one), products(other))):
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert (np.abs(a.mean(0) - b.mean(0)) <= 5 * error).all()


def products(z):
    """Products of the deviations from the mean, all pairs."""
    z = z - z.mean(0)
    return (z[:, :, None] * z[:, None]).reshape(len(z), -1)


def test_the_covariance_is_the_equation():
    weight, x = shared(), jnp.array([[0.3, -1.0, 2.0, 0.7]])
    keys = jax.random.split(KEY, 40_000)
    network = mf.mean_field(linear)
    got = jax.vmap(lambda key: network(weight, x, key=key)[0])(keys)
    pi, m, xi = (np.asarray(part, np.float64) for part in jax.tree.leaves(weight))
    square = np.square(np.asarray(x[0], np.float64))
    cov = (m * (pi * (1 - pi)) * square) @ m.T
    cov += np.diag(((1 - pi) * xi * square).sum(1))
    found = products(np.asarray(got, np.float64))
    error = found.std(0) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - cov.ravel()) <= 5 * error).all()


def test_a_convolution_draws_one_gate_for_a_channel():
    weight = shared(axis=1, shape=(2, 3, 2, 2))
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype("float32")
    point = mf.SpikeSlab(weight.spike_prob, weight.slab_mean, 0 * weight.slab_var)
    conv = lambda w, x: jax.lax.conv(x, w, (1, 1), "VALID")
    keys = jax.random.split(KEY, 20_000)
    network = mf.mean_field(conv)
    got = jax.jit(jax.vmap(lambda key: network(point, image, key=key)))(keys)
    drawn = jax.vmap(lambda w: conv(w, image))(draws_of(point, 20_000))
    flat = lambda z: np.asarray(z, np.float64)[:, 0, :, :2, :2].reshape(len(z), -1)
    assert_same_second_moments(flat(got), flat(drawn))


def test_the_moments_reading_has_the_moments_of_each_preactivation():
    weight, x = shared(), jnp.array([[0.3, -1.0, 2.0, 0.7]])
    got = mf.mean_field(linear, reading="moments")(weight, x)
    whole = mf.SpikeSlab(1 - weight.inclusion_prob, weight.slab_mean, weight.slab_var)
    expected = mf.mean_field(linear, reading="moments")(whole, x)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(got.var, expected.var, rtol=1e-5)


def test_certain_spikes_are_the_ordinary_network_to_the_bit_and_silence():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    mean = shared().slab_mean
    certain = lambda p: mf.SpikeSlab(jnp.full((1, 4), p), mean, 0 * mean)
    network = mf.mean_field(linear)
    np.testing.assert_array_equal(network(certain(0.0), x, key=KEY), linear(mean, x))
    assert not network(certain(1.0), x, key=KEY).any()
    for p in (0.0, 1.0):
        slope = jax.grad(lambda w: network(w, x, key=KEY).sum())(certain(p))
        for leaf in jax.tree.leaves(slope):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda w, x: x[:, :3] @ w, "the axes are not those of one unit"),
        (lambda w, x: x @ jnp.tanh(w).T, "it may only enter a layer's product"),
        (lambda w, x: w @ w.T, "it may only enter a layer's product"),
        (lambda w, x: w[jnp.array([0, 1])], "it may only enter a layer's product"),
    ],
)
def test_what_has_no_such_reading_is_refused(call, reason):
    with pytest.raises(NotImplementedError, match=f"share a spike; {reason}"):
        mf.mean_field(call)(shared(), jnp.ones((2, 4)), key=KEY)
    with pytest.raises(
        ValueError, match="must not return a weight whose connections share"
    ):
        mf.mean_field(lambda w, x: w)(shared(), jnp.ones((2, 4)), key=KEY)


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    grouped: eqx.nn.Conv2d
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=key)
        self.grouped = eqx.nn.Conv2d(4, 4, 2, groups=4, key=key)
        self.cell = eqx.nn.GRUCell(4, 5, key=key)
        self.out = eqx.nn.Linear(5, 3, key=key)

    def __call__(self, x):
        maps = jax.nn.relu(self.grouped(jax.nn.relu(self.conv(x))))
        rows = maps.reshape(4, -1).T
        step = lambda h, row: (self.cell(row, h), None)
        return self.out(jax.lax.scan(step, jnp.zeros(5), rows)[0])


def test_every_layer_shares_spikes_by_the_units_it_reads():
    ensemble = mf.Ensemble.from_model(Net(KEY), key=KEY, spikes="unit")
    shapes = {n: w.spike_prob.shape for n, w in ensemble.weights().items()}
    assert shapes["conv/weight"] == (1, 2, 1, 1)
    assert shapes["grouped/weight"] == (4, 1, 2, 2)
    assert shapes["cell/weight_ih"] == (1, 4)
    assert shapes["cell/weight_hh"] == (1, 5)
    assert shapes["out/weight"] == (1, 5)
    assert ensemble(jnp.ones((3, 2, 6, 6)), key=KEY).shape == (3, 3)
    with pytest.raises(ValueError, match="`spikes` must be 'connection' or 'unit'"):
        mf.Ensemble.from_model(Net(KEY), key=KEY, spikes="layer")


def test_flax_layers_share_spikes_too():
    nnx = pytest.importorskip("flax.nnx")
    linen = pytest.importorskip("flax.linen")
    x = jnp.ones((2, 6, 6, 3))

    class Small(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.out = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.conv(x)).mean((1, 2)))

    ensemble = mf.Ensemble.from_model(Small(nnx.Rngs(0)), key=KEY, spikes="unit")
    shapes = {w.spike_prob.shape for w in ensemble.weights().values()}
    assert shapes == {(1, 1, 3, 1), (4, 1)}
    assert ensemble(x, key=KEY).shape == (2, 2)
    dense = linen.Dense(5)
    pair = (dense.apply, dense.init(KEY, jnp.ones((1, 4))))
    ensemble = mf.Ensemble.from_model(pair, key=KEY, spikes="unit")
    assert ensemble.weights()["params/kernel"].spike_prob.shape == (4, 1)
    assert ensemble(jnp.ones((2, 4)), key=KEY).shape == (2, 5)


@pytest.mark.parametrize("parametrization", [Projected(1e-8), Unconstrained()])
def test_learning_finds_the_inputs_that_matter(parametrization):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 8)).astype(np.float32)
    y = (x[:, 0] - 2 * x[:, 1] > 0).astype(np.int32)
    net = eqx.nn.MLP(8, 2, 16, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(
        net, key=KEY, spikes="unit", initial=mf.ensemble.critical(spike_prob=0.2)
    )
    result = mf.fit(
        ensemble,
        (x, y),
        key=KEY,
        epochs=60,
        optimizer=optax.adam(1e-2),
        batch_size=64,
        prior=mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned"),
        parametrization=parametrization,
        progress=False,
    )
    weights = result.ensemble.weights()
    present = 1 - np.asarray(weights["layers/0/weight"].spike_prob)[0]
    assert present[:2].min() > 0.9
    assert present[2:].max() < 0.5
    labels = mf.label_connections(result.ensemble, tolerance=0.1)
    for rule in ("draw", "labels", "median"):
        kind = {"labels": labels} if rule == "labels" else {}
        drawn = mf.deploy.sample_subnetworks(
            result.ensemble, 1, key=KEY, rule=rule, **kind
        )
        for mask in drawn[0].masks.values():
            assert (mask == mask[:1]).all()
        shrunk = mf.deploy.shrink(drawn[0].model, x[:32])
        hidden = np.flatnonzero(drawn[0].masks["layers/1/weight"][0])
        assert shrunk.model.layers[0].out_features == len(hidden)


def test_a_hyper_prior_counts_spikes():
    weight, beta = shared(), BetaInclusion(2.0, 5.0)
    alone = mf.SpikeSlab(weight.spike_prob, *jnp.ones((2, 1, 4)))
    for got, expected in zip(
        integrate_inclusion(beta, weight), integrate_inclusion(beta, alone), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
