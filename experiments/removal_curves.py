"""Which score ranks connections best: accuracy as they are removed or kept.

A perceptron, a convolution and a recurrent network that reads images row by row learn
images by the selective rule with its defaults. Then the network of posterior means
loses its connections, largest score first (deletion: a good score has a small area), or
keeps only those with the largest scores (insertion: a good score has a large area).
Scores are computed on one half of the test data, at most 1,000 images, and accuracies
on up to 2,000 of the others. Areas are under accuracy against the share of connections,
on a logarithmic grid from 0.1 % to all.

The scores are those of connection_scores.py and "labels", which ranks important
connections first, by value, then variable and then absent ones by rms. A further table
shows the gain from the labels: the accuracy without all important or all absent
connections, compared with removing the same number by other scores.

    python experiments/removal_curves.py                      # 5 seeds on digits
    python experiments/removal_curves.py --data mnist         # or fashion_mnist
    python experiments/removal_curves.py --quick              # one seed, short
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from connection_scores import Scores, connection_scores
from shared import mean_and_error, options, plus_minus, resumed

import meanfield as mf
from meanfield.credit.nested_sets import ranks_of
from meanfield.credit.removal import payoffs_without
from meanfield.data import load
from meanfield.ensemble.networks import mlp

SEEDS, EPOCHS, QUICK_EPOCHS = 5, {"digits": 80, "mnist": 10, "fashion_mnist": 10}, 20
BATCH = {"digits": 32, "mnist": 128, "fashion_mnist": 128}
HIDDEN = {"digits": (30, 30), "mnist": (100, 100), "fashion_mnist": (100, 100)}
STATES = {"digits": 30, "mnist": 100, "fashion_mnist": 100}
NETWORKS = ("perceptron", "convolution", "recurrence")
SHARES = np.geomspace(1e-3, 1, 17)
SCORERS, JUDGES = 1000, 2000
BESIDE = ("magnitude", "|mean|/std", "OBD", "random")


class Convolution(eqx.Module):
    """Two ReLU convolutions, strided for large images, and a readout."""

    side: int = eqx.field(static=True)
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    readout: eqx.nn.Linear

    def __init__(self, side, *, key):
        keys = jax.random.split(key, 3)
        stride = 1 if side < 16 else 2
        self.side = side
        self.first = eqx.nn.Conv2d(1, 8, 3, stride, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 16, 3, stride, key=keys[1])
        left = ((side - 3) // stride - 2) // stride + 1
        self.readout = eqx.nn.Linear(16 * left**2, 10, key=keys[2])

    def __call__(self, x):
        """Logits of one flat image."""
        x = jax.nn.relu(self.first(x.reshape(1, self.side, self.side)))
        return self.readout(jax.nn.relu(self.second(x)).reshape(-1))


class Recurrence(eqx.Module):
    """Tanh units that read an image row by row, and a readout at the end."""

    side: int = eqx.field(static=True)
    read: eqx.nn.Linear
    recur: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, side, states, *, key):
        keys = jax.random.split(key, 3)
        self.side = side
        self.read = eqx.nn.Linear(side, states, key=keys[0])
        self.recur = eqx.nn.Linear(states, states, use_bias=False, key=keys[1])
        self.readout = eqx.nn.Linear(states, 10, key=keys[2])

    def __call__(self, x):
        """Logits of one flat image."""

        def step(state, row):
            return jnp.tanh(self.read(row) + self.recur(state)), None

        start = jnp.zeros(self.recur.out_features)
        state, _ = jax.lax.scan(step, start, x.reshape(self.side, self.side))
        return self.readout(state)


def build(case: dict, pixels: int, key: Any) -> Any:
    """The network of a case."""
    side = round(pixels**0.5)
    if case["network"] == "convolution":
        return Convolution(side, key=key)
    if case["network"] == "recurrence":
        return Recurrence(side, STATES[case["data"]], key=key)
    return mlp((pixels, *HIDDEN[case["data"]], 10), key=key)


def by_labels(labels: mf.credit.ConnectionLabels) -> Scores:
    """Certified labels as one score, and values or rms within a label."""
    found = {}
    top = max(float(part.max()) for part in labels.rms.values())
    best = max(float(abs(part).max()) for part in labels.values.values())
    for name, codes in labels.labels.items():
        value, rms = labels.values[name] / best, labels.rms[name] / top
        found[name] = np.select(
            [codes == mf.Label.IMPORTANT, codes == mf.Label.VARIABLE],
            [4 + value, 2 + rms],
            rms,
        )
    return found


def curves(without: Any, score: Scores, sizes: np.ndarray) -> dict[str, list[float]]:
    """Accuracy without the `sizes` largest connections, and with only these."""
    total = sum(part.size for part in score.values())
    falling = ranks_of({name: -part for name, part in score.items()})
    rising = ranks_of(score)
    return {
        "deletion": [float(without(falling, int(s)).mean()) for s in sizes],
        "insertion": [float(without(rising, int(total - s)).mean()) for s in sizes],
    }


def area(heights: list[float], sizes: np.ndarray) -> float:
    """Area under a curve over the logarithm of the sizes; 1 if all heights are 1."""
    place = np.log(sizes)
    return float(np.trapezoid(heights, place) / (place[-1] - place[0]))


def without_labels(without: Any, labels: Any, scores: dict) -> dict[str, float]:
    """Accuracy without all connections of a label, or the same number by a score."""
    row = {}
    codes = np.concatenate([np.ravel(part) for part in labels.labels.values()])
    for label, sign in ((mf.Label.IMPORTANT, -1), (mf.Label.ABSENT, 1)):
        name, count = label.name.lower(), int((codes == label).sum())
        own = {n: (part != label) * 1.0 for n, part in labels.labels.items()}
        row[f"share {name}"] = count / codes.size
        row[f"without {name}"] = float(without(ranks_of(own), count).mean())
        for kind in BESIDE:
            order = ranks_of({n: sign * part for n, part in scores[kind].items()})
            row[f"without {name} {kind}"] = float(without(order, count).mean())
    return row


def learn(case: dict) -> dict:
    """Train one network, score its connections and remove them."""
    images = load(case["data"], data_dir=case["data_dir"])
    x, y = images.x_train.reshape(len(images.x_train), -1), images.y_train
    x_test = images.x_test.reshape(len(images.x_test), -1)
    key = jax.random.key(case["seed"])
    result = mf.fit(
        mf.Ensemble.from_model(build(case, x.shape[1], key), key=key),
        (x, y),
        key=key,
        epochs=case["epochs"],
        batch_size=BATCH[case["data"]],
        prior="selective",
        progress=False,
    )
    ensemble = result.ensemble
    order = np.random.default_rng(case["seed"]).permutation(len(x_test))
    half = min(len(order) // 2, SCORERS)
    some, rest = order[:half], order[half : half + JUDGES]
    scorers = x_test[some], images.y_test[some]
    data = x_test[rest], images.y_test[rest]
    metrics = mf.evaluate(ensemble, data, num_samples=32, key=key)
    labels = mf.label_connections(ensemble, data=scorers, key=key)
    scores = {"labels": by_labels(labels)}
    scores |= connection_scores(ensemble, mf.Categorical(), scorers, key=key)
    without = payoffs_without(ensemble, mf.Categorical(), "accuracy", 1.0, data)
    sizes = np.unique(np.round(SHARES * ensemble.num_weights).astype(int))
    row = {"accuracy": metrics.accuracy, "nll": metrics.nll}
    row |= without_labels(without, labels, scores)
    row["shares"] = (sizes / ensemble.num_weights).tolist()
    for kind, score in scores.items():
        for way, heights in curves(without, score, sizes).items():
            row[f"{way} {kind}"] = area(heights, sizes)
            row[f"curve {way} {kind}"] = heights
    return row


def table(rows: list[dict]) -> str:
    """Mean ± standard error over seeds, one column per network; * is the best area."""
    names = dict.fromkeys((row["data"], row["network"]) for row in rows)
    kinds = [kind for kind, value in rows[0].items() if isinstance(value, float)]
    lines = [f"{'':<32}" + "".join(f"{'-'.join(n):>28}" for n in names)]
    own = {n: [r for r in rows if (r["data"], r["network"]) == n] for n in names}
    for kind in kinds:
        cells = []
        for part in own.values():
            way = kind.split()[0]
            rivals = [k for k in kinds if k.startswith(way + " ")]
            means = {k: mean_and_error([r[k] for r in part])[0] for k in rivals}
            pick = {"deletion": min, "insertion": max}.get(way)
            best = pick and pick(means, key=means.get) == kind
            cells.append(plus_minus([r[kind] for r in part]) + ("*" if best else " "))
        lines.append(f"{kind:<32}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)


def figure(rows: list[dict], path: Path) -> None:
    """The curves of the first seed of each network."""
    first = [row for row in rows if row["seed"] == 0]
    grid, axes = plt.subplots(2, len(first), figsize=(4 * len(first), 6), squeeze=False)
    for column, row in enumerate(first):
        for axis, way in zip(axes[:, column], ("deletion", "insertion"), strict=True):
            for kind in (k for k in row if k.startswith(f"curve {way} ")):
                axis.plot(row["shares"], row[kind], label=kind.split(" ", 2)[2])
            axis.set(xscale="log", title=f"{row['data']} {row['network']}, {way}")
    axes[0][0].legend(fontsize=6)
    grid.tight_layout()
    grid.savefig(path, dpi=150)


def main() -> None:
    """Run missing cases; print the table."""
    parser = options(__doc__, out="runs/removal_curves", seeds=SEEDS)
    parser.add_argument("--data", default="digits", choices=list(EPOCHS))
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    args = parser.parse_args()
    cases = [
        {
            "data": args.data,
            "network": network,
            "seed": seed,
            "epochs": QUICK_EPOCHS if args.quick else EPOCHS[args.data],
        }
        for network in ([args.network] if args.network else NETWORKS)
        for seed in range(1 if args.quick else args.seeds)
    ]
    where = args.data_dir and str(args.data_dir)
    rows = resumed(
        args.out / f"{args.data}.jsonl", cases, lambda c: learn(c | {"data_dir": where})
    )
    print(table(rows))
    figure(rows, args.out / f"{args.data}.png")


if __name__ == "__main__":
    main()
