"""Convert every public model of the tests in every way, and write the matrix page.

    python tools/conversion_matrix.py --cells cells.json --page PAGE.md
    python tools/conversion_matrix.py --only haiku

Rows are the models of `tests/public_models.py`, columns those of
`tests/conversions.py`. With `--cells`, finished rows are kept in a file, and a later
call continues. The packages are in the dependency group `models`; the rows of a missing
package are left out. The exit status is 1 if a conversion raises an unexpected error.
"""

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conversions import COLUMNS, convert  # noqa: E402
from public_models import MODELS  # noqa: E402

HEAD = """# Conversion matrix

What works on public models and layers, in small configurations. This page is written
by `python tools/conversion_matrix.py --page docs/reference/conversion_matrix.md`, which
runs every cell, on the packages of the dependency group `models`. The models are in
`tests/public_models.py`, the meaning of a column in `tests/conversions.py`.

| column | ✓ if |
|---|---|
{meanings}

A number refers to the reason for a refusal, below. Eight-bit weights are refused where
they would change the outputs.

"""
FORMAT = "a drawn network, saved in this format and loaded, gives the same outputs"


def main() -> int:
    """Convert the chosen models; write the cells and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the rows")
    parser.add_argument("--cells", type=Path, help="JSON file of finished rows")
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    cells, wrong = _finished(options.cells), 0
    for name, make in MODELS.items():
        if options.only not in name or name in cells:
            continue
        start = time.perf_counter()
        try:
            found = convert(make())
        except ImportError as error:
            print(f"{name}: left out, {error}")
            continue
        except Exception as error:  # Any error of a model is shown as a failure.
            print(f"{name}: WRONG, {type(error).__name__}: {error}", flush=True)
            wrong += 1
            continue
        cells = _finished(options.cells, cells) | {name: found}
        refused = [column for column, cell in found.items() if cell != "yes"]
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s, refused {refused or 'nothing'}", flush=True)
        if options.cells is not None:
            options.cells.write_text(json.dumps(cells, indent=1, ensure_ascii=False))
    if options.page is not None:
        ordered = {name: cells[name] for name in MODELS if name in cells}
        options.page.write_text(page(ordered))
    return 1 if wrong else 0


def _finished(path: Path | None, cells: Any = None) -> dict[str, dict[str, str]]:
    """The finished rows in a file; another call may have added some."""
    return json.loads(path.read_text()) if path and path.exists() else cells or {}


def page(cells: dict[str, dict[str, str]]) -> str:
    """The Markdown page of a matrix."""
    meanings = "\n".join(f"| {n} | {_meaning(f)} |" for n, f in COLUMNS.items())
    lines = [
        "| model | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    reasons: dict[str, int] = {}
    for name, row in cells.items():
        marks = []
        for column in COLUMNS:
            reason = row[column]
            if reason == "yes":
                marks.append("✓")
            else:
                marks.append(str(reasons.setdefault(reason, len(reasons) + 1)))
        lines.append(f"| {name} | " + " | ".join(marks) + " |")
    text = "\n".join(lines) + "\n\n## Refusals\n\n"
    text += "".join(f"{n}. {_shown(reason)}\n" for reason, n in reasons.items())
    return HEAD.format(meanings=meanings) + text


def _meaning(column: Callable[..., Any]) -> str:
    text = column.__doc__ or FORMAT
    text = " ".join(text.split())
    return text[0].lower() + text[1:].rstrip(".")


def _shown(reason: str) -> str:
    """A message as Markdown, without folders of this machine."""
    reason = re.sub(r"/\S*/(tests|site-packages)/", "", reason)
    return reason.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
