"""Serves HTTP in a thread and a loop of its own: uvicorn's protocol, on a socket of ours, within bounds.

However many read, and whatever they do, the loop of the node does not wait for them. Only the protocol is
uvicorn's: a whole `uvicorn.Server` takes over signals and logging, and wakes ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.door import Door
from electorate.runtime.hearsay import Hearsay
from electorate.runtime.host import Host
from electorate.runtime.names import hindrance, listen
from electorate.web import token
from electorate.web.app import Api, application
from electorate.web.commands import Commands
from electorate.web.events import Events
from electorate.web.pace import Unhurried
from electorate.web.tls import Certificate, OnlyProbes, plain

CONNECTIONS = 256
"""So many connections at most, at one time. One more, and the one that has waited for longest has to go:
those that are being answered are fewer (see `rooms`)."""
PATIENCE = 5.0
"""How many seconds a request may take to arrive, a connection may stand idle, or an answer may lie unread."""
HEADERS = 16 << 10
"""The most bytes of a request's head."""
PARTING = 1.0
"""Seconds for answers to end when the node stops."""
LEFT = 2.0
"""Seconds after that, when the node no longer waits for HTTP to end."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds until HTTP that has failed begins anew, at first and at most."""


@asynccontextmanager
async def serve(host: Host) -> AsyncIterator[None]:
    """Serve this host until the end of the context. Raises `UserError`."""
    if host.config.http and host.config.http.token_file:
        token.read(host.config.path(host.config.http.token_file, host.id))
    log = logging.getLogger(f"electorate.{host.id}.http")
    encrypted = host.config.http and host.config.http.tls
    certificate = Certificate(host.config, host.id, log) if encrypted else None
    if certificate and certificate.end < time.time():
        log.error("%s has ended, and clients refuse it: put a new one in its place", certificate.cert)
    listeners = await claim_address(host)
    host.config = host.config.serving(host.id, listeners[0].getsockname()[1])
    server = Server(host, listeners, certificate, log)
    await server.start()
    keeping = asyncio.create_task(server.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await server.stop()


async def claim_address(host: Host) -> list[socket.socket]:
    address = host.config.http_address(host.id)
    assert address is not None
    key, (name, port) = f"nodes.{host.id}.http", address
    try:
        return await listen(name, port, key, host.log)
    except OSError as error:
        raise UserError(
            f"node {host.id} cannot serve HTTP on {name}:{port}: {hindrance(error, key, port)}"
        ) from None


class Server:
    """Made, started and stopped in the loop of the node."""

    def __init__(
        self,
        host: Host,
        listeners: list[socket.socket],
        certificate: Certificate | None,
        log: logging.Logger,
    ) -> None:
        self.host = host
        self.listeners = listeners
        self.certificate = certificate
        self.log = log
        self.hearsay = Hearsay(now)

    async def start(self) -> None:
        """Returns once calls are taken, so that nothing is left to be imported later. Raises `UserError`."""
        try:
            self.loop = asyncio.SelectorEventLoop(Unhurried())
        except OSError as error:
            self.refuse()
            raise self.hindered(error) from None
        self.events = Events(self.host, self.loop)
        self.commands = Commands(self.host)
        self.stopping = asyncio.Event()
        self.opened: asyncio.Future[Any] = self.host.loop.create_future()
        self.ended: asyncio.Future[Any] = self.host.loop.create_future()
        self.host.sockets.update(self.listeners)
        threading.Thread(target=self.run, name=f"electorate-{self.host.id}-http", daemon=True).start()
        try:
            await asyncio.wait({self.opened, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()
            raise
        if not self.opened.done():
            self.leave()
            raise self.hindered(self.ended.result())

    def hindered(self, error: Exception | None) -> UserError:
        self.log.debug("HTTP cannot begin", exc_info=error)
        return UserError(f"node {self.host.id} cannot serve HTTP: {type(error).__name__}: {error}")

    def refuse(self) -> None:
        """Who calls need not wait for an answer."""
        for listener in self.listeners:
            listener.close()

    async def keep(self) -> None:
        """When it fails, say so and begin anew, however often that is tried."""
        pause = FIRST_PAUSE
        while True:
            begun = self.host.loop.time()
            error = await asyncio.shield(self.ended)
            self.leave()
            self.log.error("HTTP has failed: nobody is answered until it begins anew", exc_info=error)
            if self.host.loop.time() - begun > 10 * LONGEST_PAUSE:
                pause = FIRST_PAUSE
            again = False
            while not again:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                with suppress(UserError):
                    self.listeners = await claim_address(self.host)
                    await self.start()
                    again = True
            self.log.warning("HTTP is served again")

    def leave(self) -> None:
        """The node has no more to do with it."""
        self.host.sockets.difference_update(self.listeners)
        if not self.commands.stopping.done():
            self.events.leave()
            self.commands.stop()

    async def stop(self) -> None:
        self.leave()
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self.stopping.set)
        ended, _ = await asyncio.wait([self.ended], timeout=PARTING + LEFT)
        if not ended:
            self.log.warning("HTTP has not ended in %g s: stopping without it", PARTING + LEFT)

    # --- in the thread of HTTP ----------------------------------------------------------------------

    def run(self) -> None:
        failure = None
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self.serve())
        except Exception as error:
            failure = error
            self.refuse()
        self.tell(self.ended, failure)

    def tell(self, future: asyncio.Future[Any], result: object) -> None:
        with suppress(RuntimeError):  # nobody waits any more
            self.host.loop.call_soon_threadsafe(future.set_result, result)

    async def serve(self) -> None:
        api = Api(self.host, self.events, self.commands, self.certificate)
        config = uvicorn.Config(
            application(api),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=3600,  # PATIENCE comes first
            h11_max_incomplete_event_size=HEADERS,
        )
        config.load()
        state, waiting = ServerState(), Waiting(self.loop)
        arriving: dict[asyncio.Task[None], None] = {}

        def welcome(connection: socket.socket) -> None:
            if len(arriving) >= CONNECTIONS:
                oldest = next(iter(arriving))
                arriving.pop(oldest)
                oldest.cancel()
            protocol = Connection(config, state, self.log, waiting, self.certificate)
            task = self.loop.create_task(self.arrive(protocol, connection))
            arriving[task] = None
            task.add_done_callback(lambda task: arriving.pop(task, None))

        door = Door(self.loop, self.listeners, welcome, self.log, Counter())
        door.open()
        self.tell(self.opened, None)
        try:
            await self.stopping.wait()
        finally:
            api.close()
            door.close()
            await part(state)

    async def arrive(self, protocol: asyncio.Protocol, connection: socket.socket) -> None:
        """Take a connection; with HTTPS, once hands are shaken."""
        https: dict[str, Any] = {}
        if self.certificate:
            self.certificate.refresh()
            bounds = {"ssl_handshake_timeout": PATIENCE, "ssl_shutdown_timeout": PARTING}
            https = {"ssl": self.certificate.context, **bounds}
        caller = "unknown"
        try:
            caller = connection.getpeername()[0]
            await self.loop.connect_accepted_socket(lambda: protocol, connection, **https)
        except ssl.SSLError as error:
            self.host.figures.refusals["https"] += 1
            complaint = f"no handshake with {caller}: {plain(error)}"
            if self.hearsay.hear(("no handshake with", "callers", "https"), complaint):
                self.log.warning("%s", complaint)
        except OSError:  # it has gone already
            connection.close()


async def part(state: ServerState) -> None:
    """Let answers end, but not for long."""
    for connection in tuple(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=PARTING)
    for connection in tuple(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=PARTING)
    await asyncio.sleep(0)


class Waiting:
    """The connections that wait for the other side, to ask or to read, and since when: the one that has
    waited for longest comes first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.since: dict[Connection, float] = {}
        self.sweeping: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        self.remove(connection)
        self.since[connection] = self.loop.time()
        self.sweep_later()

    def remove(self, connection: Connection) -> None:
        self.since.pop(connection, None)

    def sweep_later(self) -> None:
        if self.since and self.sweeping is None:
            oldest = next(iter(self.since.values()))
            self.sweeping = self.loop.call_at(oldest + PATIENCE, self.sweep)

    def sweep(self) -> None:
        """Cut off those who are too slow."""
        self.sweeping = None
        for connection, since in tuple(self.since.items()):
            if since + PATIENCE > self.loop.time():
                break
            self.remove(connection)
            if connection.waits:
                connection.transport.abort()
        self.sweep_later()

    def make_room(self) -> None:
        """Cut off the one that has waited for longest."""
        for connection in tuple(self.since):
            if connection.waits:
                self.remove(connection)
                return connection.transport.abort()


class Connection(H11Protocol):
    """One connection, which must send and read."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        log: logging.Logger,
        waiting: Waiting,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config, state, {})
        self.certificate = certificate
        self.logger = log
        self.access_log = False
        self.waiting = waiting
        self.unread = False

    @property
    def waits(self) -> bool:
        """Not all of a request has come, or its answer is not read."""
        cycle: Any = self.cycle
        return self.unread or cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.certificate and not self.certificate.is_satisfied(transport):
            self.app = OnlyProbes(self.app)
        self.waiting.add(self)
        if len(self.connections) > CONNECTIONS:
            self.waiting.make_room()

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = default_headers()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self.waiting.add(self)
        super().on_response_complete()
        self._unset_keepalive_if_required()  # its timer would hold a connection that is gone

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = True
        self.waiting.add(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread = False
        if not self.waits:
            self.waiting.remove(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.waiting.remove(self)


def default_headers() -> list[tuple[bytes, bytes]]:
    """What every answer bears: nothing here is true for long, and none of it is to be guessed at."""
    return [
        (b"date", formatdate(usegmt=True).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
