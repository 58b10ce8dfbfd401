"""One command of the command line, run in the process of the test."""

import sys

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
