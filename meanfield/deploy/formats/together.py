"""K sub-networks in one ONNX file: mean, standard deviation and mutual information."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.inputs import as_batch, named_inputs
from meanfield.learning.distributions import is_binary, is_categorical
from meanfield.learning.targets import output_distribution

from .formats import Exported, staged
from .lacking import LackingFormatError
from .onnx_ensemble import ensemble_to_onnx
from .onnx_packed import pack_arrays
from .onnx_session import open_session
from .onnx_writer import save_onnx
from .whole_inputs import jit_predict, opened, portable_graph

NAME = "ensemble.onnx"


def export_together(
    models: Sequence[Any],
    path: str | os.PathLike,
    *,
    probe: Any,
    link: str = "softmax",
    tolerance: float = 1e-5,
) -> Exported:
    """Write K networks as one ONNX file with their mean, std and mutual information.

    Args:
        models: results of `shrink`, or models, with the same whole inputs.
        path: the file to write; it must not exist.
        probe: a batch of whole inputs on which the file is compared with the members.
        link: map from outputs to probabilities: "softmax", "sigmoid", or "none" (real
            targets: mean and std only).
        tolerance: largest difference allowed, relative to max(1, the largest value).

    Returns:
        The path, the number of bytes, and the largest difference found.

    Raises:
        FileExistsError: `path` exists.
        ValueError: there are no members, their inputs or outputs differ, the writer
            does not support an operation, or the comparison fails.
        ImportError: onnx or onnxruntime is missing.
    """
    path, probe = Path(path), as_batch(probe)
    require(len(models) > 0, "`models` must have at least one network; got none.")
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name or remove it.")
    parts = list(map(opened, models))
    outputs = [np.asarray(jit_predict(*part)(probe), np.float64) for part in parts]
    expected = combine(np.stack(outputs), link)
    with staged(path) as temporary:
        try:
            graphs = [portable_graph(network, kept, probe) for network, kept in parts]
            model = ensemble_to_onnx(graphs, link)
        except LackingFormatError as error:
            raise ValueError(f"{error} Ship without `together`.") from error
        pack_arrays(model)
        save_onnx(temporary, model)
        found = run_together(temporary, probe)
        difference = compare_together(expected, found, tolerance)
    return Exported(path, path.stat().st_size, difference)


def run_together(path: str | os.PathLike, x: Any) -> dict[str, np.ndarray]:
    """The outputs of an ensemble file by name, in ONNX Runtime."""
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, named_inputs(x)), strict=True))


def compare_together(
    expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float
) -> float:
    """Largest difference between an ensemble file and its members.

    Raises:
        ValueError: the difference is too large.
    """
    difference = 0.0
    for name, value in found.items():
        gap = np.abs(value - expected[name])
        scale = max(1.0, float(np.abs(expected[name]).max(initial=0)))
        # If members agree, the square root turns a rounding error of 1e-6 in the
        # variance into 1e-3, so the smaller of the two differences counts.
        if name == "std":
            gap = np.minimum(gap, np.abs(value**2 - expected[name] ** 2))
        difference = max(difference, float(gap.max(initial=0)) / scale)
    require(
        difference <= tolerance,
        f"the ensemble file must agree with its members to within {tolerance:.2g}; got "
        f"a difference of {difference:.2g}. Export the members one by one.",
    )
    return difference


def combine(outputs: np.ndarray, link: str) -> dict[str, np.ndarray]:
    """Mean, std and, for classes, mutual information (nats) of K members' predictions.

    Predictions are the outputs (K, batch, …), or their probabilities under `link`.
    """
    if link == "none":
        return {"mean": outputs.mean(0), "std": outputs.std(0)}
    if link == "softmax":
        probs = np.exp(outputs - outputs.max(-1, keepdims=True))
        probs = probs / probs.sum(-1, keepdims=True)
        entropy = -_xlogx(probs).sum(-1)
        whole = -_xlogx(probs.mean(0)).sum(-1)
    else:
        probs = 1 / (1 + np.exp(-outputs))
        entropy = -(_xlogx(probs) + _xlogx(1 - probs)).sum(-1)
        mean = probs.mean(0)
        whole = -(_xlogx(mean) + _xlogx(1 - mean)).sum(-1)
    gain = np.maximum(whole - entropy.mean(0), 0)
    return {"mean": probs.mean(0), "std": probs.std(0), "mutual_information": gain}


def link_of(likelihood: Any, outputs: Any) -> str:
    """The function from outputs to probabilities under a likelihood, by name."""
    distribution = output_distribution(likelihood, jnp.asarray(outputs))
    if is_categorical(distribution):
        return "softmax"
    return "sigmoid" if is_binary(distribution) else "none"


def _xlogx(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1))
