"""Whether shipped files still do what their card says: loaded, run, compared.

A shipped folder holds a few inputs with the outputs that every file had to give
(`probe.safetensors`), and the sha256 of every file in its card. Both are checked here,
on whatever machine and versions the files have reached.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.compare import compare
from meanfield.deploy.formats.formats import SUFFIXES, export, load_predictor
from meanfield.deploy.formats.together import compare_together, run_together
from meanfield.deploy.formats.whole_inputs import as_shrunk
from meanfield.tensors import load_arrays, save_tree

CARD, PROBE = "card.json", "probe.safetensors"
CARD_VERSION = 1
# Inputs kept for later checks; at export a file is compared on many more.
KEPT = 8
# Another machine, or other versions, may round otherwise.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Checked:
    """One file that passed.

    Attributes:
        file: its name.
        largest_difference: from the outputs on record.
    """

    file: str
    largest_difference: float


def file_hash(path: str | os.PathLike) -> str:
    """sha256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save_probe(folder: Path, x: np.ndarray, outputs: Mapping[str, Any]) -> None:
    """Keep inputs, and by file name the outputs that they must give."""
    arrays = {"x": x, **{f"outputs:{name}": one for name, one in outputs.items()}}
    save_tree(folder / PROBE, {n: jnp.asarray(a) for n, a in arrays.items()})


def load_probe(folder: str | os.PathLike) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Inputs, and outputs by file name.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the file was changed.
    """
    arrays, _ = load_arrays(Path(folder, PROBE))
    outputs = {
        name.removeprefix("outputs:"): array
        for name, array in arrays.items()
        if name != "x"
    }
    return arrays["x"], outputs


def load_card(folder: str | os.PathLike) -> dict[str, Any]:
    """The contents of a shipped folder's ``card.json``.

    Raises:
        FileNotFoundError: the folder has no card.
        ValueError: the card is damaged, or from a newer version.
    """
    path = Path(folder, CARD)
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no shipped sub-networks: it has no {CARD}. Make them with "
            "`meanfield sample RUN --out FOLDER`."
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version = card["version"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a card, or was edited: {error!r}.") from error
    require(
        version <= CARD_VERSION,
        f"{path} has card version {version}; this version of meanfield reads up to "
        f"{CARD_VERSION}. Update meanfield.",
    )
    return card


def check_shipped(folder: str | os.PathLike, *, like: Any = None) -> list[Checked]:
    """Load every file of a shipped folder in its runtime and compare its outputs.

    Args:
        folder: what `ship` made.
        like: for archives, a model of the same structure.

    Returns:
        One entry a file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the one that was shipped, or its outputs differ.
        ImportError: a runtime is missing; the message names the extra.

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
    card = load_card(folder)
    x, outputs = load_probe(folder)
    done = []
    for entry in card["subnetworks"]:
        path = _same_file(folder, entry)
        found = load_predictor(path, card["format"], like=like)(x)
        expected = outputs[entry["file"]]
        gap = compare(expected, found, card["format"], TOLERANCE, path.name)
        done.append(Checked(path.name, gap))
    if "ensemble" in card:
        path = _same_file(folder, card["ensemble"])
        found = run_together(path, x)
        expected = {name: outputs[f"{path.name}/{name}"] for name in found}
        done.append(Checked(path.name, compare_together(expected, found, TOLERANCE)))
    return done


def convert(
    archive: str | os.PathLike, out: str | os.PathLike, *, format: str, like: Any
) -> Any:
    """Write a shipped archive in another format, compared on the folder's inputs.

    Args:
        archive: a ``.safetensors`` file in a shipped folder.
        out: the file to write; it must not exist.
        format: as for `export`.
        like: a model of the same structure.

    Returns:
        As for `export`.

    Raises:
        FileExistsError: `out` exists.
        ValueError: the archive is damaged, newer, or belongs to another structure; an
            unknown format, or one that does not have an operation.
    """
    archive = Path(archive)
    require(
        archive.suffix == SUFFIXES["safetensors"],
        f"`archive` must be a .safetensors file; got {archive.name}.",
    )
    shrunk = as_shrunk(archive, like)
    x, _ = load_probe(archive.parent)
    return export(shrunk, out, probe=x, format=format)


def _same_file(folder: Path, entry: Mapping[str, Any]) -> Path:
    path = folder / entry["file"]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; its card lists it.")
    require(
        file_hash(path) == entry["sha256"],
        f"{path} is not the file that was shipped: its sha256 differs from the card's. "
        "Restore it from a copy, or ship again.",
    )
    return path
