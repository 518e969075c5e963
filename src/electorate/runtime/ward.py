"""The guardian, as its node sees it: started, told, watched, and started again when it has died.

The two watch each other. If the node dies or hangs, the guardian ends the command in time. If the guardian
dies or hangs, the node does: it kills the guardian, which takes the command with it, and then all that the
command has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from electorate import signals
from electorate.core.model import NodeId
from electorate.errors import UserError
from electorate.prctl import adopt_orphans
from electorate.runtime import guardian
from electorate.runtime.clock import now
from electorate.runtime.directory import opened
from electorate.runtime.store import is_locked
from electorate.runtime.tree import Tree, own_cgroup, plea

if TYPE_CHECKING:
    from electorate.runtime.host import Host

GRACE, MARGIN, LAST = 0.25, 0.1, 0.05
"""The shares of a lease, before its end, at which the guardian tells a command to stop, at which it kills it,
and at which the node does so if the guardian has not."""
OVERDUE = 1.0
"""So many seconds after it should have killed a command that was told to stop, a guardian hangs."""
DEAF = 4 << 20
"""A guardian that leaves so many bytes unread hangs as well."""
PATIENCE = 30.0
"""Seconds within which a guardian must have started, or one of an earlier process must have ended."""
POLITE = 1.0
"""After so many of them, one that has nothing to do any more is killed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to start a guardian, at first and at most."""
ATTESTED = 2
"""For so many leases it is attested that a process has ended: longer than anybody waits for it."""


class Work(Protocol):
    """What a guardian is there for, besides attesting the end of a node: a command."""

    def ended(self, code: int, told: bool) -> None:
        """Nothing is left of the command, which may have been told to stop."""

    def guarded(self) -> None:
        """There is a guardian again."""


class Connection(asyncio.Protocol):
    """To one guardian."""

    def __init__(self, ward: Ward) -> None:
        self.ward = ward
        self.unread = b""
        self.ready: asyncio.Future[str] = ward.host.loop.create_future()
        """By what it will find all that a command begins."""
        self.over: asyncio.Future[None] = ward.host.loop.create_future()
        self.transport: asyncio.WriteTransport

    @property
    def is_ready(self) -> bool:
        return self.ready.done() and not self.ready.cancelled() and not self.over.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            match json.loads(line):
                case ["ready", how, *_] if not self.ready.done():
                    self.ready.set_result(how)
                case ["gone", code, told, *_]:
                    self.ward.ended(code, told)
                case ["resists", left]:
                    self.ward.resists(left)

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(None)
        if not self.ready.done():
            self.ready.set_result("")
        elif self.ward.connection is self:
            self.ward.died()

    def say(self, *words: object) -> None:
        self.transport.write(json.dumps(words).encode() + b"\n")


class Ward:
    """The one guardian of a node."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.work: Work | None = None
        self.wanted = host.proof_of_death == "attested"
        """There is to be one."""
        self.directory = host.store.directory
        host.observe(self.testify, "testimony")
        self.tree = Tree(complain=self.resists)
        self.user: tuple[int, int, list[int]] | None = None
        """Whose commands are, if not ours: the user, the group, and the other groups."""
        self.allow_setuid = False
        """A command may gain privileges by a set-uid program."""
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        """None while there is no guardian that is ready."""
        self.busy = False
        """It has been told to start a command, and has not said that it is gone."""
        self.resisting = ""
        """What of the command it cannot end, as it has said: nobody else here can, so it is left alone."""
        self.deadline = self.overdue = guardian.NEVER
        """When the command must have ended at the latest: because of the lease, and because it was told."""
        self.watching: asyncio.TimerHandle | None = None
        self.lock = -1
        """While a guardian is being started: what it will hold for its life."""
        self.mending: asyncio.Task[None] | None = None
        self.ready_at = 0.0
        self.pause = 0.0
        self.closing = False

    @property
    def able(self) -> bool:
        """There is a guardian, and it will do what it is told."""
        return self.connection is not None

    def take(self, work: Work, user: tuple[int, int, list[int]] | None, allow_setuid: bool) -> None:
        """There will be commands: whatever outlives the guardian is to become a child of this process."""
        self.work, self.wanted = work, True
        self.user, self.allow_setuid = user, allow_setuid
        adopt_orphans()
        self.tree.see_children()
        if parent := own_cgroup():
            directory = self.directory.stat()
            self.tree.cgroup = f"{parent}/electorate-{directory.st_dev}-{directory.st_ino}"

    # --- from start to stop -----------------------------------------------------------------------

    async def relieve(self) -> None:
        """Before it is listened: let the guardian of an earlier process end. Raises `UserError`."""
        self.lock = await relieve(self.directory, self.host.id)

    def release(self) -> None:
        """The lock is that of a guardian by now, or of nobody."""
        if self.lock >= 0:
            os.close(self.lock)
        self.lock = -1

    async def start(self) -> None:
        """If there is to be one, let it hold what proves that this node lives. Raises `UserError`."""
        try:
            if not self.wanted:
                return
            connection = await self.begin()
        finally:
            self.release()
        try:
            how = await asyncio.wait_for(connection.ready, PATIENCE)
        except TimeoutError:
            raise UserError(f"{self.name} has not started within {PATIENCE:g} s") from None
        finally:
            if not connection.is_ready:
                self.discard(connection)
        if not connection.is_ready:
            raise UserError(f"{self.name} ended at once, and may have said why{self.remedy}")
        if self.work and not how:
            self.discard(connection)
            raise UserError(
                "elect run must be able to end all that a command begins, and here it can neither make a"
                " control group (in a cgroup v2 that it may write to) nor see its children (in a /proc of its"
                " own): give it one of the two"
            )
        try:
            self.tree.grasp() if how == "cgroup" else self.tree.let_go()
        except OSError as error:
            self.discard(connection)
            raise UserError(f"{self.name} cannot be watched: {error.strerror}") from None
        if self.allow_setuid and how != "cgroup" and os.geteuid():
            self.host.log.warning(
                "--allow-setuid, and no control group can be made here: what the command runs as another user"
                " cannot be ended, also when another node leads"
            )
        self.connection, self.ready_at = connection, now()
        self.testify("testimony", {})

    def discard(self, connection: Connection) -> None:
        assert self.process
        connection.transport.abort()
        self.process.kill()
        self.process.wait()

    @property
    def name(self) -> str:
        return f"the guardian of node {self.host.id}"

    @property
    def remedy(self) -> str:
        """A command needs a guardian."""
        return "" if self.work else "; or do without one: proof_of_death = 'refused'"

    async def begin(self) -> Connection:
        """Start the program. Raises `UserError`."""
        host, timing = self.host, self.host.config.timing
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise UserError(f"{self.name} cannot be started: {error.strerror}{self.remedy}") from None
        longest = max(host.conditions.longest_lease, timing.lease)
        orders = guardian.Orders(
            theirs.fileno(),
            os.getpid(),
            [listener.fileno() for listener in host.listeners],
            host.store.lock,
            self.lock,
            ATTESTED * longest if host.proof_of_death != "none" else 0.0,
            GRACE * timing.lease,
            MARGIN * timing.lease,
            self.tree.cgroup,
            self.user,
            self.allow_setuid,
        )
        try:
            with signals.as_the_user():
                self.process = subprocess.Popen(  # noqa: ASYNC220 (to fork and go on is all it does)
                    [sys.executable, "-I", "-S", guardian.__file__, json.dumps(orders._asdict())],
                    stdin=subprocess.DEVNULL,
                    stdout=None if self.work else subprocess.DEVNULL,
                    pass_fds=(orders.control, *orders.listeners, orders.store, orders.lock),
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            why = f"{sys.executable}: {error.strerror}"
            raise UserError(f"{self.name} cannot be started: {why}{self.remedy}") from None
        finally:
            theirs.close()
        _, connection = await host.loop.create_connection(lambda: Connection(self), sock=ours)
        return connection

    async def close(self) -> None:
        """The node has resigned and stops: the guardian has nothing to hold any more."""
        self.closing = True
        if self.mending:
            self.mending.cancel()
        if self.connection:
            self.say("end")
            await asyncio.wait([self.connection.over], timeout=POLITE)
        if self.process:
            self.process.kill()
            self.process.wait()

    def descriptors(self) -> list[int]:
        """By which this process is known to its guardian, or may become one."""
        sockets = [self.connection.transport.get_extra_info("socket")] if self.connection else []
        return [number for number in (self.lock, *(socket.fileno() for socket in sockets)) if number >= 0]

    # --- what it is told, and what it says --------------------------------------------------------

    def say(self, *words: object) -> None:
        if self.connection:
            self.connection.say(*words)
            if self.connection.transport.get_write_buffer_size() > DEAF and not self.resisting:
                self.replace("does not listen")

    def testify(self, kind: str, what: dict[str, Any]) -> None:
        """In another life, or with another certificate, there is something else to attest."""
        self.say("testimony", *self.host.testimony)

    def command(
        self, arguments: list[str], environment: Mapping[str, str], deadline: float, seconds: float
    ) -> None:
        """Start it; it has so many seconds to stop, if the deadline comes near."""
        self.busy, self.resisting, self.overdue = True, "", guardian.NEVER
        self.say("start", arguments, environment, deadline, seconds)
        self.put_off(deadline)

    def extend(self, deadline: float) -> None:
        if not self.resisting:
            self.say("extend", deadline)
            self.put_off(deadline)

    def stop(self, seconds: float) -> None:
        """Tell the command to stop; it has so many seconds."""
        self.say("stop", seconds)
        self.overdue = min(self.overdue, now() + seconds + OVERDUE)
        self.watch()

    def put_off(self, deadline: float) -> None:
        self.deadline = deadline - LAST * self.host.config.timing.lease
        if self.watching is None:
            self.watch()

    def watch(self) -> None:
        """The guardian ends the command before its time is over. If it has not, this is done without it."""
        if self.watching:
            self.watching.cancel()
        self.watching = None
        left = min(self.deadline, self.overdue) - now()
        if self.busy and left > 0:
            self.watching = self.host.loop.call_later(left, self.watch)
        elif self.busy and not self.resisting:
            self.replace("has not ended the command in time")

    def replace(self, why: str) -> None:
        """The command dies with its guardian, whose end is noticed, and then all that it has begun."""
        assert self.process
        self.host.log.error("%s (process %d) %s: ending both", self.name, self.process.pid, why)
        self.process.kill()

    def resists(self, left: str) -> None:
        """Something of the command cannot be ended."""
        self.resisting = left
        self.host.log.error("%s", plea(left))

    def ended(self, code: int, told: bool) -> None:
        """Nothing is left of the command."""
        assert self.work
        self.busy, self.resisting = False, ""
        self.watch()
        self.work.ended(code, told)

    # --- its death --------------------------------------------------------------------------------

    def died(self) -> None:
        if not self.closing:
            self.connection = None
            self.host.log.error("%s was killed: starting another", self.name)
            self.mending = self.host.loop.create_task(self.mend())

    async def mend(self) -> None:
        """See to what a command has left that has died with its guardian, and start another guardian."""
        assert self.process
        self.process.wait()
        for pause in self.tree.efforts() if self.work else ():
            await asyncio.sleep(pause)
        if self.busy:
            self.ended(-signal.SIGKILL, told=True)
        if now() - self.ready_at > LONGEST_PAUSE:
            self.pause = 0.0
        while self.connection is None:
            await asyncio.sleep(self.pause)
            self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LONGEST_PAUSE)
            try:
                await self.relieve()
                await self.start()
            except UserError as error:
                self.host.log.error("%s", error)
        self.host.log.warning("%s lives again, as process %d", self.name, self.process.pid)
        if self.work:
            self.work.guarded()


