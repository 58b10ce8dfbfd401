"""Write drawn sub-networks to a folder of verified files with a model card."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.kinds import SUFFIXES, canonical
from meanfield.deploy.formats.together import NAME, link_of, run_together
from meanfield.deploy.graph.inputs import (
    as_batch,
    batch_size,
    take_examples,
    taken_by_file,
)
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.shrinking.shrink import Shrunk
from meanfield.files import scratch_folder, write_text
from meanfield.learning.likelihoods import Categorical
from meanfield.tensors import save_tree

from .answers import answers
from .card import CARD, CARD_VERSION, ModelCard, label_fractions, package_versions
from .manifest import write_manifest
from .markdown import to_markdown
from .records import Data, Written, measure_whole, write_one, write_together
from .scores import choices, payoff, score
from .selection import choose_best, measure_diversity
from .served import Probe, save_probe
from .stored_inputs import input_structure
from .subnetworks import Subnetwork

CARD_TEXT, MASKS = "card.md", "masks.safetensors"
EXAMPLE = "example.json"
# Number of inputs stored for later checks. For archives, which can be converted to
# other formats, all compared inputs are stored.
KEPT = 8


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
    raw: bool = False,
    dense: Any = None,
    control: Callable[[Shrunk], Mapping[str, Any] | None] | None = None,
) -> ModelCard:
    """Shrink, write, load back, compare and describe drawn sub-networks.

    Args:
        subnetworks: the result of `sample_subnetworks`.
        out: a folder to make; it may exist if it is empty. It is written whole or not
            at all.
        data: test inputs and targets (x, y) for the reported scores; the first inputs
            are the probe on which files are compared. Inputs may be a dictionary, a
            tuple or a list of arrays.
        format: "safetensors", "numpy" (or "npz"), "onnx", "onnx-int8", "stablehlo".
        likelihood: map from outputs to a distribution of the targets.
        validation: inputs and targets by which the best of the K networks is chosen;
            they must not be the test data, whose scores are reported.
        calibration: inputs for 8-bit ranges and for the means of units outside a
            coalition; validation inputs (or else the test inputs) if not given.
        labels: the result of `label_connections`, for the card and the archives.
        dtype: "float32", or "float16" to round the numbers of archives and ONNX files
            to 16 bits; the card states by how much this changes the outputs.
        together: whether to write also one ONNX file of all K networks, which gives the
            mean and standard deviation of their outputs and the mutual information.
        allow_constant: whether to accept a network that shrinks to a constant.
        measure: whether to time the networks (before and after shrinking).
        source: a description of the networks' origin for the card (run folder, data,
            seed). Its entries `targets` and `input` describe outputs and inputs of the
            files.
        raw: whether ONNX files take raw inputs and decode their outputs, as `source`
            describes; see `export`.
        dense: a whole network of the same kind, whose scores, bytes and latency in the
            same format the card shows for comparison.
        control: function from the chosen shrunk network to the scores of another
            network of its size, which the card shows for comparison; it may return
            None, or {"missing": a text that says why there are no scores}.

    Returns:
        The contents of ``card.json``.

    Raises:
        FileExistsError: `out` exists and is not empty.
        ValueError: no networks, an unknown format, validation data that are the test
            data, or a check that fails.
        ImportError: an optional package is missing.

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
    require(len(subnetworks) > 0, "`subnetworks` must have at least one; got none.")
    require_new(out)
    x, y = as_batch(data[0], "data"), np.asarray(data[1])
    input_structure(x)  # raises now if inputs cannot be stored
    if validation is not None:
        validation = _check_apart(x, validation)
    if calibration is None:
        calibration = x if validation is None else validation[0]
    prepared = Data(
        x,
        y,
        as_batch(calibration, "calibration"),
        validation,
        format,
        likelihood,
        dtype,
        allow_constant,
        measure,
        dict(source or {}),
        raw,
        control,
    )
    codes = getattr(labels, "labels", labels)
    with scratch_folder(out) as folder:
        temporary = folder / out.name
        temporary.mkdir()
        card = _fill(temporary, list(subnetworks), prepared, codes, together, dense)
        write_text(temporary / CARD, json.dumps(dict(card), indent=2) + "\n")
        write_text(temporary / CARD_TEXT, to_markdown(card))
        write_manifest(temporary)
        os.replace(temporary, out)
    return card


