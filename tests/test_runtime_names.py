"""Addresses by name, and of both families."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from electorate.cli.plan import reserved_ports
from electorate.runtime.link import Place, place, reach
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
            await reach(asyncio.Protocol(), "name.example", port, lambda place: told.append(str(place[0])))

    told: list[str] = []
    with pytest.raises(OSError) as error:
        asyncio.run(dial())
    assert isinstance(error.value, ConnectionRefusedError) == refused
    assert told == [address for address in addresses if address != UNREACHABLE]


def ignore(place: Place) -> None:
    """Who refuses does not matter."""


class Visitor(asyncio.Protocol):
    """Notes where it came, and leaves at once."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.came_to = transport.get_extra_info("peername")
        cast(asyncio.Transport, transport).abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()


@in_loop
async def test_a_later_address_will_do() -> None:
    with socket.create_server((REFUSING, 0)) as listening:
        port = listening.getsockname()[1]
        visitor = Visitor()
        await reach(visitor, "localhost", port, ignore)
        assert visitor.came_to[1] == port
        await visitor.gone.wait()


@in_loop
async def test_a_connection_that_ends_at_once_closes_no_file_but_its_own(tmp_path: Path) -> None:
    with socket.create_server((REFUSING, 0)) as listening:
        for _ in range(20):
            visitor = Visitor()
            await reach(visitor, REFUSING, listening.getsockname()[1], ignore)
            await visitor.gone.wait()
            with (tmp_path / "takes-its-number").open("w") as file:
                gc.collect()
                file.write("as ever")
                file.flush()


@pytest.mark.parametrize(
    ("one", "same"),
    [(("::1", 7), ("0:0:0:0:0:0:0:1", 7, 0, 0)), (("::ffff:10.0.0.1", 7), ("::ffff:a00:1", 7, 0, 0))],
)
def test_a_place_is_the_same_however_it_is_written(one: tuple[Any, ...], same: tuple[Any, ...]) -> None:
    assert place(one) == place(same) != place((one[0], 8))
