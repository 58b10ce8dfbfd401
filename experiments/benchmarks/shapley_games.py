"""Shapley estimators at equal budget, ours and shapiq's, in one run.

Two sets of games with all 2^n payoffs known, so that the error of an estimate is exact:
explanations, valuations and ensembles of real models (n = 8 … 16) that shapiq's authors
published, and five families of games of small models on scikit-learn's tables, made
here (n = 10, tabular_games.py). Budgets are 16 evaluations and 2n, 8n and 32n. Errors
are mean squared errors over players, averaged over seeds and divided by the variance of
the game's Shapley values: 1 is the error of equal values for all players. The tables
have medians over games, by family for the automatic choice, its alternatives and the
best estimator of shapiq.

    python experiments/benchmarks/shapley_games.py --games FOLDER [--seeds 5]

FOLDER holds `shapiq_games.npz`: arrays "<game>::v" of 2^n payoffs (bit i of the index
is player i) and "<game>::phi" of exact Shapley values. Without --games the folder
shapley_games in $MEANFIELD_DATA is used; without either, only the games made here.
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
from tabular_games import tabular_games

from meanfield.files import atomic_path
from meanfield.games.shapley import shapley_values

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BUDGETS = ("16", "2n", "8n", "32n")  # for these, "auto" is the surrogate
OURS = ("auto", "antithetic", "leverage", "stratified")
# The estimators of shapiq for Shapley values; RegressionMSR and ProxySHAP need xgboost,
# OddSHAP needs lightgbm. ShaplEIG needs PyTorch and is left out.
SHAPIQ = {
    "PermutationSamplingSV": {},
    "KernelSHAP": {"pairing_trick": True},
    "LeverageSHAP": {},
    "SVARM": {},
    "RegressionMSR": {"index": "SV"},
    "OddSHAP": {},
    "ProxySHAP": {"index": "SV", "max_order": 1},
}
# Messages of estimators that need more evaluations, or payoffs that differ.
REFUSALS = ("budget", "label contains nan")
FIRST_TABLE_SEED = 1  # seed 0 was used while the surrogate was developed
OUT = Path("runs/shapley_games")


def main() -> None:
    """Run every estimator on every game; print the tables, save them and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", type=int, default=2, help="splits of every table")
    parser.add_argument("--ours", action="store_true", help="leave shapiq out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.tables, arguments.ours = 1, 1, True
    splits = range(FIRST_TABLE_SEED, FIRST_TABLE_SEED + arguments.tables)
    games = {
        name: (len(exact), lookup(table), exact)
        for name, (table, exact) in tabular_games(splits).items()
    }
    games |= load_games(arguments.games)
    print(f"{len(games)} games, {arguments.seeds} seeds")
    estimators = our_estimators() | ({} if arguments.ours else shapiq_estimators())
    errors, seconds = measure(games, estimators, arguments.seeds)
    print_tables(errors, seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_table(errors, arguments.out / "errors.csv")
    draw(errors, arguments.out / "errors.png")
    print(f"wrote {arguments.out}/errors.csv and {arguments.out}/errors.png")


def load_games(folder: Path | None) -> dict:
    """Published games by name: (players, value function, exact values)."""
    if folder is None and "MEANFIELD_DATA" in os.environ:
        folder = Path(os.environ["MEANFIELD_DATA"]) / "shapley_games"
    if folder is None:
        print("no --games and no $MEANFIELD_DATA: the games made here alone")
        return {}
    file = folder / "shapiq_games.npz"
    if not file.is_file():
        raise SystemExit(f"no {file}; put shapiq_games.npz there or leave out --games")
    games = {}
    with np.load(file) as archive:
        for name in sorted({key.split("::")[0] for key in archive.files}):
            table, exact = archive[f"{name}::v"], archive[f"{name}::phi"]
            games[f"{published_family(name)}: {name}"] = (
                len(exact),
                lookup(table.astype(float)),
                exact.astype(float),
            )
    return games


def published_family(name: str) -> str:
    """The family of a published game: data valuation with ten players, or another."""
    valued = "DatasetValuation" in name and "__10__" in name
    return "published, data of 10" if valued else "published, others"


def lookup(table):
    """The value function of a table of 2^n payoffs."""
    powers = 2 ** np.arange(int(np.log2(len(table))))
    return lambda coalitions: table[np.atleast_2d(coalitions) @ powers]


def evaluations(budget: str, n: int) -> int:
    """Number of evaluations of a budget such as "16" or "8n"."""
    return int(budget[:-1]) * n if budget.endswith("n") else int(budget)


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
    """The same for the estimators that the installed shapiq has and can run."""
    from shapiq import approximator

    def make(kind, settings):
        def run(n, budget, game, seed):
            estimator = kind(n=n, random_state=seed, **settings)
            return estimator.approximate(budget, game).get_n_order_values(1)

        return run

    found = {}
    for name, settings in SHAPIQ.items():
        kind = getattr(approximator, name, None)
        try:
            assert kind is not None
            kind(n=8, random_state=0, **settings)
        except (AssertionError, ImportError):
            print(f"left out: {name} (not in this shapiq, or a package is missing)")
            continue
        found[f"shapiq {name}"] = make(kind, settings)
    print(f"shapiq {version('shapiq')}")
    return found


def measure(games, estimators, num_seeds: int):
    """Relative errors, {(estimator, budget): {game: error}}, and seconds by run."""
    errors, seconds = {}, {}
    for name, (n, game, exact) in games.items():
        for budget in BUDGETS:
            count = evaluations(budget, n)
            if count >= 2**n:
                continue
            for label, run in estimators.items():
                start = time.process_time()
                found = [
                    attempt(run, n, count, game, seed) for seed in range(num_seeds)
                ]
                spent = (time.process_time() - start) / num_seeds
                seconds.setdefault((label, budget), []).append(spent)
                squares = [np.mean((values - exact) ** 2) for values in found]
                relative = np.mean(squares) / np.var(exact)
                errors.setdefault((label, budget), {})[name] = relative
    return errors, seconds


def attempt(run, n, budget, game, seed):
    """One estimate; NaN if the estimator needs more evaluations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(run(n, budget, game, seed))
        except ValueError as error:
            if not any(word in str(error).lower() for word in REFUSALS):
                raise
            return np.full(n, np.nan)


def print_tables(errors, seconds) -> None:
    """Medians over games: of every estimator, and by family."""
    labels = list(dict.fromkeys(label for label, _ in errors))
    header = "".join(f"{budget:>10}" for budget in BUDGETS)
    print(f"\nmedian over games of MSE / var(values); CPU ms at 32n\n{'':36}{header}")
    for label in labels:
        row = "".join(f"{median(errors[label, b].values()):10.3g}" for b in BUDGETS)
        spent = 1e3 * np.array(seconds[label, "32n"])
        soon = 100 * (spent <= 100).mean()
        print(
            f"{label:36}{row}{np.median(spent):8.1f} (maximum {spent.max():.0f}; at "
            f"most 100 ms in {soon:.0f} % of the games)"
        )
    theirs = [label for label in labels if label.startswith("shapiq")]
    families = sorted({name.split(":")[0] for name in errors["meanfield auto", "2n"]})
    print("\nby family: auto | antithetic | the best of shapiq's medians")
    for family in families:
        cells = []
        for budget in BUDGETS:
            mine, other, *best = (
                median(e for n, e in errors[label, budget].items() if family in n)
                for label in ("meanfield auto", "meanfield antithetic", *theirs)
            )
            cells.append(
                f"{mine:9.3g} |{other:9.3g} |{np.nanmin(best or [np.inf]):9.3g}"
            )
        print(f"{family:24}" + "   ".join(cells))


def median(found) -> float:
    """Median over the games that could be estimated; NaN if most could not."""
    values = np.array(list(found))
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if 2 * len(seen) > len(values) else np.nan


def save_table(errors, target: Path) -> None:
    """Every error: estimator, budget, game."""
    with atomic_path(target) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["estimator", "budget", "game", "relative_mse"])
        for (label, budget), by_game in errors.items():
            for name, error in by_game.items():
                writer.writerow([label, budget, name, error])


def draw(errors, target: Path) -> None:
    """Median error against budget: ours in colour, shapiq's in grey."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    labels = list(dict.fromkeys(label for label, _ in errors))
    styles = iter(["-", "--", "-.", ":", (0, (1, 3)), (0, (5, 4)), (0, (3, 1)), "-"])
    for label in labels:
        medians = [median(errors[label, b].values()) for b in BUDGETS]
        if label.startswith("shapiq"):
            look = {"color": "0.55", "linestyle": next(styles), "linewidth": 1.0}
        else:
            look = {"marker": "o", "linewidth": 1.8}
        axes.plot(range(len(BUDGETS)), medians, label=label, **look)
    axes.set(yscale="log", xlabel="evaluations")
    axes.set_ylabel("median relative mean squared error")
    axes.set_xticks(range(len(BUDGETS)), BUDGETS)
    axes.set_ylim(top=100)
    axes.legend(fontsize=7, ncols=2)
    with atomic_path(target) as path:
        figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
