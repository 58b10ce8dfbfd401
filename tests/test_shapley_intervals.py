import functools

import jax
import numpy as np
import pytest
from oracles_shapley import table_game
from scipy import stats

from meanfield.games.banzhaf import banzhaf_values
from meanfield.games.clusters import clustered_statistics
from meanfield.games.evaluation import Evaluator
from meanfield.games.intervals import (
    replicate_statistics,
    student_quantile,
    with_unseen,
)
from meanfield.games.known_games import (
    airport,
    glove,
    unanimity,
    weighted_voting,
)
from meanfield.games.owen import owen_values
from meanfield.games.permutations import antithetic_replicates, random_orders
from meanfield.games.shapley import shapley_values


def covered(intervals, truth) -> bool:
    return bool(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).all())


def coverage_of_runs(game, n, truth, budget, repetitions=1000, **arguments):
    """Share of runs whose intervals hold for all players, and for each alone."""
    together, alone = [], []
    for seed in range(repetitions):
        result = shapley_values(
            game, n, key=jax.random.key(seed), budget=budget, **arguments
        )
        together.append(covered(result.intervals, truth))
        error = np.abs(result.values - truth)
        alone.append(np.mean(error <= 1.96 * result.standard_errors))
    return np.mean(together), np.mean(alone)


def smooth_game():
    """Twelve players of very different weight; odd orders 1, 3, 5, … all present."""
    rng = np.random.default_rng(5)
    weights, bent = rng.normal(size=(2, 12))
    members = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
    table = np.tanh(members @ weights) + 0.3 * np.sin(members @ bent)
    return table_game(table)


# Coverage over 1000 repetitions; the binomial standard error is 0.007.


def test_intervals_hold_together_in_95_of_100_runs_on_the_airport():
    game = airport(np.arange(1, 13))
    together, alone = coverage_of_runs(game, 12, game.shapley_values, 2 + 48 * 22)
    assert 0.93 <= together <= 0.97
    assert 0.92 <= alone <= 0.97


def test_intervals_hold_together_in_95_of_100_runs_on_a_smooth_game():
    game = smooth_game()
    truth = shapley_values(game, 12, method="exact").values
    pairs, repetitions = 48, 1000
    count = repetitions * pairs
    evaluate = Evaluator(
        game, 12, budget=2 + 22 * count, chunk_size=2**16, progress=None
    )
    orders = random_orders(12)(np.random.default_rng(0), count)
    replicates = antithetic_replicates(evaluate, orders, *evaluate.ends())
    runs = replicates.reshape(repetitions, pairs, 12)
    held = [covered(replicate_statistics(run).intervals, truth) for run in runs]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize("method", ["stratified", "kernel", "leverage"])
def test_other_methods_cover_as_promised_on_a_smooth_game(method):
    game = smooth_game()
    truth = shapley_values(game, 12, method="exact").values
    together, alone = coverage_of_runs(
        game, 12, truth, 600, repetitions=200, method=method
    )
    # 200 repetitions: binomial standard error 0.015, three of them either side.
    assert 0.905 <= together <= 0.995
    assert 0.92 <= alone <= 0.975


def test_stopping_early_keeps_the_coverage():
    game = airport(np.arange(1, 13))
    repetitions, held, stopped = 200, 0, set()
    for seed in range(repetitions):
        result = shapley_values(
            game, 12, key=jax.random.key(seed), budget=4000, tolerance=0.07
        )
        held += covered(result.intervals, game.shapley_values)
        stopped.add(result.num_evaluations)
    # Error is spent on looks not taken, so coverage is at least the level.
    assert held / repetitions >= 0.93
    assert len(stopped) >= 2


def test_looking_repeatedly_at_full_level_would_lose_coverage():
    # The reason for spending the error over the looks: noise, looked at ten times.
    rng = np.random.default_rng(0)
    naive = spent = 0
    for _ in range(1000):
        x = rng.normal(size=(2048, 1))
        looks = [16 * 2**s for s in range(8)]
        naive += all(
            covered(replicate_statistics(x[:r]).intervals, np.zeros(1)) for r in looks
        )
        spent += all(
            covered(
                replicate_statistics(x[:r], level=1 - 0.05 / 2 ** (s + 1)).intervals,
                np.zeros(1),
            )
            for s, r in enumerate(looks)
        )
    assert naive / 1000 < 0.85
    assert spent / 1000 >= 0.93


# Replicates


def test_gaussian_replicates_give_student_intervals_in_the_limit():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 5)) * [1, 2, 3, 4, 5] + [5, 4, 3, 2, 1]
    result = replicate_statistics(x)
    np.testing.assert_allclose(result.values, x.mean(axis=0))
    np.testing.assert_allclose(
        result.standard_errors, x.std(axis=0, ddof=1) / np.sqrt(20_000)
    )
    half_width = result.intervals[:, 1] - result.values
    quantile = stats.norm.isf((1 - 0.95 ** (1 / 5)) / 2)
    np.testing.assert_allclose(half_width, quantile * result.standard_errors, rtol=0.02)


