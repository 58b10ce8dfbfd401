"""Describe the automatic choices of a run, and the options that change them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meanfield.data import Dataset

# Largest number of names of classes and targets that are listed.
SHOWN = 6


def decided(dataset: Dataset, config: Mapping[str, Any]) -> list[str]:
    """Lines that describe how the data were interpreted.

    Args:
        dataset: the data set of the run.
        config: the configuration of the run.
    """
    source = Path(config["data"]["source"]).name
    rows = f"{len(dataset.x_train):,} to train and {len(dataset.x_test):,} to test with"
    lines = [f"{source}: {rows}; {_inputs(dataset)}", _outputs(dataset, config)]
    patience = config["training"].get("patience")
    if patience:
        lines.append(
            "a tenth of the training rows is held out: the epoch with the best score "
            f"on them is kept, and training ends {patience} epochs later (--patience)"
        )
    return lines + [f"note: {note}" for note in dataset.notes]


def _inputs(dataset: Dataset) -> str:
    if dataset.schema is not None:
        columns = dataset.schema.columns
        texts = sum(column.kind == "category" for column in columns)
        parts = [f"{len(columns) - texts} columns of numbers, standardised"]
        parts += [f"{texts} of categories"] if texts else []
        features = f"{dataset.num_features} features"
        return f"{' and '.join(parts)}: {features} (--drop, --features)"
    shape = dataset.image_shape or (dataset.num_features,)
    size = " × ".join(map(str, shape))
    divided = "" if dataset.divisor == 1 else f", divided by {dataset.divisor:g}"
    return f"inputs of {size}{divided}"


def _outputs(dataset: Dataset, config: Mapping[str, Any]) -> str:
    task, likelihood = dataset.task, config["model"]["likelihood"].replace("_", " ")
    names = dataset.target_names
    target = "" if names is None else f" of {_listed(names)}"
    if dataset.class_names is not None:
        classes = f"{dataset.num_classes} classes ({_listed(dataset.class_names)})"
        return f"{task}{target} into {classes}, {likelihood} likelihood (--task)"
    text = f"{task}{target}, {likelihood} likelihood"
    shift, scale = (config["data"].get(f"target_{n}") for n in ("shift", "scale"))
    if shift is not None and len(shift) == 1:
        text += f", standardised (mean {shift[0]:.4g}, deviation {scale[0]:.4g})"
    elif shift is not None:
        text += ", each standardised"
    return text + " (--task, --likelihood)"


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= SHOWN:
        return ", ".join(names)
    return ", ".join(names[: SHOWN - 1]) + f", … {names[-1]}"
