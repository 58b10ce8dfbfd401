import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal
from oracles_spikeslab import (
    expected_log_likelihood,
    fit_mean_field,
    independent_masks,
    linear_posterior,
)

from meanfield import SpikeSlab
from meanfield.interop.numpyro.spike_and_slab import SpikeAndSlab
from meanfield.interop.numpyro.spike_chains import add_spikes
from meanfield.interop.numpyro.spike_elbo import SpikeSlabELBO
from meanfield.interop.numpyro.spike_guide import AutoSpikeSlab

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5))
Y = X @ np.array([1.0, 0.0, -0.7, 0.0, 0.15]) + 0.5 * RNG.normal(size=30)


def linear_model(x, y=None):
    w = numpyro.sample("w", SpikeAndSlab(0.7, 0.0, 0.9).expand((5,)).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def _params(guide, weight, name="w"):
    parts = (weight.spike_prob, weight.slab_mean, jnp.sqrt(weight.slab_var))
    names = ("spike_prob", "slab_mean", "slab_scale")
    return {f"{name}_auto_{n}": part for n, part in zip(names, parts, strict=True)}


def _ready(model, *args):
    guide = AutoSpikeSlab(model)
    handlers.trace(handlers.seed(guide, 0)).get_trace(*args)
    return guide


def _random_weight(n, seed=1):
    rng = np.random.default_rng(seed)
    return SpikeSlab(
        jnp.asarray(rng.uniform(0.1, 0.8, n), jnp.float32),
        jnp.asarray(rng.normal(size=n), jnp.float32),
        jnp.asarray(rng.uniform(0.05, 0.4, n), jnp.float32),
    )


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, SpikeSlabELBO])
def test_the_loss_of_a_linear_model_is_the_exact_negative_bound(elbo):
    guide, weight = _ready(linear_model, X, Y), _random_weight(5)
    params = _params(guide, weight)
    keys = jax.random.split(jax.random.key(1), 4000)
    loss = lambda p: lambda key: elbo().loss(key, p, linear_model, guide, X, Y)
    losses = np.asarray(jax.jit(lambda p: jax.lax.map(loss(p), keys))(params))
    likelihood = expected_log_likelihood(
        X, Y, 0.5, np.float64(weight.mean), np.float64(weight.var)
    )
    kl = float(weight.kl(SpikeAndSlab(0.7, 0.0, 0.9).weights).sum())
    error = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - (kl - likelihood)) < 5 * error


