"""The three analyses of `physics` applied to a run, or to weights from a file."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from meanfield.checks import require
from meanfield.keys import key_of_seed
from meanfield.physics.complexity.measure import measure_complexity
from meanfield.physics.complexity.recording import layer_activations
from meanfield.physics.microstructure.lognormal_fit import analyze_microstructure
from meanfield.physics.renormalization.network_phase import analyze_renormalization
from meanfield.tensors import check_npz
from meanfield.trees import path_name

from .command_settings import AnalyzeSettings
from .documents import write_json, write_sealed
from .folder import ANALYSIS, PLOTS, Run
from .pictures import draw_analysis

COMPLEXITY_EXAMPLES = 10_000
DAMAGED = (safetensors.SafetensorError, zipfile.BadZipFile, zlib.error)
NO_FLOW = {"verdict": "cannot tell", "reason": "no weight of two dimensions"}


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Named arrays from a .npz or .safetensors file; pickled objects are never loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, a damaged file, or arrays larger than their file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the weights {path} do not exist.")
    require(
        path.suffix in (".npz", ".safetensors"),
        f"`weights` must be a .npz or .safetensors file; got {path.name!r}.",
    )
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        check_npz(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*DAMAGED, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a whole {path.suffix} file of arrays ({error}). Restore it "
            "from a copy, or write it again."
        ) from error


def analyze(
    weights: Mapping[str, Any],
    out: Path,
    *,
    activations: Mapping[str, Any] | None = None,
    data: str = "",
    ensemble: str | None = None,
    seed: int = AnalyzeSettings.seed,
) -> dict[str, Any]:
    """Run the analyses and write ``analysis.json`` and the plots.

    Args:
        weights: arrays or `SpikeSlab`s by name.
        out: folder to write to.
        activations: pre-activations by layer on some data; without them complexity is
            not measured, which the result states.
        data: name of those data.
        ensemble: checksum of the ensemble that the weights are from, if any.
        seed: seed of the null models and the subsamples.

    Returns:
        The contents of ``analysis.json``.
    """
    keys = jax.random.split(key_of_seed(seed), 3)
    fits = analyze_microstructure(weights, key=keys[0])
    flow = _renormalization(weights, keys[1])
    complexity: dict[str, Any] = {
        "verdict": "cannot tell",
        "reason": "weights alone do not determine activations: analyze a run instead",
    }
    if activations is not None:
        measured = measure_complexity(activations, key=keys[2], data=data)
        complexity = measured.to_dict()
    found = {
        "microstructure": {name: fit.to_dict() for name, fit in fits.items()},
        "renormalization": NO_FLOW if flow is None else flow.to_dict(),
        "complexity": complexity,
    }
    found = _jsonable(found)
    if ensemble is None:
        write_json(out / ANALYSIS, found)
    else:
        write_sealed(out / ANALYSIS, found, ensemble)
    layers = found["complexity"].get("layers")
    draw_analysis(fits, flow, layers, out / PLOTS, ensemble)
    return found


def analyze_run(
    run: Run, dataset: Any, *, out: Path | None = None, seed: int = AnalyzeSettings.seed
) -> dict[str, Any]:
    """Analyze an ensemble; activations are those of its network of posterior means."""
    x = dataset.x_test[:COMPLEXITY_EXAMPLES]
    activations = layer_activations(run.ensemble.mean_network(), x)
    return analyze(
        {**run.ensemble.weights(), **_point_values(run)},
        out or run.folder,
        activations=activations,
        data=f"{run.config['data']['source']}, test",
        ensemble=run.seal,
        seed=seed,
    )


def _renormalization(weights: Mapping[str, Any], key: Any) -> Any:
    matrices = [name for name, array in weights.items() if len(array.shape) >= 2]
    return analyze_renormalization(weights, key=key) if matrices else None


def _point_values(run: Run) -> dict[str, Any]:
    """Parameters of one dimension, such as biases, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(run.ensemble.mean_network())
    return {
        path_name(path): leaf
        for path, leaf in leaves
        if hasattr(leaf, "ndim") and leaf.ndim == 1
    }


def _jsonable(value: Any) -> Any:
    """NumPy numbers as Python numbers; NaN and infinity, which JSON lacks, as None."""
    return json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
