"""Hold out a part of the training data for early stopping, if overfitting is likely.

A user's table is often small and noisy, and a network that is trained on it for many
epochs memorises its rows (`experiments/early_stopping.py`). So for a table and many
epochs, a part of the rows is held out by default, and the epoch with the best score on
it is kept. The selective rule holds out its own part instead.
"""

from typing import Any

import numpy as np

from meanfield.data import Dataset
from meanfield.data.dataset import split_rows

from .settings import TrainSettings

# Fraction of the training rows that is held out, and the fewest rows for which this is
# done.
PART, FEWEST = 0.1, 200
# Epochs without a better score after which training on a table stops, and the number of
# epochs above which this is done. With the 60 epochs of small data, no training on UCI
# tables ever stopped early, and holding out rows made scores worse.
PATIENCE, MANY = 20, 100


def patience_of(settings: TrainSettings, dataset: Dataset) -> int | None:
    """Patience in epochs; None to train without early stopping.

    Args:
        settings: settings of the run. If they have a `patience`, it is used; 0 means
            None.
        dataset: the data to learn from.
    """
    if settings.patience is not None:
        return settings.patience or None
    many = (settings.epochs or 0) > MANY and len(dataset.x_train) >= FEWEST
    threatens = dataset.schema is not None and many
    return PATIENCE if threatens and settings.learning_rule != "selective" else None


def hold_out(
    dataset: Dataset, data: tuple[Any, Any], seed: int
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training data without the held-out part, and this part; stratified by class.

    Args:
        dataset: the data to learn from.
        data: its training examples, with targets as the network learns them.
        seed: seed of the split.
    """
    x, y = map(np.asarray, data)
    labels = y if dataset.class_names is not None else None
    rows, held = split_rows(len(x), test_fraction=PART, seed=seed, labels=labels)
    return (x[rows], y[rows]), (x[held], y[held])
