import itertools

import jax
import numpy as np
import pytest
from oracles_shapley import table_game
from threadpoolctl import threadpool_info

from meanfield.games.designs import draw_pairs, num_pairs_of_size, spread_pairs
from meanfield.games.exact import all_coalitions, marginal_values, shapley_weights
from meanfield.games.kernel_choice import (
    GRID,
    PAIRS_FOR_SEARCH,
    _Evidence,
    _kernel,
    weigh_kernels,
)
from meanfield.games.known_games import unanimity
from meanfield.games.odd_kernel import OddKernel, mean_distance_power
from meanfield.games.shapley import shapley_values
from meanfield.games.surrogate import posterior
from meanfield.games.threads import MOST_ROWS, one_thread


def halves(n: int):
    """Indices of one coalition of every complementary pair, ∅ and N left out."""
    members = all_coalitions(n)
    sizes = members.sum(axis=1)
    smaller = (2 * sizes < n) | ((2 * sizes == n) & members[:, 0])
    return np.flatnonzero(smaller & (sizes > 0)), members, sizes


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_mean_powers_of_the_distance_meet_enumeration(n, decay):
    table = mean_distance_power(n, decay)
    for s, u in itertools.product(range(n + 1), repeat=2):
        powers = [
            decay ** len(set(a) ^ set(b))
            for a in itertools.combinations(range(n), s)
            for b in itertools.combinations(range(n), u)
        ]
        np.testing.assert_allclose(table[s, u], np.mean(powers), rtol=1e-12)


def full_covariance(kernel: OddKernel, members, sizes):
    distances = (members[:, None] != members).sum(axis=-1)
    gram = kernel.gram(distances, sizes)
    # The surprise of a pair has opposite signs on its two coalitions.
    surprise = np.eye(len(members)) - np.eye(len(members))[::-1]
    amplitude = kernel.amplitude()[sizes]
    return (gram + kernel.surprise * surprise) * np.outer(amplitude, amplitude)


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("size_scale", [1.5, np.inf])
def test_covariances_with_shapley_values_meet_enumeration(n, size_scale):
    kernel = OddKernel(n, 0.3, size_scale, 3.0, 1.0, 0.2)
    rows, members, sizes = halves(n)
    covariance = full_covariance(kernel, members, sizes)
    shapley = np.array(
        [marginal_values(unit, shapley_weights(n - 1)) for unit in np.eye(2**n)]
    ).T
    shapley -= shapley.mean(axis=0)
    shapley[:, [0, -1]] = 0
    with_pairs, contrast = kernel.shapley_covariance()
    weight = with_pairs[sizes[rows]] * kernel.amplitude()[sizes[rows]]
    expected = weight[:, None] * (members[rows] - sizes[rows, None] / n)
    np.testing.assert_allclose((shapley @ covariance[:, rows]).T, expected, atol=1e-10)
    np.testing.assert_allclose(
        np.diag(shapley @ covariance @ shapley.T), contrast * (1 - 1 / n), rtol=1e-10
    )


def test_the_posterior_is_the_textbook_one():
    n = 5
    kernel = OddKernel(n, 0.3, 1.5, 3.0, 1.0, 0.2)
    rows, members, sizes = halves(n)
    seen = rows[[0, 2, 3, 7, 9, 11, 12]]
    covariance = full_covariance(kernel, members, sizes)
    shapley = np.array(
        [marginal_values(unit, shapley_weights(n - 1)) for unit in np.eye(2**n)]
    ).T
    shapley -= shapley.mean(axis=0)
    shapley[:, [0, -1]] = 0
    odd = np.random.default_rng(0).normal(size=len(seen))
    mean, std = posterior(members[seen], odd, [(kernel, 1.0)])
    gain = shapley @ covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    np.testing.assert_allclose(mean, gain @ odd, atol=1e-6)
    left = shapley @ covariance @ shapley.T - gain @ covariance[seen] @ shapley.T
    # The variance carries a scale of its own, the same for all players.
    ratio = std**2 / np.diag(left)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_all_coalitions_seen_leave_no_error():
    n = 6
    game = table_game(np.random.default_rng(1).normal(size=2**n))
    rows, members, _ = halves(n)
    odd = (game(members[rows]) - game(~members[rows])) / 2
    mean, std = posterior(
        members[rows], odd, [(OddKernel(n, 0.3, 2.0, 1.0, 0.0, 0.1), 1.0)]
    )
    truth = shapley_values(game, n, method="exact").values
    np.testing.assert_allclose(mean, truth - truth.mean(), atol=1e-5)
    assert (std < 1e-3).all()


