import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import oracles_prediction as oracle
import pytest
import scipy.optimize
import scipy.stats
from test_evaluate import ensemble_of

import meanfield as mf

KEY = jax.random.key(11)
EXAMPLES, FEATURES, SAMPLES = 19, 3, 6
# Uncertainties in parts of their own size, on top of float32's rounding.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(3)
    return rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)


def draws(ensemble, x):
    return oracle.outputs_of_draws(
        ensemble, x, key=KEY, num_samples=SAMPLES, chunk=EXAMPLES
    )


def predict(ensemble, x, likelihood):
    return mf.predict(ensemble, x, likelihood=likelihood, num_samples=SAMPLES, key=KEY)


def certain(ensemble):
    """The ensemble with every weight known: π = 0 and Ξ = 0."""
    weights = {
        name: mf.SpikeSlab(jnp.zeros(w.shape), w.mean, jnp.zeros(w.shape))
        for name, w in ensemble.weights().items()
    }
    return ensemble.with_weights(weights)


def test_class_uncertainty_is_that_of_a_slow_loop(x):
    ensemble = ensemble_of(4)
    prediction = predict(ensemble, x, mf.Categorical())
    probs = oracle.class_probs(draws(ensemble, x))
    total = oracle.entropy(probs.mean(0))
    aleatoric = oracle.entropy(probs).mean(0)
    np.testing.assert_allclose(prediction.mean, probs.mean(0), **CLOSE)
    np.testing.assert_allclose(prediction.total, total, **CLOSE)
    np.testing.assert_allclose(prediction.aleatoric, aleatoric, **CLOSE)
    np.testing.assert_allclose(prediction.epistemic, total - aleatoric, **CLOSE)
    assert prediction.total.shape == (EXAMPLES,)


@pytest.mark.parametrize("outputs", [1, 2])
def test_uncertainty_of_answers_is_that_of_a_slow_loop(x, outputs):
    ensemble = ensemble_of(outputs)
    prediction = predict(ensemble, x, mf.Bernoulli())
    probs = oracle.binary_probs(draws(ensemble, x))
    total = oracle.entropy(probs.mean(0))
    np.testing.assert_allclose(prediction.mean, probs.mean(0)[..., 1], **CLOSE)
    np.testing.assert_allclose(prediction.total, total, **CLOSE)
    aleatoric = oracle.entropy(probs).mean(0)
    np.testing.assert_allclose(prediction.aleatoric, aleatoric, **CLOSE)
    assert prediction.epistemic.shape == (EXAMPLES, outputs)


@pytest.mark.parametrize(
    ("likelihood", "law"),
    [
        (mf.Gaussian(scale=0.7), lambda z: oracle.gaussian(z, z, 0.7)),
        (
            mf.Gaussian(scale=(0.3, 2.0)),
            lambda z: oracle.gaussian(z, z, np.array([0.3, 2.0])),
        ),
        (mf.StudentT(df=5.0, scale=0.7), lambda z: oracle.student(z, z, 0.7, 5)),
        (mf.Poisson(), lambda z: oracle.poisson(z, np.round(z))),
    ],
    ids=["gaussian", "gaussian by output", "student", "poisson"],
)
def test_variance_of_real_targets_is_that_of_a_slow_loop(x, likelihood, law):
    ensemble = ensemble_of(2)
    prediction = predict(ensemble, x, likelihood)
    _, means, variances, _ = law(draws(ensemble, x))
    noise = np.broadcast_to(variances, means.shape).mean(0)
    np.testing.assert_allclose(prediction.mean, means.mean(0), **CLOSE)
    np.testing.assert_allclose(prediction.aleatoric, noise, **CLOSE)
    np.testing.assert_allclose(prediction.epistemic, means.var(0), **CLOSE)
    np.testing.assert_allclose(prediction.total, noise + means.var(0), **CLOSE)


def test_variance_with_a_scale_from_the_input(x):
    ensemble = ensemble_of(4)
    prediction = predict(ensemble, x, mf.Gaussian(scale="input"))
    location, raw = np.split(draws(ensemble, x), 2, axis=-1)
    noise = np.square(np.log1p(np.exp(raw)) + 1e-6).mean(0)
    np.testing.assert_allclose(prediction.aleatoric, noise, **CLOSE)
    np.testing.assert_allclose(prediction.epistemic, location.var(0), **CLOSE)


LIKELIHOODS = [
    mf.Categorical(),
    mf.Bernoulli(),
    mf.Gaussian(scale=0.1),
    mf.Gaussian(scale="input"),
    mf.Poisson(),
    mf.StudentT(),
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda one: repr(one)[:20])
def test_the_parts_are_not_negative_and_add_up(x, likelihood):
    prediction = predict(ensemble_of(4), x, likelihood)
    assert (prediction.aleatoric >= 0).all()
    assert (prediction.epistemic > 0).all()
    np.testing.assert_array_equal(
        prediction.total, prediction.aleatoric + prediction.epistemic
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda one: repr(one)[:20])
def test_an_ensemble_without_variance_has_no_epistemic_uncertainty(x, likelihood):
    ensemble = certain(ensemble_of(4))
    prediction = predict(ensemble, x, likelihood)
    # A difference of two equal entropies, computed apart, may leave their rounding.
    has_labels = isinstance(likelihood, mf.Categorical | mf.Bernoulli)
    assert (prediction.epistemic <= (2e-7 if has_labels else 0)).all()
    network = ensemble.mean_network()
    outputs = jax.vmap(network)(x)
    law = likelihood(outputs)
    mean = getattr(law, "base_dist", law).probs if has_labels else law.mean
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-6)


