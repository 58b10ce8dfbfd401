"""One shipped file: shrunk, written, loaded back, compared, scored and timed."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.formats import (
    export,
    load_predictor,
    rounded,
)
from meanfield.deploy.formats.kinds import SUFFIXES
from meanfield.deploy.formats.onnx_session import RawPredictor
from meanfield.deploy.formats.together import export_together, link_of
from meanfield.deploy.formats.whole_inputs import Predict
from meanfield.deploy.graph.inputs import take_examples
from meanfield.deploy.graph.network import Network, as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shrinking.shrink import Shrunk, shrink

from .answers import check_answers
from .card import package_versions
from .costs import count_macs, count_weights, latencies
from .manifest import file_hash
from .scores import score, score_average
from .subnetworks import Subnetwork

# Largest number of inputs, and of their bytes, for comparing files with their networks;
# and the same for measuring the ranges of 8-bit files. Both sets of inputs are limited,
# because they are stored beside archives.
_MOST_EXAMPLES, _MOST_BYTES = 256, 2**20
_FEWEST_EXAMPLES = 8
# Formats whose files store 16-bit numbers in 16 bits.
HALVED = ("safetensors", "onnx")


@dataclasses.dataclass(frozen=True)
class Data:
    """The arguments of `ship` that every file needs, as arrays.

    Attributes:
        x: test inputs.
        y: test targets.
        calibration: inputs for the means of units outside a coalition, and for the
            ranges of 8-bit files.
        validation: inputs and targets to choose the best network by, or None.
        format: format of the files.
        likelihood: map from outputs to a distribution.
        dtype: type to which the numbers of archives and ONNX files are rounded.
        allow_constant: whether to accept a network that shrinks to a constant.
        measure: whether to time the networks.
        source: the caller's description of the origin of the networks.
        raw: whether ONNX files take raw inputs, as the source describes them.
        control: function from the chosen network to the scores of another network of
            its size.
    """

    x: Any
    y: np.ndarray
    calibration: Any
    validation: tuple[Any, np.ndarray] | None
    format: str
    likelihood: Any
    dtype: str
    allow_constant: bool
    measure: bool
    source: dict[str, Any]
    raw: bool
    control: Callable[[Shrunk], Mapping[str, Any] | None] | None

    @property
    def probe(self) -> Any:
        """Inputs on which files are compared."""
        return _first(self.x)

    @property
    def ranges(self) -> Any:
        """Inputs on which the ranges of 8-bit files are measured."""
        return _first(self.calibration)

    def score(self, outputs: Any) -> dict[str, Any]:
        """Scores of outputs for the test inputs."""
        return score(outputs, self.y, self.likelihood)

    def latency(self, predict: Predict) -> dict[str, float] | None:
        """Timings of a runtime."""
        return latencies(predict, self.x) if self.measure else None


@dataclasses.dataclass(frozen=True)
class Written:
    """One file that was written.

    Attributes:
        shrunk: the network in it.
        entry: its entry on the model card.
        predict: the function that runs the file.
        outputs: its outputs for the test inputs.
    """

    shrunk: Shrunk
    entry: dict[str, Any]
    predict: Predict
    outputs: np.ndarray


def write_one(
    path: Path, subnetwork: Subnetwork, data: Data, codes: Mapping[str, Any] | None
) -> Written:
    """Shrink a drawn network and write it.

    Args:
        path: the file.
        subnetwork: the sub-network as it was drawn.
        data: the arguments that all files share.
        codes: labels of the connections, for an archive.
    """
    network = as_network(subnetwork.model, subnetwork.call)
    rounding = None
    if data.dtype == "float16" and data.format in HALVED:
        network, rounding = _halved(network, data.probe)
    shrunk = shrink(
        network,
        data.probe,
        coalition=subnetwork.coalition,
        data=data.calibration,
        allow_constant=data.allow_constant,
    )
    origin = {
        "rule": subnetwork.rule,
        "key_data": subnetwork.key_data and list(subnetwork.key_data),
        "key_impl": subnetwork.key_impl,
        "mask_hash": subnetwork.mask_hash,
    }
    # The link to probabilities depends on the likelihood and the shape of the outputs.
    outputs = network(take_examples(data.probe, slice(1)))
    about = {
        **origin,
        "source": _without_example(data.source),
        "versions": package_versions(),
    }
    done = export(
        shrunk,
        path,
        probe=data.probe,
        format=data.format,
        dtype=data.dtype,
        link=link_of(data.likelihood, outputs),
        about=about,
        labels={k: shrunk.slice_like(k, v) for k, v in (codes or {}).items()},
        calibration=data.ranges,
        raw=data.raw,
    )
    predict = load_predictor(path, data.format, like=shrunk.network)
    if isinstance(predict, RawPredictor):
        targets = data.source["targets"]
        check_answers(predict, data.probe, data.likelihood, targets, path.name)
    outputs = predict(data.x)
    entry = {
        "file": path.name,
        "bytes": done.bytes,
        "sha256": file_hash(path),
        **_costs(shrunk.network, shrunk.select_inputs(data.probe)),
        **data.score(outputs),
        "latency": data.latency(predict),
        "largest_difference": {
            "shrinking": shrunk.largest_difference,
            "format": done.largest_difference,
            **({} if rounding is None else {"rounding": rounding}),
        },
        **origin,
        "num_inputs": {
            str(axis): len(kept) for axis, kept in shrunk.kept_inputs.items()
        },
        "before": measure_whole(network, data, about),
    }
    if done.precision is not None:
        entry |= {"precision": done.precision, "agreement": done.agreement}
    return Written(shrunk, entry, predict, outputs)


def write_together(
    path: Path, written: Sequence[Written], data: Data
) -> dict[str, Any]:
    """Write all networks to one ONNX file, and return its entry on the model card."""
    outputs = [one.outputs for one in written]
    link = link_of(data.likelihood, outputs[0])
    members = [one.shrunk for one in written]
    done = export_together(members, path, probe=data.probe, link=link)
    predict = load_predictor(path, "onnx")
    return {
        "file": path.name,
        "bytes": done.bytes,
        "sha256": file_hash(path),
        "num_members": len(written),
        "outputs": "mean, std" + ("" if link == "none" else ", mutual_information"),
        **score_average(outputs, data.y, data.likelihood),
        "latency": data.latency(predict),
        "largest_difference": done.largest_difference,
    }


def measure_whole(
    network: Network, data: Data, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a network that was not shrunk, in the same runtime; keep no file."""
    plain = "onnx" if data.format == "onnx-int8" else data.format
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"whole{SUFFIXES[plain]}")
        settings = {"probe": data.probe, "format": plain, "about": about}
        size = export(network, path, raw=data.raw, **settings).bytes
        if plain == "safetensors":
            # The usual file of a dense network holds whole arrays and no masks.
            size = sum(np.asarray(a).nbytes for a in network.arrays.values())
        predict = load_predictor(path, plain, like=network)
        return {
            "bytes": size,
            **_costs(network, data.probe),
            **data.score(predict(data.x)),
            "latency": data.latency(predict),
        }


