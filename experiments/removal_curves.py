"""Which score orders connections best: accuracy as they go, and as they come alone.

Networks of digits (a perceptron and a convolution), and with --data mnist or
fashion_mnist a perceptron of images, learn under the selective rule. Then the network
of posterior means loses its connections, largest score first (deletion: the sooner
accuracy falls, the better, area small), and keeps those of largest score alone
(insertion: the sooner it rises, the better, area large). One half of the test data
scores, accuracies are of the other half. Areas are under accuracy against the share of
connections on a logarithmic grid from 0.1 % to all.

    value, rms     of `label_connections`, at half of all connections there
    magnitude      |μ|
    |mean|/std     |μ| / √V
    OBD            μ² times the mean squared gradient of the loss of single examples
    |w gradient|   |μ times the gradient of the mean loss|
    integrated     μ times the gradient of the loss, averaged along α μ, α from 0 to 1
    random         a draw

    python experiments/removal_curves.py                      # 5 seeds on digits
    python experiments/removal_curves.py --data mnist         # 10 epochs
    python experiments/removal_curves.py --quick              # one seed, short
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from shared import options, plus_minus, resumed

import meanfield as mf
from meanfield.credit.nested_sets import ranks_of
from meanfield.credit.removal import payoffs_without, two_orders
from meanfield.data import load
from meanfield.ensemble.networks import mlp

SEEDS, EPOCHS, QUICK_EPOCHS = 5, {"digits": 80, "mnist": 10, "fashion_mnist": 10}, 20
BATCH = {"digits": 32, "mnist": 128, "fashion_mnist": 128}
HIDDEN = {"digits": (30, 30), "mnist": (100, 100), "fashion_mnist": (100, 100)}
SHARES = np.geomspace(1e-3, 1, 25)
SCORERS, NODES = 1000, 16


class Convolution(eqx.Module):
    """Two convolutions of ReLU, a mean over places, and a readout."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    readout: eqx.nn.Linear

    def __init__(self, *, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, 8, 3, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 16, 3, key=keys[1])
        self.readout = eqx.nn.Linear(16 * 16, 10, key=keys[2])

    def __call__(self, x):
        """Logits of one flat image of 8 × 8."""
        x = jax.nn.relu(self.first(x.reshape(1, 8, 8)))
        return self.readout(jax.nn.relu(self.second(x)).reshape(-1))


def scores(ensemble: mf.Ensemble, data: Any, key: Any) -> dict[str, dict]:
    """Of every connection, by each rule; large ones matter most."""
    likelihood = mf.Categorical()
    values, rms = two_orders(ensemble, likelihood, 1.0, data, key=key)
    weights = ensemble.weights()
    means = {name: weight.mean for name, weight in weights.items()}
    x, y = map(jnp.asarray, data)

    def loss(means: Any, x: Any, y: Any) -> Any:
        outputs = ensemble.apply_fn(ensemble.with_weights(means).params, x)
        return -likelihood(outputs).log_prob(y).mean()

    @jax.jit
    def gradients(means: Any) -> Any:
        def squares(total: Any, one: Any) -> Any:
            found = jax.grad(loss)(means, one[0][None], one[1][None])
            return jax.tree.map(lambda t, g: t + g**2, total, found), None

        zero = jax.tree.map(jnp.zeros_like, means)
        fisher, _ = jax.lax.scan(squares, zero, (x, y))

        def along(total: Any, part: Any) -> Any:
            there = jax.tree.map(lambda mean: part * mean, means)
            found = jax.grad(loss)(there, x, y)
            return jax.tree.map(jnp.add, total, found), None

        path, _ = jax.lax.scan(along, zero, (jnp.arange(NODES) + 0.5) / NODES)
        return fisher, jax.grad(loss)(means, x, y), path

    fisher, gradient, path = gradients(means)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    found = {
        name: {
            "value": values[name],
            "rms": rms[name],
            "magnitude": abs(mean),
            "|mean|/std": abs(mean) / jnp.sqrt(weights[name].var + 1e-20),
            "OBD": mean**2 * fisher[name],
            "|w gradient|": abs(mean * gradient[name]),
            "integrated": -mean * path[name],
            "random": rng.random(mean.shape),
        }
        for name, mean in means.items()
    }
    kinds = next(iter(found.values()))
    return {k: {n: np.asarray(s[k]) for n, s in found.items()} for k in kinds}


