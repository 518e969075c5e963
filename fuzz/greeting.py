"""Any bytes of a stranger, over a real connection to a real node: a greeting or a refusal, and nothing else.

The first byte says whether the cluster has a secret, which no stranger knows: none may then be taken for a
member. The second says how the rest is cut into packets. To repeat a find: `python -m fuzz.greeting FILE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["electorate.runtime"]):
    from electorate.runtime.config import check
    from electorate.runtime.host import Host
    from electorate.runtime.secret import new

from electorate.cli.plan import reserved_ports

ABORT = struct.pack("ii", 1, 0)


class Door:
    """Two nodes that listen, one with a secret; each is the only one of its cluster that is up."""

    def __init__(self, place: Path, ports: list[int]) -> None:
        logging.getLogger("electorate").setLevel(logging.CRITICAL)
        (place / "secret").write_text(new())
        (place / "secret").chmod(0o600)
        self.loop = asyncio.new_event_loop()
        self.raised: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.raised.append(context))
        secrets = {"open": {}, "shut": {"secret_file": str(place / "secret")}}
        self.hosts = [
            self.host(place / name, port, secret)
            for port, (name, secret) in zip(ports, secrets.items(), strict=True)
        ]
        for host in self.hosts:
            self.loop.run_until_complete(host.start())

    def host(self, data: Path, port: int, secret: dict[str, str]) -> Host:
        nodes = {
            "a": {"address": f"127.0.0.1:{port}"},
            "b": {"address": "127.0.0.1:1"},
            "c": {"address": "127.0.0.1:2"},
        }
        return Host(check({"cluster": "demo", "nodes": nodes, **secret}), "a", data)

    def take(self, data: bytes) -> None:
        if len(data) > 2:
            self.loop.run_until_complete(self.call(self.hosts[data[0] % 2], data[1] + 1, data[2:]))
        if self.raised:
            raise self.raised[0].get("exception") or RuntimeError(self.raised[0]["message"])

    async def call(self, host: Host, size: int, data: bytes) -> None:
        with contextlib.closing(socket.create_connection(host.listeners[0].getsockname())) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            for at in range(0, min(len(data), 16 * size), size):
                with contextlib.suppress(ConnectionError):
                    caller.sendall(data[at : at + size])
                for _ in range(4):
                    await asyncio.sleep(0)
            if host.certificates:
                assert not host.incoming, "a stranger was taken for a member"
        for _ in range(4):
            await asyncio.sleep(0)


if __name__ == "__main__":
    with reserved_ports(2) as ports, tempfile.TemporaryDirectory() as place:
        door = Door(Path(place), ports)
        atheris.Setup(sys.argv, door.take)
        atheris.Fuzz()
