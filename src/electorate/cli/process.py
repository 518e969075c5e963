"""One node seen from outside: its process, and what it has said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from electorate.prctl import die_with
from electorate.runtime.clock import now


class Event(msgspec.Struct, frozen=True):
    """One line that a node has said. What it does not bear is None; what we do not know is left out."""

    event: str
    node: str = ""
    election: str | None = None
    role: str | None = None
    leader: str | None = None
    term: int = 0
    until: float | None = None
    t: float = 0.0
    pid: int | None = None
    peer: str | None = None
    state: str | None = None
    reason: str | None = None
    message: str | None = None


class Agreed(NamedTuple):
    leader: str
    term: int


class State(StrEnum):
    """Of a process, as far as we have brought it about."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    DOWN = "down"


class Ear(Protocol):
    """Who listens to the nodes."""

    def hear(self, node: Node, line: bytes, at: float) -> None:
        """A node has said this; `at` is when we received it."""

    def ended(self, node: Node, at: float) -> None:
        """The node's process ended at this time, and all that it had said was heard."""


class Child(asyncio.SubprocessProtocol):
    """One process of a node: passes on each line it says, and its end."""

    def __init__(self, node: Node, ear: Ear) -> None:
        self.node = node
        self.ear = ear
        self.rest = b""
        self.complaint = b""
        """The end of what it wrote on standard error."""
        self.ended_at: float | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.transport = transport
        self.pid = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.complaint = (self.complaint + data)[-2000:]
            return
        at = now()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.ear.hear(self.node, line, at)

    def process_exited(self) -> None:
        self.ended_at = self.ended_at or now()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.close()
        self.gone.set_result(None)
        self.ear.ended(self.node, self.ended_at or now())


class Node:
    """What is known of one node, through all its processes."""

    def __init__(self, id: str, address: str, ear: Ear) -> None:
        self.id = id
        self.address = address
        self.ear = ear
        self.state = State.DOWN
        self.child: Child | None = None
        self.error: str | None = None
        """Why it could not run, in its own words."""
        self.forget()

    def forget(self) -> None:
        self.role = ""
        self.view: Agreed | None = None
        """The leader it names, itself included."""
        self.dropped: Agreed | None = None
        """The leader it named before, and names no longer."""
        self.lease: tuple[int, float] | None = None
        """The term that it leads, and until when."""

    def __str__(self) -> str:
        if not self.runs:
            return f"{self.id} is {self.state}"
        named = f"names {self.view.leader} in term {self.view.term}" if self.view else "names nobody"
        return f"{self.id}, {self.role or 'silent'}, {named}"

    @property
    def runs(self) -> bool:
        return self.state is State.RUNNING

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child and not self.ended else None

    @property
    def ended(self) -> bool:
        """It has no process: none was started yet, or the last one has been reaped."""
        return self.child is None or self.child.gone.done()

    # --- what it says ---

    def note(self, event: Event) -> None:
        match event.event:
            case "ready":
                self.state = State.RUNNING
            case "view":
                self.see(event.role or "", Agreed(event.leader, event.term) if event.leader else None)
            case "lease":
                self.lease = (event.term, event.until) if event.until is not None else None
            case "error":
                self.error = event.message

    def see(self, role: str, view: Agreed | None) -> None:
        self.role = role
        if view != self.view:
            self.dropped, self.view = self.view or self.dropped, view
        if self.dropped == view:
            self.dropped = None

    def holds(self, term: int, at: float) -> bool:
        """Whether it leads this term at this instant, as far as it has told."""
        return self.lease is not None and self.lease[0] == term and at < self.lease[1]

    # --- what is done to it ---

    async def spawn(self, *command: str) -> None:
        """Start a process, in a group of its own: a Ctrl-C on the terminal is for us alone."""
        self.forget()
        self.error = None
        self.state = State.STARTING
        _, self.child = await asyncio.get_running_loop().subprocess_exec(
            lambda: Child(self, self.ear),
            *command,
            process_group=0,
            preexec_fn=partial(die_with, os.getpid()),  # one that is stopped reads no end of its input
        )

    def send(self, sent: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sent)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self.child and not self.ended:
            self.child.ended_at = now()
            self.state = State.DOWN

    def order(self, line: str) -> None:
        """Tell it so on its standard input."""
        stdin = self.child.transport.get_pipe_transport(0) if self.child and not self.ended else None
        if isinstance(stdin, asyncio.WriteTransport):
            stdin.write(line.encode() + b"\n")

    async def gone(self) -> None:
        """Until its process has been reaped and all that it had said was heard."""
        if self.child is not None:
            await self.child.gone
