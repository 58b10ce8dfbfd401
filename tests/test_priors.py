import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from oracles_spikeslab import (
    best_mask_bound,
    beta_masks,
    expected_log_likelihood,
    fit_mean_field,
    independent_masks,
    linear_posterior,
)
from scipy.integrate import quad
from scipy.special import betaln, digamma
from scipy.stats import norm

from meanfield import SpikeSlab
from meanfield.learning.divergence import layer_kls, total_kl
from meanfield.learning.hyperpriors import empirical_slab_scale
from meanfield.learning.priors import SpikeSlabPrior, posterior_as_prior


def _weights(seed=0, n=40, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return SpikeSlab(
        rng.uniform(0.05, 0.95, n).astype(dtype),
        rng.normal(0.3, 1.0, n).astype(dtype),
        rng.uniform(0.01, 0.5, n).astype(dtype),
    )


def _kl_by_quadrature(spike, mean, var, inclusion, scale):
    """∫ q ln(q/p) of the slab by numerical integration, plus the spike's sum."""
    std = np.sqrt(var)
    density = lambda w: (1 - spike) * norm.pdf(w, mean, std)
    log_ratio = lambda w: (
        np.log(1 - spike)
        + norm.logpdf(w, mean, std)
        - np.log(inclusion)
        - norm.logpdf(w, 0, scale)
    )
    low, high = mean - 12 * std, mean + 12 * std
    slab, _ = quad(lambda w: density(w) * log_ratio(w), low, high, epsabs=1e-12)
    return slab + (spike * np.log(spike / (1 - inclusion)) if spike else 0.0)


@pytest.mark.parametrize("spike", [0.0, 0.02, 0.5, 0.97])
@pytest.mark.parametrize(("mean", "var"), [(0.0, 1.0), (-1.7, 0.04), (0.3, 2.0)])
def test_the_kl_of_one_weight_agrees_with_numerical_integration(spike, mean, var):
    prior = SpikeSlabPrior(inclusion_prob=0.15, slab_scale=0.8)
    got = SpikeSlab([spike], [mean], [var]).kl(prior)
    expected = _kl_by_quadrature(spike, mean, var, 0.15, 0.8)
    assert np.allclose(got, expected, rtol=2e-5)


def test_the_prior_itself_costs_nothing():
    prior = SpikeSlabPrior(inclusion_prob=0.25, slab_scale=0.5)
    weight = SpikeSlab(jnp.full(7, 0.75), jnp.zeros(7), jnp.full(7, 0.25))
    assert total_kl({"w": weight}, prior) == 0


def test_scales_and_inclusion_may_differ_between_layers():
    weights = {"a": _weights(0), "b": _weights(1)}
    prior = SpikeSlabPrior(
        inclusion_prob={"a": 0.3, "b": 0.05}, slab_scale={"a": 0.5, "b": 2.0}
    )
    kls = layer_kls(weights, prior)
    assert np.allclose(
        kls["a"],
        weights["a"].kl(SpikeSlabPrior(inclusion_prob=0.3, slab_scale=0.5)).sum(),
    )
    assert np.allclose(
        kls["b"],
        weights["b"].kl(SpikeSlabPrior(inclusion_prob=0.05, slab_scale=2.0)).sum(),
    )
    assert np.allclose(total_kl(weights, prior), kls["a"] + kls["b"])


def test_the_learned_scale_is_where_the_kl_is_smallest():
    weight = _weights()
    best = float(empirical_slab_scale(weight))
    kl = lambda s: float(
        weight.kl(SpikeSlabPrior(inclusion_prob=0.2, slab_scale=s)).sum()
    )
    learned = float(
        total_kl(
            {"w": weight}, SpikeSlabPrior(inclusion_prob=0.2, slab_scale="learned")
        )
    )
    assert np.isclose(learned, kl(best), rtol=1e-6)
    assert all(kl(best * factor) > learned + 1e-3 for factor in (0.9, 0.97, 1.03, 1.1))


def test_the_gradient_with_a_learned_scale_is_the_total_one():
    weight = _weights()
    prior = SpikeSlabPrior(inclusion_prob=0.2, slab_scale="learned")

    def by_hand(weight):
        """The same with the minimum over s written out and differentiated."""
        present = weight.inclusion_prob
        second = weight.slab_var + weight.slab_mean**2
        scale = jnp.sqrt((present * second).sum() / present.sum())
        log_ratio = jnp.log(weight.slab_var / scale**2)
        slab = 0.5 * (second / scale**2 - 1 - log_ratio)
        return jnp.sum(
            weight.spike_prob * jnp.log(weight.spike_prob / 0.8)
            + present * (jnp.log(present / 0.2) + slab)
        )

    value, gradient = jax.value_and_grad(lambda w: total_kl({"w": w}, prior))(weight)
    expected, oracle = jax.value_and_grad(by_hand)(weight)
    assert np.allclose(value, expected, rtol=1e-5)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(oracle), strict=True)
    for got, wanted in pairs:
        assert np.allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_learned_scale_where_nothing_is_present_is_harmless():
    weight = SpikeSlab(jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    value, gradient = jax.value_and_grad(
        lambda w: total_kl(
            {"w": w}, SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned")
        )
    )(weight)
    assert np.allclose(value, -3 * np.log(0.9))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 20.0), (0.02, 0.03)])
