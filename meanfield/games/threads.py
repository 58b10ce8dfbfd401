"""One thread for small linear algebra, which is slower on several busy threads.

Factorising a few hundred rows takes less than a millisecond. If several threads of BLAS
share this work on a busy machine, it can take a hundred times as long.
"""

import contextlib
import functools

from threadpoolctl import ThreadpoolController

MOST_ROWS = 512  # from about this size on, a second thread is faster on an idle machine


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread(rows: int) -> contextlib.AbstractContextManager:
    """A context in which linear algebra uses one thread if `rows` is small."""
    if rows > MOST_ROWS:
        return contextlib.nullcontext()
    return _controller().limit(limits=1, user_api="blas")
