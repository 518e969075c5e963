"""How many may ask for what at one time.

A request has its place until its answer is sent, so that those who ask much, or read slowly, or wait long,
leave room for the others: all the places together are fewer than the connections that are taken. Who leads,
and whether this node is ready, is answered at once, and so needs no place.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from electorate.web.answers import Complaint


class Room:
    """Places for so many; whoever finds none is told so, and when to come again."""

    def __init__(self, places: int, others: str, again: int) -> None:
        self.places = places
        self.taken = 0
        self.full = msgspec.json.encode(Complaint(f"{places} others {others} already"))
        self.again = str(again)

    async def admit(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if self.taken >= self.places:
            headers = {"Retry-After": self.again, "Connection": "close"}
            return await Response(self.full, 503, headers, "application/json")(scope, receive, send)
        self.taken += 1
        try:
            return await app(scope, receive, send)
        finally:
            self.taken -= 1


class Rooms:
    """Admits each request to the room of its path; a path without a room needs none."""

    def __init__(self, app: ASGIApp, rooms: Mapping[str, Room]) -> None:
        self.app = app
        self.rooms = rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if room := self.rooms.get(scope["path"]):
            await room.admit(self.app, scope, receive, send)
        else:
            await self.app(scope, receive, send)
