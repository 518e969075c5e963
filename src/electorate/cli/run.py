"""`elect run -- CMD`: run a command on the leader, and nowhere else.

The command is started when this node is elected with a lease. While it runs it occupies the leadership: who
is to take over waits until it has ended. Before the lease can end it is killed, by a guardian that needs
neither this process nor the network for that. And whoever leads runs its command, or resigns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from electorate.cli.first import leave_first
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
from electorate.cli.user import User, user_of
from electorate.core.model import Role
from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.host import Host
from electorate.runtime.ward import GRACE

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a command that has ended is started again, at first and at most."""
WITHHELD = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)
"""Variables by which systemd speaks to `elect`, and not to the command."""
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
    election: Annotated[
        str | None, typer.Option(help="Which election (default: the first of the file).")
    ] = None,
    restart: Annotated[Restart, typer.Option(help="Start it again when it has ended.")] = Restart.ON_FAILURE,
    stop_timeout: Annotated[float, typer.Option(min=0.0, help="Seconds from SIGTERM to SIGKILL.")] = 10.0,
    user: Annotated[str | None, typer.Option(help="Run CMD as this user (elect must be root).")] = None,
    group: Annotated[str | None, typer.Option(help="Run CMD in this group (default: the user's).")] = None,
    keep_env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Let CMD see this variable of elect's; repeatable."),
    ] = None,
    allow_setuid: Annotated[
        bool, typer.Option("--allow-setuid", help="Let set-uid programs such as sudo work in CMD.")
    ] = False,
    data: DataOption = None,
    rejoin: RejoinOption = False,
    without: WithoutOption = "",
    new_members: NewMembersOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run CMD while this node leads: nowhere else, and never longer.

    CMD finds ELECTORATE_TERM (the fencing token), ELECTORATE_ELECTION and ELECTORATE_NODE in its environment.
    Other variables ELECTORATE_*, and those by which systemd speaks to elect, are withheld unless --keep-env
    names them. CMD gains no privileges by set-uid programs unless --allow-setuid says so.

    It gets SIGTERM when it is to end, and SIGKILL before another node may lead. SIGHUP, SIGUSR1, SIGUSR2 and
    SIGWINCH are passed on. Exits with CMD's code (128 + n if signal n ended it) when CMD has ended and is not
    to be started again; with 0 when told to stop.
    """
    leave_first()
    if not shutil.which(command[0]):
        raise UserError(f"there is no program '{command[0]}' that can be run; see its name and your PATH")
    if odd := next((name for name in keep_env or () if "=" in name), None):
        raise UserError(f"--keep-env {odd}: say the name of a variable alone, such as ELECTORATE_CONFIG")
    owner = user_of(user, group)
    environment = surroundings(os.environ, keep_env or ())
    cluster, directory = prepare(config, id, data, log_format, log_level)
    chosen = cluster.elections[0] if election is None else election
    with runner() as loop:
        host = Host(
            cluster,
            id,
            directory,
            rejoin=rejoin,
            without=names(without),
            new_members=new_members,
            contends=(chosen,),
            proof_of_death="attested",
        )
        work = Run(host, chosen, command, restart, stop_timeout, environment, owner, allow_setuid)
        sys.exit(loop.run(work.serve()))


def surroundings(all: Mapping[str, str], kept: Collection[str]) -> dict[str, str]:
    """Of these variables, those that are for the command: not what is meant for `elect`, unless that is to
    be kept."""
    return {
        name: value
        for name, value in all.items()
        if name in kept or not (name in WITHHELD or name.startswith("ELECTORATE_"))
    }


class Run:
    """One command, on the leader of one election."""

    def __init__(
        self,
        host: Host,
        election: str,
        command: list[str],
        restart: Restart,
        stop_timeout: float,
        environment: Mapping[str, str],
        user: User | None = None,
        allow_setuid: bool = False,
    ) -> None:
        self.host = host
        self.election = election
        self.command = command
        self.restart = restart
        self.stop_timeout = stop_timeout
        self.log = logging.getLogger(f"electorate.{host.id}")
        self.ward = host.ward
        self.environment = {**environment, **(user.environment if user else {})}
        self.ward.take(self, (user.uid, user.gid, user.groups) if user else None, allow_setuid)
        self.running = False
        """The guardian has been told to start the command, and has not said that it is gone."""
        self.told = False
        """It has been told to stop."""
        self.pause = FIRST_PAUSE
        self.again: asyncio.TimerHandle | None = None
        """When it is to be started again, after it has ended by itself."""
        self.idle: asyncio.TimerHandle | None = None
        """When I shall have led for a lease without running it."""
        self.code: int | None = None
        """With this exit code `elect` is to end, once the command has."""
        self.over: asyncio.Future[int]

    async def serve(self) -> int:
        """Until the command has ended for good, or this node is told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self.over = loop.create_future()
        self.host.observe(self.observe, "view", "lease", "failed")
        async with running(self.host):
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.terminate, number)
            for number in FORWARDED:
                loop.add_signal_handler(number, self.ward.say, "forward", number)
            self.consider()
            return await self.over

    # --- what happens to the leadership -------------------------------------------------------------

    def observe(self, kind: str, what: dict[str, Any]) -> None:
        if kind == "failed":
            self.leave(1)
        elif what.get("election") == self.election:
            if kind == "lease" and self.running and what["until"] is not None:
                self.ward.extend(what["until"])
            else:
                self.host.loop.call_soon(self.consider)

    @property
    def leads(self) -> bool:
        view = self.host.view(self.election)
        return view is not None and view.role is Role.LEADER

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
        elif self.lasts and self.ward.able and not (self.running or self.again or self.code is not None):
            self.start()
        if self.running or not self.leads:
            if self.idle:
                self.idle.cancel()
            self.idle = None
        elif not self.idle:
            self.idle = self.host.loop.call_later(self.host.config.timing.lease, self.give_up)

    def give_up(self) -> None:
        """I have led for a lease and run nothing: let another try, for as long as I would not."""
        self.idle = None
        if self.code is None:
            loop, lease = self.host.loop, self.host.config.timing.lease
            seconds = max(lease, self.again.when() - loop.time() if self.again else 0.0)
            self.log.warning(
                "%s: leading, and not running %s: resigning for %.1f s",
                self.election,
                self.command[0],
                seconds,
            )
            self.host.resign(self.election, seconds)

    def start(self) -> None:
        self.host.occupy(self.election)
        term, _ = self.host.tenure(self.election)
        environment = {
            **self.environment,
            "ELECTORATE_TERM": str(term),
            "ELECTORATE_ELECTION": self.election,
            "ELECTORATE_NODE": self.host.id,
        }
        self.running, self.told = True, False
        self.started = now()
        self.log.info("%s: starting %s, term %d", self.election, self.command[0], term)
        self.ward.command(self.command, environment, self.host.lease(self.election), self.stop_timeout)

    def stop(self) -> None:
        """Tell the command to stop; it is given its time, as long as the lease goes on."""
        if not self.told:
            self.told = True
            self.log.info("%s: stopping %s", self.election, self.command[0])
            self.ward.stop(self.stop_timeout)

    # --- what happens to the command ----------------------------------------------------------------

    def ended(self, code: int, told: bool) -> None:
        """Nothing is left of the command: now another may lead. If it was told to stop because the lease
        nearly ended, and I lead all the same, it is begun again, in the same term: no other has led."""
        self.running = False
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        self.log.info("%s: %s has ended, %s", self.election, self.command[0], how)
        lost = told or self.told or not self.lasts
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
            self.again = self.host.loop.call_later(self.pause, self.try_again)
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self.consider()

    def try_again(self) -> None:
        self.again = None
        self.consider()

    def guarded(self) -> None:
        """There is a guardian again, and so there may be a command."""
        self.consider()

    # --- the end --------------------------------------------------------------------------------------

    def terminate(self, number: signal.Signals) -> None:
        """SIGTERM or SIGINT: end the command politely, the second time at once."""
        again = self.code is not None
        self.log.info("%s%s: node %s stops", number.name, " again" if again else "", self.host.id)
        if again:
            self.ward.stop(0)
        self.leave(0)

    def leave(self, code: int) -> None:
        """End with this code, but the command first."""
        if self.code is None:
            self.code = code
            if self.running:
                self.stop()
            elif not self.over.done():
                self.over.set_result(code)
