"""One self-contained HTML page on a run, from training to shipped files."""

from pathlib import Path

from meanfield.files import write_text
from meanfield.runs.folder import load_run

from .derived import neurons, physics, shipped
from .findings import credit, quality
from .opening import reproduce, trained
from .page import document
from .verdict import verdict

SECTIONS = (
    ("What was trained", trained),
    ("How good and how calibrated it is", quality),
    ("Which connections matter", credit),
    ("Which neurons matter", neurons),
    ("Statistical physics of the weights", physics),
    ("What can be shipped", shipped),
    ("How to reproduce it", reproduce),
)


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder.

    The page contains its plots, works offline, and follows the reader's light or
    dark theme. For each missing part it says how to make it.

    Args:
        folder: a run folder.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: `folder` is no run folder.
        ValueError: a file of it is damaged.

    Example:
        >>> import meanfield as mf
        >>> from meanfield.runs.report import write_report
        >>> write_report("runs/digits")  # doctest: +SKIP
        PosixPath('runs/digits/report.html')
    """
    run = load_run(folder)
    source = Path(run.config["data"]["source"]).name
    sections = [(title, write(run)) for title, write in SECTIONS]
    page = document(
        f"An ensemble of sub-networks, trained on {source}", verdict(run), sections
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path
