"""HTTP takes at most half of the time that one thread can have, and that in small pieces.

The threads of a process run Python code by turns, and one that always has something to do makes the node wait
at every turn: its beats would be late, and leases end. So whoever works for readers rests as long as it has
worked, after each thousandth of a second.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PIECE = 0.001
"""So many seconds of work at a time."""
ITEMS = 50
"""So many items are taken before the clock is read."""


class Pace:
    """How long the thread that made this has worked, and not rested since."""

    def __init__(self) -> None:
        self.counted = time.thread_time()
        self.owed = 0.0

    def due(self) -> float:
        """How many seconds to rest now: those of a whole piece, or none."""
        worked = time.thread_time()
        self.owed += worked - self.counted
        self.counted = worked
        return self.owed if self.owed >= PIECE else 0.0

    def rested(self, seconds: float) -> None:
        self.owed = max(0.0, self.owed - seconds)


class Unhurried(selectors.DefaultSelector):
    """Lets a loop rest before it looks for more to do."""

    pace: Pace | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.pace = self.pace or Pace()
        began = time.monotonic()
        if seconds := self.pace.due():
            time.sleep(seconds)
        ready = super().select(timeout)
        self.pace.rested(time.monotonic() - began)
        return ready


def at_leisure(items: Iterable[T], closing: threading.Event) -> Iterator[T]:
    """The same items, with rests between them. Raises `InterruptedError` when it is closing."""
    pace = Pace()
    for number, item in enumerate(items):
        yield item
        if number % ITEMS == 0 and (seconds := pace.due()):
            if closing.wait(seconds):
                raise InterruptedError
            pace.rested(seconds)
