"""Atomic files: written under a temporary name beside the target, then renamed.

An unfinished file or folder is locked by the process that makes it, so that leftovers
of a killed process can be distinguished from files that are still being written.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers stay, and folders are not locked.
    fcntl = None

LOCK = ".lock"
_HALF = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{16}\.part(\.\w+)?")
# Temporary names that an earlier version gave.
_OLD_HALF = re.compile(r"\.(?P<target>.+(?P<suffix>\.\w+))\.[a-z0-9_]{8}(?P=suffix)")
_OLD_FOLDER = re.compile(r"\.(?P<target>.+)-[a-z0-9_]{8}")


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; rename it onto `target` when the block succeeds.

    The temporary file is in the target's folder, so the rename never crosses a file
    system. File and folder are flushed to disk. If the block raises, the temporary file
    is removed and `target` is unchanged. Leftovers of killed processes for the same
    target are removed.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    with _full_disk_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
        handle, temporary = _create(target)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
            if handle is not None:
                os.close(handle)


@contextlib.contextmanager
def scratch_folder(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside a target, in which to make the target.

    Leftovers of killed processes in the target's folder are removed.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    folder, handle = None, None
    while folder is None:
        folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
        folder.mkdir()
        if fcntl is not None:
            handle = os.open(folder, os.O_RDONLY)
            # Another process may have removed the folder before it was locked.
            if not _lock(handle) or not folder.exists():
                os.close(handle)
                folder = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        if handle is not None:
            os.close(handle)


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(target: str | os.PathLike, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the system supports it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder on request, and need not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sweep(folder: Path, target: str | None = None) -> None:
    """Remove unfinished files that killed processes left in a folder.

    Args:
        folder: the folder.
        target: only unfinished files for this target; None for all.
    """
    if fcntl is None or not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _half_made(path)
        if found is None or target not in (None, found["target"]) or path.is_symlink():
            continue
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if not _lock(handle):
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(handle)


def _half_made(path: Path) -> re.Match[str] | None:
    """Match the temporary name of an unfinished file; None for the user's files."""
    found = _HALF.fullmatch(path.name)
    if found is not None:
        return found
    if not path.is_dir():
        return _OLD_HALF.fullmatch(path.name)
    found = _OLD_FOLDER.fullmatch(path.name)
    if found is None:
        return None
    inside = [entry.name for entry in path.iterdir()]
    return found if inside == [found["target"]] else None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder while the block runs.

    Raises:
        BlockingIOError: another process has locked the folder.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(handle):
            raise BlockingIOError(
                f"another process is writing to {folder}. Wait until it has ended, or "
                "choose another folder."
            )
        yield
    finally:
        os.close(handle)


def _create(target: Path) -> tuple[int | None, Path]:
    """A new locked file beside the target, with permissions from the umask."""
    while True:
        name = f".{target.name}.{secrets.token_hex(8)}.part{target.suffix}"
        temporary = target.with_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        handle = os.open(temporary, flags, 0o666)
        if fcntl is None:  # Windows has no such locks, and cannot rename an open file.
            os.close(handle)
            return None, temporary
        # Another process may have removed the file before it was locked.
        if _lock(handle) and temporary.exists():
            return handle, temporary
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False if another process has locked it."""
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _full_disk_explained(target: Path) -> Iterator[None]:
    """Explain the error of a full disk: name the file, and say an older one is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk is full: {target} could not be written, and an older file "
            "there is unchanged. Free some space, or choose another folder",
        ) from error
