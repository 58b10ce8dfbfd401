"""Entropy from counts and joint entropy of binary units."""

import jax
import numpy as np
import pytest
from oracles_complexity import (
    fair_bits,
    ising_bits,
    ising_entropy,
    ising_log_z,
    markov_bits,
)
from scipy.special import xlogy
from scipy.stats import binom

from meanfield.physics.complexity import chain
from meanfield.physics.complexity.boosted_trees import boosted_trees
from meanfield.physics.complexity.chain import chain_gain
from meanfield.physics.complexity.entropy import (
    ESTIMATORS,
    binary_entropy,
    count_entropy,
    count_entropy_error,
    unit_entropies,
)
from meanfield.physics.complexity.joint_entropy import joint_entropy

KEY = jax.random.key(0)


# Entropy from counts


def test_binary_entropy_is_exact_at_its_ends_and_its_middle():
    assert binary_entropy([0.0, 0.5, 1.0]).tolist() == [0.0, 1.0, 0.0]
    np.testing.assert_allclose(binary_entropy(0.11), 0.499916, atol=1e-6)


def slow_grassberger(counts: list[int]) -> float:
    """By the recurrence of G, instead of the digamma function."""
    g = {1: -np.euler_gamma - np.log(2), 2: 2 - np.euler_gamma - np.log(2)}
    for n in range(3, max(counts) + 1):
        g[n] = g[n - 1] if n % 2 else g[n - 2] + 2 / (n - 1)
    total = sum(counts)
    nats = np.log(total) - sum(n * g[n] for n in counts) / total
    return nats / np.log(2)


def test_estimators_agree_with_their_formulas_written_out():
    counts = [7, 1, 3, 12, 1, 2]
    total, p = 26, [n / 26 for n in counts]
    plug_in = -sum(x * np.log2(x) for x in p)
    coverage = 1 - 2 / total
    chao_shen = -sum(
        coverage * x * np.log2(coverage * x) / (1 - (1 - coverage * x) ** total)
        for x in p
    )
    expected = {
        "plug-in": plug_in,
        "miller-madow": plug_in + 5 / (2 * total * np.log(2)),
        "grassberger": slow_grassberger(counts),
        "chao-shen": chao_shen,
    }
    for name in ESTIMATORS:
        got = count_entropy(np.array([*counts, 0]), name)
        np.testing.assert_allclose(got, expected[name], rtol=1e-12)


LAW = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])


def expected_entropy(examples: int, name: str) -> float:
    """Exact mean of an estimator: its parts are functions of one binomial count."""
    n = np.arange(examples + 1)
    chance = binom.pmf(n[:, None], examples, LAW)
    if name == "grassberger":
        g = [slow_grassberger([int(k)]) if k else 0.0 for k in n]
        part = n / examples * (np.log2(np.maximum(n, 1)) - g)
        return float(np.log2(examples) - (chance * part[:, None]).sum())
    part = -xlogy(n / examples, n / examples) / np.log(2)
    mean = (chance * part[:, None]).sum()
    if name == "miller-madow":
        states = (1 - chance[0]).sum()
        mean += (states - 1) / (2 * examples * np.log(2))
    return float(mean)


@pytest.mark.parametrize("examples", [60, 200])
def test_estimators_have_their_exact_mean_and_corrections_shrink_the_bias(examples):
    rng = np.random.default_rng(1)
    draws = rng.multinomial(examples, LAW, size=2000)
    truth = -(LAW * np.log2(LAW)).sum()
    bias = {}
    for name in ("plug-in", "miller-madow", "grassberger"):
        values = np.array([count_entropy(draw, name) for draw in draws])
        mean = expected_entropy(examples, name)
        assert abs(values.mean() - mean) < 5 * values.std() / np.sqrt(len(values))
        bias[name] = mean - truth
    first_order = -(len(LAW) - 1) / (2 * examples * np.log(2))
    np.testing.assert_allclose(bias["plug-in"], first_order, rtol=0.15)
    assert abs(bias["miller-madow"]) < 0.3 * abs(bias["plug-in"])
    assert abs(bias["grassberger"]) < 0.3 * abs(bias["plug-in"])


@pytest.mark.parametrize("law", [LAW, np.full(16, 1 / 16)])
def test_the_standard_error_of_a_count_entropy_is_the_spread_over_samples(law):
    draws = np.random.default_rng(2).multinomial(500, law, size=3000)
    values = np.array([count_entropy(draw) for draw in draws])
    errors = np.array([count_entropy_error(draw) for draw in draws])
    # A standard deviation of 3000 draws is known to 1.3 %: five times that. Where the
    # true delta term is 0, cutting its estimate off at 0 leaves the error a bit high.
    uniform = len(set(law)) == 1
    assert -0.065 < errors.mean() / values.std() - 1 < 0.065 + 0.1 * uniform


