"""How a node is asked and commanded on its own machine: a socket named `control` in its data directory, which
only the owner of the directory can reach.

One line of JSON asks, and lines of JSON answer, until the node hangs up:

    {"ask": "status"}                                       what the node knows
    {"ask": "leader", "election": "main"}                   who leads
    {"ask": "elections"}                                    each election
    {"ask": "watch"}                                        each election, then every change
    {"ask": "transfer", "election": "main", "to": "b"}      it hands over; who leads then (also: "force")
    {"ask": "resign", "election": "main"}                   (also: "seconds" for which it is not to contend)
    {"ask": "freeze", "election": "main", "seconds": 60}    do not contend for so long; 0 ends that

A node that does not lead passes the first two of these wishes on to the leader. What cannot be done is
answered by {"error": ..., "refused": true}.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from electorate.core.model import View
from electorate.runtime import wishes
from electorate.runtime.door import Door
from electorate.runtime.handover import Wish
from electorate.runtime.host import Host
from electorate.runtime.reasons import no_election
from electorate.version import __version__

NAME = "control"
CALLERS = 32
"""So many may ask at one time."""
LINE = 4096
"""The longest question, in bytes."""
PATIENCE = 10.0
"""Seconds that a question may take to arrive."""
UNREAD = 1 << 18
"""One who watches and leaves so many bytes unread is cut off."""
WISHES = ("transfer", "resign", "freeze")
"""What is not done for one who does not wait for it any more."""
OUTCOME = 3
"""So many leases a command waits for what comes of it."""


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    ask: Literal["status", "leader", "elections", "watch", "transfer", "resign", "freeze"]
    election: str | None = None
    to: str | None = None
    force: bool = False
    seconds: float = 0.0


@contextmanager
def address(directory: Path) -> Iterator[str]:
    """The path of the socket: by way of a descriptor, because it may have a hundred bytes at most. Raises
    `OSError`, also where a link is in its place, which might lead to another node."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if Path(directory, NAME).is_symlink():
            raise OSError(errno.ELOOP, f"{NAME} is a symbolic link")
        short = Path(f"/proc/self/fd/{descriptor}")
        yield str((short if short.exists() else directory) / NAME)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def control(host: Host) -> AsyncIterator[None]:
    """Answer callers for a host that has started."""
    answering = Answering(host)
    listening = socket.socket(socket.AF_UNIX)
    path = host.store.directory / NAME
    try:
        path.unlink(missing_ok=True)  # of an earlier process: the directory is ours alone
        with address(host.store.directory) as short:
            listening.bind(short)
        path.chmod(0o600)
        ours = path.stat().st_ino
    except OSError as error:
        listening.close()
        host.log.warning("node %s cannot be asked on this machine: %s: %s", host.id, path, error.strerror)
        yield
        return
    host.sockets.add(listening)
    listening.listen()
    listening.setblocking(False)
    door = Door(host.loop, [listening], answering.welcome, host.log, host.counts)
    door.open()
    try:
        yield
    finally:
        door.close()
        host.sockets.discard(listening)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == ours:  # and not of a node that has come after us
                path.unlink()
        await answering.close()


