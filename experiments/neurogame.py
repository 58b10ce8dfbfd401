"""Coalition training against other ways to the same number of units.

    python experiments/neurogame.py --data faces --data-dir DIR    # DIR/utkface/…
    python experiments/neurogame.py --data fashion_mnist --data-dir DIR
    python experiments/neurogame.py --data digits                  # no download
    python experiments/neurogame.py --data faces --select          # how GAMES was set

A perceptron and a convolutional network are trained in the same number of epochs, by
the same optimizer, in these ways: whole; small from the start, with as many units as a
coalition; and by coalition training, where only a part of the units propagates, chosen
by Shapley values or by one of four controls (Banzhaf values, spread of the activation,
norm of the weights, chance). Faces: gender (accuracy) and age (mean absolute error).

Of the faces, 5,000 are learned from; the next 4,000 are for `--select`, which compares
settings of coalition training on perceptrons, with seeds of its own; the 8,000 after
these are the test part, on which nothing was chosen. The other data and the
convolutional networks take the settings as they are.

The idea is that of Bouchaffra et al. 2024, arXiv:2410.12264; their data sets and tables
are not the ones here.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import meanfield as mf
from meanfield.data import load
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shipping.costs import count_macs
from meanfield.ensemble.networks import mlp
from meanfield.files import write_text
from meanfield.learning.optimizers import cosine_adam
from meanfield.plots import save

OUT = Path("runs/neurogame")
SEEDS = 5
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 5000, 4000, 8000
EPOCHS = 10
BATCHES = 78  # in an epoch: of 64 examples when there are 5000
STEP_SIZE = 2e-3  # of Adam at the first step; falls to 0 along a cosine
KEEP = (0.5, 0.25, 0.125)
CONTROL_KEEP = 0.125
# Of coalition training: coalitions are found after epochs 1, 2, 3 and 4, in games on
# `num_played` examples; with `apart` these are kept from learning.
GAMES = {
    "every": 1,
    "settle": 6,
    "num_played": 500,
    "apart": False,
    "num_examples": 256,
    "budget_per_unit": 16,
    "payoff": "free_energy",
    "memory": 0.5,
    "softness": 0.0,
    "regularizer": 0.01,
}
# What `--select` compares: GAMES with these changes.
PLAIN = {"regularizer": 0.0}
CANDIDATES = [
    {},
    PLAIN,
    PLAIN | {"settle": 8},
    PLAIN | {"memory": 0.0},
    PLAIN | {"softness": 0.5},
    PLAIN | {"payoff": None},
    PLAIN | {"num_examples": 500, "budget_per_unit": 64},
    PLAIN | {"every": 2, "settle": 3},
    PLAIN | {"every": 2, "settle": 3, "apart": True},
]
SELECT_SEEDS = range(100, 103)
SELECT_KEEP = (0.25, 0.125)
HIDDEN = (128, 64)
CHANNELS = (8, 16, 64)  # two convolutions and a dense layer
IDENTITY = ("task", "network", "way", "keep", "seed", "settings")
FACES = "utkface/utkface_gray32_all.npz"


class Task(NamedTuple):
    """What to learn: images (examples, height, width), and how answers are scored."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    likelihood: Any
    outputs: int
    scale: float  # of a unit of the target; 0 for classes


