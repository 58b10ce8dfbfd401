import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import oracles_prediction as oracle
import pytest

import meanfield as mf
from meanfield.prediction import predictive

KEY = jax.random.key(11)
EXAMPLES, FEATURES, SAMPLES = 19, 3, 5


def ensemble_of(outputs):
    net = eqx.nn.MLP(FEATURES, outputs, 6, 1, key=jax.random.key(0))

    def start(name, value, fan_in, key):
        mean = jax.random.normal(key, value.shape) / np.sqrt(fan_in)
        var = jnp.full_like(value, 0.3 / fan_in)
        return mf.SpikeSlab(jnp.full_like(value, 0.2), mean, var)

    return mf.Ensemble.from_model(net, key=jax.random.key(1), initial=start)


@pytest.fixture(scope="module")
def ensembles():
    return {outputs: ensemble_of(outputs) for outputs in (1, 2, 4)}


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(3)
    return rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)


def draws(ensemble, x, chunk=EXAMPLES):
    return oracle.outputs_of_draws(
        ensemble, x, key=KEY, num_samples=SAMPLES, chunk=chunk
    )


def scores(ensemble, x, y, likelihood):
    return mf.evaluate(
        ensemble, (x, y), likelihood=likelihood, num_samples=SAMPLES, key=KEY
    )


def assert_equal_scores(metrics, expected):
    kept = metrics.to_dict().keys() - {"by_output"}
    assert kept == expected.keys() | {"num_samples"}
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, rel=2e-5, abs=1e-6), name
        assert isinstance(getattr(metrics, name), float)


def test_class_scores_are_those_of_a_slow_loop(ensembles, x):
    labels = np.arange(EXAMPLES) % 4
    metrics = scores(ensembles[4], x, labels, mf.Categorical())
    probs = oracle.class_probs(draws(ensembles[4], x))
    assert_equal_scores(metrics, oracle.class_scores(probs, labels))
    assert metrics.num_samples == SAMPLES


@pytest.mark.parametrize("shape", [(EXAMPLES,), (EXAMPLES, 1)])
@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_scores_of_one_answer_are_those_of_a_slow_loop(ensembles, x, shape, dtype):
    answers = np.arange(EXAMPLES) % 3 == 0
    metrics = scores(
        ensembles[1], x, answers.astype(dtype).reshape(shape), mf.Bernoulli()
    )
    probs = oracle.binary_probs(draws(ensembles[1], x)[..., 0])
    assert_equal_scores(metrics, oracle.class_scores(probs, answers.astype(int)))