@pytest.mark.parametrize("n", [1, 30, 300])
def test_the_beta_hyper_prior_costs_its_closed_form(a, b, n):
    weight = _weights(3, n)
    pi = np.asarray(weight.spike_prob, np.float64)
    negentropy = (pi * np.log(pi) + (1 - pi) * np.log1p(-pi)).sum()
    ones = (1 - pi).sum()
    spikes = negentropy + betaln(a, b) - betaln(a + ones, b + n - ones)
    half = SpikeSlab(jnp.full(n, 0.5), weight.slab_mean, weight.slab_var)
    slab = half.kl(
        SpikeSlabPrior(inclusion_prob=0.5, slab_scale=0.7)
    )  # 0.5 · KL of the slab alone
    expected = spikes + float((2 * slab * (1 - pi)).sum())
    prior = SpikeSlabPrior(inclusion_prob=dist.Beta(a, b), slab_scale=0.7)
    got = total_kl({"w": weight}, prior)
    assert np.allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_the_beta_gradient_is_the_expected_log_odds():
    a, b = 2.0, 5.0
    weight = _weights(4)
    pi = np.asarray(weight.spike_prob, np.float64)
    ones = (1 - pi).sum()
    gradient = jax.grad(
        lambda p: total_kl(
            {"w": SpikeSlab(p, jnp.zeros(40), jnp.ones(40))},
            SpikeSlabPrior(inclusion_prob=dist.Beta(a, b), slab_scale=1.0),
        )
    )(weight.spike_prob)
    expected = np.log(pi) - np.log1p(-pi)
    expected += digamma(a + ones) - digamma(b + 40 - ones)
    assert np.allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_the_beta_cost_keeps_its_digits_for_many_weights_in_float32():
    n, pi = 400_000, 0.99
    weight = SpikeSlab(jnp.full(n, pi), jnp.zeros(n), jnp.ones(n))
    pi = float(np.float32(pi))
    negentropy = n * (pi * np.log(pi) + (1 - pi) * np.log1p(-pi))
    expected = negentropy + betaln(1, 1) - betaln(1 + n * (1 - pi), 1 + n * pi)
    got = total_kl(
        {"w": weight},
        SpikeSlabPrior(inclusion_prob=dist.Beta(1.0, 1.0), slab_scale=1.0),
    )
    assert abs(float(got) - expected) < 0.02 * expected


