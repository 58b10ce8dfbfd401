import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles_shapley import shapley_by_definition, table_game

import meanfield as mf
from meanfield.games.evaluation import check_budget, check_game, check_settings
from meanfield.games.known_games import (
    airport,
    glove,
    quadratic,
    shoe,
    unanimity,
    weighted_voting,
)
from meanfield.games.shapley import shapley_values
from meanfield.keys import numpy_generator

SAMPLED = ("antithetic", "stratified", "kernel", "leverage", "surrogate")
KEY = jax.random.key(7)


def random_quadratic(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    pairwise = rng.normal(size=(n, n))
    return quadratic(rng.normal(size=n), pairwise + pairwise.T)


def with_null_and_twins(coalitions):
    """Ten players: 0 and 1 interchangeable, 9 without any effect, v(∅) not 0."""
    c = np.asarray(coalitions, dtype=float)
    weights = np.array([1.0, 1.0, 3.0, 0.5, 2.0, 0.2, 1.5, 2.5, 0.7, 0.0])
    return np.tanh(c @ weights / 4 - 1) - 0.3 * c[:, 2] * c[:, 4] * c[:, 7]


# Closed forms


@pytest.mark.parametrize(
    "game",
    [
        airport([4, 1, 2, 2, 7, 3]),
        glove(2, 3),
        glove(1, 2),
        shoe(3),
        unanimity(6, [[1, 4]], [1.0]),
        unanimity(7, [[0, 2], [1], [0, 3, 5], [2, 6]], [1.0, -2.0, 0.5, 3.0]),
        weighted_voting([50, 49, 1], 51),
        weighted_voting([4, 3, 2, 1, 0, 3, 1], 8),
        random_quadratic(6),
    ],
    ids=lambda game: f"{game.name}-{game.num_players}",
)
def test_enumeration_and_the_closed_form_meet_the_definition(game):
    n = game.num_players
    expected = shapley_by_definition(game, n)
    result = shapley_values(game, n, method="exact")
    np.testing.assert_allclose(result.values, expected, atol=1e-12)
    np.testing.assert_allclose(game.shapley_values, expected, atol=1e-12)
    assert result.num_evaluations == 2**n
    assert (result.standard_errors == 0).all()
    assert (result.intervals[:, 0] <= expected).all()
    assert (expected <= result.intervals[:, 1]).all()


def test_the_airport_of_a_hundred_players_has_the_published_values():
    counts = [8, 12, 6, 14, 8, 9, 13, 10, 10, 10]
    game = airport(np.repeat(np.arange(1, 11), counts))
    distinct = np.unique(game.shapley_values.round(9))
    np.testing.assert_allclose(
        distinct,
        [0.01, 0.020869565, 0.033369565, 0.046883079, 0.063549745]
        + [0.082780515, 0.106036329, 0.139369662, 0.189369662, 0.289369662],
        atol=1e-9,
    )
    for method in ("antithetic", "stratified"):
        result = shapley_values(game, 100, key=KEY, budget=20_000, method=method)
        assert (result.intervals[:, 0] <= game.shapley_values).all()
        assert (game.shapley_values <= result.intervals[:, 1]).all()
        # Values reach .29; a mean squared error of 1e-2 is a tenth of that, squared.
        assert np.mean((result.values - game.shapley_values) ** 2) < 1e-2
        assert result.num_evaluations <= 20_000


def test_the_security_council_votes_by_dynamic_programme():
    council = weighted_voting([7] * 5 + [1] * 10, 39)
    np.testing.assert_allclose(council.shapley_values[:5], 421 / 2145, rtol=1e-12)
    np.testing.assert_allclose(council.shapley_values[5:], 4 / 2145, rtol=1e-12)


def test_a_vote_of_sixty_members_is_counted_exactly():
    # 2^60 coalitions; equal weights share evenly and a dictator takes all.
    np.testing.assert_allclose(
        weighted_voting([1] * 60, 31).shapley_values, 1 / 60, rtol=1e-12
    )
    dictator = weighted_voting([100] + [1] * 59, 100).shapley_values
    np.testing.assert_allclose(dictator[0], 1, rtol=1e-12)
    assert (dictator[1:] == 0).all()


@pytest.mark.parametrize("method", ["antithetic", "kernel", "leverage"])
def test_quadratic_games_are_exact_from_few_coalitions(method):
    game = random_quadratic(24)
    budget = 48 if method == "antithetic" else 62
    result = shapley_values(game, 24, key=KEY, budget=budget, method=method)
    np.testing.assert_allclose(result.values, game.shapley_values, atol=1e-10)


def test_one_antithetic_pair_is_exact_and_confesses_that_it_cannot_know():
    game = shoe(25)
    result = shapley_values(game, 50, key=KEY, budget=100, method="antithetic")
    np.testing.assert_array_equal(result.values, 0.5)
    assert np.isinf(result.standard_errors).all()
    assert np.isneginf(result.intervals[:, 0]).all()
    assert np.isposinf(result.intervals[:, 1]).all()


# Axioms


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("budget", [32, 120, 400])
def test_values_share_out_exactly_the_gain(method, budget):
    result = shapley_values(
        with_null_and_twins, 10, key=KEY, budget=budget, method=method
    )
    empty, grand = with_null_and_twins(np.array([[0] * 10, [1] * 10]))
    assert (result.empty_value, result.grand_value) == (empty, grand)
    assert abs(result.values.sum() - (grand - empty)) < 1e-12
    assert abs(result.efficiency_gap) < 1e-12


@pytest.mark.parametrize("budget", [20, 333, 1024])
def test_a_null_player_gets_exactly_zero(budget):
    result = shapley_values(
        with_null_and_twins, 10, key=KEY, budget=budget, method="antithetic"
    )
    assert result.values[9] == 0.0


@pytest.mark.parametrize("method", ["exact", *SAMPLED])
def test_interchangeable_players_get_the_same_up_to_their_errors(method):
    budget = 1024 if method == "exact" else 500
    result = shapley_values(
        with_null_and_twins, 10, key=KEY, budget=budget, method=method
    )
    spread = np.hypot(*result.standard_errors[:2])
    assert abs(result.values[0] - result.values[1]) <= 5 * spread + 1e-14


@pytest.mark.parametrize("method", ["antithetic", "stratified", "kernel", "leverage"])
def test_linear_estimators_are_additive_draw_by_draw(method):
    other = airport(np.arange(1, 11))

    def total(coalitions):
        return 2 * with_null_and_twins(coalitions) - 3 * other(coalitions)

    one, two, both = (
        shapley_values(game, 10, key=KEY, budget=300, method=method).values
        for game in (with_null_and_twins, other, total)
    )
    np.testing.assert_allclose(both, 2 * one - 3 * two, atol=1e-10)


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_a_constant_added_to_the_game_changes_nothing(method, shift):
    plain = shapley_values(with_null_and_twins, 10, key=KEY, budget=200, method=method)
    moved = shapley_values(
        lambda s: with_null_and_twins(s) + shift,
        10,
        key=KEY,
        budget=200,
        method=method,
    )
    np.testing.assert_allclose(moved.values, plain.values, atol=1e-8)


@pytest.mark.parametrize("method", SAMPLED)
def test_estimates_agree_with_enumeration_within_their_errors(method):
    truth = shapley_values(with_null_and_twins, 10, method="exact").values
    runs = [
        shapley_values(
            with_null_and_twins, 10, key=jax.random.key(s), budget=400, method=method
        )
        for s in range(8)
    ]
    mean = np.mean([run.values for run in runs], axis=0)
    error = np.sqrt(np.mean([run.standard_errors**2 for run in runs], axis=0) / 8)
    assert (np.abs(mean - truth) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("method", ["antithetic", "stratified"])
def test_unbiased_estimators_have_the_right_mean(method):
    # An asymmetric random table; the mean of 400 short runs at 5 standard errors.
    game = table_game(np.random.default_rng(3).normal(size=2**7))
    truth = shapley_values(game, 7, method="exact").values
    runs = np.array(
        [
            shapley_values(
                game, 7, key=jax.random.key(s), budget=26, method=method
            ).values
            for s in range(400)
        ]
    )
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert (np.abs(runs.mean(axis=0) - truth) <= 5 * error).all()


# Budget, keys, chunks, progress, stopping


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("budget", [33, 57, 130, 777, 1023])
def test_the_budget_is_never_exceeded_and_counted_truly(method, budget):
    asked = []

    def counted(coalitions):
        asked.append(len(coalitions))
        return with_null_and_twins(coalitions)

    result = shapley_values(counted, 10, key=KEY, budget=budget, method=method)
    assert sum(asked) == result.num_evaluations <= budget
    assert result.method == method


@pytest.mark.parametrize("method", SAMPLED)
def test_a_budget_for_all_coalitions_gives_exact_values(method):
    result = shapley_values(with_null_and_twins, 10, budget=5000, method=method)
    truth = shapley_by_definition(with_null_and_twins, 10)
    np.testing.assert_allclose(result.values, truth, atol=1e-12)
    assert result.num_evaluations == 1024
    assert result.method == "exact"


@pytest.mark.parametrize("method", SAMPLED)
def test_the_same_key_gives_the_same_result_for_any_chunk(method):
    first, second, other = (
        shapley_values(
            with_null_and_twins,
            10,
            key=jax.random.key(seed),
            budget=200,
            method=method,
            chunk_size=chunk,
        )
        for seed, chunk in ((1, 4096), (1, 7), (2, 4096))
    )
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.intervals, second.intervals)
    assert (first.values != other.values).any()


def test_a_jitted_jax_function_is_a_game():
    weights = jnp.arange(1.0, 13.0)

    @jax.jit
    def game(coalitions):
        return jnp.sqrt(coalitions @ weights)

    result = shapley_values(game, 12, key=KEY, budget=600, chunk_size=64)
    reference = shapley_values(
        lambda s: np.sqrt(s @ np.arange(1.0, 13.0)), 12, key=KEY, budget=600
    )
    np.testing.assert_allclose(result.values, reference.values, atol=1e-5)
    assert result.values.dtype == np.float64


def test_boolean_integer_and_bfloat16_payoffs_are_payoffs():
    for convert in (
        lambda payoff: payoff > 2.0,
        lambda payoff: payoff.astype(int),
        lambda payoff: jnp.asarray(payoff, jnp.bfloat16),
    ):
        result = shapley_values(lambda s, c=convert: c(s.sum(axis=1) * 1.0), 4)
        np.testing.assert_allclose(result.values, result.values[0], atol=1e-12)


def test_progress_is_told_after_every_chunk():
    seen = []
    result = shapley_values(
        with_null_and_twins,
        10,
        key=KEY,
        budget=200,
        chunk_size=50,
        progress=lambda done, budget: seen.append((done, budget)),
    )
    assert seen[-1] == (result.num_evaluations, 200)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) >= 4


