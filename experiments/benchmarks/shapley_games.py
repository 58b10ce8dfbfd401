"""Shapley estimators at equal budget, ours and shapiq's, side by side in one run.

The games are explanations, valuations and ensembles of real models (n = 8 … 16) with
all 2^n payoffs known, so that the error of an estimate is exact. Budgets are 2n, 8n
and 32n evaluations. Errors are mean squared errors over players, averaged over seeds
and divided by the variance of the game's Shapley values: 1 is the error of sharing
evenly. The table gives the median over games, and, for ours, the median over games of
the ratio to the best of shapiq's estimators on that very game.

    python experiments/benchmarks/shapley_games.py --games FOLDER [--seeds 5]

FOLDER holds `shapiq_games.npz`: arrays "<game>::v" of 2^n payoffs (bit i of the index
is player i) and "<game>::phi" of exact Shapley values. Without --games the folder
shapley_games in $MEANFIELD_DATA is taken; without either, sums of unanimity games with
known values are drawn instead.
"""

import argparse
import csv
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import jax
import matplotlib
import numpy as np

from meanfield.files import atomic_path
from meanfield.games.known_games import unanimity
from meanfield.games.shapley import shapley_values

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BUDGETS = (2, 8, 32)  # evaluations per player; at these "auto" is the surrogate
OURS = ("auto", "stratified", "kernel", "leverage", "antithetic")
# Every permutation, kernel and SVARM estimator of shapiq, with and without pairing.
SHAPIQ = {
    "PermutationSamplingSV": [{}],
    "StratifiedSamplingSV": [{}],
    "KernelSHAP": [{}, {"pairing_trick": True}],
    "UnbiasedKernelSHAP": [{}, {"pairing_trick": True}],
    "LeverageSHAP": [{}],
    "SVARM": [{}],
}
OUT = Path("runs/shapley_games")


def main() -> None:
    """Run every estimator on every game; print the tables, save them and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    games = load_games(arguments.games)
    print(f"{len(games)} games, {arguments.seeds} seeds")
    estimators = our_estimators() | shapiq_estimators()
    errors, seconds = measure(games, estimators, arguments.seeds)
    print_tables(errors, seconds, arguments.seeds * len(games))
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_table(errors, arguments.out / "errors.csv")
    draw(errors, arguments.out / "errors.png")
    print(f"wrote {arguments.out}/errors.csv and {arguments.out}/errors.png")


def load_games(folder: Path | None) -> dict:
    """Games by name: (players, value function, exact values)."""
    if folder is None and "MEANFIELD_DATA" in os.environ:
        folder = Path(os.environ["MEANFIELD_DATA"]) / "shapley_games"
    if folder is None:
        print("no --games and no $MEANFIELD_DATA: drawing sums of unanimity games")
        return drawn_games()
    file = folder / "shapiq_games.npz"
    if not file.is_file():
        raise SystemExit(f"no {file}; put shapiq_games.npz there or leave out --games")
    games = {}
    with np.load(file) as archive:
        for name in sorted({key.split("::")[0] for key in archive.files}):
            table, exact = archive[f"{name}::v"], archive[f"{name}::phi"]
            games[name] = (len(exact), lookup(table.astype(float)), exact.astype(float))
    return games


def lookup(table):
    """The value function of a table of 2^n payoffs."""
    powers = 2 ** np.arange(int(np.log2(len(table))))
    return lambda coalitions: table[np.atleast_2d(coalitions) @ powers]


def drawn_games(count: int = 20) -> dict:
    """Sums of 60 unanimity games on 14 players, up to five players each."""
    games = {}
    for seed in range(count):
        rng = np.random.default_rng(seed)
        carriers = [
            rng.choice(14, rng.integers(1, 6), replace=False).tolist()
            for _ in range(60)
        ]
        game = unanimity(14, carriers, rng.normal(size=60))
        games[f"unanimity {seed}"] = (14, game, game.shapley_values)
    return games


def our_estimators() -> dict:
    """Name -> function (players, budget, game, seed) -> values."""

    def make(method):
        def run(n, budget, game, seed):
            key = jax.random.key(seed)
            result = shapley_values(game, n, key=key, budget=budget, method=method)
            assert result.num_evaluations <= budget
            return result.values

        return run

    return {f"meanfield {method}": make(method) for method in OURS}


def shapiq_estimators() -> dict:
    """The same for the estimators that the installed shapiq has."""
    from shapiq import approximator

    def make(kind, settings):
        def run(n, budget, game, seed):
            estimator = kind(n=n, random_state=seed, **settings)
            return estimator.approximate(budget, game).get_n_order_values(1)

        return run

    found = {}
    for name, variants in SHAPIQ.items():
        kind = getattr(approximator, name, None)
        for settings in variants if kind is not None else ():
            label = f"shapiq {name}" + (" paired" if settings else "")
            found[label] = make(kind, settings)
    print(f"shapiq {version('shapiq')}")
    return found


def measure(games, estimators, num_seeds: int):
    """Relative mean squared errors, {(estimator, budget): {game: error}}; seconds."""
    errors, seconds = {}, dict.fromkeys(estimators, 0.0)
    for name, (n, game, exact) in games.items():
        for per_player in BUDGETS:
            for label, run in estimators.items():
                start = time.perf_counter()
                found = [
                    attempt(run, n, per_player * n, game, seed)
                    for seed in range(num_seeds)
                ]
                seconds[label] += time.perf_counter() - start
                squares = [np.mean((values - exact) ** 2) for values in found]
                relative = np.mean(squares) / np.var(exact)
                errors.setdefault((label, per_player), {})[name] = relative
    return errors, seconds


def attempt(run, n, budget, game, seed):
    """One estimate; NaN where an estimator refuses the budget (our own rule)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run(n, budget, game, seed)
        except ValueError as error:
            if "`budget` must be at least" not in str(error):
                raise
            return np.full(n, np.nan)


