"""The experiment that holds the mean field against exact posteriors."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from oracles_spikeslab import linear_posterior

FOLDER = str(Path(__file__).parents[1] / "experiments")


@pytest.fixture(scope="module")
def experiment():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("posterior_oracles")


def even_coins(mask):
    return len(mask) * math.log(0.5)


def test_the_sum_over_spikes_is_the_slow_one(experiment):
    x, y = experiment.problem(0)
    columns = experiment.features(x)[:, :6].astype(float)
    noise = experiment.NOISE
    _, mean, var, _ = linear_posterior(columns, y, noise, 1.0, even_coins)
    # With the unit vectors for a grid, the predictions are the weights themselves.
    found_mean, found_var = experiment.enumerate_spikes(columns, y, np.eye(6))
    np.testing.assert_allclose(found_mean, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found_var, var, rtol=1e-8, atol=1e-10)


def test_the_best_of_several_starts_predicts_as_the_exact_posterior(
    experiment, monkeypatch
):
    for name, value in (("STARTS", 32), ("STEPS", 800), ("SCORE_PARTICLES", 200)):
        monkeypatch.setattr(experiment, name, value)
    draws, bound, mean, variance, _ = experiment.compare("enumerated", 0)
    differ = experiment.distance(draws.mean(0), mean, variance)
    assert differ < experiment.BOUND
    x, y = experiment.problem(0)
    columns = experiment.features(x).astype(float)
    evidence, *_ = linear_posterior(columns, y, experiment.NOISE, 1.0, even_coins)
    assert bound < evidence
