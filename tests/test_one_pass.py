"""One pass with variances: linearised moments, and a scalar per layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.prediction import fit_scales

KEY = jax.random.key(0)


def drawn(number, *shape):
    rng = np.random.default_rng(number)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def slab(number, *shape, var=0.04, spike=0.2):
    mean = drawn(number, *shape) / shape[0] ** 0.5
    ones = jnp.ones(shape)
    return mf.SpikeSlab(spike * ones, mean, var * jnp.exp(drawn(number + 99, *shape)))


def layer_norm(z):
    z = z - z.mean(-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + 1e-5)


FUNCTIONS = {
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": lambda z: z * jax.nn.sigmoid(z),
    "relu": jax.nn.relu,
    "tanh turned over": lambda z: jnp.tanh(z.T + 1).T,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda z: jax.nn.logsumexp(z, axis=-1),
    "largest": lambda z: z.max(-1),
    "layer norm": layer_norm,
    "rms norm": lambda z: (
        z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + 1e-5)
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_linearised_moments_are_those_of_the_jacobian(name):
    function, z = FUNCTIONS[name], drawn(1, 3, 5)
    var = jnp.exp(drawn(2, 5))
    weight = mf.SpikeSlab(jnp.zeros((1, 5)), jnp.ones((1, 5)), var[None])
    # A look-up of weights: entries of mean 1 and variance v, moved to mean z.
    network = lambda w, rows, z: function(w[rows] + (z - 1))
    found = mf.mean_field(network, "delta")(weight, jnp.zeros(3, int), z)
    jacobian = jax.jacfwd(function)(z).reshape(-1, 15)
    expected = jnp.square(jacobian) @ jnp.tile(var, 3)
    np.testing.assert_allclose(found.mean, function(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.var.ravel(), expected, rtol=1e-4, atol=1e-6)


CONTRACTIONS = {
    "dense": (lambda w, x: x @ w, (6, 4), (3, 6), -1),
    "rows first": (lambda w, x: jnp.einsum("oi,bti->bto", w, x), (4, 6), (2, 3, 6), -1),
    "convolution": (
        lambda w, x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME"),
        (4, 3, 3, 3),
        (2, 3, 5, 5),
        1,
    ),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_factors_of_a_variance_keep_its_sums(name):
    network, shape, inputs, out = CONTRACTIONS[name]
    first, rest = drawn(3, shape[0], *[1] * (len(shape) - 1)), drawn(4, 1, *shape[1:])
    for var in (jnp.exp(first + rest), jnp.exp(drawn(7, *shape))):
        weight = mf.SpikeSlab(jnp.zeros(shape), drawn(6, *shape), var)
        fast, full = (
            mf.mean_field(network, reading)(weight, drawn(5, *inputs))
            for reading in ("delta", "moments")
        )
        np.testing.assert_allclose(fast.mean, full.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fast.var.sum(out), full.var.sum(out), rtol=1e-4)
        if jnp.allclose(jnp.log(var), first + rest, atol=1e-5):  # a product already
            np.testing.assert_allclose(fast.var, full.var, rtol=1e-4)


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(8)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=keys[0])
        self.layers = [
            eqx.nn.Linear(8, 6, key=keys[1]),
            eqx.nn.Linear(6, 3, key=keys[2]),
        ]

    def __call__(self, x):
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return self.layers[1](jax.nn.gelu(self.layers[0](x.mean(0))))


@pytest.fixture(scope="module")
def transformer():
    x = drawn(8, 40, 5, 8)
    ensemble = mf.Ensemble.from_model(Block(KEY), key=KEY, example=x[:1])
    return ensemble, x


def with_variance(ensemble, size):
    def change(weight):
        var = size * jnp.square(weight.slab_mean)
        return mf.SpikeSlab(jnp.zeros_like(var), weight.slab_mean, var)

    is_slab = lambda leaf: isinstance(leaf, mf.SpikeSlab)
    return jax.tree.map(
        lambda leaf: change(leaf) if is_slab(leaf) else leaf,
        ensemble.params,
        is_leaf=is_slab,
    )


def test_a_transformer_agrees_with_draws_where_variances_are_small(transformer):
    """Entries of a signal share noise, which one pass neglects: its error is bounded
    by a quarter of the total variance, and by a factor of 3 for a single output."""
    ensemble, x = transformer
    params = with_variance(ensemble, 1e-3)
    keys = jax.random.split(KEY, 4000)
    sample = eqx.filter_jit(
        lambda params, x: jax.lax.map(
            lambda key: ensemble.network(params, x, key=key), keys, batch_size=100
        )
    )
    draws = np.asarray(sample(params, x[:4]), np.float64)
    error = draws.std(0) / len(draws) ** 0.5
    for reading in ("delta", "moments"):
        found = eqx.filter_jit(mf.mean_field(ensemble.apply_fn, reading))(params, x[:4])
        assert (abs(draws.mean(0) - found.mean) < 5 * error + 1e-3).all()
        ratio = np.asarray(found.var) / draws.var(0)
        assert (ratio > 1 / 3).all()
        assert (ratio < 3).all()
        np.testing.assert_allclose(found.var.sum(), draws.var(0).sum(), rtol=0.25)


def test_without_variance_one_pass_is_the_mean_network(transformer):
    ensemble, x = transformer
    params = with_variance(ensemble, 0.0)
    found = mf.mean_field(ensemble.apply_fn, "delta")(params, x)
    points = eqx.tree_at(lambda e: e.params, ensemble, params).mean_params()
    expected = ensemble.apply_fn(points, x)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-5, atol=1e-6)
    assert not found.var.any()


@pytest.mark.parametrize("product", ["scores", "values"])
def test_a_product_of_two_random_signals_has_the_moments_of_its_draws(product):
    """Exact for one product: QKᵀ, and weights times values."""
    q, k = slab(10, 4, 3, var=0.3), slab(11, 4, 3, var=0.3)
    x = drawn(12, 5, 4)

    def network(params, x):
        left, right = x @ params["q"], x @ params["k"]
        return left @ right.T if product == "scores" else left.T @ right

    params = {"q": q, "k": k}
    found = mf.mean_field(network, "moments")(params, x)
    f = mf.mean_field(network)
    draw = eqx.filter_jit(
        lambda: jax.vmap(lambda key: f(params, x, key=key))(
            jax.random.split(KEY, 40000)
        )
    )
    draws = np.asarray(draw(), np.float64)
    number = len(draws)
    assert (abs(draws.mean(0) - found.mean) < 5 * draws.std(0) / number**0.5).all()
    squares = np.square(draws - draws.mean(0))
    spread = squares.std(0) / number**0.5
    assert (abs(squares.mean(0) - found.var) < 5 * spread).all()


def test_an_activation_between_moved_axes_is_integrated_entry_by_entry():
    net = eqx.nn.MLP(4, 3, 6, 2, activation=jax.nn.gelu, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    x = drawn(13, 7, 4)

    found = mf.mean_field(ensemble.apply_fn, "moments")(ensemble.params, x)
    weights = ensemble.weights()
    biases = [np.asarray(layer.bias) for layer in net.layers]

    def rows(params, x):
        for number, bias in enumerate(biases):
            x = x @ params[number].T + bias
            x = jax.nn.gelu(x) if number < 2 else x
        return x

    expected = mf.mean_field(rows, "moments")(list(weights.values()), x)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.var, expected.var, rtol=1e-4, atol=1e-7)


NETWORK = lambda params, x: jnp.tanh(x @ params["one"]) @ params["two"]
PARAMS = {"one": slab(20, 4, 6), "two": slab(21, 6, 3)}
X, Y = drawn(22, 60, 4), jnp.arange(60) % 3


def test_scales_are_factors_of_the_variance_after_each_contraction():
    read = lambda scales: mf.mean_field(NETWORK, "delta", scales=scales)(PARAMS, X)
    base = read(None)
    np.testing.assert_allclose(read({"two": 3.0}).var, 3 * base.var, rtol=1e-5)
    assert (read({"one": 3.0}).var > base.var).all()
    assert (read({"one": 3.0}).var < 3 * base.var).all()
    np.testing.assert_array_equal(read({"one": 3.0}).mean, base.mean)
    joint = mf.propagation.joint_output_distribution(NETWORK, "delta", {"two": 4.0})
    draw = joint(PARAMS, X[:2])
    draws = np.asarray(jax.vmap(draw)(jax.random.split(KEY, 20000)), np.float64)
    squares = np.square(draws - draws.mean(0))
    plain = mf.propagation.joint_output_distribution(NETWORK, "delta")(PARAMS, X[:2])
    others = np.asarray(jax.vmap(plain)(jax.random.split(KEY, 20000)), np.float64)
    # The same keys: every draw is twice as far from the mean.
    np.testing.assert_allclose(
        squares.mean(0), 4 * np.square(others - others.mean(0)).mean(0), rtol=0.03
    )


def test_fitted_scales_raise_the_likelihood_of_the_data_they_are_fitted_on():
    ensemble = mf.Ensemble.from_points(
        (NETWORK, {k: p.mean for k, p in PARAMS.items()})
    )
    ensemble = eqx.tree_at(lambda e: e.params, ensemble, PARAMS)
    settings = {"key": KEY, "num_samples": 64}
    scales = fit_scales(ensemble, (X, Y), steps=40, key=KEY)
    assert set(scales) == {"one", "two"}
    scored = [
        mf.evaluate(ensemble, (X, Y), reading="delta", scales=own, **settings)
        for own in (None, scales)
    ]
    assert scored[1].nll < scored[0].nll
    predicted = mf.predict(ensemble, X, reading="delta", scales=scales, **settings)
    np.testing.assert_allclose(predicted.mean.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mf.mean_field(NETWORK, "delta", scales={"three": 1.0})(PARAMS, X),
            "`scales` must name random parameters",
        ),
        (lambda: mf.mean_field(NETWORK, scales={}), "`scales` must be left out"),
        (lambda: mf.mean_field(NETWORK, "exact"), "or 'delta'; got 'exact'"),
    ],
)
def test_scales_that_cannot_act_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reading": "sampled"}, "`reading` must be 'moments' or 'delta'"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_fits_that_cannot_be_are_refused(given, message):
    ensemble = mf.Ensemble.from_points(
        (NETWORK, {k: p.mean for k, p in PARAMS.items()})
    )
    with pytest.raises(ValueError, match=message):
        fit_scales(ensemble, (X, Y), key=KEY, **given)
