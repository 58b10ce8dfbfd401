"""Report the stages of a command while it runs.

Each stage calls `stage`, which writes a line to Python's log. The command line shows
these lines with the seconds since the command began, and reports from time to time that
a long stage is still running.
"""

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator

LOG = logging.getLogger("meanfield")
# Seconds after which a stage is reported to be still running; doubles every time.
PATIENCE = 10.0
# A stage that shows its progress itself.
LEARNING = "learning"


def stage(text: str) -> None:
    """Report that a stage begins."""
    LOG.info(text)


class Interrupted(BaseException):
    """Ctrl-C, with the text of the stage; no `Exception`, so no handler swallows it."""


class _Teller(logging.Handler):
    """Writes stages with their time, and long ones again at intervals."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.INFO)
        self.began = self.since = time.monotonic()
        self.text, self.wait, self.quiet = "", PATIENCE, quiet
        self.over = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a stage."""
        self.text, self.since = record.getMessage(), time.monotonic()
        self.wait = PATIENCE
        self._write(self.text)

    def wait_and_tell(self) -> None:
        """Write that a stage is still running, at growing intervals."""
        while not self.over.wait(0.5):
            spent = time.monotonic() - self.since
            if spent >= self.wait and not self.text.startswith(LEARNING):
                self.wait *= 2
                self._write(f"still {self.text}")

    def _write(self, text: str) -> None:
        if not self.quiet:
            seconds = time.monotonic() - self.began
            print(f"  {seconds:6.1f} s  {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def told(quiet: bool = False) -> Iterator[None]:
    """Show the stages of a command on the standard error stream.

    Args:
        quiet: whether to show nothing.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    teller, level = _Teller(quiet), LOG.level

    def stop(number: int, frame: object) -> None:
        raise Interrupted(teller.text)

    LOG.addHandler(teller)
    LOG.setLevel(logging.INFO)
    threading.Thread(target=teller.wait_and_tell, daemon=True).start()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
        teller.over.set()
        LOG.removeHandler(teller)
        LOG.setLevel(level)
