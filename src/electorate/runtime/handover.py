"""To transfer and to resign, wished at any node: done here if this node leads, else by the one that does.

    the node that its user asks         the one that leads, as that node knows
    Ask(number, election, to, ...)
                                        Answered(number, how, why, ...)

A wish is passed on once: whoever does not lead answers who does, as far as it knows, and the first node asks
again while its time lasts. Any member may ask, because it is known to be one: so whoever may command one node
commands the leaders of the cluster by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from electorate.core.model import NodeId, Role, Term, View
from electorate.core.node import is_name
from electorate.runtime import wishes
from electorate.runtime.clock import now
from electorate.runtime.hearsay import SENTENCE, heard
from electorate.runtime.reasons import not_handed_over, overruled, who_leads
from electorate.runtime.wire import Answered, Ask, How

if TYPE_CHECKING:
    from electorate.runtime.host import Host

THEIRS = 0.8
"""Of the time that is left, so much has the one that is asked: its answer is to come in time."""
LONGEST = 3600.0
"""Seconds that one member may make another wait."""
AT_ONCE = 32
"""So many wishes at most are passed on by each member at one time."""


class Lapsed(ValueError):
    """What was begun came to nothing."""


class Wish(NamedTuple):
    """To hand over to this node, or (None) to whoever is next; then, not to contend for so many seconds."""

    election: str
    to: NodeId | None = None
    force: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.to is not None:
            return f"transfer of {self.election!r} to {self.to!r}{' by force' if self.force else ''}"
        return f"resignation from {self.election!r}{f' for {self.seconds:g} s' if self.seconds else ''}"


class Outcome(NamedTuple):
    """Whether it has come true; if not yet, what is waited for."""

    done: bool
    by: NodeId
    """Who led, and was asked."""
    why: str = ""
    view: View | None = None
    """Who leads then, if that was waited for."""


class Handover:
    """The wishes that one host is asked for, and those that it passes on."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.number = 0
        self.asked: dict[int, tuple[NodeId, asyncio.Future[Answered]]] = {}
        """What has been passed on, and to whom."""
        self.obliging: dict[asyncio.Task[None], NodeId] = {}
        """What others have passed on to this node."""
        self.stopping: asyncio.Future[None] = host.loop.create_future()

    async def fulfil(self, wish: Wish, patience: float, until_led: bool = True) -> Outcome:
        """Let the leader hand over, wherever that is, and wait until the next one leads (or only until the
        last one does not). Raises `ValueError`, which says why, if it cannot be."""
        self.check(wish)
        until = now() + patience
        leader, answer = await self.settle(wish, until)
        done, heir_led = answer.how is How.DONE, answer.how is How.DONE and wish.to is not None
        if (done and not until_led) or not (done or self.has_time(until)):
            return Outcome(done, leader, answer.why)
        if heir_led:
            until = min(until, now() + (self.host.config.timing.patience if leader != self.host.id else 0.0))

        def came_true(view: View) -> bool:
            if wish.to is not None:
                return view.leader == wish.to and view.term >= answer.term
            return view.leader is not None and view.term > answer.term if until_led else view.leader != leader

        with self.host.awaiting(wish.election, came_true) as came:
            await self.wait(came, until)
        if came.done():
            view = came.result()
            return Outcome(wish.to is not None or view.leader != leader, leader, "", view)
        if heir_led:
            return Outcome(True, leader, "", self.told(wish.election, answer))
        return Outcome(False, leader, answer.why or f"node {leader} has resigned, and nobody leads yet")

    def told(self, election: str, answer: Answered) -> View:
        """What the last leader has seen, though this node has not."""
        own = self.host.view(election)
        return View(election, own.role if own else Role.FOLLOWER, answer.leader, answer.term)

    def has_time(self, until: float) -> bool:
        return now() < until and not self.stopping.done()

    async def wait(self, came: asyncio.Future[View], until: float) -> None:
        """Until then, but not while this node stops."""
        either: list[asyncio.Future[Any]] = [came, self.stopping]
        left = max(0.0, until - now())
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def check(self, wish: Wish) -> None:
        wishes.check(wish.seconds)
        if wish.to is not None:
            self.host.check_member(wish.to)

    async def settle(self, wish: Wish, until: float) -> tuple[NodeId, Answered]:
        """Who has taken the wish upon itself, and what came of it. Raises `ValueError`."""
        leader = self.leader(wish.election)
        while True:
            if leader == self.host.id:
                return leader, await self.here(wish, until)
            answer = await self.ask(leader, wish, until)
            if answer.how is How.REFUSED:
                raise ValueError(answer.why)
            if answer.how is How.LAPSED:
                raise Lapsed(answer.why)
            if answer.how is not How.ELSEWHERE:
                return leader, answer
            leader = await self.another(wish.election, leader, answer, until)

    def leader(self, election: str) -> NodeId:
        """Who leads, as far as this node knows. Raises `ValueError` if nobody does."""
        view = self.host.view(election)
        if view is None or view.leader is None:
            raise ValueError(self.does_not_lead(election))
        return view.leader

    def does_not_lead(self, election: str) -> str:
        return f"node {self.host.id} does not lead '{election}': {who_leads(self.host, election)}"

    async def another(self, election: str, asked: NodeId, answer: Answered, until: float) -> NodeId:
        """Who leads, if not the one that was asked: whom this node sees lead, or the other has named. Either
        may be about to hear more. Raises `ValueError`."""
        with self.host.awaiting(election, lambda view: view.leader not in (None, asked)) as came:
            await asyncio.wait([came], timeout=min(until - now(), self.host.config.timing.patience))
        if now() >= until:
            raise ValueError(answer.why)
        if not came.done() and answer.leader in self.host.links:
            return answer.leader
        return self.leader(election)

    async def here(self, wish: Wish, until: float) -> Answered:
        """This node leads: hand over, and wait until that is done. Raises `ValueError`."""
        host = self.host
        term = host.node.leading[wish.election].leader_term
        with self.doing(wish) as done:
            await self.wait(done, until)
        if done.done():
            view = done.result()
            return Answered(0, How.DONE, "", view.leader, term if wish.to is None else view.term)
        return Answered(0, How.UNDER_WAY, not_handed_over(host, wish.election, wish.to), None, term)

    @contextmanager
    def doing(self, wish: Wish) -> Iterator[asyncio.Future[View]]:
        """Begin to hand over: the future is done when the heir leads, or this node does not, and fails with a
        `Lapsed` that says why if it comes to nothing. Raises `ValueError`, too."""
        host = self.host
        if wish.to is None:
            host.resign(wish.election, wish.seconds)
            with host.awaiting(wish.election, self.given_up) as ended:
                yield ended
            return
        with host.awaiting(wish.election, lambda view: view.leader == wish.to) as led:

            def hear(kind: str, what: dict[str, Any]) -> None:
                if (what["election"], what["heir"]) == (wish.election, wish.to) and not led.done():
                    led.set_exception(Lapsed(what["reason"]))
                    led.exception()

            host.observe(hear, "lapsed")
            try:
                host.transfer(wish.election, wish.to, wish.force)
                yield led
            finally:
                host.unobserve(hear)

    def given_up(self, view: View) -> bool:
        """Whether this node leads no longer. Raises `Lapsed` if it is not to give up any more."""
        leading = self.host.node.leading.get(view.election)
        if leading is not None and not leading.is_to_yield:
            raise Lapsed(overruled(self.host))
        return view.leader != self.host.id

    # --- passing on -------------------------------------------------------------------------------

    async def ask(self, leader: NodeId, wish: Wish, until: float) -> Answered:
        """Pass it on, and wait for the answer. Raises `ValueError` if none can come."""
        link = self.host.links[leader]
        if not link.connected:
            raise ValueError(
                f"node {leader} leads '{wish.election}', and node {self.host.id} does not reach it"
            )
        view = self.host.view(wish.election)
        self.number += 1
        number = (self.host.started.incarnation << 32) + self.number
        answered: asyncio.Future[Answered] = self.host.loop.create_future()
        self.asked[number] = leader, answered
        left = until - now()
        link.write(Ask(number, wish.election, wish.to, wish.force, wish.seconds, max(0.0, THEIRS * left)))
        try:
            await asyncio.wait([answered], timeout=left)
            if answered.done():
                return answered.result()
            why = f"node {leader} has not answered, and may do it yet"
            return Answered(number, How.UNDER_WAY, why, None, view.term if view else 0)
        finally:
            del self.asked[number]

    def on_answered(self, peer: NodeId, answered: Answered) -> None:
        asked, future = self.asked.get(answered.number, (None, None))
        if future is not None and asked == peer and not future.done():
            future.set_result(msgspec.structs.replace(answered, why=heard(answered.why, SENTENCE)))
        else:
            self.host.node.ignore("an answer to what was not asked")

    def lost(self, peer: NodeId) -> None:
        """What was asked of this one is not answered any more."""
        self.expect_nothing_of(peer, f"node {peer} was lost before it answered")

    def expect_nothing_of(self, peer: NodeId, why: str) -> None:
        for asked, future in self.asked.values():
            if asked == peer and not future.done():
                why = f"{why}: see who leads, and ask again"
                future.set_result(Answered(0, How.REFUSED, why, None, 0))

    # --- being asked ------------------------------------------------------------------------------

    def on_ask(self, peer: NodeId, ask: Ask) -> None:
        if list(self.obliging.values()).count(peer) >= AT_ONCE:
            return self.answer(peer, ask, How.REFUSED, f"node {self.host.id} is asked too much: try again")
        if not is_name(ask.election):
            return self.answer(peer, ask, How.REFUSED, "that is no name of an election")
        task = self.host.loop.create_task(self.oblige(peer, ask))
        self.obliging[task] = peer
        return task.add_done_callback(self.obliging.pop)

    async def oblige(self, peer: NodeId, ask: Ask) -> None:
        """Another passes on what its user wishes."""
        wish = Wish(ask.election, ask.to, ask.force, ask.seconds)
        if ask.election not in self.host.node.leading:
            view = self.host.view(ask.election)
            leader = view.leader if view else None
            return self.answer(peer, ask, How.ELSEWHERE, self.does_not_lead(ask.election), leader)
        patience = ask.patience if 0 <= ask.patience <= LONGEST else LONGEST
        try:
            self.check(wish)
            to = ask.to or "whoever is next"
            self.host.log.info("asked by node %s to hand '%s' over to %s", peer, ask.election, to)
            done = await self.here(wish, now() + patience)
        except Lapsed as error:
            return self.answer(peer, ask, How.LAPSED, str(error))
        except ValueError as error:
            return self.answer(peer, ask, How.REFUSED, str(error))
        return self.answer(peer, ask, done.how, done.why, done.leader, done.term)

    def answer(
        self, peer: NodeId, ask: Ask, how: How, why: str, leader: NodeId | None = None, term: Term = 0
    ) -> None:
        self.host.links[peer].write(Answered(ask.number, how, why, leader, term))

    async def close(self) -> None:
        """Answer all who still wait."""
        self.stopping.set_result(None)
        for peer in {asked for asked, _ in self.asked.values()}:
            self.expect_nothing_of(peer, f"node {self.host.id} stops before node {peer} has answered")
        if self.obliging:
            await asyncio.wait(self.obliging)