def print_tables(errors, seconds, num_runs: int) -> None:
    """Medians over games, and ratios to the best estimator of shapiq."""
    labels = list(seconds)
    print(f"\nmedian over games of MSE / var(values); ms per estimate\n{'':36}", end="")
    print("".join(f"{f'{b}n':>10}" for b in BUDGETS) + f"{'ms':>8}")
    for label in labels:
        row = "".join(f"{median(errors[label, b]):10.3g}" for b in BUDGETS)
        print(f"{label:36}{row}{1e3 * seconds[label] / num_runs / len(BUDGETS):8.1f}")
    theirs = [label for label in labels if label.startswith("shapiq")]
    best = [min(median(errors[label, b]) for label in theirs) for b in BUDGETS]
    print(f"{'best of shapiq':36}" + "".join(f"{value:10.3g}" for value in best))
    print("\nmedian over games of the ratio to shapiq's best on the same game")
    for label in labels:
        if label.startswith("shapiq"):
            continue
        ratios = "".join(
            f"{ratio_to_best(errors, label, theirs, b):10.3g}" for b in BUDGETS
        )
        print(f"{label:36}{ratios}")


def median(by_game) -> float:
    """Median over games; NaN when some game could not be estimated."""
    return float(np.median(list(by_game.values())))


def ratio_to_best(errors, label, theirs, per_player) -> float:
    """Median over games of error / smallest error of shapiq on that game."""
    ratios = []
    for name, error in errors[label, per_player].items():
        best = min(errors[other, per_player][name] for other in theirs)
        # Exact against exact (a budget of all coalitions) is a draw.
        ratios.append((error + 1e-20) / (best + 1e-20))
    return float(np.median(ratios))


def save_table(errors, target: Path) -> None:
    """Every error: estimator, budget, game."""
    with atomic_path(target) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["estimator", "evaluations_per_player", "game", "relative_mse"])
        for (label, per_player), by_game in errors.items():
            for name, error in by_game.items():
                writer.writerow([label, per_player, name, error])


def draw(errors, target: Path) -> None:
    """Median error against budget: ours in colour, shapiq's in grey."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    labels = list(dict.fromkeys(label for label, _ in errors))
    styles = iter(["-", "--", "-.", ":", (0, (1, 3)), (0, (5, 4)), (0, (3, 1)), "-"])
    for label in labels:
        medians = [median(errors[label, b]) for b in BUDGETS]
        if label.startswith("shapiq"):
            look = {"color": "0.55", "linestyle": next(styles), "linewidth": 1.0}
        else:
            look = {"marker": "o", "linewidth": 1.8}
        axes.plot(BUDGETS, medians, label=label, **look)
    axes.set(xscale="log", yscale="log", xlabel="evaluations per player")
    axes.set_ylabel("median relative mean squared error")
    axes.set_xticks(BUDGETS, [f"{b}n" for b in BUDGETS])
    axes.minorticks_off()
    axes.set_ylim(top=100)
    axes.legend(fontsize=7, ncols=2)
    with atomic_path(target) as path:
        figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
