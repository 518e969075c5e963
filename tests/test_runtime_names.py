"""Addresses by name, and of both families."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import reserved_ports
from electorate.runtime.link import reach
from tests.runtime_hosts import Cluster, crash, in_loop

REFUSING, UNREACHABLE = "127.0.0.1", "255.255.255.255"


@pytest.mark.parametrize("name", ["localhost", "[::1]", "127.0.0.1"])
@in_loop
async def test_a_cluster_by_name_elects_and_notices_a_death_at_once(tmp_path: Path, name: str) -> None:
    with reserved_ports(3) as ports:
        at = Cluster(tmp_path, dict(zip("abc", ports, strict=True)), {})
        nodes = {id: f"{name}:{port}" for id, port in at.ports.items()}
        config = at.config(nodes=nodes, timing={"lease": 60.0, "beat": 0.1})
        try:
            for id in "abc":
                await at.start(id, config)
            leader = await at.agreed()
            await crash(at, leader.id)
            await at.agreed(but=leader.id)
        finally:
            for id in tuple(at.hosts):
                await at.stop(id)


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [
        ([REFUSING], True),
        ([REFUSING, "::1"], True),
        ([REFUSING, UNREACHABLE], False),
        ([UNREACHABLE, REFUSING], False),
        ([UNREACHABLE], False),
    ],
)
def test_only_a_name_whose_addresses_all_refuse_is_refused(addresses: list[str], refused: bool) -> None:
    async def dial() -> None:
        with reserved_ports(1) as [port]:
            loop = asyncio.get_running_loop()

            async def resolve(host: str, port: int, **_: Any) -> list[Any]:
                families = [socket.AF_INET6 if ":" in a else socket.AF_INET for a in addresses]
                kind = socket.SOCK_STREAM
                return [(f, kind, 0, "", (a, port)) for f, a in zip(families, addresses, strict=True)]

            loop.getaddrinfo = resolve  # type: ignore[method-assign, assignment]
            await reach("name.example", port)

    with pytest.raises(OSError) as error:
        asyncio.run(dial())
    assert isinstance(error.value, ConnectionRefusedError) == refused


def test_a_later_address_will_do() -> None:
    async def dial() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        with listening:
            port = listening.getsockname()[1]
            with await reach("localhost", port) as reached:
                assert reached.getpeername()[1] == port

    asyncio.run(dial())