def test_scores_of_several_answers_pool_them_but_the_nll_sums_them(ensembles, x):
    answers = (np.arange(2 * EXAMPLES) % 3 == 0).astype(int).reshape(EXAMPLES, 2)
    metrics = scores(ensembles[2], x, answers, mf.Bernoulli())
    probs = oracle.binary_probs(draws(ensembles[2], x))
    chosen = np.take_along_axis(probs, answers[None, :, :, None], -1)[..., 0]
    nll = -np.mean(np.log(chosen.prod(-1).mean(0)))
    flat = probs.reshape(SAMPLES, -1, 2)
    expected = oracle.class_scores(flat, answers.ravel()) | {"nll": nll}
    assert_equal_scores(metrics, expected)
    for j, own in enumerate(metrics.by_output):
        expected = oracle.class_scores(probs[:, :, j], answers[:, j])
        expected.pop("nll")
        assert own == pytest.approx(expected, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_gaussian_scores_with_one_scale_are_those_of_a_slow_loop(ensembles, x, outputs):
    y = np.random.default_rng(5).normal(size=(EXAMPLES, outputs)).astype(np.float32)
    likelihood = mf.Gaussian(initial_scale=0.7)
    expected = oracle.gaussian(draws(ensembles[outputs], x), y, float(likelihood.scale))
    log_probs, means, _, levels = expected
    metrics = scores(ensembles[outputs], x, y, likelihood)
    assert_equal_scores(metrics, oracle.target_scores(log_probs, means, levels, y))
    assert 0 < metrics.coverage <= 1


def test_gaussian_scores_with_a_scale_for_each_output(ensembles, x):
    y = np.random.default_rng(5).normal(size=(EXAMPLES, 2)).astype(np.float32)
    log_probs, means, _, levels = oracle.gaussian(
        draws(ensembles[2], x), y, np.array([0.3, 2.0])
    )
    metrics = scores(ensembles[2], x, y, mf.Gaussian(scale=(0.3, 2.0)))
    assert_equal_scores(metrics, oracle.target_scores(log_probs, means, levels, y))
    for j, own in enumerate(metrics.by_output):
        columns = (part[..., j] for part in (log_probs, means, levels, y))
        expected = oracle.target_scores(*columns)
        expected.pop("nll")
        assert own == pytest.approx(expected, rel=2e-5)


def test_gaussian_scores_with_a_scale_from_the_input(ensembles, x):
    y = np.random.default_rng(5).normal(size=(EXAMPLES, 2)).astype(np.float32)
    location, raw = np.split(draws(ensembles[4], x), 2, axis=-1)
    scale = np.log1p(np.exp(raw)) + 1e-6
    log_probs, means, _, levels = oracle.gaussian(location, y, scale)
    metrics = scores(ensembles[4], x, y, mf.Gaussian(scale="input"))
    assert_equal_scores(metrics, oracle.target_scores(log_probs, means, levels, y))


def test_student_scores_are_those_of_a_slow_loop(ensembles, x):
    y = 3 * np.random.default_rng(5).normal(size=EXAMPLES).astype(np.float32)
    outputs = draws(ensembles[1], x)[..., 0]
    log_probs, means, _, levels = oracle.student(outputs, y, 0.5, 3.0)
    metrics = scores(ensembles[1], x, y, mf.StudentT(df=3.0, scale=0.5))
    assert_equal_scores(metrics, oracle.target_scores(log_probs, means, levels, y))


def test_counts_have_no_coverage(ensembles, x):
    y = np.random.default_rng(5).poisson(2.0, size=(EXAMPLES, 2))
    log_probs, means, _, _ = oracle.poisson(draws(ensembles[2], x), y)
    metrics = scores(ensembles[2], x, y, mf.Poisson())
    assert_equal_scores(metrics, oracle.target_scores(log_probs, means, None, y))
    assert metrics.coverage is None


def test_a_distribution_without_a_cumulative_function_has_no_coverage(ensembles, x):
    def likelihood(outputs):
        return dist.MultivariateNormal(outputs, jnp.eye(2) + 0.5)

    y = np.random.default_rng(5).normal(size=(EXAMPLES, 2)).astype(np.float32)
    metrics = scores(ensembles[2], x, y, likelihood)
    assert metrics.coverage is None
    error = draws(ensembles[2], x).mean(0) - y
    assert metrics.rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_a_class_for_every_position(ensembles):
    net = eqx.nn.Linear(FEATURES, 4, key=jax.random.key(2))
    ensemble = mf.Ensemble.from_model((_positions, net.weight), key=jax.random.key(1))
    x = np.random.default_rng(0).normal(size=(6, 5, FEATURES)).astype(np.float32)
    labels = np.arange(30).reshape(6, 5) % 4
    metrics = scores(ensemble, x, labels, mf.Categorical())
    probs = oracle.class_probs(draws(ensemble, x, chunk=6))
    chosen = np.take_along_axis(probs, labels[None, ..., None], -1)[..., 0]
    flat = oracle.class_scores(probs.reshape(SAMPLES, -1, 4), labels.ravel())
    expected = flat | {"nll": -np.mean(np.log(chosen.prod(-1).mean(0)))}
    assert_equal_scores(metrics, expected)


def _positions(weight, x):
    return x @ weight.T


@pytest.mark.parametrize("chunk", [1, 7, 8, 18, 19, 20])
def test_the_size_of_a_chunk_need_not_divide_the_examples(
    ensembles, x, monkeypatch, chunk
):
    monkeypatch.setattr(predictive, "CHUNK", chunk)
    labels = np.arange(EXAMPLES) % 4
    metrics = scores(ensembles[4], x, labels, mf.Categorical())
    probs = oracle.class_probs(draws(ensembles[4], x, chunk=min(chunk, EXAMPLES)))
    assert_equal_scores(metrics, oracle.class_scores(probs, labels))


def test_the_same_key_gives_the_same_scores_and_another_others(ensembles, x):
    labels = np.arange(EXAMPLES) % 4
    first = scores(ensembles[4], x, labels, mf.Categorical())
    assert first == scores(ensembles[4], x, labels, mf.Categorical())
    assert first != mf.evaluate(
        ensembles[4], (x, labels), num_samples=SAMPLES, key=jax.random.key(12)
    )


def test_memory_and_program_do_not_grow_with_the_number_of_draws(ensembles, x):
    def program(num_samples):
        traced = eqx.filter_jit(predictive.average_chunk).lower(
            ensembles[4], mf.Categorical(), x, np.zeros(EXAMPLES, int), KEY, num_samples
        )
        compiled = traced.compile().compiled
        lines = len(compiled.as_text().splitlines())
        return compiled.memory_analysis().temp_size_in_bytes, lines

    few_bytes, few_lines = program(4)
    many_bytes, many_lines = program(4096)
    keys = 4096 * 8  # The draws' keys, 8 bytes each, are all that may grow.
    assert many_bytes <= few_bytes + 4 * keys
    assert many_lines <= 1.2 * few_lines


def test_scores_in_half_precision_do_not_lose_the_count_of_draws(x):
    net = eqx.nn.Linear(FEATURES, 2, key=jax.random.key(2))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net)
    ensemble = mf.Ensemble.from_model(half, key=jax.random.key(1))
    x = x.astype(jnp.bfloat16)
    prediction = mf.predict(ensemble, x, num_samples=700, key=KEY)
    probs = oracle.class_probs(
        oracle.outputs_of_draws(ensemble, x, key=KEY, num_samples=700, chunk=EXAMPLES)
    )
    assert prediction.mean.dtype == np.float32
    # The softmax of one draw is rounded to 8 bits; the average of 700 is better.
    np.testing.assert_allclose(prediction.mean, probs.mean(0), atol=2e-3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4, int), r"`data`.*float32\[4, 2\].*model raises"),
        (np.zeros((4, 3)), np.full(4, 9), "labels 0 … 3.*got 9 in row 0"),
        (np.zeros((4, 3)), np.array([0, 1, -1, 0]), "labels 0 … 3.*got -1 in row 2"),
        (np.zeros((4, 3)), np.zeros(3, int), "one target for each example"),
        (
            np.zeros((0, 3)),
            np.zeros(0, int),
            "`data` inputs `x` must have at least one",
        ),
        (np.full((4, 3), np.nan), np.zeros(4, int), "finite.*row 0"),
        (np.zeros((4, 3)), np.zeros((4, 4), int), "one-hot"),
        (np.zeros((4, 3)), np.full(4, 0.5), "whole numbers"),
        (np.full((4, 3), 1e300), np.zeros(4, int), "finite"),
        (np.full((4, 3), "a"), np.zeros(4, int), "must be numbers"),
    ],
)
def test_data_that_do_not_fit_are_refused(ensembles, x, y, message):
    with pytest.raises(ValueError, match=message):
        mf.evaluate(ensembles[4], (x, y), key=KEY)


def test_a_log_likelihood_that_is_nan_is_refused_with_its_example(ensembles, x):
    def likelihood(outputs):
        scale = jnp.where(jnp.arange(len(outputs)) == 3, jnp.nan, 1.0)
        return dist.Normal(outputs[:, 0], scale, validate_args=False)

    with pytest.raises(ValueError, match="log-likelihood of NaN for example 3"):
        scores(ensembles[1], x, np.zeros(EXAMPLES, np.float32), likelihood)


def test_a_distribution_without_moments_is_named(ensembles, x):
    def likelihood(outputs):
        return dist.RelaxedBernoulliLogits(0.5, outputs[:, 0])

    with pytest.raises(ValueError, match="gives .*, for which NumPyro has no mean"):
        scores(ensembles[1], x, np.full(EXAMPLES, 0.5, np.float32), likelihood)


def test_an_iterable_is_refused(ensembles):
    with pytest.raises(TypeError, match="data"):
        mf.evaluate(ensembles[4], [1, 2, 3], key=KEY)


def test_no_draw_at_all_is_refused(ensembles, x):
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        mf.evaluate(ensembles[4], (x, np.zeros(19, int)), num_samples=0, key=KEY)
