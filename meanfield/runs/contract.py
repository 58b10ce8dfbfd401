"""The input contract of shipped files: their inputs, the scaling, an example.

A shipped file is used without meanfield. So the card, and the file itself if its format
has metadata, describe the numbers that it takes and their order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from meanfield.data import Dataset, TableSchema
from meanfield.data.cells import truth_values
from meanfield.data.text import MISSING
from meanfield.deploy.formats.raw_inputs import raw_example

from .predictions import schema_of


def input_contract(config: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Description of the inputs of a run's files, with an example.

    Args:
        config: configuration of the run.
        dataset: its data, whose first test example is described.

    Returns:
        For a table: name, kind, positions among the features and encoding of every
        column. For arrays: shape, range and divisor. `example` is a raw input and its
        features.
    """
    schema, first = schema_of(config), np.asarray(dataset.x_test[0])
    if schema is None:
        divisor = float(config["data"].get("divisor", 1.0))
        found: dict[str, Any] = {
            "kind": "image" if dataset.image_shape else "array",
            "shape": list(dataset.image_shape or (dataset.num_features,)),
            "divide_by": divisor,
        }
        if divisor != 1:
            signed = bool(np.min(dataset.x_train) < 0)
            found["raw_range"] = [-divisor if signed else 0, divisor]
    else:
        found = {"kind": "table", "columns": _columns(schema)}
    found["feature_shape"] = list(first.shape)
    if schema is not None:
        found["features"] = list(schema.feature_names)
    features = [float(value) for value in first.reshape(-1)]
    example = {"raw": raw_example(found, first), "features": features}
    return found | {"example": example}


def _columns(schema: TableSchema) -> list[dict[str, Any]]:
    """Every column with its features: one for a number, one for each category.

    A number has a second one, which marks missing values, if some were in training.
    """
    found, start = [], 0
    for column in schema.columns:
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
        count = len(column.feature_names)
        entry["features"] = [start, start + count]
        start += count
        if column.kind == "category":
            entry["one_hot"] = [text or None for text in column.categories]
            if "" in column.categories:
                entry["read_as_missing"] = list(MISSING)
            if truth_values(column.categories):
                entry["any_case"] = True
        else:
            entry |= {"subtract": column.mean, "divide_by": column.std}
            if column.fill is not None:
                entry |= {"missing_becomes": column.fill, "then_1_if_missing": True}
        found.append(entry)
    return found
