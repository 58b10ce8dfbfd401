"""Recover raw inputs from features, by the input contract of a card.

The features of a table are standardised numbers and one-hot categories; the features of
an image are its pixels divided by one number. This module inverts both, and gives the
arrays that a file with raw inputs (`onnx_raw`) takes:

| column             | array (batch, 1)                | missing     |
|--------------------|---------------------------------|-------------|
| numbers            | float64, in the table's units   | NaN         |
| categories         | texts                           | empty text  |

An image or another array is one float32 array named `INPUT`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

INPUT = "input"


def raw_feed(
    contract: Mapping[str, Any], features: np.ndarray
) -> dict[str, np.ndarray]:
    """Raw inputs, by name, that have the given features.

    Args:
        contract: the part `input` of a card's source.
        features: a batch, as the bare network takes it.

    Returns:
        An array for every input of the file, whose first axis is the batch.
    """
    features = np.asarray(features)
    if contract["kind"] != "table":
        shape = len(features), *contract["shape"]
        raw = features.reshape(shape) * np.float32(contract["divide_by"])
        return {INPUT: raw.astype(np.float32)}
    feed = {}
    for column in contract["columns"]:
        part = features[:, slice(*column["features"])]
        raw = _texts(column, part) if "one_hot" in column else _numbers(column, part)
        feed[column["name"]] = raw[:, None]
    return feed


def raw_example(contract: Mapping[str, Any], features: np.ndarray) -> Any:
    """One raw input for JSON, with columns rounded to 1e-5 of their deviation.

    Args:
        contract: as for `raw_feed`.
        features: features of one example.

    Returns:
        For a table, the cell of each column (None if it is missing); else the numbers
        in nested lists.
    """
    feed = raw_feed(contract, np.asarray(features)[None])
    if contract["kind"] != "table":
        return feed[INPUT][0].astype(np.float64).round(4).tolist()
    columns = contract["columns"]
    return {one["name"]: _cell(one, feed[one["name"]][0, 0]) for one in columns}


def _cell(column: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, str):
        return value or None
    digits = 5 - math.floor(math.log10(column["divide_by"]))
    return None if np.isnan(value) else round(float(value), digits)


def _texts(column: Mapping[str, Any], part: np.ndarray) -> np.ndarray:
    texts = np.asarray([text or "" for text in column["one_hot"]], object)
    return texts[part.argmax(1)]


def _numbers(column: Mapping[str, Any], part: np.ndarray) -> np.ndarray:
    values = part[:, 0].astype(np.float64) * column["divide_by"] + column["subtract"]
    missing = part[:, 1] == 1 if "missing_becomes" in column else False
    return np.where(missing, np.nan, values)
