"""Files that are either whole or absent: write beside the target, then rename.

A file under construction is locked by the process that writes it, so that what a
killed process left behind can be told from what another one is writing just now.
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers stay, and folders are not locked.
    fcntl = None

LOCK = ".lock"
_HALF = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{16}\.part(\.\w+)?")
# The form of an earlier version.
_OLD_HALF = re.compile(r"\.(?P<target>.+(?P<suffix>\.\w+))\.[a-z0-9_]{8}(?P=suffix)")


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; rename it onto `target` when the block succeeds.

    The temporary file lives in the target's folder, so the rename never crosses a
    file system. File and folder are flushed to disk. When the block raises, the
    temporary file is removed and what stood at `target` is untouched. What a killed
    process left of the same target is removed.

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


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(target: str | os.PathLike, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse it; they flush by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sweep(folder: Path, target: str | None = None) -> None:
    """Remove what killed processes left half-written in a folder.

    Args:
        folder: where to look.
        target: only what was to become this file; None: everything.
    """
    if fcntl is None or not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _HALF.fullmatch(path.name) or _OLD_HALF.fullmatch(path.name)
        if found is None or target not in (None, found["target"]):
            continue
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            if _lock(file.fileno()):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder while the block runs.

    Raises:
        BlockingIOError: another process has it.
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
    """A new locked file beside the target; the umask decides who may read it."""
    while True:
        name = f".{target.name}.{secrets.token_hex(8)}.part{target.suffix}"
        temporary = target.with_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        handle = os.open(temporary, flags, 0o666)
        if fcntl is None:  # Where nothing is locked, an open file cannot be renamed.
            os.close(handle)
            return None, temporary
        # Another process may have swept it away before it was locked.
        if _lock(handle) and temporary.exists():
            return handle, temporary
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False when another has it."""
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _full_disk_explained(target: Path) -> Iterator[None]:
    """Say what a full disk left undone, and that nothing was lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk is full: {target} could not be written, and what stood there "
            "before is untouched. Free some space, or choose another folder",
        ) from error