def test_replicates_without_variance_have_intervals_of_rounding_width():
    x = np.tile([0.1, -7.0, 0.0], (4, 1))
    result = replicate_statistics(x)
    assert (result.standard_errors == 0).all()
    assert (np.diff(result.intervals, axis=1) < 1e-12).all()
    assert covered(result.intervals, np.array([0.1, -7.0, 0.0]))


def test_a_player_not_seen_to_vary_still_has_an_interval():
    # Pays 1 in one of fifty replicates: half of all short runs never see it.
    rng = np.random.default_rng(2)
    held = unseen = 0
    for _ in range(500):
        rare = rng.random((32, 1)) < 0.02
        common = rng.random((32, 3)) < 0.5
        x = np.concatenate([rare, common], axis=1).astype(float)
        result = replicate_statistics(x)
        unseen += not rare.any()
        assert result.standard_errors[0] > 0
        held += covered(result.intervals, np.array([0.02, 0.5, 0.5, 0.5]))
    assert unseen > 150
    assert held / 500 >= 0.93


def test_the_quantile_keeps_its_digits_for_many_players():
    quantile = student_quantile(np.array([1e9]), 0.95, 10**6)
    expected = stats.norm.isf(-np.expm1(np.log(0.95) / 1e6) / 2)
    np.testing.assert_allclose(quantile, expected, rtol=1e-6)


def test_replicates_are_checked():
    with pytest.raises(ValueError, match=r"`replicates` must have the axes"):
        replicate_statistics(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"`replicates` must be finite"):
        replicate_statistics(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"at least 2 posterior draws; got 1"):
        clustered_statistics(np.zeros((1, 4, 3)))


# Clusters: several replicates under one draw from the posterior


def posterior_replicates(rng, draws=40, replicates=8, players=6):
    """x = φ + u (posterior, sd .5 … 0) + e (Monte-Carlo, sd 1)."""
    spread = np.linspace(0.5, 0.0, players)
    effect = rng.normal(size=(draws, 1, players)) * spread
    return effect + rng.normal(size=(draws, replicates, players)), spread


