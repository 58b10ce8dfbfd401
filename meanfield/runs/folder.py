"""A run folder: what was trained, how, and how well. Written whole or not at all.

ensemble.safetensors   π, m, Ξ, point values and the likelihood's numbers
config.json            data, architecture, training, versions
metrics.json           scores, label fractions, seconds
history.csv            one row an epoch
connections.csv        one row a connection
plots/*.png, report.html, checkpoints/
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pandas as pd

from meanfield import data as datasets
from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.networks import mlp
from meanfield.files import atomic_path
from meanfield.tensors import load_tree, save_tree

from .config import CONFIG, read_config
from .documents import read_json, write_json
from .standardization import Standardization
from .tasks import build_likelihood

ENSEMBLE, METRICS = "ensemble.safetensors", "metrics.json"
HISTORY, CONNECTIONS, PLOTS = "history.csv", "connections.csv", "plots"
COALITIONS, ANALYSIS = "coalitions.json", "analysis.json"
CREDIT = "credit.json"
SUBNETWORKS = "subnetworks"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained ensemble with everything needed to use it again.

    Attributes:
        folder: where it lives.
        config: the contents of ``config.json``.
        ensemble: the trained ensemble.
        likelihood: the likelihood with what it learned, in standard units;
            `standardization.likelihood(likelihood)` is that of the data.
    """

    folder: Path
    config: dict[str, Any]
    ensemble: Ensemble
    likelihood: Any

    def load_data(self, data_dir: str | os.PathLike | None = None) -> Dataset:
        """The data set that the run was trained on, in the units it was trained in.

        Raises:
            ValueError: the data have changed since.
        """
        return load_data(self.config["data"], data_dir)

    @property
    def standardization(self) -> Standardization:
        """How the targets were standardised for the network."""
        return Standardization.of(self.config)

    @property
    def plots(self) -> Path:
        """Folder of its pictures."""
        return self.folder / PLOTS

    @property
    def metrics(self) -> dict[str, Any]:
        """The contents of ``metrics.json``; empty when there are none yet."""
        path = self.folder / METRICS
        remedy = "Delete it, and make it again with `meanfield evaluate`."
        return read_json(path, remedy) if path.is_file() else {}

    def update_metrics(self, new: dict[str, Any]) -> None:
        """Add to ``metrics.json``."""
        write_json(self.folder / METRICS, {**self.metrics, **new})


def build_model(architecture: dict[str, Any], seed: int) -> eqx.nn.MLP:
    """The network that a configuration describes.

    Raises:
        ValueError: an unknown kind.
    """
    require(
        architecture.get("kind") == "mlp",
        f"`kind` of the architecture must be 'mlp'; got {architecture.get('kind')!r}.",
    )
    widths = (architecture["inputs"], *architecture["hidden"], architecture["outputs"])
    return mlp(widths, key=jax.random.key(seed))


def load_data(config: dict[str, Any], data_dir: Any = None) -> Dataset:
    """The data set of a configuration; its fingerprint must still be the same."""
    dataset = datasets.load(
        config["source"],
        data_dir=data_dir or config.get("data_dir"),
        target=config.get("target"),
        task=config["task"] if Path(config["source"]).suffix else None,
        test_fraction=config["test_fraction"],
        seed=config["seed"],
    )
    require(
        config.get("sha256") in (None, dataset.sha256),
        f"the data in {config['source']!r} are not those the run was trained on: their "
        "contents changed. Restore them, or train again.",
    )
    return dataset


def save_run(folder: str | os.PathLike, config: dict[str, Any], result: Any) -> None:
    """Write configuration, ensemble and history; the ensemble goes last."""
    folder = Path(folder)
    write_json(folder / CONFIG, config)
    with atomic_path(folder / HISTORY) as temporary:
        pd.DataFrame(result.history).to_csv(temporary, index=False)
    tree = {"params": result.ensemble.params, "likelihood": result.likelihood}
    save_tree(folder / ENSEMBLE, tree, {"config": config})


def load_run(folder: str | os.PathLike) -> Run:
    """Open a run folder.

    Args:
        folder: made by `meanfield train`.

    Returns:
        A `Run`: its ensemble, likelihood and settings.

    Raises:
        FileNotFoundError: the folder, or a file that every run has, is missing.
        ValueError: a file is damaged, or comes from a newer version.

    Example:
        >>> import meanfield as mf
        >>> run = mf.load_run("runs/digits")  # doctest: +SKIP
    """
    folder = Path(folder)
    for name in (CONFIG, ENSEMBLE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a run folder: it has no {name}. Make one with "
                "`meanfield train --out FOLDER`."
            )
    config = read_config(folder)
    model = build_model(config["model"], seed=0)
    spikes = config["training"].get("spikes", "connection")
    ensemble = Ensemble.from_model(model, spikes=spikes)
    model_config = config["model"]
    likelihood = build_likelihood(model_config["likelihood"], model_config["targets"])
    like = {"params": ensemble.params, "likelihood": likelihood}
    tree, _ = load_tree(folder / ENSEMBLE, like)
    ensemble = eqx.tree_at(lambda e: e.params, ensemble, tree["params"])
    return Run(folder, config, ensemble, tree["likelihood"])


def open_run(
    folder: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> tuple[Run, Dataset]:
    """A run and the data it was trained on.

    Raises:
        FileNotFoundError: `folder` is no run folder.
        ValueError: a file is damaged, or the data changed.
    """
    run = load_run(folder)
    return run, run.load_data(data_dir)
