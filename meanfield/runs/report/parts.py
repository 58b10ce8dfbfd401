"""Functions that the sections of the report share."""

import shlex
from pathlib import Path

from meanfield.checks import require
from meanfield.runs.folder import Run
from meanfield.runs.pictures import DARK, SEAL, TITLE, texts_of_picture

from .page import figure, missing

KINDS = ("important", "variable", "absent")
REMEDY = "Delete it, and make it again by the command that wrote it."
MAX_PICTURE = 2**24


def plot(run: Run, name: str, caption: str, alternative: str, command: str) -> str:
    """A picture of the run, or a note on how to make it."""
    return picture(run, run.plots / f"{name}.png", caption, alternative) or missing(
        f"plot “{name}”", command
    )


def picture(run: Run, path: Path, caption: str, alternative: str) -> str:
    """A picture of this run; empty if there is none or it shows another ensemble.

    Raises:
        ValueError: the file is not a PNG file, or is too large for a page.
    """
    content = _content(run, path)
    if content is None:
        return ""
    dark = _content(run, path.parent / DARK / path.name)
    return figure(content, caption, alternative, dark)


def _content(run: Run, path: Path) -> bytes | None:
    """The bytes of a picture of this ensemble; None if there is none."""
    if not is_own(run, path):
        return None
    content = path.read_bytes()
    try:
        texts = texts_of_picture(content)
        require(len(content) <= MAX_PICTURE, f"it has over {MAX_PICTURE:,} bytes")
    except ValueError as error:
        raise ValueError(
            f"{path} must be a PNG file as it was drawn: {error}. {REMEDY}"
        ) from error
    bare = run.bare and SEAL not in texts
    own = texts.get(SEAL) == run.seal and texts.get(TITLE) == path.name
    return content if own or bare else None


def is_own(run: Run, path: Path) -> bool:
    """Whether a file exists inside the run's folder, not behind a symbolic link."""
    inside = run.folder.resolve() / path.relative_to(run.folder)
    return path.is_file() and path.resolve() == inside


def command_for(name: str, run: Run) -> str:
    """The command line that makes a part of the run."""
    return f"meanfield {name} {shlex.quote(str(run.folder))}"