def test_the_two_elbos_of_numpyro_agree_draw_by_draw():
    guide, weight = _ready(linear_model, X, Y), _random_weight(5)
    params = _params(guide, weight)
    key = jax.random.key(3)
    values = [
        jax.value_and_grad(
            lambda p, elbo=elbo: elbo.loss(key, p, linear_model, guide, X, Y)
        )(params)
        for elbo in (Trace_ELBO(), TraceMeanField_ELBO())
    ]
    assert np.allclose(values[0][0], values[1][0], rtol=1e-5)
    for name in params:
        assert np.allclose(values[0][1][name], values[1][1][name], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def trained():
    guide = AutoSpikeSlab(linear_model)
    schedule = optax.cosine_decay_schedule(0.05, 2000)
    loss = TraceMeanField_ELBO(num_particles=8)
    svi = SVI(linear_model, guide, optax.adam(schedule), loss)
    result = svi.run(jax.random.key(0), 2000, X, Y, progress_bar=False)
    return guide, result


def test_training_a_linear_model_finds_the_mean_field_optimum(trained):
    guide, result = trained
    log_odds = np.log(0.3 / 0.7)
    spike, mean, var = fit_mean_field(X, Y, 0.5, 0.9, lambda _: log_odds, np.zeros(5))
    weight = guide.spike_slabs(result.params)["w"]
    assert np.allclose(weight.spike_prob, spike, atol=0.03)
    assert np.allclose(weight.mean, (1 - spike) * mean, atol=0.02)
    present = spike < 0.9
    assert np.allclose(
        np.sqrt(weight.slab_var)[present], np.sqrt(var)[present], rtol=0.2
    )


def test_the_trained_bound_lies_below_the_exact_evidence_and_means_agree(trained):
    guide, result = trained
    weight = guide.spike_slabs(result.params)["w"]
    evidence, mean, var, _ = linear_posterior(X, Y, 0.5, 0.9, independent_masks(0.3))
    likelihood = expected_log_likelihood(
        X, Y, 0.5, np.float64(weight.mean), np.float64(weight.var)
    )
    bound = likelihood - float(weight.kl(SpikeAndSlab(0.7, 0.0, 0.9).weights).sum())
    assert evidence - 0.5 < bound < evidence
    assert (np.abs(weight.mean - mean) < 0.5 * np.sqrt(var)).all()


def test_draws_of_the_posterior_have_exact_zeros_and_predict(trained):
    guide, result = trained
    draws = guide.sample_posterior(
        jax.random.key(4), result.params, sample_shape=(2000,)
    )
    weight = guide.spike_slabs(result.params)["w"]
    zeros = np.asarray(draws["w"] == 0).mean(axis=0)
    spike = np.asarray(weight.spike_prob)
    assert (np.abs(zeros - spike) <= 5 * np.sqrt(spike * (1 - spike) / 2000)).all()
    predictive = Predictive(linear_model, posterior_samples=draws)
    assert predictive(jax.random.key(5), X)["y"].shape == (2000, 30)
    median = guide.median(result.params)["w"]
    assert ((median == 0) == (spike > 0.5)).all()
    low, high = guide.quantiles(result.params, [0.05, 0.95])["w"]
    inside = ((draws["w"] >= low) & (draws["w"] <= high)).mean(axis=0)
    assert (inside > 0.9 - 5 * np.sqrt(0.09 / 2000)).all()


def _logistic_model(x, y):
    w = numpyro.sample("w", SpikeAndSlab(0.4, 0.2, 1.1).expand((3,)).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=3 * x @ w).to_event(1), obs=y)


def test_the_exact_bound_has_unbiased_gradients_against_enumeration():
    x = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    y = np.array([1, 0, 1, 1, 0, 1])
    guide, weight = _ready(_logistic_model, x, y), _random_weight(3, seed=7)
    params = _params(guide, weight)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(12)
    node_weights = node_weights / node_weights.sum()
    grid = jnp.asarray(list(itertools.product(nodes, repeat=3)), jnp.float32)
    mass = jnp.asarray(
        [np.prod(ws) for ws in itertools.product(node_weights, repeat=3)], jnp.float32
    )

    def exact(params):
        spike, mean, std = (
            params[f"w_auto_{part}"]
            for part in ("spike_prob", "slab_mean", "slab_scale")
        )
        total = (
            -SpikeSlab(spike, mean, std**2)
            .kl(SpikeAndSlab(0.4, 0.2, 1.1).weights)
            .sum()
        )
        for mask in itertools.product([0.0, 1.0], repeat=3):
            mask = jnp.array(mask)
            chance = jnp.prod(jnp.where(mask == 1, 1 - spike, spike))
            w = mask * (mean + std * grid)
            logits = 3 * w @ x.T
            log_lik = dist.Bernoulli(logits=logits).log_prob(y).sum(-1)
            total += chance * (mass @ log_lik)
        return -total

    value, gradient = jax.jit(jax.value_and_grad(exact))(params)
    loss = lambda p, key: SpikeSlabELBO().loss(key, p, _logistic_model, guide, x, y)
    draw = jax.jit(lambda key: jax.value_and_grad(loss)(params, key))
    values, gradients = jax.lax.map(
        draw, jax.random.split(jax.random.key(8), 16_000), batch_size=2000
    )
    within = lambda s, e: np.abs(s.mean(0) - e) < 5 * s.std(0) / np.sqrt(len(s))
    assert within(np.asarray(values), value)
    for name in params:
        assert within(np.asarray(gradients[name]), np.asarray(gradient[name])).all()


