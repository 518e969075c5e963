"""Taking calls. Where the machine cannot take one, because too many files are open, whoever listens waits a
little, tries again, and says so once: a loop's own servers try as often as they can, and say so each time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from electorate.runtime.store import MORE_FILES, TOO_MANY

PAUSE = 0.1
"""Seconds until calls are taken again, after the machine could not take one."""


class Door:
    """Where a node is called, in this loop: one socket, or several."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        welcome: Callable[[socket.socket], object],
        log: logging.Logger,
        counts: Counter[str],
    ) -> None:
        self.loop = loop
        self.listeners = listeners
        self.welcome = welcome
        self.log = log
        self.counts = counts
        self.untaken = 0
        """So many attempts have failed in a row."""
        self.again: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self.again = None
        for listener in self.listeners:
            self.loop.add_reader(listener, self.take, listener)

    def wait(self) -> None:
        for listener in self.listeners:
            self.loop.remove_reader(listener)
        if self.again is None:
            self.again = self.loop.call_later(PAUSE, self.open)

    def close(self) -> None:
        """From now on this address refuses, unless another process holds it."""
        if self.again:
            self.again.cancel()
        for listener in self.listeners:
            self.loop.remove_reader(listener)
            listener.close()

    def take(self, listener: socket.socket) -> None:
        """Somebody calls."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            self.counts["calls that could not be taken"] += 1
            self.untaken += 1
            if self.untaken == 1:
                more = f": {MORE_FILES}" if error.errno in TOO_MANY else ""
                self.log.error("calls cannot be taken (%s)%s", error.strerror, more)
            return self.wait()
        if self.untaken:
            self.log.warning("calls are taken again, after %d attempts", self.untaken)
            self.untaken = 0
        connection.setblocking(False)
        self.welcome(connection)
        return None