def test_count_entropy_refuses_what_is_no_count():
    with pytest.raises(ValueError, match="`estimator` must be one of plug-in"):
        count_entropy(np.array([1, 2]), "best")
    with pytest.raises(ValueError, match="`counts` must be non-negative"):
        count_entropy(np.array([0, 0]))
    with pytest.raises(ValueError, match="`counts` must be non-negative"):
        count_entropy(np.array([3, -1]))


def test_one_state_has_no_entropy_and_singletons_give_finite_values():
    for name in ESTIMATORS:
        assert count_entropy(np.array([9]), name) == 0.0
        assert np.isfinite(count_entropy(np.ones(9, int), name))


def test_the_marginal_sum_has_the_right_mean_and_constants_add_exactly_nothing():
    rng = np.random.default_rng(3)
    p = np.array([0.5, 0.3, 0.8, 1.0, 0.0])
    sums = []
    for _ in range(4000):
        bits, total = unit_entropies(rng.random((100, 5)) < p)
        assert bits[3] == 0.0
        assert bits[4] == 0.0
        sums.append(total)
    truth = binary_entropy(p).sum()
    error = 5 * np.std(sums) / np.sqrt(len(sums)) + 3 * 3 / 100**2
    assert abs(np.mean(sums) - truth) < error


# Joint entropy


@pytest.mark.parametrize("method", ["counts", "chain rule"])
def test_independent_fair_units_have_one_bit_each(method):
    states = fair_bits(2000, 4)
    result = joint_entropy(states, key=KEY, method=method, num_permutations=0)
    assert abs(result.bits - 4) < 5 * result.standard_error
    assert abs(result.total_correlation) < 0.02


@pytest.mark.parametrize("method", ["counts", "chain rule"])
def test_copies_of_one_unit_hold_one_bit_together(method):
    states = np.repeat(fair_bits(2000, 1), 4, axis=1)
    result = joint_entropy(states, key=KEY, method=method, num_permutations=1)
    # A classifier may be certain to 1 in 2N: that much remains of every copy.
    assert abs(result.bits - 1) < 0.01
    assert abs(result.total_correlation - 3) < 0.01
    assert result.null_mean is not None
    assert abs(result.null_mean) < 0.02


@pytest.mark.parametrize("method", ["counts", "chain rule"])
def test_an_exclusive_or_holds_two_bits_although_every_pair_looks_independent(method):
    states = fair_bits(3000, 2)
    states = np.c_[states, states[:, 0] ^ states[:, 1]]
    result = joint_entropy(states, key=KEY, method=method, num_permutations=0)
    assert abs(result.bits - 2) < 0.01
    assert abs(result.total_correlation - 1) < 0.01


def test_a_duplicated_unit_adds_nothing():
    states = markov_bits(2000, 6, 0.2)
    alone = joint_entropy(states, key=KEY, method="counts")
    doubled = joint_entropy(np.c_[states, states], key=KEY, method="counts")
    assert doubled.bits == alone.bits


def test_units_that_never_change_add_nothing():
    states = fair_bits(500, 3)
    padded = np.c_[states, np.ones((500, 4), bool), np.zeros((500, 2), bool)]
    result = joint_entropy(padded, key=KEY, num_permutations=0)
    assert result.bits == joint_entropy(states, key=KEY, num_permutations=0).bits
    assert result.num_units == 3
    assert result.null_mean is None
    silent = joint_entropy(np.ones((500, 4), bool), key=KEY)
    assert silent.bits == 0.0
    assert silent.interval == (0.0, 0.0)


def test_counting_meets_the_closed_form_of_a_markov_chain():
    truth = 1 + 7 * float(binary_entropy(0.1))
    result = joint_entropy(markov_bits(6000, 8, 0.1), key=KEY)
    assert result.method == "counts"
    assert result.subsampled == ""
    assert abs(result.bits - truth) < 5 * result.standard_error


def test_the_chain_rule_bounds_the_counted_entropy_of_the_same_sample_from_above():
    states = markov_bits(3000, 7, 0.15)
    counted = joint_entropy(states, key=KEY, method="counts", num_permutations=0)
    chained = joint_entropy(states, key=KEY, method="chain rule", num_permutations=0)
    assert chained.num_terms == 6
    assert chained.subsampled == ""
    assert counted.bits < chained.bits < 1.05 * counted.bits


def test_a_wide_layer_fits_some_terms_says_so_and_gives_an_interval():
    states = markov_bits(1000, 40, 0.1)
    truth = 1 + 39 * float(binary_entropy(0.1))
    result = joint_entropy(states, key=KEY, num_terms=6, num_permutations=1)
    assert result.method == "chain rule"
    assert result.subsampled == "6 of 39 terms of the chain rule"
    # A thousand examples leave the full chain rule 12 % above the closed form.
    low, high = result.interval
    assert low < 1.12 * truth
    assert truth < high
    assert high - low < 0.7 * truth
    assert low < result.bits < high
    assert result.null_mean is not None
    assert abs(result.null_mean) < 1
    assert result.null_deviation is None


