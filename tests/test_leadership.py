"""The clockwork of `leadership()`, on an engine of the test's own: what is asked is only when work begins and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from electorate.election import Election, Guarantees, LeaderView, Position, Tenure
from electorate.leadership import OVERRUN, LeadershipLost, Loss, OnOverrun, Timekeeper

GRACE = 0.2
LONG = 1.0
"""A grace of which a machine may sleep through a half."""


class Staged(Election):
    """An election in which the test says who leads."""

    def __init__(self) -> None:
        super().__init__("main", Timekeeper(), GRACE)
        self.until = float("-inf")
        self.term = 0
        self.is_yielding = False
        self.occupied = False
        self.given: list[Position] = []

    @property
    def guarantees(self) -> Guarantees:
        raise NotImplementedError

    @property
    def priority(self) -> int:
        return 0

    @property
    def position(self) -> int:
        return 0

    @position.setter
    def position(self, position: Position) -> None:
        self.given.append(position)

    def tenure(self) -> Tenure | None:
        left = self.until - time.monotonic()
        return Tenure(self.term, left) if left > 0 else None

    @property
    def yielding(self) -> bool:
        return self.is_yielding

    def contend(self) -> None:
        self.contends = True

    def withdraw(self) -> None:
        self.contends = False

    def occupy(self) -> None:
        self.occupied = True

    def vacate(self) -> None:
        self.occupied = False

    def freeze(self, seconds: float) -> None: ...

    async def resign(self, *, seconds: float = 0.0, timeout: float | None = None) -> None: ...

    async def transfer(self, to: str, *, force: bool = False, timeout: float | None = None) -> LeaderView:
        raise NotImplementedError

    async def prepare(self) -> None: ...

    # what the test does

    def elect(self, seconds: float = 60.0) -> None:
        self.term += 1
        self.until = time.monotonic() + seconds
        self.changed()

    def depose(self) -> None:
        self.until = float("-inf")
        self.changed()


def staged(test: Callable[[Staged], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def bounded() -> None:
            election = Staged()
            try:
                async with asyncio.timeout(30):
                    await test(election)
            finally:
                election.timekeeper.close()

        asyncio.run(bounded())

    run.__name__ = test.__name__
    return run


async def forever() -> None:
    await asyncio.Event().wait()


@staged
async def test_a_wait_that_was_cancelled_leaves_nothing_behind(election: Staged) -> None:
    """It wants to lead no longer, and the next one that waits has its turn."""

    async def lead() -> None:
        async with election.leadership():
            pass

    waiting = asyncio.create_task(lead())
    await asyncio.sleep(0.01)
    assert election.contends
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not election.contends
    election.elect()
    async with election.leadership() as lead_:
        assert lead_.term == 1


@staged
async def test_who_contended_before_contends_after(election: Staged) -> None:
    for before in (True, False):
        election.contends = before
        election.elect()
        async with election.leadership():
            assert election.contends
        assert election.contends is before
        election.depose()
        waiting = asyncio.create_task(election.leadership().begin(0))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert election.contends is before


@staged
async def test_work_is_occupied_while_it_lasts(election: Staged) -> None:
    election.elect()
    with pytest.raises(KeyError):
        async with election.leadership():
            assert election.occupied
            raise KeyError
    assert not election.occupied


@pytest.mark.parametrize(("newer", "reason"), [(0, Loss.EXPIRED), (1, Loss.EXPIRED), (2, Loss.DEPOSED)])
def test_a_lease_that_is_gone_was_lost_to_a_newer_leader_or_to_nobody(newer: int, reason: Loss) -> None:
    @staged
    async def test(election: Staged) -> None:
        election.elect()
        with pytest.raises(LeadershipLost) as lost:
            async with election.leadership():
                election.view = LeaderView("main", term=newer)
                election.depose()
                await forever()
        assert (lost.value.reason, lost.value.term) == (reason, 1)

    test()


@pytest.mark.parametrize(
    ("wished", "ending", "reason"),
    [
        (False, None, Loss.DEPOSED),
        (True, None, Loss.RESIGNED),
        (True, Loss.STOPPED, Loss.STOPPED),
        (False, Loss.STORE_FAILED, Loss.STORE_FAILED),
    ],
)
def test_why_work_is_to_end_is_told(wished: bool, ending: Loss | None, reason: Loss) -> None:
    @staged
    async def test(election: Staged) -> None:
        election.elect()
        with pytest.raises(LeadershipLost) as lost:
            async with election.leadership() as lead:
                election.is_yielding, election.wished, election.ending = True, wished, ending
                election.changed()
                assert lead.lost.result() is reason
                assert lead.remaining() > 0
                await forever()
        assert lost.value.reason is reason

    test()


@staged
async def test_work_is_told_to_end_when_grace_is_left_and_not_before(election: Staged) -> None:
    election.elect(LONG + 0.4)
    begun = time.monotonic()
    with pytest.raises(LeadershipLost):
        async with election.leadership(grace=LONG) as lead:
            try:
                await forever()
            finally:
                assert 0 < lead.remaining() <= LONG
                assert time.monotonic() - begun > 0.38


@staged
async def test_a_lease_with_no_more_than_grace_is_not_begun_with(election: Staged) -> None:
    election.elect(GRACE / 2)
    waiting = asyncio.create_task(election.leadership().begin(0))
    await asyncio.sleep(GRACE / 4)
    assert not waiting.done()
    election.elect()
    await waiting


@staged
async def test_nobody_begins_while_another_is_to_lead(election: Staged) -> None:
    election.is_yielding = True
    election.elect()
    waiting = asyncio.create_task(election.leadership().begin(0))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    election.is_yielding = False
    election.changed()
    await waiting


@staged
async def test_whoever_else_cancels_the_task_cancels_it(election: Staged) -> None:
    """Also if the leadership is lost at the same time: that cancellation is not the leadership's to swallow."""

    async def lead(lose: bool) -> None:
        async with election.leadership():
            if lose:
                election.depose()
            asyncio.get_running_loop().call_soon(task.cancel)
            await forever()

    for lose in (False, True):
        election.elect()
        task = asyncio.create_task(lead(lose))
        await asyncio.wait([task])
        assert task.cancelled(), lose