def _linear_problem(n=7, rows=12, correlated=True):
    rng = np.random.default_rng(5)
    if correlated:
        x = rng.normal(size=(rows, n)) + 0.5 * rng.normal(size=(rows, 1))
    else:
        x = np.linalg.qr(rng.normal(size=(rows, n)))[0] * 2.0
    truth = np.where(rng.uniform(size=n) < 0.5, rng.normal(size=n), 0)
    return x, x @ truth + 0.5 * rng.normal(size=rows)


def _bound(x, y, prior, log_odds_of, slab_scale):
    """The best of several local optima, and its posterior."""
    starts = np.random.default_rng(6).normal(scale=2.0, size=(12, x.shape[1]))
    best, best_weight = -np.inf, None
    for start in starts:
        fitted = fit_mean_field(x, y, 0.5, slab_scale, log_odds_of, start)
        weight = SpikeSlab(*(np.asarray(part, np.float32) for part in fitted))
        likelihood = expected_log_likelihood(
            x, y, 0.5, np.float64(weight.mean), np.float64(weight.var)
        )
        bound = likelihood - float(total_kl({"w": weight}, prior))
        if bound > best:
            best, best_weight = bound, weight
    return best_weight, best


@pytest.mark.parametrize("correlated", [False, True])
def test_the_bound_stays_below_the_exact_evidence_and_close(correlated):
    x, y = _linear_problem(correlated=correlated)
    odds = np.log(0.3 / 0.7)
    weight, bound = _bound(
        x, y, SpikeSlabPrior(inclusion_prob=0.3, slab_scale=0.9), lambda _: odds, 0.9
    )
    model = (x, y, 0.5, 0.9, independent_masks(0.3))
    evidence, mean, var, _ = linear_posterior(*model)
    if not correlated:  # the posterior factorises, and the bound is tight
        assert abs(bound - evidence) < 1e-3
        assert np.allclose(weight.mean, mean, atol=1e-3)
        assert np.allclose(weight.var, var, atol=1e-3)
    assert best_mask_bound(*model) - 1e-3 <= bound <= evidence + 1e-3


@pytest.mark.parametrize("correlated", [False, True])
def test_with_a_beta_hyper_prior_the_bound_stays_below_the_evidence(correlated):
    x, y = _linear_problem(correlated=correlated)
    a, b = 1.5, 2.5
    log_odds = lambda p: digamma(a + p.sum()) - digamma(b + (1 - p).sum())
    _, bound = _bound(
        x,
        y,
        SpikeSlabPrior(inclusion_prob=dist.Beta(a, b), slab_scale=0.9),
        log_odds,
        0.9,
    )
    model = (x, y, 0.5, 0.9, beta_masks(a, b))
    assert best_mask_bound(*model) <= bound <= linear_posterior(*model)[0]


def test_with_a_learned_scale_the_bound_is_one_at_that_scale():
    x, y = _linear_problem()
    odds, scale = np.log(0.3 / 0.7), 1.0
    for _ in range(10):
        weight, bound = _bound(
            x,
            y,
            SpikeSlabPrior(inclusion_prob=0.3, slab_scale="learned"),
            lambda _: odds,
            scale,
        )
        scale = float(empirical_slab_scale(weight))
    model = (x, y, 0.5, scale, independent_masks(0.3))
    assert best_mask_bound(*model) <= bound <= linear_posterior(*model)[0]
    _, bound_fixed = _bound(
        x, y, SpikeSlabPrior(inclusion_prob=0.3, slab_scale=1.0), lambda _: odds, 1.0
    )
    assert bound >= bound_fixed


