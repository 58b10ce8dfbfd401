"""Score a run on its test data."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.data import Dataset
from meanfield.keys import key_of_seed
from meanfield.prediction.evaluate import Metrics, evaluate
from meanfield.prediction.predictive import average

from .baselines import baselines, explained
from .command_settings import ScoreSettings
from .folder import Run
from .mistakes import mistakes
from .pictures import draw_predictions, draw_reliability
from .stages import stage
from .tasks import target_names


def score(
    run: Run,
    dataset: Dataset,
    *,
    num_samples: int = ScoreSettings.num_samples,
    seed: int = ScoreSettings.seed,
) -> Metrics:
    """Score a run on its test set, in the units of the data; updates its metrics.

    Also plots the calibration (classes, binary targets) or the predictions (others).
    """
    stage(f"scoring {len(dataset.x_test):,} test examples")
    key = jax.random.fold_in(key_of_seed(seed), 2)
    likelihood = run.standardization.likelihood(run.likelihood)
    x, y = jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test)
    settings = {"num_samples": num_samples, "key": key}
    metrics = evaluate(run.ensemble, (x, y), likelihood=likelihood, **settings)
    found = metrics.to_dict() | {"ece": metrics.ece, "num_examples": len(x)}
    stage("scoring a base rate and a linear model")
    found["baselines"] = baselines(dataset)
    if metrics.rmse is not None and dataset.num_targets == 1:
        everybody: list[dict[str, Any]] = [found, *found["baselines"].values()]
        for scores in everybody:
            scores["r2"] = explained(scores["rmse"], dataset.y_test)
    if metrics.by_output is not None:
        each = zip(target_names(dataset), metrics.by_output, strict=True)
        found["by_target"] = [{"target": name, **scores} for name, scores in each]
        for column, scores in zip(dataset.y_test.T, found["by_target"], strict=True):
            if "rmse" in scores:
                scores["r2"] = explained(scores["rmse"], column)
        found.pop("by_output")
    # The same call as in `evaluate`, so that its compiled program is used again.
    means = average(run.ensemble, likelihood, x, y, **settings)
    found["standard_errors"] = standard_errors(found, means, dataset.y_test)
    run.update_metrics(found)
    stage("plotting")
    if dataset.task in ("classification", "binary"):
        run.update_metrics(mistakes(means["mean"], dataset))
        draw_reliability(run, means["mean"], dataset)
    else:
        draw_predictions(run, means, dataset)
    return metrics


def standard_errors(
    scores: Mapping[str, Any], means: Mapping[str, np.ndarray], y: np.ndarray
) -> dict[str, float]:
    """Standard errors of scores, over the choice of test examples.

    The error of a mean over n examples is the standard deviation of its terms divided
    by √n; that of an RMSE is the standard error of the mean square divided by 2 RMSE.

    Args:
        scores: scores on the test data.
        means: means of the predictive distribution, and `log_prob` of the targets.
        y: the targets.
    """
    count = len(y)
    found = {"nll": float(np.std(means["log_prob"]) / math.sqrt(count))}
    accuracy, rmse = scores.get("accuracy"), scores.get("rmse")
    if accuracy is not None:
        found["accuracy"] = math.sqrt(accuracy * (1 - accuracy) / count)
    if rmse:
        square = np.square(means["mean"] - y.reshape(means["mean"].shape))
        error = square.reshape(count, -1).mean(1).std() / math.sqrt(count)
        found["rmse"] = float(error / (2 * rmse))
    return found