def test_a_small_spread_about_a_large_mean_keeps_its_digits():
    weight = mf.SpikeSlab([[0.0]], [[10_000.0]], [[0.25]])
    ensemble = mf.Ensemble.from_model((_product, jnp.ones((1, 1))), key=KEY)
    ensemble = ensemble.with_weights({"": weight})
    prediction = mf.predict(
        ensemble,
        np.ones((200, 1)),
        likelihood=mf.Gaussian(scale=1.0),
        num_samples=200,
        key=KEY,
    )
    # 200 examples with 200 draws each: the average of their variances is 0.25.
    errors = 0.25 * np.sqrt(2 / 199 / 200)
    found = prediction.epistemic.mean() * 200 / 199
    # Draws near 10,000 are rounded to 0.001.
    assert abs(found - 0.25) < 5 * errors + 0.001


def _product(weight, x):
    return x @ weight


def test_noise_of_infinite_variance_leaves_a_finite_epistemic_part(x):
    prediction = predict(ensemble_of(2), x, mf.StudentT(df=1.5))
    assert np.isinf(prediction.aleatoric).all()
    assert np.isinf(prediction.total).all()
    assert np.isfinite(prediction.epistemic).all()
    assert (prediction.epistemic > 0).all()


def test_a_certain_class_has_no_entropy():
    ensemble = mf.Ensemble.from_model((_product, jnp.ones((1, 2))), key=KEY)
    weight = mf.SpikeSlab(jnp.zeros((1, 2)), [[500.0, -500.0]], jnp.zeros((1, 2)))
    ensemble = ensemble.with_weights({"": weight})
    prediction = mf.predict(ensemble, np.ones((3, 1)), num_samples=4, key=KEY)
    np.testing.assert_array_equal(prediction.mean, [[1, 0]] * 3)
    np.testing.assert_array_equal(prediction.total, np.zeros(3))


def test_two_confident_opinions_are_epistemic_uncertainty():
    ensemble = mf.Ensemble.from_model((_product, jnp.ones((1, 2))), key=KEY)
    weight = mf.SpikeSlab(jnp.zeros((1, 2)), jnp.zeros((1, 2)), [[4e6, 4e6]])
    ensemble = ensemble.with_weights({"": weight})
    prediction = mf.predict(ensemble, np.ones((3, 1)), num_samples=500, key=KEY)
    # A coin's entropy, all of it between draws that are each almost certain.
    np.testing.assert_allclose(prediction.total, np.log(2), atol=0.02)
    assert (prediction.aleatoric < 0.01).all()


@pytest.mark.parametrize(
    ("likelihood", "quantile"),
    [
        (mf.Gaussian(scale=0.7), lambda z, t: scipy.stats.norm.cdf(t, z, 0.7)),
        (mf.StudentT(4.0, 0.7), lambda z, t: scipy.stats.t.cdf(t, 4.0, z, 0.7)),
    ],
    ids=["gaussian", "student"],
)
def test_intervals_are_quantiles_of_the_average_law(x, likelihood, quantile):
    ensemble = ensemble_of(2)
    prediction = mf.predict(
        ensemble, x, likelihood=likelihood, num_samples=SAMPLES, key=KEY, level=0.9
    )
    outputs = draws(ensemble, x)
    for tail, got in ((0.05, prediction.lower), (0.95, prediction.upper)):
        assert got.shape == (EXAMPLES, 2)
        below = lambda t, row, unit, z=outputs: quantile(z[:, row, unit], t).mean()
        for row, unit in ((0, 0), (7, 1)):
            excess = lambda t, r=row, u=unit, p=tail, f=below: f(t, r, u) - p
            expected = scipy.optimize.brentq(excess, -50, 50)
            np.testing.assert_allclose(got[row, unit], expected, rtol=1e-4, atol=1e-4)


def test_an_infinite_interval_leaves_those_of_other_rows(x):
    """Cauchy noise of a scale beyond float32 in one row: its quantiles are infinite."""

    def likelihood(outputs):
        scale = jnp.where(jnp.arange(len(outputs)) == 3, 1e38, 0.7)
        return numpyro.distributions.StudentT(4.0, outputs[:, 0], scale)

    ensemble = ensemble_of(1)
    settings = {"num_samples": SAMPLES, "key": KEY, "level": 0.9}
    prediction = mf.predict(ensemble, x, likelihood=likelihood, **settings)
    assert prediction.lower is not None
    assert prediction.upper is not None
    assert (prediction.lower[3], prediction.upper[3]) == (-np.inf, np.inf)
    plain = mf.predict(ensemble, x, likelihood=mf.StudentT(4.0, 0.7), **settings)
    for got, expected in (
        (prediction.lower, plain.lower),
        (prediction.upper, plain.upper),
    ):
        np.testing.assert_allclose(
            np.delete(got, 3), np.delete(expected, 3), rtol=1e-4, atol=1e-4
        )


