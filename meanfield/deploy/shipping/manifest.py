"""The manifest of a shipped folder: name, size and sha256 of every file.

``manifest.json`` lists all files of the folder except itself and its signature. Without
a signature (see `signature`) the manifest detects accidental changes but not attacks,
because whoever changes a file on purpose can also change the manifest.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from meanfield.checks import require
from meanfield.files import write_text

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
MANIFEST_VERSION = 1
# Largest size of a text file that is read from a shipped folder; most have a few
# kilobytes.
MOST_TEXT = 16 * 2**20
# Names without slash, backslash, colon or leading dot: files in the folder itself.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_CHUNK = 2**20


def file_hash(path: str | os.PathLike) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def file_in(folder: Path, name: Any, listed_by: str) -> Path:
    """The path of a file that a card or a manifest names.

    Raises:
        ValueError: the name leads out of the folder, or does not belong to a file.
        FileNotFoundError: there is no such file.
    """
    require(
        isinstance(name, str) and _NAME.fullmatch(name) is not None,
        f"the {listed_by} of {folder} must name files without folders, by letters, "
        f"digits, dots, dashes and underscores; got {name!r}. Ship again.",
    )
    path = folder / name
    require(
        not path.is_symlink(),
        f"{path} must be a file and not a symbolic link. Ship again.",
    )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; its {listed_by} lists it.")
    return path


def read_text_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object of a shipped folder.

    Raises:
        ValueError: the file is too large, or is not a JSON object.
    """
    size = path.stat().st_size
    require(
        size <= MOST_TEXT,
        f"{path} has {size:,} bytes; a {what} has at most {MOST_TEXT:,}.",
    )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a {what}, or was edited: {error!r}."
        ) from error
    require(
        isinstance(content, dict),
        f"{path} is not a {what}, or was edited: it holds a {type(content).__name__}.",
    )
    return content


def write_manifest(folder: Path) -> None:
    """List every file of a folder."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST, SIGNATURE)
    }
    content = {"version": MANIFEST_VERSION, "files": files}
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def check_manifest(folder: Path) -> None:
    """Compare every file of a folder with its manifest.

    Raises:
        FileNotFoundError: a file, or the manifest, is missing.
        ValueError: a file was changed after shipping, a file is not listed, or the
            manifest is damaged or newer.
    """
    path = file_in(folder, MANIFEST, "card")
    content = read_text_json(path, "manifest")
    version, files = content.get("version"), content.get("files")
    require(
        version == MANIFEST_VERSION,
        f"{path} has manifest version {version!r}; this version of meanfield reads "
        f"{MANIFEST_VERSION}. Update meanfield, or restore the file.",
    )
    require(
        isinstance(files, dict) and all(isinstance(f, dict) for f in files.values()),
        f"{path} is not a manifest, or was edited: it lists no files.",
    )
    assert isinstance(files, dict)
    for name, entry in files.items():
        file = file_in(folder, name, "manifest")
        require(
            file.stat().st_size == entry.get("bytes")
            and file_hash(file) == entry.get("sha256"),
            f"{file} is not the file that was shipped: its size or sha256 differs from "
            "the manifest's. Restore it from a copy, or ship again.",
        )
    # Python writes a __pycache__ folder when the NumPy runtime is imported.
    known = {*files, MANIFEST, SIGNATURE, "__pycache__"}
    strangers = sorted(p.name for p in folder.iterdir() if p.name not in known)
    require(
        not strangers,
        f"{folder} holds {strangers[:5]}, which its manifest does not list. Move them "
        "out of the folder.",
    )
