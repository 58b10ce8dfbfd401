"""Early stopping by a held-out tenth, for tables and many epochs: does it help?

For each table the training part of its split is split again: three quarters to learn
from, and a quarter held out; test rows are not used. The command line's network and
rule (batches of 32, Adam with a falling step size) learn from all of the three
quarters; or from nine tenths of them, keeping the best epoch on the last tenth and
stopping after 20 epochs without a better one (`meanfield train --patience 20`).
The table has the NLL on the held-out quarter, mean ± standard error over the splits,
and the number of epochs.

    python experiments/early_stopping.py [--quick] [--seeds 3]
"""

import json

import jax
import numpy as np
from shared import options, plus_minus
from sklearn import datasets

import meanfield as mf
from meanfield.data.dataset import Dataset, split_rows
from meanfield.ensemble.networks import mlp
from meanfield.files import write_text
from meanfield.learning.optimizers import cosine_adam
from meanfield.runs.held_out import hold_out
from meanfield.runs.standardization import Standardization
from meanfield.runs.tasks import build_likelihood

HIDDEN, BATCH, EPOCHS = (50, 50), 32, (300,)
QUARTER, PATIENCE = 0.25, 20


def noisy(task: str) -> tuple[np.ndarray, np.ndarray]:
    """A table whose best possible score is far from perfect."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(600, 10))
    signal = x[:, 0] - x[:, 1] * (x[:, 2] > 0)
    if task == "regression":
        return x, signal + rng.normal(size=600)
    return x, ((signal > 0) ^ (rng.random(600) < 0.2)).astype(int)


TABLES = {
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "2 classes, 20 % flipped": lambda: noisy("classification"),
    "regression, noise 1": lambda: noisy("regression"),
}


def halves(name: str, seed: int) -> Dataset:
    """Three quarters of a table's training rows, and the held-out quarter as `test`."""
    x, y = TABLES[name]()
    classes = np.issubdtype(np.asarray(y).dtype, np.integer)
    labels = y.astype(np.int32) if classes else None
    train, _ = split_rows(len(x), test_fraction=0.2, seed=0, labels=labels)
    x, y = x[train], y[train]
    labels = y.astype(np.int32) if classes else None
    learn, held = split_rows(len(x), test_fraction=QUARTER, seed=seed, labels=labels)
    x = (x - x[learn].mean(0)) / x[learn].std(0)
    x, y = x.astype(np.float32), y.astype(np.int32 if classes else np.float32)
    return Dataset(
        name=name,
        task="classification" if classes else "regression",
        x_train=x[learn],
        y_train=y[learn],
        x_test=x[held],
        y_test=y[held],
        class_names=("0", "1") if classes else None,
    )


def score(name: str, seed: int, epochs: int, patience: int | None) -> dict[str, float]:
    """NLL on the held-out quarter, and the number of epochs."""
    table = halves(name, seed)
    standard = Standardization.learn(table)
    likelihood = build_likelihood(
        "categorical" if table.class_names else "gaussian", table.num_targets
    )
    data, validation = (table.x_train, standard.standardise(table.y_train)), None
    if patience:
        data, validation = hold_out(table, data, seed)
    outputs = table.num_classes or 1
    network = mlp((table.num_features, *HIDDEN, outputs), key=jax.random.key(seed))
    result = mf.fit(
        mf.Ensemble.from_model(network, key=jax.random.key(seed + 100)),
        data,
        likelihood=likelihood,
        key=jax.random.key(seed + 200),
        epochs=epochs,
        batch_size=BATCH,
        optimizer=cosine_adam(2e-3, epochs * (len(data[0]) // BATCH)),
        validation=validation,
        patience=patience,
        prior=None,
        progress=False,
    )
    metrics = mf.evaluate(
        result.ensemble,
        (table.x_test, standard.standardise(table.y_test)),
        likelihood=result.likelihood,
        key=jax.random.key(seed + 300),
    )
    return {"nll": float(metrics.nll), "epochs": len(result.history["epoch"])}


def main() -> None:
    """Print a table and write all numbers."""
    settings = options(__doc__, out="results/early_stopping", seeds=3).parse_args()
    seeds = range(1 if settings.quick else settings.seeds)
    cases = [(e, p) for e in EPOCHS for p in (None, PATIENCE)]
    heads = [f"{e} epochs" + (f", patience {p}" if p else "") for e, p in cases]
    print(f"{'held-out NLL (epochs)':26}" + "".join(f"{head:>30}" for head in heads))
    rows = []
    for name in list(TABLES)[: 1 if settings.quick else None]:
        line = f"{name:26}"
        for epochs, patience in cases:
            found = [score(name, seed, epochs, patience) for seed in seeds]
            rows.append({"table": name, "epochs": epochs, "patience": patience})
            rows[-1]["scores"] = found
            made = np.mean([one["epochs"] for one in found])
            text = plus_minus([one["nll"] for one in found], 3)
            line += f"{f'{text} ({made:.0f})':>30}"
        print(line, flush=True)
    settings.out.mkdir(parents=True, exist_ok=True)
    write_text(settings.out / "scores.json", json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
