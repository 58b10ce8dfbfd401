"""Predictions of a run for new rows, as a table in the target's own units."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from meanfield.checks import require
from meanfield.data.arrays import read_inputs
from meanfield.data.cells import raise_all
from meanfield.data.decimals import with_points
from meanfield.data.headings import repeated_headings
from meanfield.data.image_range import CLEAR
from meanfield.data.schema import TableSchema
from meanfield.data.text import SEPARATORS, read_text
from meanfield.keys import key_of_seed
from meanfield.prediction.evaluate import predict
from meanfield.prediction.predictive import CHUNK

from .command_settings import PredictSettings
from .tasks import target_columns

# Likelihoods of discrete targets, for which no intervals are computed.
WITHOUT_INTERVAL = ("categorical", "bernoulli", "poisson")

# Fewest rows that are predicted at once.
LEAST = 64


def read_rows(config: Mapping[str, Any], path: Path) -> Any:
    """New rows from a file, read in the same way as the training file.

    Args:
        config: the configuration of the run.
        path: a table, or an `.npz` with `x`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of the kind of the training file, or cannot be read.
    """
    schema = schema_of(config)
    if schema is None:
        require(
            path.suffix.lower() == ".npz",
            f"the run was trained on arrays; give new ones as `x` in an .npz file, not "
            f"{path}.",
        )
        return read_inputs(path)
    require(
        path.suffix.lower() != ".npz",
        f"the run was trained on a table; give new rows as a table, not {path}.",
    )
    format, used = schema.format, [column.name for column in schema.columns]
    text = read_text(
        path,
        sep=format.separator,
        decimal=format.decimal,
        header=format.header,
        plain=False,
    )
    frame = text.frame
    if format.columns:
        frame = _with_places(frame, schema, path)
    frame = with_points(frame, schema.localized, format.decimal)
    problems = repeated_headings(path, text.repeated, used, "Rename them.")
    raise_all(f"the headings of {path} cannot be used", problems)
    missing = [name for name in used if name not in frame.columns]
    alone = len(frame.columns) == 1 and frame.columns[0] not in used
    require(
        not (missing and alone),
        f"{path} has only one column, {str(frame.columns[0])!r}. It was read with "
        f"{SEPARATORS.get(format.separator, 'spaces')} between cells, as in the "
        "training table; write it with these.",
    )
    return frame


def _with_places(frame: pd.DataFrame, schema: TableSchema, path: Path) -> pd.DataFrame:
    """New rows without headings, whose columns are named by their places in training.

    Raises:
        ValueError: the number of columns is neither that of the training table nor that
            without its targets.
    """
    count, targets = schema.format.columns, schema.target_names
    names = [f"column_{place}" for place in range(count)]
    others = [name for name in names if name not in targets]
    require(
        frame.shape[1] in (count, len(others)),
        f"{path} must have {count} columns, as the training table, which has no "
        f"headings; or {len(others)}, without {', '.join(targets)}. It has "
        f"{frame.shape[1]}.",
    )
    return frame.set_axis(names if frame.shape[1] == count else others, axis=1)


def schema_of(config: Mapping[str, Any]) -> TableSchema | None:
    """The encoding of the columns of a run's table; None for arrays."""
    found = config["data"].get("schema")
    return None if found is None else TableSchema.from_dict(found)


