"""A run folder: the trained ensemble, its configuration and its scores.

ensemble.safetensors   π, m, Ξ, point values, likelihood parameters and configuration,
                       with a checksum
config.json            data, architecture, training, versions: a readable copy
metrics.json           scores, label fractions, seconds
history.csv            one row per epoch
connections.csv        one row per connection
plots/*.png, report.html, checkpoints/
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from meanfield import files
from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.data.schema import TableSchema
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.ensemble.ensemble import Ensemble
from meanfield.tensors import fill_tree, load_arrays, read_seal, save_tree

from .agreement import refuse_edited, refuse_larger, refuse_other_widths
from .architecture import BUILT_IN, build_model, shaped
from .config import CONFIG, ENSEMBLE, SEALED_SINCE, read_config
from .documents import read_sealed, write_json, write_sealed
from .predictions import predict_rows, schema_of
from .replacement import finish
from .schemas import METRICS as METRICS_CHECK
from .source import load_data
from .standardization import Standardization
from .tasks import build_likelihood

METRICS = "metrics.json"
HISTORY, CONNECTIONS, PLOTS = "history.csv", "connections.csv", "plots"
COALITIONS, ANALYSIS = "coalitions.json", "analysis.json"
CREDIT = "credit.json"
SUBNETWORKS = "subnetworks"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained ensemble with everything needed to use it again.

    Attributes:
        folder: the run folder.
        config: the contents of ``config.json``.
        ensemble: the trained ensemble.
        likelihood: the likelihood with its learned parameters, for standardised
            targets; `standardization.likelihood(likelihood)` is for the data's units.
        seal: sha256 of the arrays and metadata in the ensemble's file; every file
            derived from the ensemble stores it.
    """

    folder: Path
    config: dict[str, Any]
    ensemble: Ensemble
    likelihood: Any
    seal: str

    def load_data(
        self,
        data_dir: str | os.PathLike | None = None,
        data: str | os.PathLike | None = None,
    ) -> Dataset:
        """The data set that the run was trained on, in the same units.

        Args:
            data_dir: folder of the named data sets, if it was moved.
            data: path of the data file, if it was moved.

        Raises:
            FileNotFoundError: the file is no longer where it was.
            ValueError: the data have changed since.
        """
        dataset = load_data(self.config["data"], data_dir, data)
        return shaped(dataset, self.config["model"])

    @property
    def standardization(self) -> Standardization:
        """How the targets were standardised for the network."""
        return Standardization.of(self.config)

    @property
    def schema(self) -> TableSchema | None:
        """The encoding of the columns of its table as features; None for arrays."""
        return schema_of(self.config)

    def predict(self, rows: Any, **settings: Any) -> pd.DataFrame:
        """Predictions of the run for new rows, in the order of the rows.

        Args:
            rows: a frame with the columns that the run learned from, in any order
                (others are ignored); or, for a run on arrays or images, an array
                (rows, …) in the units of the file.
            **settings: `num_samples` networks to average over (64), `level` of the
                intervals (0.95), `seed`.

        Returns:
            A frame with the index of `rows`. For real targets, in their own units: the
            mean under the target's name, then `_std`, `_lower` and `_upper`, and the
            deviations `_aleatoric_std` and `_epistemic_std`, whose squares sum to that
            of `_std`. For classes: the most probable class, the probability of each
            class, and in nats the entropy and its two parts.

        Raises:
            ValueError: the rows do not fit; one message lists all problems.

        Example:
            >>> import meanfield as mf
            >>> run = mf.load_run("runs/table")  # doctest: +SKIP
            >>> run.predict(frame)  # doctest: +SKIP
        """
        return predict_rows(self, rows, **settings)

    @property
    def plots(self) -> Path:
        """Folder of its plots."""
        return self.folder / PLOTS

    @property
    def bare(self) -> bool:
        """Whether derived files may lack a seal, as in runs of earlier versions."""
        return self.config["format"] < SEALED_SINCE

    @property
    def metrics(self) -> dict[str, Any]:
        """The contents of ``metrics.json``; empty if this run has none."""
        remedy = "Delete it, and make it again with `meanfield evaluate`."
        return self.derived(METRICS, METRICS_CHECK, remedy) or {}

    @property
    def connections(self) -> Path:
        """Path of ``connections.csv``, after a check that it was written for this run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is of another run, or was changed.
        """
        path, remedy = self.folder / CONNECTIONS, f"`meanfield label {self.folder}`"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {CONNECTIONS} yet; make it with {remedy}."
            )
        sha256 = self.metrics.get("connections_sha256")
        require(
            self.bare if sha256 is None else sha256 == file_hash(path),
            f"{path} is not the table that was written for this run: it was changed, "
            f"or belongs to another run. Make it again with {remedy}.",
        )
        return path

    def seal_connections(self) -> None:
        """Store the sha256 of this run's ``connections.csv`` in its metrics."""
        self.update_metrics(
            {"connections_sha256": file_hash(self.folder / CONNECTIONS)}
        )

    def derived(self, name: str, check: Any, remedy: str) -> dict[str, Any] | None:
        """A JSON file that was made from this ensemble; None if there is none.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.folder / name
        return read_sealed(path, remedy, check, self.seal, bare=self.bare)

    def update_metrics(self, new: dict[str, Any]) -> None:
        """Add entries to ``metrics.json``."""
        write_sealed(self.folder / METRICS, {**self.metrics, **new}, self.seal)


def save_run(folder: str | os.PathLike, config: dict[str, Any], result: Any) -> Run:
    """Write configuration, ensemble and history; the ensemble is written last."""
    folder = Path(folder)
    config = json.loads(json.dumps(config))
    write_json(folder / CONFIG, config)
    with files.atomic_path(folder / HISTORY) as temporary:
        pd.DataFrame(result.history).to_csv(temporary, index=False)
    tree = {"params": result.ensemble.params, "likelihood": result.likelihood}
    # Names of weights that are drawn once per call; most ensembles have none.
    drawn = list(result.ensemble.drawn)
    about = {"config": config} | ({"drawn": drawn} if drawn else {})
    save_tree(folder / ENSEMBLE, tree, about)
    seal = read_seal(folder / ENSEMBLE)
    return Run(folder, config, result.ensemble, result.likelihood, seal)


def load_run(folder: str | os.PathLike) -> Run:
    """Open a run folder.

    If the run has the user's own network, the Python file that makes it is executed
    (the copy in the folder, if it was not changed).

    Args:
        folder: a folder that `meanfield train` made.

    Returns:
        The run: its ensemble, its likelihood, its configuration.

    Raises:
        FileNotFoundError: the folder, or a file that every run has, is missing.
        ValueError: a file is damaged, was edited, or comes from a newer version.

    Example:
        >>> import meanfield as mf
        >>> run = mf.load_run("runs/digits")  # doctest: +SKIP
    """
    folder = Path(folder)
    finish(folder)
    if (folder / CONFIG).is_file() and not (folder / ENSEMBLE).is_file():
        raise FileNotFoundError(
            f"the training of {folder} has not ended: it has no {ENSEMBLE} yet. "
            f"Continue it with `meanfield train --resume {folder}`."
        )
    for name in (CONFIG, ENSEMBLE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a run folder: it has no {name}. Make one with "
                "`meanfield train --out FOLDER`."
            )
    config = read_config(folder)
    arrays, metadata = load_arrays(folder / ENSEMBLE)
    refuse_edited(folder, metadata.get("config"))
    if config["model"]["kind"] == "mlp":
        refuse_other_widths(folder, config, arrays)
    if config["model"]["kind"] == "cnn":
        refuse_larger(folder, config, arrays)
    model_config = config["model"]
    spikes = config["training"].get("spikes", "connection")

    def untrained() -> Ensemble:
        return Ensemble.from_model(build_model(model_config, 0, folder), spikes=spikes)

    # Only the shapes of its arrays are needed; a user's function may not be traceable.
    known = model_config["kind"] in BUILT_IN
    ensemble = _zeros_like(untrained) if known else untrained()
    likelihood = build_likelihood(model_config["likelihood"], model_config["targets"])
    like = {"params": ensemble.params, "likelihood": likelihood}
    tree = fill_tree(arrays, like, folder / ENSEMBLE)
    ensemble = eqx.tree_at(lambda e: e.params, ensemble, tree["params"])
    ensemble = ensemble.with_noise(dict.fromkeys(metadata.get("drawn", []), "weights"))
    seal = read_seal(folder / ENSEMBLE)
    return Run(folder, config, ensemble, tree["likelihood"], seal)


def _zeros_like(make: Callable[[], Any]) -> Any:
    """What a function returns, with zeros in its arrays; nothing is compiled."""

    def zeros(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))

    return jax.tree.map(zeros, eqx.filter_eval_shape(make))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run folder.

    Raises:
        BlockingIOError: another process writes to it.
    """
    if not (folder / ENSEMBLE).is_file():  # not a run, which `load_run` will report
        yield
        return
    with files.locked(folder):
        yield


def open_run(
    folder: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
) -> tuple[Run, Dataset]:
    """A run and the data it was trained on.

    Raises:
        FileNotFoundError: `folder` is not a run folder, or the data are elsewhere.
        ValueError: a file is damaged, or the data changed.
    """
    run = load_run(folder)
    return run, run.load_data(data_dir, data)
