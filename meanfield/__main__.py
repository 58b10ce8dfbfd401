"""``python -m meanfield`` is the command line."""

from .cli import main

main()
