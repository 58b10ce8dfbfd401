"""Games and estimators are exchanged with shapiq, in both directions."""

import jax
import numpy as np
import pytest

from meanfield.games.banzhaf import banzhaf_values
from meanfield.games.interactions import interaction_values
from meanfield.games.known_games import airport, quadratic, unanimity
from meanfield.games.shapley import shapley_values

shapiq = pytest.importorskip("shapiq")
KEY = jax.random.key(3)


class Auction(shapiq.Game):
    """A game in shapiq's own dress, with v(∅) = 2 that it subtracts itself."""

    def __init__(self, n: int):
        self.weights = np.random.default_rng(0).normal(size=n)
        super().__init__(n_players=n, normalize=True, normalization_value=2.0)

    def value_function(self, coalitions):
        return 2.0 + np.tanh(np.asarray(coalitions) @ self.weights)


def our_auction(coalitions):
    weights = np.random.default_rng(0).normal(size=9)
    return np.tanh(np.asarray(coalitions) @ weights)


@pytest.mark.parametrize("method", ["antithetic", "stratified", "kernel", "surrogate"])
def test_a_shapiq_game_is_a_value_function(method):
    theirs = shapley_values(Auction(9), 9, key=KEY, budget=200, method=method)
    ours = shapley_values(our_auction, 9, key=KEY, budget=200, method=method)
    np.testing.assert_allclose(theirs.values, ours.values, atol=1e-9)


def test_exact_values_agree_with_shapiq_exact_computer():
    game = Auction(7)
    computer = shapiq.ExactComputer(game, n_players=7)
    np.testing.assert_allclose(
        shapley_values(game, 7, method="exact").values,
        computer("SV").get_n_order_values(1),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        banzhaf_values(game, 7, budget=2**7).values,
        computer("BV").get_n_order_values(1),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        interaction_values(game, 7, budget=2**7).values,
        computer("SII", order=2).get_n_order_values(2),
        atol=1e-10,
    )


@pytest.mark.filterwarnings("ignore:Not all budget is required:UserWarning")
def test_our_games_are_games_for_shapiq():
    rng = np.random.default_rng(1)
    pairwise = rng.normal(size=(8, 8))
    for game in (
        quadratic(rng.normal(size=8), pairwise + pairwise.T),
        airport(rng.random(8)),
        unanimity(8, [[0, 3], [1, 2, 7]], [1.0, -2.0]),
    ):
        computer = shapiq.ExactComputer(game, n_players=8)
        np.testing.assert_allclose(
            computer("SV").get_n_order_values(1), game.shapley_values, atol=1e-10
        )
        estimate = shapiq.KernelSHAP(8, random_state=0).approximate(256, game)
        np.testing.assert_allclose(
            estimate.get_n_order_values(1), game.shapley_values, atol=1e-6
        )
        for kind in (shapiq.PermutationSamplingSV, shapiq.SVARM):
            noisy = kind(8, random_state=0).approximate(4000, game)
            np.testing.assert_allclose(
                noisy.get_n_order_values(1), game.shapley_values, atol=0.5
            )
