"""Replace a run by a new one, so that at every moment one of them is complete.

    OUT/.next     the new run while it is trained; the old one is unchanged
    OUT/.ready    the new run when it is complete: from now on it is the run of OUT

If the process is killed before `.next` is renamed to `.ready`, the old run is kept. If
it is killed later, the replacement is finished when the run is next opened.
"""

import contextlib
import os
import shutil
from pathlib import Path

from meanfield.files import sync_folder, write_text

NEXT, READY = ".next", ".ready"
MANIFEST = "files.txt"
# The files of a run; all other files in its folder are the user's.
FILES = (
    "config.json",
    "model.py",
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
    "plots/dark/*.png",
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
    """Finish a replacement that was committed; do nothing if there is none."""
    ready = out / READY
    if not ready.is_dir():
        return
    # Several processes may do this at once, so some files may already have been moved.
    with contextlib.suppress(FileNotFoundError):
        new = (ready / MANIFEST).read_text(encoding="utf-8").split("\n")
        for name in new:
            if (ready / name).is_file():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(ready / name, out / name)
        for old in [path for pattern in FILES for path in out.glob(pattern)]:
            if old.relative_to(out).as_posix() not in new:
                old.unlink(missing_ok=True)
        sync_folder(out)
        (ready / MANIFEST).unlink()
    shutil.rmtree(ready, ignore_errors=True)
