"""Fields of settings classes that define options too, and parsers of option values."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

# Help texts of options that several commands have.
SEED = "seed of all random choices: the same seed gives the same numbers"
DATA_DIR = "folder of mnist and fashion_mnist (default: $MEANFIELD_DATA)"
OWN_MODEL = "FILE.py:FUNCTION that makes your own network: the file is executed"
NAMES = "NAME,NAME,…"


def setting(
    default: Any,
    help: str,
    panel: str | None = None,
    *,
    flags: tuple[str, ...] = (),
    kept: str | None = None,
    metavar: str | None = None,
    min: int | None = None,
    parse: Callable[[str], Any] | None = None,
    shown: str | None = None,
) -> Any:
    """A field of a settings class, and the option that sets it.

    Args:
        default: its value if none is given.
        help: description of the option.
        panel: heading of the option in the help.
        flags: its names on the command line, if they differ from the field's name.
        kept: part of a run's configuration that stores it: "data", "model", "training".
        metavar: name of the value in the help.
        min: the smallest whole number that is allowed.
        parse: function from the text on the command line to the value.
        shown: the default as text, if it is not the value itself.
    """
    about = {"help": help, "panel": panel, "flags": flags, "kept": kept}
    about |= {"metavar": metavar, "min": min, "parse": parse, "shown": shown}
    return dataclasses.field(default=default, metadata=about)


def widths(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """Widths such as ``100,100``.

    Raises:
        ValueError: the text is not such a list, or a width is not positive.
    """
    if isinstance(text, tuple):
        return text
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a list like 100,100") from error
    if any(width < 1 for width in found):
        raise ValueError(f"every width must be positive; got {text!r}")
    return found


def grid(text: str | tuple[int, int]) -> tuple[int, int]:
    """Devices such as ``4``, or ``4x2`` for data × model.

    Raises:
        ValueError: the text is neither.
    """
    if isinstance(text, tuple):
        return text
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise ValueError(f"{text!r} is neither a number nor like 4x2")
    return int(found[1]), int(found[2] or 1)
