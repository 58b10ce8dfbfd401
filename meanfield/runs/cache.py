"""Compiled programs, stored between commands in the user's cache folder.

They are stored by JAX's persistent compilation cache; this module sets its folder and
size. It does not import JAX, which reads the environment when it is imported.
"""

import contextlib
import os
from pathlib import Path

from platformdirs import user_cache_dir

# Its value is a folder, or "off".
VARIABLE, OFF = "MEANFIELD_CACHE", "off"
# If the folder is larger than this, the least recently used programs are deleted until
# the rest has at most half this size.
MOST_BYTES = 500_000_000
# Programs that compile in less time are not stored.
LEAST_SECONDS = 0.2


def keep_programs(wanted: bool = True) -> str:
    """Let JAX store its compiled programs; must be called before JAX is imported.

    Args:
        wanted: whether to store them. If not, or if MEANFIELD_CACHE is "off" or
            JAX_COMPILATION_CACHE_DIR is set, JAX's own settings are left unchanged.

    Returns:
        A message to the user if they cannot be stored, else the empty text.
    """
    place = os.environ.get(VARIABLE)
    if not wanted or place == OFF or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return ""
    folder = Path(place) if place else Path(user_cache_dir("meanfield")) / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return (
            f"compiled programs are not kept: {folder} cannot be written to "
            f"({error.strerror}); set {VARIABLE}=FOLDER for another folder, or "
            f"{VARIABLE}=off for none"
        )
    prune(folder, MOST_BYTES)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault(
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST_SECONDS)
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    return ""


def prune(folder: Path, most: int) -> None:
    """Delete the least recently used files of a folder that is too large."""
    entries = []
    for path in folder.iterdir():
        # Another process may prune at the same time.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            entries.append((max(status.st_atime, status.st_mtime), status, path))
    total = sum(status.st_size for _, status, _ in entries)
    if total <= most:
        return
    for _, status, path in sorted(entries, key=lambda entry: entry[0]):
        if total <= most // 2:
            return
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        total -= status.st_size
