"""Weights drawn once per call: their gradient, their ensembles, what is scored."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import meanfield as mf
from meanfield.propagation.drawing import draw_weight

KEY = jax.random.key(0)


def slab(*shape, seed=0, low=0.1, high=0.6):
    rng = np.random.default_rng(seed)
    return mf.SpikeSlab(
        jnp.asarray(rng.uniform(low, high, shape), jnp.float32),
        jnp.asarray(rng.normal(0.3, 1, shape), jnp.float32),
        jnp.asarray(rng.uniform(0.05, 0.6, shape), jnp.float32),
    )


def numbers(*shape, seed=9):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0.4, 1, shape), jnp.float32)


def many(function, number=20_000, seed=1):
    keys = jax.random.split(jax.random.key(seed), number)
    return jax.device_get(jax.jit(jax.vmap(function))(keys))


def shared(shape=(3, 2)):
    whole = slab(*shape)
    return mf.SpikeSlab(whole.spike_prob[:, :1], whole.slab_mean, whole.slab_var)


@pytest.mark.parametrize("make", [lambda: slab(3, 2), shared])
def test_a_draw_is_a_spike_or_a_slab_with_the_moments_of_the_weight(make):
    weight = make()
    drawn = many(lambda key: draw_weight(weight, key))
    zeros = (drawn == 0).mean(0)
    wanted = np.broadcast_to(weight.spike_prob, weight.shape)
    error = np.sqrt(wanted * (1 - wanted) / len(drawn))
    assert (np.abs(zeros - wanted) <= 5 * error).all()
    mean, mean_error, var, var_error = oracles.mean_and_errors(drawn)
    assert (np.abs(mean - weight.mean) <= 5 * mean_error).all()
    assert (np.abs(var - weight.var) <= 5 * var_error).all()
    if weight.shared:
        absent = drawn == 0
        np.testing.assert_array_equal(absent, np.repeat(absent[..., :1], 2, -1))


CURVATURE = numbers(6, 6, seed=2)
SLOPE = numbers(6, seed=3)


def quadratic(w):
    w = w.reshape(-1)
    return w @ CURVATURE @ w / 2 + SLOPE @ w


def expected_quadratic(weight):
    """⟨½ wᵀ C w + b w⟩ from means, variances and the covariance of shared spikes."""
    mean, covariance = weight.mean.reshape(-1), jnp.diag(weight.var.reshape(-1))
    if weight.shared:
        pi = jnp.broadcast_to(weight.spike_prob, weight.shape).reshape(-1)
        m = weight.slab_mean.reshape(-1)
        together = jnp.kron(jnp.eye(3), jnp.ones((2, 2))) - jnp.eye(6)
        covariance += together * (pi * (1 - pi))[:, None] * jnp.outer(m, m)
    second = covariance + jnp.outer(mean, mean)
    return (CURVATURE * second).sum() / 2 + SLOPE @ mean


@pytest.mark.parametrize("make", [lambda: slab(3, 2), shared])
def test_the_gradient_is_exact_for_quadratic_losses(make):
    weight = make()
    wanted = jax.grad(expected_quadratic)(weight)
    got = many(lambda key: jax.grad(lambda w: quadratic(draw_weight(w, key)))(weight))
    for one, exact in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        mean, error, *_ = oracles.mean_and_errors(one)
        assert (np.abs(mean - exact) <= 5 * error + 1e-5).all()


def test_the_gradient_of_a_slab_without_spike_is_exact_for_every_loss():
    weight = slab(4, low=0, high=0)
    loss = lambda w: jnp.tanh(2 * w).sum() + jnp.exp(w / 2).sum()
    points, weights = np.polynomial.hermite_e.hermegauss(80)

    def expected(w):
        z = w.slab_mean + jnp.sqrt(w.slab_var) * points[:, None]
        value = jnp.tanh(2 * z) + jnp.exp(z / 2)
        return (weights[:, None] * value).sum() / weights.sum()

    wanted = jax.grad(expected)(weight)
    got = many(lambda key: jax.grad(lambda w: loss(draw_weight(w, key)))(weight))
    for name in ("slab_mean", "slab_var"):
        mean, error, *_ = oracles.mean_and_errors(getattr(got, name))
        assert (np.abs(mean - getattr(wanted, name)) <= 5 * error + 1e-5).all()


@pytest.mark.parametrize("spike", [0.0, 1.0])
@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("make", [lambda: slab(3, 2), shared])
def test_at_the_corners_values_and_gradients_are_exact_and_finite(spike, width, make):
    whole = make()
    weight = mf.SpikeSlab(
        jnp.full_like(whole.spike_prob, spike),
        whole.slab_mean,
        jnp.full_like(whole.slab_var, width),
    )
    drawn, pull = jax.vjp(lambda w: draw_weight(w, KEY), weight)
    (gradient,) = pull(jnp.ones_like(drawn))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if spike == 1:
        np.testing.assert_array_equal(drawn, jnp.zeros((3, 2)))
    elif width == 0:
        np.testing.assert_array_equal(drawn, weight.slab_mean)
        np.testing.assert_array_equal(gradient.slab_mean, jnp.ones((3, 2)))


@jax.custom_jvp
def scaled(w, x):
    return x @ w


scaled.defjvp(lambda p, t: (scaled(*p), 100 * (p[1] @ t[0]) + t[1] @ p[0]))


@jax.custom_vjp
def clipped(w, x):
    return x @ w


clipped.defvjp(
    lambda w, x: (clipped(w, x), (w, x)),
    lambda kept, g: (100 * (kept[1].T @ g), g @ kept[0].T),
)


@pytest.mark.parametrize(
    ("function", "noise"),
    [(scaled, "preactivations"), (scaled, "weights"), (clipped, "weights")],
)
def test_a_derivative_keeps_the_form_its_author_gave_it(function, noise):
    certain = mf.SpikeSlab(jnp.zeros((3, 2)), numbers(3, 2), jnp.zeros((3, 2)))
    x = numbers(4, 3)
    network = mf.mean_field(lambda w, x: jnp.tanh(function(w, x)), noise=noise)
    ours = jax.grad(lambda w: network(w, x, key=KEY).sum())(certain).slab_mean
    plain = jax.grad(lambda w: jnp.tanh(function(w, x)).sum())(certain.slab_mean)
    np.testing.assert_allclose(ours, plain, rtol=1e-5)


def test_noise_may_be_chosen_leaf_by_leaf():
    params = {"a": slab(3, 4), "b": slab(4, 2, seed=1)}
    x = jnp.broadcast_to(numbers(1, 3), (6, 3))
    hidden = lambda p, x: (x @ p["a"], jnp.ones((6, 4)) * x[:, :1] @ p["b"])
    for noise in ({"a": "weights"}, lambda n: "weights" if n == "a" else KINDS[0]):
        once, each = mf.mean_field(hidden, noise=noise)(params, x, key=KEY)
        assert len(np.unique(np.asarray(once)[:, 0])) == 1
        assert len(np.unique(np.asarray(each)[:, 0])) == 6


KINDS = ("preactivations", "weights")


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("both", "`noise` must be 'preactivations' or 'weights'; got 'both'"),
        ({"a": "none"}, "got 'none' for 'a'"),
        ({"c": "weights"}, r"`noise` must name random .*; got \['c'\]"),
    ],
)
def test_unknown_noise_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        mf.mean_field(lambda p, x: x @ p["a"] @ p["b"], noise=noise)(
            {"a": slab(3, 4), "b": slab(4, 2)}, numbers(2, 3), key=KEY
        )
    with pytest.raises(ValueError, match="the moments reading, which draws nothing"):
        mf.mean_field(lambda w, x: x @ w, reading="moments", noise="weights")


class Adapted(eqx.Module):
    """A convolution, and a dense layer merged from two factors."""

    kernel: jax.Array
    down: jax.Array
    up: jax.Array

    def __call__(self, x):
        maps = jax.nn.relu(jnp.convolve(x, self.kernel[0], mode="valid"))
        return maps @ (self.down @ self.up)


X, Y = numbers(40, 6), jnp.arange(40) % 3


def adapted(noise="weights"):
    model = Adapted(numbers(1, 3), numbers(4, 2, seed=1), numbers(2, 3, seed=2))
    return mf.Ensemble.from_model(model, noise=noise)


def test_an_ensemble_with_drawn_weights_is_learned_and_keeps_its_noise():
    with pytest.raises(mf.UnsupportedPrimitiveError, match='noise="weights"'):
        adapted("preactivations")(X, key=KEY)
    ensemble = adapted("preactivations").with_noise("weights")
    assert ensemble.drawn == ("kernel", "down", "up")
    result = mf.fit(
        adapted("preactivations"),
        (X, Y),
        noise="weights",
        key=KEY,
        epochs=3,
        batch_size=20,
        accumulate=2,
        validation=(X, Y),
        prior=mf.SpikeSlabPrior(inclusion_prob=0.5),
        progress=False,
    )
    assert result.ensemble.drawn == ensemble.drawn
    assert np.isfinite(result.history["val_nll"]).all()
    scores = mf.evaluate(result.ensemble, (X, Y), key=KEY, num_samples=4)
    assert np.isfinite(scores.nll)
    for before, after in zip(
        jax.tree.leaves(ensemble.weights()),
        jax.tree.leaves(result.ensemble.weights()),
        strict=True,
    ):
        assert (before != after).any()


def test_one_call_is_one_subnetwork_for_the_whole_batch():
    ensemble = adapted()
    x = jnp.broadcast_to(X[:1], (5, 6))
    same = ensemble(x, key=KEY)
    np.testing.assert_allclose(same, jnp.broadcast_to(same[:1], (5, 3)), rtol=1e-5)
    keys = jax.random.split(KEY, 5)
    each = jax.vmap(lambda row, key: ensemble(row[None], key=key)[0])(x, keys)
    assert len(np.unique(np.asarray(each)[:, 0])) == 5


def test_readings_are_counted_for_one_example():
    ensemble = adapted()
    assert ensemble.shared_readings is None
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv1d(1, 2, 3, key=KEY),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(8, 3, key=KEY),
        ]
    )
    ensemble = mf.Ensemble.from_model(net, example=X[:, None])
    assert ensemble.shared_readings == ("layers/0/weight", "layers/0/bias")
    found = ensemble.readings(jnp.ones((1, 1, 6)))
    assert found["layers/0/weight"] == found["layers/0/bias"] == 4
    assert found["layers/2/weight"] == 1


def test_scores_of_subnetworks_are_those_of_the_networks_that_are_drawn():
    ensemble, num_samples = adapted(), 6
    keys = jax.random.split(KEY, num_samples)
    logits = jnp.stack([jax.vmap(ensemble.sample(key))(X) for key in keys])
    each = np.asarray(jax.nn.softmax(logits), np.float64)
    probs = each.mean(0)
    settings = {"key": KEY, "num_samples": num_samples, "of": "subnetworks"}
    prediction = mf.predict(ensemble, X, **settings)
    np.testing.assert_allclose(prediction.mean, probs, rtol=1e-4, atol=1e-6)
    inner = -(each * np.log(each)).sum(-1).mean(0)
    np.testing.assert_allclose(prediction.aleatoric, inner, rtol=1e-4, atol=1e-6)
    metrics = mf.evaluate(ensemble, (X, Y), **settings)
    assert metrics.accuracy == pytest.approx((probs.argmax(-1) == Y).mean())
    nll = -np.log(probs[np.arange(40), Y]).mean()
    assert metrics.nll == pytest.approx(nll, rel=1e-5)


def test_every_chunk_of_examples_meets_the_same_subnetworks(monkeypatch):
    from meanfield.prediction import predictive

    settings = {"key": KEY, "num_samples": 3, "of": "subnetworks"}
    whole = mf.predict(adapted(), X, **settings)
    monkeypatch.setattr(predictive, "CHUNK", 16)
    parts = mf.predict(adapted(), X, **settings)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-5, atol=1e-6)


def test_unknown_subjects_of_a_score_are_refused():
    with pytest.raises(ValueError, match="`of` must be 'ensemble' or 'subnetworks'"):
        mf.evaluate(adapted(), (X, Y), key=KEY, of="networks")
    with pytest.raises(ValueError, match="the moments reading draws no networks"):
        mf.predict(adapted(), X, key=KEY, of="subnetworks", reading="moments")
