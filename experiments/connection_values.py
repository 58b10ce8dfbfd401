"""The credit of connections: removal, comparison with sampled orders, and cost.

- removal: a trained network loses the connections of largest score (deletion), or keeps
  only those (insertion), for values and for other scores. The table has the accuracy of
  the network of posterior means on test images. Finished seeds are not repeated.
- orders: Shapley values of all connections of a small network on digits by sampled
  permutations, with the reference's own error, against `connection_values`.
- scaling: seconds and memory for a million and ten million connections.

| score     | connections are ranked by                                             |
|-----------|-----------------------------------------------------------------------|
| value     | Shapley value φ of the mean probability of the right class            |
| rms       | root mean square over examples of that value                          |
| rms log   | the same at t = 1/2 (Banzhaf) for the log-likelihood                  |
| magnitude | absolute posterior mean                                               |
| snr       | absolute posterior mean over posterior deviation                      |
| obd       | squared mean times Fisher information (optimal brain damage)          |
| random    | nothing                                                               |

    python experiments/connection_values.py --data mnist --data-dir FOLDER
    python experiments/connection_values.py --data mnist --model cnn --images 10000
    python experiments/connection_values.py --quick
"""

import argparse
import csv
import json
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from connection_scores import fisher_scores, network_of
from fashion_cnn import CNN
from flax import nnx
from matplotlib.figure import Figure
from shared import resumed

import meanfield as mf
from meanfield.data import load
from meanfield.ensemble.networks import mlp
from meanfield.files import atomic_path, write_text

OUT = Path("runs/connection_values")
PARTS = ("removal", "orders", "scaling")
IMAGES = {"hidden": (100, 100), "epochs": 20, "batch_size": 128, "examples": 2000}
SETTINGS = {
    "digits": {"hidden": (24, 24), "epochs": 60, "batch_size": 32, "examples": 1000},
    "mnist": IMAGES,
    "fashion_mnist": IMAGES,
}
SEEDS = 5
CHANNELS, CNN_WIDTH = (8, 16), 64
TEST_EXAMPLES = 5000
OBD_EXAMPLES = 500
SHOWN = 2000  # connections in the figure
REMOVED = (0.0025, 0.005, 0.01, 0.02, 0.05)
KEPT = (0.5, 0.2, 0.1, 0.05, 0.03)
ORDERS, ORDER_EXAMPLES, ORDER_SAMPLES = 480, 200, 64
SIZES = {1_000_000: (784, 640, 640, 128, 10), 10_000_000: (784, 2560, 2560, 512, 10)}
SCALING = {"examples": 256, "num_nodes": 12, "num_samples": 2, "chunk_size": 128}
QUICK = {"seeds": 1, "epochs": 5, "orders": 20, "sizes": {100_000: (784, 110, 110, 10)}}


def main() -> None:
    """Run the given parts; print, save and draw the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--images", type=int, default=None, help="to train on")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--examples", type=int, default=None, help="of the payoff")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    quick = arguments.quick
    seeds = arguments.seeds or (QUICK["seeds"] if quick else SEEDS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "removal" in arguments.parts:
        settings = dict(SETTINGS[arguments.data])
        epochs = QUICK["epochs"] if quick else arguments.epochs
        settings["epochs"] = epochs or settings["epochs"]
        settings |= {"model": arguments.model, "images": arguments.images}
        settings["examples"] = arguments.examples or settings["examples"]
        removal(arguments.data, arguments.data_dir, settings, seeds, arguments.out)
    found = {}
    if "orders" in arguments.parts:
        found["orders"] = orders(QUICK["orders"] if quick else ORDERS, quick)
    if "scaling" in arguments.parts:
        sizes = QUICK["sizes"] if quick else SIZES
        found["scaling"] = [scale(count, sizes[count]) for count in sorted(sizes)]
    if found:
        print(json.dumps(found, indent=1))
        write_text(arguments.out / "figures.json", json.dumps(found, indent=1))


def train(dataset, settings: dict, seed: int):
    """An ensemble trained by the published rule, and its data."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x, y = images(dataset.x_train, dataset, settings), dataset.y_train
    x, y = (part[: settings.get("images")] for part in (x, y))
    if settings.get("model") == "cnn":
        network = CNN(x.shape[1], CHANNELS, CNN_WIDTH, 10, nnx.Rngs(seed))
    else:
        network = mlp((x.shape[1], *settings["hidden"], 10), key=keys[0])
    result = mf.fit(
        mf.Ensemble.from_model(network, key=keys[1]),
        (x, y),
        likelihood=mf.Categorical(),
        key=keys[2],
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        prior=None,
        progress=False,
    )
    return result.ensemble, (x, y)


