"""What a body begins beside itself: functions in threads, and commands. Such work counts.

The leadership that it rests on is not given away before it has ended; and it is told to end with the body,
and before the lease can end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from electorate import signals
from electorate.prctl import renounce

T = TypeVar("T")

SOON, OFTEN = 1.0, 60.0
"""Seconds after which it is told that a command does not end, and between two such words at most."""
PAUSE = 0.005
"""Seconds between two looks at whether all of it have ended, at first."""

log = logging.getLogger("electorate")


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
    the process has ended is killed, and waited for."""

    def __init__(self, arguments: Sequence[str], stop_timeout: float, allow_setuid: bool = False) -> None:
        super().__init__()
        self.arguments = arguments
        self.stop_timeout = stop_timeout
        self.ending: threading.Timer | None = None
        self.reaped = False
        self.pleading = False
        self.lock = threading.Lock()
        """Held while a signal is sent, so that none is sent to who bears the same number later."""
        with signals.as_the_user():
            self.process = self.spawn() if allow_setuid else humbly(self.spawn)

    def spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.arguments, process_group=0)

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
            code = self.process.wait()
        self.wait_for_the_rest()
        return code

    def wait_for_the_rest(self) -> None:
        """Until nothing of its group is left."""
        begun = time.monotonic()
        while living(self.process.pid):
            taken = time.monotonic() - begun
            if taken > SOON:
                self.plead()
            time.sleep(max(PAUSE, min(taken / 10, SOON)))

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
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                self.plead()

    def plead(self) -> None:
        """Tell, in a thread of its own, that it cannot be ended, less and less often until it has."""
        if not self.pleading:
            self.pleading = True
            threading.Thread(target=self.tell_all, daemon=True).start()

    def tell_all(self) -> None:
        pause = SOON
        while not self.done.done():
            log.error(
                "%s cannot be ended (%s), and the leadership is not handed over before it has: end it, as"
                " root if need be",
                self.arguments[0],
                living(self.process.pid),
            )
            wait([self.done], pause)
            pause = min(2 * pause, OFTEN)

    def whereabouts(self) -> str:
        return f"process {self.process.pid}: {' '.join(self.arguments)}\n"


def humbly(call: Callable[[], T]) -> T:
    """Do this in a thread of its own, which can never gain privileges, nor can what it begins."""
    result: Future[T] = Future()

    def do() -> None:
        renounce()
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=do)
    thread.start()
    thread.join()
    return result.result()


def living(group: int) -> str:
    """Who of this process group lives, for people; "" if nobody does. Where /proc does not tell, nobody is
    seen."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return f"process group {group}, of another user"
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if of == str(group) and state not in "ZX":
                found.append(f"process {stat.parent.name}")
    return ", ".join(found[:4])


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
