"""Which thread takes a signal, and how the main thread hears of it.

The kernel gives it to any thread that has not blocked it, and wakes only that one; Python runs the handler
in the main thread, when that wakes of itself. So where the main thread is the user's, a thread of ours takes
none: who sleeps in the main thread would hear of a SIGTERM when it has slept. What a user begins takes them
again. And what another thread of the user's takes is told to the loop of a node, which wakes the main thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ROUSE = signal.SIGURG
"""Wakes the main thread. Where nobody has set a handler for it, it does nothing, whenever it comes."""
AGAIN = 0.1
"""Seconds until it is sent once more: the main thread may have been about to sleep."""

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


def woken(number: int, frame: FrameType | None) -> None:
    """That was all: whatever handler is due runs as well."""


class Bell:
    """Wakes the main thread whenever a signal has come that Python has a handler for. It is hung up and taken
    down by the main thread, and rung by the loops of nodes."""

    def __init__(self) -> None:
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.pipe: tuple[int, int] | None = None
        """Where Python writes the number of each signal, once that is so."""

    def hang(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop, of another thread, rings it. If the user hears of signals in a way of its own, there is
        none; nor if this is not the main thread."""
        with suppress(ValueError):
            if self.pipe is None and signal.getsignal(ROUSE) is signal.SIG_DFL:
                self.connect()
        if self.pipe is not None:
            self.loops.add(loop)
            loop.call_soon_threadsafe(loop.add_reader, self.pipe[0], self.ring, loop)

    def connect(self) -> None:
        """Raises `ValueError` if this is not the main thread."""
        pipe = os.pipe()
        for descriptor in pipe:
            os.set_blocking(descriptor, False)
        theirs = -1
        try:
            theirs = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
            if theirs == -1:
                signal.signal(ROUSE, woken)
                self.pipe = pipe
            else:
                signal.set_wakeup_fd(theirs)
        finally:
            if self.pipe is None:
                close(pipe)

    def ring(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.pipe is not None
        with suppress(BlockingIOError):  # another loop was quicker
            if set(os.read(self.pipe[0], 4096)) - {ROUSE}:
                rouse()
                loop.call_later(AGAIN, rouse)

    def take_down(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop has ended."""
        self.loops.discard(loop)
        if self.pipe and not self.loops and threading.current_thread() is threading.main_thread():
            self.disconnect()

    def disconnect(self) -> None:
        assert self.pipe is not None
        theirs = signal.set_wakeup_fd(-1)
        if theirs != self.pipe[1]:
            signal.set_wakeup_fd(theirs)
        if signal.getsignal(ROUSE) is woken:
            signal.signal(ROUSE, signal.SIG_DFL)
        pipe, self.pipe = self.pipe, None
        close(pipe)

    def forget(self) -> None:
        """In a child that was forked off."""
        self.loops.clear()
        if self.pipe:
            self.disconnect()


def rouse() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, ROUSE)


def close(pipe: tuple[int, int]) -> None:
    for descriptor in pipe:
        os.close(descriptor)


bell = Bell()
os.register_at_fork(after_in_child=bell.forget)
