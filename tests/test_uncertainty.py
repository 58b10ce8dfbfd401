import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy, norm

from meanfield.prediction.uncertainty import (
    ClassSums,
    TargetSums,
    coverage,
    credible_interval,
    decompose_classes,
    decompose_targets,
    entropy,
)

RNG = np.random.default_rng(0)
DRAWS = RNG.dirichlet([0.5, 1.0, 2.0], size=(40, 6))


def test_entropies_agree_with_scipy_and_add_up():
    split = decompose_classes(DRAWS)
    assert np.allclose(split.mean, DRAWS.mean(0))
    assert np.allclose(split.total, scipy_entropy(DRAWS.mean(0), axis=-1))
    assert np.allclose(split.aleatoric, scipy_entropy(DRAWS, axis=-1).mean(0))
    assert np.allclose(split.total, split.aleatoric + split.epistemic)


def test_epistemic_entropy_is_the_mean_divergence_from_the_mean():
    split = decompose_classes(DRAWS)
    divergence = scipy_entropy(DRAWS, DRAWS.mean(0, keepdims=True), axis=-1)
    assert np.allclose(split.epistemic, divergence.mean(0))


def test_certain_and_unanimous_draws_have_exact_limits():
    same = decompose_classes(np.repeat(DRAWS[:1], 5, 0))
    assert np.allclose(same.epistemic, 0, atol=1e-12)
    torn = decompose_classes(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert np.isclose(torn.epistemic[0], np.log(2))
    assert torn.aleatoric[0] == 0
    assert entropy([1.0, 0.0]) == 0


def test_variances_follow_the_law_of_total_variance():
    means = RNG.normal(size=(30, 4, 2))
    noise = RNG.uniform(0.1, 1.0, size=(30, 4, 2))
    split = decompose_targets(zip(means, noise, strict=True))
    assert np.allclose(split.mean, means.mean(0))
    assert np.allclose(split.aleatoric, noise.mean(0))
    assert np.allclose(split.epistemic, means.var(0))
    assert np.allclose(split.total, noise.mean(0) + means.var(0))


def test_the_spread_of_large_means_keeps_its_digits():
    means = 1e8 + RNG.normal(size=(500, 3))
    split = decompose_targets((mean, np.zeros(3)) for mean in means)
    assert np.allclose(split.epistemic, (means - 1e8).var(0), rtol=1e-6)


def test_sums_take_one_draw_at_a_time():
    sums = ClassSums()
    for probs in DRAWS:
        sums = sums.add(probs)
    assert sums.num_samples == 40
    assert sums.probs.shape == (6, 3)
    assert np.allclose(sums.decompose().total, decompose_classes(DRAWS).total)


def test_a_credible_interval_holds_its_share():
    samples = RNG.normal(size=(20_000, 3))
    lower, upper = credible_interval(samples, 0.9)
    assert np.allclose(upper, norm.ppf(0.95), atol=0.06)
    assert np.allclose(lower, -norm.ppf(0.95), atol=0.06)


def test_coverage_of_a_calibrated_forecast_is_nominal():
    n, nominal = 20_000, np.array([0.5, 0.8, 0.95])
    error = np.sqrt(nominal * (1 - nominal) / n)
    right = coverage(norm.cdf(RNG.normal(size=n)), nominal)
    assert (np.abs(right - nominal) < 5 * error).all()
    proud = coverage(norm.cdf(2 * RNG.normal(size=n)), nominal)
    assert (
        np.abs(proud - (2 * norm.cdf(norm.ppf((1 + nominal) / 2) / 2) - 1)) < 0.02
    ).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: decompose_classes([[[0.5, 0.6]]]), "sum to 1.*row 0"),
        (lambda: decompose_classes([[[1.5, -0.5]]]), "sum to 1.*row 0"),
        (lambda: decompose_classes([[[np.nan, 0.5]]]), "sum to 1.*row 0"),
        (lambda: decompose_classes([[0.5, 0.5]]), r"\(batch, classes\)"),
        (lambda: decompose_classes([]), "There must be a draw"),
        (lambda: decompose_targets([]), "There must be a draw"),
        (lambda: TargetSums().add([0.0, 1.0], [0.1, -0.1]), r"first at index \(1,\)"),
        (lambda: TargetSums().add([np.inf], [0.1]), "must be finite"),
        (lambda: credible_interval(DRAWS, 1.0), "`level` must lie"),
        (lambda: credible_interval([], 0.5), "draws along its first axis"),
        (lambda: coverage([0.2, 1.2]), "`levels` must be probabilities"),
        (lambda: coverage([0.2], 95), "`nominal` must be probabilities"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