def test_clustered_statistics_separate_posterior_spread_from_noise():
    rng = np.random.default_rng(3)
    x, spread = posterior_replicates(rng, draws=4000)
    result = clustered_statistics(x)
    np.testing.assert_allclose(result.values, x.mean(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(
        result.standard_errors, np.sqrt((spread**2 + 1 / 8) / 4000), rtol=0.06
    )
    np.testing.assert_allclose(
        result.monte_carlo_errors, np.sqrt(1 / (8 * 4000)), rtol=0.03
    )
    np.testing.assert_allclose(result.posterior_scale, spread, atol=0.05)


def test_intervals_clustered_by_draw_cover_and_pooled_ones_do_not():
    rng = np.random.default_rng(4)
    clustered = pooled = credible = 0.0
    # The spread of the posterior can be seen only where it is not far below the noise
    # of a draw's mean, √(1/8): the first three players.
    repetitions = 1000
    for _ in range(repetitions):
        x, spread = posterior_replicates(rng)
        result = clustered_statistics(x)
        clustered += covered(result.intervals, 0)
        pooled += covered(replicate_statistics(x.reshape(-1, 6)).intervals, 0)
        away = np.abs(rng.normal(size=6) * spread - result.values)
        reach = result.credible_intervals[:, 1] - result.values
        credible += np.mean(away[:3] <= reach[:3])
    assert 0.93 <= clustered / repetitions <= 0.97
    assert pooled / repetitions < 0.85
    assert 0.92 <= credible / repetitions <= 0.97


def test_one_replicate_a_draw_cannot_separate_but_still_covers():
    result = clustered_statistics(np.random.default_rng(6).normal(size=(30, 1, 2)))
    assert np.isnan(result.posterior_scale).all()
    assert np.isnan(result.monte_carlo_errors).all()
    assert np.isfinite(result.intervals).all()


def heavy_tailed():
    """A few large unanimity games among many small ones."""
    rng = np.random.default_rng(4)
    carriers = [
        rng.choice(20, size, replace=False).tolist() for size in rng.integers(2, 8, 40)
    ]
    return unanimity(20, carriers, rng.standard_t(1.5, 40))


KNOWN = {
    "airport": airport(np.arange(1, 21.0) ** 2),
    "gloves": glove(4, 9),
    "vote": weighted_voting([9, 7, 5, 5, 3, 3, 2, 1, 1, 1, 1, 1], 20),
    "heavy tails": heavy_tailed(),
}


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("name", KNOWN)
def test_few_replicates_give_intervals_that_hold_and_are_no_wider_than_the_game(
    name, count
):
    game, rng = KNOWN[name], np.random.default_rng(count)
    evaluate = Evaluator(
        game, game.num_players, budget=10**7, chunk_size=4096, progress=None
    )
    empty, grand = evaluate.ends()
    draw, inside, repetitions = random_orders(game.num_players), 0, 150
    for _ in range(repetitions):
        replicates = antithetic_replicates(evaluate, draw(rng, count), empty, grand)
        found = replicate_statistics(replicates)
        inside += covered(found.intervals, game.shapley_values)
        half = (found.intervals[:, 1] - found.intervals[:, 0]) / 2
        # Student's quantile alone reaches a thousand times the range.
        reach = np.ptp(replicates, axis=0).max()
        assert half.max() <= 30 * reach / (count - 1) + 1e-9
    error = np.sqrt(0.95 * 0.05 / repetitions)
    assert inside / repetitions >= 0.95 - 3 * error


def test_replicates_that_coincide_do_not_claim_to_be_exact():
    alike = replicate_statistics(np.tile([1.0, 2.0, 3.0], (3, 1)))
    assert np.isinf(alike.standard_errors).all()
    assert np.isinf(alike.intervals).all()
    few = replicate_statistics(np.array([[0.0, 1.0], [2.0, 1.0]]))
    assert (few.standard_errors > 0).all()
    assert np.isfinite(few.standard_errors).all()
    assert np.isinf(few.intervals).all()


@pytest.mark.parametrize("method", ["antithetic", "kernel", "leverage"])
def test_a_random_game_is_not_known_without_an_error(method):
    rng = np.random.default_rng(7)
    for repetition in range(20):
        players = 4 + repetition % 4
        game = table_game(rng.standard_normal(2**players))
        budget = 2 * players + 2 if method != "antithetic" else 4 * players
        if budget >= 2**players:
            continue
        found = shapley_values(
            game, players, budget=budget, method=method, key=jax.random.key(repetition)
        )
        assert (found.standard_errors > 0).all()


RARE = {
    "one coalition": lambda s: 100.0 * (s == np.arange(12) % 2).all(axis=1),
    "one size": lambda s: 12.0 * ((s.sum(axis=1) == 3) & s[:, 0]),
    "all but one": lambda s: 11.0 * s[:, :11].all(axis=1),
    "a sum and one coalition": lambda s: (
        s.sum(axis=1) + 12.0 * (s[:, 3] & (s.sum(axis=1) == 1))
    ),
}
ESTIMATORS = {
    method: functools.partial(shapley_values, method=method)
    for method in ("antithetic", "stratified", "kernel", "leverage", "surrogate")
} | {
    "banzhaf": banzhaf_values,
    "owen": lambda game, n, **rest: owen_values(
        game, [list(range(6)), list(range(6, n))], **rest
    ),
}


@pytest.mark.parametrize("method", ESTIMATORS)
@pytest.mark.parametrize("name", RARE)
def test_a_payoff_too_rare_to_be_seen_is_not_certainly_absent(name, method):
    game, estimator = RARE[name], ESTIMATORS[method]
    exact = estimator(game, 12, budget=10**6).values
    for budget in (60, 120):
        if method == "surrogate" and budget > 60:
            continue
        for seed in range(2):
            found = estimator(game, 12, budget=budget, key=jax.random.key(seed))
            error = np.abs(found.values - exact)
            off = error > 1e-9
            assert (found.standard_errors[off] > 0).all()
            # A few coalitions of a size tell little of the others; a prior tells less.
            if method != "surrogate" and (method, budget) != ("stratified", 60):
                assert (error <= 20 * found.standard_errors + 1e-9).all()


def test_what_no_replicate_showed_may_still_be_there():
    seen = replicate_statistics(np.tile([1.0, -2.0], (50, 1)))
    found = with_unseen(seen, 5.0, 50)
    np.testing.assert_allclose(found.standard_errors, 5 / 50)
    # A share f goes unseen with probability (1 − f)^50 = α_i.
    tail = 1 - np.sqrt(0.95)
    width = found.intervals[:, 1] - found.values
    np.testing.assert_allclose(width, 5 * -np.log(tail) / 50, rtol=1e-9)
    unknown = with_unseen(seen, 0.0, 50)
    assert np.isinf(unknown.standard_errors).all()
    assert np.isinf(unknown.intervals).all()
    varied = replicate_statistics(np.random.default_rng(0).normal(size=(50, 2)))
    assert with_unseen(varied, 5.0, 50) is varied
