"""Pruning without fine-tuning: keep neurons by Shapley value or by other rankings.

Both hidden layers of a trained network are cut to a fraction of their units. The other
units are held at their mean activation on training data (folded into the next bias),
and test accuracy is measured without further training. The first layer is cut first;
the second layer is ranked, and its means are computed, with the first layer already
cut.

| ranking    | units kept                                                            |
|------------|-----------------------------------------------------------------------|
| stable     | those of `shapley`, exchanged while that raises the payoff            |
| shapley    | largest Shapley values of the mean probability of the right class     |
| leave-one  | largest loss of that payoff when the unit alone is held               |
| activation | largest standard deviation of the activation times ‖outgoing weights‖ |
| magnitude  | largest ‖incoming weights‖ · ‖outgoing weights‖                       |
| random     | any                                                                   |

All rankings and means use the same training examples.

With fine-tuning, the differences mostly vanish (Ancona et al. 2020, arXiv:2006.01795).

    python experiments/pruning.py --data digits [--quick]
    python experiments/pruning.py --data mnist --data-dir FOLDER
"""

import csv
from pathlib import Path

import jax
import matplotlib
import numpy as np
from shared import mean_and_error, options, plus_minus

import meanfield as mf
from meanfield import data as datasets
from meanfield.ensemble.networks import mlp
from meanfield.files import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SETTINGS = {
    "digits": {"hidden": (100, 100), "epochs": 30, "batch_size": 32, "examples": 1438},
    "mnist": {"hidden": (300, 100), "epochs": 5, "batch_size": 128, "examples": 2000},
}  # examples for the rankings and means; for digits, the whole training set
KEPT = (0.5, 0.3)
RANKINGS = ("stable", "shapley", "leave-one", "activation", "magnitude", "random")
PER_PLAYER = 100  # evaluations of the Shapley values
SEEDS = 5


def main() -> None:
    """Train, rank, cut and test for every seed; print, save and draw the table."""
    parser = options(__doc__, out="runs/pruning", seeds=SEEDS)
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    arguments = parser.parse_args()
    dataset = datasets.load(arguments.data, data_dir=arguments.data_dir)
    settings, seeds = SETTINGS[arguments.data], arguments.seeds
    if arguments.quick:
        settings = settings | {"hidden": (16, 16), "epochs": 3, "examples": 200}
        seeds = 1
    rows, games = [], {}
    for seed in range(seeds):
        ensemble = train(dataset, settings, seed)
        layers = weights_of(ensemble)
        whole = accuracy(layers, {}, dataset.x_test, dataset.y_test)
        rows.append((seed, "whole network", 1.0, whole))
        chosen = np.random.default_rng(seed).choice(
            len(dataset.x_train), settings["examples"], replace=False
        )
        ranks = dataset.x_train[chosen], dataset.y_train[chosen]
        known = {}
        for ranking in RANKINGS:
            for kept in KEPT:
                held = cut(games, known, ensemble, ranks, ranking, kept, seed)
                score = accuracy(layers, held, dataset.x_test, dataset.y_test)
                rows.append((seed, ranking, kept, score))
        print(f"seed {seed}: whole {whole:.4f}", flush=True)
    report(rows, arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(rows, arguments.out / f"{arguments.data}.csv")
    draw(rows, arguments.data, arguments.out / f"{arguments.data}.png")


def train(dataset, settings, seed: int) -> mf.Ensemble:
    """An ensemble trained by generalized back-propagation."""
    widths = (dataset.num_features, *settings["hidden"], 10)
    network = mlp(widths, key=jax.random.key(seed))
    ensemble = mf.Ensemble.from_model(network, key=jax.random.key(100 + seed))
    return mf.fit(
        ensemble,
        (dataset.x_train, dataset.y_train),
        key=jax.random.key(200 + seed),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        progress=False,
        prior=None,
    ).ensemble


def weights_of(ensemble: mf.Ensemble) -> list:
    """Weights and biases of the network of posterior means, as float64."""
    return [
        (np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64))
        for layer in ensemble.mean_network().layers
    ]