def test_a_progress_bar_can_be_shown(capsys):
    shapley_values(with_null_and_twins, 10, key=KEY, budget=100, progress=True)
    assert "coalition" in capsys.readouterr().err


def test_stopping_ends_as_soon_as_the_intervals_are_narrow():
    game = airport(np.arange(1, 21))
    loose = shapley_values(game, 20, key=KEY, budget=200_000, tolerance=0.1)
    tight = shapley_values(game, 20, key=KEY, budget=200_000, tolerance=0.02)
    for result, tolerance in ((loose, 0.1), (tight, 0.02)):
        half_widths = (result.intervals[:, 1] - result.intervals[:, 0]) / 2
        assert result.converged
        assert (half_widths <= tolerance * 20).all()
        # Looks come after 16, 32, 64, … pairs of 38 evaluations.
        pairs = (result.num_evaluations - 2) / 38
        assert pairs == 2 ** round(np.log2(pairs)) >= 16
    assert loose.num_evaluations < tight.num_evaluations < 200_000


def test_stopping_says_when_the_budget_was_too_small():
    game = airport(np.arange(1, 21))
    result = shapley_values(game, 20, key=KEY, budget=1000, tolerance=1e-6)
    assert result.converged is False
    assert 900 < result.num_evaluations <= 1000
    assert shapley_values(game, 20, key=KEY, budget=1000).converged is None


