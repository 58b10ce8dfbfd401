"""The moments reading of what stands between two contractions, against draws."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax

import meanfield as mf
from meanfield.propagation import deferred

FEATURES, BLOCKS, DRAWS = 12, 20, 1500
RNG = np.random.default_rng(4)
PAIRS = jnp.array([0, 1, 0, 1])
MEAN = RNG.normal(size=(1, FEATURES)).astype(np.float32)
VAR = RNG.uniform(0.05, 1.5, size=(1, FEATURES)).astype(np.float32)

NORM = eqx.tree_at(
    lambda norm: (norm.weight, norm.bias),
    eqx.nn.LayerNorm(FEATURES),
    (jnp.linspace(0.5, 2.0, FEATURES), jnp.ones(FEATURES)),
)
FLAX = linen.LayerNorm()
FLAX_PARAMS = jax.tree.map(
    lambda a: a + jnp.linspace(0, 0.5, FEATURES),
    FLAX.init(jax.random.key(0), jnp.ones((1, FEATURES))),
)


def image(z):
    return z.reshape(1, 1, 3, 4)


ENTRYWISE = {
    "relu": jax.nn.relu,
    "leaky relu": lambda z: jax.nn.leaky_relu(z, 0.2),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "exact gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "residual sum": lambda z: z + jnp.tanh(z) * z,
}
MIXING = {
    "softmax": jax.nn.softmax,
    "softmax over columns": lambda z: jax.nn.softmax(z.reshape(4, 3) / 2, axis=0),
    "masked softmax": lambda z: jax.nn.softmax(
        jnp.where(jnp.arange(FEATURES) > 3, z, -1e30)
    ),
    "softmax without a shift": lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True),
    "log softmax": lambda z: jax.nn.log_softmax(2 * z + 1),
    "logsumexp": lambda z: jax.nn.logsumexp(z, axis=-1),
    "logsumexp, axis kept": lambda z: jax.nn.logsumexp(z, axis=-1, keepdims=True),
    "logsumexp without a shift": lambda z: jnp.log(jnp.exp(z).sum(-1)),
    "maximum": lambda z: z.max(-1),
    "pool after relu": lambda z: jax.vmap(eqx.nn.MaxPool2d(2, 2, padding=1))(
        image(jax.nn.relu(z))
    ),
    "Flax pool after tanh": lambda z: linen.max_pool(
        jnp.tanh(z).reshape(1, 3, 4, 1), (2, 2), (1, 2)
    ),
    "layer norm": jax.vmap(NORM),
    "Flax layer norm": lambda z: FLAX.apply(FLAX_PARAMS, z),
    "layer norm by hand": lambda z: (
        (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-6)
    ),
    "group norm": jax.vmap(eqx.nn.GroupNorm(3, FEATURES)),
    "root-mean-square norm": jax.vmap(eqx.nn.RMSNorm(FEATURES)),
    "sums over the edges of a graph": lambda z: jax.ops.segment_sum(
        jax.nn.relu(z).reshape(6, 2)[SENDERS], RECEIVERS, 6
    ),
    "messages of two ends": lambda z: jnp.concatenate(
        [z.reshape(6, 2)[SENDERS], z.reshape(6, 2)[RECEIVERS]], axis=1
    ),
    "written into zeros": lambda z: jnp.zeros((2, 15)).at[:1, 2:14].set(z),
    "written into a slice": lambda z: lax.dynamic_update_slice(
        jnp.ones((3, 14)), jnp.tanh(z), (1, 1)
    ),
    "cumulative sum": lambda z: jnp.cumsum(jax.nn.relu(z), -1),
    "average pool": lambda z: jax.vmap(eqx.nn.AvgPool2d(2, 1))(image(jax.nn.relu(z))),
}
SENDERS, RECEIVERS = jnp.array([0, 1, 2, 3, 1, 5]), jnp.array([1, 2, 3, 0, 0, 0])
FUNCTIONS = ENTRYWISE | MIXING


def reading(function, m, v):
    """Moments of function(z), z ~ N(m, v), through the public transformation."""
    weight = mf.SpikeSlab(jnp.zeros_like(m), m, v)
    network = mf.mean_field(lambda w, x: function(x @ w), reading="moments")
    return network(weight, jnp.ones((1, 1)))


def judged(moments, scale):
    """One number that holds every mean and variance, in units of their scales."""
    ramp = jnp.linspace(0.5, 1.5, scale.size).reshape(scale.shape)
    parts = moments.mean / scale + moments.var / jnp.square(scale)
    return (ramp * parts).sum()


@pytest.mark.optimized  # Else JAX's gradient of a maximum over draws is NaN.
@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_and_gradients_agree_with_draws_within_five_errors(name, monkeypatch):
    function = FUNCTIONS[name]
    monkeypatch.setattr(deferred, "_by_draws", _refuse)
    noise = jax.random.normal(jax.random.key(1), (BLOCKS, DRAWS, 1, FEATURES))

    def drawn(m, v, noise):
        values = jax.vmap(function)(m + jnp.sqrt(v) * noise)
        return mf.propagation.Moments(values.mean(0), values.var(0, ddof=1))

    @jax.jit
    def compare(m, v):
        ours = reading(function, m, v)
        blocks = jax.lax.map(lambda e: drawn(m, v, e), noise)
        scale = jax.lax.stop_gradient(jnp.where(ours.var > 0, ours.std, 1))
        one = lambda e: jax.grad(lambda *p: judged(drawn(*p, e), scale), (0, 1))(m, v)
        slopes = jax.grad(lambda *p: judged(reading(function, *p), scale), (0, 1))(m, v)
        return (ours, slopes), (blocks, jax.lax.map(one, noise))

    ours, blocks = compare(MEAN, VAR)
    for got, draws in zip(jax.tree.leaves(ours), jax.tree.leaves(blocks), strict=True):
        draws = np.asarray(draws, np.float64)
        error = draws.std(0, ddof=1) / np.sqrt(BLOCKS)
        # 20 blocks: the t distribution is wider than the normal one.
        assert (np.abs(got - draws.mean(0)) <= 5.5 * error + 1e-4).all()


def _refuse(*_):
    raise AssertionError("the function was not recognised")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_variance_the_reading_is_the_network_itself(name):
    function = FUNCTIONS[name]
    zero = jnp.zeros_like(VAR)
    total = lambda m, v: sum(x.sum() for x in jax.tree.leaves(reading(function, m, v)))
    ours = jax.jit(lambda m: reading(function, m, zero))(MEAN)
    slopes = jax.jit(jax.grad(total, (0, 1)))(MEAN, zero)
    np.testing.assert_allclose(ours.mean, function(MEAN), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ours.var, 0, atol=1e-12)
    assert all(jnp.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: jnp.exp(z) / jnp.exp(z.T).sum(0),  # other rows' sums
        lambda z: jnp.exp(z) / jnp.exp(2 * z).sum(-1, keepdims=True),
        lambda z: z - jnp.log(jnp.exp(z).sum(0)),
        lambda z: jnp.log(jnp.exp(z - 1).sum(-1)) + z[:, 0],
        lambda z: jnp.tanh(-z).max(-1) + jnp.abs(z).max(-1),
        lambda z: (z - z.mean(0)) / jnp.sqrt(z.var(-1, keepdims=True) + 0.1),
        lambda z: (z - z.mean(-1)) / jnp.sqrt(z.var(-1) + 0.1),
        lambda z: z / jnp.sqrt(z.var(-1, keepdims=True) + 0.1),
        lambda z: (z - z.mean(-1, keepdims=True)) * (z.var(-1, keepdims=True) + 0.1),
        lambda z: lax.top_k(z, 2)[0],
        lambda z: jnp.sort(z, -1),
        lambda z: jnp.take_along_axis(z, lax.top_k(-z, 1)[1], -1),
        lambda z: jax.ops.segment_max(z[jnp.array([0, 1, 3])], jnp.array([1, 0, 1]), 2),
        lambda z: jnp.exp(z) / jax.ops.segment_sum(jnp.exp(z), PAIRS, 2)[PAIRS],
    ],
)
def test_what_only_looks_like_a_form_is_integrated_as_it_is(function):
    m = jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)
    v = jnp.full((4, 4), 0.3)
    weight = mf.SpikeSlab(jnp.zeros_like(m), m, v)
    network = mf.mean_field(lambda w, x: function(x @ w), reading="moments")
    got = jax.jit(network)(weight, jnp.eye(4))
    noise = jax.random.normal(jax.random.key(2), (20_000, 4, 4))
    values = np.asarray(jax.vmap(function)(m + jnp.sqrt(v) * noise), np.float64)
    # 256 antithetic draws: a sixteenth of a deviation is one standard error.
    assert (np.abs(got.mean - values.mean(0)) < 0.3 * values.std(0)).all()
    assert (np.abs(got.std / values.std(0) - 1) < 0.5).all()


def test_a_choice_by_another_layer_mixes_both_cases():
    m = jnp.asarray(RNG.normal(size=(3, 1, FEATURES)), jnp.float32)
    v = jnp.asarray(RNG.uniform(0.1, 1.0, size=m.shape), jnp.float32)
    weights = [mf.SpikeSlab(jnp.zeros_like(a), a, b) for a, b in zip(m, v, strict=True)]
    choose = lambda g, a, b: jnp.where(g > 0.2, jnp.tanh(a), b)
    network = lambda w, x: choose(*(x @ part for part in w))
    got = mf.mean_field(network, reading="moments")(weights, jnp.ones((1, 1)))
    z = m + jnp.sqrt(v) * jax.random.normal(jax.random.key(5), (50_000, *m.shape))
    values = np.asarray(jax.vmap(lambda z: choose(*z))(z), np.float64)
    mean, mean_error, var, var_error = oracles.mean_and_errors(values)
    assert (np.abs(got.mean - mean) < 5 * mean_error).all()
    assert (np.abs(got.var - var) < 5 * var_error).all()


def test_steps_of_a_loop_with_their_own_biases_are_the_layers_one_after_another():
    key = jax.random.key(6)
    w = mf.SpikeSlab(
        jnp.full((3, 4, 4), 0.1), jax.random.normal(key, (3, 4, 4)), jnp.ones((3, 4, 4))
    )
    b = mf.SpikeSlab(jnp.zeros((3, 4)), jnp.ones((3, 4)), jnp.full((3, 4), 0.3))
    layer = lambda h, p: jnp.tanh(h @ p[0] + p[1])
    looped = lambda p, x: lax.scan(lambda h, row: (layer(h, row), None), x, p)[0]

    def unrolled(layers, x):
        for p in layers:
            x = layer(x, p)
        return x

    layers = [jax.tree.map(lambda a, n=n: a[n], (w, b)) for n in range(3)]
    got, expected = (
        mf.mean_field(network, reading="moments")(params, jnp.ones((2, 4)))
        for network, params in ((looped, (w, b)), (unrolled, layers))
    )
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.var, expected.var, rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.argmax(-1),
        lambda z: lax.top_k(z, 2)[1],
        lambda z: (z @ jnp.ones((FEATURES, 3)))[:, z.argmax(-1)],
    ],
)
def test_an_integer_computed_from_random_numbers_is_refused(function):
    with pytest.raises(mf.UnsupportedPrimitiveError, match="integer computed from"):
        reading(function, MEAN, VAR)


def test_a_residual_sum_across_a_contraction_is_off_by_the_covariance_it_states():
    key = jax.random.split(jax.random.key(3), 3)
    n = 6
    first = mf.SpikeSlab(
        jnp.zeros((1, n)),
        jax.random.normal(key[0], (1, n)),
        jax.random.uniform(key[1], (1, n), minval=0.2, maxval=1.0),
    )
    second = mf.SpikeSlab(
        jnp.zeros((n, n)), jax.random.normal(key[2], (n, n)) / 2, jnp.full((n, n), 0.05)
    )

    def network(params, x):
        z = x @ params[0]
        return z + jnp.tanh(z) @ params[1]

    params, one = (first, second), jnp.ones((1, 1))
    got = mf.mean_field(network, reading="moments")(params, one)
    draw = lambda key: mf.mean_field(network)(params, one, key=key)
    draws = jax.lax.map(draw, jax.random.split(key[0], 100_000), batch_size=5000)
    draws = np.asarray(draws, np.float64)[:, 0]
    noise = np.random.default_rng(0).normal(size=(200_000, n))
    z = np.asarray(first.mean) + np.sqrt(np.asarray(first.var)) * noise
    covariance = ((z - z.mean(0)) * np.tanh(z)).mean(0)
    twice = 2 * np.diag(np.asarray(second.mean)) * covariance
    # x @ W: the weight of unit i's own input is W_ii.
    error = 5 * draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(got.mean[0] - draws.mean(0)) < error).all()
    squares = (draws - draws.mean(0)) ** 2
    error = 5 * squares.std(0) / np.sqrt(len(draws)) + 0.02 * np.abs(twice)
    assert (np.abs(got.var[0] + twice - squares.mean(0)) < error).all()
