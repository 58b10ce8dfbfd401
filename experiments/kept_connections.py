"""Rankings of connections to keep, and what their accuracy depends on.

MNIST, 784-100-100-10 by the published rule. Only the connections of largest score, and
the biases, are kept; accuracy is that of the network of posterior means on 5,000 test
images, and of the average of ten drawn sub-networks with the same connections.

| score          | connections are ranked by                                        |
|----------------|------------------------------------------------------------------|
| rms            | root mean square over examples of the Shapley value of P(right)  |
| rms, ½         | the same at t = ½ alone (Banzhaf)                                |
| rms log, ½     | at t = ½ for the log-likelihood                                  |
| rms log, 0.7   | around t = 0.7 for the log-likelihood                            |
| … few draws    | rms log, ½ with 2 draws and large chunks: a noisy rms            |
| … valued again | rms log, ½, in two steps: the best 30 % are valued again          |
| snr            | absolute posterior mean over posterior deviation                 |
| magnitude      | absolute posterior mean                                          |

    python experiments/kept_connections.py --data-dir DIR      # 20 and 5 epochs
    python experiments/kept_connections.py --quick             # digits
"""

import jax
import jax.numpy as jnp
import numpy as np
from connection_values import SETTINGS, TEST_EXAMPLES, accuracy_of, flat, images, train
from shared import mean_and_error, options, resumed

import meanfield as mf
from meanfield.data import load

EPOCHS, SEEDS = (20, 5), 2
KEPT = (0.2, 0.1, 0.05)
FIRST = 0.3  # fraction that is kept in the first of two steps
DRAWN = 10
LOG = {"payoff": "log_likelihood", "weighting": "banzhaf", "num_samples": 24}


def rms(ensemble, data, key, **settings) -> np.ndarray:
    """The root mean square of the values of all connections."""
    settings = {"num_checks": 0} | settings
    return flat(mf.connection_values(ensemble, data, key=key, **settings).rms)


def kept_alone(ensemble, score: np.ndarray, share: float):
    """The ensemble without the connections of smallest score, and the mask."""
    mask = np.zeros(len(score), np.float32)
    mask[np.argsort(-score, kind="stable")[: round(share * len(score))]] = 1
    placed, start = {}, 0
    for name, w in ensemble.weights().items():
        inside = jnp.asarray(mask[start : start + w.size].reshape(w.shape)) > 0
        spike = jnp.where(inside, w.spike_prob, 1.0)
        placed[name] = mf.SpikeSlab(spike, w.slab_mean, w.slab_var)
        start += w.size
    return ensemble.with_weights(placed), mask


def scores(ensemble, data, key) -> dict[str, np.ndarray]:
    """One number a connection for every way to rank them."""
    weights = ensemble.weights()
    mean = np.abs(flat({name: w.mean for name, w in weights.items()}))
    deviation = np.sqrt(flat({name: w.var for name, w in weights.items()}))
    first = rms(ensemble, data, key, **LOG)
    rest, mask = kept_alone(ensemble, first, FIRST)
    again = np.where(mask > 0, rms(rest, data, key, **LOG), -1.0)
    near = {"weighting": (70.0, 30.0), "num_nodes": 4, "num_samples": 6}
    few = {"num_samples": 2, "chunk_size": 256}
    return {
        "rms": rms(ensemble, data, key),
        "rms, ½": rms(ensemble, data, key, weighting="banzhaf", num_samples=24),
        "rms log, ½": first,
        "rms log, 0.7": rms(ensemble, data, key, **LOG | near),
        "… few draws": rms(ensemble, data, key, **LOG | few),
        "… valued again": again,
        "snr": mean / np.maximum(deviation, 1e-12),
        "magnitude": mean,
    }


def drawn_accuracy(ensemble, x, y, key) -> float:
    """Accuracy of the mean probabilities of drawn sub-networks."""
    found = mf.predict(ensemble, x, num_samples=DRAWN, key=key, of="subnetworks")
    return 100 * float((np.asarray(found.mean).argmax(-1) == y).mean())


def learn(case: dict) -> dict[str, float]:
    """Train one network; accuracy with only the best connections, by score."""
    dataset = load(case["data"], data_dir=case["data_dir"])
    settings = SETTINGS[case["data"]] | {"epochs": case["epochs"]}
    ensemble, (x, y) = train(dataset, settings, case["seed"])
    test = images(dataset.x_test, dataset, settings)[:TEST_EXAMPLES]
    labels = dataset.y_test[: len(test)]
    accuracy = accuracy_of(ensemble, test, labels)
    count = settings["examples"]
    key = jax.random.key(100 + case["seed"])
    found = {"whole": accuracy(np.ones(ensemble.num_weights, np.float32))}
    for name, score in scores(ensemble, (x[:count], y[:count]), key).items():
        for share in KEPT:
            rest, mask = kept_alone(ensemble, score, share)
            found[f"{name} {share:g}"] = accuracy(mask)
            found[f"{name} {share:g} drawn"] = drawn_accuracy(rest, test, labels, key)
    return found


def main() -> None:
    """Run cases without a result; print the table."""
    args = options(__doc__, out="runs/kept_connections", seeds=SEEDS).parse_args()
    data, epochs = ("digits", (5,)) if args.quick else ("mnist", EPOCHS)
    where = args.data_dir and str(args.data_dir)
    cases = [
        {"data": data, "epochs": number, "seed": seed}
        for seed in range(1 if args.quick else args.seeds)
        for number in epochs
    ]
    rows = resumed(
        args.out / "kept.jsonl", cases, lambda case: learn(case | {"data_dir": where})
    )
    for number in epochs:
        print(table([row for row in rows if row["epochs"] == number]))


def table(rows: list[dict]) -> str:
    """Mean ± error over seeds: of the mean network, and of drawn sub-networks."""
    last = f" {KEPT[0]:g}"
    whole, _ = mean_and_error([row["whole"] for row in rows])
    head = "".join(f"{f'{100 * share:g} % kept, drawn':>30}" for share in KEPT)
    lines = [f"{rows[0]['epochs']} epochs, whole {whole:5.2f} %{head}"]
    for name in [key.removesuffix(last) for key in rows[0] if key.endswith(last)]:
        cells = []
        for share in KEPT:
            for kind in ("", " drawn"):
                part = [row[f"{name} {share:g}{kind}"] for row in rows]
                cells.append("{:6.2f} ± {:4.2f}".format(*mean_and_error(part)))
        lines.append(f"{name:<26}" + "  ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
