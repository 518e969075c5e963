"""Names: what each stands for, connected to and listened on.

The system is asked in threads of our own, which nobody waits for: a look-up that lasts holds up no other, no
thread of the application, and not the end of the process.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest
from typing import Any, TypeAlias, cast

from electorate.runtime.lobby import machine

LASTS = 3.0
"""After so many seconds without an answer the log tells that a look-up lasts."""
PROMPT = 0.3
"""For so many seconds the system is waited for where what it said last will do."""
OWN = 15.0
"""For so many seconds a node that starts waits until its own name is looked up."""
HEAD_START = 0.25
"""Seconds between the attempts to connect to one address and to the next (RFC 8305, section 5)."""
FOREIGN = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""It is no address of this machine, or of a family that this machine does not speak."""

Address: TypeAlias = tuple[str, int]
"""A number, as text, and a port."""
Place: TypeAlias = tuple[IPv4Address | IPv6Address, int]
"""The same, however it is written."""


def place(address: tuple[Any, ...]) -> Place:
    """The place that this address of a socket means, however it is written."""
    return ipaddress.ip_address(address[0]), address[1]


def is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- looking up ------------------------------------------------------------------------------------


def stands_for(host: str, port: int) -> list[Address]:
    """What the system says that this means, each once. This may take long. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(numbered(address) for *_, address in found))


def numbered(address: tuple[Any, ...]) -> Address:
    host, port, *_, scope = (*address, 0) if len(address) == 2 else address
    return (f"{host}%{socket.if_indextoname(scope)}" if scope else host), port


def look_up(host: str, port: int) -> asyncio.Future[list[Address]]:
    """Ask the system in a thread. The future may be left alone: the thread holds up nobody."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()
    answer.add_done_callback(asyncio.Future.exception)

    def settle(how: Callable[[Any], None], what: object) -> None:
        if not answer.done():
            how(what)

    def ask() -> None:
        how: Callable[[Any], None] = answer.set_result
        what: object
        try:
            what = stands_for(host, port)
        except OSError as error:
            how, what = answer.set_exception, error
        except ValueError as error:  # no name can be like that
            how, what = answer.set_exception, OSError(errno.EINVAL, str(error))
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(settle, how, what)

    try:
        threading.Thread(target=ask, name=f"electorate-look-up-{host}", daemon=True).start()
    except RuntimeError as error:
        answer.set_exception(OSError(errno.EAGAIN, str(error)))
    return answer


class Name:
    """An address as it was configured. Whatever it stands for, and however long the system takes to say so,
    one question is under way at most."""

    def __init__(
        self, host: str, port: int, key: str, log: logging.Logger, lasts: Callable[[], None]
    ) -> None:
        self.host = host
        self.port = port
        self.lasts = lasts
        """Called when a look-up lasts."""
        self.key = key
        """Where it is configured."""
        self.log = log
        self.known: list[Address] = []
        """What it stood for last."""
        self.machines: frozenset[bytes] = frozenset()
        """The same, without ports, however each is written."""
        if is_number(host):
            self.learn([(host, port)])
        self.asked: asyncio.Future[list[Address]] | None = None
        self.lasting: asyncio.TimerHandle | None = None
        self.troubles: set[str] = set()
        """What was told since it could be looked up last."""

    async def addresses(self) -> tuple[list[Address], bool]:
        """What it stands for, and whether the system says so now; if that takes too long, or fails, what it
        stood for last. Raises `OSError` if there is nothing."""
        if is_number(self.host):
            return self.known, True
        asked = self.asked or self.ask()
        await asyncio.wait([asked], timeout=PROMPT if self.known else None)
        if asked.done() and not asked.exception():
            return asked.result(), True
        if not self.known:
            asked.result()
        return self.known, False

    def ask(self) -> asyncio.Future[list[Address]]:
        self.asked = look_up(self.host, self.port)
        self.lasting = asyncio.get_running_loop().call_later(LASTS, self.take_long)
        self.asked.add_done_callback(self.answered)
        return self.asked

    def answered(self, asked: asyncio.Future[list[Address]]) -> None:
        self.close()
        self.asked = None
        if error := asked.exception():
            return self.tell(f"fails ({reason(error)})") if self.known else None
        self.learn(asked.result())
        if self.troubles:
            self.log.info("looking up %s (%s) works again", self.host, self.key)
            self.troubles.clear()
        return None

    def learn(self, addresses: list[Address]) -> None:
        self.known = addresses
        self.machines = frozenset(machine(number) for number, _ in addresses)

    def take_long(self) -> None:
        self.tell("takes long")
        self.lasts()

    def tell(self, trouble: str) -> None:
        """Once, until it works again."""
        if trouble not in self.troubles:
            self.troubles.add(trouble)
            meanwhile = (
                "what it stood for last has to do" if self.known else "nothing can be done with it yet"
            )
            self.log.warning(
                "looking up %s (%s) %s: %s; see to the name server, or to the name",
                self.host,
                self.key,
                trouble,
                meanwhile,
            )

    def close(self) -> None:
        """Tell no more."""
        if self.lasting:
            self.lasting.cancel()


def reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


# --- connecting ------------------------------------------------------------------------------------


