"""A part of the training data that tells when to stop, where overfitting threatens.

A table of one's own is often small and noisy, and a network that goes through it very
often learns its rows by heart (`experiments/early_stopping.py`). There part of them is
held out by default, and the epoch with the best score on it is kept. The selective rule
holds out a part of its own.
"""

from typing import Any

import numpy as np

from meanfield.data import Dataset
from meanfield.data.dataset import split_rows

from .settings import TrainSettings

# Part of the training rows that is held out, and the fewest rows of which it is.
PART, FEWEST = 0.1, 200
# Epochs without a better score after which a training on a table stops, if it has more
# epochs than this. With the 60 epochs of small data nothing ever stopped on the tables
# of UCI, and the rows held out were missed.
PATIENCE, MANY = 20, 100


def patience_of(settings: TrainSettings, dataset: Dataset) -> int | None:
    """Epochs without a better score to wait for; None for a training to the end.

    Args:
        settings: of the run; its `patience` holds if there is one, and 0 means never.
        dataset: what is learned from.
    """
    if settings.patience is not None:
        return settings.patience or None
    many = (settings.epochs or 0) > MANY and len(dataset.x_train) >= FEWEST
    threatens = dataset.schema is not None and many
    return PATIENCE if threatens and settings.learning_rule != "selective" else None


def hold_out(
    dataset: Dataset, data: tuple[Any, Any], seed: int
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training data without the part held out, and that part; stratified by class.

    Args:
        dataset: what is learned from.
        data: its training examples, with targets as the network learns them.
        seed: of the split.
    """
    x, y = map(np.asarray, data)
    labels = y if dataset.class_names is not None else None
    rows, held = split_rows(len(x), test_fraction=PART, seed=seed, labels=labels)
    return (x[rows], y[rows]), (x[held], y[held])
