"""Check that a version may be released, and print its part of CHANGELOG.md.

python tools/release.py 0.2.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(version: str) -> str:
    """The part of CHANGELOG.md about a version.

    Raises:
        SystemExit: the version differs from meanfield/version.py or CITATION.cff, or
            CHANGELOG.md does not list it as released.
    """
    module = (ROOT / "meanfield" / "version.py").read_text()
    (own,) = re.findall(r'^VERSION = "(.*)"$', module, re.MULTILINE)
    (cited,) = re.findall(
        r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE
    )
    for place, found in (
        ("meanfield/version.py", own),
        ("CITATION.cff", cited),
    ):
        if found != version:
            sys.exit(f"{place} says version {found}, the tag says {version}")
    for part in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        if heading.split(",")[0] == version and "not released" not in heading:
            return text.strip()
    sys.exit(f"CHANGELOG.md has no released version {version}; write its date there")


if __name__ == "__main__":
    print(notes(sys.argv[1]))
