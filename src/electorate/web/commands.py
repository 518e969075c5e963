"""What is commanded over HTTP, carried out by the node in its own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.exceptions import HTTPException

from electorate.runtime.clock import now
from electorate.runtime.handover import Wish
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
        return await self.fulfil(Wish(wish.election, wish.to, wish.force))

    async def give_up(self, wish: Resign) -> Outcome:
        return await self.fulfil(Wish(wish.election, seconds=wish.seconds))

    async def hold_off(self, wish: Freeze) -> Outcome:
        try:
            self.host.freeze(wish.election, wish.seconds)
        except ValueError as error:
            raise HTTPException(409, str(error)) from None
        return True, state.leader(self.host, wish.election)[1]

    async def fulfil(self, wish: Wish) -> Outcome:
        """Who leads once the next one does, or who leads still, because work must end first. Raises
        `HTTPException`."""
        patience = ANSWER * self.host.config.timing.lease
        fulfilling = asyncio.ensure_future(self.host.handover.fulfil(wish, patience))
        await asyncio.wait([fulfilling, self.stopping], return_when=asyncio.FIRST_COMPLETED)
        if not fulfilling.done():
            fulfilling.cancel()
            await asyncio.wait([fulfilling])
        if fulfilling.cancelled():
            return False, state.leader(self.host, wish.election)[1]
        try:
            done, _, _, view = fulfilling.result()
        except ValueError as error:
            raise HTTPException(409, str(error)) from None
        leader = state.seen(self.host, view) if view else state.leader(self.host, wish.election)[1]
        return done, leader
