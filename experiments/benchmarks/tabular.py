"""Default estimators on ten small tables: accuracy, log-loss and seconds of `fit`.

Four tables that scikit-learn embeds and six that it makes. Every estimator keeps its
defaults and stands behind a `StandardScaler`. Each table is split SPLITS times into
70 % training and 30 % test rows, stratified; the estimators take turns on each split,
so that a noisy machine disturbs all alike. `fit` of a new shape compiles a program: the
first fit of a table is shown apart from the others.

    python experiments/benchmarks/tabular.py
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import meanfield as mf

SPLITS = 3
TEST_FRACTION = 0.3
TABLES = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "moons": lambda: datasets.make_moons(300, noise=0.3, random_state=0),
    "circles": lambda: datasets.make_circles(
        400, noise=0.15, factor=0.5, random_state=0
    ),
    "hastie": lambda: datasets.make_hastie_10_2(2000, random_state=0),
    "quantiles": lambda: datasets.make_gaussian_quantiles(
        n_samples=1000, n_features=8, n_classes=3, random_state=0
    ),
    "few of many": lambda: datasets.make_classification(
        400, n_features=50, n_informative=5, n_redundant=0, random_state=0
    ),
    "noisy labels": lambda: datasets.make_classification(
        2000, n_informative=8, n_classes=4, flip_y=0.1, random_state=0
    ),
}
ESTIMATORS = {
    "mean field": lambda seed: mf.MeanFieldClassifier(random_state=seed),
    "MLP": lambda seed: MLPClassifier(random_state=seed),
    "logistic": lambda seed: LogisticRegression(),
}


def measure(tables: dict, splits: int) -> pd.DataFrame:
    """One row for each table, split and estimator."""
    rows = []
    for table, make in tables.items():
        x, y = make()
        cuts = StratifiedShuffleSplit(splits, test_size=TEST_FRACTION, random_state=0)
        for split, (train, test) in enumerate(cuts.split(x, y)):
            for name, estimator in ESTIMATORS.items():
                model = make_pipeline(StandardScaler(), estimator(split))
                start = time.perf_counter()
                model.fit(x[train], y[train])
                seconds = time.perf_counter() - start
                probs = model.predict_proba(x[test]).astype(np.float64)
                loss = log_loss(y[test], probs / probs.sum(1, keepdims=True))
                accuracy = model.score(x[test], y[test])
                rows.append((table, split, name, accuracy, loss, seconds))
    columns = ["table", "split", "estimator", "accuracy", "log-loss", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """Print the scores of every table, their means, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--out", type=Path, default=Path("runs/tabular"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    found = measure(TABLES, options.splits)
    scores = found.pivot_table(
        index="table", columns="estimator", values=["accuracy", "log-loss"], sort=False
    )
    print(scores.round(4).to_string())
    print("\nmean over the tables\n", scores.mean().unstack().round(4).to_string())
    first = found[found.split == 0].pivot(
        index="table", columns="estimator", values="seconds"
    )
    later = found[found.split > 0].pivot_table(
        index="table", columns="estimator", values="seconds", aggfunc="median"
    )
    for title, seconds in (("first fit, compiling", first), ("later fits", later)):
        ratio = (seconds["mean field"] / seconds["MLP"]).round(2)
        print(f"\nseconds, {title}")
        print(seconds.assign(ratio=ratio).round(3).to_string())
    total = found.groupby("estimator").seconds.sum()
    print(f"\nall fits together: {total['mean field'] / total['MLP']:.2f} times MLP")
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "tabular.csv", index=False)


if __name__ == "__main__":
    main()
