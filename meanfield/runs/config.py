"""The configuration of a run: data, network, training settings and versions."""

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meanfield.checks import require
from meanfield.data import Dataset, TableSchema
from meanfield.version import VERSION

from .documents import read_json
from .schemas import CONFIG as CONFIG_CHECK
from .settings import KEPT, TrainSettings, kept_names
from .tasks import build_likelihood, likelihood_of

FORMAT = 3
SEALED_SINCE = 3
CONFIG, ENSEMBLE = "config.json", "ensemble.safetensors"
REMEDY = "Restore it from a copy or train again."


def config_of(settings: TrainSettings, dataset: Dataset) -> dict[str, Any]:
    """The configuration of a new run.

    Args:
        settings: the settings of the command.
        dataset: the data set, which determines the task, the inputs and the outputs.
    """
    likelihood = settings.likelihood or likelihood_of(dataset.task)
    outputs = dataset.num_classes
    if outputs is None:
        kind = build_likelihood(likelihood, dataset.num_targets)
        outputs = kind.num_outputs(dataset.y_train)
    data = settings.kept("data") | {
        "data_dir": settings.data_dir and str(Path(settings.data_dir).resolve()),
        "source": _place(settings.data),
        "seed": settings.seed,
        "task": dataset.task,
        "sha256": dataset.sha256,
        "class_names": dataset.class_names,
        "target_names": dataset.target_names,
        "image_shape": dataset.image_shape,
        "divisor": dataset.divisor,
        "schema": None if dataset.schema is None else dataset.schema.to_dict(),
    }
    model = settings.kept("model") | {
        "inputs": dataset.num_features,
        "outputs": outputs,
        "likelihood": likelihood,
        "targets": dataset.num_targets,
    }
    return {
        "format": FORMAT,
        "data": data,
        "model": model,
        "training": settings.kept("training") | {"rule": settings.learning_rule},
        "versions": versions(),
    }


def _place(source: str) -> str:
    """A named data set by its name, a file by its whole path."""
    return str(Path(source).resolve()) if Path(source).suffix else source


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's ``config.json``.

    Raises:
        ValueError: the file is damaged, incomplete, or from a newer version.
    """
    path = folder / CONFIG
    found = read_json(path, REMEDY, lambda value, place: None)
    version = found.get("format", 0) if isinstance(found, dict) else 0
    require(
        not isinstance(version, int) or version <= FORMAT,
        f"{folder} was written by a newer meanfield (run format {version}; this one "
        f"reads {FORMAT}). Update meanfield.",
    )
    config = read_json(path, REMEDY, CONFIG_CHECK)
    config.setdefault("format", 1)
    # In the first format, each task has one likelihood, and all targets share their
    # noise.
    task = config["data"]["task"]
    defaults = {"likelihood": likelihood_of(task), "targets": 1}
    config["model"] = defaults | config["model"]
    return config


def resumed(settings: TrainSettings) -> TrainSettings:
    """The settings of the run `settings.resume`, to continue it.

    Devices, the path of the data and what is printed are taken from `settings`; all
    other settings from the run.

    Raises:
        FileNotFoundError: the folder has no run.
        ValueError: a setting differs from that of the run.
    """
    folder = settings.resume
    assert folder is not None
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no run to resume: it has no {CONFIG}. Start one with "
            f"`meanfield train --out {folder}`."
        )
    require(
        settings.out in (None, folder) and not settings.overwrite,
        f"`resume` continues the run in its folder, {folder}: leave out `out` and "
        "`overwrite`.",
    )
    config = read_config(folder)
    # Runs of earlier versions lack the settings that these versions did not have.
    kept = {
        name: config[part][name]
        for part in KEPT
        for name in kept_names(part)
        if name in config[part]
    }
    kept["hidden"] = tuple(kept["hidden"])
    evidence = kept.get("inclusion_prob") is not None
    kept.setdefault("rule", "evidence" if evidence else "published")
    kept.setdefault("patience", 0)
    source, task = config["data"]["source"], config["data"]["task"]
    kept["task"] = task if Path(source).suffix else None
    refused = kept.keys() - {"data_dir"}
    for field in dataclasses.fields(TrainSettings):
        given, own = getattr(settings, field.name), kept.get(field.name, field.default)
        require(
            given in (field.default, own) or field.name not in refused,
            f"{folder} was trained with {field.name} = {own!r}; it cannot continue "
            f"with {given!r}. Use `meanfield train --resume {folder}` alone.",
        )
    if settings.data_dir is not None:
        kept["data_dir"] = settings.data_dir
    moved = settings.data != TrainSettings.data
    return dataclasses.replace(
        settings, data=settings.data if moved else source, out=folder, **kept
    )


def refuse_other_data(folder: Path, config: dict[str, Any]) -> None:
    """Raise unless the run in a folder was trained on the data of a configuration.

    Raises:
        ValueError: the data differ.
    """
    old = read_config(folder)["data"]
    for name, value in json.loads(json.dumps(config["data"])).items():
        same = name not in old or old[name] == value
        if name == "schema" and value and old.get(name):
            # Schemas of earlier versions lack some entries.
            same = TableSchema.from_dict(old[name]) == TableSchema.from_dict(value)
        require(
            name in ("source", "data_dir") or same,
            f"{folder} was trained on data with {name} = {old.get(name)!r}; it cannot "
            f"continue with {value!r}. Restore the data, or name them with --data.",
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which the results depend."""
    found = {"python": platform.python_version(), "meanfield": VERSION}
    for name in ("jax", "equinox", "optax", "numpyro", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
