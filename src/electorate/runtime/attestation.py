"""A death is attested: who outlives a process, and holds the socket where it listened, answers in its place.

    dialler                                  the guardian of a life that has ended
    Greeting(…)
                                             Exited(start)

Only the guardian of that node can say so: it shows the certificate that its node has shown last, and asks for
the dialler's. Where the nodes have none, nobody proves anything.

This is imported by a program that must be small and start fast: of the standard library it takes what it
needs when it needs it, and of ours what imports nothing but that.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
from typing import TYPE_CHECKING, NamedTuple

from electorate.runtime.clock import now
from electorate.runtime.lobby import Lobby, machine

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

PATIENCE = 2.0
"""Seconds that each of them has to greet."""
PAUSE = 0.1
"""Seconds until calls are taken again, after the machine could not take one."""
LONGEST = 1 << 16
"""So many bytes at most a greeting has."""


class Testimony(NamedTuple):
    """What must be known to answer for one life of a node. It contains nothing but what JSON can say."""

    start: tuple[int, int]
    """Of the life: the incarnation, and the number drawn for it."""
    credentials: tuple[str, str, str, str] | None = None
    """What the node trusts and shows (`tls.Credentials`), if it has certificates."""


class Witness:
    """Ready to attest: what takes time has been done. Raises `OSError` or `ValueError` if the certificate
    cannot be used."""

    def __init__(self, testimony: Testimony) -> None:
        self.answer = exited(testimony.start)
        self.context: ssl.SSLContext | None = None
        self.unready: type[OSError] = BlockingIOError
        """Is raised where there is nothing to read yet."""
        if testimony.credentials:
            import ssl

            from electorate.runtime.tls import Credentials, rehearse

            credentials = Credentials(*testimony.credentials)
            self.context = credentials.context(ssl.PROTOCOL_TLS_SERVER)
            self.unready = ssl.SSLWantReadError
            with contextlib.suppress(ssl.SSLError):  # who dials will judge
                rehearse(self.context, credentials.context(ssl.PROTOCOL_TLS_CLIENT))


def exited(start: tuple[int, int]) -> bytes:
    """`wire.Exited` as a frame, made by hand."""
    incarnation, number = (b"\xcf" + number.to_bytes(8) for number in start)
    body = b"\x82" + b"\xa4type\xa6Exited" + b"\xa5start\x92" + incarnation + number
    return len(body).to_bytes(4) + body


def complain(what: str) -> None:
    """Who does not read what this process writes must not stop it."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"elect: {what}\n".encode())


def attest(listeners: Sequence[socket.socket], witness: Witness, stop: int, seconds: float) -> None:
    """Answer all who greet there that this life has ended, until so many seconds have passed, or until
    something can be read from the descriptor `stop`."""
    until = now() + seconds
    with Calls(listeners, witness) as calls:
        calls.selector.register(stop, selectors.EVENT_READ)
        while (left := until - now()) > 0:
            for key, _ in calls.selector.select(min(left, calls.patience())):
                if key.fileobj == stop:
                    return
                if isinstance(key.data, socket.socket):
                    calls.take(key.data)
                elif key.data in calls.since:
                    key.data.go_on()


class Calls:
    """Who calls, and is answered: nobody waits for another."""

    def __init__(self, listeners: Sequence[socket.socket], witness: Witness) -> None:
        self.listeners = listeners
        self.witness = witness
        self.selector = selectors.DefaultSelector()
        self.callers: Lobby[Caller] = Lobby(Caller.close)
        self.since: dict[Caller, None] = {}
        """The same, the oldest first."""

    def __enter__(self) -> Calls:
        for listener in self.listeners:
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, listener)
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.callers:
            caller.close()
        self.selector.close()

    def patience(self) -> float:
        """Send those away who have had their time. How many seconds the next one has."""
        while oldest := next(iter(self.since), None):
            if oldest.until > now():
                return oldest.until - now()
            oldest.close()
        return PATIENCE

    def take(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                complain(f"cannot take calls for a while: {error.strerror}")
                select.select([], [], [], PAUSE)
                return
            with contextlib.suppress(OSError):  # it has hung up already
                caller = Caller(self, connection)
                self.callers.enter(caller, machine(address[0]), ())
                self.since[caller] = None
                caller.go_on()


class Caller:
    """One who has called: it greets, is answered, and that was all."""

    def __init__(self, calls: Calls, connection: socket.socket) -> None:
        self.calls = calls
        self.until = now() + PATIENCE
        self.buffer = bytearray()
        connection.setblocking(False)
        context = calls.witness.context
        self.connection = (
            context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            if context
            else connection
        )
        calls.selector.register(self.connection, selectors.EVENT_READ, self)

    def go_on(self) -> None:
        """Read what there is. The answer fits into any socket; whoever says what is no greeting gets none."""
        witness = self.calls.witness
        try:
            while data := self.connection.recv(LONGEST):
                self.buffer += data
                length = int.from_bytes(self.buffer[:4])
                if len(self.buffer) >= 4 and not 0 < length <= LONGEST:
                    break
                if len(self.buffer) >= 4 + length > 4:
                    self.connection.sendall(witness.answer)
                    break
        except witness.unready:
            return
        except OSError as error:
            complain(f"a caller hung up: {error}")
        self.close()

    def close(self) -> None:
        self.calls.callers.leave(self)
        del self.calls.since[self]
        self.calls.selector.unregister(self.connection)
        self.connection.close()
