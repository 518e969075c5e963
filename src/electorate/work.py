"""What a body begins beside itself: functions in threads, and commands. Such work counts.

The leadership that it rests on is not given away before it has ended; and it is told to end with the body,
and before the lease can end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from electorate import signals


class Work(ABC):
    """A piece of it, which is watched by a thread of its own."""

    def __init__(self) -> None:
        self.done: Future[Any] = Future()
        self.done.set_running_or_notify_cancel()
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def begin(self) -> None:
        self.thread.start()

    def over(self) -> asyncio.Future[None]:
        """Done when it has ended, however that was."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        self.done.add_done_callback(lambda _: tell(loop, conclude, over))
        return over

    def follow(self) -> None:
        try:
            result = self.outcome()
        except BaseException as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)

    @abstractmethod
    def outcome(self) -> Any:
        """Waits for the end of the work. Returns its result, or raises what it has raised."""

    def end(self) -> None:
        """It should end. May be called from any thread, and again."""
        return

    def kill(self) -> None:
        """It must end now."""
        return

    @abstractmethod
    def whereabouts(self) -> str:
        """Where it is, for a log."""


class Call(Work):
    """A function in a thread. It cannot be ended: it has to look at `Leadership.ended`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.function = function

    def outcome(self) -> Any:
        return self.function()

    def whereabouts(self) -> str:
        return stack_of(self.thread.ident)


class Command(Work):
    """A process, and its descendants as long as they stay in its process group: what is left of that when
    the process has ended is killed."""

    def __init__(self, arguments: Sequence[str], stop_timeout: float) -> None:
        super().__init__()
        self.arguments = arguments
        self.stop_timeout = stop_timeout
        self.ending: threading.Timer | None = None
        self.reaped = False
        self.lock = threading.Lock()
        """Held while a signal is sent, so that none is sent to who bears the same number later."""
        with signals.as_the_user():
            self.process = subprocess.Popen(arguments, process_group=0)

    def outcome(self) -> int:
        try:
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # somebody else in this process has reaped it
            self.reaped = True
        with self.lock:
            self.send(signal.SIGKILL)
            self.reaped = True
            if self.ending:
                self.ending.cancel()
            return self.process.wait()

    def end(self) -> None:
        with self.lock:
            if self.ending is None and not self.reaped:
                self.ending = threading.Timer(self.stop_timeout, self.kill)
                self.ending.daemon = True
                self.ending.start()
                self.send(signal.SIGTERM)

    def kill(self) -> None:
        with self.lock:
            self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if not self.reaped:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def whereabouts(self) -> str:
        return f"process {self.process.pid}: {' '.join(self.arguments)}\n"


def conclude(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Let the loop do it, if it still is there."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)


def stack_of(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)
    return "".join(traceback.format_stack(frame)) if frame else "(its thread has ended)\n"
