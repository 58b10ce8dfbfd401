"""Check that shipped files still give the outputs that they gave when shipped.

A shipped folder has some inputs with the outputs of every file (``probe.safetensors``),
and a manifest of all its files. Both are checked here, on the machine and with the
versions that use the files.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from meanfield.checks import require
from meanfield.deploy.formats.compare import compare, compare_int8
from meanfield.deploy.formats.formats import (
    Exported,
    export,
    load_predictor,
)
from meanfield.deploy.formats.kinds import SUFFIXES
from meanfield.deploy.formats.together import compare_together, run_together
from meanfield.deploy.formats.whole_inputs import as_shrunk, jit_predict, opened
from meanfield.deploy.graph.network import as_network
from meanfield.ensemble.frameworks import Call
from meanfield.tensors import load_arrays, save_tree

from .card import ModelCard, load_card
from .manifest import MANIFEST, check_manifest, file_hash, file_in
from .signature import check_signature
from .stored_inputs import input_structure, stored_inputs

PROBE = "probe.safetensors"
# Other machines and versions may round differently.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Checked:
    """One file that passed the check.

    Attributes:
        file: name of the file.
        largest_difference: largest difference from the stored outputs.
        signer: the name of the folder's signer, if signatures were checked.
    """

    file: str
    largest_difference: float
    signer: str | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """Stored inputs and outputs.

    Attributes:
        x: a batch of complete inputs.
        outputs: for each file, its outputs for x when it was shipped.
        calibration: other inputs, for the ranges of 8-bit files; None if not stored.
        link: map from outputs to probabilities: "softmax", "sigmoid", or "none".
    """

    x: Any
    outputs: Mapping[str, Any]
    calibration: Any = None
    link: str = "softmax"


def save_probe(folder: Path, probe: Probe) -> None:
    """Store inputs, and for each file the outputs that it must give."""
    arrays = {"x": probe.x}
    arrays |= {f"outputs:{name}": one for name, one in probe.outputs.items()}
    if probe.calibration is not None:
        arrays["calibration"] = probe.calibration
    about = {"link": probe.link}
    structure = input_structure(probe.x)
    if structure is not None:
        about["structure"] = structure
    save_tree(folder / PROBE, jax.tree.map(jnp.asarray, arrays), about)


def load_probe(folder: str | os.PathLike) -> Probe:
    """Read the stored inputs and outputs of a folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the file was changed.
    """
    path = Path(folder, PROBE)
    arrays, about = load_arrays(path)
    structure = about.get("structure")
    try:
        x = stored_inputs(arrays, structure)
    except KeyError as error:
        raise ValueError(
            f"{path} does not hold the inputs {error}; it was edited. Ship again."
        ) from error
    calibration = None
    if any(name.partition("/")[0] == "calibration" for name in arrays):
        calibration = stored_inputs(arrays, structure, "calibration")
    outputs = {
        name.removeprefix("outputs:"): array
        for name, array in arrays.items()
        if name.startswith("outputs:")
    }
    link = about.get("link", "softmax")
    return Probe(x, outputs, calibration, link)


def check_shipped(
    folder: str | os.PathLike,
    *,
    like: Any = None,
    call: Call | None = None,
    signers: str | os.PathLike | None = None,
) -> list[Checked]:
    """Load every file of a shipped folder in its runtime and compare its outputs.

    Hashes detect accidental changes. Whoever changes a file on purpose can change its
    hash too; only a signature (`signers`) proves who made a folder.

    Args:
        folder: a folder that `ship` made.
        like: for archives, a model of the same structure.
        call: how that model is called, as in `Ensemble.from_model`.
        signers: a file of names and public SSH keys, one of which must have signed the
            folder (`sign_shipped`); None if no signature is needed.

    Returns:
        One entry per file.

    Raises:
        FileNotFoundError: a file or a needed signature is missing.
        ValueError: a file was changed after shipping, its outputs differ, or the
            signer is not among `signers`.
        ImportError: a runtime is missing.
        RuntimeError: there is no ssh-keygen to check a signature.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 1, key=jax.random.key(2))
        >>> data = jax.random.normal(jax.random.key(3), (8, 4)), jax.numpy.arange(8) % 3
        >>> _ = mf.deploy.ship(drawn, "checked", data=data, format="npz", measure=False)
        >>> len(mf.deploy.check_shipped("checked"))
        1
    """
    folder = Path(folder)
    signer = None if signers is None else check_signature(folder, signers)
    card = _checked_card(folder)
    probe = load_probe(folder)
    like = None if like is None else as_network(like, call)
    done = []
    for entry in card.subnetworks:
        path = _same_file(folder, entry)
        found = load_predictor(path, card.format, like=like)(probe.x)
        expected = _on_record(probe, path.name)
        if card.format == "onnx-int8":
            gap, _ = compare_int8(expected, found, probe.link, path.name)
        else:
            gap = compare(expected, found, card.format, TOLERANCE, path.name)
        done.append(Checked(path.name, gap, signer))
    if card.ensemble is not None:
        path = _same_file(folder, card.ensemble)
        found = run_together(path, probe.x)
        expected = {name: _on_record(probe, f"{path.name}/{name}") for name in found}
        gap = compare_together(expected, found, TOLERANCE)
        done.append(Checked(path.name, gap, signer))
    return done


def convert(
    archive: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str,
    like: Any,
    raw: bool = False,
) -> Exported:
    """Convert a shipped archive to another format, and compare on the folder's inputs.

    The archive must be listed by its folder's card, and give the stored outputs.

    Args:
        archive: a ``.safetensors`` file in a shipped folder.
        out: the file to write; it must not exist.
        format: as for `export`.
        like: a model of the same structure.
        raw: as for `export`.

    Returns:
        As for `export`.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: the archive is not in a shipped folder.
        ValueError: the archive or its folder was changed, or comes from a newer version
            of meanfield; the archive has another structure than `like`; or the format
            is unknown or lacks an operation.
    """
    archive = Path(archive)
    require(
        archive.suffix == SUFFIXES["safetensors"],
        f"`archive` must be a .safetensors file; got {archive.name}.",
    )
    card = _checked_card(archive.parent)
    entries = {entry.get("file"): entry for entry in card.subnetworks}
    require(
        archive.name in entries,
        f"`archive` must be one of the files that its card lists, "
        f"{sorted(map(str, entries))}; got {archive}.",
    )
    path = _same_file(archive.parent, entries[archive.name])
    probe = load_probe(archive.parent)
    shrunk = as_shrunk(path, like)
    found = jit_predict(*opened(shrunk))(probe.x)
    expected = _on_record(probe, archive.name)
    compare(expected, found, "safetensors", TOLERANCE, archive.name)
    return export(
        shrunk,
        out,
        probe=probe.x,
        format=format,
        link=probe.link,
        calibration=probe.calibration,
        about={"source": card.source},
        raw=raw,
    )


def _checked_card(folder: Path) -> ModelCard:
    """The card of a folder, after a check that its files were not changed."""
    card = load_card(folder)
    # Folders with the first version of a card have no manifest.
    if card.version > 1 or (folder / MANIFEST).exists():
        check_manifest(folder)
    return card


def _same_file(folder: Path, entry: Mapping[str, Any]) -> Path:
    path = file_in(folder, entry.get("file"), "card")
    require(
        file_hash(path) == entry.get("sha256"),
        f"{path} is not the file that was shipped: its sha256 differs from the card's. "
        "Restore it from a copy, or ship again.",
    )
    return path


def _on_record(probe: Probe, name: str) -> Any:
    require(
        name in probe.outputs,
        f"{PROBE} has no outputs of {name}; it was edited. Ship again.",
    )
    return probe.outputs[name]