def sum_of_unanimity(seed: int, n: int = 14):
    rng = np.random.default_rng(seed)
    carriers = [
        rng.choice(n, rng.integers(1, 6), replace=False).tolist() for _ in range(60)
    ]
    return unanimity(n, carriers, rng.normal(size=60))


@pytest.mark.parametrize("per_player", [8, 32])
def test_the_surrogate_has_less_error_than_permutations(per_player):
    errors = {"surrogate": [], "antithetic": []}
    for seed in range(6):
        game = sum_of_unanimity(seed)
        for method, found in errors.items():
            result = shapley_values(
                game,
                14,
                key=jax.random.key(seed),
                budget=14 * per_player,
                method=method,
            )
            found.append(np.mean((result.values - game.shapley_values) ** 2))
    assert np.mean(errors["surrogate"]) < 0.5 * np.mean(errors["antithetic"])


def test_the_surrogate_knows_its_error_over_games_of_many_kinds():
    inside, count = 0, 20
    for seed in range(count):
        game = sum_of_unanimity(seed)
        result = shapley_values(
            game, 14, key=jax.random.key(seed), budget=14 * 8, method="surrogate"
        )
        error = np.abs(result.values - game.shapley_values)
        inside += np.mean(error <= 1.96 * result.standard_errors)
    assert 0.88 <= inside / count <= 0.99


# The choice of the kernel


def odd_parts(game, n: int, pairs: int, seed: int):
    coalitions = spread_pairs(np.random.default_rng(seed), n, pairs)
    odd = (game(coalitions) - game(~coalitions)) / 2
    return coalitions, odd / np.abs(odd).max()


def test_the_evidence_of_a_kernel_is_that_of_its_gaussian():
    n, pairs = 8, 40
    coalitions, odd = odd_parts(sum_of_unanimity(0, n), n, pairs, 0)
    shape = (0.12, 2.5, 0.1, 1e-2, 1.0)
    kernel = _kernel(n, shape)
    sizes = coalitions.sum(1)
    distances = (coalitions[:, None] != coalitions).sum(-1)
    amplitude = kernel.amplitude()[sizes]
    whole = kernel.gram(distances, sizes) + (kernel.surprise + 1e-9) * np.eye(pairs)
    whole *= np.outer(amplitude, amplitude)
    # With σ² = gᵀ k⁻¹ g / m the density of g is this, up to a constant.
    variance = odd @ np.linalg.solve(whole, odd) / pairs
    expected = -0.5 * (pairs * np.log(variance) + np.linalg.slogdet(whole)[1])
    found = _Evidence(coalitions, odd)
    np.testing.assert_allclose(found(shape), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_what_all_kernels_would_choose(seed):
    n, pairs = 9, 120
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=n)
    game = {
        0: sum_of_unanimity(seed, n),
        1: lambda s: np.tanh(s @ weights),
        2: table_game(rng.normal(size=2**n)),
    }[seed]
    coalitions, odd = odd_parts(game, n, pairs, seed)
    assert pairs > PAIRS_FOR_SEARCH  # so that most of the search is on a part
    evidence = _Evidence(coalitions, odd)
    best = max(evidence(shape) for shape in itertools.product(*GRID))
    by_kernel = {_kernel(n, shape): shape for shape in itertools.product(*GRID)}
    (chosen, _), *_ = weigh_kernels(rng, coalitions, odd)
    assert evidence(by_kernel[chosen]) > best - 1


def test_small_matrices_are_worked_on_by_one_thread_and_large_ones_as_before():
    threads = lambda: [
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
    ]
    before = threads()
    with one_thread(100):
        assert set(threads()) == {1}
    assert threads() == before
    with one_thread(MOST_ROWS + 1):
        assert threads() == before


# Designs


