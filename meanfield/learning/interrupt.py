"""Stop training at the next possible point when the user presses Ctrl-C."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

NOTICE = b"\nfinishing this epoch, then stopping; Ctrl-C again stops at once\n"


class StopWish:
    """Whether the user asked to stop."""

    asked = False


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopWish]:
    """Record the first Ctrl-C as a request to stop; the second interrupts at once.

    Python handles signals in the main thread only; in other threads this does nothing.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        wish.asked = True
        os.write(2, NOTICE)  # A stream might be in the middle of a write.
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGINT, before)