def in_turn(
    addresses: list[Address], first: Place | None = None, last: Iterable[Place] = ()
) -> list[Address]:
    """Those of either family by turns; but that one `first`, and these `last`, in their order."""
    families: tuple[list[Address], list[Address]] = ([], [])
    for address in addresses:
        families[":" in address[0]].append(address)
    if families[1][:1] == addresses[:1]:
        families = families[::-1]
    mixed = [address for pair in zip_longest(*families) for address in pair if address]
    rank = {first: -1} | {place: number for number, place in enumerate(last, 1)}
    return sorted(mixed, key=lambda address: rank.get(place(address), 0))


async def reach(
    protocol: asyncio.Protocol, addresses: Iterable[Address], refused: Callable[[Place], None], **tls: Any
) -> None:
    """Connect to one of these addresses, and tell of each that refuses. They are tried side by side (RFC
    8305): the next one begins once the one before has failed, or has had its head start. Raises `OSError`,
    and `ConnectionRefusedError` only if all refuse.

    The loop makes the sockets. One that it is given can close a stranger's file: if the connection ends
    before `create_connection` returns, uvloop closes the descriptor and leaves the socket believing in it."""
    loop = asyncio.get_running_loop()
    waiting, running = [*addresses], dict[asyncio.Task[None], Address]()
    failure: OSError = ConnectionRefusedError("it refuses")
    prize = [protocol]
    try:
        while waiting or running:
            if waiting:
                address = waiting.pop(0)
                running[loop.create_task(Entrant(prize).enter(address, tls))] = address
            patience = HEAD_START if waiting else None
            done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            errors = [(running.pop(attempt), attempt.exception()) for attempt in done]
            for address, error in errors:
                if isinstance(error, ConnectionRefusedError):
                    refused(place(address))
                elif isinstance(error, OSError):
                    failure = error
                elif error:
                    raise error
            if not all(error for _, error in errors):
                return
    finally:
        for attempt in running:
            attempt.cancel()
    raise failure


class Entrant(asyncio.Protocol):
    """One of several connections that are tried side by side: the first that stands gets the prize, which is
    to be the connection of the protocol."""

    def __init__(self, prize: list[asyncio.Protocol]) -> None:
        self.prize = prize
        self.won = False

    async def enter(self, address: Address, tls: dict[str, Any]) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, *address, **tls)
        if not self.won:
            raise OSError("another address was faster")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.prize:
            return cast(asyncio.Transport, transport).abort()
        self.won = True
        protocol = self.prize.pop()
        transport.set_protocol(protocol)
        return protocol.connection_made(transport)


# --- listening -------------------------------------------------------------------------------------


async def listen(host: str, port: int, key: str, log: logging.Logger) -> list[socket.socket]:
    """Listen on all that this name of this machine stands for. Raises `OSError`."""
    addresses = [(host, port)] if is_number(host) else await own_addresses(host, port, key, log)
    listeners = bound(addresses)
    taken = {unscoped(listener.getsockname()[0]) for listener in listeners}
    for number in dict.fromkeys(number for number, _ in addresses):
        if unscoped(number) not in taken:
            log.warning("not listening on %s: that is no address of this machine (%s)", number, key)
    return listeners


def unscoped(number: str) -> IPv4Address | IPv6Address:
    """However it is written, and on whichever interface."""
    return ipaddress.ip_address(number.partition("%")[0])


async def own_addresses(host: str, port: int, key: str, log: logging.Logger) -> list[Address]:
    """Raises `OSError`."""
    asked = look_up(host, port)
    if not (await asyncio.wait([asked], timeout=LASTS))[0]:
        log.warning("looking up %s (%s) takes long; see to the name server, or to the name", host, key)
        await asyncio.wait([asked], timeout=OWN - LASTS)
    if not asked.done():
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")
    return asked.result()


def bound(addresses: Iterable[Address]) -> list[socket.socket]:
    """A socket that listens on each of these addresses that this machine has; where any port will do, all on
    the same. Raises `OSError` if it has none of them, or something else is in the way."""
    listeners: list[socket.socket] = []
    foreign: OSError | None = None
    try:
        for host, port in addresses:
            try:
                listeners.append(bind(host, port or (listeners[0].getsockname()[1] if listeners else 0)))
            except OSError as error:
                if error.errno not in FOREIGN:
                    raise
                foreign = error
        if not listeners:
            raise foreign or OSError(errno.EADDRNOTAVAIL, "it stands for nothing")
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def bind(host: str, port: int) -> socket.socket:
    """Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(100)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def hindrance(error: OSError, key: str, port: int) -> str:
    """Why nobody can listen there, as this key wants, and what to do about it."""
    remedy = f"correct {key}"
    if key.startswith("nodes.") and key.endswith(".address"):
        remedy += f", or say in {key.removesuffix('address')}bind where to listen, such as 0.0.0.0:{port}"
    if isinstance(error, socket.gaierror):
        return f"that name cannot be looked up here ({reason(error)}); {remedy}"
    if error.errno in FOREIGN:
        return f"that is no address of this machine; {remedy}"
    if error.errno == errno.EADDRINUSE:
        return f"{reason(error)}; stop whatever uses that port, or change {key}"
    if error.errno == errno.EACCES:
        return f"{reason(error)}; give {key} a port that this user may listen on, such as one from 1024"
    return reason(error)
