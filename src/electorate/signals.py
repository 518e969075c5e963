"""Which thread may take a signal.

The kernel gives it to any thread that has not blocked it, and wakes only that one; Python runs the handler
in the main thread, when that wakes of itself. So where the main thread is the user's, a thread of ours takes
none: who sleeps in the main thread would hear of a SIGTERM when it has slept. What a user begins takes them
again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

local = threading.local()
"""`before`: what a thread that takes none had blocked until then."""


def take_none() -> None:
    """From now on this thread takes no signal, nor do those that it starts."""
    local.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@contextmanager
def as_the_user() -> Iterator[None]:
    """A process that is begun meanwhile blocks what one of the user does."""
    before = getattr(local, "before", None)
    if before is None:
        yield
        return
    ours = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ours)
