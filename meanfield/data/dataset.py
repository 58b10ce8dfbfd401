"""What every loader returns: plain arrays, checked once, with their provenance."""

import dataclasses
import functools
import hashlib
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from meanfield.checks import first_bad, require

from .schema import TableSchema

Task = Literal["classification", "regression", "counts", "binary"]
TASKS = get_args(Task)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples for training and for testing, as read-only NumPy arrays.

    Args:
        name: what the data set is called.
        task: "classification", with one class for each example; or "regression",
            "counts" (0, 1, 2, …) or "binary" (0 or 1), with one number for each
            example or several.
        x_train: features, one flat row per example; see `as_images`.
        y_train: labels 0 … C − 1 (int32); or targets in their own units (float32), of
            shape (examples,), or (examples, targets) if an example has several.
        x_test: features of the test examples.
        y_test: labels or targets of the test examples.
        feature_names: one name for each feature, or None if they have none.
        class_names: names of the classes with labels 0, 1, …; None if targets are
            numbers.
        image_shape: the shape of one example before it was made flat, or None.
        schema: for a table, how its columns became features; else None.
        provenance: description of where the data come from.
        target_names: one name for each target, or None if they have none.
        divisor: number by which the inputs were divided.
        notes: messages to the user on what was guessed or left out in reading.

    Raises:
        ValueError: rows do not match, a split is empty, a number is NaN or infinite
            (the row and the column are named), or a label or target is out of range.

    Example:
        >>> import meanfield.data
        >>> digits = meanfield.data.load("digits")
        >>> digits.x_train.shape, digits.num_classes
        ((1438, 64), 10)
    """

    name: str
    task: Task
    x_train: Float32[np.ndarray, "train ..."]
    y_train: Int32[np.ndarray, " train"] | Float32[np.ndarray, "train ..."]
    x_test: Float32[np.ndarray, "test ..."]
    y_test: Int32[np.ndarray, " test"] | Float32[np.ndarray, "test ..."]
    feature_names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    schema: TableSchema | None = None
    provenance: str = ""
    target_names: tuple[str, ...] | None = None
    divisor: float = 1.0
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        require(
            (self.task == "classification") == (self.class_names is not None),
            "`class_names` must be given for a classification and for no other task; "
            f"got task {self.task!r} with class_names {self.class_names!r}.",
        )
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            require(
                len(x) > 0,
                f"`{self.name}` must have at least one example to {split} with; got "
                "none. Give more rows, or another `test_fraction`.",
            )
            require(x.size > 0, f"`{self.name}` must have at least one feature; got 0.")
            require_finite(f"x_{split}", _columns(x), self.feature_names)
            if self.class_names is None:
                require_finite(f"y_{split}", _columns(y), self.target_names)
                require_task(f"y_{split}", y, self.task, self.target_names)
            else:
                _require_labels(f"y_{split}", y, len(self.class_names))
            x.setflags(write=False)
            y.setflags(write=False)

    @property
    def num_features(self) -> int:
        """Number of features of one example."""
        return _columns(self.x_train).shape[1]

    def as_images(self) -> "Dataset":
        """The same data set with examples of shape `image_shape`, if it has one."""
        if self.image_shape is None:
            return self
        train, test = (
            x.reshape(len(x), *self.image_shape) for x in (self.x_train, self.x_test)
        )
        return dataclasses.replace(self, x_train=train, x_test=test)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None if targets are numbers."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def num_targets(self) -> int:
        """Numbers in one target; 1 for a class."""
        return _columns(self.y_train).shape[1]

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of every array with its name, type and shape: the data's identity."""
        digest = hashlib.sha256()
        for name in ("x_train", "y_train", "x_test", "y_test"):
            array = np.ascontiguousarray(getattr(self, name))
            if name[0] == "x":  # Images are the same data as their flat rows.
                array = _columns(array)
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(array.data)
        return digest.hexdigest()


def require_finite(
    name: str, values: Shaped[np.ndarray, "rows columns"], columns: Any
) -> None:
    """Raise unless all values are finite; the message names the first that is not."""
    finite = np.isfinite(values)
    if not finite.all():
        row, column = first_bad(~finite)
        where = f"column {column}" if columns is None else f"column {columns[column]!r}"
        raise ValueError(
            f"`{name}` must be finite numbers in float32; got {values[row, column]} "
            f"in row {row}, {where} (counted from 0). Remove or fill in such entries."
        )


