"""One function for every format: write, load back, compare.

| format        | file                | read by                                        |
|---------------|---------------------|------------------------------------------------|
| `safetensors` | `.safetensors`      | safetensors and NumPy, or `load_subnetwork`    |
| `numpy`       | `.npz`              | `numpy_runtime.py`, written beside it          |
| `onnx`        | `.onnx`             | ONNX Runtime and every other ONNX engine       |
| `onnx-int8`   | `.int8.onnx`        | the same, with 8-bit numbers (see `quantize`)  |
| `stablehlo`   | `.stablehlo`        | `jax.export`, for about six months             |

`npz` is another name for `numpy`. All formats take whole inputs: the file itself drops
the entries that a shrunk network does not read (an archive lists those that it reads).
Archives and ONNX files store sparse arrays without their zeros (see `onnx_packed`).
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.inputs import as_batch, is_one_array, taken_by_file
from meanfield.deploy.graph.network import Network, as_network
from meanfield.ensemble.frameworks import Call
from meanfield.files import scratch_folder

from . import numpy_runtime
from .archive import load_subnetwork, save_archive
from .compare import compare, compare_int8, require_judged
from .extras import need
from .kinds import canonical, writable
from .lacking import naming_other_formats
from .numpy_writer import RUNTIME, runtime_source, save_numpy
from .onnx_packed import pack_arrays
from .onnx_raw import take_raw
from .onnx_session import onnx_predictor
from .onnx_writer import OPSET, load_onnx, note_about, save_onnx, to_onnx
from .quantize import save_int8
from .stablehlo import load_stablehlo, save_stablehlo
from .whole_inputs import (
    Predict,
    jit_predict,
    opened,
    portable_graph,
    require_one_array,
    whole_function,
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: the file.
        bytes: its size.
        largest_difference: largest difference between the outputs of the file, loaded
            back, and of the network on the probe (for int8: of the probabilities).
        agreement: for int8 and classes, fraction of the probe on which file and network
            predict the same class.
        precision: for int8, which weights and activations are integers, as named in
            the table of `quantize`.
    """

    path: Path
    bytes: int
    largest_difference: float
    agreement: float | None = None
    precision: str | None = None


def export(
    model: Any,
    path: str | os.PathLike,
    *,
    probe: Any,
    format: str = "onnx",
    dtype: str = "float32",
    tolerance: float = 1e-5,
    link: str = "softmax",
    calibration: Any = None,
    about: Mapping[str, Any] | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    fallback: str | None = None,
    call: Call | None = None,
    raw: bool = False,
) -> Exported:
    """Write a network in one format, load it back, and compare.

    The file is written only if the comparison passes.

    Args:
        model: a result of `shrink`, or any Equinox module, Flax NNX module or pair
            (apply_fn, params).
        path: the file to write; it must not exist.
        probe: a batch of whole inputs for the comparison: an array, or a tree of arrays
            (dictionary, tuple). A file takes the arrays of a tree by name: "a" for the
            key of a dictionary, "0" for the first place of a tuple, "graph/nodes" for
            an array further inside.
        format: "safetensors", "numpy", "onnx", "onnx-int8" or "stablehlo".
        dtype: type of the numbers in an archive, "float32" or "float16".
        tolerance: largest difference allowed, relative to max(1, the largest output).
            For int8, probabilities may differ by 0.02, and 99 % of the predicted
            classes must agree, on a probe of at least 50 examples.
        link: for int8, the map from outputs to probabilities: "softmax", "sigmoid", or
            "none" (real targets).
        calibration: a batch of whole inputs for the ranges of int8; the probe if not
            given.
        about: for an archive or ONNX, any JSON value.
        labels: for an archive, small integers for each weight.
        fallback: "jax2onnx" to use that package if the ONNX writer does not support an
            operation.
        call: how the module is called, as in `Ensemble.from_model`.
        raw: for ONNX, whether the file contains the preprocessing and the decoding of
            the outputs, as `about["source"]` describes them under `input` and
            `targets`: it then takes raw rows or images, and returns names of classes,
            or numbers in the targets' units.

    Returns:
        The path, the number of bytes, and the largest difference found.

    Raises:
        FileExistsError: `path` exists, or beside it another `numpy_runtime.py`.
        ImportError: an optional package is missing.
        ValueError: an unknown format, an operation that the format lacks, or a
            comparison that fails.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf, tempfile
        >>> model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
        >>> path = f"{tempfile.mkdtemp()}/network.npz"
        >>> done = mf.deploy.export(model, path, probe=jnp.ones((5, 3)), format="numpy")
        >>> done.largest_difference <= 1e-5
        True
    """
    format, path = writable(format, raw), Path(path)
    require(
        fallback in (None, "jax2onnx"),
        f"`fallback` must be None or 'jax2onnx'; got {fallback!r}.",
    )
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name or remove it.")
    beside = path.parent / RUNTIME
    if format == "numpy" and beside.exists() and beside.read_text() != runtime_source():
        raise FileExistsError(
            f"{beside} exists and differs from the runtime that would be written "
            "there; choose another folder."
        )
    network, kept = opened(model, call)
    probe = as_batch(probe)
    require_one_array(network, kept, probe)
    expected = np.asarray(jit_predict(network, kept)(probe))
    agreement = precision = None
    ask = fallback is None and is_one_array(probe)
    lacking = naming_other_formats(network, kept, probe, raw, ask)
    with staged(path) as temporary, lacking:
        if format == "safetensors":
            _save_archive(temporary, network, kept, dtype, about, labels)
        elif format == "stablehlo":
            save_stablehlo(temporary, network, probe, kept)
        elif format == "numpy":
            save_numpy(temporary, portable_graph(network, kept, probe))
        else:
            converted = _converted(network, kept, probe, fallback)
            if format == "onnx-int8":
                ranges = as_batch(probe if calibration is None else calibration)
                precision = save_int8(temporary, converted, ranges, link)
                require_judged(probe, expected, link)
                converted = load_onnx(temporary)
            if raw:
                about = {**(about or {}), "inputs": "raw"}
                converted = take_raw(converted, about["source"])
            pack_arrays(converted)
            save_onnx(temporary, converted)
            note_about(temporary, about)
        predict = load_predictor(temporary, format, like=network)
        if dtype == "float16" and format == "safetensors":
            expected = jit_predict(rounded(network), kept)(probe)
        if format == "onnx-int8":
            difference, agreement = compare_int8(expected, predict(probe), link)
        else:
            difference = compare(expected, predict(probe), format, tolerance)
    return Exported(path, path.stat().st_size, difference, agreement, precision)