@pytest.mark.parametrize("n", [7, 8])
def test_a_design_holds_different_pairs_and_fills_small_strata(n):
    rng = np.random.default_rng(0)
    design = draw_pairs(rng, n, 50, np.ones(n // 2))
    assert len(design.coalitions) == 50
    codes = design.coalitions @ 2 ** np.arange(n)
    pairs = np.minimum(codes, 2**n - 1 - codes)
    assert len(set(pairs.tolist())) == 50
    assert (design.coalitions.sum(axis=1) == design.sizes).all()
    assert (design.sizes <= n / 2).all()
    # Size 1 has only n pairs, fewer than its share: it is enumerated.
    assert (design.sizes == 1).sum() == n
    assert (design.fraction[design.sizes == 1] == 1).all()


def test_designs_have_the_expected_numbers_of_each_size():
    n, weights = 11, np.array([1.0, 2.0, 3.0, 1.0, 0.5])
    drawn = np.zeros(6)
    for seed in range(400):
        design = draw_pairs(np.random.default_rng(seed), n, 10, weights)
        drawn += np.bincount(design.sizes, minlength=6)
        assert len(design.sizes) == 10
    expected = 10 * weights / weights.sum()
    # Systematic rounding: every count is within one of its mean.
    np.testing.assert_allclose(drawn[1:] / 400, expected, atol=5 * 0.5 / 20)


def test_every_pair_of_a_size_is_as_likely():
    counts = {}
    for seed in range(600):
        design = draw_pairs(np.random.default_rng(seed), 6, 5, np.array([0, 0, 1.0]))
        for row in design.coalitions:
            key = tuple(np.flatnonzero(row))
            counts[key] = counts.get(key, 0) + 1
    assert len(counts) == num_pairs_of_size(6, 3) == 10
    # 600 draws of 5 out of 10: mean 300, standard deviation √(600 · ¼).
    assert all(abs(count - 300) <= 5 * np.sqrt(150) for count in counts.values())


@pytest.mark.parametrize(
    ("n", "num_pairs"), [(8, 5), (8, 7), (8, 100), (9, 200), (30, 60)]
)
def test_a_spread_design_holds_different_pairs_and_measures_every_direction(
    n, num_pairs
):
    rows = spread_pairs(np.random.default_rng(0), n, num_pairs)
    assert rows.shape == (num_pairs, n)
    codes = rows @ 2 ** np.arange(n)
    assert len(set(np.minimum(codes, 2**n - 1 - codes).tolist())) == num_pairs
    signs = np.where(rows, 1.0, -1.0)
    centred = signs - signs.mean(axis=1, keepdims=True)
    assert np.linalg.matrix_rank(centred) == min(num_pairs, n - 1)
    if num_pairs <= n:
        assert (rows.sum(axis=1) == n // 2).all()


def test_an_additive_game_is_seen_to_be_one():
    weights = np.random.default_rng(0).normal(size=10)
    for budget in (20, 40):
        found = shapley_values(
            lambda s: s @ weights + 3.0, 10, key=jax.random.key(1), budget=budget
        )
        assert found.method == "surrogate"
        np.testing.assert_allclose(found.values, weights, atol=2e-2)


def smooth_game(n, seed):
    """A saturating sum, as of a model's output: nearly additive."""
    weights = np.random.default_rng(seed).normal(0.1, 0.5, n)
    return lambda s: np.tanh(0.7 * (s @ weights))


def rough_game(n, seed):
    return table_game(np.random.default_rng(seed).normal(size=2**n))


@pytest.mark.parametrize("make", [smooth_game, rough_game])
@pytest.mark.parametrize("per_player", [2, 4, 8])
def test_the_automatic_choice_is_no_worse_than_permutations(make, per_player):
    errors = {"auto": [], "antithetic": []}
    for seed in range(8):
        game = make(10, seed)
        truth = shapley_values(game, 10, method="exact").values
        for method, found in errors.items():
            values = shapley_values(
                game,
                10,
                key=jax.random.key(seed),
                budget=10 * per_player,
                method=method,
            ).values
            found.append(np.mean((values - truth) ** 2) / np.var(truth))
    assert np.median(errors["auto"]) <= np.median(errors["antithetic"])