def _halved(network: Network, probe: Any) -> tuple[Network, float]:
    """The network in half precision, and the largest change of an output on the probe.

    Raises:
        ValueError: a number is too large for half precision.
    """
    limit = float(np.finfo(np.float16).max)
    largest = max(
        float(np.abs(array).max(initial=0))
        for array in map(np.asarray, network.arrays.values())
        if np.issubdtype(array.dtype, np.floating)
    )
    require(
        largest <= limit,
        f"`dtype` float16 holds numbers up to {limit:,.0f}; the network has "
        f"{largest:.4g}. Ship with dtype='float32'.",
    )
    halved = rounded(network)
    before, after = (np.asarray(one(probe), np.float64) for one in (network, halved))
    return halved, float(np.abs(after - before).max(initial=0))


def _without_example(source: Mapping[str, Any]) -> dict[str, Any]:
    """The origin to store in a file: without the example, which has its own file."""
    if "input" not in source:
        return dict(source)
    contract = {name: v for name, v in source["input"].items() if name != "example"}
    return {**source, "input": contract}


def _costs(network: Network, probe: Any) -> dict[str, int]:
    macs = count_macs(trace_symbolic(network, probe), probe)
    return {**count_weights(network.arrays), "macs": macs}


def _first(x: Any) -> Any:
    one = sum(leaf[:1].nbytes for leaf in jax.tree.leaves(x))
    fit = _MOST_BYTES // max(one, 1)
    return take_examples(x, slice(max(_FEWEST_EXAMPLES, min(_MOST_EXAMPLES, fit))))
