"""Pictures: they show the numbers given, on the axis given, and touch nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import meanfield as mf
from meanfield import plots
from meanfield.credit.perturbation import Perturbation
from meanfield.plots.credit_network import strongest_paths
from meanfield.plots.dark import INK, PAPER, darken
from meanfield.plots.weights import ARM_NAMES, LABEL_STYLE

RNG = np.random.default_rng(0)
WEIGHT = mf.SpikeSlab(
    np.clip(RNG.normal(0.3, 0.5, (30, 20)), 0, 1),
    RNG.normal(size=(30, 20)),
    np.maximum(RNG.normal(0.01, 0.02, (30, 20)), 0),
)
FRACTIONS = {
    "layers/0/weight": {"important": 0.2, "absent": 0.5, "variable": 0.3},
    "layers/1/weight": {"important": 0.1, "absent": 0.0, "variable": 0.9},
}
ENTROPY = {"layers/0/weight": -1.0, "layers/1/weight": 0.5, "layers/2/weight": -2.0}
HISTORY = {"epoch": [1, 2, 3], "nll": [2.0, 1.0, 0.5], "val_accuracy": [0.3, 0.5, 0.6]}


def perturbed():
    errors = {
        arm: RNG.random((3, 4)) for arm in ("important", "variable", "random", "absent")
    }
    available = {"important": 5, "variable": 5, "random": 9, "absent": 0}
    counts = {arm: np.zeros(3, int) for arm in errors}
    return Perturbation(
        np.array([0, 0.5, 1.0]), errors, counts, available, "error", ("w",)
    )


BINS = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.6, 0.8]), np.array([3, 0, 40])
VALUES, LEVELS = RNG.normal(size=12), RNG.random(12)
DRAWINGS = {
    "landscape": lambda axis: plots.landscape(WEIGHT, axis),
    "label_fractions": lambda axis: plots.label_fractions(FRACTIONS, axis),
    "entropy_by_layer": lambda axis: plots.entropy_by_layer(ENTROPY, axis),
    "perturbation_curves": lambda axis: plots.perturbation_curves(perturbed(), axis),
    "training_history": lambda axis: plots.training_history(HISTORY, axis),
    "reliability_diagram": lambda axis: plots.reliability_diagram(*BINS, axis),
    "predictions": lambda axis: plots.predictions(VALUES, VALUES, LEVELS, axis),
    "interval_coverage": lambda axis: plots.interval_coverage({"a": LEVELS}, axis),
    "payoff_curves": lambda axis: plots.payoff_curves({"order": VALUES}, axis),
    "shapley_values": lambda axis: plots.shapley_values(VALUES, None, axis),
}


CREDIT = SimpleNamespace(
    nodes=np.array([0.2, 0.5, 0.8]),
    path_payoff=np.array([0.1, 0.2, 0.8]),
    path_errors=np.full(3, 0.01),
    empty_payoff=0.1,
    payoff=0.9,
    payoff_name="log_likelihood",
    check=SimpleNamespace(
        nodes=np.array([0.2, 0.5, 0.8]),
        drawn_payoff=np.array([0.1, 0.3, 0.7]),
        drawn_errors=np.full(3, 0.02),
    ),
)
DRAWINGS |= {
    "payoff_by_density": lambda axis: plots.payoff_by_density(CREDIT, axis),
    "value_against_magnitude": lambda axis: plots.value_against_magnitude(
        {"w": WEIGHT.slab_mean}, {"w": abs(WEIGHT.slab_mean)}, axis
    ),
}


def test_credit_maps_share_one_scale_and_show_their_numbers():
    maps = {"0": RNG.normal(size=(4, 3)), "1": np.zeros((4, 3)), "2": np.ones((4, 3))}
    axis = plots.credit_maps(maps, columns=2)
    (image,) = axis.images
    shown = np.asarray(image.get_array())
    np.testing.assert_array_equal(shown[2:6, :3], maps["0"])
    np.testing.assert_array_equal(shown[2:6, 4:7], maps["1"])
    np.testing.assert_array_equal(shown[8:12, :3], maps["2"])
    reach = max(abs(maps["0"]).max(), 1)
    assert image.get_clim() == (-reach, reach)
    assert [text.get_text() for text in axis.texts] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="images \\(height, width\\) of one shape"):
        plots.credit_maps({"0": np.zeros((2, 2)), "1": np.zeros((3, 2))})


def test_the_payoff_by_density_marks_where_it_rises_fastest():
    axis = plots.payoff_by_density(CREDIT)
    assert plots.valuations.steepest_density(CREDIT) == 0.8
    assert any("steepest at 0.80" in text.get_text() for text in axis.legend_.texts)
    with pytest.raises(ValueError, match="names and shapes of `values`"):
        plots.value_against_magnitude({"w": np.ones(3)}, {"w": np.ones(4)})


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_is_drawn_on_the_axis_given_labelled_and_returned(name):
    axis = Figure().subplots()
    assert DRAWINGS[name](axis) is axis
    assert axis.get_xlabel()
    assert axis.get_ylabel()
    assert axis.has_data()


@pytest.mark.parametrize("name", DRAWINGS)
def test_without_an_axis_a_figure_is_made_and_saved_whole(name, tmp_path):
    axis = DRAWINGS[name](None)
    assert isinstance(axis, Axes)
    plots.save(axis, tmp_path / "plots" / f"{name}.png")
    content = (tmp_path / "plots" / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000
    assert len(list((tmp_path / "plots").iterdir())) == 1


def test_drawing_leaves_pyplot_alone():
    import matplotlib.pyplot

    before = matplotlib.pyplot.get_fignums()
    for draw in DRAWINGS.values():
        draw(None)
    assert matplotlib.pyplot.get_fignums() == before


def test_an_unknown_ending_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="`path` must end in one of"):
        plots.save(plots.new_axis(), tmp_path / "picture.txt")
    assert list(tmp_path.iterdir()) == []


def test_the_landscape_shows_every_weight_and_its_exact_zeros():
    axis = plots.landscape(WEIGHT)
    (points,) = axis.collections
    shown = np.sort(np.asarray(points.get_offsets()), axis=0)
    expected = np.stack([np.ravel(WEIGHT.slab_mean), np.ravel(WEIGHT.slab_var)], 1)
    assert shown == pytest.approx(np.sort(expected, axis=0))
    assert np.sort(np.asarray(points.get_array())) == pytest.approx(
        np.sort(np.ravel(WEIGHT.spike_prob))
    )
    low, high = axis.get_ylim()
    assert low < 0 < float(WEIGHT.slab_var.max()) < high
    assert 0 in axis.get_yticks()


def test_the_landscape_marks_labels_and_what_never_learned():
    labels = np.full(WEIGHT.shape, mf.Label.VARIABLE, np.int8)
    labels[0], dead = mf.Label.IMPORTANT, np.zeros(WEIGHT.shape, bool)
    labels[1], dead[2] = mf.Label.ABSENT, True
    axis = plots.landscape(WEIGHT, labels=labels, never_learned=dead, name="first")
    counts = {part.get_label(): len(part.get_offsets()) for part in axis.collections}
    assert counts == {
        "absent (20)": 20,
        "variable (540)": 540,
        "important (20)": 20,
        "never learned (20)": 20,
    }
    assert axis.get_title() == "first: 600 connections"
    # The colours span what occurs, the same for all marks.
    spikes = np.ravel(WEIGHT.spike_prob)
    (limits,) = {part.get_clim() for part in axis.collections}
    assert limits == pytest.approx((spikes.min(), spikes.max()))
    with pytest.raises(ValueError, match=r"`labels` must have the shape \(30, 20\)"):
        plots.landscape(WEIGHT, labels=labels[:3])


def test_a_curve_marks_what_was_chosen_and_what_was_asked():
    curves = {"a": [0.1, 0.5, 0.9, 0.92]}
    axis = plots.payoff_curves(curves, chosen=2, threshold=0.9, title="first layer")
    labels = [line.get_label() for line in axis.get_lines()]
    assert labels == ["a", "threshold: 0.9", "chosen: 2"]
    assert axis.get_title() == "first layer"


def test_what_falls_tenfold_has_a_logarithmic_axis_and_its_base_rate():
    axis = plots.training_history({"nll": [2.0, 0.5, 0.1]}, base_rate=2.3)
    assert axis.get_yscale() == "log"
    assert axis.get_lines()[1].get_ydata()[0] == 2.3
    assert plots.training_history({"nll": [2.0, 0.5]}).get_yscale() == "linear"


def test_prices_have_logarithmic_axes_and_all_predictions_their_share():
    prices = np.geomspace(10.0, 5_000.0, 40)
    axis = plots.predictions(prices, 1.1 * prices, 2 * prices)
    assert axis.get_xscale() == axis.get_yscale() == "log"
    share = 1 - (0.01 * prices**2).mean() / prices.var()
    assert axis.get_title() == f"Predictions: N = 40, R² = {share:.3f}"
    assert plots.predictions(prices - 20, prices, prices).get_xscale() == "linear"


def test_coverage_is_said_in_words():
    axis = plots.interval_coverage({"price": np.linspace(0, 1, 41)})
    inside = (np.abs(np.linspace(-1, 1, 41)) <= 0.95).mean()
    said = f"95 % intervals hold {100 * inside:.1f} % of the targets"
    assert axis.get_title() == said


def test_a_large_layer_is_thinned_the_same_way_each_time():
    first, second = (
        plots.landscape(WEIGHT, max_points=50).collections[0] for _ in range(2)
    )
    assert len(first.get_offsets()) == 50
    assert (first.get_offsets() == second.get_offsets()).all()


def test_a_landscape_of_certain_weights_can_be_drawn(tmp_path):
    zeros = np.zeros((3, 3))
    axis = plots.landscape(mf.SpikeSlab(zeros, zeros + 1, zeros))
    plots.save(axis, tmp_path / "certain.png")


def test_pale_connections_are_seen_in_the_legend():
    zeros = np.zeros((1, 2))
    labels = np.array([[mf.Label.ABSENT, mf.Label.IMPORTANT]])
    axis = plots.landscape(mf.SpikeSlab(zeros, zeros + 1, zeros + 1), labels=labels)
    marks = axis.get_legend().legend_handles
    assert [mark.get_alpha() for mark in marks] == [1, 1]


def test_bars_hold_the_fractions_and_stack_to_one():
    axis = plots.label_fractions(FRACTIONS)
    heights = {
        bars.get_label(): [patch.get_height() for patch in bars]
        for bars in axis.containers
    }
    expected = {"important": [0.2, 0.1], "variable": [0.3, 0.9], "absent": [0.5, 0]}
    assert {name: pytest.approx(parts) for name, parts in heights.items()} == expected
    tops = [patch.get_y() + patch.get_height() for patch in axis.containers[-1]]
    assert tops == pytest.approx([1, 1])
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    assert ticks == ["layers/0", "layers/1"]


def test_entropy_curves_show_means_and_spread_of_several_runs():
    runs = {"a": [1.0, 3.0], "b": [0.0, 1.0]}
    axis = plots.entropy_by_layer({"10k": runs, "20k": {"a": 1.0, "b": 2.0}})
    lines = {bars.get_label(): bars.lines[0] for bars in axis.containers}
    assert lines["10k"].get_ydata().tolist() == [2.0, 0.5]
    assert lines["20k"].get_ydata().tolist() == [1.0, 2.0]
    (spread,) = axis.containers[0].lines[2]
    ends = np.array(spread.get_segments())[:, :, 1]
    half = np.std([1.0, 3.0], ddof=1), np.std([0.0, 1.0], ddof=1)
    assert ends == pytest.approx(
        np.array([[2 - half[0], 2 + half[0]], [0.5 - half[1], 0.5 + half[1]]])
    )


def test_perturbation_curves_leave_out_an_arm_with_nothing_to_change():
    found = perturbed()
    axis = plots.perturbation_curves(found)
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    names = [ARM_NAMES[arm] for arm in ("important", "variable", "random")]
    assert list(lines) == names
    assert lines[names[0]] == pytest.approx(found.mean["important"])
    assert axis.get_ylabel() == "error"


def test_a_history_without_the_names_is_refused():
    axis = plots.training_history(HISTORY, names=("val_accuracy",))
    assert axis.lines[0].get_ydata() == pytest.approx([0.3, 0.5, 0.6])
    assert axis.get_ylabel() == "accuracy"
    with pytest.raises(ValueError, match="`names` must name entries of the history"):
        plots.training_history(HISTORY, names=("kl",))


def test_empty_bins_are_not_drawn():
    axis = plots.reliability_diagram(*BINS)
    assert axis.containers[0].lines[0].get_xdata().tolist() == [0.2, 0.9]
    with pytest.raises(ValueError, match="one number per bin"):
        plots.reliability_diagram([0.1, 0.2], [0.1], [1])


def test_the_share_inside_an_interval_is_read_off_the_curve():
    axis = plots.interval_coverage({"a": LEVELS, "b": LEVELS**2})
    for line, u in zip(axis.lines[1:], (LEVELS, LEVELS**2), strict=True):
        level, share = line.get_data()
        for q in (0.3, 0.5, 0.95):
            inside = np.mean((u >= (1 - q) / 2) & (u <= (1 + q) / 2))
            assert share[level <= q][-1] == pytest.approx(inside)
    with pytest.raises(ValueError, match="`levels` must have at least one target"):
        plots.interval_coverage({})
    with pytest.raises(ValueError, match="one number per example"):
        plots.predictions([1.0], [1.0, 2.0], [1.0])


def test_payoff_repetitions_become_a_band():
    values = np.stack([np.arange(5.0), np.arange(5.0) + 2], 1)
    axis = plots.payoff_curves({"random": values, "shapley": np.arange(5.0)})
    assert axis.lines[0].get_ydata().tolist() == [1, 2, 3, 4, 5]
    assert len(axis.collections) == 1


def test_shapley_values_fall_and_members_are_told_by_shape():
    mask = VALUES > 0
    intervals = np.stack([VALUES - 0.1, VALUES + 0.1], 1)
    axis = plots.shapley_values(VALUES, intervals, mask=mask)
    inside, outside = axis.lines[:2]
    assert (np.diff(inside.get_ydata()) <= 0).all()
    assert len(inside.get_ydata()) == mask.sum()
    assert outside.get_markerfacecolor() == "none"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.label_fractions({}), "`fractions` is empty"),
        (lambda: plots.entropy_by_layer({}), "`entropies` is empty"),
        (lambda: plots.payoff_curves({}), "`curves` must have at least one"),
        (lambda: plots.shapley_values([]), "`values` must hold"),
        (
            lambda: plots.landscape(mf.SpikeSlab(*3 * [np.zeros((0, 2))])),
            "`weight` is empty",
        ),
    ],
)
def test_nothing_to_draw_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_neighbouring_colours_differ_in_lightness_too():
    # Rec. 709 luminance: what is left of a colour in grey print.
    def lightness(colour):
        return np.dot(to_rgb(colour), [0.2126, 0.7152, 0.0722])

    colours = [lightness(colour) for colour, _ in LABEL_STYLE.values()]
    gaps = np.abs(np.subtract.outer(colours, colours))[np.triu_indices(3, 1)]
    assert gaps.min() > 0.05


def test_a_network_is_drawn_with_its_coalitions():
    masks = {"a": np.array([True, False, True]), "b": np.array([False, True])}
    weight = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]])
    axis = plots.coalition_network(masks, [weight])
    lines = [line for line in axis.lines if len(line.get_xdata()) == 2]
    between = [line for line in lines if list(line.get_xdata()) == [0, 1]]
    # Only members are joined: a0 and a2 with b1, the larger weight thicker.
    widths = sorted(line.get_linewidth() for line in between)
    np.testing.assert_allclose(widths, [0.4, 1.2])
    assert {line.get_linestyle() for line in between} == {"-", "--"}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        "a\n2 of 3",
        "b\n1 of 2",
    ]
    with pytest.raises(ValueError, match="`weights` 0 must have shape"):
        plots.coalition_network(masks, [weight.T])
    with pytest.raises(ValueError, match="`masks` must have at least one"):
        plots.coalition_network({})


def test_values_without_a_finite_interval_are_drawn_without_one():
    axis = plots.shapley_values([1.0, 2.0], [[-np.inf, np.inf], [1.0, 3.0]])
    (bars,) = axis.collections
    assert len(bars.get_segments()) == 1


# Credit across the network


def test_paths_share_the_credit_of_every_output():
    first, second = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 4))
    paths = strongest_paths([first, second], 1000)
    for output in range(3):
        total = np.maximum(second[output], 0).sum()
        reached = [w for path, w in paths if path[-1] == output]
        np.testing.assert_allclose(sum(reached), total)
    weights = [weight for _, weight in paths]
    assert weights == sorted(weights, reverse=True)
    assert [path for path, _ in strongest_paths([first, second], 3)] == [
        path for path, _ in paths[:3]
    ]
    (i, j, k), weight = paths[0]
    positive = np.maximum(first[j], 0)
    share = positive[i] / positive.sum()
    np.testing.assert_allclose(weight, second[k, j] * share)


def test_paths_need_layers_that_follow_one_another():
    with pytest.raises(ValueError, match="`values` must be matrices"):
        plots.credit_paths([np.ones((4, 5)), np.ones((3, 6))])
    with pytest.raises(ValueError, match="must have a path of positive values"):
        plots.credit_paths([-np.ones((2, 2))])


def test_scales_draw_one_sum_and_refuse_two():
    values = {"a": RNG.normal(1, 1, (4, 5)), "b": RNG.normal(1, 1, (3, 4))}
    sums = {name: array.sum(1) for name, array in values.items()}
    mask = {"a": [True, False, True, False]}
    axis = plots.credit_scales(sums, values, coalitions=mask)
    payoff = [p for p in axis.patches if round(p.get_y() + p.get_height() / 2) == 3]
    total = sum(array.sum() for array in values.values())
    np.testing.assert_allclose(sum(p.get_width() for p in payoff), total)
    with pytest.raises(ValueError, match="must sum to the values of its connections"):
        plots.credit_scales({**sums, "a": sums["a"] + 1}, values)
    with pytest.raises(ValueError, match="must have the layers of `neurons`"):
        plots.credit_scales({"a": sums["a"]}, values)


def test_scales_state_the_gap_and_draw_the_other_game_apart():
    values = {"a": RNG.normal(1, 1, (4, 5)), "b": RNG.normal(1, 1, (3, 4))}
    sums = {"a": values["a"].sum(1), "b": None}
    total = sum(array.sum() for array in values.values())
    units = {"a": np.array([3.0, -1.0, 2.0, 0.5])}
    axis = plots.credit_scales(sums, values, gain=total - 0.25, units=units)
    rows = {}
    for patch in axis.patches:
        row = round(patch.get_y() + patch.get_height() / 2, 1)
        rows.setdefault(row, []).append(patch.get_width())
    assert sorted(rows) == [-1.5, 0, 1, 2, 3]
    np.testing.assert_allclose(sum(rows[3]), total - 0.25)
    for row in (0, 2):
        np.testing.assert_allclose(sum(rows[row]), total)
    np.testing.assert_allclose(sorted(rows[1]), np.sort(sums["a"]))
    np.testing.assert_allclose(sorted(rows[-1.5]), np.sort(units["a"]))
    assert "(gap +0.2)" in axis.get_title()


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_every_picture_can_be_read_on_a_dark_page(name):
    axis = plots.new_axis()
    DRAWINGS[name](axis)
    lines = [line for line in axis.get_lines() if len(line.get_xdata())]
    darken(axis)
    paper = axis.figure.get_facecolor()
    assert paper[:3] == axis.get_facecolor()[:3] == pytest.approx(PAPER)
    assert tuple(axis.title.get_color()[:3]) == pytest.approx(INK)
    # Black on white has a contrast of 21; text needs 4.5, and lines 3.
    texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels()]
    assert min(_contrast(text.get_color(), paper) for text in texts) > 12
    assert all(_contrast(to_rgb(line.get_color()), paper) > 3 for line in lines)


def _contrast(first, second):
    """Contrast of two colours by the definition of WCAG 2.1."""

    def luminance(colour):
        rgb = np.asarray(colour[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)