def require_new(out: Path) -> None:
    """Raise if something is at the path of a folder to write.

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not empty; choose another folder. Nothing changed."
        )


def _fill(
    folder: Path,
    subnetworks: list[Subnetwork],
    data: Data,
    codes: Mapping[str, Any] | None,
    together: bool,
    dense: Any,
) -> ModelCard:
    """Write all files except the card, its Markdown and the manifest."""
    written = []
    for number, subnetwork in enumerate(subnetworks):
        path = folder / f"subnetwork-{number}{SUFFIXES[data.format]}"
        written.append(write_one(path, subnetwork, data, codes))
    _save_masks(folder, subnetworks)
    kept = KEPT if data.format != "safetensors" else batch_size(data.probe)
    ensemble, stored = None, take_examples(data.x, slice(kept))
    recorded = {one.entry["file"]: one.outputs[:kept] for one in written}
    if together:
        ensemble = write_together(folder / NAME, written, data)
        found = run_together(folder / NAME, stored)
        recorded |= {f"{NAME}/{name}": value for name, value in found.items()}
    link = link_of(data.likelihood, written[0].outputs)
    ranges = data.ranges if data.format == "safetensors" else None
    save_probe(folder, Probe(stored, recorded, ranges, link))
    _save_example(folder, data, recorded)
    chosen = [choices(one.outputs, data.likelihood) for one in written]
    spread = None
    if chosen[0] is not None:
        spread = measure_diversity(chosen, [one.masks for one in subnetworks])
    selection = _select(written, data)
    best = written[0 if selection is None else selection["best"]].shrunk
    other = None if data.control is None else data.control(best)
    whole = None
    if dense is not None:
        network = as_network(dense, subnetworks[0].call)
        whole = measure_whole(network, data, {"source": data.source})
    return ModelCard(
        version=CARD_VERSION,
        format=data.format,
        rule=subnetworks[0].rule,
        device=f"{platform.machine()}, one thread",
        subnetworks=[one.entry for one in written],
        labels=label_fractions(codes),
        versions=package_versions(),
        selection=selection,
        diversity=None if spread is None else vars(spread),
        ensemble=ensemble,
        source=data.source,
        inputs="raw" if data.raw else "features",
        dense=whole,
        control=None if other is None else dict(other),
    )


def _save_example(folder: Path, data: Data, recorded: Mapping[str, np.ndarray]) -> None:
    """Store one input with the outputs of the files for it, as readable JSON."""
    outputs = {name: np.asarray(o)[:1] for name, o in recorded.items()}
    content = {
        "input": jax.tree.map(lambda a: a[0].tolist(), taken_by_file(data.x)),
        "outputs": {name: one[0].tolist() for name, one in outputs.items()},
        "raw_input": data.source.get("input", {}).get("example", {}).get("raw"),
    }
    targets = data.source.get("targets", {})
    if "names" in targets:
        content["answers"] = {
            name: {
                part: values[0].tolist()
                for part, values in answers(one, data.likelihood, targets).items()
            }
            for name, one in outputs.items()
            if not name.startswith(f"{NAME}/")
        }
    write_text(folder / EXAMPLE, json.dumps(content, indent=2) + "\n")


def _save_masks(folder: Path, subnetworks: list[Subnetwork]) -> None:
    masks = {
        f"{number}:{name}": jnp.asarray(np.packbits(mask, axis=None))
        for number, one in enumerate(subnetworks)
        for name, mask in one.masks.items()
    }
    shapes = {name: list(mask.shape) for name, mask in subnetworks[0].masks.items()}
    save_tree(folder / MASKS, masks, {"shapes": shapes})


def _select(written: list[Written], data: Data) -> dict[str, Any] | None:
    """The network with the best score on the validation data."""
    if data.validation is None:
        return None
    x, y = data.validation
    scores = [score(one.predict(x), y, data.likelihood) for one in written]
    payoffs = list(map(payoff, scores))
    best = choose_best(payoffs)
    return {
        "best": best,
        "file": written[best].entry["file"],
        "payoffs": payoffs,
        "num_validation": len(y),
    }


def _check_apart(x: Any, validation: Any) -> tuple[Any, np.ndarray]:
    pair = "`validation` must be a pair (x, y) of equal, positive length; got another."
    require(len(validation) == 2 and len(validation[1]) > 0, pair)
    other, targets = as_batch(validation[0], "validation"), np.asarray(validation[1])
    require(batch_size(other) == len(targets), pair)
    same = jax.tree.structure(x) == jax.tree.structure(other)
    require(
        not (same and all(jax.tree.leaves(jax.tree.map(np.array_equal, x, other)))),
        "`validation` must have other inputs than `data`; got the same. The network "
        "would be chosen by the test data, and its reported score would be biased.",
    )
    return other, targets
