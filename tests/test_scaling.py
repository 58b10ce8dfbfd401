"""Growth curves: power laws and what is confused with them."""

import json

import jax
import numpy as np
import pytest
from scipy.optimize import curve_fit

from meanfield.physics.complexity.growth_models import _logarithmic
from meanfield.physics.complexity.scaling import fit_scaling

KEY = jax.random.key(0)


T = np.geomspace(1, 1000, 40)
CURVES = {
    "power law": 5 * T**-0.3,
    "exponential": 5 * np.exp(-0.002 * T),
    "logarithmic": 9 - 1.2 * np.log(T),
}


@pytest.mark.parametrize("law", CURVES)
def test_each_law_is_told_from_the_others(law):
    noise = np.random.default_rng(1).normal(size=40)
    fit = fit_scaling(T, CURVES[law] * np.exp(0.01 * noise), key=KEY, num_bootstrap=60)
    assert fit.verdict == law
    assert fit.decades == 3.0
    assert fit.support[law] >= 0.95
    assert fit.block == 6
    json.dumps(fit.to_dict(), allow_nan=False)


def test_the_exponent_is_recovered_inside_its_interval():
    noise = np.random.default_rng(2).normal(size=40)
    fit = fit_scaling(T, 5 * T**-0.3 * np.exp(0.05 * noise), key=KEY, num_bootstrap=200)
    low, high = fit.interval
    assert low < -0.3 < high
    assert high - low < 0.03
    exact = fit_scaling(T, 5 * T**-0.3, key=KEY, num_bootstrap=20)
    np.testing.assert_allclose([exact.exponent, exact.prefactor], [-0.3, 5], rtol=1e-12)
    assert exact.verdict == "power law"
    assert exact.r_squared == 1.0


def test_no_law_is_claimed_over_less_than_a_decade_and_a_half():
    fit = fit_scaling(T, 5 * T**-0.3, key=KEY, t_min=30, t_max=900, num_bootstrap=20)
    assert fit.verdict == "cannot tell"
    assert "decades are fewer than 1.5" in fit.reason
    assert fit.num_points < 40


def test_noise_without_a_trend_is_no_law():
    for seed in range(5):
        y = np.exp(0.1 * np.random.default_rng(seed).normal(size=40))
        fit = fit_scaling(T, y, key=KEY, num_bootstrap=40)
        assert fit.verdict == "cannot tell"
    flat = fit_scaling(T, np.full(40, 2.0), key=KEY, num_bootstrap=20)
    assert flat.verdict == "cannot tell"
    assert "no trend" in flat.reason
    assert abs(flat.exponent) < 1e-12


def test_laws_that_look_alike_are_not_decided():
    y = 5 * T**-0.02 * np.exp(0.03 * np.random.default_rng(3).normal(size=40))
    fit = fit_scaling(T, y, key=KEY, num_bootstrap=60)
    assert fit.verdict == "cannot tell"
    assert "not decided" in fit.reason


def test_a_curve_that_bends_back_is_no_law():
    noise = np.random.default_rng(6).normal(size=40)
    y = np.exp(0.2 * np.log(T) - 0.02 * np.log(T) ** 2 + 0.01 * noise)
    fit = fit_scaling(T, y, key=KEY, num_bootstrap=60)
    assert fit.verdict == "cannot tell"
    assert "is bent" in fit.reason
    assert fit.aic["parabola"] == min(fit.aic.values())


def test_several_curves_are_drawn_whole():
    rng = np.random.default_rng(4)
    exponents = -0.3 + 0.05 * rng.normal(size=8)
    curves = 5 * T ** exponents[:, None]
    fit = fit_scaling(T, curves, key=KEY, num_bootstrap=200)
    np.testing.assert_allclose(fit.exponent, exponents.mean(), rtol=1e-9)
    width = (fit.interval[1] - fit.interval[0]) / (2 * 1.96)
    # 8 curves and 200 draws fix the bootstrap's own spread to about a tenth.
    np.testing.assert_allclose(width, exponents.std() / np.sqrt(8), rtol=0.3)
    assert fit.num_curves == 8
    assert fit.block == 0


def test_the_logarithmic_fit_is_the_least_squares_one():
    rng = np.random.default_rng(5)
    y = (9 - 1.2 * np.log(T)) * np.exp(0.1 * rng.normal(size=40))
    model = lambda t, a, b: np.log(np.maximum(a + b * np.log(t), 1e-9))
    best, _ = curve_fit(model, T, np.log(y), p0=[9, -1])
    rss = np.sum((model(T, *best) - np.log(y)) ** 2)
    np.testing.assert_allclose(_logarithmic(np.log(T), np.log(y)), rss, rtol=1e-6)


@pytest.mark.parametrize(
    ("t", "y", "message"),
    [
        (T, T[:9], r"shape \(points,\) or \(curves, points\)"),
        (T - 1, T, r"`t` must be positive and finite.* got 0.0 at \(0,\)"),
        (T, T - 1, "`y` must be positive and finite"),
        (T, T * np.nan, "`y` must be positive and finite"),
        (T[::-1], T, "`t` must increase"),
        (T, np.stack([T, T]), "one curve or at least three"),
        (T[:7], T[:7], "at least 8 points between 1 and 2.8.*; got 7"),
    ],
)
def test_curves_that_cannot_be_fitted_are_refused(t, y, message):
    with pytest.raises(ValueError, match=message):
        fit_scaling(t, y, key=KEY)
    with pytest.raises(ValueError, match="`num_bootstrap` must be at least 20"):
        fit_scaling(T, T, key=KEY, num_bootstrap=3)


def test_the_best_of_poor_fits_is_no_power_law():
    t = np.logspace(0, 3, 40)
    noise = np.random.default_rng(0).normal(size=40)
    fit = fit_scaling(t, t**-0.02 * np.exp(0.08 * noise), key=jax.random.key(0))
    assert fit.r_squared < 0.9
    assert fit.verdict != "power law"
