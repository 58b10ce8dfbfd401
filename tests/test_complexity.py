"""Entropic complexity, effective dimension, recording, spread, and scaling laws."""

import json
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.special import xlogy
from scipy.stats import binom

import meanfield as mf
from meanfield.physics.complexity import chain
from meanfield.physics.complexity.chain import chain_gain
from meanfield.physics.complexity.dimension import (
    effective_dimension,
    isotropic_dimension,
    isotropic_participation,
    spectrum_dimensions,
)
from meanfield.physics.complexity.entropy import (
    ESTIMATORS,
    binary_entropy,
    count_entropy,
    count_entropy_error,
    unit_entropies,
)
from meanfield.physics.complexity.joint_entropy import joint_entropy
from meanfield.physics.complexity.measure import measure_complexity
from meanfield.physics.complexity.recording import layer_activations
from meanfield.physics.complexity.subnetworks import (
    ComplexityTrace,
    complexity_spread,
    sampled_complexity,
)
from meanfield.physics.renormalization.scaling import _logarithmic, fit_scaling

KEY = jax.random.key(0)


def fair_bits(examples: int, units: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((examples, units)) < 0.5


def markov_bits(examples: int, units: int, flip: float, seed: int = 0) -> np.ndarray:
    """Each unit copies the one before it, but for a flip: H = 1 + (n − 1) h(flip)."""
    rng = np.random.default_rng(seed)
    flips = rng.random((examples, units)) < flip
    flips[:, 0] = rng.random(examples) < 0.5
    return np.cumsum(flips, axis=1) % 2 == 1


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
    monkeypatch.setattr(chain, "MAX_TREE_PREDICTORS", 0)  # lines will do, and fast
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


# Effective dimension


def exact_cloud(spectrum: np.ndarray, examples: int = 64) -> np.ndarray:
    """Features whose sample covariance has exactly this spectrum."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(examples, len(spectrum)))
    basis, _ = np.linalg.qr(noise - noise.mean(axis=0))
    turn, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return basis * np.sqrt(spectrum) @ turn + 3.0


def test_equal_variances_count_as_the_rank():
    result = effective_dimension(exact_cloud(np.r_[np.ones(5), np.zeros(4)]), key=KEY)
    np.testing.assert_allclose([result.dimension, result.participation], 5, rtol=1e-9)
    assert result.num_features == 9
    assert not result.enough


def test_a_geometric_spectrum_meets_its_closed_sums():
    r, d = 0.6, 12
    k = np.arange(d)
    norm = (1 - r**d) / (1 - r)
    p = r**k / norm
    dimension = np.exp(np.log(norm) - np.log(r) * np.sum(k * p))
    participation = norm**2 * (1 - r**2) / (1 - r ** (2 * d))
    result = effective_dimension(exact_cloud(r**k), key=KEY)
    np.testing.assert_allclose(result.dimension, dimension, rtol=1e-9)
    np.testing.assert_allclose(result.participation, participation, rtol=1e-9)


@pytest.mark.parametrize(
    ("examples", "features", "dimension", "participation"),
    [(1000, 100, 95.05, 90.81), (2000, 500, 441.35, 400.2)],
)
def test_isotropic_data_meet_their_null(examples, features, dimension, participation):
    x = np.random.default_rng(4).normal(size=(examples, features))
    result = effective_dimension(x, key=KEY, num_shuffles=1)
    assert result.dimension_null == isotropic_dimension(features, examples)
    assert result.participation_null == isotropic_participation(features, examples)
    errors = result.dimension_error, result.participation_error
    assert errors[0] < 0.004 * dimension
    assert errors[1] < 0.004 * participation
    for null in (result.dimension_null, dimension):
        assert abs(result.dimension - null) < 5 * errors[0]
    for null in (result.participation_null, participation):
        assert abs(result.participation - null) < 5 * errors[1]
    assert result.dimension_shuffled is not None
    difference = result.dimension_shuffled - result.dimension
    assert abs(difference) < 5 * np.sqrt(2) * errors[0]


def test_the_participation_ratio_never_exceeds_the_dimension():
    rng = np.random.default_rng(5)
    for _ in range(100):
        d, pr = spectrum_dimensions(rng.gamma(0.3, size=rng.integers(1, 30)))
        assert 1 - 1e-12 <= pr <= d * (1 + 1e-12)


def test_scale_shift_and_rotation_change_nothing_and_dead_features_do_not_count():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(200, 5)) * [3, 2, 1, 1, 0.5]
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    base = effective_dimension(x, key=KEY, num_shuffles=0)
    padded = np.c_[1e-7 * x @ turn + 2e-7, np.full((200, 3), 7.0)]
    moved = effective_dimension(padded, key=KEY, num_shuffles=0)
    np.testing.assert_allclose(moved.dimension, base.dimension, rtol=1e-9)
    assert moved.num_features == 5
    assert moved.dimension_shuffled is None
    huge = effective_dimension(x * 1e200, key=KEY, num_shuffles=0)
    np.testing.assert_allclose(huge.dimension, base.dimension, rtol=1e-9)


def test_the_error_of_a_dimension_is_the_spread_over_samples():
    rng = np.random.default_rng(7)
    scale = np.array([3.0, 2.0, 1.0, 1.0, 0.5])
    results = [
        effective_dimension(rng.normal(size=(300, 5)) * scale, key=KEY, num_shuffles=0)
        for _ in range(300)
    ]
    for name in ("dimension", "participation"):
        values = [getattr(result, name) for result in results]
        errors = [getattr(result, f"{name}_error") for result in results]
        # A standard deviation of 300 samples is known to 4 %; five times that.
        assert 0.8 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.2


def test_shuffling_removes_the_correlations_and_keeps_the_variances():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4000, 1)) + 0.1 * rng.normal(size=(4000, 4))
    result = effective_dimension(x, key=KEY)
    assert result.dimension < 1.1
    assert result.dimension_shuffled is not None
    assert result.dimension_shuffled > 3.99


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((20, 3)), "every feature is constant"),
        (np.full((20, 3), np.nan), "must be finite; got NaN or infinity at .0, 0."),
        (np.random.default_rng(0).normal(size=(5, 9)), "at least as many .* 9; got 5"),
    ],
)
def test_dimension_refuses_data_without_one(features, message):
    with pytest.raises(ValueError, match=message):
        effective_dimension(features, key=KEY)


# Recording


def test_every_layer_is_recorded_in_forward_order():
    net = eqx.nn.MLP(4, 3, 6, 11, key=KEY)
    x = jax.random.normal(KEY, (7, 4))
    recorded = layer_activations(net, x, batch_size=3)
    assert list(recorded) == [f"layers/{i}" for i in range(12)]
    h = x
    for name, layer in zip(recorded, net.layers, strict=True):
        z = h @ layer.weight.T + layer.bias
        np.testing.assert_allclose(recorded[name], z, rtol=1e-5, atol=1e-6)
        h = jax.nn.relu(z)


class Mixed(eqx.Module):
    """A convolution, an embedding-free norm, and one linear layer used twice."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    twice: eqx.nn.Linear

    def __call__(self, x):
        h = self.norm(self.conv(x)).mean(axis=(1, 2))
        return self.twice(jnp.tanh(self.twice(h))) * self.twice.out_features


def test_convolutions_and_layers_used_twice_are_recorded_and_norms_are_not():
    net = Mixed(
        eqx.nn.Conv2d(1, 4, 3, key=KEY),
        eqx.nn.LayerNorm((4, 3, 3)),
        eqx.nn.Linear(4, 4, key=KEY),
    )
    recorded = layer_activations(net, jnp.ones((2, 1, 5, 5)))
    shapes = {name: value.shape for name, value in recorded.items()}
    assert shapes == {"conv": (2, 4, 3, 3), "twice": (2, 4), "twice#2": (2, 4)}


class Scanned(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return jax.lax.scan(lambda h, _: (self.layer(h), None), x, None, length=2)[0]


class Idle(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return x


def test_recording_refuses_what_it_cannot_follow():
    linear, x = eqx.nn.Linear(3, 3, key=KEY), jnp.ones((2, 3))
    assert list(layer_activations(linear, x)) == ["model"]
    with pytest.raises(ValueError, match="runs inside scan, vmap"):
        layer_activations(Scanned(linear), x)
    with pytest.raises(ValueError, match="never calls one of its layers"):
        layer_activations(Idle(linear), x)
    with pytest.raises(ValueError, match="must have a layer with a `weight`"):
        layer_activations(eqx.nn.LayerNorm(3), x)
    with pytest.raises(TypeError, match="must be an Equinox module; got function"):
        layer_activations(lambda x: x, x)
    with pytest.raises(ValueError, match="`x` must hold examples"):
        layer_activations(linear, x[:0])


# The network


def test_a_network_whose_units_are_always_on_is_affine_and_has_no_complexity():
    net = eqx.nn.MLP(5, 2, 8, 2, key=KEY)
    biases = lambda m: [layer.bias for layer in m.layers]
    net = eqx.tree_at(
        biases, net, [b + 50.0 * 10**i for i, b in enumerate(biases(net))]
    )
    x = jax.random.normal(KEY, (200, 5))
    recorded = layer_activations(net, x)
    result = measure_complexity(recorded, key=KEY, data="noise")
    assert result.marginal == 0.0
    assert result.joint == 0.0
    assert result.data == "noise"
    assert [layer.always_on for layer in result.layers] == [8, 8, 2]
    ones = np.c_[x, np.ones(200)]
    _, residual, rank, _ = np.linalg.lstsq(ones, recorded["layers/2"], rcond=None)
    rounding = np.finfo(np.float32).eps * np.abs(recorded["layers/2"]).max()
    assert rank == 6
    assert np.sqrt(residual / 200).max() < rounding


def test_dead_units_are_counted_and_all_dead_features_have_no_dimension():
    a = np.random.default_rng(0).normal(size=(400, 5))
    a[:, 3] = -1.0
    result = measure_complexity({"a": a, "b": -np.abs(a), "c": a}, key=KEY, joint=False)
    first, dead, last = result.layers
    assert first.always_off == 1
    assert first.dimension is not None
    assert first.unit_bits[3] == 0
    assert first.dimension.num_features == 4
    assert dead.always_off == 5
    assert dead.marginal == 0.0
    assert dead.dimension is None
    assert dead.verdict == "cannot tell"
    assert "never vary" in dead.reason
    assert last.verdict == "measured"
    assert result.joint is None


def test_features_are_after_the_nonlinearity_except_in_the_last_layer():
    a = np.random.default_rng(1).normal(size=(500, 4)) * [1, 2, 3, 4]
    hidden, outputs = measure_complexity(
        {"a": a, "b": a}, key=KEY, activation=np.tanh, joint=False
    ).layers
    expected = effective_dimension(np.tanh(a), key=KEY, num_shuffles=0).dimension
    plain = effective_dimension(a, key=KEY, num_shuffles=0).dimension
    assert hidden.dimension is not None
    assert outputs.dimension is not None
    np.testing.assert_allclose(hidden.dimension.dimension, expected, rtol=1e-12)
    np.testing.assert_allclose(outputs.dimension.dimension, plain, rtol=1e-12)


def test_a_threshold_moves_the_switch():
    a = np.random.default_rng(2).normal(size=(2000, 1))
    shifted = measure_complexity({"a": a}, key=KEY, threshold=1.0, joint=False)
    expected = float(binary_entropy((a > 1).mean()))
    assert shifted.layers[0].unit_bits.tolist() == [expected]


def test_a_convolution_is_sampled_at_one_position_of_each_example():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3000, 3, 4, 5)) + np.linspace(-1, 1, 5)
    layer = measure_complexity({"conv": a}, key=KEY).layers[0]
    assert layer.num_units == 3
    assert layer.num_examples == 3000
    share = (a > 0).mean(axis=(0, 2, 3))
    slope = np.log2((1 - share) / share)
    error = np.sqrt(share * (1 - share) / 3000) * np.maximum(np.abs(slope), 0.1)
    assert (np.abs(layer.unit_bits - binary_entropy(share)) < 5 * error + 1e-3).all()
    again = measure_complexity({"conv": a}, key=KEY).layers[0]
    other = measure_complexity({"conv": a}, key=jax.random.key(1)).layers[0]
    assert again.unit_bits.tolist() == layer.unit_bits.tolist()
    assert other.unit_bits.tolist() != layer.unit_bits.tolist()


def test_too_few_examples_give_no_number_without_meaning():
    a = np.random.default_rng(4).normal(size=(80, 100))
    layer = measure_complexity({"a": a}, key=KEY).layers[0]
    assert layer.verdict == "cannot tell"
    assert "fewer than the 100 units" in layer.reason
    assert layer.joint is None
    assert layer.dimension is None
    assert layer.marginal is not None  # it looks at one unit at a time
    tiny = measure_complexity({"a": a[:20, :3]}, key=KEY).layers[0]
    assert tiny.marginal is None
    assert "at least 50" in tiny.reason
    some = measure_complexity({"a": a[:, :20]}, key=KEY, joint=False).layers[0]
    assert some.verdict == "few examples"
    assert some.dimension is not None


GOOD = np.random.default_rng(5).normal(size=(60, 3))


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({}, "at least one layer; got none"),
        ({"a": GOOD[:, 0]}, r"'a' must have shape .* got shape \(60,\)"),
        ({"a": GOOD[:0]}, "hold something"),
        ({"a": np.where(GOOD[7, 1] == GOOD, np.nan, GOOD)}, r"'a'.*at \(7, 1\)"),
        ({"a": GOOD, "b": GOOD + np.inf}, "'b' must be finite"),
        ({"a": GOOD + 1j}, "'a' must be real numbers; got complex128"),
        ({"a": np.full((60, 2), "x")}, "'a' must be real numbers; got <U1"),
        ({"a": GOOD, "b": GOOD[:50]}, "same examples in every layer; got {'a': 60"),
    ],
)
def test_activations_that_cannot_be_used_are_refused_by_layer(activations, message):
    with pytest.raises(ValueError, match=message):
        measure_complexity(activations, key=KEY)


