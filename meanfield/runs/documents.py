"""The JSON files of a run folder: written whole, with checksums checked when read.

A file made from an ensemble holds a "seal": the seal of that ensemble, which
distinguishes the file from those of other ensembles, and the sha256 of the file's own
name and contents, which detects any change.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from meanfield.checks import require
from meanfield.files import write_text

from .json_checks import Check

SEAL = "seal"
MAX_BYTES = 2**28


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, remedy: str, check: Check) -> Any:
    """The contents of a JSON file.

    Args:
        path: the file.
        remedy: a sentence that says what to do if the file is damaged.
        check: raises if the contents are not valid.

    Raises:
        ValueError: the file is not JSON, too large, or not valid.
    """
    size = path.stat().st_size
    require(
        size <= MAX_BYTES,
        f"{path} has {size:,} bytes; a file of a run has at most {MAX_BYTES:,}. "
        f"{remedy}",
    )
    try:
        content = json.loads(path.read_bytes(), parse_constant=_nothing)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}); it was truncated or edited. "
            f"{remedy}"
        ) from error
    try:
        check(content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; it was edited. {remedy}") from error
    return content


def write_sealed(path: Path, content: dict[str, Any], ensemble: str) -> None:
    """Write a JSON file that was made from an ensemble, with a seal.

    Args:
        path: the file.
        content: anything JSON can hold; numbers that are not finite become null.
        ensemble: the ensemble's seal.
    """
    content = json.loads(json.dumps(content), parse_constant=_nothing)
    seal = {"ensemble": ensemble, "sha256": _digest(path.name, ensemble, content)}
    write_json(path, {**content, SEAL: seal})


def read_sealed(
    path: Path, remedy: str, check: Check, ensemble: str, *, bare: bool
) -> dict[str, Any] | None:
    """Contents of a sealed file; None if it is missing or of another ensemble.

    Args:
        path: the file.
        remedy: a sentence that says what to do if the file is damaged.
        check: raises if the contents are not valid.
        ensemble: the seal of the ensemble that it must have been made from.
        bare: whether to accept a file without a seal, as earlier versions wrote it.

    Raises:
        ValueError: the file was changed after it was written.
    """
    if not path.is_file():
        return None
    content = read_json(path, remedy, check)
    seal = content.pop(SEAL, None)
    if seal is None and bare:
        return content
    seal = seal if isinstance(seal, dict) else {}
    made_from = seal.get("ensemble")
    require(
        seal.get("sha256") == _digest(path.name, made_from, content),
        f"{path} does not match its own checksum: it was changed or renamed after it "
        f"was written. {remedy}",
    )
    return content if made_from == ensemble else None


def _digest(name: str, ensemble: Any, content: dict[str, Any]) -> str:
    text = json.dumps([name, ensemble, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing(constant: str) -> None:
    """None for NaN and infinity, which are not JSON; an earlier version wrote them."""