def images(x, dataset, settings: dict):
    """Images as rows, or for a convolution with an axis for the channel."""
    if settings.get("model") == "cnn":
        return x.reshape(len(x), *dataset.image_shape[:2], 1)
    return x.reshape(len(x), -1)


def removal(data: str, data_dir, settings: dict, seeds: int, out: Path) -> None:
    """Deletion and insertion by every score; a table, a CSV file and a figure."""
    dataset = load(data, data_dir=data_dir)
    cases = [{"data": data, "seed": seed, **settings} for seed in range(seeds)]
    found = resumed(
        out / "removal.jsonl", cases, lambda case: take_apart(dataset, case)
    )
    for case in found:
        print(case["report"])
    rows = [
        (case["seed"], *row, case["whole"]) for case in found for row in case["rows"]
    ]
    names = ("seed", "score", "kind", "share", "accuracy", "whole")
    with atomic_path(out / "removal.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    table(rows)
    draw(rows, found[-1], out / "removal.png")


def take_apart(dataset, case: dict) -> dict:
    """Train one network, compute values, and remove or keep connections."""
    seed = case["seed"]
    ensemble, (x, y) = train(dataset, case, seed)
    chosen = slice(0, case["examples"])
    data = x[chosen], y[chosen]
    credit = mf.connection_values(ensemble, data, key=jax.random.key(100 + seed))
    test = images(dataset.x_test, dataset, case)[:TEST_EXAMPLES]
    accuracy = accuracy_of(ensemble, test, dataset.y_test[: len(test)])
    rows = []
    score = scores(ensemble, data, credit, jax.random.key(200 + seed))
    for ranking, values in score.items():
        order = np.argsort(-values, kind="stable")
        for kind, shares in (("removed", REMOVED), ("kept", KEPT)):
            for share in shares:
                mask = np.zeros(len(order), np.float32)
                mask[order[: round(share * len(order))]] = 1
                mask = 1 - mask if kind == "removed" else mask
                rows.append((ranking, kind, share, accuracy(mask)))
    some = np.random.default_rng(0).permutation(len(order))[:SHOWN]
    check = credit.check
    return {
        "rows": rows,
        "whole": accuracy(np.ones(len(order), np.float32)),
        "report": report(credit, seed),
        "path": [credit.nodes.tolist(), credit.path_payoff.tolist()],
        "drawn": [
            part.tolist()
            for part in (check.nodes, check.drawn_payoff, check.drawn_errors)
        ],
        "points": [score[name][some].tolist() for name in ("magnitude", "value")],
    }


def report(credit, seed: int) -> str:
    """One line about a run of `connection_values`."""
    percent = 100 / (credit.payoff - credit.empty_payoff)
    gap, error = percent * credit.efficiency_gap, percent * credit.gap_error
    return (
        f"seed {seed}: {credit.num_players} connections, {credit.num_examples} images, "
        f"{credit.num_passes} passes; payoff {credit.payoff:.4f}, "
        f"empty {credit.empty_payoff:.4f}, gap {gap:.3f} ± {error:.3f} %; check: "
        f"{credit.check.verdict}, largest difference "
        f"{100 * credit.check.largest_difference:.1f} %"
    )


def flat(arrays) -> np.ndarray:
    """All arrays of a dictionary, concatenated."""
    return np.concatenate([np.ravel(array) for array in arrays.values()])


def scores(ensemble, data, credit, key) -> dict[str, np.ndarray]:
    """One number for each connection, by every ranking."""
    weights = ensemble.weights()
    means = {name: w.mean for name, w in weights.items()}
    mean, some = flat(means), tuple(part[:OBD_EXAMPLES] for part in data)
    deviation = np.sqrt(flat({name: w.var for name, w in weights.items()}))
    log = mf.connection_values(
        ensemble,
        data,
        key=key,
        payoff="log_likelihood",
        weighting="banzhaf",
        num_samples=24,
        num_checks=0,
    )
    return {
        "value": flat(credit.values),
        "rms": flat(credit.rms),
        "rms log": flat(log.rms),
        "magnitude": np.abs(mean),
        "snr": np.abs(mean) / np.maximum(deviation, 1e-12),
        "obd": flat(fisher_scores(network_of(ensemble), mf.Categorical(), means, some)),
        "random": np.asarray(jax.random.uniform(key, mean.shape)),
    }


def accuracy_of(ensemble, x, y):
    """From a mask of all connections to the accuracy of the network of means."""
    means = {name: w.mean for name, w in ensemble.weights().items()}
    x, y = jnp.asarray(x), jnp.asarray(y)

    @jax.jit
    def accuracy(mask):
        placed, start = {}, 0
        for name, mean in means.items():
            part = mask[start : start + mean.size].reshape(mean.shape)
            placed[name], start = mean * part, start + mean.size
        outputs = ensemble.apply_fn(ensemble.with_weights(placed).params, x)
        return (outputs.argmax(-1) == y).mean()

    return lambda mask: 100 * float(accuracy(jnp.asarray(mask)))


def table(rows) -> None:
    """Mean and standard deviation over seeds, one line for each score."""
    found = {}
    for _, ranking, kind, share, accuracy, _ in rows:
        found.setdefault((kind, share), {}).setdefault(ranking, []).append(accuracy)
    print(f"whole network: {np.mean([row[-1] for row in rows]):.2f} %")
    columns = list(found)
    print("score     ", *(f"{kind} {100 * share:g} %" for kind, share in columns))
    for ranking in next(iter(found.values())):
        cells = [found[column][ranking] for column in columns]
        print(f"{ranking:10}", *(f"{np.mean(c):6.2f}±{np.std(c):5.2f}" for c in cells))


def draw(rows, last: dict, path: Path) -> None:
    """Draw deletion, insertion and the last seed's payoff by density and its values."""
    figure = Figure((11, 7), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for axis, kind in zip(axes, ("removed", "kept"), strict=False):
        for ranking in dict.fromkeys(row[1] for row in rows):
            mine = [row for row in rows if row[1] == ranking and row[2] == kind]
            shares = sorted({row[3] for row in mine})
            mean = [np.mean([r[4] for r in mine if r[3] == share]) for share in shares]
            axis.plot(100 * np.array(shares), mean, "o-", ms=3, label=ranking)
        axis.set_xscale("log")
        axis.set(xlabel=f"connections {kind} (%)", ylabel="test accuracy (%)")
    axes[0].legend(frameon=False, fontsize="small")
    axes[2].plot(*last["path"], "o-", ms=3, label="Gaussian")
    nodes, payoffs, errors = last["drawn"]
    axes[2].errorbar(nodes, payoffs, errors, fmt="s", ms=3, label="drawn")
    axes[2].set(xlabel="density t of the connections", ylabel="payoff")
    axes[2].legend(frameon=False, fontsize="small")
    axes[3].plot(*last["points"], ".", ms=1, rasterized=True)
    axes[3].set(xlabel="absolute mean weight", ylabel="value")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def orders(count: int, quick: bool) -> dict[str, float]:
    """Sampled permutations of 2,352 connections against one call."""
    epochs = QUICK["epochs"] if quick else SETTINGS["digits"]["epochs"]
    ensemble, (x, y) = train(load("digits"), SETTINGS["digits"] | {"epochs": epochs}, 0)
    data = jnp.asarray(x[:ORDER_EXAMPLES]), jnp.asarray(y[:ORDER_EXAMPLES])
    start = time.perf_counter()
    drawn = permutations(ensemble, data, count, jax.random.key(7))
    seconds = time.perf_counter() - start
    reference = drawn.mean(0)
    error = drawn.std(0, ddof=1) / np.sqrt(count)
    settings = {"num_samples": ORDER_SAMPLES, "num_checks": 0}
    mf.connection_values(ensemble, data, key=jax.random.key(8), **settings)
    start = time.perf_counter()
    credit = mf.connection_values(ensemble, data, key=jax.random.key(8), **settings)
    mine = time.perf_counter() - start
    values, own = flat(credit.values), flat(credit.standard_errors)
    norm = np.linalg.norm(reference)
    # Independent noise lowers a correlation by the root of each reliability.
    reliability = [
        max(1 - np.mean(noise**2) / np.var(found), 1e-9)
        for noise, found in ((error, reference), (own, values))
    ]
    correlation = float(np.corrcoef(values, reference)[0, 1])
    return {
        "players": len(values),
        "orders": count,
        "evaluations": count * len(values),
        "seconds_orders": seconds,
        "reference_error": float(np.linalg.norm(error) / norm),
        "passes": credit.num_passes,
        "seconds": mine,
        "own_error": float(np.linalg.norm(own) / norm),
        "correlation": correlation,
        "correlation_without_noise": correlation / float(np.sqrt(np.prod(reliability))),
        "difference": float(np.linalg.norm(values - reference) / norm),
    }


def permutations(ensemble, data, count: int, key) -> np.ndarray:
    """Marginal contributions along random orders of connections, (orders, players)."""
    x, y = data
    weights = ensemble.weights()
    names = list(weights)
    sizes = [weights[name].size for name in names]
    ends = np.cumsum([0, *sizes])

    @jax.jit
    def one(key):
        order_key, *keys = jax.random.split(key, len(names) + 1)
        drawn = {n: weights[n].sample(k) for n, k in zip(names, keys, strict=True)}
        rank = jnp.argsort(jax.random.permutation(order_key, ends[-1]))

        def pay(size):
            inside = rank < size
            placed = {
                n: drawn[n] * inside[a:b].reshape(drawn[n].shape)
                for n, a, b in zip(names, ends, ends[1:], strict=False)
            }
            outputs = ensemble.apply_fn(ensemble.with_weights(placed).params, x)
            return jax.nn.softmax(outputs)[jnp.arange(len(y)), y].mean()

        payoffs = jax.lax.map(pay, jnp.arange(ends[-1] + 1))
        return jnp.diff(payoffs)[rank]

    return np.stack([np.asarray(one(k)) for k in jax.random.split(key, count)])


def scale(count: int, widths) -> dict[str, float]:
    """Seconds of a second call, and peak memory, for a network of a given size."""
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = mf.Ensemble.from_model(mlp(widths, key=keys[0]), key=keys[1])
    examples = SCALING["examples"]
    data = jax.random.uniform(keys[2], (examples, widths[0])), jnp.arange(examples) % 10
    settings = {k: v for k, v in SCALING.items() if k != "examples"} | {"num_checks": 0}
    mf.connection_values(ensemble, data, key=keys[2], **settings)
    start = time.perf_counter()
    mf.connection_values(ensemble, data, key=keys[2], **settings)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count:,}: {ensemble.num_weights:,} connections, {seconds:.2f} s")
    return {
        "connections": ensemble.num_weights,
        "seconds": seconds,
        "peak_gib": peak,
        **SCALING,
    }


if __name__ == "__main__":
    main()
