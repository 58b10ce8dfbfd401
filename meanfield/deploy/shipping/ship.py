"""From drawn sub-networks to a folder of verified files with a model card."""

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.formats import SUFFIXES, canonical, export, load_predictor
from meanfield.deploy.formats.together import (
    NAME,
    export_together,
    link_of,
    run_together,
)
from meanfield.deploy.formats.whole_inputs import Predict, jit_predict, opened
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shrinking.shrink import Shrunk, shrink
from meanfield.files import write_text
from meanfield.learning.likelihoods import Categorical
from meanfield.tensors import save_tree

from .card import label_fractions, to_markdown, versions
from .costs import count_macs, count_weights, latencies
from .scores import choices, payoff, score, score_average
from .selection import choose_best, measure_diversity
from .served import CARD, CARD_VERSION, KEPT, file_hash, save_probe
from .subnetworks import Subnetwork

# Inputs on which every file is compared with its network.
_PROBE = 256
CARD_TEXT, MASKS = "card.md", "masks.safetensors"


def ship(
    subnetworks: Sequence[Subnetwork],
    out: str | os.PathLike,
    *,
    data: tuple[Any, Any],
    format: str = "safetensors",
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    validation: tuple[Any, Any] | None = None,
    calibration: Any = None,
    labels: Any = None,
    dtype: str = "float32",
    together: bool = False,
    allow_constant: bool = False,
    measure: bool = True,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Shrink, write, load back, compare and describe drawn sub-networks.

    Args:
        subnetworks: what `sample_subnetworks` returned.
        out: a folder to make; it may exist if it is empty. It appears whole or not at
            all.
        data: test inputs and targets (x, y) for the reported scores; the first inputs
            are the probe on which files are compared.
        format: "safetensors", "numpy" (or "npz"), "onnx", "onnx-int8", "stablehlo".
        likelihood: from outputs to a distribution of the targets.
        validation: inputs and targets that choose the best of the K networks; they must
            not be the test data, whose scores are reported.
        calibration: inputs for 8-bit ranges and for the means of units outside a
            coalition; validation inputs (or else the test inputs) if not given.
        labels: the result of `label_connections`, for the card and the archives.
        dtype: of an archive's numbers, "float32" or "float16".
        together: whether to write also one ONNX file of all K with their mean, standard
            deviation and mutual information.
        allow_constant: whether a network that shrinks to nothing may ship.
        measure: whether to time the networks (before and after).
        source: what the card says of their origin (run folder, data, seed). An entry
            `targets` says what the outputs of the files mean and heads the card.

    Returns:
        The contents of ``card.json``.

    Raises:
        FileExistsError: `out` exists and is not empty.
        ValueError: no networks, an unknown format, validation data that are the test
            data, or a check that fails.
        ImportError: an optional package is missing; the message names the extra.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 2, key=jax.random.key(2))
        >>> data = jax.random.normal(jax.random.key(3), (8, 4)), jax.numpy.arange(8) % 3
        >>> card = mf.deploy.ship(drawn, "out", data=data, format="npz", measure=False)
        >>> [entry["file"] for entry in card["subnetworks"]]
        ['subnetwork-0.npz', 'subnetwork-1.npz']
    """
    format, out = canonical(format), Path(out)
    require(len(subnetworks) > 0, "`subnetworks` is empty; draw at least one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not empty; choose another folder. Nothing changed."
        )
    x, y = np.asarray(data[0]), np.asarray(data[1])
    _check_apart(x, validation)
    if calibration is None:
        calibration = x if validation is None else validation[0]
    work = _Work(
        x,
        y,
        format,
        likelihood,
        np.asarray(calibration),
        dtype,
        allow_constant,
        measure,
        dict(source or {}),
    )
    codes = getattr(labels, "labels", labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        temporary = Path(folder, out.name)
        temporary.mkdir()
        card = _fill(temporary, list(subnetworks), work, codes, validation, together)
        card["source"] = work.source
        write_text(temporary / CARD, json.dumps(card, indent=2) + "\n")
        write_text(temporary / CARD_TEXT, to_markdown(card))
        os.replace(temporary, out)
    return card


@dataclasses.dataclass(frozen=True)
class _Work:
    x: np.ndarray
    y: np.ndarray
    format: str
    likelihood: Any
    calibration: np.ndarray
    dtype: str
    allow_constant: bool
    measure: bool
    source: dict[str, Any]

    @property
    def probe(self) -> np.ndarray:
        """Inputs on which files are compared (and ranges of 8-bit files taken)."""
        return self.x[:_PROBE]

    def score(self, predict: Predict) -> dict[str, Any]:
        """Scores of a runtime on the test data."""
        return score(predict(self.x), self.y, self.likelihood)

    def latency(self, predict: Predict) -> dict[str, float] | None:
        """Timings of a runtime."""
        return latencies(predict, self.x) if self.measure else None


def _fill(
    folder: Path,
    subnetworks: list[Subnetwork],
    work: _Work,
    codes: Mapping[str, Any] | None,
    validation: tuple[Any, Any] | None,
    together: bool,
) -> dict[str, Any]:
    smaller, entries, outputs, payoffs = [], [], [], []
    kept: dict[str, Any] = {}
    for number, subnetwork in enumerate(subnetworks):
        name = f"subnetwork-{number}{SUFFIXES[work.format]}"
        shrunk, entry, predict = _one(folder / name, subnetwork, work, codes)
        entries.append({"file": name, **entry})
        smaller.append(shrunk)
        whole = jit_predict(*opened(shrunk))
        kept[name] = whole(work.x[:KEPT])
        outputs.append(predict(work.x))
        if validation is not None:
            xv, yv = map(np.asarray, validation)
            payoffs.append(payoff(score(predict(xv), yv, work.likelihood)))
    masks = {
        f"{number}:{name}": jnp.asarray(np.packbits(mask, axis=None))
        for number, one in enumerate(subnetworks)
        for name, mask in one.masks.items()
    }
    shapes = {name: list(mask.shape) for name, mask in subnetworks[0].masks.items()}
    save_tree(folder / MASKS, masks, {"shapes": shapes})
    card: dict[str, Any] = {
        "version": CARD_VERSION,
        "format": work.format,
        "rule": subnetworks[0].rule,
        "device": f"{platform.machine()}, one thread",
        "subnetworks": entries,
        "labels": label_fractions(codes),
        "versions": versions(),
    }
    if validation is not None:
        best = choose_best(payoffs)
        card["selection"] = {
            "best": best,
            "file": entries[best]["file"],
            "payoffs": payoffs,
            "num_validation": len(validation[1]),
        }
    chosen = [choices(one, work.likelihood) for one in outputs]
    if chosen[0] is not None:
        spread = measure_diversity(chosen, [one.masks for one in subnetworks])
        card["diversity"] = dataclasses.asdict(spread)
    if together:
        card["ensemble"] = _together(folder, smaller, outputs, work)
        found = run_together(folder / NAME, work.x[:KEPT])
        kept |= {f"{NAME}/{name}": value for name, value in found.items()}
    save_probe(folder, work.x[:KEPT], kept)
    return card


def _one(
    path: Path, subnetwork: Subnetwork, work: _Work, codes: Mapping[str, Any] | None
) -> tuple[Shrunk, dict[str, Any], Predict]:
    """Write one network; what the card says of it, and its runtime."""
    shrunk = shrink(
        subnetwork.model,
        work.probe,
        coalition=subnetwork.coalition,
        data=work.calibration,
        allow_constant=work.allow_constant,
    )
    own = {k: shrunk.slice_like(k, v) for k, v in (codes or {}).items()}
    origin = {
        "rule": subnetwork.rule,
        "key_data": subnetwork.key_data and list(subnetwork.key_data),
        "key_impl": subnetwork.key_impl,
        "mask_hash": subnetwork.mask_hash,
    }
    done = export(
        shrunk,
        path,
        probe=work.probe,
        format=work.format,
        dtype=work.dtype,
        about={**origin, "source": work.source, "versions": versions()},
        labels=own,
        calibration=work.calibration,
    )
    predict = load_predictor(path, work.format, like=shrunk.model)
    entry = {
        "bytes": done.bytes,
        "sha256": file_hash(path),
        **_costs(shrunk.model, shrunk.select_inputs(work.probe)),
        **work.score(predict),
        "latency": work.latency(predict),
        "largest_difference": {
            "shrinking": shrunk.largest_difference,
            "format": done.largest_difference,
        },
        **origin,
        "num_inputs": {
            str(axis): len(kept) for axis, kept in shrunk.kept_inputs.items()
        },
        "before": _before(subnetwork, work),
    }
    return shrunk, entry, predict


def _before(subnetwork: Subnetwork, work: _Work) -> dict[str, Any]:
    """The masked network as it was drawn, in the same runtime; its file is dropped."""
    plain = "onnx" if work.format == "onnx-int8" else work.format
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"whole{SUFFIXES[plain]}")
        if plain == "safetensors":
            # The file everyone has: whole arrays, no masks.
            bytes_ = _dense_bytes(subnetwork.model)
            export(subnetwork.model, path, probe=work.probe, format=plain)
        else:
            bytes_ = export(
                subnetwork.model, path, probe=work.probe, format=plain
            ).bytes
        predict = load_predictor(path, plain, like=subnetwork.model)
        return {
            "bytes": bytes_,
            **_costs(subnetwork.model, work.probe),
            **work.score(predict),
            "latency": work.latency(predict),
        }


def _costs(model: Any, probe: np.ndarray) -> dict[str, int]:
    network = as_network(model)
    macs = count_macs(trace_symbolic(network, probe), probe)
    return {**count_weights(network.arrays), "macs": macs}


def _dense_bytes(model: Any) -> int:
    return sum(np.asarray(a).nbytes for a in as_network(model).arrays.values())


def _together(
    folder: Path, smaller: list[Shrunk], outputs: list[np.ndarray], work: _Work
) -> dict[str, Any]:
    """All networks in one ONNX file, compared with the members."""
    link = link_of(work.likelihood, outputs[0])
    path = folder / NAME
    done = export_together(smaller, path, probe=work.probe, link=link)
    predict = load_predictor(path, "onnx")
    return {
        "file": NAME,
        "bytes": done.bytes,
        "sha256": file_hash(path),
        "num_members": len(smaller),
        "outputs": "mean, std" + ("" if link == "none" else ", mutual_information"),
        **score_average(outputs, work.y, work.likelihood),
        "latency": work.latency(predict),
        "largest_difference": done.largest_difference,
    }


def _check_apart(x: np.ndarray, validation: tuple[Any, Any] | None) -> None:
    if validation is None:
        return
    other = np.asarray(validation[0])
    require(
        len(validation) == 2 and len(validation[0]) == len(validation[1]) > 0,
        "`validation` must be a pair (x, y) of equal, positive length.",
    )
    require(
        not (other.shape == x.shape and np.array_equal(other, x)),
        "`validation` and `data` are the same inputs: the reported score would be that "
        "of the choice. Keep test data out of the choice.",
    )
