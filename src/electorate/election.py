"""An election as a contender sees it: the same on every engine.

    async with election.leadership() as lead:     # waits until elected
        await work(fencing_token=lead.term)       # cancelled before the lease can end

An engine implements the abstract methods of `Election` and calls `changed` whenever what it knows has
changed; the rest is here and in `leadership`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, overload

import msgspec

from electorate.leadership import (
    FAR,
    Leadership,
    LeadershipLost,
    Loss,
    OnError,
    OnOverrun,
    Pauses,
    Timekeeper,
    Turns,
)

T = TypeVar("T")
P = ParamSpec("P")

NOTHING: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger("electorate")


class LeaderView(msgspec.Struct, frozen=True):
    """What this process knows of an election. It is information, not proof: `is_leader` is the proof."""

    election: str
    id: str | None = None
    """The leader; None if none is known."""
    address: str | None = None
    term: int = 0
    """The number of the leadership (or, without a leader, the newest number known)."""
    metadata: Mapping[str, str] = NOTHING
    """What the leader has told of itself."""
    since: float | None = None
    """When this process learnt of this leadership, in seconds since 1970; None without a leader."""
    changes: int = 0
    """How many leaderships this process has seen begin after the first, of whomever."""
    role: Literal["leader", "follower", "candidate", "observer"] = "follower"
    """What this process is in the election."""


class Guarantees(msgspec.Struct, frozen=True):
    """What an engine promises, honestly."""

    exclusive: bool
    """No two processes find `is_leader` true at one instant, as long as clocks drift within the bound."""
    fencing: bool
    """The term grows from one leadership to the next, also for the same process."""
    durable: bool
    """That holds across the crash and restart of every process."""
    freshest: bool
    """The contender with the largest position wins."""
    assumes: str
    """What all this rests on, in a sentence."""


class Tenure(NamedTuple):
    """A leadership of this process: its term, and until when it certainly lasts, on the engine's clock."""

    term: int
    left: float
    """For how many seconds from now."""


Position = int | Callable[[], Awaitable[int]]


