"""What is commanded over HTTP, carried out by the node in its own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.exceptions import HTTPException

from electorate.core.model import Term
from electorate.runtime.clock import now
from electorate.runtime.host import Host
from electorate.web import state
from electorate.web.answers import Freeze, Leader, Resign, Transfer

ANSWER = 3
"""So many leases at most a command waits for what comes of it: who resigns stands back for one of them."""

Outcome = tuple[bool, Leader]
"""Whether it is done, and who leads now: if not, work must end first."""


class Commands:
    """Made, and told to stop, in the loop of the node; asked in that of HTTP."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.stopping = host.loop.create_future()

    def stop(self) -> None:
        """Let every command answer now."""
        self.stopping.set_result(None)

    async def transfer(self, wish: Transfer) -> Outcome:
        return await self.in_node(self.hand_over(wish))

    async def resign(self, wish: Resign) -> Outcome:
        return await self.in_node(self.give_up(wish))

    async def freeze(self, wish: Freeze) -> Outcome:
        return await self.in_node(self.hold_off(wish))

    async def in_node(self, command: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Raises `HTTPException` if the loop of the node does not turn: a command that cannot begin within a
        lease is called off."""
        lease = self.host.config.timing.lease
        begun = False
        late = now() + lease

        async def carry_out() -> Outcome:
            nonlocal begun
            if now() >= late:
                command.close()
                raise asyncio.CancelledError
            begun = True
            return await command

        carried_out = asyncio.run_coroutine_threadsafe(carry_out(), self.host.loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(carried_out), (ANSWER + 2) * lease)
        except TimeoutError:
            what = "it may have been done" if begun else "nothing was done"
            raise HTTPException(503, f"the loop of this node does not turn: {what}") from None

    # --- in the loop of the node -------------------------------------------------------------------

    async def hand_over(self, wish: Transfer) -> Outcome:
        self.require_leadership(wish.election)
        try:
            with self.host.transferring(wish.election, wish.to, wish.force) as led:
                return await self.outcome(wish.election, led)
        except ValueError as error:
            raise HTTPException(409, str(error)) from None

    async def give_up(self, wish: Resign) -> Outcome:
        before = self.require_leadership(wish.election)
        with self.host.awaiting(
            wish.election, lambda leader, term: leader is not None and term > before
        ) as led:
            self.host.resign(wish.election, wish.seconds)
            return await self.outcome(wish.election, led)

    async def hold_off(self, wish: Freeze) -> Outcome:
        try:
            self.host.freeze(wish.election, wish.seconds)
        except ValueError as error:
            raise HTTPException(409, str(error)) from None
        return True, state.leader(self.host, wish.election)[1]

    async def outcome(self, election: str, led: asyncio.Future[None]) -> Outcome:
        """Who leads once that has come, or who leads still, because work must end first."""
        await asyncio.wait(
            [led, self.stopping],
            timeout=ANSWER * self.host.config.timing.lease,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if led.done():
            led.result()
        return led.done(), state.leader(self.host, election)[1]

    def require_leadership(self, election: str) -> Term:
        """The term of an election that this node leads. Raises `HTTPException` if it does not."""
        view = self.host.view(election)
        if view is not None and view.leader == self.host.id:
            return view.term
        _, leader = state.leader(self.host, election)
        where = f"node {leader.leader} at {leader.address} does" if leader.leader else "nobody does"
        raise HTTPException(409, f"node {self.host.id} does not lead '{election}': {where}")
