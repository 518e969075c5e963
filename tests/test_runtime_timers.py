"""Timers fire once, and a node does not try for thousands of elections at once."""

from __future__ import annotations

import asyncio

from electorate.core.model import Timer
from electorate.runtime.timers import UNDER_WAY, Timers
from tests.runtime_hosts import in_loop, until

MANY = 3 * UNDER_WAY


class Candidates:
    """Each whose turn comes asks, and waits for answers longer than the test takes."""

    def __init__(self) -> None:
        self.timers = Timers(self.fire)
        self.fired: list[str] = []

    def fire(self, timer: Timer) -> None:
        self.fired.append(timer[1])
        self.timers.arm(("answers", timer[1]), 1000.0, 1000.0)

    def seek(self, count: int) -> list[str]:
        names = [f"e{number}" for number in range(count)]
        for name in names:
            self.timers.arm(("campaign", name), 0.0, 0.0)
        return names

    async def stand_in_line(self) -> list[str]:
        names = self.seek(MANY)
        await until(lambda: len(self.timers.line) == MANY - UNDER_WAY)
        assert len(self.fired) == UNDER_WAY
        return [name for name in names if name not in self.fired]


@in_loop
async def test_each_gets_its_turn_when_another_has_its_answers() -> None:
    candidates = Candidates()
    await candidates.stand_in_line()
    for done in range(MANY):
        await until(lambda done=done: len(candidates.fired) > done)  # type: ignore[misc]
        assert len(candidates.fired) <= done + UNDER_WAY
        candidates.timers.disarm(("answers", candidates.fired[done]))
    assert len(candidates.fired) == len(set(candidates.fired)) == MANY
    assert not candidates.timers.line


@in_loop
async def test_who_is_called_off_in_the_line_does_not_try() -> None:
    candidates = Candidates()
    first, second, *others = await candidates.stand_in_line()
    candidates.timers.disarm(("campaign", first))
    candidates.timers.arm(("campaign", second), 0.0, 0.0)
    for name in others:
        candidates.timers.disarm(("campaign", name))
    await until(lambda: candidates.timers.line[-1][0] == ("campaign", second))
    for name in tuple(candidates.fired):
        candidates.timers.disarm(("answers", name))
    await until(lambda: not candidates.timers.line)
    assert candidates.fired[UNDER_WAY:] == [second]


@in_loop
async def test_nothing_fires_after_the_end() -> None:
    candidates = Candidates()
    await candidates.stand_in_line()
    candidates.timers.arm(("beat", ""), 0.0, 0.0)
    candidates.timers.clear()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, later.set)
    await later.wait()
    assert len(candidates.fired) == UNDER_WAY
    assert candidates.timers.asking == 0


@in_loop
async def test_other_timers_need_not_stand_in_line() -> None:
    candidates = Candidates()
    await candidates.stand_in_line()
    candidates.timers.arm(("beat", ""), 0.0, 0.0)
    await until(lambda: candidates.fired[-1] == "")