class CNN(eqx.Module):
    """Two strided convolutions and a dense layer."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    dense: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, side, one, two, width, outputs, *, key):
        keys = jax.random.split(key, 4)
        conv = lambda a, b, k: eqx.nn.Conv2d(a, b, 3, stride=2, padding=1, key=k)
        self.first, self.second = conv(1, one, keys[0]), conv(one, two, keys[1])
        side = (side + 3) // 4  # halved twice, rounded up
        self.dense = eqx.nn.Linear(two * side**2, width, key=keys[2])
        self.out = eqx.nn.Linear(width, outputs, key=keys[3])

    def __call__(self, x):
        """Outputs for one image (1, height, width)."""
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return self.out(jax.nn.relu(self.dense(x.ravel())))


def faces(folder: Path, validation: bool = False) -> list[Task]:
    """Gender and age; copies of one picture stay on one side of the split.

    With `validation` the test part is that of `--select`.
    """
    path = folder / FACES
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing. It holds the aligned UTKFace pictures (for research "
            "that is not commercial; susanqq.github.io/UTKFace) as arrays images "
            "(N, 32, 32), age, gender, and dup_of (the index of the first identical "
            "picture). Put it there and pass --data-dir, or try --data digits."
        )
    with np.load(path) as arrays:
        images, age, gender, group = (
            arrays[name] for name in ("images", "age", "gender", "dup_of")
        )
    clash = (age != age[group]) | (gender != gender[group])
    first = np.arange(len(group)) == group
    rows = np.flatnonzero(first & ~np.isin(group, group[clash]))  # one of each picture
    rows = np.random.default_rng(0).permutation(rows)
    train, others = rows[:NUM_TRAIN], rows[NUM_TRAIN:]
    part = slice(NUM_VALIDATION) if validation else slice(NUM_VALIDATION, None)
    rows = np.concatenate([train, others[part][:NUM_TEST]])
    x = (images[rows] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    cut = lambda y: ((x[:NUM_TRAIN], y[:NUM_TRAIN]), (x[NUM_TRAIN:], y[NUM_TRAIN:]))
    years = age[rows].astype(np.float32)
    center, spread = years[:NUM_TRAIN].mean(), years[:NUM_TRAIN].std()
    classes, noise = mf.Categorical(), mf.Gaussian(scale=1.0)
    return [
        Task("gender", *cut(gender[rows].astype(np.int32)), classes, 2, 0.0),
        Task("age", *cut((years - center) / spread), noise, 1, float(spread)),
    ]


def images(name: str, folder: str | None) -> list[Task]:
    """Digits or Fashion-MNIST."""
    data = load(name, **({} if name == "digits" else {"data_dir": folder}))
    shape = (-1, *data.image_shape[:2])
    train = data.x_train.reshape(shape)[:NUM_TRAIN], data.y_train[:NUM_TRAIN]
    test = data.x_test.reshape(shape)[:NUM_TEST], data.y_test[:NUM_TEST]
    return [Task(name, train, test, mf.Categorical(), len(data.class_names), 0.0)]


class Kind(NamedTuple):
    """A family of networks: how to make one, its layers' widths, how images enter."""

    name: str
    make: Callable[..., Any]
    widths: dict[str, int]
    enter: Callable[[np.ndarray], np.ndarray]


def kinds(task: Task) -> list[Kind]:
    """The perceptron and the convolutional network of a task."""
    side = task.train[0].shape[1]
    perceptron = lambda widths, key: mlp((side**2, *widths, task.outputs), key=key)
    convolutional = lambda widths, key: CNN(side, *widths, task.outputs, key=key)
    dense = {f"layers/{i}": width for i, width in enumerate(HIDDEN)}
    conv = dict(zip(("first", "second", "dense"), CHANNELS, strict=True))
    return [
        Kind("MLP", perceptron, dense, lambda x: x.reshape(len(x), -1)),
        Kind("CNN", convolutional, conv, lambda x: x[:, None]),
    ]


def by_chance(ensemble, layer, data, key):
    """Units in random order."""
    return jax.random.uniform(key, (_weight(ensemble, layer).shape[0],))


def by_weights(ensemble, layer, data, key):
    """Norm of a unit's incoming weights."""
    weight = _weight(ensemble, layer)
    return jnp.sqrt(jnp.square(weight).reshape(len(weight), -1).sum(1))


def by_activation(ensemble, layer, data, key):
    """Standard deviation of a unit's activation over the examples."""
    return mf.neurons.coalition_features(ensemble, layer, data[0]).std(0)


def _weight(ensemble, layer):
    part = ensemble.params
    for name in layer.split("/"):
        part = part[int(name)] if name.isdigit() else getattr(part, name)
    return part.weight


CREDITS = {
    "Shapley": "shapley",
    "Banzhaf": "banzhaf",
    "activation": by_activation,
    "magnitude": by_weights,
    "random": by_chance,
}


def score(task: Task, model: Any, x: np.ndarray) -> float:
    """Accuracy in percent, or mean absolute error in units of the target."""
    predict = eqx.filter_jit(lambda model, x: jax.vmap(model)(x))
    outputs = np.asarray(predict(model, jnp.asarray(x)))
    if task.scale:
        return float(np.abs(outputs[:, 0] - task.test[1]).mean() * task.scale)
    return float(100 * (outputs.argmax(1) == task.test[1]).mean())


def batches(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[], Any]:
    """A new random order of whole batches for every epoch."""
    rng, size = np.random.default_rng(seed), len(x) // BATCHES

    def epoch():
        for rows in rng.permutation(len(x))[: size * BATCHES].reshape(BATCHES, size):
            yield x[rows], y[rows]

    return epoch