def require_task(
    name: str, values: Shaped[np.ndarray, "rows ..."], task: str, columns: Any
) -> None:
    """Raise unless targets fit their task; the message names the first misfit."""
    values = _columns(values)
    if task == "counts":
        good, needed = (values >= 0) & (values % 1 == 0), "counts 0, 1, 2, …"
        advice = "or choose another likelihood: Poisson allows no such targets"
    elif task == "binary":
        good, needed = (values == 0) | (values == 1), "answers 0 or 1"
        advice = "or choose another likelihood: Bernoulli allows no such answers"
    else:
        return
    if not good.all():
        row, column = first_bad(~good)
        where = f"column {column}" if columns is None else f"column {columns[column]!r}"
        number = _as_written(values[row, column])
        raise ValueError(
            f"`{name}` must be {needed} for task {task!r}; got {number} "
            f"in row {row}, {where} (counted from 0). Correct the row, {advice}."
        )


def _as_written(number: Any) -> str:
    """The shortest decimal that is this number, without an exponent."""
    return np.format_float_positional(number, trim="-")


def guess_task(
    name: str, values: Shaped[np.ndarray, "rows targets"]
) -> Literal["regression", "binary"]:
    """The task of data with several targets: "binary" if all are 0 or 1.

    Raises:
        ValueError: the targets look like classes written as one-hot rows.
    """
    if not bool(((values == 0) | (values == 1)).all()):
        return "regression"
    require(
        not bool((values.sum(1) == 1).all()),
        f"`{name}` holds exactly one 1 in each of its {len(values)} rows: classes, "
        "written as one-hot rows. Give one column of classes, y.argmax(1); or, if they "
        'are independent answers, task "binary" (a Bernoulli likelihood).',
    )
    return "binary"


def require_known_task(task: Any) -> None:
    """Raise unless `task` is one of the tasks, or None."""
    require(
        task is None or task in TASKS,
        f"`task` must be one of {', '.join(TASKS)}, or None; got {task!r}.",
    )


def _columns(values: np.ndarray) -> np.ndarray:
    """The values as a matrix: all axes after the first become columns."""
    return values.reshape(len(values), -1)


def split_rows(
    count: int,
    *,
    test_fraction: float,
    seed: int,
    labels: Shaped[np.ndarray, " rows"] | None = None,
) -> tuple[Shaped[np.ndarray, " train"], Shaped[np.ndarray, " test"]]:
    """Row numbers to train and to test with: shuffled, and stratified by label.

    Every class gives its share to the test set, rounded so that the shares add up to
    round(test_fraction · count); at least one of its rows remains for training.

    Args:
        count: number of rows.
        test_fraction: share of the rows that is kept for testing, inside (0, 1).
        seed: seed of the shuffle (NumPy's default generator).
        labels: the class of each row, or None for no stratification.

    Returns:
        Two sorted arrays of row numbers.

    Raises:
        ValueError: `test_fraction` is not inside (0, 1), or leaves no row to test with.
    """
    require(
        0 < test_fraction < 1,
        f"`test_fraction` must lie inside (0, 1); got {test_fraction}.",
    )
    order = np.random.default_rng(seed).permutation(count)
    groups = np.zeros(count, int) if labels is None else labels
    names, counts = np.unique(groups, return_counts=True)
    ends = np.round(test_fraction * np.cumsum(counts)).astype(int)
    sizes = np.minimum(np.diff(ends, prepend=0), counts - 1)
    parts = [
        order[groups[order] == name][:size]
        for name, size in zip(names, sizes, strict=True)
    ]
    test_rows = np.sort(np.concatenate([np.zeros(0, int), *parts]))
    require(
        0 < len(test_rows) < count,
        f"`test_fraction` = {test_fraction} of {count} rows leaves no example to test "
        "with. Give more rows or a larger fraction.",
    )
    return np.setdiff1d(np.arange(count), test_rows), test_rows


def _require_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    good = (labels >= 0) & (labels < num_classes)
    if not good.all():
        (row,) = first_bad(~good)
        raise ValueError(
            f"`{name}` must be labels from 0 to {num_classes - 1}; got {labels[row]} "
            f"in row {row}."
        )