@pytest.mark.parametrize("method", ["antithetic", "stratified", "kernel"])
def test_a_thousand_players_are_no_obstacle(method):
    # Beyond 1023 players 2^n is no float any more; least squares is cubic.
    n, budget = {
        "antithetic": (1100, 2200),
        "stratified": (1100, 4000),
        "kernel": (300, 700),
    }[method]
    weights = np.random.default_rng(0).random(n) / n
    result = shapley_values(
        lambda s: (s @ weights) ** 2, n, key=KEY, budget=budget, method=method
    )
    assert np.isfinite(result.values).all()
    assert result.num_evaluations <= budget
    # v is quadratic: φ_i = w_i Σ_j w_j. The stratified estimate has noise.
    if method != "stratified":
        np.testing.assert_allclose(result.values, weights * weights.sum(), atol=1e-12)


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("scale", [1e-30, 1e38])
def test_payoffs_of_any_size_are_handled(method, scale):
    small = shapley_values(with_null_and_twins, 10, key=KEY, budget=300, method=method)
    large = shapley_values(
        lambda s: scale * with_null_and_twins(s), 10, key=KEY, budget=300, method=method
    )
    np.testing.assert_allclose(large.values / scale, small.values, atol=1e-9)
    np.testing.assert_allclose(
        large.standard_errors / scale, small.standard_errors, atol=1e-9
    )


