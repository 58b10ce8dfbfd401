import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import MCMC, NUTS
from scipy.integrate import quad
from scipy.stats import norm

from meanfield.interop.numpyro.spike_and_slab import SpikeAndSlab, real_with_atom

LAW = SpikeAndSlab(0.35, -0.8, 0.6)
DRAWS = np.asarray(LAW.sample(jax.random.key(0), (200_000,)), np.float64)


def _within_five_errors(samples, expected):
    return abs(samples.mean() - expected) < 5 * samples.std() / np.sqrt(len(samples))


def test_mean_variance_and_zeros_agree_with_draws():
    assert _within_five_errors(DRAWS, float(LAW.mean))
    assert _within_five_errors((DRAWS - float(LAW.mean)) ** 2, float(LAW.variance))
    assert _within_five_errors((DRAWS == 0).astype(float), 0.35)


def test_log_prob_is_a_density_of_the_mixed_measure():
    density = lambda w: np.exp(float(LAW.log_prob(w)))
    slab, _ = quad(lambda w: density(w) if w else 0.0, -6, 5, points=[0.0])
    assert np.isclose(density(0.0) + slab, 1, atol=1e-5)
    assert np.isclose(LAW.log_prob(0.0), np.log(0.35))
    expected = np.log(0.65) + norm.logpdf(0.7, -0.8, 0.6)
    assert np.isclose(LAW.log_prob(0.7), expected)


def test_entropy_is_minus_the_expected_log_prob():
    assert _within_five_errors(-np.asarray(LAW.log_prob(DRAWS)), float(LAW.entropy()))


@pytest.mark.parametrize(
    "other", [SpikeAndSlab(0.8, 0.2, 1.1), SpikeAndSlab(0.35, -0.8, 0.6)]
)
def test_the_divergence_is_the_expected_log_ratio(other):
    ratios = np.asarray(LAW.log_prob(DRAWS) - other.log_prob(DRAWS))
    kl = float(kl_divergence(LAW, other))
    assert abs(ratios.mean() - kl) <= 5 * ratios.std() / np.sqrt(len(DRAWS)) + 1e-6


def test_divergences_between_normal_and_spike_laws_are_exact():
    normal = dist.Normal(0.3, 1.2)
    assert kl_divergence(LAW, normal) == jnp.inf
    slab_only = SpikeAndSlab(0.0, -0.8, 0.6)
    between = kl_divergence(dist.Normal(-0.8, 0.6), normal)
    assert np.isclose(kl_divergence(slab_only, normal), between)
    got = kl_divergence(normal, LAW)
    assert np.isclose(got, kl_divergence(normal, dist.Normal(-0.8, 0.6)) - np.log(0.65))


def test_divergences_pass_through_expand_and_to_event():
    p, q = LAW.expand((4, 3)).to_event(1), SpikeAndSlab(0.8, 0.2, 1.1)
    kl = kl_divergence(p, q.expand((4, 3)).to_event(1))
    assert kl.shape == (4,)
    assert np.allclose(kl, 3 * kl_divergence(LAW, q))
    assert np.allclose(kl_divergence(LAW.expand((4,)), q), kl_divergence(LAW, q))


def test_shapes_broadcast_and_expand_like_any_distribution():
    law = SpikeAndSlab(jnp.full((3, 1), 0.2), jnp.zeros(4), 1.0)
    assert law.batch_shape == (3, 4)
    assert law.event_shape == ()
    assert law.sample(jax.random.key(0), (2,)).shape == (2, 3, 4)
    assert law.mean.shape == law.variance.shape == law.entropy().shape == (3, 4)
    event = law.expand((5, 3, 4)).to_event(2)
    assert event.batch_shape == (5,)
    assert event.event_shape == (3, 4)
    assert event.log_prob(event.sample(jax.random.key(1))).shape == (5,)
    masked = law.mask(jnp.arange(4) > 1)
    assert (masked.log_prob(jnp.zeros((3, 4)))[:, :2] == 0).all()


def test_it_is_a_pytree_for_jit_and_vmap():
    leaves, treedef = jax.tree.flatten(LAW)
    assert len(leaves) == 3
    rebuilt = jax.tree.unflatten(treedef, leaves)
    assert np.isclose(rebuilt.log_prob(0.3), LAW.log_prob(0.3))
    assert np.isclose(jax.jit(lambda d: d.log_prob(0.3))(LAW), LAW.log_prob(0.3))
    means = jax.vmap(lambda p: SpikeAndSlab(p, 1.0, 1.0).mean)(jnp.array([0.1, 0.9]))
    assert np.allclose(means, [0.9, 0.1])
    assert LAW.support == real_with_atom
    assert hash(type(LAW.support))


@pytest.mark.parametrize("mean", [-2.0, 0.1])
def test_quantiles_invert_the_distribution_function(mean):
    law = SpikeAndSlab(0.35, mean, 0.6)
    levels = np.linspace(0.01, 0.99, 41)
    quantiles = np.asarray(law.icdf(levels))
    values = np.asarray(law.cdf(quantiles))
    at_atom = quantiles == 0
    assert at_atom.any()
    assert not at_atom.all()
    assert np.allclose(values[~at_atom], levels[~at_atom], atol=1e-5)
    assert (values[at_atom] >= levels[at_atom]).all()
    draws = np.asarray(law.sample(jax.random.key(3), (100_000,)))
    for level, quantile in zip(levels[::8], quantiles[::8], strict=True):
        if quantile != 0:
            share = (draws <= quantile).mean()
            assert abs(share - level) < 5 * np.sqrt(level * (1 - level) / 100_000)


@pytest.mark.parametrize("spike", [0.0, 1.0])
def test_certain_spikes_and_slabs_have_finite_gradients_where_they_live(spike):
    value = 0.0 if spike else 0.4
    gradient = jax.grad(lambda p: SpikeAndSlab(p, 0.2, 0.5).log_prob(value))(spike)
    assert jnp.isfinite(gradient)
    assert SpikeAndSlab(spike, 0.2, 0.5).log_prob(0.4 if spike else 0.0) == -jnp.inf
    zeros = np.asarray(SpikeAndSlab(spike, 0.2, 0.5).sample(jax.random.key(0), (50,)))
    assert (zeros == 0).all() if spike else (zeros != 0).all()


@pytest.mark.parametrize(
    "arguments", [(1.2, 0.0, 1.0), (-0.1, 0.0, 1.0), (0.5, 0.0, 0.0), (0.5, 0.0, -1.0)]
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="invalid (spike_prob|slab_scale) parameter"):
        SpikeAndSlab(*arguments, validate_args=True)


def test_a_sampler_that_cannot_see_the_atom_refuses_the_site():
    model = lambda: numpyro.sample("w", SpikeAndSlab(0.5, 0.0, 1.0))
    chain = MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False)
    with pytest.raises(NotImplementedError, match="SpikeSlabReparam"):
        chain.run(jax.random.key(0))
