"""Utility, arbitrage equilibrium, Hopfield network and Boltzmann machine."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from meanfield.physics.microstructure import boltzmann, utility
from meanfield.physics.microstructure.arbitrage import (
    arbitrage_between_layers,
    measure_arbitrage,
)
from meanfield.physics.microstructure.lognormal_fit import (
    fit_microstructure,
)


@pytest.mark.parametrize("competition", [1.0, 0.4])
def test_coefficients_and_law_are_inverse_of_each_other(competition):
    for mu, sigma in itertools.product([-3.2, 0.0, 1.4], [0.3, 1.1]):
        alpha, beta = utility.utility_coefficients(mu, sigma, competition)
        back = utility.equilibrium_distribution(alpha, beta, competition)
        assert back == pytest.approx((mu, sigma), rel=1e-12, abs=1e-12)


def test_the_equilibrium_on_a_grid_is_the_derived_lognormal():
    alpha, beta = 1.2, 0.9
    w = np.linspace(1e-6, 400.0, 2_000_000)
    share = w**alpha * np.exp(-beta * np.log(w) ** 2)
    share /= share.sum()
    mu = share @ np.log(w)
    sigma = math.sqrt(share @ (np.log(w) - mu) ** 2)
    assert (mu, sigma) == pytest.approx((1.22204, 0.74501), abs=6e-4)
    assert utility.equilibrium_distribution(alpha, beta) == pytest.approx(
        (1.22222, 0.74536), abs=1e-5
    )


def test_effective_utility_is_flat_on_a_lognormal_density_and_nowhere_else():
    mu, sigma = -1.0, 0.65
    w = np.exp(np.linspace(-3.0, 1.0, 41))
    alpha, beta = utility.utility_coefficients(mu, sigma)
    flat = utility.effective_utility(
        w, stats.lognorm.pdf(w, sigma, scale=np.exp(mu)), alpha, beta
    )
    np.testing.assert_allclose(flat, flat[0], rtol=1e-12)
    tilted = utility.effective_utility(w, stats.halfnorm.pdf(w), alpha, beta)
    assert np.ptp(tilted) > 1


def test_utility_refuses_what_has_no_equilibrium():
    with pytest.raises(ValueError, match="`sigma` must be positive, .*; got 0"):
        utility.utility_coefficients(0.0, 0.0)
    with pytest.raises(ValueError, match="`beta` must be positive, .*; got -1"):
        utility.equilibrium_distribution(1.0, -1.0)
    with pytest.raises(ValueError, match="`magnitudes` must be positive"):
        utility.effective_utility(np.array([0.0]), np.array([1.0]), 1.0, 1.0)
    with pytest.raises(ValueError, match="`counts` must be at least 0"):
        utility.potential(np.array([0.0, 0.0]), np.ones(2), 1.0, 1.0)


def test_moving_one_connection_changes_the_potential_by_the_gain_in_utility():
    alpha, beta = 1.2, 0.9
    w = np.array([0.5, 1.5, 3.0])
    counts = np.array([4000.0, 9000.0, 7000.0])
    moved = counts + np.array([-1.0, 1.0, 0.0])
    change = utility.potential(moved, w, alpha, beta) - utility.potential(
        counts, w, alpha, beta
    )
    h = utility.effective_utility(w, counts, alpha, beta)
    assert change * counts.sum() == pytest.approx(h[1] - h[0], abs=1e-3)


def test_the_potential_is_largest_at_equilibrium():
    alpha, beta = 1.0, 1.0
    w = np.linspace(0.1, 8.0, 40)
    share = w**alpha * np.exp(-beta * np.log(w) ** 2)
    counts = 1e6 * share / share.sum()
    best = utility.potential(counts, w, alpha, beta)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = counts * np.exp(0.05 * rng.normal(size=40))
        other *= counts.sum() / other.sum()
        assert utility.potential(other, w, alpha, beta) < best


def test_utilities_are_level_up_to_poisson_noise_on_a_lognormal():
    rng = np.random.default_rng(0)
    found = [measure_arbitrage(rng.normal(-3.2, 0.65, size=5000)) for _ in range(300)]
    squares = 5000 * np.array([a.spread for a in found]) ** 2
    # Between chi-squared of K − 3 and of K − 1 degrees of freedom, up to O(1/n).
    error = squares.std(ddof=1) / math.sqrt(len(squares))
    assert 37 - 5 * error < squares.mean() < 39 + 5 * error + 1
    beyond = np.mean([a.spread > a.noise_limit for a in found])
    assert beyond < 0.01 + 5 * math.sqrt(0.01 / 300)
    distances = np.array([2 * 5000 * a.distance for a in found])
    assert 37 - 5 * error < distances.mean() < 39 + 5 * error


def test_utilities_are_uneven_on_a_gaussian():
    logs = np.log(np.abs(np.random.default_rng(0).normal(size=5000)))
    found = measure_arbitrage(logs)
    assert found.spread > 3 * found.noise_limit
    assert found.r_squared < 0.97


def test_coefficients_are_recovered_by_regression_and_by_moments():
    mu, sigma = -3.0, 0.65
    logs = np.random.default_rng(1).normal(mu, sigma, size=200_000)
    found = measure_arbitrage(logs)
    alpha, beta = utility.utility_coefficients(mu - math.log(found.scale), sigma)
    assert found.scale == pytest.approx(np.exp(logs.max()))
    assert found.alpha == pytest.approx(alpha, rel=0.02)
    assert found.beta == pytest.approx(beta, rel=0.02)
    assert found.regressed_alpha == pytest.approx(alpha, rel=0.03)
    assert found.regressed_beta == pytest.approx(beta, rel=0.05)
    assert found.r_squared > 0.999


def test_bin_utilities_agree_with_the_pointwise_formula_on_narrow_bins():
    mu, sigma, num = -1.0, 0.5, 4000
    logs = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000, mu, sigma)
    found = measure_arbitrage(logs, num_bins=num)
    middle = slice(num // 4, 3 * num // 4)
    density = stats.lognorm.pdf(found.centres, sigma, scale=np.exp(mu) / found.scale)
    pointwise = utility.effective_utility(
        found.centres, density, found.alpha, found.beta
    )
    np.testing.assert_allclose(
        found.utilities[middle], pointwise[middle], rtol=0, atol=0.02
    )


def test_a_regression_over_too_few_bins_gives_no_numbers():
    rng = np.random.default_rng(0)
    logs = np.concatenate([rng.normal(0, 1e-3, 58), [9.0, -9.0]])
    found = measure_arbitrage(logs)
    assert found.regressed_alpha is None
    assert found.r_squared is None
    assert found.spread > found.noise_limit
    assert fit_microstructure(np.exp(logs)).verdict == "not lognormal"


def test_layers_of_one_law_are_level_and_others_are_not():
    rng = np.random.default_rng(0)
    alike = {str(i): rng.lognormal(-3.0, 0.65, (60, 50 + 20 * i)) for i in range(4)}
    found = arbitrage_between_layers(alike)
    assert found.p_value > 0.01
    assert found.spread < 5 * found.noise_spread
    other = arbitrage_between_layers(alike | {"3": rng.lognormal(-2.5, 0.65, 3000)})
    assert other.p_value < 1e-6
    assert other.spread > 5 * other.noise_spread
    scaled = arbitrage_between_layers(alike, scaled=True)
    assert scaled.p_value is None
    assert set(scaled.levels) == set(alike)


def test_level_p_values_are_uniform_enough_under_the_null():
    rng = np.random.default_rng(7)
    values = [
        arbitrage_between_layers(
            {name: rng.lognormal(-3.0, 0.65, 1000) for name in "abc"}
        ).p_value
        for _ in range(200)
    ]
    assert np.mean(np.array(values) < 0.05) < 0.05 + 5 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(np.array(values) < 0.5) > 0.2


def test_arbitrage_refuses_what_it_cannot_bin():
    with pytest.raises(ValueError, match="`num_bins` must be at least 5"):
        measure_arbitrage(np.log(np.arange(1.0, 30.0)))
    with pytest.raises(ValueError, match="`logs` must be positive"):
        measure_arbitrage(np.zeros(100))
    with pytest.raises(ValueError, match="two or more layers"):
        arbitrage_between_layers({"a": np.arange(1.0, 100.0)})
    with pytest.raises(ValueError, match="`layers` must be finite"):
        arbitrage_between_layers({"a": np.full(99, np.nan), "b": np.ones(99)})


# Hopfield network and Boltzmann machine


def small_machine(num=6):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(num, num))
    weights = (weights + weights.T) / 2
    np.fill_diagonal(weights, 0.0)
    return weights, rng.normal(size=num)


def test_every_state_of_a_boltzmann_machine_has_one_effective_utility():
    weights, biases = small_machine()
    states = boltzmann.spin_states(6)
    gain = boltzmann.boltzmann_utility(states, weights, biases, 0.7)
    energy = [-0.5 * s @ weights @ s - biases @ s for s in states]
    np.testing.assert_allclose(gain, -np.array(energy) / 0.7)
    shares = boltzmann.equilibrium_shares(gain)
    partition = math.log(sum(math.exp(-e / 0.7) for e in energy))
    np.testing.assert_allclose(gain - np.log(shares), partition)


def test_gibbs_sampling_levels_the_utilities_up_to_counting_noise():
    weights, biases = small_machine(4)
    rng = np.random.default_rng(1)
    chains = 20_000
    s = rng.choice([-1.0, 1.0], size=(chains, 4))
    for _ in range(60):
        for i in range(4):
            field = s @ weights[i] + biases[i]
            s[:, i] = np.where(rng.random(chains) < 1 / (1 + np.exp(-2 * field)), 1, -1)
    counts = np.bincount(((s + 1) / 2 @ 2 ** np.arange(4)).astype(int), minlength=16)
    states = boltzmann.spin_states(4)
    gain = boltzmann.boltzmann_utility(states, weights, biases)
    used = counts > 0
    h = gain[used] - np.log(counts[used] / chains)
    share = counts[used] / chains
    spread = share @ (h - share @ h) ** 2
    # n · spread² is chi-squared with 15 degrees of freedom at equilibrium.
    assert chains * spread < stats.chi2.ppf(1 - 3e-7, 15)
    start = rng.choice([-1.0, 1.0], size=(chains, 4))
    counts = np.bincount(((start + 1) / 2 @ 2 ** np.arange(4)).astype(int))
    h = gain - np.log(counts / chains)
    assert chains * np.var(h) > 1000


def test_a_cold_boltzmann_machine_is_a_hopfield_network_on_its_patterns():
    pattern = np.array([[1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0]])
    weights = boltzmann.hebbian_weights(pattern)
    states = boltzmann.spin_states(8)
    gain = boltzmann.boltzmann_utility(states, weights, np.zeros(8), 0.05)
    shares = boltzmann.equilibrium_shares(gain)
    stored = np.abs(states @ pattern[0]) == 8
    assert stored.sum() == 2
    assert shares[stored].sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(shares[stored], 0.5, atol=1e-6)
    minimum = min(-0.5 * s @ weights @ s for s in states)
    for temperature in (0.05, 0.01):
        gain = boltzmann.boltzmann_utility(states, weights, np.zeros(8), temperature)
        h = gain - np.log(np.maximum(boltzmann.equilibrium_shares(gain), 1e-300))
        assert temperature * h[stored] == pytest.approx([-minimum] * 2, abs=temperature)


def test_the_lognormal_is_the_same_form_in_the_coordinate_of_its_logarithm():
    alpha, beta = 1.2, 0.9
    x = np.linspace(-3.0, 4.0, 50)
    gain = boltzmann.quadratic_utility(
        x[:, None], np.array([alpha + 1]), np.array([[2 * beta]])
    )
    mu, sigma = utility.equilibrium_distribution(alpha, beta)
    h = gain - stats.norm.logpdf(x, mu, sigma)
    np.testing.assert_allclose(h, h[0])


def test_boltzmann_machines_are_checked():
    weights, biases = small_machine(3)
    states = boltzmann.spin_states(3)
    with pytest.raises(ValueError, match="`temperature` must be positive; got 0"):
        boltzmann.boltzmann_utility(states, weights, biases, 0)
    with pytest.raises(ValueError, match="`weights` must be symmetric"):
        boltzmann.boltzmann_utility(states, np.triu(weights), biases)
    with pytest.raises(ValueError, match="`num_units` must lie between 1 and 20"):
        boltzmann.spin_states(40)
