"""Ctrl-C as a wish to stop, not as an accident."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopWish:
    """Whether the user asked to stop."""

    asked = False


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopWish]:
    """Turn the first Ctrl-C into a wish; the second one interrupts at once.

    Signals reach only the main thread; in any other thread nothing changes.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        wish.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGINT, before)
