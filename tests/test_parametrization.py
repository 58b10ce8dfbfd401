"""The divergence in the optimizer's own numbers: exact, cheap, finite everywhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import oracles as oracle
import pytest

import meanfield as mf
from meanfield.ensemble.networks import mlp
from meanfield.learning.divergence import total_kl
from meanfield.learning.hyperpriors import LayerPrior
from meanfield.learning.parametrization import divergence_of, encode_all
from meanfield.learning.training import Recipe, losses, split_learned

NUMBERS = mf.learning.Unconstrained()
PRIOR = LayerPrior(0.15, 0.8)


def numbers(logit, mean, log_std, dtype=jnp.float32):
    weight = mf.SpikeSlab(*(jnp.full(np.shape(logit), p) for p in (0.5, 0.0, 1.0)))
    parts = tuple(jnp.asarray(part, dtype) for part in (logit, mean, log_std))
    fields = lambda n: (n.spike_logit, n.slab_mean, n.log_slab_std)
    return eqx.tree_at(fields, NUMBERS.encode(weight), parts)


@pytest.mark.parametrize("logit", [-9.0, -0.7, 0.0, 1.3, 8.0])
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.4), (-1.7, -2.0), (0.3, -5.0)])
def test_the_divergence_agrees_with_numerical_integration(logit, mean, log_std):
    with jax.enable_x64():
        found = NUMBERS.kl(numbers(logit, mean, log_std, jnp.float64), PRIOR)
        assert found.dtype == jnp.float64
    pi = 1 / (1 + np.exp(-logit))
    q, prior = (pi, mean, np.exp(2 * log_std)), (0.85, 0.0, 0.64)
    assert float(found) == pytest.approx(
        oracle.kl_by_quadrature(q, prior), rel=1e-8, abs=1e-10
    )


def test_value_and_slopes_are_those_of_the_weights_own_divergence():
    rng = np.random.default_rng(0)
    with jax.enable_x64():
        start = numbers(*(2 * rng.normal(size=(3, 40))), jnp.float64)
        prior = LayerPrior(rng.uniform(0.05, 0.9, 40), rng.uniform(0.2, 2, 40))
        mine = lambda n, rho, s: NUMBERS.kl(n, LayerPrior(rho, s)).sum()
        theirs = lambda n, rho, s: NUMBERS.decode(n).kl(LayerPrior(rho, s)).sum()
        args = (start, jnp.asarray(prior.inclusion_prob), jnp.asarray(prior.slab_scale))
        for one, other in zip(
            jax.tree.leaves(jax.value_and_grad(mine, (0, 1, 2))(*args)),
            jax.tree.leaves(jax.value_and_grad(theirs, (0, 1, 2))(*args)),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_certainty_costs_a_finite_number_with_finite_slopes():
    logit = np.array([-300.0, -40.0, 40.0, 300.0, 0.0])
    start = numbers(logit, 0 * logit + 1.5, np.array([-60.0, -1, -1, -60.0, -60.0]))
    value, slope = jax.value_and_grad(lambda n: NUMBERS.kl(n, PRIOR).sum())(start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slope)))
    each = np.asarray(NUMBERS.kl(start, PRIOR))
    slab = lambda log_std: (
        0.5 * ((np.exp(2 * log_std) + 1.5**2) / 0.8**2 - 1) - log_std + np.log(0.8)
    )
    half = np.log(0.5) - 0.5 * (np.log(0.85) + np.log(0.15)) + 0.5 * slab(-60.0)
    expected = [
        -np.log(0.15) + slab(-60.0),
        -np.log(0.15) + slab(-1.0),
        -np.log(0.85),
        -np.log(0.85),
        half,
    ]
    np.testing.assert_allclose(each, expected, rtol=1e-5)


def test_half_precision_numbers_are_summed_in_float32():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(3, 50))
    half = numbers(*parts, jnp.bfloat16)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    found = NUMBERS.kl(half, PRIOR)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, NUMBERS.kl(whole, PRIOR), rtol=1e-6)


@pytest.mark.parametrize(
    ("parametrization", "spikes", "inclusion", "slab"),
    [
        (NUMBERS, "connection", 0.1, 0.7),
        (NUMBERS, "connection", dist.Beta(1.0, 9.0), "learned"),
        (NUMBERS, "unit", dist.Beta(1.0, 9.0), "learned"),
        (mf.learning.Projected(0.01), "connection", 0.1, "learned"),
    ],
)
def test_a_step_pays_the_divergence_of_the_ensemble(
    parametrization, spikes, inclusion, slab
):
    ensemble = mf.Ensemble.from_model(
        mlp((3, 4, 2), key=jax.random.key(0)), key=jax.random.key(1), spikes=spikes
    )
    prior = mf.SpikeSlabPrior(inclusion_prob=inclusion, slab_scale=slab)
    learned, fixed = split_learned(ensemble, mf.Categorical(), parametrization)
    optimizer = optax.sgd(0.1)
    recipe = Recipe(fixed, prior, optimizer, parametrization, 1.0, num_data=10)
    data = jnp.ones((5, 3)), jnp.zeros(5, int)
    _, (parts, _) = losses(learned, recipe, *data, jnp.zeros(()), jax.random.key(2))
    weights = recipe.ensemble_and_likelihood(learned)[0].weights()
    expected = total_kl(weights, prior) / 10
    np.testing.assert_allclose(parts["kl"], expected, rtol=2e-5)


def test_an_earlier_posterior_is_a_prior_in_any_numbers():
    ensemble = mf.Ensemble.from_model(
        mlp((3, 4, 2), key=jax.random.key(0)), key=jax.random.key(1)
    )
    own = mf.learning.posterior_as_prior(ensemble.weights())
    encoded = encode_all(NUMBERS, ensemble.params)
    kl = divergence_of(NUMBERS, encoded)
    shifted = ensemble.with_weights(own).weights()
    other = {
        n: mf.SpikeSlab(w.spike_prob, w.slab_mean + 1, w.slab_var)
        for n, w in shifted.items()
    }
    found = total_kl(ensemble.weights(), other, kl)
    decoded = {
        n: NUMBERS.decode(NUMBERS.encode(w)) for n, w in ensemble.weights().items()
    }
    np.testing.assert_allclose(found, total_kl(decoded, other), rtol=1e-6)
