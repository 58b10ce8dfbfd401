"""Coalition training against other ways to the same number of units.

    python experiments/neurogame.py --data faces --data-dir DIR    # DIR/utkface/…
    python experiments/neurogame.py --data fashion_mnist --data-dir DIR
    python experiments/neurogame.py --data digits                  # no download

A perceptron and a convolutional network are trained in the same number of epochs, by
the same optimizer, in these ways: whole; small from the start, with as many units as a
coalition; and by coalition training, where only a part of the units propagates, chosen
by Shapley values or by one of four controls (Banzhaf values, spread of the activation,
norm of the weights, chance). Faces: gender (accuracy) and age (mean absolute error).

The idea is that of Bouchaffra et al. 2024, arXiv:2410.12264; their data sets and tables
are not the ones here.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import meanfield as mf
from meanfield.data import load
from meanfield.deploy.costs import count_macs
from meanfield.deploy.graph import trace_symbolic
from meanfield.deploy.network import as_network
from meanfield.files import write_text
from meanfield.networks import mlp
from meanfield.plots import save

OUT = Path("runs/neurogame")
SEEDS = 5
NUM_TRAIN, NUM_TEST = 5000, 4000
EPOCHS = 10
BATCH_SIZE = 64
KEEP = (0.25, 0.125)
CONTROL_KEEP = 0.125
# Coalitions are found after epochs 2, 4 and 6; games are played on 500 examples that
# are kept from learning, so that coalitions learn from fewer than the others.
GAMES = {
    "every": 2,
    "settle": 3,
    "held_out": 0.1,
    "num_examples": 256,
    "budget_per_unit": 16,
}
HIDDEN = (128, 64)
CHANNELS = (8, 16)
WIDTH = 64
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

    def __init__(self, side: int, channels, width: int, outputs: int, *, key):
        keys = jax.random.split(key, 4)
        one, two = channels
        conv = lambda a, b, k: eqx.nn.Conv2d(a, b, 3, stride=2, padding=1, key=k)
        self.first, self.second = conv(1, one, keys[0]), conv(one, two, keys[1])
        side = (side + 3) // 4  # halved twice, rounded up
        self.dense = eqx.nn.Linear(two * side**2, width, key=keys[2])
        self.out = eqx.nn.Linear(width, outputs, key=keys[3])

    def __call__(self, x):
        """Outputs for one image (1, height, width)."""
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return self.out(jax.nn.relu(self.dense(x.ravel())))


def faces(folder: Path) -> list[Task]:
    """Gender and age; copies of one picture stay on one side of the split."""
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
    rows = np.random.default_rng(0).permutation(rows)[: NUM_TRAIN + NUM_TEST]
    x = (images[rows] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    cut = lambda y: ((x[:NUM_TRAIN], y[:NUM_TRAIN]), (x[NUM_TRAIN:], y[NUM_TRAIN:]))
    years = age[rows].astype(np.float32)
    center, spread = years[:NUM_TRAIN].mean(), years[:NUM_TRAIN].std()
    classes, noise = mf.Categorical(), mf.Gaussian(scale=1.0)
    return [
        Task("gender", *cut(gender[rows].astype(np.int32)), classes, 2, 0.0),
        Task("age", *cut((years - center) / spread), noise, 1, float(spread)),
    ]


def images(name: str, folder: Path | None) -> list[Task]:
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

    def perceptron(widths, key):
        return mlp((side**2, *widths.values(), task.outputs), key=key)

    def convolutional(widths, key):
        *channels, width = widths.values()
        return CNN(side, channels, width, task.outputs, key=key)

    dense = {f"layers/{i}": width for i, width in enumerate(HIDDEN)}
    conv = {"first": CHANNELS[0], "second": CHANNELS[1], "dense": WIDTH}
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
    return mf.coalition_features(ensemble, layer, data[0]).std(0)


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


def multiply_adds(model: Any, x: np.ndarray) -> int:
    """Multiply-adds of one example."""
    return count_macs(trace_symbolic(as_network(model), x[:1]), x[:1])


def run(task: Task, kind: Kind, way: str, keep: float, seed: int) -> dict[str, Any]:
    """Train one network in one way; what it costs and how good it is."""
    model_key, fit_key = jax.random.split(jax.random.key(seed))
    small = {name: round(keep * width) for name, width in kind.widths.items()}
    model = kind.make(small if way == "small" else kind.widths, key=model_key)
    data = kind.enter(task.train[0]), task.train[1]
    x_test = kind.enter(task.test[0])
    common = {
        "likelihood": task.likelihood,
        "key": fit_key,
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "progress": False,
    }
    start = time.perf_counter()
    if way in CREDITS:
        result = mf.train_coalitions(
            model,
            data,
            keep=keep,
            credit=CREDITS[way],
            **GAMES,
            **common,
        )
        model = mf.shrink(result.ensemble.mean_network(), x_test[:64]).model
        active = result.num_active
    else:
        result = mf.fit(mf.Ensemble.from_points(model), data, **common)
        model = result.ensemble.mean_network()
        active = sum((small if way == "small" else kind.widths).values())
    return {
        "task": task.name,
        "network": kind.name,
        "way": way,
        "keep": keep,
        "seed": seed,
        "score": score(task, model, x_test),
        "units": active,
        "multiply_adds": multiply_adds(model, x_test),
        "seconds": time.perf_counter() - start,
    }


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard error over seeds, median seconds."""
    cells: dict[tuple, list] = {}
    for row in rows:
        cell = tuple(row[k] for k in ("task", "network", "way", "keep"))
        cells.setdefault(cell, []).append(row)
    found = []
    for cell, many in cells.items():
        scores = np.array([row["score"] for row in many])
        error = scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
        found.append(
            dict(zip(("task", "network", "way", "keep"), cell, strict=True))
            | {
                "score": float(scores.mean()),
                "error": float(error),
                "units": many[0]["units"],
                "multiply_adds": int(np.mean([r["multiply_adds"] for r in many])),
                "seconds": float(np.median([row["seconds"] for row in many])),
            }
        )
    return found