def curve_areas(ensemble: mf.Ensemble, data: Any, found: dict) -> dict[str, float]:
    """Areas under deletion and insertion, in units of the whole network's accuracy."""
    total = ensemble.num_weights
    without = payoffs_without(ensemble, mf.Categorical(), "accuracy", 1.0, data)
    sizes = np.unique(np.round(SHARES * total).astype(int))
    areas = {}
    for kind, score in found.items():
        falling = ranks_of({name: -part for name, part in score.items()})
        rising = ranks_of(score)
        for name, ranks, gone in (
            ("deletion", falling, sizes),
            ("insertion", rising, total - sizes),
        ):
            heights = [without(ranks, int(size)).mean() for size in gone]
            place = np.log(sizes)
            area = np.trapezoid(heights, place) / (place[-1] - place[0])
            areas[f"{name} {kind}"] = float(area)
    return areas


def learn(case: dict) -> dict[str, float]:
    """One network, learned, scored and taken apart."""
    images = load(case["data"], data_dir=case["data_dir"])
    x, y = images.x_train.reshape(len(images.x_train), -1), images.y_train
    x_test = images.x_test.reshape(len(images.x_test), -1)
    key = jax.random.key(case["seed"])
    widths = (x.shape[1], *HIDDEN[case["data"]], 10)
    convolution = case["network"] == "convolution"
    network = Convolution(key=key) if convolution else mlp(widths, key=key)
    result = mf.fit(
        mf.Ensemble.from_model(network, key=key),
        (x, y),
        key=key,
        epochs=case["epochs"],
        batch_size=BATCH[case["data"]],
        prior="selective",
        progress=False,
    )
    order = np.random.default_rng(case["seed"]).permutation(len(x_test))
    half = min(len(order) // 2, SCORERS)
    some, rest = order[:half], order[half:]
    found = scores(result.ensemble, (x_test[some], images.y_test[some]), key)
    data = (x_test[rest], images.y_test[rest])
    metrics = mf.evaluate(result.ensemble, data, num_samples=32, key=key)
    areas = curve_areas(result.ensemble, data, found)
    return {"accuracy": metrics.accuracy, "nll": metrics.nll} | areas


def table(rows: list[dict], kinds: list[str]) -> str:
    """Mean ± standard error over the seeds, a column a network."""
    names = dict.fromkeys((row["data"], row["network"]) for row in rows)
    lines = [f"{'':<26}" + "".join(f"{'-'.join(n):>26}" for n in names)]
    for kind in kinds:
        parts = [
            [r[kind] for r in rows if (r["data"], r["network"]) == n] for n in names
        ]
        lines.append(f"{kind:<26}" + "".join(f"{plus_minus(p):>26}" for p in parts))
    return "\n".join(lines)


def main() -> None:
    """Learn what is missing; print the table."""
    parser = options(__doc__, out="runs/removal_curves", seeds=SEEDS)
    parser.add_argument("--data", default="digits", choices=list(EPOCHS))
    args = parser.parse_args()
    networks = (
        ["perceptron", "convolution"] if args.data == "digits" else ["perceptron"]
    )
    cases = [
        {
            "data": args.data,
            "network": network,
            "seed": seed,
            "epochs": QUICK_EPOCHS if args.quick else EPOCHS[args.data],
        }
        for network in networks
        for seed in range(1 if args.quick else args.seeds)
    ]
    where = args.data_dir and str(args.data_dir)
    rows = resumed(
        args.out / f"{args.data}.jsonl", cases, lambda c: learn(c | {"data_dir": where})
    )
    kinds = [k for k in rows[0] if k.startswith(("accuracy", "nll", "dele", "inser"))]
    print(table(rows, kinds))


if __name__ == "__main__":
    main()
