"""Whether a node can keep a promise: its loop turns, and its store takes a small commit within a lease."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress

from electorate.runtime.clock import now
from electorate.runtime.host import Host
from electorate.runtime.store import remedy

FRESH = 1.0
"""For so many seconds the last proof is good enough."""


class Proof:
    """Asked for now, in the loop of HTTP; given when that of the node has turned and its store written."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked = now()
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.turned = False
        self.fault: BaseException | None = None
        host.loop.call_soon_threadsafe(self.turn)

    def turn(self) -> None:
        """In the loop of the node."""
        self.turned = True
        self.host.disk.submit(self.host.store.prove).add_done_callback(self.written)

    def written(self, proof: Future[None]) -> None:
        """In the thread of the store."""
        self.fault = proof.exception()
        with suppress(RuntimeError):  # nobody asks any more
            self.loop.call_soon_threadsafe(self.settle)

    def settle(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Health:
    """The health of one host. One proof does for all who ask at one time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.proof: Proof | None = None
        self.closed = False

    def close(self) -> None:
        """Let all who wait be answered."""
        self.closed = True
        if self.proof:
            self.proof.settle()

    async def illness(self) -> str | None:
        """Why this node can promise nothing, if so."""
        host = self.host
        if host.stopping:
            return "it is stopping"
        if host.failed.done():
            return host.failed.result()
        if host.no_store:
            return host.no_store
        if self.proof is None or (self.proof.done.done() and now() - self.proof.asked > FRESH):
            self.proof = Proof(host)
        proof = self.proof
        await asyncio.wait([proof.done], timeout=max(0.0, proof.asked + host.config.timing.lease - now()))
        if proof.fault:
            return f"its data directory {remedy(proof.fault, host.id)}"
        if self.closed:
            return "it is stopping"
        if not proof.turned:
            return f"its loop has not turned for {now() - proof.asked:.1f} s"
        if not proof.done.done():
            return f"its data directory has taken no write for {now() - proof.asked:.1f} s"
        return None
