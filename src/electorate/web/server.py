"""Serves HTTP in the loop of the node: uvicorn's protocol, on a socket of ours, within bounds.

Only the protocol: a whole `uvicorn.Server` takes over signals and logging, and wakes ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from electorate.errors import UserError
from electorate.runtime.host import Host, listen
from electorate.web import token
from electorate.web.app import Api, application
from electorate.web.events import Events

CONNECTIONS = 256
"""So many connections at most, at one time."""
REQUEST = 10.0
"""How many seconds a request may take to arrive, or a connection may stand idle."""
HEADERS = 16 << 10
"""The most bytes of a request's head."""
UNREAD = 10.0
"""Who does not read for so many seconds what it is sent, is cut off."""
PARTING = 1.0
"""Seconds for answers to end when the node stops."""


@asynccontextmanager
async def serve(host: Host) -> AsyncIterator[None]:
    """Serve this host until the end of the context. Raises `UserError`."""
    if host.config.http and host.config.http.token_file:
        token.read(host.config.path(host.config.http.token_file, host.id))
    listener = await claim_address(host)
    host.config = host.config.serving(host.id, listener.getsockname()[1])
    host.sockets.add(listener)
    events = Events(host)
    config = uvicorn.Config(
        application(Api(host, events)),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=3600,  # REQUEST comes first
        h11_max_incomplete_event_size=HEADERS,
    )
    config.load()
    state = ServerState()
    log = logging.getLogger(f"electorate.{host.id}.http")
    server = await host.loop.create_server(lambda: Connection(config, state, log), sock=listener)
    try:
        yield
    finally:
        events.close()
        server.close()
        host.sockets.discard(listener)
        await part(state)


async def claim_address(host: Host) -> socket.socket:
    address = host.config.http_address(host.id)
    assert address is not None
    try:
        return await listen(*address)
    except OSError as error:
        raise UserError(
            f"node {host.id} cannot serve HTTP on {address[0]}:{address[1]}: {error.strerror or error};"
            f" stop whatever uses that port, or change nodes.{host.id}.http"
        ) from None


async def part(state: ServerState) -> None:
    """Let answers end, but not for long."""
    for connection in tuple(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=PARTING)
    for connection in tuple(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks))
    await asyncio.sleep(0)


class Connection(H11Protocol):
    """One connection, which must send, read, and not be one too many."""

    def __init__(self, config: uvicorn.Config, state: ServerState, log: logging.Logger) -> None:
        super().__init__(config, state, {})
        self.logger = log
        self.access_log = False
        self.hurry: asyncio.TimerHandle | None = None
        self.unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self.expect_request()

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = default_headers()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self.expect_request()
        super().on_response_complete()

    def expect_request(self) -> None:
        if self.hurry:
            self.hurry.cancel()
        self.hurry = self.loop.call_later(REQUEST, self.cut_off_if_slow)

    def cut_off_if_slow(self) -> None:
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread:
            self.unread.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for timer in (self.hurry, self.unread):
            if timer:
                timer.cancel()


def default_headers() -> list[tuple[bytes, bytes]]:
    """What every answer bears: nothing here is true for long, and none of it is to be guessed at."""
    return [
        (b"date", formatdate(usegmt=True).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
