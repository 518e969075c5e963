"""The timers of a node, and when a node with many elections may try for the next.

Thousands of elections fall due at once when their leader is gone. Whoever tried for all of them at once would
still be asking when the first answers were overdue, and try again, and so would the others: nothing would
come of it. So only so many candidacies are under way at a time, and the campaigns beyond them stand in line.
A timer may be as late as it likes; and it is called off, in the line too, when somebody else leads.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from electorate.core.model import Timer

UNDER_WAY = 256
"""Candidacies at a time: more would only wait for each other."""


class Timers:
    def __init__(self, fire: Callable[[Timer], None]) -> None:
        self.fire = fire
        self.armed: dict[Timer, asyncio.TimerHandle] = {}
        self.asking = 0
        """How many candidacies wait for answers."""
        self.line: list[tuple[Timer, asyncio.TimerHandle]] = []
        """Campaigns that are due."""
        self.moving: asyncio.Handle | None = None

    def arm(self, timer: Timer, low: float, high: float) -> None:
        self.disarm(timer)
        loop = asyncio.get_running_loop()
        self.armed[timer] = loop.call_later(random.uniform(low, high), self.ripe, timer)
        self.asking += timer[0] == "answers"

    def disarm(self, timer: Timer) -> None:
        if handle := self.armed.pop(timer, None):
            handle.cancel()
            self.ended(timer)

    def clear(self) -> None:
        self.line.clear()
        for timer in tuple(self.armed):
            self.disarm(timer)

    def ripe(self, timer: Timer) -> None:
        """First hear what has arrived already: a busy loop must not take it for missing."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self.due, timer, self.armed[timer])

    def due(self, timer: Timer, handle: asyncio.TimerHandle) -> None:
        if self.armed.get(timer) is not handle:
            return
        if timer[0] == "campaign" and self.asking >= UNDER_WAY:
            self.line.append((timer, handle))
        else:
            self.expire(timer)

    def expire(self, timer: Timer) -> None:
        del self.armed[timer]
        self.ended(timer)
        self.fire(timer)

    def ended(self, timer: Timer) -> None:
        if timer[0] == "answers":
            self.asking -= 1
            if self.line and self.moving is None:
                self.moving = asyncio.get_running_loop().call_soon(self.move)

    def move(self) -> None:
        """The next in line may try. They come in any order, so that two nodes seldom try for the same."""
        self.moving = None
        while self.line and self.asking < UNDER_WAY:
            chosen = random.randrange(len(self.line))
            self.line[chosen], self.line[-1] = self.line[-1], self.line[chosen]
            timer, handle = self.line.pop()
            if self.armed.get(timer) is handle:
                self.expire(timer)
