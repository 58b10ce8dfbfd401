"""The configuration of a run: what was trained, on what, how, and by which versions."""

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meanfield.checks import require
from meanfield.data import Dataset

from .documents import read_json
from .settings import TrainSettings, kept_names
from .tasks import build_likelihood, likelihood_of

FORMAT = 2
CONFIG = "config.json"


def config_of(settings: TrainSettings, dataset: Dataset) -> dict[str, Any]:
    """The configuration of a run that is about to start.

    Args:
        settings: as they were given.
        dataset: as it was read; it decides the task, the inputs and the outputs.
    """
    likelihood = settings.likelihood or likelihood_of(dataset.task)
    outputs = dataset.num_classes
    if outputs is None:
        kind = build_likelihood(likelihood, dataset.num_targets)
        outputs = kind.num_outputs(dataset.y_train)
    data = settings.kept("data") | {
        "source": settings.data,
        "seed": settings.seed,
        "task": dataset.task,
        "sha256": dataset.sha256,
        "class_names": dataset.class_names,
        "target_names": dataset.target_names,
        "image_shape": dataset.image_shape,
        "schema": None if dataset.schema is None else dataset.schema.to_dict(),
    }
    model = settings.kept("model") | {
        "kind": "mlp",
        "inputs": dataset.num_features,
        "outputs": outputs,
        "likelihood": likelihood,
        "targets": dataset.num_targets,
    }
    return {
        "format": FORMAT,
        "data": data,
        "model": model,
        "training": settings.kept("training"),
        "versions": versions(),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's ``config.json``.

    Raises:
        ValueError: it is damaged, incomplete, or from a newer version.
    """
    path = folder / CONFIG
    config = read_json(path, "Restore it from a copy or train again.")
    found = config.get("format", 0) if isinstance(config, dict) else 0
    require(
        found <= FORMAT,
        f"{folder} was written by a newer meanfield (run format {found}; this one "
        f"reads {FORMAT}). Update meanfield.",
    )
    missing = [part for part in ("data", "model", "training") if part not in config]
    require(
        not missing,
        f"{path} misses {missing}; it was edited. Restore it from a copy.",
    )
    # The first format knew one likelihood for each task, and one noise for all targets.
    task = config["data"]["task"]
    defaults = {"likelihood": likelihood_of(task), "targets": 1}
    config["model"] = defaults | config["model"]
    return config


def resumed(settings: TrainSettings) -> TrainSettings:
    """The settings of the run that `settings.resume` names, to go on with it.

    Devices and what is printed are those of `settings`; all else is the run's own.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    folder = settings.resume
    assert folder is not None
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no run to resume: it has no {CONFIG}. Start one with "
            f"`meanfield train --out {folder}`."
        )
    config = read_config(folder)
    source, task = config["data"]["source"], config["data"]["task"]
    # What an earlier version could not do otherwise, it did not write down.
    kept = {
        name: config[part][name]
        for part in ("data", "model", "training")
        for name in kept_names(part)
        if name in config[part]
    }
    kept["hidden"] = tuple(kept["hidden"])
    return dataclasses.replace(
        settings,
        data=source,
        out=folder,
        task=task if Path(source).suffix else None,
        **kept,
    )


def refuse_other_config(folder: Path, config: dict[str, Any]) -> None:
    """Raise unless the run in a folder has this configuration.

    Raises:
        ValueError: a setting or the data differ; the first difference is named.
    """
    old = read_config(folder)
    defaults = {
        field.name: field.default for field in dataclasses.fields(TrainSettings)
    }
    for part in ("data", "model", "training"):
        for name, value in config[part].items():
            before = old[part].get(name, defaults.get(name))
            require(
                json.dumps(before, sort_keys=True) == json.dumps(value, sort_keys=True),
                f"{folder} was trained with {name} = {before!r}; it cannot go on with "
                f"{value!r}. Use `meanfield train --resume {folder}` alone.",
            )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in ("meanfield", "jax", "equinox", "optax", "numpyro", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
