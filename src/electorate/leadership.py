"""Leading: the work that rests on a leadership, and the clockwork that ends it before the lease ends.

    lease    |--------------------------------------------------|
                                          ^ grace   ^ half      ^ end: another may lead
    work     ==============================
                                          cancelled
                                                    still there: logged, or the process ends

The event loop looks at the leases when something changes and when `grace` is near. A thread looks, too: it
sees what a loop that is blocked cannot. What the body has begun beside itself (`to_thread`, `run`) is told to
end when the body is; a command is killed when three quarters of `grace` are left.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args

from electorate.work import Call, Command, Work, stack_of, tell

if TYPE_CHECKING:
    from electorate.election import Election

T = TypeVar("T")
P = ParamSpec("P")

OnOverrun = Literal["log", "exit"]
OnError = Literal["raise", "restart"]

FAR = 1e6
"""Seconds: later than anything that is waited for."""

OVERRUN = 70
"""The exit code of a process whose work would have outlived its lease."""

KILL, ALARM = 0.75, 0.5
"""The shares of `grace`, before the end of a lease, at which commands are killed, and work has overrun."""

TELLING = 1.0
"""Seconds at most that a log may take."""

STOP_TIMEOUT = 10.0
"""Seconds that work may take to end when that is not urgent."""

log = logging.getLogger("electorate")


class Loss(StrEnum):
    """Why a leadership has ended, or is to."""

    DEPOSED = "another is to lead"
    EXPIRED = "its lease was not renewed in time"
    RESIGNED = "it was asked to resign"
    STORE_FAILED = "its store failed"
    STOPPED = "its node stopped"
    DONE = "its work is done"


class LeadershipLost(Exception):
    """The leadership ended before the work did, or (with term 0) never came. `reason` tells why, `term` which
    leadership it was."""

    def __init__(self, election: str, term: int, reason: Loss) -> None:
        which = (
            f"the leadership of '{election}' in term {term} is over" if term else f"'{election}' is not won"
        )
        super().__init__(f"{which}: {reason}")
        self.election = election
        self.term = term
        self.reason = reason


at_work: contextvars.ContextVar[frozenset[Leadership]] = contextvars.ContextVar(
    "at_work", default=frozenset()
)
"""The leaderships that the code which runs here is the work of."""


class Leadership:
    """A leadership of this process, for as long as the work that rests on it lasts. It is used once."""

    def __init__(
        self,
        election: Election,
        grace: float,
        on_overrun: OnOverrun,
        timeout: float | None = None,
        term: int | None = None,
    ) -> None:
        if not 0 <= grace <= election.longest_grace:
            raise ValueError(
                f"grace is {grace:g} s, and must be a number from 0 to {election.longest_grace:g}: a lease of"
                f" '{election.name}' has no more"
            )
        if on_overrun not in get_args(OnOverrun):
            raise ValueError(f"on_overrun is 'log' or 'exit', not {on_overrun!r}")
        self.election = election
        self.grace = grace
        self.on_overrun = on_overrun
        self.timeout = timeout
        self.standing = term is not None
        """It was won before, and goes on after this work."""
        self.term = term or 0
        """The number of this leadership: the fencing token."""
        self.reason: Loss | None = None
        self.lost: asyncio.Future[Loss]
        """Done when the leadership is lost or about to be; await it, or ask whether it is `done()`."""
        self.ended = threading.Event()
        """Set when all work must end: the leadership is lost or about to be, or the body has ended. A
        function in a thread looks at it."""
        self.thread = 0
        """The thread in which the work is done."""
        self.works: set[Work] = set()
        """What the body has begun beside itself."""
        self.pressed = False
        """The thread has told works to end, because the loop was late."""
        self.killed = False
        self.overran = False
        self.left = False
        """The body has ended."""
        self.used = False
        self._contended = False
        self._obstacle = ""
        self._task: asyncio.Task[Any] | None = None
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
        if self.reason or self.ended.is_set() or not self.remaining():
            done = Loss.DONE if self.ended.is_set() else Loss.EXPIRED
            raise LeadershipLost(self.election.name, self.term, self.reason or done)

    # --- the work -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Leadership:
        task = asyncio.current_task()
        assert task is not None
        if getattr(task.get_coro(), "cr_code", None) is Leadership.__aenter__.__code__:
            raise RuntimeError(
                f"the leadership of '{self.election.name}' is entered in a task of its own, so its body could"
                " not be cancelled: use `async with election.leadership(timeout=...)`, without wait_for"
            )
        await self.begin(threading.get_ident())
        self._task, self._cancelling = task, task.cancelling()
        task.add_done_callback(self.left_alone)
        self.mark()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self.election.forked or task is None:
            return
        task.remove_done_callback(self.left_alone)
        self.unmark()
        if self._strike:
            self._strike.cancel()
        cancelled = await self.end()
        foreign = self._struck and task.uncancel() > self._cancelling
        unwound = kind is not None and issubclass(kind, asyncio.CancelledError)
        if cancelled is not None and not unwound:
            raise cancelled
        ours = kind is None or (unwound and self._struck and not foreign and cancelled is None)
        if self.reason is not None and ours:
            raise LeadershipLost(self.election.name, self.term, self.reason) from None

    def mark(self) -> None:
        """The code that runs here is my work."""
        at_work.set(at_work.get() | {self})

    def unmark(self) -> None:
        at_work.set(at_work.get() - {self})

    def left_alone(self, task: asyncio.Task[Any]) -> None:
        """The task that has entered has ended, and the body has not."""
        log.error(
            "the task that entered the leadership of '%s' has ended, so the body, which runs in another,"
            " cannot be cancelled: enter and leave it in one task, by `async with`",
            self.election.name,
        )

    async def begin(self, thread: int) -> None:
        """Contend and wait until elected; the work is done in this thread."""
        election = self.election
        if self.used:
            raise RuntimeError(
                f"this leadership of '{election.name}' has been used: call `leadership()` for each"
            )
        self.used = True
        election.check_may_lead()
        if not self.standing:
            if any(not outer.standing for outer in at_work.get() & election.leaderships):
                raise RuntimeError(
                    f"this is the work of a leadership of '{election.name}': to wait for another here would"
                    " be to wait for itself"
                )
            try:
                async with asyncio.timeout(self.timeout):
                    await self.win()
            except TimeoutError:
                raise TimeoutError(
                    f"'{election.name}' was not won within {self.timeout:g} s: {self._obstacle}"
                ) from None
        self.lost = asyncio.get_running_loop().create_future()
        self.thread = thread
        election.begin_work(self)
        election.timekeeper.add(self)

    async def win(self) -> None:
        election = self.election
        self._obstacle = "other work of this process leads it, and this waits for its end"
        await election.turns.take()
        self._contended = election.contends
        try:
            await election.prepare()
            election.contend()
            self.term = await election.elected(self.grace)
        except BaseException:
            self._obstacle = election.obstacle()
            self.cease()
            raise

    async def end(self) -> asyncio.CancelledError | None:
        """The body has ended: so must what it has begun, and then hand over. Returns the cancellation that
        came meanwhile, if one did."""
        self.left = True
        self.demand()
        cancelled = await enduring(self.works)
        self.election.timekeeper.discard(self)
        self.election.end_work(self)
        if not self.standing:
            try:
                await self.election.handed_over()
            except asyncio.CancelledError as error:
                cancelled = error
            self.election.withdraw()
            self.cease()
        return cancelled

    def cease(self) -> None:
        """Want no more than before."""
        if not self._contended:
            self.election.withdraw()
        elif not self.election.closed:
            self.election.contend()
        self.election.turns.give()

    # --- what it begins beside itself -----------------------------------------------------------------

    async def to_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call this in a thread of its own, and wait for the result. The leadership is not handed over before
        the function has ended, even if nobody waits for it any more. It cannot be cancelled: it must look at
        `ended` now and then."""
        self.check()
        context = contextvars.copy_context()
        call = Call(functools.partial(context.run, functools.partial(function, *args, **kwargs)))
        self.count(call)
        result: T = await asyncio.shield(asyncio.wrap_future(call.done))
        return result

    async def run(self, *command: str, stop_timeout: float = STOP_TIMEOUT, allow_setuid: bool = False) -> int:
        """Run this command and wait for its exit code (-9: it was killed by signal 9). It is sent SIGTERM
        when the body is cancelled, and when the body has ended; and SIGKILL `stop_timeout` seconds later, but
        before the lease can end. Processes that leave its process group escape. It gains no privileges by
        set-uid programs such as sudo, unless that is allowed: this process may be unable to end those."""
        self.check()
        work = Command(command, stop_timeout, allow_setuid)
        self.count(work)
        try:
            code: int = await asyncio.shield(asyncio.wrap_future(work.done))
            return code
        except asyncio.CancelledError:
            work.end()
            await enduring([work])
            raise

    def count(self, work: Work) -> None:
        """Begin this; from now on it counts."""
        loop = asyncio.get_running_loop()
        self.works.add(work)
        work.done.add_done_callback(lambda _: tell(loop, self.works.discard, work))
        work.begin()
        self.election.timekeeper.check()

    def demand(self) -> None:
        """All work should end. May be called from any thread."""
        self.ended.set()
        for work in tuple(self.works):
            work.end()

    # --- its end ------------------------------------------------------------------------------------

    def look(self) -> float:
        """See whether it is time to end the work. Returns for how many seconds it is not."""
        left = self.remaining() - self.grace
        if self.reason is None:
            if self.election.ending:
                self.lose(self.election.ending)
            elif self.election.yielding:
                self.lose(Loss.RESIGNED if self.election.wished else Loss.DEPOSED)
            elif left <= 0 or self.pressed:
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
            self.demand()
            if self._task is not None:
                self._strike = asyncio.get_running_loop().call_soon(self.strike)

    def strike(self) -> None:
        if self._task is not None and not self._task.done():
            self._struck = True
            self._task.cancel()

    def due(self) -> float:
        """For how many seconds the thread need not look at this."""
        left, marks = self.remaining(), [FAR]
        if self.works and not self.ended.is_set():
            marks.append(left - self.grace)
        if self.works and not self.killed:
            marks.append(left - KILL * self.grace)
        if not self.overran:
            marks.append(left - ALARM * self.grace)
        return min(marks)

    def press(self) -> None:
        """Do what is due, though the loop may hang. Called in a thread."""
        left = self.remaining()
        if self.works and left <= self.grace:
            self.pressed = True
            self.demand()
        if self.works and left <= KILL * self.grace:
            self.killed = True
            self.kill()
        if left <= ALARM * self.grace and not self.overran:
            self.overrun("its lease is about to end")

    def kill(self) -> None:
        for work in tuple(self.works):
            work.kill()

    def overrun(self, why: str, end: bool = False) -> None:
        """The work goes on although it must not: say so, once, and end the process if that is wanted. A log
        that blocks keeps nobody from that."""
        self.overran = True
        telling = threading.Thread(target=self.tell_overrun, args=(why,), daemon=True)
        telling.start()
        telling.join(min(self.remaining() / 2, TELLING))
        if end or self.on_overrun == "exit":
            self.kill()
            os._exit(OVERRUN)

    def tell_overrun(self, why: str) -> None:
        places = [] if self.left else [stack_of(self.thread)]
        places += [work.whereabouts() for work in tuple(self.works)]
        log.error(
            "the work for '%s' in term %d goes on though %s; it is here:\n%s",
            self.election.name,
            self.term,
            why,
            "\n".join(places),
        )