@pytest.mark.parametrize("method", SAMPLED)
def test_a_constant_game_gives_nothing_to_anybody(method):
    result = shapley_values(
        lambda s: np.full(len(s), 5.0), 10, key=KEY, budget=100, method=method
    )
    np.testing.assert_allclose(result.values, 0, atol=1e-12)
    # 924 coalitions were not looked at, and nothing shows what one of them might pay.
    assert np.isinf(result.standard_errors).all()
    known = shapley_values(lambda s: np.full(len(s), 5.0), 10, method="exact")
    np.testing.assert_array_equal(known.standard_errors, 0)


# Bad input


def payoff_with(value, coalition):
    def game(coalitions):
        payoffs = coalitions.sum(axis=1).astype(float)
        payoffs[(coalitions == np.array(coalition, dtype=bool)).all(axis=1)] = value
        return payoffs

    return game


@pytest.mark.parametrize("num_players", [-1, 0, 1])
def test_fewer_than_two_players_are_refused(num_players):
    with pytest.raises(ValueError, match=r"`num_players` must be at least 2; got"):
        shapley_values(with_null_and_twins, num_players, key=KEY, budget=10)


@pytest.mark.parametrize(
    ("game", "got"),
    [
        (lambda s: s.sum(), r"got shape \(\)"),
        (lambda s: s.sum(axis=1, keepdims=True), r"got shape \(\d+, 1\)"),
        (lambda s: s.sum(axis=0), r"got shape \(5,\)"),
    ],
)
def test_payoffs_of_the_wrong_shape_are_refused(game, got):
    with pytest.raises(ValueError, match=rf"`value_fn` must return one payoff.*{got}"):
        shapley_values(game, 5, key=KEY, budget=20)


