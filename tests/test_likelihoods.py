import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from meanfield.learning.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Poisson,
    StudentT,
)
from meanfield.learning.targets import (
    check_targets,
    log_prob,
    num_outputs,
    output_distribution,
)

OUTPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
REAL = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def _softplus(x):
    return np.log1p(np.exp(np.asarray(x, np.float64)))


def test_categorical_scores_the_log_softmax_of_the_label():
    labels = np.array([0, 2, 1, 1, 0])
    expected = jax.nn.log_softmax(OUTPUTS)[jnp.arange(5), labels]
    got = log_prob(Categorical(), OUTPUTS, labels)
    assert np.allclose(got, expected, rtol=1e-5)


def test_categorical_with_positions_sums_over_them():
    outputs = jax.random.normal(jax.random.key(0), (4, 6, 3))
    labels = jax.random.randint(jax.random.key(1), (4, 6), 0, 3)
    each = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[..., None], -1)
    got = log_prob(Categorical(), outputs, labels)
    assert got.shape == (4,)
    assert np.allclose(got, each[..., 0].sum(-1), rtol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "targets", "oracle"),
    [
        (
            Bernoulli(),
            np.array([[0, 1, 1]] * 5),
            lambda y, o: scipy.stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-o))),
        ),
        (
            Poisson(),
            np.array([[0, 3, 1]] * 5),
            lambda y, o: scipy.stats.poisson.logpmf(y, np.exp(o)),
        ),
        (Gaussian(scale=0.7), REAL, lambda y, o: scipy.stats.norm.logpdf(y, o, 0.7)),
        (
            Gaussian(scale=[0.5, 1.0, 2.0]),
            REAL,
            lambda y, o: scipy.stats.norm.logpdf(y, o, np.array([0.5, 1.0, 2.0])),
        ),
        (
            Gaussian(initial_scale=0.3),
            REAL,
            lambda y, o: scipy.stats.norm.logpdf(y, o, 0.3),
        ),
        (
            StudentT(df=3.0, scale=0.7),
            REAL,
            lambda y, o: scipy.stats.t.logpdf(y, 3.0, o, 0.7),
        ),
    ],
)
def test_log_likelihood_agrees_with_scipy_summed_over_outputs(
    likelihood, targets, oracle
):
    got = log_prob(likelihood, OUTPUTS, targets)
    expected = oracle(targets, np.asarray(OUTPUTS, np.float64)).sum(-1)
    assert np.allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("family", ["gaussian", "student"])
def test_input_dependent_noise_reads_means_first_then_raw_scales(family):
    outputs = jax.random.normal(jax.random.key(2), (5, 6))
    mean, scale = np.asarray(outputs[:, :3]), _softplus(outputs[:, 3:]) + 1e-6
    if family == "gaussian":
        got = log_prob(Gaussian(scale="input"), outputs, REAL)
        expected = scipy.stats.norm.logpdf(REAL, mean, scale).sum(-1)
    else:
        got = log_prob(StudentT(df=5.0, scale="input"), outputs, REAL)
        expected = scipy.stats.t.logpdf(REAL, 5.0, mean, scale).sum(-1)
    assert np.allclose(got, expected, rtol=1e-4)


def test_only_a_learned_scale_is_a_leaf():
    leaves = lambda likelihood: jax.tree.leaves(
        eqx.filter(likelihood, eqx.is_inexact_array)
    )
    for fixed in (Categorical(), Poisson(), Gaussian(scale=0.5), Gaussian("input")):
        assert leaves(fixed) == []
    assert [leaf.shape for leaf in leaves(Gaussian())] == [()]
    assert [leaf.shape for leaf in leaves(StudentT(initial_scale=[1.0, 2.0]))] == [(2,)]
    hash(jax.tree.structure(Gaussian(scale=[0.5, 1.0])))


def test_a_learned_scale_ends_at_the_residuals_root_mean_square():
    residual = np.random.default_rng(3).normal(scale=0.4, size=400).astype(np.float32)

    @jax.jit
    def step(likelihood, _):
        loss = lambda l: -log_prob(l, jnp.zeros(400), residual).mean()
        gradient = jax.grad(loss)(likelihood)
        return jax.tree.map(lambda p, g: p - 0.1 * g, likelihood, gradient), None

    trained, _ = jax.lax.scan(step, Gaussian(initial_scale=2.0), length=400)
    assert np.allclose(trained.scale, np.sqrt(np.mean(residual**2)), rtol=1e-3)


@pytest.mark.parametrize("start", [1e-3, 0.1, 1.0, 50.0])
def test_a_learned_scale_starts_where_it_was_told_to(start):
    assert np.allclose(Gaussian(initial_scale=start).scale, start, rtol=2e-3)


def test_extreme_poisson_rates_stay_finite_with_their_gradient():
    outputs = jnp.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    targets = np.array([0, 1, 2, 3, 4])
    value, gradient = jax.value_and_grad(
        lambda o: log_prob(Poisson(), o, targets).sum()
    )(outputs)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_one_output_takes_targets_with_and_without_the_last_axis():
    outputs = jnp.arange(4.0)[:, None]
    flat = log_prob(Gaussian(1.0), outputs, np.zeros(4))
    assert flat.shape == (4,)
    assert (flat == log_prob(Gaussian(1.0), outputs, np.zeros((4, 1)))).all()
    assert (flat == log_prob(Gaussian(1.0), outputs[:, 0], np.zeros((4, 1)))).all()


