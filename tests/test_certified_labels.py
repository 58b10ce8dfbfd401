"""Labels with a certificate: bounds, level, orders, and what cannot be told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import meanfield as mf
from meanfield.credit import bounds, removal
from meanfield.credit.connections import connections
from meanfield.credit.nested_sets import NestedSets, ranks_of

KEY = jax.random.key(3)
I, A, V = mf.Label.IMPORTANT, mf.Label.ABSENT, mf.Label.VARIABLE
# Features that examples are made of, and how often each comes.
OFTEN = np.array([0.4, 0.25, 0.2, 0.1, 0.04, 0.006, 0.003, 0.001])


def features(num_examples, seed, often=OFTEN):
    """Each example has one of the features, and the answer is always 1."""
    picked = np.random.default_rng(seed).choice(len(often), num_examples, p=often)
    x = np.eye(len(often), dtype=np.float32)[picked]
    return x, np.ones(num_examples, int)


def voters(means, bias=-1.0):
    """A connection of each feature that says 1; without it the answer is 0."""
    weight = jnp.asarray(means, jnp.float32)[:, None]
    weight = mf.SpikeSlab(jnp.zeros_like(weight), weight, jnp.full_like(weight, 1e-4))

    def network(params, x):
        vote = x @ params["w"]
        return jnp.concatenate([jnp.zeros_like(vote), vote + bias], -1)

    return mf.Ensemble.from_model(
        (network, {"w": jnp.zeros(weight.shape)}), initial=lambda *_: weight
    )


# Bounds


@pytest.mark.parametrize(("count", "number"), [(0, 30), (3, 40), (40, 40), (17, 900)])
def test_binomial_bounds_are_those_of_scipy(count, number):
    interval = stats.binomtest(count, number).proportion_ci(0.9, method="exact")
    assert np.isclose(bounds.largest_prob(count, number, 0.05), interval.high)
    assert np.isclose(bounds.smallest_prob(count, number, 0.05), interval.low)


def test_the_exact_bound_joins_losses_and_gains():
    differences = np.array([1.0] * 5 + [-1.0] * 3 + [0.0] * 92)
    lost = stats.binomtest(5, 100).proportion_ci(0.95, method="exact").high
    won = stats.binomtest(3, 100).proportion_ci(0.95, method="exact").low
    found = bounds.upper_bound(differences, 0.05, exact=True)
    assert np.isclose(found, lost - won)


def test_the_bernstein_bound_is_its_formula():
    differences = np.random.default_rng(0).uniform(-0.2, 0.7, 60)
    mean, var, log = differences.mean(), differences.var(ddof=1), np.log(2 / 0.1)
    expected = mean + np.sqrt(2 * var * log / 60) + 14 * log / (3 * 59)
    found = bounds.upper_bound(differences, 0.1, exact=False)
    assert np.isclose(found, expected)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("epsilon", [0.01, 0.2])
def test_the_examples_that_are_needed_are_just_enough(exact, epsilon):
    needed = bounds.examples_needed(epsilon, 0.05, exact=exact)
    for number, enough in ((needed, True), (needed - 1, False)):
        found = bounds.upper_bound(np.zeros(number), 0.05, exact=exact)
        assert (found <= epsilon) == enough
    least = bounds.smallest_epsilon(needed, 0.05, exact=exact)
    assert least <= epsilon < 1.2 * least


@pytest.mark.parametrize("exact", [True, False])
def test_bounds_fail_no_more_often_than_they_say(exact):
    rng, failures, repeats = np.random.default_rng(1), 0, 2000
    for _ in range(repeats):
        drawn = rng.choice([1.0, -1.0, 0.0], 60, p=[0.2, 0.1, 0.7])
        failures += bounds.upper_bound(drawn, 0.1, exact=exact) < 0.1
    assert failures / repeats <= 0.1 + 2 * np.sqrt(0.09 / repeats)


# The level


def test_the_level_is_kept_over_200_repetitions_with_a_known_answer():
    """Without features S the payoff falls by exactly their frequency."""
    order = np.argsort(OFTEN)
    ranks = ranks_of({"w": OFTEN})
    failures = np.zeros(2)
    for seed in range(200):
        rng = np.random.default_rng(seed)

        def without(picked):
            return lambda ranks, size: (ranks["w"][picked] >= size).astype(float)

        halves = [without(rng.choice(8, 600, p=OFTEN)) for _ in range(2)]
        search = NestedSets(*halves, 8, 0.05, exact=True)
        # Four features lose 0.05 together, three 0.01.
        going, _, _ = search.removable(ranks, 0.04)
        failures[0] += OFTEN[order[:going]].sum() > 0.04
        staying = ranks_of({"w": np.where(ranks["w"] < going, np.inf, -OFTEN)})
        number, _, _ = search.carrying(staying, going)
        lost = np.sort(OFTEN)[::-1][:number].sum()
        failures[1] += 0 < lost < 0.8
    assert (failures / 200 <= 0.05 + 2 * np.sqrt(0.0475 / 200)).all()


# The orders


def test_both_orders_are_their_closed_form_in_a_linear_network():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    mean, y = np.array([[1.0], [-0.5], [0.2]]), x @ np.array([[0.7], [0.4], [0.0]])
    weight = mf.SpikeSlab(np.zeros((3, 1)), mean, np.zeros((3, 1)))
    ensemble = mf.Ensemble.from_model(
        (lambda params, x: x @ params["w"], {"w": jnp.zeros((3, 1))}),
        initial=lambda *_: weight,
    )
    likelihood, scale, draws = mf.Gaussian(scale=1.0), 2.0, 400
    _, rms = removal.two_orders(
        ensemble, likelihood, scale, (x, y), key=KEY, num_samples=draws
    )
    # ∂ ln P/∂q_i = (y − G − εΔ) m_i x_i / σ² at q = ½, where dV/dq = 0.
    inputs = x * mean[:, 0]
    rest = y[:, 0] - 0.5 * inputs.sum(1)
    noise = 0.25 * np.square(inputs).sum(1) / draws
    expected = np.square(inputs / scale) * (np.square(rest) + noise)[:, None]
    expected = np.sqrt(expected.mean(0))
    assert np.allclose(rms["w"][:, 0], expected, rtol=0.05)


def test_the_credit_of_a_voter_is_how_often_it_decides():
    x, y = features(400, 0)
    values, rms = removal.two_orders(
        voters(np.full(8, 3.0)), mf.Categorical(), 1.0, (x, y), key=KEY
    )
    seen = x.mean(0)
    assert (np.argsort(values["w"][:, 0]) == np.argsort(seen)).all()
    common = seen > 0.05
    square = rms["w"][common, 0] ** 2 / seen[common]
    assert np.allclose(square, square[0], rtol=0.5)


# Labels


def test_a_planted_network_is_labelled_as_planted():
    """Features that never come, or nearly, can go; the frequent ones carry it."""
    often = np.array([0.45, 0.45, 0.0992, 0.0004, 0.0004, 0.0])
    x, y = features(6000, 1, often)
    ensemble = voters(np.full(6, 3.0))
    found = mf.label_connections(ensemble, data=(x, y), key=KEY, epsilon=0.01)
    important, absent, variable = (int(label) for label in mf.Label)
    assert (
        found.labels["w"][:, 0].tolist() == [important] * 2 + [variable] + [absent] * 3
    )
    certificate = found.certificate
    assert found.never_learned["w"][5, 0]
    assert found.tolerance is None
    assert certificate.full == 1.0
    assert certificate.empty == 0.0
    assert certificate.costs["absent"] <= certificate.loss_bound <= 0.01
    assert 0.8 <= certificate.cost_bound <= certificate.costs["important"]
    assert certificate.level == 0.95
    assert "3 of 6" in certificate.verdict
    rows = np.concatenate([certificate.chosen_on, certificate.certified_on])
    assert sorted(rows) == list(range(6000))
    assert len(certificate.certified_on) == certificate.num_examples == 4000
    for part in (found.values, found.rms, found.inclusion_prob):
        assert part["w"].shape == (6, 1)
    (table,) = connections(ensemble, found)
    assert np.array_equal(table.value, found.values["w"][:, 0])
    assert np.array_equal(table.rms, found.rms["w"][:, 0])
    assert table.label.tolist() == ["important"] * 2 + ["variable"] + ["absent"] * 3
    assert (found.rms["w"] >= 0).all()
    assert found.inclusion_prob["w"][0, 0] == 1


def test_certificates_of_real_targets_bound_a_payoff_between_0_and_1():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 4)).astype(np.float32)
    mean = np.array([[2.0], [1.0], [0.0], [1e-3]])
    y = x @ mean + 0.1 * rng.normal(size=(3000, 1))
    weight = mf.SpikeSlab(np.full((4, 1), 0.01), mean, np.full((4, 1), 1e-6))
    ensemble = mf.Ensemble.from_model(
        (lambda params, x: x @ params["w"], {"w": jnp.zeros((4, 1))}),
        initial=lambda *_: weight,
    )
    found = mf.label_connections(
        ensemble, data=(x, y), key=KEY, likelihood=mf.Gaussian(scale=0.1), epsilon=0.05
    )
    assert found.certificate.payoff == "closeness"
    assert found.labels["w"][:, 0].tolist()[2:] == [mf.Label.ABSENT] * 2
    assert found.labels["w"][0, 0] == mf.Label.IMPORTANT
    assert 0 <= found.certificate.empty < found.certificate.full <= 1


def test_too_few_examples_say_how_many_it_would_take():
    x, y = features(200, 0)
    found = mf.label_connections(
        voters(np.full(8, 3.0)), data=(x, y), key=KEY, epsilon=0.01
    )
    needed = bounds.examples_needed(0.01, 0.025, exact=True)
    assert f"100 examples certify, but `epsilon` = 0.01 needs {needed}" in (
        found.certificate.verdict
    )
    assert "cannot tell what is important" in found.certificate.verdict
    silent = found.never_learned["w"]
    assert ((found.labels["w"] == mf.Label.ABSENT) == silent).all()


def test_without_epsilon_it_is_what_the_examples_can_certify():
    x, y = features(200, 0)
    found = mf.label_connections(voters(np.full(8, 3.0)), data=(x, y), key=KEY)
    assert 0.005 < found.certificate.epsilon < 0.2
    assert found.certificate.costs["absent"] <= found.certificate.epsilon
    x, y = features(20_000, 0)
    found = mf.label_connections(voters(np.full(8, 3.0)), data=(x, y), key=KEY)
    assert found.certificate.epsilon == 0.005


def test_a_network_of_which_nothing_can_go_says_so():
    often = np.full(4, 0.25)
    x, y = features(4000, 0, often)
    found = mf.label_connections(voters(np.full(4, 3.0)), data=(x, y), key=KEY)
    assert "nothing can be removed" in found.certificate.verdict
    assert not (found.labels["w"] == mf.Label.ABSENT).any()


def test_a_network_of_which_all_can_go_says_so():
    x, y = features(4000, 0)
    found = mf.label_connections(
        voters(np.full(8, 0.1), bias=5.0), data=(x, y), key=KEY
    )
    assert "all of 8 can be removed" in found.certificate.verdict
    assert "nothing is important" in found.certificate.verdict
    assert (found.labels["w"] == mf.Label.ABSENT).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` must lie strictly between 0 and 1; got 0.0"),
        ({"epsilon": 1.5}, "`epsilon` must lie strictly between 0 and 1; got 1.5"),
        ({"alpha": 1.0}, "`alpha` must lie strictly between 0 and 1; got 1.0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1; got 0"),
        (
            {"payoff": "log_likelihood"},
            "`payoff` must be bounded by .0, 1.*'log_likelihood'",
        ),
        ({"payoff": "closeness"}, "`payoff` 'closeness' does not fit the targets"),
        ({"rule": "exact"}, "`rule` must be one of certified, posterior, published"),
        ({"key": None}, "`key` is needed with `data`"),
        ({"rule": "certified", "tolerance": 0.1}, "`tolerance` must be left out"),
        (
            {"rule": "posterior", "epsilon": 0.1},
            "`epsilon` and `payoff` must be left out",
        ),
        ({"rule": "published", "tolerance": 0.1}, "`tolerance` must be left out"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    x, y = features(100, 0)
    settings = {"data": (x, y), "key": KEY} | change
    with pytest.raises(ValueError, match=message):
        mf.label_connections(voters(np.full(8, 3.0)), **settings)


def test_a_certificate_needs_targets():
    x, y = features(100, 0)
    ensemble = voters(np.full(8, 3.0))
    with pytest.raises(ValueError, match="a certificate needs targets"):
        mf.label_connections(ensemble, data=x, key=KEY, rule="certified")
    with pytest.raises(ValueError, match="at least 4 examples"):
        mf.label_connections(ensemble, data=(x[:3], y[:3]), key=KEY)
    point = mf.Ensemble.from_points(ensemble.mean_network())
    with pytest.raises(ValueError, match="`ensemble` must have random weights"):
        mf.label_connections(point, data=(x, y), key=KEY)


def test_the_other_rules_stay_what_they_were():
    x, y = features(100, 0)
    ensemble = voters(np.full(8, 3.0))
    published = mf.label_connections(ensemble, rule="published")
    assert published.tolerance == 0.0
    assert published.certificate is None
    chosen = mf.label_connections(ensemble, data=x, key=KEY)
    paired = mf.label_connections(ensemble, data=(x, y), key=KEY, rule="posterior")
    for name, labels in chosen.labels.items():
        assert (labels == paired.labels[name]).all()
        assert (chosen.never_learned[name] == paired.never_learned[name]).all()
    assert chosen.tolerance == paired.tolerance