def test_a_nonlinearity_must_keep_the_shape_and_be_finite():
    two = {"a": GOOD, "b": GOOD}
    with pytest.raises(ValueError, match=r"\(60, 3\) in 'a'; got shape \(60,\)\."):
        measure_complexity(two, key=KEY, activation=lambda a: a.sum(axis=1))
    with pytest.raises(ValueError, match="'a'.* with NaN or infinity among them"):
        measure_complexity(two, key=KEY, activation=lambda a: a * np.inf)


def test_half_precision_and_jax_arrays_are_read_like_any_other():
    half = jnp.asarray(GOOD, jnp.bfloat16)
    read = measure_complexity({"a": half}, key=KEY).layers[0]
    same = measure_complexity({"a": np.asarray(half, np.float32)}, key=KEY).layers[0]
    assert read.to_dict() == same.to_dict()


def test_results_go_into_json_in_full():
    a = markov_bits(300, 4, 0.3) - 0.5
    result = measure_complexity({"z": a, "b": a[:, :1], "c": a[:, :2]}, key=KEY)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(plain["layers"]) == ["z", "b", "c"]
    assert plain["joint"] == result.joint
    assert plain["layers"]["z"]["joint"]["interval"][0] >= 0
    assert len(plain["layers"]["z"]["unit_bits"]) == 4