def cut(games, known, ensemble, examples, ranking: str, kept: float, seed: int) -> dict:
    """By hidden layer, the units that are kept and the means of the others."""
    rng = np.random.default_rng(seed)
    layers = weights_of(ensemble)
    held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, (weight, _) in enumerate(layers[:-1]):
        units = len(weight)
        size = round(kept * units)
        acts = forward(layers, held, examples[0], upto=number)
        mask = None
        if ranking in ("stable", "shapley", "leave-one"):
            fixed = {f"layers/{n}": mask for n, (mask, _) in held.items()}
            game = the_game(games, ensemble, number, examples, fixed)
            if ranking == "leave-one":
                everybody = np.ones((1, units), bool)
                scores = game(everybody) - game(~np.eye(units, dtype=bool))
            else:
                scores = shapley_of(known, game, fixed, seed)
            if ranking == "stable":
                mask = mf.games.stable_coalition(game, scores, size).mask
        elif ranking == "random":
            scores = rng.random(units)
        else:
            outgoing = np.linalg.norm(layers[number + 1][0], axis=0)
            own = (
                acts.std(0)
                if ranking == "activation"
                else np.linalg.norm(weight, axis=1)
            )
            scores = own * outgoing
        if mask is None:
            mask = np.zeros(units, bool)
            mask[np.argsort(-scores, kind="stable")[:size]] = True
        held[number] = mask, acts.mean(0)
    return held


def the_game(games, ensemble, number: int, data, fixed) -> mf.NeuronGame:
    """The game of a layer; compiled programs are shared by all seeds."""
    layer = f"layers/{number}"
    if layer not in games:
        games[layer] = mf.NeuronGame(ensemble, layer, data, fixed=fixed)
    return games[layer].replay(ensemble, data, fixed=fixed)


def shapley_of(known, game, fixed, seed: int) -> np.ndarray:
    """Shapley values of a game; each game is played only once."""
    name = game.layer, *(mask.tobytes() for mask in fixed.values())
    if name not in known:
        n = game.num_players
        key = jax.random.key(300 + seed)
        found = mf.shapley_values(game, n, key=key, budget=PER_PLAYER * n)
        known[name] = found.values
    return known[name]


def forward(layers, held, x, upto: int | None = None) -> np.ndarray:
    """Outputs, or activations of a hidden layer, with units held at their means."""
    signal = np.asarray(x, np.float64)
    for number, (weight, bias) in enumerate(layers):
        signal = signal @ weight.T + bias
        if number == len(layers) - 1:
            break
        signal = np.maximum(signal, 0)
        if number == upto:
            break
        if number in held:
            mask, means = held[number]
            signal = np.where(mask, signal, means)
    return signal


def accuracy(layers, held, x, y) -> float:
    """The fraction of examples that are classified correctly."""
    return float((forward(layers, held, x).argmax(1) == np.asarray(y)).mean())


def report(rows, name: str) -> None:
    """Means, standard errors, and paired leads of both Shapley rankings."""
    print(f"\n{name}: test accuracy without fine-tuning, mean ± s.e. over seeds")
    print("(leads in accuracy, paired, and in standard errors)")
    for kept in KEPT:
        for ranking in RANKINGS:
            own = scores_of(rows, ranking, kept)
            line = f"  keep {kept:.0%} {ranking:<11}{plus_minus(own)}"
            for ours in ("stable", "shapley"):
                if ranking not in ("stable", ours):
                    lead = scores_of(rows, ours, kept) - own
                    line += f"   {ours} {plus_minus(lead, sign='+')}"
                    line += f" ({lead.mean() / error(lead):+.1f})"
            print(line)


def scores_of(rows, ranking: str, kept: float) -> np.ndarray:
    """Accuracies of one ranking over the seeds."""
    return np.array([row[3] for row in rows if row[1:3] == (ranking, kept)])


def error(values) -> float:
    """Standard error of a mean; infinite for one value."""
    return mean_and_error(values)[1] if len(values) > 1 else float("inf")


def save(rows, target: Path) -> None:
    """One row per seed, ranking and share."""
    with atomic_path(target) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "ranking", "kept", "test_accuracy"])
        writer.writerows(rows)
    print(f"wrote {target}")


def draw(rows, name: str, target: Path) -> None:
    """Accuracy of every ranking at every share, single seeds as dots."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    markers = "*os^Dv"
    for place, ranking in enumerate(RANKINGS):
        for group, kept in enumerate(KEPT):
            own = scores_of(rows, ranking, kept)
            where = group + 0.12 * (place - 2.5)
            axes.errorbar(
                where,
                own.mean(),
                2 * error(own) if len(own) > 1 else 0,
                fmt=markers[place],
                color=f"C{place}",
                capsize=3,
                label=ranking if group == 0 else None,
            )
            axes.plot(np.full(len(own), where), own, ".", color=f"C{place}", alpha=0.4)
    whole = np.mean([row[3] for row in rows if row[1] == "whole network"])
    axes.axhline(whole, color="black", lw=0.8, label="whole network")
    axes.set_xticks(range(len(KEPT)), [f"{kept:.0%} of units kept" for kept in KEPT])
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{name}: pruned without fine-tuning", fontsize="medium")
    axes.legend(frameon=False, fontsize="small", ncols=2)
    with atomic_path(target) as path:
        figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
