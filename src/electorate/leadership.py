"""Leading: the work that rests on a leadership, and the clockwork that ends it before the lease ends.

    lease    |--------------------------------------------------|
                                          ^ grace   ^ half      ^ end: another may lead
    work     ==============================
                                          cancelled
                                                    still there: logged, or the process ends

The event loop looks at the leases when something changes and when `grace` is near. A thread looks, too: it
sees what a loop that is blocked cannot.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from electorate.election import Election

OnOverrun = Literal["log", "exit"]

FAR = 1e6
"""Seconds: later than anything that is waited for."""

OVERRUN = 70
"""The exit code of a process whose work would have outlived its lease."""

log = logging.getLogger("electorate")


class Loss(StrEnum):
    """Why a leadership has ended, or is to."""

    DEPOSED = "another is to lead"
    EXPIRED = "its lease was not renewed in time"
    RESIGNED = "it was asked to resign"
    STORE_FAILED = "its store failed"
    STOPPED = "its node stopped"


class LeadershipLost(Exception):
    """The leadership ended before the work did. `reason` tells why, `term` which leadership it was."""

    def __init__(self, election: str, term: int, reason: Loss) -> None:
        super().__init__(f"the leadership of '{election}' in term {term} is over: {reason}")
        self.election = election
        self.term = term
        self.reason = reason


class Leadership:
    """A leadership of this process, for as long as the work that rests on it lasts."""

    def __init__(
        self, election: Election, grace: float, on_overrun: OnOverrun, term: int | None = None
    ) -> None:
        self.election = election
        self.grace = grace
        self.on_overrun = on_overrun
        self.standing = term is not None
        """It was won before, and goes on after this work."""
        self.term = term or 0
        """The number of this leadership: the fencing token."""
        self.reason: Loss | None = None
        self.lost: asyncio.Future[Loss]
        """Done when the leadership is lost or about to be; await it, or ask whether it is `done()`."""
        self.thread = 0
        """The thread in which the work is done."""
        self.overran = False
        self._contended = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._strike: asyncio.Handle | None = None
        self._struck = False

    def __repr__(self) -> str:
        return f"<Leadership of '{self.election.name}', term {self.term}, {self.remaining():.3f} s left>"

    def remaining(self) -> float:
        """For how many seconds this process certainly leads in this term; 0 if it does not. No I/O."""
        tenure = self.election.tenure()
        return tenure.left if tenure and tenure.term == self.term else 0.0

    def check(self) -> None:
        """Raise `LeadershipLost` if this is no longer a leadership, or about to be none."""
        if self.reason or not self.remaining():
            raise LeadershipLost(self.election.name, self.term, self.reason or Loss.EXPIRED)

    # --- the work -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Leadership:
        await self.begin(threading.get_ident())
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._strike:
            self._strike.cancel()
        self.end()
        if self.reason is None or task is None:
            return
        ours = not self._struck or task.uncancel() <= self._cancelling
        if kind is None or (issubclass(kind, asyncio.CancelledError) and self._struck and ours):
            raise LeadershipLost(self.election.name, self.term, self.reason) from None

    async def begin(self, thread: int) -> None:
        """Contend and wait until elected; the work is done in this thread."""
        election = self.election
        if not self.standing:
            await election.turn.acquire()
            self._contended = election.contends
            try:
                await election.prepare()
                election.contend()
                self.term = await election.elected(self.grace)
            except BaseException:
                self.cease()
                raise
        self.lost = asyncio.get_running_loop().create_future()
        self.thread = thread
        election.begin_work(self)
        election.timekeeper.add(self)

    def end(self) -> None:
        """The work has ended: hand over."""
        self.election.timekeeper.discard(self)
        self.election.end_work(self)
        if not self.standing:
            self.cease()

    def cease(self) -> None:
        """Want no more than before."""
        if self._contended:
            self.election.contend()
        else:
            self.election.withdraw()
        self.election.turn.release()

    # --- its end ------------------------------------------------------------------------------------

    def look(self) -> float:
        """See whether it is time to end the work. Returns for how many seconds it is not."""
        left = self.remaining() - self.grace
        if self.reason is None:
            if self.election.ending:
                self.lose(self.election.ending)
            elif self.election.yielding:
                self.lose(Loss.RESIGNED if self.election.wished else Loss.DEPOSED)
            elif left <= 0:
                self.lose(Loss.EXPIRED if self.remaining() else self.cause())
        return left

    def cause(self) -> Loss:
        """Why nothing is left of the lease: another leads already, or nobody supports this process."""
        view = self.election.view
        return Loss.DEPOSED if view.term > self.term else Loss.EXPIRED

    def lose(self, reason: Loss) -> None:
        """The work must end now, for this reason; it has what is left of the lease to do so."""
        if self.reason is None:
            self.reason = reason
            self.lost.set_result(reason)
            if self._task is not None:
                self._strike = asyncio.get_running_loop().call_soon(self.strike)

    def strike(self) -> None:
        if self._task is not None:
            self._struck = True
            self._task.cancel()

    def overrun(self) -> None:
        """The work goes on although its lease is about to end. Called in a thread, once."""
        self.overran = True
        telling = threading.Thread(target=self.tell_overrun, daemon=True)
        telling.start()
        telling.join(self.remaining() / 2)
        if self.on_overrun == "exit":
            os._exit(OVERRUN)

    def tell_overrun(self) -> None:
        frame = sys._current_frames().get(self.thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "(its thread has ended)"
        log.error(
            "the work for '%s' in term %d goes on though its lease is about to end; it is here:\n%s",
            self.election.name,
            self.term,
            stack,
        )


class Timekeeper:
    """Watches over all leaderships of one event loop: a timer in the loop, and a thread for when it hangs."""

    def __init__(self) -> None:
        self.leaderships: set[Leadership] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.alarm = FAR
        """When the thread is to look, on the monotonic clock; put off whenever the loop has looked."""
        self.stirred = threading.Event()
        self.thread: threading.Thread | None = None
        self.closed = False

    def add(self, leadership: Leadership) -> None:
        self.leaderships.add(leadership)
        if self.thread is None:
            self.thread = threading.Thread(target=self.watch, name="electorate-timekeeper", daemon=True)
            self.thread.start()
        if self.timer is None or leadership.look() < self.timer.when() - asyncio.get_running_loop().time():
            self.check()

    def discard(self, leadership: Leadership) -> None:
        self.leaderships.discard(leadership)

    def check(self) -> None:
        """Tell all work to end whose time has come, and look again when the next one's may have."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        soonest = alarm = FAR
        for leadership in tuple(self.leaderships):
            left = leadership.look()
            if leadership.reason is None:
                soonest = min(soonest, left)
            if not leadership.overran:
                alarm = min(alarm, left + leadership.grace / 2)
        if soonest < FAR:
            self.timer = asyncio.get_running_loop().call_later(soonest, self.check)
        self.put_off(time.monotonic() + alarm)

    def put_off(self, alarm: float) -> None:
        sooner = alarm < self.alarm or self.alarm <= time.monotonic()
        self.alarm = alarm
        if sooner:
            self.stirred.set()

    def watch(self) -> None:
        """The thread: sleep until the alarm; if the loop has not put it off by then, see who is late."""
        while not self.closed:
            self.stirred.clear()
            left = self.alarm - time.monotonic()
            self.stirred.wait(left if left > 0 else self.search())

    def search(self) -> float:
        """Find the work that has overrun. Returns for how many seconds no other will have."""
        soonest = FAR
        for leadership in tuple(self.leaderships):
            left = leadership.remaining() - leadership.grace / 2
            if left > 0:
                soonest = min(soonest, left)
            elif not leadership.overran:
                leadership.overrun()
        return soonest

    def close(self) -> None:
        self.closed = True
        if self.timer:
            self.timer.cancel()
        self.stirred.set()
        if self.thread:
            self.thread.join()