def test_hierarchies_plates_and_other_sites_are_guided_in_the_models_order():
    def model(x, y=None):
        rho = numpyro.sample("rho", dist.Beta(1.0, 1.0))
        with numpyro.plate("features", 5):
            w = numpyro.sample("w", SpikeAndSlab(1 - rho, 0.0, 0.9))
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ w, noise), obs=y)

    guide = AutoSpikeSlab(model)
    svi = SVI(model, guide, optax.adam(0.03), TraceMeanField_ELBO())
    result = svi.run(jax.random.key(1), 1500, X, Y, progress_bar=False)
    draws = guide.sample_posterior(
        jax.random.key(2), result.params, sample_shape=(500,)
    )
    assert list(draws["w"].shape) == [500, 5]
    assert ((draws["rho"] > 0) & (draws["rho"] < 1)).all()
    assert abs(float(draws["noise"].mean()) - 0.5) < 0.2
    weight = guide.spike_slabs(result.params)["w"]
    assert (weight.spike_prob[jnp.array([0, 2])] < 0.2).all()
    assert (weight.spike_prob[jnp.array([1, 3])] > 0.3).all()


def test_normal_priors_get_spikes():
    def model(x, y=None):
        w = numpyro.sample("w", dist.Normal(0.0, 0.9).expand((5,)).to_event(1))
        numpyro.sample("bias", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)

    spiky = add_spikes(model, 0.3, where=lambda name: name == "w")
    trace = handlers.trace(handlers.seed(spiky, 0)).get_trace(X, Y)
    law = trace["w"]["fn"].base_dist
    assert trace["w"]["fn"].event_shape == (5,)
    assert np.allclose(law.base_dist.spike_prob, 0.7)
    assert isinstance(trace["bias"]["fn"], dist.Normal)
    expected = handlers.trace(handlers.seed(linear_model, 0)).get_trace(X, Y)["w"]["fn"]
    value = jnp.array([0.0, 0.3, 0.0, -1.0, 2.0])
    assert np.allclose(trace["w"]["fn"].log_prob(value), expected.log_prob(value))


def test_a_guide_may_start_at_a_trained_ensemble():
    start = SpikeSlab([0.0, 1.0, 0.2, 0.5, 0.5], jnp.arange(5.0), jnp.full(5, 0.04))
    guide = AutoSpikeSlab(linear_model, init_values={"w": start})
    svi = SVI(linear_model, guide, optax.adam(0.1), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0), X, Y))
    weight = guide.spike_slabs(params)["w"]
    assert np.allclose(weight.spike_prob, [0.001, 0.999, 0.2, 0.5, 0.5], atol=1e-5)
    assert np.allclose(weight.slab_mean, start.slab_mean)
    assert np.allclose(weight.slab_var, 0.04, rtol=1e-4)


def _discrete(x):
    numpyro.sample("z", dist.Bernoulli(0.5))


def _masked(x):
    numpyro.sample("w", SpikeAndSlab(0.5, 0.0, 1.0).mask(True).mask(jnp.array(False)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: _ready(_discrete, X),
            "'z' must be continuous .* got a discrete site",
        ),
        (lambda: _ready(_masked, X), "Site 'w' must not be masked"),
        (lambda: AutoSpikeSlab(linear_model, init_spike_prob=0.0), "`init_spike_prob`"),
        (lambda: AutoSpikeSlab(linear_model, init_scale=0.0), "`init_scale` must be"),
        (
            lambda: AutoSpikeSlab(linear_model).median({}),
            "must be run with its model first",
        ),
        (lambda: add_spikes(linear_model, 1.0), "`inclusion_prob` must lie"),
        (
            lambda: handlers.seed(
                AutoSpikeSlab(linear_model, init_values={"v": _random_weight(5)}), 0
            )(X),
            r"`init_values` must name SpikeAndSlab sites .*; got \['v'\]",
        ),
        (
            lambda: handlers.seed(
                AutoSpikeSlab(linear_model, init_values={"w": _random_weight(4)}), 0
            )(X),
            r"the shape of the site, \(5,\); got \(4,\)",
        ),
        (
            lambda: SpikeSlabELBO().loss(
                jax.random.key(0),
                {},
                lambda x: numpyro.sample("a", dist.Normal(0, 1)),
                AutoNormal(lambda x: numpyro.sample("a", dist.Normal(0, 1))),
                X,
            ),
            "needs an AutoSpikeSlab guide",
        ),
    ],
)
def test_what_the_guide_cannot_do_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
