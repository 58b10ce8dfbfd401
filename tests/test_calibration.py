import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_curve

from meanfield.prediction.calibration import reliability_curve, selective_curve
from meanfield.prediction.metrics import accuracy, brier, ece, nll
from meanfield.prediction.ood import ood_scores

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet([0.4] * 4, size=500)
LABELS = np.array([RNG.choice(4, p=p) for p in PROBS])


def test_scores_agree_with_scikit_learn():
    assert np.isclose(accuracy(PROBS, LABELS), accuracy_score(LABELS, PROBS.argmax(1)))
    assert np.isclose(nll(PROBS, LABELS), log_loss(LABELS, PROBS))
    binary = PROBS[:, :2] / PROBS[:, :2].sum(1, keepdims=True)
    labels = LABELS % 2
    # scikit-learn counts one of the two classes.
    expected = 2 * brier_score_loss(labels, binary[:, 1])
    assert np.isclose(brier(binary, labels), expected)


def test_a_wrong_certainty_costs_infinitely_many_nats():
    assert nll([[1.0, 0.0]], [1]) == np.inf
    assert brier([[1.0, 0.0]], [1]) == 2
    assert brier([[1.0, 0.0]], [0]) == 0


def test_bins_of_equal_counts_hold_all_examples_and_nearly_as_many_each():
    rng = np.random.default_rng(3)
    first = rng.uniform(0.5, 1.0, 1000)
    probs, labels = np.stack([first, 1 - first], 1), rng.integers(0, 2, 1000)
    curve = reliability_curve(probs, labels, 10, bins="counts")
    assert curve.counts.tolist() == [100] * 10
    for number in range(10):
        inside = (first >= curve.edges[number]) & (first < curve.edges[number + 1])
        assert curve.confidence[number] == pytest.approx(first[inside].mean())
        assert curve.accuracy[number] == pytest.approx((labels[inside] == 0).mean())
    # Equal confidences share a bin.
    tied = reliability_curve(np.full((50, 2), 0.5), np.zeros(50, int), bins="counts")
    assert sorted(tied.counts)[-1] == tied.counts.sum() == 50
    with pytest.raises(ValueError, match='`bins` must be "width" or "counts"'):
        reliability_curve(probs, labels, bins="equal")


def test_calibration_error_agrees_with_a_loop_over_bins():
    confidence, hits = PROBS.max(1), PROBS.argmax(1) == LABELS
    expected = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            gap = abs(hits[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert np.isclose(ece(PROBS, LABELS), expected)
    curve = reliability_curve(PROBS, LABELS)
    assert curve.counts.sum() == 500
    assert len(curve.edges) == 16
    assert np.isnan(curve.accuracy[0])
    assert curve.max_error >= curve.ece


def test_calibration_error_has_its_hand_computed_values():
    assert ece([[1.0, 0.0]] * 4, [0, 0, 0, 0]) == 0
    assert np.isclose(ece([[1.0, 0.0]] * 4, [0, 0, 1, 1]), 0.5)
    # Two bins: confidence .75 with accuracy 1, confidence .95 with accuracy 0.
    probs = [[0.75, 0.25], [0.95, 0.05]]
    assert np.isclose(ece(probs, [0, 1]), (0.25 + 0.95) / 2)
    assert np.isclose(ece(probs, [0, 1], num_bins=1), abs(0.5 - 0.85))


def test_the_selective_curve_has_its_hand_computed_values():
    curve = selective_curve([0.1, 0.4, 0.2, 0.3], [0, 1, 0, 1])
    assert np.allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    assert np.allclose(curve.risk, [0, 0, 1 / 3, 0.5])
    assert np.isclose(curve.area, (1 / 3 + 0.5) / 4)
    assert curve.risk_at(0.5) == 0
    assert np.isclose(curve.risk_at(0.6), 1 / 3)
    assert curve.risk_at(1.0) == 0.5


def test_ties_do_not_depend_on_the_order_of_the_data():
    errors = np.array([1, 0, 0, 1, 0, 1])
    doubt = np.array([0.5, 0.5, 0.5, 0.5, 0.9, 0.9])
    order = RNG.permutation(6)
    one, two = (
        selective_curve(doubt, errors),
        selective_curve(doubt[order], errors[order]),
    )
    assert np.allclose(one.risk, two.risk)
    shuffles = [
        selective_curve(doubt + 1e-9 * RNG.normal(size=6), errors).risk
        for _ in range(4000)
    ]
    spread = np.std(shuffles, 0) / np.sqrt(4000)
    assert (np.abs(np.mean(shuffles, 0) - one.risk) <= 5 * spread + 1e-12).all()


def test_out_of_distribution_scores_agree_with_pairs_and_the_roc_curve():
    inside, outside = RNG.normal(size=300).round(1), (RNG.normal(size=200) + 1).round(1)
    scores = ood_scores(inside, outside)
    pairs = outside[:, None] - inside[None]
    assert np.isclose(scores.auroc, (pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    # The training kind as positives, accepted where the uncertainty is low.
    labels = np.repeat([1, 0], [300, 200])
    false, true, _ = roc_curve(
        labels, -np.concatenate([inside, outside]), drop_intermediate=False
    )
    assert np.isclose(scores.fpr95, false[np.argmax(true >= 0.95)])


def test_perfect_and_reversed_detectors_have_exact_scores():
    perfect = ood_scores([0.0, 0.1], [0.8, 0.9])
    assert (perfect.auroc, perfect.aupr, perfect.fpr95) == (1, 1, 0)
    reversed_ = ood_scores([0.8, 0.9], [0.0, 0.1])
    assert (reversed_.auroc, reversed_.fpr95) == (0, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nll(PROBS, LABELS[:-1]), r"shape \(500,\)"),
        (lambda: nll(PROBS, LABELS.astype(float)), "whole numbers"),
        (lambda: ece(PROBS[:2], [0, 4]), "got 4 in row 1"),
        (lambda: brier([[0.2, 0.2]], [0]), "sum to 1"),
        (lambda: ece(PROBS, LABELS, num_bins=0), "`num_bins` must be"),
        (lambda: selective_curve([0.1], [0, 1]), "of one shape"),
        (lambda: selective_curve([np.nan], [0]), "must not be NaN"),
        (lambda: selective_curve([0.1], [0]).risk_at(0.0), "`coverage` must lie"),
        (lambda: ood_scores([], [0.1]), "`inside` must be a list"),
        (lambda: ood_scores([0.1], [np.nan]), "`outside` must be a list"),
    ],
)
def test_scores_of_bad_input_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
