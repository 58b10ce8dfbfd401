"""Coalition training against other ways to the same number of units.

    python experiments/neurogame.py --data faces --data-dir DIR    # DIR/utkface/…
    python experiments/neurogame.py --data fashion_mnist --data-dir DIR
    python experiments/neurogame.py --data digits                  # no download
    python experiments/neurogame_select.py --data-dir DIR          # how GAMES was set

A perceptron and a convolutional network are trained for the same number of epochs and
by the same optimizer: as a whole network; as a small network with as many units as a
coalition; and by coalition training, where only a part of the units propagates, chosen
by Shapley values or by one of four controls (Banzhaf values, spread of the activation,
norm of the weights, chance). For faces, the targets are gender (accuracy) and age (mean
absolute error).

The first 5,000 faces are training data. On the next 4,000, `neurogame_select` compares
settings of coalition training of perceptrons with other seeds. The following 8,000 are
test data, which influenced no choice. Other data and convolutional networks use the
same settings.

The idea is from Bouchaffra et al. 2024, arXiv:2410.12264; the data sets here differ
from theirs.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pictures
from neurogame_table import draw, show, table
from pictures import Kind, Task, kinds
from shared import keep_compiled, options, resumed

import meanfield as mf
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shipping.costs import count_macs
from meanfield.files import write_text
from meanfield.learning.optimizers import cosine_adam

SEEDS = 5
EPOCHS = 10
BATCHES = 78  # per epoch; a batch has 64 of 5000 examples
STEP_SIZE = 2e-3  # Adam's first step size; it falls to 0 along a cosine
KEEP = (0.5, 0.25, 0.125)
CONTROL_KEEP = 0.125
# Coalition training finds coalitions after epochs 1, 2, 3 and 4, in games on
# `num_played` examples; with `apart`, the network does not learn from these.
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
    """Train one network in one way; return its cost and its score."""
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
        # On a CPU, XLA runs convolutions several times as fast outside a loop, so
        # batches are passed one by one.
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
        result = mf.fit(mf.Ensemble.from_points(model), prior=None, **common)
        model, units = result.ensemble.mean_network(), sum(widths)
    seconds = time.process_time() - start
    x = kind.enter(task.test[0])
    macs = count_macs(trace_symbolic(as_network(model), x[:1]), x[:1])
    scored = {"score": score(task, model, x), "units": units}
    return scored | {"multiply_adds": macs, "seconds": seconds}


QUICK_WAYS = [("whole", 1.0), ("Shapley", 0.5), ("small", 0.25), ("Shapley", 0.25)]


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
    """All runs; finished ones are read from `path`."""
    problems = {(task.name, kind.name): (task, kind) for task, kind in cases}

    def settings() -> Iterator[dict[str, Any]]:
        for seed in seeds:
            for (task, kind), (way, keep) in product(cases, ways):
                yield {
                    "task": task.name,
                    "network": kind.name,
                    "way": way,
                    "keep": keep,
                    "seed": seed,
                    "epochs": EPOCHS,
                    "batches": BATCHES,
                    "step_size": STEP_SIZE,
                    "widths": kind.widths,
                    "num_train": len(task.train[0]),
                    "num_test": len(task.test[0]),
                    "games": games if way in CREDITS else None,
                }
            jax.clear_caches()  # Otherwise compiled games fill the memory.

    def one(case: dict[str, Any]) -> dict[str, Any]:
        task, kind = problems[case["task"], case["network"]]
        return run(task, kind, case["way"], case["keep"], case["seed"], games)

    return resumed(path, settings(), one)


def main() -> None:
    """Run all ways on all tasks; print the table, save table and figure."""
    parser = options(__doc__, out="runs/neurogame", seeds=SEEDS)
    names = ("faces", "digits", "fashion_mnist")
    parser.add_argument("--data", choices=names, default="digits")
    args = parser.parse_args()
    keep_compiled(args.out)
    folder = Path(args.data_dir or ".")
    faces = args.data == "faces"
    tasks = pictures.faces(folder) if faces else pictures.images(args.data, folder)
    cases = [(task, kind) for task in tasks for kind in kinds(task)]
    path, seeds = args.out / f"{args.data}.jsonl", range(args.seeds)
    ways = all_ways()
    if args.quick:
        cases, ways, seeds = cases[:1], QUICK_WAYS, range(1)
    rows = run_all(cases, ways, seeds, path, GAMES)
    cells = table(rows)
    show(cells)
    draw(cells, path.with_suffix(".png"))
    write_text(path.with_suffix(".json"), json.dumps(cells, indent=1))
    seconds = sum(row["seconds"] for row in rows)
    print(f"\n{seconds:.0f} processor seconds of training; see {args.out}")


if __name__ == "__main__":
    main()
