"""A node as a command runs it: its options, its log, and all that surrounds it while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from electorate.runtime.config import Config, configure
from electorate.runtime.control import control
from electorate.runtime.host import Host
from electorate.runtime.logs import write_logs
from electorate.runtime.notify import notified
from electorate.runtime.telemetry import trace_elections
from electorate.web import serving


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigOption = Annotated[Path, typer.Option(envvar="ELECTORATE_CONFIG", help="The cluster file.")]
IdOption = Annotated[str, typer.Option(envvar="ELECTORATE_ID", help="Which of its nodes this is.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        envvar="ELECTORATE_DATA",
        readable=False,
        help="Where promises are kept (default: electorate-CLUSTER-ID).",
    ),
]
RejoinOption = Annotated[bool, typer.Option("--rejoin", help="The data is lost: ask the others first.")]
WithoutOption = Annotated[
    str,
    typer.Option("--without", metavar="NODES", help="With --rejoin: these are gone for good (b,c)."),
]
NewMembersOption = Annotated[
    bool, typer.Option("--new-members", help="The voters have changed, while all were stopped.")
]
LogFormatOption = Annotated[LogFormat, typer.Option(help="Log lines for people, or as JSON.")]
LogLevelOption = Annotated[
    LogLevel, typer.Option(metavar="LEVEL", help="What to log: debug, info, warning or error.")
]


def prepare(
    file: Path, id: str, data: Path | None, log_format: LogFormat, log_level: LogLevel
) -> tuple[Config, Path]:
    """Read the configuration, and begin to log. Raises `UserError`."""
    config = configure(file)
    write_logs(log_format.value, log_level.value)
    return config, data or Path(f"electorate-{config.cluster}-{id}")


def names(listed: str) -> tuple[str, ...]:
    """The nodes that an option lists."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[None]:
    """Start the host, and let it be asked: on this machine, over HTTP, by systemd. At the end it hands over
    and stops. Raises `UserError`."""
    trace_elections(host)
    await host.start()
    try:
        async with control(host), serving(host):
            try:
                async with notified(host):
                    yield
            finally:
                await host.stop()
    finally:
        await host.stop()
