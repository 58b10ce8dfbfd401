"""Load any data set: by a name from the list, or from the path of a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meanfield.checks import require

from .arrays import arrays
from .dataset import Dataset
from .images import digits, fashion_mnist, mnist
from .table import table

TABLES = (".csv", ".tsv", ".txt", ".data")
NAMES = ("digits", "mnist", "fashion_mnist")


def load(
    name_or_path: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    **reading: Any,
) -> Dataset:
    """Load a data set by its name, from a table or from an `.npz` file.

    Args:
        name_or_path: `digits`, `mnist`, `fashion_mnist`, or the path of a file; `.csv`,
            `.tsv`, `.txt` and `.data` are tables.
        data_dir: folder of the named data sets; None means $MEANFIELD_DATA or, if that
            is not set, a download.
        target: heading of the column to predict, or several (tables only; see `table`).
        task: "classification", "regression", "counts" or "binary" for a file; None
            guesses it from the target.
        test_fraction: share of a file's rows kept for testing. Named data sets, and
            `.npz` files with a test set, keep their own split.
        seed: seed of this split.
        **reading: how a table is read: `drop`, `features`, `sep`, `decimal`, `header`
            and `missing`, see `table`.

    Returns:
        A `Dataset`: float32 features, int32 labels or float32 targets.

    Raises:
        ValueError: an unknown name, or data that cannot be used; see the loaders.
        FileNotFoundError: there is no such file, or a named data set is neither on
            disk nor can be downloaded.

    Example:
        >>> import meanfield.data
        >>> meanfield.data.load("digits").task
        'classification'
    """
    name, suffix = str(name_or_path), Path(name_or_path).suffix.lower()
    is_table = suffix in TABLES
    require(
        target is None or is_table,
        "`target` must be left out unless the data are a CSV table; got "
        f"{target!r} with {name!r}, which has its own labels.",
    )
    given = {key: value for key, value in reading.items() if value is not None}
    if not is_table:
        given.pop("missing", None)
        require(
            not given,
            f"`{next(iter(given), '')}` says how a table is read, but {name!r} is not "
            "a table. Leave it out.",
        )
    if name in NAMES:
        require(
            task in (None, "classification"),
            f"`task` of `{name}` must be classification; got {task!r}. Leave it out, "
            "and use the categorical likelihood.",
        )
        if name == "digits":
            return digits()
        return (mnist if name == "mnist" else fashion_mnist)(data_dir=data_dir)
    split = {"task": task, "test_fraction": test_fraction, "seed": seed}
    if is_table:
        return table(name_or_path, target=target, **split, **given)
    if suffix == ".npz":
        return arrays(name_or_path, **split)
    raise ValueError(
        f"`name_or_path` must be one of {', '.join(NAMES)}, or the path of a table "
        f"({', '.join(TABLES)}) or an .npz file; got {name!r}."
    )
