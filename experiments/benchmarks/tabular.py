"""Default estimators on clean, noisy and regression tables, and scikit-learn's.

clean: four tables that scikit-learn embeds and six that it generates. noisy: tables
with columns of numbers and of texts (noisy_tables.py), whose labels no model can
predict with certainty: 5 to 30 % of them are flipped or redrawn, or they are drawn from
given probabilities, or they come from a survey. numbers: regression on diabetes, two of
Friedman's functions and three tables of texts and numbers, with and without noise.

Every estimator keeps its defaults. Ours and the trees get the table unchanged; for the
others numbers are standardised and texts one-hot encoded. A regressor that predicts no
standard deviation gets one: the root mean square of its errors in five-fold
cross-validation on the training rows. The loss is the NLL; in regression, it and
the RMSE are in units of the training targets' standard deviation. Coverage is the
fraction of targets within 1.96 predicted standard deviations of the predicted mean.

Each table is split SPLITS times into 70 % training and 30 % test rows, stratified by
class. All estimators are fitted on one split before the next. The first `fit` on data
of a new shape compiles a program, so seconds of the first split are shown separately.

    python experiments/benchmarks/tabular.py                 # all, 3 splits
    python experiments/benchmarks/tabular.py --kind noisy
    python experiments/benchmarks/tabular.py --quick         # two tables
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from noisy_tables import NOISY, NUMBERS, Table
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    ShuffleSplit,
    StratifiedShuffleSplit,
    cross_val_predict,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import meanfield as mf
from meanfield.files import write_text

SPLITS, TEST_FRACTION = 3, 0.3
CLEAN = {
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
REAL = {
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "Friedman 1, noise 1, 500 rows": lambda: datasets.make_friedman1(
        500, noise=1.0, random_state=0
    ),
    "Friedman 2, 1,000 rows": lambda: datasets.make_friedman2(
        1000, noise=50.0, random_state=0
    ),
}
TABLES = {"clean": CLEAN, "noisy": NOISY, "numbers": REAL | NUMBERS}
QUICK = {"clean": ["moons"], "noisy": ["flipped 30 %, 500 rows"], "numbers": []}

CLASSIFIERS = {
    "mean field": lambda seed: mf.MeanFieldClassifier(random_state=seed),
    "frequencies": lambda seed: DummyClassifier(strategy="prior"),
    "linear": lambda seed: LogisticRegression(),
    "MLP": lambda seed: MLPClassifier(random_state=seed),
    "trees": lambda seed: HistGradientBoostingClassifier(
        categorical_features="from_dtype", random_state=seed
    ),
}
REGRESSORS = {
    "mean field": lambda seed: mf.MeanFieldRegressor(random_state=seed),
    "frequencies": lambda seed: DummyRegressor(),
    "linear": lambda seed: LinearRegression(),
    "MLP": lambda seed: MLPRegressor(random_state=seed),
    "trees": lambda seed: HistGradientBoostingRegressor(
        categorical_features="from_dtype", random_state=seed
    ),
}


def estimator(name: str, numbers: bool, seed: int) -> Any:
    """An estimator with its defaults, preceded by the encoding that it needs."""
    model = (REGRESSORS if numbers else CLASSIFIERS)[name](seed)
    if name in ("mean field", "trees"):
        return model
    coding = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (
            OneHotEncoder(handle_unknown="ignore"),
            make_column_selector(dtype_exclude="number"),
        ),
        sparse_threshold=0,
    )
    return make_pipeline(coding, model)


def of_classes(model: Any, x: Any, y: np.ndarray) -> dict[str, float]:
    """Accuracy and log-loss on test rows."""
    probs = model.predict_proba(x).astype(np.float64)
    loss = log_loss(y, probs / probs.sum(1, keepdims=True), labels=model.classes_)
    return {"accuracy": float(model.score(x, y)), "loss": float(loss)}


def of_numbers(model: Any, train: Any, x: Any, y: np.ndarray) -> dict[str, float]:
    """Root mean squared error, NLL and coverage on test rows."""
    if isinstance(model, mf.MeanFieldRegressor):
        mean, std = model.predict(x, return_std=True)
    else:
        apart = cross_val_predict(model, *train)
        mean, std = model.predict(x), np.sqrt(np.mean((train[1] - apart) ** 2))
    errors = (y - mean) / std
    unit = train[1].std()
    nll = 0.5 * np.log(2 * np.pi * (std / unit) ** 2) + errors**2 / 2
    return {
        "rmse": float(np.sqrt(np.mean((y - mean) ** 2)) / unit),
        "loss": float(np.mean(nll)),
        "coverage": float(np.mean(np.abs(errors) < 1.96)),
    }


def split_row(table: Table, split: int) -> dict[str, float]:
    """Scores and seconds of every estimator on one split of one table."""
    numbers = table.y.dtype.kind == "f"
    cut = ShuffleSplit if numbers else StratifiedShuffleSplit
    cuts = cut(SPLITS, test_size=TEST_FRACTION, random_state=0)
    train, test = list(cuts.split(table.x, table.y))[split]
    parts = [(table.x.iloc[rows], table.y[rows]) for rows in (train, test)]
    row = {}
    if table.least is not None:
        shift = np.log(parts[0][1].std()) if numbers else 0.0
        row["least"] = float(table.least[test].mean() - shift)
    for name in REGRESSORS if numbers else CLASSIFIERS:
        model = estimator(name, numbers, split)
        began = time.perf_counter()
        model.fit(*parts[0])
        row[f"{name} seconds"] = time.perf_counter() - began
        found = (
            of_numbers(model, parts[0], *parts[1])
            if numbers
            else of_classes(model, *parts[1])
        )
        row |= {f"{name} {kind}": value for kind, value in found.items()}
    return row


def as_table(made: Any) -> Table:
    """A `Table` as it is, or made from the arrays (x, y) of scikit-learn."""
    if isinstance(made, Table):
        return made
    x, y = made
    frame = pd.DataFrame(x, columns=[f"x{n}" for n in range(x.shape[1])])
    return Table(frame, np.asarray(y))


def show(rows: pd.DataFrame) -> str:
    """Means over the splits, one line for each table; then the means over tables."""
    kinds = [
        kind
        for kind in ("accuracy", "rmse", "loss", "coverage")
        if any(column.endswith(f" {kind}") for column in rows)
    ]
    lines = []
    for kind in kinds:
        found = rows.filter(regex=f"(^least$| {kind}$)").groupby(rows.table, sort=False)
        means = found.mean()
        if kind != "loss":
            means = means.drop(columns="least", errors="ignore")
        means.columns = [column.removesuffix(f" {kind}") for column in means]
        means.loc["mean over tables"] = means.drop(
            columns="least", errors="ignore"
        ).mean()
        lines.append(f"{kind}\n{means.round(3).to_string()}\n")
    seconds = rows.filter(regex=" seconds$")
    seconds.columns = [column.removesuffix(" seconds") for column in seconds]
    first, later = seconds[rows.split == 0], seconds[rows.split > 0]
    lines.append(f"seconds, first split\n{first.mean().round(2).to_string()}")
    lines.append(f"\nseconds, later splits\n{later.mean().round(2).to_string()}\n")
    return "\n".join(lines)


def main() -> None:
    """Score the splits that have no result yet; print the results of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(TABLES), help="only these tables")
    parser.add_argument("--table", default="", help="only tables whose names begin so")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--quick", action="store_true", help="two tables, a minute")
    parser.add_argument("--out", type=Path, default=Path("runs/tabular"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for kind in [args.kind] if args.kind else TABLES:
        rows = []
        tables = QUICK[kind] if args.quick else TABLES[kind]
        tables = [table for table in tables if table.startswith(args.table)]
        for split in range(1 if args.quick else args.splits):
            for table in tables:
                path = args.out / kind / f"{table.replace(' ', '-')}-{split}.json"
                if not path.exists():
                    row = split_row(as_table(TABLES[kind][table]()), split)
                    write_text(path, json.dumps(row))
                row = json.loads(path.read_text())
                rows.append({"table": table, "split": split} | row)
                print(table, split, f"{row['mean field loss']:.3f}", flush=True)
        if rows:
            print(show(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
