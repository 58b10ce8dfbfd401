"""Arrays in an `.npz` file: `x` and `y`, and optionally `x_test` and `y_test`."""

import os
import zipfile
from pathlib import Path

import numpy as np

from meanfield.checks import require
from meanfield.tensors import check_npz

from .dataset import (
    Dataset,
    guess_task,
    require_finite,
    require_known_task,
    require_task,
    split_rows,
)
from .image_range import divisor_of, notes

# Labels with more distinct values than this are refused.
MAX_CLASSES = 1000
# Real numbers with more distinct values than this are measurements, not classes.
MAX_NUMBERED_CLASSES = 20


def arrays(
    path: str | os.PathLike,
    *,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Read `x`, `y` and, if given, `x_test`, `y_test` from an `.npz` file.

    `x_train` and `y_train` may stand in place of `x` and `y`. Features are used as they
    are, except bytes (uint8) and images, which are divided by one number, chosen by
    their range (see `image_range`). All axes after the first are flattened. If `y` has
    one entry per example, it holds labels when these are whole numbers, booleans or
    texts (the classes are the sorted distinct values). If it has several entries per
    example, these are binary answers when all are 0 or 1, as whole numbers or booleans.
    Everything else is a target of a regression.

    Args:
        path: path of the file. Pickled objects are never loaded.
        task: "classification", "regression", "counts" (0, 1, 2, …) or "binary" (0 or
            1); None for the rule above.
        test_fraction: share of the rows kept for testing if the file has no test set.
        seed: seed of this split.

    Returns:
        A `Dataset`: training and test arrays, names of classes, and how it was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an npz file, holds Python objects, lacks `x` or `y`,
            or holds numbers that cannot be used or do not fit the task.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from meanfield.data import arrays
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.npz"
        >>> np.savez(path, x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
        >>> arrays(path).class_names
        ('0', '1')
    """
    require_known_task(task)
    held = _read(Path(path))
    x, y = _pair(held, path, ("x", "y") if "x" in held else ("x_train", "y_train"))
    image_shape = x.shape[1:] if x.ndim > 2 else None
    divisor = divisor_of(held, path)
    x, class_names = _flat("x", x, divisor), _class_names(y, path, task)
    # Check before the split, so that an error names the row of the file.
    require_finite("x", x, None)
    labels = _encode(y, class_names, "y")
    if class_names is not None:
        task = "classification"
    else:
        require_finite("y", labels.reshape(len(labels), -1), None)
        if task is None:
            whole = y.dtype.kind in "iub"  # here several whole numbers per example
            task = guess_task("y", labels) if whole else "regression"
        require_task("y", labels, task, None)
    if "x_test" in held or "y_test" in held:
        x_test, y_test = _pair(held, path, ("x_test", "y_test"))
        x_train, y_train, x_test = x, labels, _flat("x_test", x_test, divisor)
        y_test = _encode(y_test, class_names, "y_test")
        require(
            x_test.shape[1:] == x.shape[1:] and y_test.shape[1:] == labels.shape[1:],
            f"`x_test` and `y_test` of {path} must have the shapes of `x` and `y` "
            f"after the first axis, {x.shape[1:]} and {labels.shape[1:]}; got "
            f"{x_test.shape[1:]} and {y_test.shape[1:]}.",
        )
    else:
        train, test = split_rows(
            len(x),
            test_fraction=test_fraction,
            seed=seed,
            labels=None if class_names is None else labels,
        )
        x_train, y_train, x_test, y_test = (
            x[train],
            labels[train],
            x[test],
            labels[test],
        )
    return Dataset(
        name=Path(path).stem,
        task=task,  # type: ignore[arg-type]
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=class_names,
        image_shape=image_shape,
        provenance=f"arrays of {Path(path).name}"
        + (f", inputs divided by {divisor:g}" if divisor != 1 else ""),
        divisor=divisor,
        notes=notes(held, divisor, x_train),
    )


def read_inputs(path: str | os.PathLike) -> np.ndarray:
    """The array `x` of an `.npz` file, or `x_test` if there is no `x`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an npz file of plain arrays, or has neither array.
    """
    held = _read(Path(path))
    require(
        "x" in held or "x_test" in held,
        f"{path} must hold an array `x`; it holds {sorted(held)}.",
    )
    return held["x"] if "x" in held else held["x_test"]


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist.")
    require(
        zipfile.is_zipfile(path),
        f"{path} must be an npz file, as np.savez writes it; it is not a zip archive, "
        "or is truncated. Write it again.",
    )
    try:
        check_npz(path)
        # Opened here, so that the file is closed even if NumPy raises an error.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (
        ValueError,
        zipfile.BadZipFile,
        EOFError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path} must be an npz file of plain arrays, as np.savez writes it, "
            f"without Python objects: {error}."
        ) from error


def _pair(
    held: dict[str, np.ndarray], path: str | os.PathLike, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    for name in names:
        require(
            name in held,
            f"{path} must hold an array `{name}`; it holds {sorted(held)}.",
        )
    x, y = held[names[0]], held[names[1]]
    require(
        x.ndim >= 2 and x.dtype.kind in "fiub",
        f"`{names[0]}` of {path} must be real numbers of shape (examples, features, "
        f"…); got {x.dtype} of shape {x.shape}.",
    )
    require(
        y.ndim >= 1 and len(y) == len(x),
        f"`{names[1]}` of {path} must hold one entry for each of the {len(x)} examples "
        f"of `{names[0]}`; got shape {y.shape}.",
    )
    require(len(x) > 0, f"`{names[0]}` of {path} is empty: it must hold examples.")
    return x, y


def _flat(name: str, x: np.ndarray, divisor: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite numbers are refused later
        flat = x.reshape(len(x), -1).astype(np.float32)
    require(
        not (x.dtype.kind == "f" and x.any() and not flat.any()),
        f"`{name}` holds numbers too small for float32, the largest "
        f"{np.abs(x).max() if x.size else 0:g}. Scale them first.",
    )
    return flat / np.float32(divisor)


def _class_names(
    y: np.ndarray, path: str | os.PathLike, task: str | None
) -> tuple[str, ...] | None:
    if task not in (None, "classification"):
        return None
    several = y.size > len(y) and y.dtype.kind in "iub"
    if task is None and (y.dtype.kind == "f" or several):
        return None
    require(
        y.ndim == 1 and (y.dtype.kind in "iubUS" or task == "classification"),
        f"`y` of {path} must be one label (a whole number, a boolean or a text) for "
        f"each example of a classification; got {y.dtype} of shape {y.shape}. Numbers "
        "to predict need another task: regression, counts or binary.",
    )
    if y.dtype.kind == "f" and len(np.unique(y)) > MAX_NUMBERED_CLASSES:
        bad = y != np.round(y)
        require(
            not bad.any(),
            f"`y` of {path} must be classes for a classification (a categorical "
            f"likelihood); got real numbers, the first {y[bad.argmax()]} in row "
            f"{bad.argmax()}. Choose another likelihood, such as gaussian.",
        )
    require(
        y.dtype.kind != "f" or bool(np.isfinite(y).all()),
        f"`y` of {path} must be finite; got NaN or infinity among the labels.",
    )
    names = _texts(np.unique(y))
    require(
        2 <= len(names) <= MAX_CLASSES,
        f"`y` of {path} must have between 2 and {MAX_CLASSES} classes; got "
        f"{len(names)}. "
        'For a target of whole numbers pass `task="regression"`.',
    )
    return tuple(names)


def _encode(
    y: np.ndarray, class_names: tuple[str, ...] | None, name: str
) -> np.ndarray:
    if class_names is None:
        require(
            y.dtype.kind in "fiub",
            f"`{name}` must be real numbers unless it holds classes; got {y.dtype}.",
        )
        y = y if y.ndim == 1 else y.reshape(len(y), -1)
        with np.errstate(over="ignore"):
            return y.astype(np.float32)
    require(
        y.ndim == 1, f"`{name}` must be one label per example; got shape {y.shape}."
    )
    codes = {text: code for code, text in enumerate(class_names)}
    texts = _texts(y)
    for row, text in enumerate(texts):
        if text not in codes:
            raise ValueError(
                f"`{name}` must hold only classes of the training set; got {text!r} in "
                f"row {row}."
            )
    return np.asarray([codes[text] for text in texts], dtype=np.int32)


def _texts(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return [
        str(int(value) if isinstance(value, float) and value.is_integer() else value)
        for value in values.tolist()
    ]
