"""Whether shipped files still do what their card says: loaded, run, compared.

A shipped folder holds some inputs with the outputs that every file gave when it was
shipped (``probe.safetensors``), and a manifest of everything in it. Both are checked
here, on whatever machine and versions the files have reached.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.compare import compare, compare_int8
from meanfield.deploy.formats.formats import (
    SUFFIXES,
    Exported,
    export,
    load_predictor,
)
from meanfield.deploy.formats.together import compare_together, run_together
from meanfield.deploy.formats.whole_inputs import as_shrunk, jit_predict, opened
from meanfield.tensors import load_arrays, save_tree

from .card import ModelCard, load_card
from .manifest import MANIFEST, check_manifest, file_hash, file_in
from .signature import check_signature

PROBE = "probe.safetensors"
# Another machine, or other versions, may round otherwise.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Checked:
    """One file that passed.

    Attributes:
        file: its name.
        largest_difference: from the outputs on record.
        signer: who signed the folder, if that was asked.
    """

    file: str
    largest_difference: float
    signer: str | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """Inputs and outputs on record.

    Attributes:
        x: a batch of whole inputs.
        outputs: for each file, the outputs that it gave for them.
        calibration: other inputs, for the ranges of 8-bit files; None if none are kept.
        link: from outputs to probabilities: "softmax", "sigmoid", or "none".
    """

    x: np.ndarray
    outputs: Mapping[str, Any]
    calibration: np.ndarray | None = None
    link: str = "softmax"


def save_probe(folder: Path, probe: Probe) -> None:
    """Keep inputs, and by file name the outputs that they must give."""
    arrays = {"x": probe.x}
    arrays |= {f"outputs:{name}": one for name, one in probe.outputs.items()}
    if probe.calibration is not None:
        arrays["calibration"] = probe.calibration
    arrays = {name: jnp.asarray(array) for name, array in arrays.items()}
    save_tree(folder / PROBE, arrays, {"link": probe.link})


def load_probe(folder: str | os.PathLike) -> Probe:
    """Inputs and outputs on record.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the file was changed.
    """
    path = Path(folder, PROBE)
    arrays, about = load_arrays(path)
    require("x" in arrays, f"{path} holds no inputs; it was edited. Ship again.")
    outputs = {
        name.removeprefix("outputs:"): array
        for name, array in arrays.items()
        if name.startswith("outputs:")
    }
    link = about.get("link", "softmax")
    return Probe(arrays["x"], outputs, arrays.get("calibration"), link)


def check_shipped(
    folder: str | os.PathLike,
    *,
    like: Any = None,
    signers: str | os.PathLike | None = None,
) -> list[Checked]:
    """Load every file of a shipped folder in its runtime and compare its outputs.

    The hashes tell accidents. Whoever can change a file can change its hash as well;
    that a folder comes from somebody only `signers` can tell.

    Args:
        folder: what `ship` made.
        like: for archives, a model of the same structure.
        signers: a file of names and public keys of SSH, one of which must have signed
            the folder (`sign_shipped`); None asks for no signature.

    Returns:
        One entry a file.

    Raises:
        FileNotFoundError: a file is missing, or the signature that is asked for.
        ValueError: a file is not the one that was shipped, its outputs differ, or the
            signature is of somebody else.
        ImportError: a runtime is missing; the message names the extra.
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
    archive: str | os.PathLike, out: str | os.PathLike, *, format: str, like: Any
) -> Exported:
    """Write a shipped archive in another format, compared on the folder's inputs.

    The archive must be the one that its folder's card lists, and give the outputs on
    record.

    Args:
        archive: a ``.safetensors`` file in a shipped folder.
        out: the file to write; it must not exist.
        format: as for `export`.
        like: a model of the same structure.

    Returns:
        As for `export`.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: the archive lies in no shipped folder.
        ValueError: the archive or its folder was changed, is newer, or belongs to
            another structure; an unknown format, or one that does not have an
            operation.
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
        f"{archive} is not listed by the card beside it, which lists "
        f"{sorted(map(str, entries))}.",
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
    )


def _checked_card(folder: Path) -> ModelCard:
    """The card of a folder whose files are those that were shipped."""
    card = load_card(folder)
    # The first form of a card came without a manifest.
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
