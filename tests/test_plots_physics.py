"""Figures of the microstructure and renormalization instruments."""

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from meanfield import plots
from meanfield.physics.microstructure.lognormal_fit import (
    analyze_microstructure,
    fit_microstructure,
)
from meanfield.physics.renormalization.fitted_decimation import decimate_network
from meanfield.physics.renormalization.network_phase import analyze_renormalization


@pytest.fixture
def axis():
    return Figure().add_subplot()


def network(depth=4, width=12):
    rng = np.random.default_rng(0)
    return {
        f"{i}": {
            "weight": rng.normal(size=(width, width)) / width**0.5,
            "bias": 0.1 * rng.normal(size=width),
        }
        for i in range(depth)
    }


def test_the_fit_is_drawn_over_the_histogram_and_as_a_straight_line(axis):
    values = np.random.default_rng(0).lognormal(size=5000)
    fit = fit_microstructure(values)
    assert plots.log_magnitudes(values, fit, axis) is axis
    assert axis.get_title() == "lognormal"
    lognormal = axis.get_lines()[0].get_xydata()
    assert abs(np.trapezoid(lognormal[:, 1], lognormal[:, 0]) - 1) < 0.02
    assert lognormal[lognormal[:, 1].argmax(), 0] == pytest.approx(fit.mu, abs=0.05)
    other = Figure().add_subplot()
    assert plots.log_magnitude_quantiles(values, fit, other) is other
    points, line = (drawn.get_ydata() for drawn in other.get_lines())
    assert np.corrcoef(points, line)[0, 1] ** 2 > 0.99


@pytest.mark.parametrize("draw", [plots.log_magnitudes, plots.log_magnitude_quantiles])
@pytest.mark.parametrize("values", [np.zeros(9), np.full(99, np.nan), np.ones(200)])
def test_what_cannot_be_told_is_said_in_words(draw, values, axis):
    fit = fit_microstructure(values)
    assert draw(values, fit, axis) is axis
    (text,) = axis.texts
    assert text.get_text().startswith("cannot tell: ")


def test_utilities_and_verdicts_of_many_tensors_are_drawn(axis):
    fits = analyze_microstructure({n: p["weight"] for n, p in network().items()})
    chosen = {name: fit.arbitrage for name, fit in fits.items()}
    assert plots.utilities(chosen, axis) is axis
    assert len(axis.get_legend().get_texts()) == 4
    other = Figure().add_subplot()
    refused = fits | {"empty": fit_microstructure(np.zeros(3))}
    assert plots.microstructure_verdicts(refused, other) is other
    assert len(other.get_lines()) >= 4
    # Points are numbered; the legend says which tensor has the number.
    said = {text.get_text() for text in other.get_legend().get_texts()}
    numbered = {text.get_text() for text in other.texts}
    assert numbered == {str(number) for number in range(1, len(fits) + 1)}
    assert {f"{i}  {name}" for i, name in enumerate(fits, 1)} <= said


def test_phase_diagrams_hold_the_critical_line_and_every_layer(axis):
    result = analyze_renormalization(
        network(), key=jax.random.key(0), activation="tanh"
    )
    assert plots.phase_diagram({"net": result}, axis) is axis
    line, layers, *_ = axis.get_lines()
    assert line.get_xydata()[0] == pytest.approx([1.0, 0.0])
    assert len(layers.get_xdata()) == 4
    # The picture shows the layers' part of the plane, and says which is which.
    highest = layers.get_ydata().max()
    assert highest < axis.get_ylim()[1] < max(5 * highest, 0.011)
    names = {name.removesuffix("/weight") for name in result.layers}
    assert {text.get_text() for text in axis.texts} >= names


def test_complexity_shows_its_ceiling_and_which_bars_are_uncertain(axis):
    layers = {
        "a": {"marginal": 9.0, "joint": {"bits": 7.0}, "num_units": 10}
        | {"verdict": "measured"},
        "b": {"marginal": 5.0, "joint": None, "num_units": 6}
        | {"verdict": "few examples"},
    }
    plots.complexity(layers, axis)
    ceilings = [lines.get_segments()[0][0][1] for lines in axis.collections]
    assert ceilings == [10, 6]
    assert [bar.get_alpha() for bar in axis.containers[0]] == [None, 0.35]
    assert "too few examples" in axis.get_title()


def test_flows_are_drawn_in_both_phases(axis):
    starts = [(1.2, 0.05), (1.7609546396, 0.05), (2.0, 0.05)]
    assert plots.decimation_flow(starts, axis) is axis
    assert len(axis.texts) >= 6


def test_measured_flows_and_critical_slabs_are_drawn(axis):
    layers = [(p["weight"], p["bias"]) for p in network().values()]
    x = np.random.default_rng(1).normal(size=(200, 12))
    levels = decimate_network(layers, x, "tanh", key=jax.random.key(0))
    assert plots.measured_flow(levels, axis) is axis
    assert len(axis.get_lines()) == 4 + 2 + 1 + 1
    other = Figure().add_subplot()
    assert (
        plots.critical_slabs(
            other, activation="relu", bias_var=0.0, slab_vars=(0.0, 1.0)
        )
        is other
    )
    drawn = other.get_lines()[0].get_xydata()
    np.testing.assert_allclose(drawn[:, 1], 2 / (1 - drawn[:, 0]))
