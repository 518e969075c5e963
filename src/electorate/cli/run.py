"""`elect run -- CMD`: run a command on the leader, and nowhere else.

The command is started when this node is elected with a lease. While it runs it occupies the leadership: who
is to take over waits until it has ended. Before the lease can end it is killed, by a guardian that needs
neither this process nor the network for that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from enum import StrEnum
from typing import Annotated, Any, cast

import typer

from electorate.cli import guardian
from electorate.cli.node import runner
from electorate.cli.serve import (
    ConfigOption,
    DataOption,
    IdOption,
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    NewMembersOption,
    RejoinOption,
    WithoutOption,
    names,
    prepare,
    running,
)
from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.host import Host

GRACE, MARGIN = 0.25, 0.1
"""The shares of a lease, before its end, at which a command is told to stop, and killed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a command that has ended is started again, at first and at most."""
FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Restart(StrEnum):
    """When to start a command again that has ended by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NO = "no"


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run on the leader.")],
    config: ConfigOption,
    id: IdOption,
    election: Annotated[str | None, typer.Option(help="Which election [the first of the file].")] = None,
    restart: Annotated[Restart, typer.Option(help="Start it again when it has ended.")] = Restart.ON_FAILURE,
    stop_timeout: Annotated[float, typer.Option(help="Seconds from SIGTERM to SIGKILL.")] = 10.0,
    data: DataOption = None,
    rejoin: RejoinOption = False,
    without: WithoutOption = "",
    new_members: NewMembersOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run CMD while this node leads: nowhere else, and never longer.

    CMD finds ELECTORATE_TERM (the fencing token), ELECTORATE_ELECTION and ELECTORATE_NODE in its environment.
    It gets SIGTERM when it is to end, and SIGKILL before another node may lead. SIGHUP, SIGUSR1, SIGUSR2 and
    SIGWINCH are passed on. Exits with CMD's code (128 + n if signal n ended it) when CMD has ended and is not
    to be started again; with 0 when told to stop.
    """
    if not shutil.which(command[0]):
        raise UserError(f"there is no program '{command[0]}' that can be run; see its name and your PATH")
    cluster, directory = prepare(config, id, data, log_format, log_level)
    chosen = election or cluster.elections[0]
    guardian.adopt_orphans()
    with runner() as loop:
        host = Host(
            cluster,
            id,
            directory,
            rejoin=rejoin,
            without=names(without),
            new_members=new_members,
            contends=(chosen,),
        )
        sys.exit(loop.run(Run(host, chosen, command, restart, stop_timeout).serve()))


class Ward(asyncio.Protocol):
    """The guardian, as `elect` sees it."""

    def __init__(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        self.run = run
        self.process = process
        self.unread = b""
        self.closing = False
        self.transport: asyncio.WriteTransport

    @classmethod
    async def start(cls, run: Run) -> Ward:
        """Start the guardian, and let it hold what proves that this node lives."""
        host, lease = run.host, run.host.config.timing.lease
        ours, theirs = socket.socketpair()
        listeners = (listener.fileno() for listener in host.listeners)
        held = (theirs.fileno(), *listeners, host.store.lock)
        arguments = [str(theirs.fileno()), str(GRACE * lease), str(MARGIN * lease), *map(str, held[1:])]
        process = subprocess.Popen(  # noqa: ASYNC220 (to fork and go on is all it does)
            [sys.executable, "-I", "-S", guardian.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=held,
            start_new_session=True,
        )
        theirs.close()
        _, ward = await asyncio.get_running_loop().create_connection(lambda: cls(run, process), sock=ours)
        return ward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            _, code = json.loads(line)
            self.run.ended(code)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closing:
            self.run.guardian_is_gone()

    def say(self, *words: object) -> None:
        self.transport.write(json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        """The node has stopped: the guardian has nothing to hold any more."""
        self.closing = True
        self.transport.close()


class Run:
    """One command, on the leader of one election."""

    def __init__(
        self, host: Host, election: str, command: list[str], restart: Restart, stop_timeout: float
    ) -> None:
        self.host = host
        self.election = election
        self.command = command
        self.restart = restart
        self.stop_timeout = stop_timeout
        self.log = logging.getLogger(f"electorate.{host.id}")
        self.ward: Ward | None = None
        self.running = False
        """The guardian has been told to start the command, and has not said that it is gone."""
        self.told = False
        """It has been told to stop."""
        self.pause = FIRST_PAUSE
        self.again: asyncio.TimerHandle | None = None
        self.code: int | None = None
        """With this exit code `elect` is to end, once the command has."""
        self.over: asyncio.Future[int]

    async def serve(self) -> int:
        """Until the command has ended for good, or this node is told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self.over = loop.create_future()
        self.host.observe(self.observe, "view", "lease", "failed")
        async with running(self.host):
            self.ward = await Ward.start(self)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.terminate)
            for number in FORWARDED:
                loop.add_signal_handler(number, self.ward.say, "forward", number)
            self.consider()
            code = await self.over
        self.ward.close()
        await asyncio.sleep(0)
        self.ward.process.wait()
        return code

    # --- what happens to the leadership -------------------------------------------------------------

    def observe(self, kind: str, what: dict[str, Any]) -> None:
        if kind == "failed":
            self.leave(1)
        elif what.get("election") == self.election:
            if kind == "lease" and self.running and self.ward and what["until"] is not None:
                self.ward.say("extend", what["until"])
            elif kind == "view":
                self.host.loop.call_soon(self.consider)

    @property
    def lasts(self) -> bool:
        """I lead with time to spare, and nobody is to take over."""
        view = self.host.view(self.election)
        spare = self.host.lease_left(self.election) - GRACE * self.host.config.timing.lease
        return view is not None and view.secured and not view.yielding and spare > 0

    def consider(self) -> None:
        """Start the command, or stop it, if that is due."""
        if self.running and not self.lasts:
            self.stop()
        elif self.lasts and not (self.running or self.again or self.code is not None):
            self.start()

    def start(self) -> None:
        assert self.ward is not None
        self.again = None
        if not self.lasts:
            return
        self.host.occupy(self.election)
        term, _ = self.host.tenure(self.election)
        environment = {
            **os.environ,
            "ELECTORATE_TERM": str(term),
            "ELECTORATE_ELECTION": self.election,
            "ELECTORATE_NODE": self.host.id,
        }
        self.running, self.told = True, False
        self.started = now()
        self.log.info("%s: starting %s, term %d", self.election, self.command[0], term)
        self.ward.say("start", self.command, environment, self.host.lease(self.election))

    def stop(self) -> None:
        """Tell the command to stop; it is given its time, as long as the lease goes on."""
        if self.ward and not self.told:
            self.told = True
            self.log.info("%s: stopping %s", self.election, self.command[0])
            self.ward.say("stop", self.stop_timeout)

    # --- what happens to the command ----------------------------------------------------------------

    def ended(self, code: int) -> None:
        """Nothing is left of the command: now another may lead."""
        self.running = False
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        self.log.info("%s: %s has ended, %s", self.election, self.command[0], how)
        lost = self.told or not self.lasts
        self.host.vacate(self.election)
        if self.code is not None:
            self.over.set_result(self.code)
        elif lost:
            self.pause = FIRST_PAUSE
            self.consider()
        elif self.restart is Restart.NO or (self.restart is Restart.ON_FAILURE and code == 0):
            self.leave(code if code >= 0 else 128 - code)
        else:
            if now() - self.started > 10 * self.pause:
                self.pause = FIRST_PAUSE
            self.again = self.host.loop.call_later(self.pause, self.start)
            self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def guardian_is_gone(self) -> None:
        """The command dies with it; see to all that it has left, before another may lead."""
        self.log.error("the guardian of %s was killed: ending", self.command[0])
        guardian.destroy()
        if self.running:
            self.ended(-signal.SIGKILL)
        self.leave(1)

    # --- the end --------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """SIGTERM or SIGINT: end the command politely, the second time at once."""
        if self.code is not None and self.ward:
            self.ward.say("stop", 0)
        self.leave(0)

    def leave(self, code: int) -> None:
        """End with this code, but the command first."""
        if self.code is None:
            self.code = code
            if self.running:
                self.stop()
            elif not self.over.done():
                self.over.set_result(code)
