"""`elect node`: run one node of a cluster until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer

from electorate.cli.first import leave_first
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
from electorate.runtime.config import Config
from electorate.runtime.host import Host


def node(
    config: ConfigOption,
    id: IdOption,
    data: DataOption = None,
    rejoin: RejoinOption = False,
    without: WithoutOption = "",
    new_members: NewMembersOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
    attach: Annotated[bool, typer.Option("--attach", help="Speak JSON lines on stdin and stdout.")] = False,
) -> None:
    """Run one node until SIGTERM or Ctrl-C; a leader hands over first.

    Exit code 0: it was told to stop. 1: its store is damaged. 2: it could not start.
    """
    leave_first()
    if attach and log_level is LogLevel.INFO:
        log_level = LogLevel.WARNING
    cluster, directory = prepare(config, id, data, log_format, log_level)
    with runner() as loop:
        options = {"rejoin": rejoin, "without": names(without), "new_members": new_members}
        sys.exit(loop.run(serve(cluster, id, directory, options, attach)))


def runner() -> asyncio.Runner:
    """uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=new_event_loop)


async def serve(config: Config, id: str, data: Path, options: dict[str, Any], attach: bool) -> int:
    """Run the node, with these options of `Host`, until it is told to stop (0) or cannot go on (1)."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    whole = asyncio.current_task()
    assert whole is not None
    started = False

    def terminate(number: signal.Signals) -> None:
        if not (started or stop.is_set()):
            whole.cancel()  # a name server that does not answer must not hold it up
        if not stop.is_set():
            logging.getLogger(f"electorate.{id}").info("%s: node %s stops", number.name, id)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminate, number)
    supervisor = await Supervisor.connect(id, stop) if attach else None
    try:
        host = Host(config, id, data, proof_of_death="attested", **options)
        if supervisor:
            host.observe(supervisor.tell)
        async with running(host):
            started = True
            if supervisor:
                supervisor.serve(host)
            stopped = loop.create_task(stop.wait())
            await asyncio.wait((stopped, host.failed), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
    except UserError as error:
        if supervisor:
            supervisor.tell("error", {"message": str(error)})
        raise
    except asyncio.CancelledError:
        if started or not stop.is_set():
            raise
        return 0
    finally:
        if supervisor:
            await supervisor.close()
    return 1 if host.failed.done() else 0


def is_held(stream: TextIO | None) -> bool:
    """Whether somebody may be at the other end of this: not a file, /dev/null or nothing at all."""
    if stream is None:
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()


class Supervisor:
    """The process that started this one: is told everything as JSON lines, and may command."""

    def __init__(
        self, id: str, stop: asyncio.Event, pipe: asyncio.WriteTransport, commands: asyncio.StreamReader
    ) -> None:
        self.id = id
        self.stop = stop
        self.pipe = pipe
        self.commands = commands
        self.lines: list[bytes] = []
        self.listening: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, id: str, stop: asyncio.Event) -> Supervisor:
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        if not (is_held(sys.stdin) and is_held(sys.stdout)):
            raise UserError("--attach is for a program that holds stdin and stdout by pipes: leave it out")
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
        return cls(id, stop, pipe, commands)

    def tell(self, kind: str, what: dict[str, Any]) -> None:
        """One line; the lines of one turn of the loop leave together."""
        extra = {"pid": os.getpid()} if kind == "ready" else {}
        if not self.lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self.lines.append(msgspec.json.encode({"event": kind, "node": self.id, **what, **extra, "t": now()}))

    def flush(self) -> None:
        if self.lines and not self.pipe.is_closing():
            self.pipe.write(b"\n".join(self.lines) + b"\n")
        self.lines.clear()

    def serve(self, host: Host) -> None:
        self.listening = asyncio.get_running_loop().create_task(self.listen(host))

    async def listen(self, host: Host) -> None:
        """Obey until nobody holds the other end any more."""
        try:
            while line := await self.commands.readline():
                self.obey(host, line.decode(errors="replace").split())
        finally:
            self.stop.set()

    def obey(self, host: Host, words: list[str]) -> None:
        """Carry out one command; what is not one is answered by an error event."""
        commands: dict[str, tuple[int, Callable[..., None]]] = {
            "contend": (0, host.contend),
            "withdraw": (0, host.withdraw),
            "resign": (0, host.resign),
            "transfer": (1, host.transfer),
            "position": (1, lambda election, position: host.set_position(election, int(position))),
        }
        match words:
            case ["stop"]:
                self.stop.set()
            case ["status"]:
                self.tell("status", host.status())
            case [verb, *rest] if verb in commands and len(rest) in (
                commands[verb][0],
                commands[verb][0] + 1,
            ):
                count, command = commands[verb]
                election = rest[count] if len(rest) > count else host.config.elections[0]
                try:
                    command(election, *rest[:count])
                except ValueError as error:
                    self.tell("error", {"message": f"{' '.join(words)}: {error}"})
            case [_, *_]:
                self.tell("error", {"message": f"'{' '.join(words)}' is not a command"})

    async def close(self) -> None:
        if self.listening:
            self.listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.listening
        self.flush()
        self.pipe.close()
        await asyncio.sleep(0)