# Ensembles and training


class Toy:
    """Stands for an ensemble: networks that differ in one bias."""

    def __init__(self, noise: float):
        self.noise, self.net = noise, eqx.nn.MLP(3, 2, 6, 1, key=KEY)

    def sample(self, key):
        shift = self.noise * jax.random.normal(key, (6,))
        bias = lambda m: m.layers[0].bias
        return eqx.tree_at(bias, self.net, bias(self.net) + shift)

    def mean_network(self):
        return self.net


X = jax.random.normal(jax.random.key(9), (120, 3))


def test_networks_that_agree_have_no_spread_and_others_have_the_right_one():
    still = sampled_complexity(Toy(0.0), X, key=KEY, num_samples=3)
    first = still.layers[0]
    assert first.marginal is not None
    assert first.marginal.deviation < 1e-12
    assert first.joint is None
    assert first.dimension is not None

    noisy = sampled_complexity(Toy(1.0), X, key=KEY, num_samples=4, joint=True)
    network_key, _ = jax.random.split(KEY)
    values = []
    for key in jax.random.split(network_key, 4):
        states = layer_activations(Toy(1.0).sample(key), X)["layers/0"] > 0
        values.append(unit_entropies(states)[1])
    spread = noisy.layers[0].marginal
    assert spread is not None
    assert spread.num_draws == 4
    np.testing.assert_allclose(spread.mean, np.mean(values), rtol=1e-6)
    np.testing.assert_allclose(spread.deviation, np.std(values, ddof=1), rtol=1e-6)
    assert noisy.layers[0].joint is not None
    json.dumps(noisy.to_dict(), allow_nan=False)