def test_intervals_hold_the_share_of_targets_that_evaluate_measures(x):
    ensemble, likelihood = ensemble_of(1), mf.Gaussian(scale=0.5)
    y = np.random.default_rng(0).normal(size=(EXAMPLES, 1)).astype(np.float32)
    settings = {"likelihood": likelihood, "num_samples": SAMPLES, "key": KEY}
    prediction = mf.predict(ensemble, x, level=0.95, **settings)
    inside = (prediction.lower <= y) & (y <= prediction.upper)
    assert inside.mean() == mf.evaluate(ensemble, (x, y), **settings).coverage
    assert mf.predict(ensemble, x, **settings).lower is None


@pytest.mark.parametrize(
    ("likelihood", "level", "message"),
    [
        (mf.Gaussian(scale=0.5), 1.0, r"`level` must lie in \(0, 1\)"),
        (mf.Categorical(), 0.9, "unless targets are continuous.*Categorical"),
        (mf.Poisson(), 0.9, "unless targets are continuous.*Poisson"),
    ],
)
def test_intervals_that_do_not_exist_are_refused(x, likelihood, level, message):
    with pytest.raises(ValueError, match=message):
        mf.predict(ensemble_of(4), x, likelihood=likelihood, key=KEY, level=level)


def test_one_pass_agrees_with_draws_where_the_outputs_are_independent(x):
    ensemble = mf.Ensemble.from_model((_product, jnp.ones((FEATURES, 4))), key=KEY)
    settings = {"num_samples": 4000, "key": KEY}
    sampled = mf.predict(ensemble, x, **settings)
    one_pass = mf.predict(ensemble, x, reading="moments", **settings)
    # Both are averages of 4000 draws of the same law of the logits.
    np.testing.assert_allclose(one_pass.mean, sampled.mean, atol=0.03)
    np.testing.assert_allclose(one_pass.epistemic, sampled.epistemic, atol=0.03)
    with pytest.raises(ValueError, match="`reading` must be"):
        mf.predict(ensemble, x, reading="mean", **settings)


def test_one_pass_keeps_the_covariance_of_the_outputs():
    first = mf.SpikeSlab(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.full((1, 2), 4.0))
    # Both logits of each pair read the same noisy unit, with one sign or with two.
    mean = jnp.array([[3.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    second = mf.SpikeSlab(jnp.zeros((2, 3)), mean, jnp.full((2, 3), 0.01))
    ensemble = mf.Ensemble.from_model(
        (lambda p, x: jnp.tanh(x @ p[0]) @ p[1], (jnp.ones((1, 2)), jnp.ones((2, 3)))),
        key=KEY,
    )
    ensemble = ensemble.with_weights(dict(zip("01", (first, second), strict=True)))
    settings = {"num_samples": 4000, "key": KEY}
    x = np.ones((30, 1), np.float32)
    sampled = mf.predict(ensemble, x, **settings)
    one_pass = mf.predict(ensemble, x, reading="moments", **settings)
    for name in ("mean", "aleatoric", "epistemic"):
        both = getattr(sampled, name).mean(0), getattr(one_pass, name).mean(0)
        np.testing.assert_allclose(*both, atol=0.01)


def test_one_draw_has_no_epistemic_part(x):
    prediction = mf.predict(ensemble_of(4), x, num_samples=1, key=KEY)
    assert (prediction.epistemic == 0).all()


def test_inputs_may_be_a_tree_of_arrays():
    ensemble = mf.Ensemble.from_model((_sum_of_two, jnp.ones((2, 3))), key=KEY)
    x = {"left": np.ones((4, 2)), "right": np.zeros((4, 2), np.float32)}
    prediction = mf.predict(ensemble, x, key=KEY)
    assert prediction.mean.shape == (4, 3)
    x["right"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match="`x` must agree on the number of examples"):
        mf.predict(ensemble, x, key=KEY)


def _sum_of_two(weight, x):
    return (x["left"] + x["right"]) @ weight


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 2)), r"`x` must be a batch.*float32\[4, 2\]"),
        (np.zeros(3), r"`x` must be a batch.*float32\[3\]"),
        (np.float32(1), "`x` must be arrays with the examples along the first axis"),
        (np.zeros((0, 3)), "`x` must have at least one"),
        (np.array([[0, 1, np.inf]]), r"`x` must be finite.*row 0, position \(2,\)"),
        (np.array([["a", "b", "c"]]), "must be numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        mf.predict(ensemble_of(4), x, key=KEY)


def test_the_whole_prediction_is_reproducible(x):
    first, second = (predict(ensemble_of(4), x, mf.Categorical()) for _ in range(2))
    assert eqx.tree_equal(vars(first), vars(second))
