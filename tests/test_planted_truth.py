"""Error rates of the experiment on planted truth, against slow, obvious versions."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from planted import truth
from planted.designs import convolution, recurrence, sun

DESIGNS = {"sun": lambda: sun(12), "convolution": convolution, "recurrence": recurrence}


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    scores, matter = rng.integers(0, 4, 30), rng.random(30) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in scores[matter] for b in scores[~matter]]
    assert truth.area(scores, matter) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("name", DESIGNS)
def test_units_in_another_order_are_found_again(name):
    """A network with the planted connections alone, its units shuffled, is perfect."""
    design, rng = DESIGNS[name](), np.random.default_rng(1)
    shuffled = {n: part.copy() for n, part in design.truth.items()}
    for group in design.hidden:
        path, axis = group[0]
        order = np.roll(np.arange(shuffled[path].shape[axis]), 1)
        for path, axis in group:
            shuffled[path] = shuffled[path].take(order, axis)
    kept = truth.flat(shuffled, design)
    assert any((shuffled[n] != design.truth[n]).any() for n in shuffled)
    found = truth.flat(truth.arranged(design, shuffled), design)
    assert truth.rates(kept, found) == (1.0, 0.0)
    noise = {n: part + 0.4 * rng.random(part.shape) for n, part in shuffled.items()}
    assert truth.connection_area(design, noise) == 1.0


def test_a_calibrated_probability_has_no_gap():
    probs = np.repeat([0.05, 0.45, 0.95], 1000)
    matter = np.concatenate([np.arange(1000) < 1000 * p for p in (0.05, 0.45, 0.95)])
    found = truth.calibration(probs, matter)
    assert found["calibration gap"] == pytest.approx(0, abs=1e-9)
    assert found["true of 1-pi > 0.9"] == pytest.approx(0.95)
    assert found["true of 1-pi < 0.1"] == pytest.approx(0.05)
    assert truth.calibration(1 - probs, matter)["calibration gap"] > 0.5