def test_any_function_to_a_distribution_is_a_likelihood():
    gamma = lambda outputs: dist.Gamma(2.0, jnp.exp(outputs)).to_event(1)
    got = log_prob(gamma, OUTPUTS, np.abs(REAL))
    rate = np.exp(np.asarray(OUTPUTS, np.float64))
    expected = scipy.stats.gamma.logpdf(np.abs(REAL), 2.0, scale=1 / rate).sum(-1)
    assert np.allclose(got, expected, rtol=1e-4)
    check_targets(gamma, OUTPUTS, np.abs(REAL))
    with pytest.raises(ValueError, match="support of Gamma.*row 0"):
        check_targets(gamma, OUTPUTS, -np.abs(REAL))


def test_outputs_may_be_any_tree_of_arrays():
    likelihood = lambda out: dist.Normal(out["mean"], jnp.exp(out["log_scale"]))
    outputs = {"mean": jnp.zeros(4), "log_scale": jnp.zeros(4)}
    check_targets(likelihood, outputs, np.zeros(10))
    assert np.allclose(
        log_prob(likelihood, outputs, np.zeros(4)), -0.5 * np.log(2 * np.pi)
    )


def test_a_support_that_moves_with_the_outputs_is_left_to_the_likelihood():
    uniform = lambda out: dist.Uniform(-1.0, 1.0 + jnp.abs(out))
    check_targets(uniform, jnp.zeros(3), np.array([0.0, 5.0, -3.0]))


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets", "message"),
    [
        (Categorical(), OUTPUTS, np.array([0, 1, 3]), "labels 0 … 2.*got 3 in row 2"),
        (Categorical(), OUTPUTS, np.array([0, -1, 3]), "got -1 in row 1"),
        (Categorical(), OUTPUTS, np.array([0.0, 0.5]), "whole numbers.*0.5 in row 1"),
        (Categorical(), OUTPUTS, np.array([0.0, 1.0]), "integer type; got float"),
        (Categorical(), OUTPUTS, np.eye(3, dtype=int), "not one-hot rows"),
        (Categorical(), OUTPUTS[:, 0], np.array([0, 1]), "use Bernoulli"),
        (Bernoulli(), OUTPUTS[:, 0], np.array([0, 1, 2]), "Bernoulli.*got 2 in row 2"),
        (Poisson(), OUTPUTS[:, 0], np.array([0.0, 1.5]), "whole numbers.*row 1"),
        (Poisson(), OUTPUTS[:, 0], np.array([3, -2]), "Poisson.*got -2 in row 1"),
        (Gaussian(), OUTPUTS, np.zeros((4, 2)), r"shape \(4, 3\).*got \(4, 2\)"),
        (Gaussian(), OUTPUTS[:, :1], np.zeros((4, 4)), r"shape \(4, 1\)"),
        (Gaussian(), OUTPUTS[:, :1], np.array([0.0, np.nan]), "not NaN.*in row 1"),
        (Gaussian("input"), OUTPUTS, np.zeros(4), "even length"),
        (Gaussian([1.0, 2.0]), OUTPUTS, REAL, r"`scale` must fit .*got shape \(2,\)"),
        (Gaussian(), OUTPUTS, np.array(["a", "b"]), "must be numbers"),
        (Gaussian(), OUTPUTS, np.zeros((0, 3)), "at least one example"),
        (lambda out: out, OUTPUTS, REAL, "NumPyro distribution; got"),
        (
            lambda out: dist.Normal(out, 1.0),
            OUTPUTS,
            REAL,
            r"batch shape \(5,\).*got batch shape \(5, 3\).*to_event\(1\)",
        ),
        (
            lambda out: dist.Normal(0.0, 1.0),
            OUTPUTS,
            REAL,
            r"got batch shape \(\)",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(likelihood, outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        check_targets(likelihood, outputs, targets)


def test_the_first_offending_row_is_found_far_into_the_data():
    targets = np.zeros(10_000, int)
    targets[[9_000, 9_500]] = 7
    with pytest.raises(ValueError, match="got 7 in row 9000"):
        check_targets(Categorical(), jax.ShapeDtypeStruct((1, 3), jnp.float32), targets)


@pytest.mark.parametrize(
    ("likelihood", "targets", "expected"),
    [
        (Categorical(), np.array([0, 4, 2]), 5),
        (Bernoulli(), np.array([0, 1]), 1),
        (Bernoulli(), np.zeros((3, 4), int), 4),
        (Poisson(), np.array([0, 1]), 1),
        (Gaussian(), np.zeros((3, 2)), 2),
        (Gaussian("input"), np.zeros(3), 2),
        (StudentT(4.0, "input"), np.zeros((3, 2)), 4),
    ],
)
def test_a_likelihood_says_how_many_outputs_it_needs(likelihood, targets, expected):
    assert num_outputs(likelihood, targets) == expected
    outputs = jax.ShapeDtypeStruct((2, expected), jnp.float32)
    check_targets(likelihood, outputs, targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(scale=0.0), "`scale` must be positive"),
        (lambda: Gaussian(scale=-1.0), "`scale` must be positive"),
        (lambda: Gaussian(scale="leanred"), "'learned' or 'input'"),
        (lambda: Gaussian(initial_scale=0.0), "`initial_scale` must be positive"),
        (lambda: StudentT(df=0.0), "`df` must be a positive number"),
        (lambda: Gaussian(scale="input").scale, "depends on the input"),
        (lambda: num_outputs(lambda out: out, [0]), "plain function"),
        (lambda: num_outputs(Categorical(), [0.5]), "whole numbers"),
        (lambda: output_distribution(Categorical(), jnp.zeros(())), "first axis"),
    ],
)
def test_a_likelihood_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_scale_must_be_known_before_tracing():
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda s: Gaussian(scale=s).scale)(1.0)