@staged
async def test_after_a_loss_the_task_is_not_cancelled_any_more(election: Staged) -> None:
    election.elect()
    with pytest.raises(LeadershipLost):
        async with election.leadership():
            election.depose()
            await forever()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    await asyncio.sleep(0)


@staged
async def test_work_that_has_ended_before_it_was_cancelled_hears_of_the_loss(election: Staged) -> None:
    election.elect()
    with pytest.raises(LeadershipLost):
        async with election.leadership():
            election.depose()
    await asyncio.sleep(0.01)


@staged
async def test_an_error_of_the_work_is_not_hidden_by_the_loss(election: Staged) -> None:
    election.elect()
    with pytest.raises(KeyError):
        async with election.leadership():
            election.depose()
            raise KeyError


@contextmanager
def a_log_that_hangs() -> Iterator[threading.Event]:
    """Its handler waits, as one does that writes to a full pipe."""
    free = threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            free.wait(30)

    handler = Hanging()
    logging.getLogger("electorate").addHandler(handler)
    try:
        yield free
    finally:
        free.set()
        logging.getLogger("electorate").removeHandler(handler)


@pytest.mark.parametrize(("on_overrun", "exits"), [("exit", [OVERRUN]), ("log", [])])
def test_a_process_whose_work_overruns_ends_though_its_log_hangs(
    on_overrun: OnOverrun, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[int, bool]] = []

    @staged
    async def test(election: Staged) -> None:
        monkeypatch.setattr(os, "_exit", lambda code: ended.append((code, election.is_leader)))
        election.elect(LONG + 0.5)
        async with election.leadership(grace=LONG, on_overrun=on_overrun) as lead:
            while lead.remaining():
                time.sleep(0.005)  # noqa: ASYNC251 (this is what blocks the loop)
        assert lead.overran

    with a_log_that_hangs():
        test()
    assert ended == [(code, True) for code in exits], "before another may lead"


@staged
async def test_work_that_ends_in_time_has_not_overrun(election: Staged) -> None:
    for _ in range(2):
        election.elect(LONG + 0.5)
        with pytest.raises(LeadershipLost):
            async with election.leadership(grace=LONG) as lead:
                await forever()
        await asyncio.sleep(lead.remaining())
        assert not lead.overran