def test_an_earlier_posterior_is_a_prior():
    weights = {"w": SpikeSlab([0.0, 1.0, 0.4], [1.0, 0.0, 2.0], [0.0, 0.0, 0.3])}
    prior = posterior_as_prior(weights, smallest_prob=0.05, smallest_scale=0.1)
    assert np.allclose(total_kl(prior, prior), 0, atol=1e-6)
    assert np.allclose(prior["w"].spike_prob, [0.05, 0.95, 0.4])
    assert np.allclose(prior["w"].slab_var, [0.01, 0.01, 0.3])
    moved = {"w": SpikeSlab([0.1, 0.9, 0.4], [1.5, 0.0, 2.0], [0.02, 0.01, 0.3])}
    assert 0 < total_kl(moved, prior) < jnp.inf


def test_a_prior_passes_through_jit_and_its_numbers_may_be_traced():
    weight = _weights()
    for prior in (
        SpikeSlabPrior(inclusion_prob=0.1, slab_scale=0.5),
        SpikeSlabPrior(inclusion_prob=dist.Beta(1.0, 9.0), slab_scale={"w": "learned"}),
    ):
        got = jax.jit(lambda w, p: total_kl({"w": w}, p))(weight, prior)
        assert np.allclose(got, total_kl({"w": weight}, prior), rtol=1e-5)
    slope = jax.grad(
        lambda s: total_kl(
            {"w": weight}, SpikeSlabPrior(inclusion_prob=0.1, slab_scale=s)
        )
    )(0.5)
    second = weight.slab_var + weight.slab_mean**2
    expected = jnp.sum(weight.inclusion_prob * (1 / 0.5 - second / 0.5**3))
    assert np.allclose(slope, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikeSlabPrior(slab_scale=0.0), "`slab_scale` must be positive"),
        (lambda: SpikeSlabPrior(slab_scale=-1), "`slab_scale` must be positive"),
        (lambda: SpikeSlabPrior(slab_scale=np.nan), "`slab_scale` must be positive"),
        (lambda: SpikeSlabPrior(slab_scale="auto"), "or 'learned'; got 'auto'"),
        (lambda: SpikeSlabPrior(slab_scale={}), "empty mapping"),
        (lambda: SpikeSlabPrior(slab_scale={"w": 0.0}), r"slab_scale\['w'\]"),
        (lambda: SpikeSlabPrior(slab_scale=None), "got None"),
        (
            lambda: SpikeSlabPrior(inclusion_prob=0.0),
            "strictly between 0 and 1; got 0.0",
        ),
        (lambda: SpikeSlabPrior(inclusion_prob=1.0), "strictly between 0 and 1"),
        (lambda: SpikeSlabPrior(inclusion_prob=np.nan), "strictly between 0 and 1"),
        (lambda: SpikeSlabPrior(inclusion_prob="half"), "a probability or numpyro"),
        (lambda: SpikeSlabPrior(inclusion_prob=True), "a probability or numpyro"),
        (
            lambda: SpikeSlabPrior(inclusion_prob=dist.Beta(jnp.ones(2), 1.0)),
            "one Beta\\(a, b\\) distribution",
        ),
        (
            lambda: SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned").slab_scale,
            "has no single value",
        ),
        (
            lambda: SpikeSlabPrior(inclusion_prob=dist.Beta(1.0, 1.0)).inclusion_prob,
            "has no single value",
        ),
        (
            lambda: total_kl(
                {"w": _weights()},
                SpikeSlabPrior(inclusion_prob=0.1, slab_scale={"v": 1.0}),
            ),
            "must have an entry for the weight 'w'",
        ),
        (
            lambda: total_kl(
                {"w": _weights()},
                SpikeSlabPrior(inclusion_prob=0.1, slab_scale={"w": 1.0, "v": 1.0}),
            ),
            r"must name only the random weights \['w'\]; got \['v'\]",
        ),
        (
            lambda: total_kl({"w": _weights()}, {}),
            "must have an entry for the weight 'w'",
        ),
        (lambda: total_kl({"w": _weights()}, 0.1), "`prior` must be a SpikeSlabPrior"),
        (lambda: posterior_as_prior({}, smallest_prob=0.6), "`smallest_prob` must"),
    ],
)
def test_a_prior_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
