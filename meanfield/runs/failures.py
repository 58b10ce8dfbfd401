"""Run a command so that every failure ends with one message and an exit code.

Exit code 1: the work failed, and the message says why. 3: an internal error, which is a
bug in meanfield. Wrong usage is reported by the command line itself.
"""

import io
import sys
import traceback
from collections.abc import Callable, Sequence

from .stages import Interrupted, told

# Errors of the work itself, whose messages are meant for the user.
WORK = (
    ValueError,
    OSError,
    RuntimeError,
    ArithmeticError,
    ImportError,
    MemoryError,
)
# Options that every command has, at any place of the command line.
EVERYWHERE = ("--debug", "--no-cache")


def run_command(command: Callable[[list[str]], None], words: Sequence[str]) -> None:
    """Run a command line, and exit with a message and a code if it fails.

    Args:
        command: runs a command line whose global options come first.
        words: the words after the name of the program.
    """
    everywhere = [word for word in words if word in EVERYWHERE]
    debug = "--debug" in words
    quiet = bool({"--quiet", "--json", "--help", "--version"} & set(words))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show Greek letters gets question marks instead.
            stream.reconfigure(errors="replace")
    try:
        with told(quiet):
            command(everywhere + [word for word in words if word not in everywhere])
    except Interrupted as error:
        during = f" while {error}" if str(error) else ""
        text = (
            f"interrupted{during}. Files are written whole or not at all: what was "
            "finished is kept, and older files are unchanged."
        )
        _fail(error, 1, text, debug)
    except WORK as error:
        _fail(error, 1, f"error: {str(error) or type(error).__name__}", debug)
    except Exception as error:
        text = (
            f"internal error: {type(error).__name__}: {error}\nThis is a bug in "
            "meanfield, not a mistake of yours. Please report it, with what the same "
            "command prints with --debug."
        )
        _fail(error, 3, text, debug)


def _fail(error: BaseException, code: int, text: str, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(text, file=sys.stderr)
    sys.exit(code)