def test_complex_and_textual_payoffs_are_refused():
    for convert in (lambda x: x * 1j, lambda x: x.astype(str)):
        with pytest.raises(ValueError, match="`value_fn` must return real numbers"):
            shapley_values(lambda s, c=convert: c(s.sum(axis=1)), 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_payoff_that_is_not_finite_names_its_coalition(bad):
    game = payoff_with(bad, [1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"coalition \{0, 2, 3\} \(3 of 5 players\)"):
        shapley_values(game, 5)


def test_a_large_coalition_is_named_in_part():
    game = payoff_with(np.nan, [1] * 40)
    with pytest.raises(ValueError, match=r"18, 19, … and 20 more\} \(40 of 40"):
        shapley_values(game, 40, key=KEY, budget=200)


@pytest.mark.parametrize(
    ("method", "minimum"),
    [
        ("antithetic", 60),
        ("stratified", 92),
        ("kernel", 62),
        ("leverage", 62),
        ("surrogate", 4),
    ],
)
def test_a_budget_below_the_minimum_is_refused_with_the_minimum(method, minimum):
    game = airport(np.arange(1, 31))
    with pytest.raises(ValueError, match=f"`budget` must be at least {minimum} "):
        shapley_values(game, 30, key=KEY, budget=minimum - 1, method=method)
    result = shapley_values(game, 30, key=KEY, budget=minimum, method=method)
    assert result.num_evaluations <= minimum
    assert np.isfinite(result.values).all()


def test_enumeration_says_what_it_costs_and_where_it_ends():
    game = airport(np.arange(1, 31))
    with pytest.raises(ValueError, match="`num_players` of at most 20; got 30"):
        shapley_values(game, 30, method="exact")
    with pytest.raises(ValueError, match="`budget` must be at least 1024 "):
        shapley_values(with_null_and_twins, 10, method="exact", budget=1000)


def test_other_arguments_are_checked_at_the_door():
    game = with_null_and_twins
    with pytest.raises(ValueError, match="`key` is needed"):
        shapley_values(game, 10, budget=100)
    with pytest.raises(TypeError, match=r"`key` must be a typed key"):
        shapley_values(game, 10, key=jax.random.PRNGKey(0), budget=100)
    with pytest.raises(ValueError, match=r"`key` must be one key"):
        numpy_generator(jax.random.split(KEY))
    with pytest.raises(ValueError, match="`level` must lie strictly between 0 and 1"):
        shapley_values(game, 10, key=KEY, budget=100, level=1.0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1"):
        shapley_values(game, 10, key=KEY, budget=100, chunk_size=0)
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        shapley_values(game, 10, key=KEY, budget=100, tolerance=0.0)
    with pytest.raises(ValueError, match='`tolerance` needs method="antithetic"'):
        shapley_values(
            game, 10, key=KEY, budget=100, tolerance=0.1, method="stratified"
        )
    with pytest.raises(TypeError, match="`value_fn` must be a function"):
        check_game(3.0, 10)
    with pytest.raises(TypeError, match="`num_players` must be an integer"):
        check_game(game, 10.0)
    with pytest.raises(TypeError, match="`budget` must be an integer"):
        check_budget(1e3)
    with pytest.raises(TypeError, match="`progress` must be None, True, or a function"):
        check_settings(0.95, 1, "bar")


def test_games_in_closed_form_check_their_arguments():
    with pytest.raises(ValueError, match="`costs` must not be negative"):
        airport([1.0, -2.0])
    with pytest.raises(ValueError, match="`costs` must be a vector of finite numbers"):
        airport([[1.0]])
    with pytest.raises(ValueError, match="`num_right` must be at least 1"):
        glove(2, 0)
    with pytest.raises(ValueError, match="`carriers` must be sets of players"):
        unanimity(3, [[0, 3]], [1.0])
    with pytest.raises(ValueError, match="`weights` must have one entry per carrier"):
        unanimity(3, [[0, 1]], [1.0, 2.0])
    with pytest.raises(ValueError, match="`pairwise` must be a symmetric matrix"):
        quadratic([1.0, 2.0], [[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match="`weights` must be whole numbers"):
        weighted_voting([1, -2], 2)


def test_small_budgets_go_to_the_surrogate_which_promises_no_interval():
    game = airport(np.arange(1, 26))
    found = shapley_values(game, 25, key=KEY, budget=32 * 25)
    assert found.method == "surrogate"
    assert np.isneginf(found.intervals[:, 0]).all()
    assert np.isposinf(found.intervals[:, 1]).all()
    assert np.isfinite(found.standard_errors).all()
    larger = shapley_values(game, 25, key=KEY, budget=33 * 25)
    assert larger.method == "antithetic"
    assert np.isfinite(larger.intervals).all()
    looked = shapley_values(game, 25, key=KEY, budget=32 * 25, tolerance=0.5)
    assert looked.method == "antithetic"


def test_a_game_that_knows_its_players_is_asked_for_their_number():
    game = airport([1.0, 2.0, 4.0, 4.5, 7.0])
    for find in (mf.shapley_values, mf.games.banzhaf_values):
        asked = find(game, budget=32)
        told = find(game, 5, budget=32)
        np.testing.assert_array_equal(asked.values, told.values)
    pairs = mf.games.interaction_values(game, budget=32)
    assert pairs.values.shape == (5, 5)

    class Foreign:
        n_players = 5

        def __call__(self, coalitions):
            return game(coalitions)

    found = mf.shapley_values(Foreign(), budget=32)
    np.testing.assert_allclose(found.values, game.shapley_values)
    with pytest.raises(ValueError, match="`num_players` is needed"):
        mf.shapley_values(lambda s: s[:, 0])


def test_results_cannot_be_changed():
    found = mf.shapley_values(airport([1.0, 2.0]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.values = np.zeros(2)