def load_predictor(path: str | os.PathLike, format: str, like: Any = None) -> Predict:
    """A function from a batch to outputs, in the runtime of a format.

    Args:
        path: the file.
        format: its format.
        like: for an archive, a model of the same structure.

    Raises:
        ValueError: the format is unknown, or an archive comes without `like`.
    """
    format = canonical(format)
    if format == "numpy":
        run = numpy_runtime.load(path)
        return lambda x: np.asarray(run(taken_by_file(x)))
    if format == "stablehlo":
        call = jax.jit(load_stablehlo(path))
        return lambda x: np.asarray(call(taken_by_file(x)))
    if format == "safetensors":
        require(like is not None, "`like` is needed to read an archive as a model.")
        model, archive = load_subnetwork(path, like)
        network = as_network(model, as_network(like).call)
        return jit_predict(network, archive.kept_inputs)
    return onnx_predictor(path)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path in a temporary folder, whose file is moved to `path` on success."""
    with scratch_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        runtime = temporary.parent / RUNTIME
        if runtime.exists():
            os.replace(runtime, path.parent / RUNTIME)
        shutil.move(temporary, path)


def _save_archive(
    path: Path,
    network: Network,
    kept: Mapping[int, np.ndarray],
    dtype: str,
    about: Mapping[str, Any] | None,
    labels: Mapping[str, np.ndarray] | None,
) -> None:
    arrays = network.arrays
    save_archive(
        path, arrays, kept_inputs=kept, labels=labels, about=about, dtype=dtype
    )


def _converted(
    network: Network,
    kept: Mapping[int, np.ndarray],
    probe: Any,
    fallback: str | None,
) -> Any:
    try:
        return to_onnx(portable_graph(network, kept, probe))
    except ValueError:
        if fallback is None or not is_one_array(probe):
            raise
    return need("jax2onnx", "jax2onnx").to_onnx(
        whole_function(network, kept),
        [("B", *probe.shape[1:])],
        input_names=["input"],
        output_names=["output"],
        opset=OPSET,
    )


def rounded(network: Network) -> Network:
    """The network with its floating-point arrays rounded to half precision."""
    arrays = {
        name: np.asarray(array, np.float16).astype(array.dtype)
        if np.issubdtype(array.dtype, np.floating)
        else array
        for name, array in network.arrays.items()
    }
    return dataclasses.replace(network, arrays=arrays, graphs={})