def run(
    task: Task, kind: Kind, way: str, keep: float, seed: int, games: dict[str, Any]
) -> dict[str, Any]:
    """Train one network in one way; what it costs and how good it is."""
    start = time.process_time()
    model_key, fit_key = jax.random.split(jax.random.key(seed))
    part = keep if way == "small" else 1
    widths = [round(part * width) for width in kind.widths.values()]
    model = kind.make(widths, key=model_key)
    x, y = kind.enter(task.train[0]), task.train[1]
    rules = dict(games)
    played, apart = rules.pop("num_played"), rules.pop("apart")
    judges = x[:played], y[:played]
    if way in CREDITS and apart:
        x, y = x[played:], y[played:]
    common = {
        # On a CPU, XLA runs convolutions several times as fast outside a loop: these
        # batches come one by one.
        "data": batches(x, y, seed) if kind.name == "CNN" else (x, y),
        "likelihood": task.likelihood,
        "optimizer": cosine_adam(STEP_SIZE, EPOCHS * BATCHES),
        "key": fit_key,
        "epochs": EPOCHS,
        "batch_size": len(x) // BATCHES,
        "progress": False,
    }
    if way in CREDITS:
        rules |= {"keep": keep, "credit": CREDITS[way], "validation": judges}
        result = mf.neurons.train_coalitions(model, **common, **rules)
        model = mf.deploy.shrink(result.ensemble.mean_network(), judges[0][:64]).model
        units = result.num_active
    else:
        result = mf.fit(mf.Ensemble.from_points(model), **common)
        model, units = result.ensemble.mean_network(), sum(widths)
    seconds = time.process_time() - start
    x = kind.enter(task.test[0])
    macs = count_macs(trace_symbolic(as_network(model), x[:1]), x[:1])
    scored = {"score": score(task, model, x), "units": units}
    return scored | {"multiply_adds": macs, "seconds": seconds}


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean and its standard error, 0 for a single value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), float(error)


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds with standard errors, and median processor seconds.

    `gap` is the score of Shapley coalitions of as many units minus the cell's own, seed
    by seed; in the cell of whole networks, of coalitions of half the units.
    """
    cells: dict[tuple, list] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in IDENTITY[:4]), []).append(row)
    scores = {cell: np.array([r["score"] for r in own]) for cell, own in cells.items()}
    found = []
    for cell, own in cells.items():
        row = dict(zip(IDENTITY, cell, strict=False))
        row["score"], row["error"] = mean_and_error(scores[cell])
        rival = scores[*cell[:2], "Shapley", 0.5 if cell[2] == "whole" else cell[3]]
        row["gap"], row["gap_error"] = mean_and_error(rival - scores[cell])
        row["units"], row["multiply_adds"] = own[0]["units"], own[0]["multiply_adds"]
        row["seconds"] = float(np.median([one["seconds"] for one in own]))
        found.append(row)
    return found


def show(cells: list[dict[str, Any]]) -> None:
    """Print the table."""
    for task, network in dict.fromkeys((c["task"], c["network"]) for c in cells):
        unit = "MAE, years" if task == "age" else "accuracy, %"
        title = f"{task}, {network}"
        print(f"\n{title:20}{unit:>15}   Shapley minus it  units  mult-adds  seconds")
        for cell in cells:
            if (cell["task"], cell["network"]) != (task, network):
                continue
            name = cell["way"] + ("" if cell["keep"] == 1 else f", {cell['keep']:g}")
            gap = f"{cell['gap']:+.2f} ± {cell['gap_error']:.2f}"
            print(
                f"  {name:20}{cell['score']:6.2f} ± {cell['error']:.2f}"
                f"{'' if cell['way'] == 'Shapley' else gap:>18}"
                f"{cell['units']:8d}{cell['multiply_adds']:11,d}{cell['seconds']:9.1f}"
            )
    print("\nShapley minus it: at as many units; whole networks: at half their units.")


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Score against units, one panel for each task and network."""
    panels = list(dict.fromkeys((cell["task"], cell["network"]) for cell in cells))
    figure = Figure(figsize=(3.4 * len(panels) + 1.2, 3.4), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        own = [cell for cell in cells if (cell["task"], cell["network"]) == panel]
        axes.axhline(own[0]["score"], color="0.6", linestyle="--", zorder=0)
        for number, way in enumerate(("whole", "small", *CREDITS)):
            line = [cell for cell in own if cell["way"] == way]
            axes.errorbar(
                # Side by side where the numbers of units are the same.
                [cell["units"] * 1.05 ** max(number - 1, 0) for cell in line],
                [cell["score"] for cell in line],
                [cell["error"] for cell in line],
                color="0.4" if way == "whole" else f"C{number - 1}",
                marker="o" if len(line) > 1 else "D",
                markersize=4,
                label=way,
            )
        axes.set_xscale("log")
        axes.set_xticks(sorted({cell["units"] for cell in own}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title(", ".join(panel))
        axes.set_xlabel("active units")
        axes.set_ylabel("MAE, years" if panel[0] == "age" else "accuracy, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save(figure.axes[0], path)


def all_ways() -> list[tuple[str, float]]:
    """Every way to train with the part of the units that it keeps."""
    sizes = [(way, keep) for keep in KEEP for way in ("small", "Shapley")]
    controls = [(way, CONTROL_KEEP) for way in CREDITS if way != "Shapley"]
    return [("whole", 1.0), *sizes, *controls]


def run_all(
    cases: list[tuple[Task, Kind]],
    ways: list[tuple[str, float]],
    seeds: range,
    path: Path,
    games: dict[str, Any],
) -> list[dict[str, Any]]:
    """All runs; those that an earlier call wrote to `path` are read from there.

    A row is known again only if every setting was the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.is_file() else []
    identity = lambda row: json.dumps([row[name] for name in IDENTITY])
    known = {identity(row): row for row in map(json.loads, lines)}
    rows = []
    for seed in seeds:
        for (task, kind), (way, keep) in product(cases, ways):
            settings = {
                "epochs": EPOCHS,
                "batches": BATCHES,
                "step_size": STEP_SIZE,
                "widths": kind.widths,
                "num_train": len(task.train[0]),
                "num_test": len(task.test[0]),
                "games": games if way in CREDITS else None,
            }
            names = task.name, kind.name, way, keep, seed, settings
            row = dict(zip(IDENTITY, names, strict=True))
            row = known.get(identity(row), row)
            if "score" not in row:
                row |= run(task, kind, way, keep, seed, games)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            rows.append(row)
        jax.clear_caches()  # The programs of games would pile up.
    return rows


def select(cases: list[tuple[Task, Kind]], path: Path) -> None:
    """Compare candidates by how much less they err than small networks as large.

    The figure is 100 (1 − e / e_small), with e the errors in percent or in years, mean
    over tasks, sizes and seeds.
    """
    ways = [(way, keep) for keep in SELECT_KEEP for way in ("small", "Shapley")]
    for changes in CANDIDATES:
        rows = run_all(cases, ways, SELECT_SEEDS, path, GAMES | changes)
        errors = [r["score"] if r["task"] == "age" else 100 - r["score"] for r in rows]
        gains = 100 * (1 - np.array(errors[1::2]) / np.array(errors[::2]))
        mean, error = mean_and_error(gains.reshape(len(SELECT_SEEDS), -1).mean(1))
        print(f"{mean:+.2f} ± {error:.2f} % less error with {changes}", flush=True)


def main() -> None:
    """Run all ways on all tasks; print the table, save table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("faces", "digits", "fashion_mnist")
    parser.add_argument("--data", choices=names, default="digits")
    parser.add_argument("--data-dir", default=os.environ.get("MEANFIELD_DATA"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--select", action="store_true", help="compare CANDIDATES instead"
    )
    args = parser.parse_args()
    # The programs of one seed serve the next.
    jax.config.update("jax_compilation_cache_dir", str((OUT / "compiled").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    folder = Path(args.data_dir or ".")
    if args.select:
        if args.data != "faces":
            parser.error("`--select` compares settings on faces; pass --data faces.")
        tasks = faces(folder, validation=True)
        return select([(t, kinds(t)[0]) for t in tasks], OUT / "select.jsonl")
    tasks = faces(folder) if args.data == "faces" else images(args.data, args.data_dir)
    cases = [(task, kind) for task in tasks for kind in kinds(task)]
    path = OUT / f"{args.data}.jsonl"
    rows = run_all(cases, all_ways(), range(args.seeds), path, GAMES)
    cells = table(rows)
    show(cells)
    draw(cells, path.with_suffix(".png"))
    write_text(path.with_suffix(".json"), json.dumps(cells, indent=1))
    seconds = sum(row["seconds"] for row in rows)
    print(f"\n{seconds:.0f} processor seconds of training; table and figure in {OUT}")
    return None


if __name__ == "__main__":
    main()
