"""Telling systemd how it goes (`Type=notify`, `WatchdogSec=`); without systemd, nothing is done.

The protocol is one datagram for each message, to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from electorate.errors import UserError
from electorate.runtime.host import Host


def notify(message: str) -> None:
    """Raises `OSError` if systemd cannot be told."""
    name = os.environ.get("NOTIFY_SOCKET")
    if name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.connect("\0" + name[1:] if name.startswith("@") else name)
            sending.sendall(message.encode())


def watchdog_pause() -> float | None:
    """Seconds between two signs of life: half of what systemd waits for one. None if it waits for none.
    Raises `UserError`."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    wait = os.environ.get("WATCHDOG_USEC", "0")
    if not wait.isdecimal():
        raise UserError(f"WATCHDOG_USEC={wait} is not a number of microseconds: let systemd set it")
    return int(wait) / 2e6 or None


@asynccontextmanager
async def notified(host: Host) -> AsyncIterator[None]:
    """Say that the host is ready, who leads, that the loop still turns, and that it stops."""
    if not os.environ.get("NOTIFY_SOCKET"):
        yield
        return

    first = host.config.elections[0]
    pause = watchdog_pause()
    deaf = False

    def say(message: str) -> None:
        """A supervisor that cannot be told is no reason to stop leading."""
        nonlocal deaf
        try:
            notify(message)
            deaf = False
        except OSError as error:
            if not deaf:
                host.log.warning("systemd cannot be told how it goes: NOTIFY_SOCKET: %s", error.strerror)
            deaf = True

    def tell(kind: str, what: dict[str, Any]) -> None:
        if what["election"] == first:
            say(f"STATUS={what['election']}: {what['role']}, leader {what['leader']}, term {what['term']}")

    async def live(pause: float) -> None:
        while True:
            say("WATCHDOG=1")
            await asyncio.sleep(pause)

    say("READY=1")
    if view := host.view(first):
        tell("view", {"election": first, "role": view.role, "leader": view.leader, "term": view.term})
    host.observe(tell, "view")
    living = asyncio.create_task(live(pause)) if pause else None
    try:
        yield
    finally:
        host.unobserve(tell)
        if living:
            living.cancel()
        say("STOPPING=1")