async def relieve(directory: Path, node: NodeId) -> int:
    """The lock that a guardian holds for its life. One of an earlier process of this node may still hold it.
    It has let go of the store, which this process has by now, so it has nothing to do any more, and is told
    to end. Raises `UserError` if it does not."""
    file = directory / "guardian"
    try:
        descriptor = opened(file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be made: {error.strerror}; mend that, and start node {node} again"
        ) from None
    begun, pid = now(), 0
    try:
        while not is_locked(descriptor):
            pid = int(os.pread(descriptor, 20, 0).strip() or 0)
            if pid:
                dismiss(descriptor, pid, guardian.RELIEF if now() < begun + POLITE else signal.SIGKILL)
            if now() > begun + PATIENCE:
                raise OSError(0, "it does not end")
            await asyncio.sleep(0.005)
    except OSError as error:
        os.close(descriptor)
        raise UserError(
            f"node {node} cannot start while process {pid} lives, the guardian of an earlier process of it:"
            f" {error.strerror}; end that one"
        ) from None
    return descriptor


async def relieve_all(directory: Path) -> None:
    """End each guardian whose data directory is in here: nobody needs to know any more what they attest."""
    for file in tuple(directory.glob("*/guardian")):  # noqa: ASYNC240 (a small one of our own)
        os.close(await relieve(file.parent, file.parent.name))


def dismiss(descriptor: int, pid: int, number: signal.Signals) -> None:
    """Send this signal to the process that holds the lock, and to no other that has its number by now."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "pidfd_open"):
            process = os.pidfd_open(pid)
            try:
                if not is_locked(descriptor):
                    signal.pidfd_send_signal(process, number)
            finally:
                os.close(process)
        elif not is_locked(descriptor):
            os.kill(pid, number)
