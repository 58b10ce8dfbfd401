"""Files that are either whole or absent: write beside the target, then rename."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; rename it onto `target` when the block succeeds.

    The temporary file lives in the target's folder, so the rename never crosses a
    file system. It is flushed to disk before the rename. When the block raises, the
    temporary file is removed and what stood at `target` is untouched.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    with _full_disk_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(target: str | os.PathLike, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
