"""The columns of ``connections.csv`` that hold the credit of connections."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from meanfield.checks import require
from meanfield.credit.connection_shapley import ConnectionValues
from meanfield.files import atomic_path

ROWS = 250_000  # in memory at once
# Labelling also writes columns "value" and "rms", but no "value_error".
COLUMNS = ("value", "value_error", "rms")


def add_columns(path: Path, found: ConnectionValues) -> None:
    """Write values, errors and rms beside the connections of ``connections.csv``.

    Raises:
        ValueError: the rows of the file are not the connections of `found`.
    """
    parts = (found.values, found.standard_errors, found.rms)
    columns = [np.concatenate([a.ravel() for a in part.values()]) for part in parts]
    layers = np.repeat(list(found.values), [a.size for a in found.values.values()])
    start = 0
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        for table in pd.read_csv(path, chunksize=ROWS):
            rows = slice(start, start + len(table))
            require(
                np.array_equal(table["layer"], layers[rows]),
                f"{path} does not list the connections of this run. Make it again "
                f"with `meanfield label {path.parent}`.",
            )
            new = {n: c[rows] for n, c in zip(COLUMNS, columns, strict=True)}
            table.assign(**new).to_csv(file, index=False, header=start == 0)
            start += len(table)
    require(start == len(layers), f"{path} lacks connections of this run.")


def read_values(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """The values that `add_columns` wrote, by path name; None if there are none.

    Args:
        path: ``connections.csv``.
        shapes: shapes of the arrays of connections, in the order of the file.
    """
    if not set(COLUMNS) <= set(pd.read_csv(path, nrows=0)):
        return None
    flat = pd.read_csv(path, usecols=["value"])["value"].to_numpy()
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    require(
        len(flat) == int(ends[-1]),
        f"{path} must have a row for each of the {ends[-1]} connections of this run; "
        f"got {len(flat)}. Make it again with `meanfield label {path.parent}`.",
    )
    parts = np.split(flat, ends[:-1])
    return {
        name: part.reshape(shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
