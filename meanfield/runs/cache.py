"""Compiled programs, kept between commands in the user's cache folder.

JAX itself keeps them (its persistent compilation cache); here is decided where, and how
much. Nothing heavy is imported: JAX reads the environment when it is.
"""

import contextlib
import os
from pathlib import Path

from platformdirs import user_cache_dir

# A folder, or "off".
VARIABLE, OFF = "MEANFIELD_CACHE", "off"
# When the folder holds more, the programs used longest ago go until half is left.
MOST_BYTES = 500_000_000
# Programs that compile faster are not worth a file.
LEAST_SECONDS = 0.2


def keep_programs(wanted: bool = True) -> str:
    """Let JAX keep its compiled programs; call it before JAX is imported.

    Args:
        wanted: whether to; else, or where the variable MEANFIELD_CACHE says off,
            nothing is read or written.

    Returns:
        What a person should know: why they are not kept, or nothing.
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
            f"({error.strerror}); {VARIABLE}=FOLDER names another, {VARIABLE}=off none"
        )
    prune(folder, MOST_BYTES)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault(
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST_SECONDS)
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    return ""


def prune(folder: Path, most: int) -> None:
    """Remove what was used longest ago from a folder that holds too much."""
    entries = []
    for path in folder.iterdir():
        # Another process may prune as well.
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