def show(cells: list[dict[str, Any]]) -> None:
    """Print the table."""
    last = None
    for cell in cells:
        if (cell["task"], cell["network"]) != last:
            last = cell["task"], cell["network"]
            unit = "MAE, years" if cell["task"] == "age" else "accuracy, %"
            print(f"\n{last[0]}, {last[1]:28s}{unit:>16s}   units  mult-adds  seconds")
        name = f"{cell['way']}" + ("" if cell["keep"] == 1 else f", {cell['keep']:g}")
        print(
            f"  {name:28s}{cell['score']:12.2f} ± {cell['error']:.2f}"
            f"{cell['units']:8d}{cell['multiply_adds']:11,d}{cell['seconds']:9.1f}"
        )


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Score against units, one panel for each task and network."""
    panels = list(dict.fromkeys((cell["task"], cell["network"]) for cell in cells))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        own = [cell for cell in cells if (cell["task"], cell["network"]) == panel]
        whole = next(cell for cell in own if cell["way"] == "whole")
        axes.axhline(whole["score"], color="0.6", linestyle="--", label="whole")
        for way in ("small", *CREDITS):
            line = sorted(
                (c["units"], c["score"], c["error"]) for c in own if c["way"] == way
            )
            units, scores, errors = zip(*line, strict=True)
            axes.errorbar(
                units, scores, errors, marker="o", markersize=4, label=way, capsize=2
            )
        axes.set_title(", ".join(panel))
        axes.set_xlabel("active units")
        axes.set_ylabel("MAE, years" if panel[0] == "age" else "accuracy, %")
    figure.axes[0].legend(frameon=False, fontsize="small")
    save(figure.axes[0], path)


def all_ways() -> list[tuple[str, float]]:
    """Every way to train with the part of the units that it keeps."""
    ways = [("whole", 1.0)]
    ways += [(way, keep) for keep in KEEP for way in ("small", "Shapley")]
    return ways + [(way, CONTROL_KEEP) for way in CREDITS if way != "Shapley"]


def run_all(tasks: list[Task], seeds: range, path: Path) -> list[dict[str, Any]]:
    """All runs; those that an earlier call wrote to `path` are read from there."""
    done = path.read_text().splitlines() if path.is_file() else []
    names = ("task", "network", "way", "keep", "seed")
    known = {tuple(row[name] for name in names): row for row in map(json.loads, done)}
    rows = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for task in tasks:
            for kind in kinds(task):
                for way, keep in all_ways():
                    row = known.get((task.name, kind.name, way, keep, seed))
                    if row is None:
                        row = run(task, kind, way, keep, seed)
                        with path.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                    rows.append(row)
    return rows


def main() -> None:
    """Run all ways on all tasks; print the table, save table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=("faces", "digits", "fashion_mnist"), default="digits"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("MEANFIELD_DATA")
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    folder = None if args.data_dir is None else Path(args.data_dir)
    if args.data == "faces":
        tasks = faces(folder or Path("."))
    else:
        tasks = images(args.data, folder)
    start = time.perf_counter()
    cells = table(run_all(tasks, range(args.seeds), OUT / f"{args.data}.jsonl"))
    show(cells)
    draw(cells, OUT / f"{args.data}.png")
    write_text(OUT / f"{args.data}.json", json.dumps(cells, indent=1))
    print(f"\n{time.perf_counter() - start:.0f} s; table and figure in {OUT}")


if __name__ == "__main__":
    main()