class Election(ABC):
    """A named question, "who leads?". Made by an engine: `Node.election(name)` or `connect(url)`."""

    def __init__(self, name: str, timekeeper: Timekeeper, grace: float, longest_grace: float = FAR) -> None:
        self.name = name
        self.timekeeper = timekeeper
        self.grace = grace
        """How many seconds before the end of a lease the work is told to end, unless it says otherwise."""
        self.longest_grace = longest_grace
        """With more, there would be no time to work."""
        self.view = LeaderView(name)
        self.ending: Loss | None = None
        """Why all work on the present leadership must end, if the engine knows a reason."""
        self.wished = False
        """The user has asked to hand over."""
        self.closed: Loss | None = None
        """Why nothing will change any more, once that is so."""
        self._next_view: asyncio.Future[None] | None = None
        self.turns = Turns()
        self.contends = False
        self.leaderships: set[Leadership] = set()
        """The work that rests on the present leadership of this process."""

    # --- what an engine does ----------------------------------------------------------------------

    @property
    @abstractmethod
    def guarantees(self) -> Guarantees:
        """What this engine promises."""

    @property
    @abstractmethod
    def priority(self) -> int:
        """The rank of this contender before all else, where the engine has ranks."""

    @property
    @abstractmethod
    def position(self) -> int:
        """How fresh this contender's data is: a whole number that grows, such as a transaction id."""

    @position.setter
    @abstractmethod
    def position(self, position: Position) -> None:
        """A number; or a coroutine function that is asked before and during an election."""

    @abstractmethod
    def tenure(self) -> Tenure | None:
        """The present leadership of this process, if it certainly leads at this instant. No I/O; may be
        asked from any thread."""

    @property
    @abstractmethod
    def yielding(self) -> bool:
        """Another is to lead, as soon as the work of this process has ended."""

    @abstractmethod
    def contend(self) -> None:
        """Want to lead, from now on and whenever there is no leader."""

    @abstractmethod
    def withdraw(self) -> None:
        """No longer want to lead; a leader hands over first."""

    @abstractmethod
    def occupy(self) -> None:
        """Work has begun that rests on the present leadership: it is not to be given away before `vacate`."""

    @abstractmethod
    def vacate(self) -> None:
        """The work has ended."""

    @abstractmethod
    def freeze(self, seconds: float) -> None:
        """Do not contend for so long, whatever else is wished; 0 ends that. Raises `ValueError` if this
        process leads."""

    @abstractmethod
    async def resign(self, *, seconds: float = 0.0, timeout: float | None = None) -> None:
        """Let another lead. The leader, wherever it is, contends again if none does, but not before so many
        `seconds`. Returns when it leads no longer, its work included. Raises `ValueError` if nobody leads or
        the leader cannot be asked, and `TimeoutError` if its work has not ended within `timeout` seconds (by
        default as in `transfer`); it resigns when that ends."""

    @abstractmethod
    async def transfer(self, to: str, *, force: bool = False, timeout: float | None = None) -> LeaderView:
        """Hand the leadership to this contender, and wait until it has led. Returns who leads then. Where
        another process leads, it is asked to. The heir may need a while to catch up with the leader's data
        (with `force` it need not), and the work of the leader has to end first.

        Raises `ValueError` if nobody leads, the leader cannot be asked or is lost before it answers, or the
        heir cannot lead, is still behind after a lease or is not wished any more; and `TimeoutError`, which
        says how it stands, if it takes longer than `timeout` seconds (four leases, by default). The wish
        stays, then, if only work has to end."""

    @property
    def forked(self) -> bool:
        """This process was forked off the one that may lead."""
        return False

    def check_here(self) -> None:
        """Raises `RuntimeError` in a process that was forked off."""
        return

    def check_may_lead(self) -> None:
        """Raises `ValueError` where this process can never lead, and `RuntimeError` as above."""
        self.check_here()

    def obstacle(self) -> str:
        """Why this process does not lead, as far as it knows."""
        return f"{self.view.id} leads, in term {self.view.term}" if self.view.id else "nobody leads"

    async def handed_over(self) -> None:
        """Wait while a transfer waits for its heir; that is not long."""
        return

    # --- questions --------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this process provably leads at this instant: a clock read, no I/O. A process that was
        paused finds False when it wakes, and one that was forked off."""
        return self.tenure() is not None

    @property
    def leader(self) -> LeaderView | None:
        """Who leads, as far as this process knows; None if nobody does."""
        self.check_here()
        return self.view if self.view.id is not None else None

    async def watch(self) -> AsyncIterator[LeaderView]:
        """The present view, then every change, until the engine is closed. A slow reader misses what was
        superseded meanwhile, and holds up nobody."""
        self.check_here()
        seen: LeaderView | None = None
        while not self.closed:
            if self.view != seen:
                seen = self.view
                yield seen
            else:
                await asyncio.wait([self.change()])

    def change(self) -> asyncio.Future[None]:
        """Done at the next change, of whatever kind. Many may wait for the same one: do not cancel it."""
        if self._next_view is None or self._next_view.done():
            self._next_view = asyncio.get_running_loop().create_future()
        return self._next_view

    def changed(self) -> None:
        """For the engine: what there is to know has changed."""
        for leadership in self.leaderships:
            leadership.look()
        if self._next_view is not None and not self._next_view.done():
            self._next_view.set_result(None)

    def close(self, reason: Loss = Loss.STOPPED) -> None:
        """For the engine: nothing will change any more."""
        self.closed = self.closed or reason
        self.turns.close(LeadershipLost(self.name, 0, self.closed))
        self.changed()

    # --- leading ----------------------------------------------------------------------------------

    def leadership(
        self, *, timeout: float | None = None, grace: float | None = None, on_overrun: OnOverrun = "log"
    ) -> Leadership:
        """Contend, wait until elected with a lease, and lead for the time of the `async with`. It raises
        `TimeoutError`, which says why, if that takes longer than `timeout` seconds.

        The body is cancelled when the leadership is to end: because another is to lead, or, at the latest,
        `grace` seconds before the lease can end. Then `LeadershipLost` is raised at exit; loop to try again.
        Leaving the body hands the leadership over. One body at a time leads; others wait their turn.

        A body that does not yield to the event loop cannot be cancelled. This is noticed when half of `grace`
        is left: its stack is logged, and with `on_overrun="exit"` the process ends at once, with code 70.
        """
        return Leadership(self, self.grace if grace is None else grace, on_overrun, timeout)

    @abstractmethod
    async def prepare(self) -> None:
        """This process is about to contend."""

    async def elected(self, grace: float) -> int:
        """Wait until this process leads, with more than `grace` seconds to go. Returns the term."""
        while True:
            tenure = self.tenure()
            if tenure and tenure.left > grace and not self.yielding:
                return tenure.term
            if self.closed:
                raise LeadershipLost(self.name, 0, self.closed)
            await asyncio.wait([self.change()], timeout=grace if tenure else None)

    def begin_work(self, leadership: Leadership) -> None:
        if not self.leaderships:
            self.ending, self.wished = None, False
            self.occupy()
        self.leaderships.add(leadership)

    def end_work(self, leadership: Leadership) -> None:
        self.leaderships.remove(leadership)
        if not self.leaderships:
            self.vacate()
            self.changed()

    async def run(
        self,
        work: Callable[[Leadership], Awaitable[T]],
        *,
        on_error: OnError = "raise",
        grace: float | None = None,
        on_overrun: OnOverrun = "log",
    ) -> T:
        """Do this work as the leader, anew after each lost leadership, until it returns of itself; then hand
        over and return its result. The work may so be done more than once. `lead.lost` tells it of a loss.

        What the work raises hands the leadership over, and is raised here, which ends the candidacy: whoever
        starts this as a task must look at it. With `on_error="restart"` it is logged instead, and this
        process contends again after a pause, which doubles from one second to a minute as long as the work
        fails."""
        pauses = Pauses(self.name)
        while True:
            try:
                async with self.leadership(grace=grace, on_overrun=on_overrun) as lead:
                    with pauses.after(on_error):
                        return await work(lead)
            except LeadershipLost as lost:
                if self.closed or lost.reason is Loss.STOPPED:
                    raise
                log.info("%s", lost)
            await asyncio.sleep(pauses.next())

    @overload
    def leader_only(
        self, function: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T | None]]: ...

    @overload
    def leader_only(self, function: Callable[P, T]) -> Callable[P, T | None]: ...

    def leader_only(self, function: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate a function, or a coroutine function: it contends, and calls do nothing and return None
        unless this process leads. A coroutine is cancelled like the body of `leadership`, and then raises
        `LeadershipLost`."""
        self.contend()
        if not inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> Any:
                return function(*args, **kwargs) if self.is_leader else None

            return call

        @functools.wraps(function)
        async def await_call(*args: P.args, **kwargs: P.kwargs) -> Any:
            tenure = self.tenure()
            if tenure is None or tenure.left <= self.grace or self.yielding:
                return None
            async with Leadership(self, self.grace, "log", term=tenure.term):
                return await function(*args, **kwargs)

        return await_call
