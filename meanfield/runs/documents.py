"""The JSON files of a run folder: written whole, and read with a clear refusal."""

import json
import os
from pathlib import Path
from typing import Any

from meanfield.files import write_text


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """The contents of a JSON file.

    Args:
        path: the file.
        remedy: what to do if it is damaged, as a sentence.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}); it was truncated or edited. "
            f"{remedy}"
        ) from error
