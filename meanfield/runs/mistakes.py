"""Mistakes of a classifier: its confidence, confusions and hardest examples."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meanfield.data import Dataset

# A table of more classes than this would be too large to read.
MOST_CLASSES = 20
HARDEST = 10


def of_classes(
    probs: np.ndarray, dataset: Dataset
) -> tuple[Float[np.ndarray, "batch classes"], Int[np.ndarray, " batch"]]:
    """Class probabilities and labels of the test examples, also for binary targets."""
    labels = dataset.y_test
    if dataset.task == "binary":
        labels, p = labels.reshape(-1).astype(int), probs.reshape(-1)
        probs = np.stack([1 - p, p], 1)
    return probs, labels


def mistakes(probs: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    """Confidence, confusions and hardest examples of a classifier.

    Args:
        probs: predictive probabilities of the test examples.
        dataset: the data set, with labels and names of the classes.

    Returns:
        Mean confidence; `confusion`, the number of examples of each class (row) by
        predicted class (column), None for more than `MOST_CLASSES` classes; and
        `hardest`, the wrong predictions with the least probability of the right class,
        by index in the test data.
    """
    probs, labels = of_classes(probs, dataset)
    chosen = probs.argmax(1)
    names = dataset.class_names or tuple(map(str, range(probs.shape[1])))
    confusion = None
    if probs.shape[1] <= MOST_CLASSES:
        confusion = np.zeros((probs.shape[1],) * 2, int)
        np.add.at(confusion, (labels, chosen), 1)
        confusion = confusion.tolist()
    right = probs[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(chosen != labels)
    order = wrong[np.argsort(right[wrong], kind="stable")]
    hardest = [
        {
            "example": int(example),
            "class": str(names[int(labels[example])]),
            "predicted": str(names[int(chosen[example])]),
            "probability": float(right[example]),
        }
        for example in order[:HARDEST]
    ]
    return {
        "confidence": float(probs.max(1).mean()),
        "classes": [str(name) for name in names],
        "confusion": confusion,
        "hardest": hardest,
    }