def test_a_spread_needs_two_networks_of_one_shape():
    one = measure_complexity({"a": GOOD}, key=KEY, joint=False)
    other = measure_complexity({"b": GOOD}, key=KEY, joint=False)
    with pytest.raises(ValueError, match="at least two networks"):
        complexity_spread([one])
    with pytest.raises(ValueError, match="same layers in every network"):
        complexity_spread([one, other])


def test_the_callback_measures_the_mean_network_when_its_turn_comes():
    trace = ComplexityTrace(X, key=KEY, every=2, data="noise")
    for epoch in range(1, 6):
        trace(types.SimpleNamespace(epoch=epoch, ensemble=Toy(0.0), history={}))
    assert trace.steps == [2, 4]
    expected = unit_entropies(layer_activations(Toy(0.0).net, X)["layers/0"] > 0)[1]
    assert trace.curve("layers/0", "marginal") == [expected] * 2
    plain = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert plain["steps"] == [2, 4]
    assert plain["layers"]["layers/1"]["joint"][0] is None
    with pytest.raises(ValueError, match="`number` must be one of marginal"):
        trace.curve("layers/0", "size")
    with pytest.raises(ValueError, match="`layer` must be one that was measured"):
        trace.curve("layers/7", "marginal")
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        ComplexityTrace(X, key=KEY, every=0)


def test_a_trained_ensemble_has_its_curve_and_its_spread():
    x, y = np.asarray(X), np.asarray(X[:, 0] > 0).astype(np.int32)
    net = eqx.nn.MLP(3, 2, 6, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    trace = ComplexityTrace(x, key=KEY)
    result = mf.fit(
        ensemble,
        (x, y),
        likelihood=mf.Categorical(),
        key=KEY,
        epochs=3,
        batch_size=40,
        callbacks=(trace,),
    )
    assert trace.steps == [1, 2, 3]
    trained = layer_activations(result.ensemble.mean_network(), x)
    bits = [unit_entropies(values > 0)[1] for values in trained.values()]
    assert [trace.curve(name, "marginal")[-1] for name in trained] == bits
    spread = sampled_complexity(result.ensemble, x, key=KEY, num_samples=5)
    assert [layer.layer for layer in spread.layers] == ["layers/0", "layers/1"]
    assert spread.layers[0].marginal is not None
    assert spread.layers[0].marginal.deviation > 0


# Scaling laws

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
    assert "bends away" in fit.reason
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