def encode(config: Mapping[str, Any], rows: Any) -> np.ndarray:
    """Features of new rows.

    Args:
        config: the configuration of the run.
        rows: a frame with the columns that the run learned from, in any order; or, for
            a run on arrays, an array (rows, …) in the units of the file.

    Raises:
        ValueError: the rows do not fit; one message lists all problems of the columns.
    """
    schema, data = schema_of(config), config["data"]
    if schema is not None:
        require(
            isinstance(rows, pd.DataFrame),
            "`rows` must be a pandas frame with the columns of the training table; got "
            f"{type(rows).__name__}.",
        )
        require(len(rows) > 0, "`rows` must have at least one row; got none.")
        return schema.encode(rows)
    x = np.asarray(rows)
    shape = tuple(data.get("image_shape") or (config["model"]["inputs"],))
    flat = (config["model"]["inputs"],)
    require(
        x.dtype.kind in "fiub" and len(x) > 0 and x.shape[1:] in (shape, flat),
        f"`rows` must be numbers of shape (rows, {', '.join(map(str, shape))}), as the "
        f"run was trained on; got {x.dtype} of shape {x.shape}.",
    )
    require(
        "divisor" in data,
        "this run was made by a version that did not store the number by which "
        "inputs were divided. Train it again.",
    )
    divisor = data["divisor"]
    require(
        divisor < CLEAR or not 0 < float(x.max()) <= 1,
        f"`rows` have numbers up to only {float(x.max()):.3g}, but the training "
        f"inputs were divided by {divisor:g}. Give them in the units of the training "
        "file.",
    )
    features = x.reshape(len(x), -1).astype(np.float32) / np.float32(divisor)
    require(
        bool(np.isfinite(features).all()),
        "`rows` must be finite numbers; got NaN or infinity.",
    )
    images = config["model"]["kind"] != "mlp" and data.get("image_shape")
    return features.reshape(len(x), *shape) if images else features


def predict_rows(
    run: Any,
    rows: Any,
    *,
    num_samples: int = PredictSettings.num_samples,
    level: float = PredictSettings.level,
    seed: int = PredictSettings.seed,
) -> pd.DataFrame:
    """Predictions of a run for new rows, in their order; see `Run.predict`."""
    require(0 < level < 1, f"`level` must lie in (0, 1); got {level}.")
    config = run.config
    x = encode(config, rows)
    # Predictions can be joined to their rows.
    index = rows.index if isinstance(rows, pd.DataFrame) else None
    count = len(x)
    # The last row is repeated, so that few different sizes have to be compiled.
    size = min(max(LEAST, 1 << (count - 1).bit_length()), -(-count // CHUNK) * CHUNK)
    padded = x[np.minimum(np.arange(size), count - 1)]
    name = config["model"]["likelihood"]
    found = predict(
        run.ensemble,
        jnp.asarray(padded),
        likelihood=run.standardization.likelihood(run.likelihood),
        num_samples=num_samples,
        key=jax.random.fold_in(key_of_seed(seed), 6),
        level=None if name in WITHOUT_INTERVAL else level,
        # All rows are predicted by the same networks, so equal rows have equal
        # predictions.
        of="subnetworks",
    )
    parts = {k: v[:count] for k, v in vars(found).items() if v is not None}
    names = target_columns(config)
    if name == "categorical":
        columns = _of_classes(parts, names[0], config["data"]["class_names"])
        return pd.DataFrame(columns, index=index)
    columns = {}
    for number, target in enumerate(names):
        part = {
            key: np.asarray(value).reshape(count, -1)[:, number]
            for key, value in parts.items()
        }
        columns |= (_of_answers if name == "bernoulli" else _of_numbers)(part, target)
    return pd.DataFrame(columns, index=index)


def _of_classes(
    found: Mapping[str, np.ndarray], target: str, classes: list[str]
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        target: np.asarray(classes, object)[found["mean"].argmax(-1)]
    }
    for number, label in enumerate(classes):
        columns[f"{target}_prob_{label}"] = found["mean"][:, number]
    columns[f"{target}_entropy"] = found["total"]
    columns[f"{target}_aleatoric"] = found["aleatoric"]
    columns[f"{target}_epistemic"] = found["epistemic"]
    return columns


def _of_answers(found: Mapping[str, np.ndarray], target: str) -> dict[str, Any]:
    return {
        target: (found["mean"] > 0.5).astype(int),
        f"{target}_prob_1": found["mean"],
        f"{target}_entropy": found["total"],
        f"{target}_aleatoric": found["aleatoric"],
        f"{target}_epistemic": found["epistemic"],
    }


def _of_numbers(found: Mapping[str, np.ndarray], target: str) -> dict[str, Any]:
    ends = {f"{target}_{end}": found[end] for end in ("lower", "upper") if end in found}
    return {
        target: found["mean"],
        f"{target}_std": np.sqrt(found["total"]),
        **ends,
        f"{target}_aleatoric_std": np.sqrt(found["aleatoric"]),
        f"{target}_epistemic_std": np.sqrt(found["epistemic"]),
    }
