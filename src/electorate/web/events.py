"""Changes of view, as server-sent events.

The newest changes are kept in one ring for all readers, and the newest of each election beside it; a reader
is no more than a place in their numbers. One that has fallen off the ring, because it was away or slow, is
told the newest of each election that has changed since. So a reader costs nothing while nothing happens, and
none can make this node keep more for it. The node itself only puts each view in line; what becomes of it is
done in the thread of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from electorate.runtime.host import Host

KEPT = 256
"""So many changes are kept for those who resume."""
SILENCE = 15.0
"""After so many seconds without a change, a comment shows that the connection stands."""
PACE = 0.05
"""A reader is told at most once in so many seconds: when everything changes, all at once."""
CHUNK = 64
"""So many changes are written at a time."""


class Event(NamedTuple):
    """A change."""

    number: int
    view: dict[str, Any]

    @property
    def text(self) -> bytes:
        return b"id: %d\nevent: view\ndata: %b\n\n" % (self.number, msgspec.json.encode(self.view))


class Events:
    """The views of one host, and their changes since this was made, in the loop of the node.

    The numbers begin anew with each incarnation, above all earlier ones: a number of an earlier life of the
    node is older than everything here."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.loop = loop
        self.first = self.newest = host.node.incarnation << 32
        self.line: deque[tuple[str, dict[str, Any]]] = deque()
        """What has changed, and has no number yet."""
        self.called = False
        """The loop of HTTP knows that there is something in the line."""
        self.ring: deque[Event] = deque(maxlen=KEPT)
        self.latest: dict[str, Event] = {}
        """The newest of each election, in the order of their numbers."""
        self.closed = False
        self._change = loop.create_future()
        for election in tuple(host.node.elections.values()):
            self.observe("view", msgspec.structs.asdict(election.view))
        host.observe(self.observe, "view", "forgotten")

    # --- in the loop of the node --------------------------------------------------------------------

    def observe(self, kind: str, view: dict[str, Any]) -> None:
        self.line.append((kind, view))
        if not self.called:
            self.called = True
            with suppress(RuntimeError):  # it has ended
                self.loop.call_soon_threadsafe(self.take)

    def leave(self) -> None:
        """Hear of no more."""
        self.host.unobserve(self.observe)

    # --- in the loop of HTTP ------------------------------------------------------------------------

    def take(self) -> None:
        self.called = False
        while self.line:
            kind, view = self.line.popleft()
            self.latest.pop(view["election"], None)
            if kind == "view":
                self.newest += 1
                self.latest[view["election"]] = event = Event(self.newest, view)
                self.ring.append(event)
        self.wake()

    def close(self) -> None:
        """End every stream, when it has told all."""
        self.take()
        self.closed = True
        self.wake()

    def wake(self) -> None:
        if not self._change.done():
            self._change.set_result(None)

    def change(self) -> asyncio.Future[None]:
        """Done at the next change of any election. It is shared: wait for it, but do not cancel it."""
        if self._change.done() and not self.closed:
            self._change = self.loop.create_future()
        return self._change

    def since(self, place: int, election: str | None) -> list[Event]:
        """What has come after this place: all, if it is still kept, or else the newest of each election."""
        kept = self.newest - len(self.ring) <= place
        newest_first = reversed(self.ring) if kept else reversed(self.latest.values())
        later = takewhile(lambda event: event.number > place, newest_first)
        return [event for event in later if election in (None, event.view["election"])][::-1]

    async def stream(self, place: int | None, election: str | None) -> AsyncIterator[bytes]:
        """How things stand, and every change from then on, of one election or of all; or what follows a place
        that was reached before."""
        if place is None or not self.first < place <= self.newest:
            place = self.first - 1
        while not self.closed or place < self.newest:
            news, place = self.since(place, election), self.newest
            for chunk in chunks(news):
                yield chunk
                await asyncio.sleep(0)
            if news:
                await asyncio.sleep(PACE)
            elif not self.closed and not (await asyncio.wait([self.change()], timeout=SILENCE))[0]:
                yield b":\n\n"


def chunks(events: list[Event]) -> Iterator[bytes]:
    for start in range(0, len(events), CHUNK):
        yield b"".join(event.text for event in events[start : start + CHUNK])
