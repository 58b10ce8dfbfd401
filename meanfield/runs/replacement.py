"""One run takes the place of another: built beside, swapped by renaming, deleted last.

    OUT/.next     the new run while it is trained; the old one is untouched
    OUT/.ready    the new run when it is whole: from here on it is the run of OUT

A process that is killed before `.next` is renamed to `.ready` leaves the old run as it
was; one that is killed later leaves the rest of the work to whoever opens the run next.
"""

import contextlib
import os
import shutil
from pathlib import Path

from meanfield.files import sync_folder, write_text

NEXT, READY = ".next", ".ready"
MANIFEST = "files.txt"
# What a run may hold; everything else in its folder is the user's own.
FILES = (
    "config.json",
    "ensemble.safetensors",
    "metrics.json",
    "history.csv",
    "connections.csv",
    "credit.json",
    "coalitions.json",
    "analysis.json",
    "report.html",
    "checkpoints/*.safetensors",
    "plots/*.png",
)


def commit(out: Path) -> None:
    """Make the run in ``OUT/.next`` the run of a folder."""
    new = [path for pattern in FILES for path in (out / NEXT).glob(pattern)]
    names = sorted(path.relative_to(out / NEXT).as_posix() for path in new)
    write_text(out / NEXT / MANIFEST, "\n".join(names))
    os.replace(out / NEXT, out / READY)
    sync_folder(out)
    finish(out)


def finish(out: Path) -> None:
    """Bring a replacement that was decided to its end; nothing if there is none."""
    ready = out / READY
    if not ready.is_dir():
        return
    # Of several processes that do this at once, each finds less to do.
    with contextlib.suppress(FileNotFoundError):
        new = (ready / MANIFEST).read_text(encoding="utf-8").split("\n")
        for name in new:
            if (ready / name).is_file():
                (out / name).parent.mkdir(exist_ok=True)
                os.replace(ready / name, out / name)
        for old in [path for pattern in FILES for path in out.glob(pattern)]:
            if old.relative_to(out).as_posix() not in new:
                old.unlink(missing_ok=True)
        sync_folder(out)
        (ready / MANIFEST).unlink()
    shutil.rmtree(ready, ignore_errors=True)
