"""What the sections of the page share."""

import shlex
from pathlib import Path
from typing import Any

from meanfield.runs.documents import read_json
from meanfield.runs.folder import Run

from .page import figure, missing

KINDS = ("important", "variable", "absent")


def plot(run: Run, name: str, caption: str, alternative: str, command: str) -> str:
    """A picture of the run, or a note on how to make it."""
    path = run.plots / f"{name}.png"
    if not path.is_file():
        return missing(f"plot “{name}”", command)
    return figure(path, caption, alternative)


def command_for(name: str, run: Run) -> str:
    """The command line that makes a part of the run."""
    return f"meanfield {name} {shlex.quote(str(run.folder))}"


def read(path: Path) -> dict[str, Any] | None:
    """The contents of a JSON file, or None where there is none."""
    remedy = "Delete it, and make it again by the command that wrote it."
    return read_json(path, remedy) if path.is_file() else None
