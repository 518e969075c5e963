"""Whoever is refused is counted each time, and written down sparingly: who tries all day fills no disk."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from electorate.runtime.clock import now

SPAN = 60.0
"""In so many seconds each complaint about each caller is written down once,"""
LINES = 20
"""and no more than so many in all."""


class Sparing:
    """What is worth a line of the log now."""

    def __init__(self) -> None:
        self.begun = now()
        self.told: set[Hashable] = set()
        self.untold = 0

    def tell(self, complaint: Hashable, write: Callable[[str], None]) -> None:
        """Have it written, with a word about those that were not, or keep count of it."""
        if now() >= self.begun + SPAN:
            self.begun = now()
            self.told.clear()
        if complaint in self.told or len(self.told) >= LINES:
            self.untold += 1
            return
        self.told.add(complaint)
        write(f"; {self.untold} more were refused since the last line of this kind" if self.untold else "")
        self.untold = 0
