"""Predict new rows with a run, from a file to a file."""

from pathlib import Path

import pandas as pd

from meanfield import files
from meanfield.checks import require

from .command_settings import PredictSettings
from .folder import Run
from .predictions import read_rows, schema_of


def predict_file(
    run: Run,
    path: Path,
    *,
    out: Path | None = PredictSettings.out,
    overwrite: bool = PredictSettings.overwrite,
    num_samples: int = PredictSettings.num_samples,
    level: float = PredictSettings.level,
    seed: int = PredictSettings.seed,
) -> tuple[Path, pd.DataFrame, list[str]]:
    """Read new rows, and write the predictions of a run for them, in their order.

    Args:
        run: the run.
        path: a table like the one it was trained on, its columns in any order, with or
            without targets; or an `.npz` with `x`.
        out: file to write.
        overwrite: whether an existing file may be replaced.
        num_samples: number of sub-networks to average over.
        level: probability of the intervals.
        seed: seed of the sub-networks.

    Returns:
        The file, its contents, and the columns that were not used.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: `path` does not exist.
        ValueError: `out` is a folder or the file of the rows; or the rows do not fit,
            and one message lists all problems.
    """
    out = out or Path("predictions.csv")
    require(
        out.resolve() != path.resolve(),
        f"`out` must be another file than the rows, {path}.",
    )
    require(not out.is_dir(), f"`out` must be a file to write; {out} is a folder.")
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists. Choose another --out, or replace it with --overwrite."
        )
    rows = read_rows(run.config, path)
    found = run.predict(rows, num_samples=num_samples, level=level, seed=seed)
    with files.atomic_path(out) as temporary:
        found.to_csv(temporary, index=False, float_format="%.6g")
    schema = schema_of(run.config)
    if schema is None:
        return out, found, []
    used = {column.name for column in schema.columns} | set(schema.target_names)
    return out, found, [str(name) for name in rows.columns if name not in used]
