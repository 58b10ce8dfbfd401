"""One thread for small linear algebra, where to wait for others takes longer.

Factors of a few hundred rows take less than a millisecond. Shared among the threads of
BLAS on a busy machine, each can take a hundred times as long.
"""

import contextlib
import functools

from threadpoolctl import ThreadpoolController

MOST_ROWS = 512  # from about here on a second thread pays on an idle machine


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread(rows: int) -> contextlib.AbstractContextManager:
    """A context in which matrices of so many rows are worked on by a single thread."""
    if rows > MOST_ROWS:
        return contextlib.nullcontext()
    return _controller().limit(limits=1, user_api="blas")
