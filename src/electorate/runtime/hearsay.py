"""What others say, before it comes to a log, an error, a status or a metric: escaped, cut and counted.

Whoever can call a node chooses some of the words that it repeats. So each has room of its own, for each kind
of complaint: a member whose word it is for certain, whoever says that it is that member, and all strangers
together. None fills the room of another, and what may be logged of each comes again with time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

WORD = 100
"""So many characters of one word of another are repeated."""
SENTENCE = 1000
"""So many of a sentence."""
DIFFERENT = 5
"""So many different complaints of one kind about one are remembered, and logged one after the other."""
AGAIN = 60.0
"""Seconds until one more is."""

About: TypeAlias = tuple[str, str, str]
"""What is done, to whom, and the kind of complaint: of each there are few, whatever strangers say."""


def heard(text: str, most: int = WORD) -> str:
    """The words of another, fit to be repeated: on one line, without anything that a terminal obeys."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(map(escaped, shown))
    return shown if len(shown) <= most else f"{shown[:most]}..."


def escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class Room:
    """For the complaints of one kind about one."""

    def __init__(self, now: float) -> None:
        self.counts: dict[str, int] = {}
        """How often each came, the one that began last at the end."""
        self.others = 0
        """How often those came that are not remembered."""
        self.unsaid: set[str] = set()
        self.left = float(DIFFERENT)
        """So many more may be logged."""
        self.at = now

    def hear(self, complaint: str, now: float) -> bool:
        """Count it. Returns whether it is to be logged, because it is new and there is room."""
        if complaint not in self.counts:
            self.unsaid.add(complaint)
            if len(self.counts) >= DIFFERENT:
                oldest = next(iter(self.counts))
                self.others += self.counts.pop(oldest)
                self.unsaid.discard(oldest)
        self.counts[complaint] = self.counts.get(complaint, 0) + 1
        self.left, self.at = min(self.left + (now - self.at) / AGAIN, DIFFERENT), now
        if complaint not in self.unsaid or self.left < 1:
            return False
        self.unsaid.discard(complaint)
        self.left -= 1
        return True


class Hearsay:
    """All that a node has complained of, on a clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.rooms: dict[About, Room] = {}

    def hear(self, about: About, complaint: str) -> bool:
        """Count a complaint that is fit to be repeated. Returns whether it is to be logged."""
        room = self.rooms.get(about)
        if room is None:
            room = self.rooms[about] = Room(self.clock())
        return room.hear(complaint, self.clock())

    def counts(self) -> dict[str, int]:
        """Each complaint, and how often it came. May be asked from any thread."""
        told: dict[str, int] = {}
        for (how, whom, kind), room in tuple(self.rooms.items()):
            told |= room.counts.copy()
            if room.others:
                told[f"{how} {whom}: other complaints ({kind})"] = room.others
        return told
