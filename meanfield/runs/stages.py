"""Report the stages of a command while it runs.

Each stage calls `stage`, which writes a line to Python's log. The command line shows
these lines with the seconds since the command began. If neither a stage nor a progress
bar has written anything for `PATIENCE` seconds, it reports that the stage is still
running: in a terminal repeatedly on one line, in a log at growing intervals.
"""

import _thread
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

LOG = logging.getLogger("meanfield")
# Seconds without output after which a stage is reported as still running.
PATIENCE = 3.0
# Seconds after which Ctrl-C is tried again if its exception was dropped.
AGAIN = 0.05
# Clears the rest of a terminal's line.
CLEAR = "\x1b[K"


def stage(text: str) -> None:
    """Report that a stage begins."""
    LOG.info(text)


class Interrupted(BaseException):
    """Ctrl-C, with the text of the stage; not caught by handlers of `Exception`."""


class _Heard:
    """The error stream, with the time when something was last written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.last = stream, time.monotonic()

    def write(self, text: str) -> int:
        self.last = time.monotonic()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Teller(logging.Handler):
    """Writes name and time of every stage, and reports that a long one still runs."""

    def __init__(self, heard: _Heard | None) -> None:
        super().__init__(logging.INFO)
        self.began = time.monotonic()
        self.text, self.wait, self.heard = "", PATIENCE, heard
        self.over = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a stage."""
        self.text, self.wait = record.getMessage(), PATIENCE
        self._write(self.text)

    def wait_and_tell(self) -> None:
        """Report that a stage is still running, whenever nothing else was written."""
        while self.heard is not None and not self.over.wait(min(PATIENCE, 0.5)):
            if time.monotonic() - self.heard.last < self.wait:
                continue
            if self.heard.isatty():
                self._write(f"still {self.text}", end="\r")
            else:
                self._write(f"still {self.text}")
                self.wait *= 2

    def _write(self, text: str, end: str = "\n") -> None:
        if self.heard is not None:
            seconds = time.monotonic() - self.began
            clear = CLEAR if self.heard.isatty() else ""
            line = f"  {seconds:6.1f} s  {text}{clear}{end}"
            self.heard.write(line)
            self.heard.flush()


@contextlib.contextmanager
def told(quiet: bool = False) -> Iterator[None]:
    """Show the stages of a command on the standard error stream.

    Args:
        quiet: whether to show nothing.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    stream, level = sys.stderr, LOG.level
    heard = None if quiet else _Heard(stream)
    teller = _Teller(heard)

    def stop(number: int, frame: object) -> None:
        raise Interrupted(teller.text)

    def again() -> None:
        if not teller.over.is_set():
            _thread.interrupt_main()

    def dropped(unraisable: Any) -> None:
        # If Ctrl-C stops a callback of JAX that runs during garbage collection, Python
        # drops the exception.
        if isinstance(unraisable.exc_value, Interrupted):
            threading.Timer(AGAIN, again).start()
        else:
            hook(unraisable)

    LOG.addHandler(teller)
    LOG.setLevel(logging.INFO)
    if heard is not None:
        sys.stderr = heard  # type: ignore[assignment]
    threading.Thread(target=teller.wait_and_tell, daemon=True).start()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if main else None
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if main:
            signal.signal(signal.SIGINT, before)
        sys.stderr = stream
        teller.over.set()
        LOG.removeHandler(teller)
        LOG.setLevel(level)
