"""One command of the command line, run in the process of the test."""

import contextlib
import io
import sys

import pytest

from meanfield.cli import main


def run(monkeypatch, capsys, *words):
    """Exit code, what was printed, and the errors, of one command."""
    monkeypatch.setattr(sys, "argv", ["meanfield", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def succeed(*words):
    """What a command printed that ended well; for fixtures of a whole module."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["meanfield", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return printed.getvalue()
