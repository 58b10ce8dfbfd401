"""Baselines to compare a run with: the base rate and a linear model.

Both are trained on the same training examples and scored on the same test examples, in
the units of the data, by the same definitions as the ensemble.
"""

import math
from typing import Any

import numpy as np
from scipy.special import gammaln
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

from meanfield.data import Dataset

BASE_RATE, LINEAR = "base rate", "linear model"
# Largest number of entries in the training inputs for which a linear model is fitted;
# the fit then takes seconds.
LARGEST = 5_000_000
SMALLEST_PROB = 1e-12


def baselines(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Scores of the base rate and, unless the data are large, of a linear model.

    Whatever the inputs, the base rate predicts the training frequencies of the classes,
    the mean rate of counts, or the mean and standard deviation of real targets. The
    linear model is a logistic, Poisson or ridge regression. Half the squared norm of
    its weights is added to the summed NLL (of classes and counts) or to half the sum of
    squares. (By default scikit-learn adds it to the mean NLL of counts, a penalty that
    grows with the number of examples.) The standard deviation for real targets is that
    of the training residuals.

    Args:
        dataset: the data set of the run.

    Returns:
        For each, accuracy or RMSE, and the mean NLL in nats per example (summed over
        several targets).
    """
    found = {BASE_RATE: _scores(dataset, linear=False)}
    if dataset.x_train.size <= LARGEST:
        found[LINEAR] = _scores(dataset, linear=True)
    return found


def explained(rmse: float, y: np.ndarray) -> float | None:
    """R² = 1 − RMSE² / Var[y]; None if the targets do not vary."""
    variance = float(np.var(y, dtype=np.float64))
    return None if variance == 0 else 1 - rmse**2 / variance


def _scores(dataset: Dataset, *, linear: bool) -> dict[str, float]:
    x, x_test = (
        part.reshape(len(part), -1) for part in (dataset.x_train, dataset.x_test)
    )
    if not linear:
        x, x_test = np.zeros((len(x), 1)), np.zeros((len(x_test), 1))
    if dataset.task == "classification":
        probs = _class_probs(x, dataset.y_train, x_test, dataset.num_classes or 0)
        return _of_classes(probs, dataset.y_test)
    y, y_test = (
        part.astype(np.float64).reshape(len(part), -1)
        for part in (dataset.y_train, dataset.y_test)
    )
    score = {"binary": _answers, "counts": _counts}.get(dataset.task, _numbers)
    parts = [score(x, y[:, n], x_test, y_test[:, n]) for n in range(y.shape[1])]
    errors = np.asarray([error for error, _ in parts])
    nll = float(sum(nll for _, nll in parts))
    if dataset.task == "binary":
        return {"accuracy": float(1 - errors.mean()), "nll": nll}
    return {"rmse": float(np.sqrt(errors.mean())), "nll": nll}


def _class_probs(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, num_classes: int
) -> np.ndarray:
    """Probabilities of all classes, by the training frequencies or a regression."""
    present, counts = np.unique(y, return_counts=True)
    probs = np.zeros((len(x_test), num_classes))
    if not x.any() or len(present) == 1:
        probs[:, present] = counts / len(y)
        return probs
    model: Any = LogisticRegression(max_iter=500).fit(x, y)
    probs[:, present] = model.predict_proba(x_test)
    return probs


def _of_classes(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    own = probs[np.arange(len(labels)), labels]
    return {
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "nll": float(-np.log(np.maximum(own, SMALLEST_PROB)).mean()),
    }


def _answers(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[float, float]:
    probs = _class_probs(x, y.astype(int), x_test, 2)
    scores = _of_classes(probs, y_test.astype(int))
    return 1 - scores["accuracy"], scores["nll"]


def _counts(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[float, float]:
    rate = np.full(len(y_test), max(float(y.mean()), 1 / len(y)))
    if x.any():
        model: Any = PoissonRegressor(alpha=1 / len(y), max_iter=500).fit(x, y)
        rate = np.maximum(model.predict(x_test), SMALLEST_PROB)
    nll = rate - y_test * np.log(rate) + gammaln(y_test + 1)
    return float(np.square(rate - y_test).mean()), float(nll.mean())


def _numbers(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[float, float]:
    model: Any = Ridge().fit(x, y)
    spread = float(np.std(y - model.predict(x))) or float(np.std(y)) or 1.0
    error = float(np.square(model.predict(x_test) - y_test).mean())
    nll = math.log(spread) + 0.5 * math.log(2 * math.pi) + 0.5 * error / spread**2
    return error, nll