def test_leaving_terms_out_has_no_bias_and_its_error_is_the_spread(monkeypatch):
    # Lines will do, and fast: trees that know nothing are never chosen.
    even = lambda predictors, target, learned: np.full(learned.shape, 0.5)
    monkeypatch.setattr(chain, "_tree_probabilities", even)
    states = markov_bits(300, 20, 0.1, seed=5)
    states[:, ::3] &= fair_bits(300, 7, seed=6)  # units of unequal entropy
    draws = [
        chain_gain(states, rng=np.random.default_rng(seed), num_terms=5, num_folds=2)
        for seed in range(60)
    ]
    whole = [
        chain_gain(states, rng=np.random.default_rng(seed), num_terms=19, num_folds=2)
        for seed in range(3)
    ]
    values = np.array([draw.bits for draw in draws])
    assert all(one.term_error == 0 and one.num_terms == 19 for one in whole)
    error = np.std(values) / np.sqrt(len(values))
    reference = np.mean([one.bits for one in whole])
    assert abs(values.mean() - reference) < 5 * error
    claimed = np.mean([draw.term_error for draw in draws])
    assert 0.6 < claimed / np.std(values) < 2.0


def test_joint_entropy_is_the_same_for_the_same_key():
    states = markov_bits(200, 25, 0.3)
    first, second = (
        joint_entropy(states, key=KEY, num_terms=2, num_permutations=1)
        for _ in range(2)
    )
    assert first == second


def test_joint_entropy_refuses_what_it_cannot_use():
    states = fair_bits(50, 3)
    with pytest.raises(ValueError, match="`method` must be"):
        joint_entropy(states, key=KEY, method="guess")
    with pytest.raises(ValueError, match="`num_terms` must be at least 1"):
        joint_entropy(states, key=KEY, num_terms=0)
    with pytest.raises(ValueError, match="at least 10 examples; got 4"):
        joint_entropy(states[:4], key=KEY)


@pytest.mark.parametrize("coupling", [0.3, 0.44, 0.7])
def test_the_exact_lattice_is_the_sum_over_its_states(coupling):
    spins = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).reshape(-1, 4, 4) * 2 - 1
    bonds = sum((spins * np.roll(spins, 1, axis)).sum((1, 2)) for axis in (1, 2))
    direct = np.log(np.exp(coupling * bonds).sum())
    np.testing.assert_allclose(ising_log_z(4, coupling), direct, rtol=1e-12)


def test_the_chain_rule_comes_near_the_exact_entropy_of_an_ordered_lattice():
    # Lines alone end more than a third above it: in a wide layer too, trees are needed.
    states, exact = ising_bits(20, 1.5, 4000), ising_entropy(20, 1.5)
    result = joint_entropy(states, key=KEY, num_terms=8, num_permutations=0)
    assert result.bits < 1.2 * exact
    assert result.bits > exact - 5 * result.standard_error


def test_trees_see_what_no_line_separates_and_learn_from_their_fold_alone():
    x = fair_bits(600, 5, seed=1)
    target = x[:, 1] ^ x[:, 3]
    learned = np.arange(600) % 2 == np.arange(2)[:, None]
    shown = np.stack([x.T, x.T])
    found = np.asarray(boosted_trees(shown, target, learned))
    assert ((found > 0.9) == target).all()
    assert ((found < 0.1) == ~target).all()
    other = target.copy()
    other[~learned[0]] = ~other[~learned[0]]
    again = np.asarray(boosted_trees(shown, other, learned))
    np.testing.assert_array_equal(again[0], found[0])
    nothing = np.asarray(boosted_trees(np.zeros((2, 4, 600), bool), target, learned))
    share = [target[rows].mean() for rows in learned]
    np.testing.assert_allclose(nothing, np.tile(share, (600, 1)).T, rtol=1e-5)


def test_a_tree_of_one_question_is_the_newton_step_of_its_sides():
    x = fair_bits(400, 1, seed=2)
    target = np.random.default_rng(3).random(400) < np.where(x[:, 0], 0.8, 0.3)
    (found,) = np.asarray(
        boosted_trees(x.T[None], target, np.ones((1, 400), bool), num_trees=1, depth=1)
    )
    p = target.mean()
    for side in (True, False):
        rows = x[:, 0] == side
        step = (target[rows] - p).sum() / (rows.sum() * p * (1 - p))
        score = np.log(p / (1 - p)) + 0.2 * step
        np.testing.assert_allclose(found[rows], 1 / (1 + np.exp(-score)), rtol=1e-5)