class Answering:
    """The answers of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.callers: set[asyncio.Task[None]] = set()
        self.audit = logging.getLogger(f"electorate.{host.id}.audit")

    async def close(self) -> None:
        for caller in self.callers:
            caller.cancel()
        if self.callers:
            await asyncio.wait(self.callers)

    def welcome(self, connection: socket.socket) -> None:
        task = self.host.loop.create_task(self.serve(connection))
        self.callers.add(task)
        task.add_done_callback(self.callers.discard)

    async def serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE)
        try:
            if len(self.callers) <= CALLERS:
                await self.answer(reader, writer)
            else:
                say(writer, {"error": f"{CALLERS} others are asking: try again", "refused": True})
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = msgspec.json.decode(await self.question(reader), type=Ask)
            if asked.ask in WISHES and hung_up(writer):
                self.host.log.warning("nothing was done for one who asked to %s and hung up", asked.ask)
            elif asked.ask == "watch":
                await self.watch(asked.election, reader, writer)
            else:
                say(writer, await self.reply(asked, caller(writer)))
        except (msgspec.MsgspecError, ValueError) as error:
            say(writer, {"error": str(error), "refused": not isinstance(error, msgspec.MsgspecError)})
        async with asyncio.timeout(PATIENCE):
            await writer.drain()

    async def question(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(PATIENCE):
                return await reader.readline()
        except TimeoutError:
            raise ValueError(f"no question came within {PATIENCE:g} seconds") from None
        except ValueError:
            raise ValueError(f"a question has {LINE} bytes at most, and ends with a line feed") from None

    async def reply(self, asked: Ask, who: str) -> Any:
        host = self.host
        match asked.ask:
            case "status":
                about = {"version": __version__, "cluster": host.config.cluster, "node": host.id}
                return {**about, "algorithm": host.config.algorithm, **host.status()}
            case "elections":
                return {"elections": host.status()["elections"]}
            case "leader":
                return self.leader(self.existing(asked.election))
            case _:
                return await self.command(asked, who)

    def existing(self, election: str | None) -> str:
        name = self.host.config.elections[0] if election is None else election
        if complaint := no_election(self.host, name):
            raise ValueError(complaint)
        return name

    def leader(self, election: str, view: View | None = None) -> dict[str, Any]:
        """Who leads, or led in this view."""
        view = view or self.host.view(election)
        known = self.host.named(view) if view else None
        return {
            "election": election,
            "leader": known.id if known else None,
            "address": known.address if known else None,
            "term": view.term if view else 0,
            "metadata": dict(known.metadata) if known else {},
        }

    async def command(self, asked: Ask, who: str) -> dict[str, Any]:
        """Obey, and write down who wished what, and what came of it."""
        if asked.ask == "transfer" and asked.to is None:
            raise ValueError("say to whom")
        election = self.host.config.elections[0] if asked.election is None else asked.election
        to = asked.to if asked.ask == "transfer" else None
        wish = Wish(election, to, asked.force, asked.seconds)
        freezes = asked.ask == "freeze"
        what = wishes.frozen(election, asked.seconds) if freezes else str(wish)
        try:
            self.existing(election)
            answer = self.freeze(wish) if freezes else await self.fulfil(wish)
        except ValueError as error:
            self.record(who, what, f"refused: {error}")
            raise
        except asyncio.CancelledError:
            self.record(who, what, "this node stopped meanwhile")
            raise
        self.record(who, what, "done" if answer["done"] else "under way")
        return answer

    def record(self, who: str, what: str, outcome: str) -> None:
        self.audit.info(
            "%s asked for %s: %s", who, what, outcome, extra={"client": who, "wish": what, "outcome": outcome}
        )

    def freeze(self, wish: Wish) -> dict[str, Any]:
        self.host.freeze(wish.election, wish.seconds)
        return {**self.leader(wish.election), "done": True}

    async def fulfil(self, wish: Wish) -> dict[str, Any]:
        """Who leads once another does, or when there has been time enough for it."""
        outcome = await self.host.handover.fulfil(wish, OUTCOME * self.host.config.timing.lease)
        return {**self.leader(wish.election, outcome.view), "done": outcome.done}

    async def watch(
        self, election: str | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The newest of each election, then every change; until either hangs up."""
        if election is not None:
            self.existing(election)

        def tell(kind: str, what: dict[str, Any]) -> None:
            if election in (None, what["election"]) and not (what["secured"] or what["yielding"]):
                say(writer, self.leader(what["election"]) | {"role": what["role"]})
                if writer.transport.get_write_buffer_size() > UNREAD:
                    writer.transport.abort()

        for name, held in tuple(self.host.node.elections.items()):
            if election in (None, name):
                say(writer, self.leader(name) | {"role": held.view.role})
        self.host.observe(tell, "view")
        try:
            await reader.read()
        finally:
            self.host.unobserve(tell)


def hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the caller has gone: perhaps long ago, if this process was stopped meanwhile. One that has only
    said that it will ask no more is there."""
    end = select.poll()
    end.register(writer.get_extra_info("socket").fileno(), 0)
    return bool(end.poll(0))


def say(writer: asyncio.StreamWriter, what: Any) -> None:
    writer.write(msgspec.json.encode(what) + b"\n")


def caller(writer: asyncio.StreamWriter) -> str:
    """Who is at the other end, as far as the system tells."""
    connection = writer.get_extra_info("socket")
    if not hasattr(socket, "SO_PEERCRED"):
        return "a process on this machine"
    [pid] = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4))
    return f"process {pid} on this machine"
