"""The network of a run: a perceptron, a small convolutional one, or the user's own."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.deploy.shipping.manifest import file_hash
from meanfield.ensemble.networks import cnn, mlp
from meanfield.keys import key_of_seed

from .user_model import MODEL_FILE, load_function, make_model, parse

BUILT_IN = ("mlp", "cnn")
KINDS = (*BUILT_IN, "file")


def source_of(model: str, resume: Path | None) -> str:
    """The network of the settings; for a continued run, the file in its folder."""
    if resume is None or model in BUILT_IN:
        return model
    return f"{resume / MODEL_FILE}:{model.rpartition(':')[2]}"


def describe_model(model: str, dataset: Dataset) -> dict[str, Any]:
    """The entry of a configuration for a network.

    Args:
        model: "mlp", "cnn" or ``net.py:make``.
        dataset: the data set of the run.

    Raises:
        ValueError: "cnn" for data that are not images.
        FileNotFoundError: there is no such file.
    """
    shape = dataset.image_shape
    if model == "mlp":
        return {"kind": "mlp"}
    if model == "cnn":
        require(
            shape is not None and len(shape) in (2, 3),
            "`model` cnn is for images, (rows, columns) or (rows, columns, channels); "
            f"the examples of {dataset.name!r} have shape "
            f"{shape or (dataset.num_features,)}. Leave it out.",
        )
        return {"kind": "cnn", "shape": shape}
    path, function = parse(model)
    found = {"kind": "file", "shape": shape, "function": function, "hidden": []}
    return found | {"file_sha256": file_hash(path)}


def check_model(model: str, architecture: Mapping[str, Any]) -> None:
    """Make a user's network once, before anything is written.

    Raises:
        ValueError: the network cannot be made, or does not fit the data.
    """
    if model not in BUILT_IN:
        path, name = parse(model)
        make = load_function(path, name)
        outputs, key = architecture["outputs"], key_of_seed(0)
        make_model(make, _inputs(architecture), outputs, key, f"{name} in {path}")


def keep_file(model: str, folder: Path) -> None:
    """Copy a user's file into the run folder, unless it is the copy itself."""
    if model in BUILT_IN:
        return
    path, _ = parse(model)
    if path.resolve() != (folder / MODEL_FILE).resolve():
        shutil.copyfile(path, folder / MODEL_FILE)


def build_model(
    architecture: Mapping[str, Any], seed: int, folder: Path | None = None
) -> Any:
    """The network that a configuration describes.

    Args:
        architecture: the part "model" of a configuration.
        seed: seed of its initial weights.
        folder: folder of the run, which has the Python file of a user's own network.

    Raises:
        FileNotFoundError: the Python file is missing.
        ValueError: an unknown kind, or the Python file was changed.
    """
    kind, key = architecture.get("kind"), key_of_seed(seed)
    require(
        kind in KINDS,
        f"`kind` of the architecture must be one of {', '.join(KINDS)}; got {kind!r}.",
    )
    if kind == "mlp":
        return mlp(widths_of(architecture), key=key)
    shape, outputs = architecture.get("shape"), architecture["outputs"]
    if kind == "cnn":
        return cnn(tuple(shape or ()), architecture["hidden"], outputs, key=key)
    require(
        folder is not None,
        "`folder` must be the run folder, whose Python file makes the network of this "
        "run; got none. Pass the folder.",
    )
    assert folder is not None
    return _made(architecture, folder / MODEL_FILE, architecture["function"], key)


def structure_of(architecture: Mapping[str, Any], model: str | None = None) -> Any:
    """A network of this structure; a perceptron is made with one unit per layer.

    Args:
        architecture: as a card or an archive describes it.
        model: for a user's own network, its Python file and function, such as
            ``net.py:make``. An archive may come from anywhere, so a file named in it is
            never executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is needed but was not given, or its hash differs.
    """
    kind = architecture.get("kind")
    if kind == "mlp":
        return mlp([1 for _ in widths_of(architecture)], key=key_of_seed(0))
    if kind in BUILT_IN:
        return build_model(architecture, 0)
    require(
        model is not None,
        "`model` must name the Python file and the function that make this network, "
        "such as RUN/model.py:make; got none. The file is executed, so its name is "
        "never taken from the archive.",
    )
    path, name = parse(model or "")
    return _made(architecture, path, name, key_of_seed(0))


def _made(architecture: Mapping[str, Any], path: Path, name: str, key: Any) -> Any:
    """The network that a file makes, after a check of the file's hash."""
    make = load_function(path, name, architecture["file_sha256"])
    outputs = architecture["outputs"]
    return make_model(make, _inputs(architecture), outputs, key, f"{name} in {path}")


def widths_of(architecture: Mapping[str, Any]) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs of a perceptron."""
    return (architecture["inputs"], *architecture["hidden"], architecture["outputs"])


def shaped(dataset: Dataset, architecture: Mapping[str, Any]) -> Dataset:
    """The data in the shape that the network takes: images, or flat rows."""
    return dataset if architecture["kind"] == "mlp" else dataset.as_images()


def _inputs(architecture: Mapping[str, Any]) -> int | tuple[int, ...]:
    """The shape of an image, or the number of features."""
    shape = architecture.get("shape")
    return tuple(shape) if shape else architecture["inputs"]


def starting_model(
    architecture: Mapping[str, Any], seed: int, folder: Path, targets: np.ndarray
) -> Any:
    """The network that training starts from: that of `build_model`.

    If the targets are counts, a perceptron's output biases are the log of their means.
    """
    model = build_model(architecture, seed, folder)
    if architecture["likelihood"] == "poisson" and architecture["kind"] == "mlp":
        return _at_mean_rate(model, targets)
    return model


def _at_mean_rate(model: Any, counts: np.ndarray) -> Any:
    mean = np.maximum(counts.reshape(len(counts), -1).mean(0), 1 / len(counts))
    bias = jnp.asarray(np.log(mean), jnp.float32)
    return eqx.tree_at(lambda network: network.layers[-1].bias, model, bias)