async def enduring(works: Collection[Work]) -> asyncio.CancelledError | None:
    """Wait for the end of these, whatever is cancelled meanwhile. Returns the last such cancellation."""
    cancelled = None
    waiting = {work.over() for work in works}
    while waiting:
        try:
            _, waiting = await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


class Pauses:
    """How long to wait after work that has failed: longer and longer, unless it had gone well for a while."""

    FIRST, LONGEST = 1.0, 60.0

    def __init__(self, election: str) -> None:
        self.election = election
        self.longer = self.FIRST
        self.pause = 0.0

    @contextmanager
    def after(self, on_error: OnError) -> Iterator[None]:
        """Around the work: what it raises passes, or is logged."""
        begun = time.monotonic()
        try:
            yield
        except LeadershipLost:
            raise
        except Exception:
            if on_error == "raise":
                raise
            if time.monotonic() - begun > self.LONGEST:
                self.longer = self.FIRST
            self.pause, self.longer = self.longer, min(2 * self.longer, self.LONGEST)
            log.exception("the work for '%s' has failed; contending again in %g s", self.election, self.pause)

    def next(self) -> float:
        """For how many seconds to pause now."""
        pause, self.pause = self.pause, 0.0
        return pause


class Turns:
    """One at a time, in the order in which they came."""

    def __init__(self) -> None:
        self.taken = False
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if not self.taken:
            self.taken = True
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        try:
            await mine
        except BaseException:
            if mine in self.waiting:
                self.waiting.remove(mine)
            elif not (mine.cancelled() or mine.exception()):
                self.give()
            raise

    def give(self) -> None:
        """To the next, if there is one."""
        while self.waiting:
            following = self.waiting.popleft()
            if not following.done():
                return following.set_result(None)
        self.taken = False

    def close(self, error: Exception) -> None:
        """All who wait, wait in vain."""
        while self.waiting:
            waiting = self.waiting.popleft()
            if not waiting.done():
                waiting.set_exception(error)


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
            alarm = min(alarm, leadership.due())
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
        """Find the work that is late. Returns for how many seconds no other will be."""
        soonest = FAR
        for leadership in tuple(self.leaderships):
            if leadership.due() <= 0:
                leadership.press()
            soonest = min(soonest, leadership.due())
        return max(soonest, 0.0)

    def close(self) -> None:
        self.closed = True
        if self.timer:
            self.timer.cancel()
        self.stirred.set()
        if self.thread:
            self.thread.join()
