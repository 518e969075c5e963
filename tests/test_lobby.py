"""Whoever calls and does not greet: many keep no member out, wherever they call from."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from electorate.runtime.link import Outgoing
from electorate.runtime.lobby import AT_HOME, EACH, STRANGERS, Lobby, machine, network
from electorate.runtime.names import Name
from tests.runtime_hosts import Cluster, cluster, in_loop, stranger, until

MEMBERS = {machine("10.0.0.1"), machine("fd00::1")}


def lobby() -> tuple[Lobby[str], list[str]]:
    gone: list[str] = []
    return Lobby(gone.append), gone


def crowd(made: Lobby[str], *addresses: str) -> None:
    for number, address in enumerate(addresses):
        made.enter(f"{address} {number}", machine(address), MEMBERS)


def test_a_machine_is_the_same_however_its_address_is_written() -> None:
    assert machine("::ffff:10.0.0.1") == machine("10.0.0.1") and len(machine("10.0.0.1")) == 4
    assert machine("fe80::1%eth0") == machine("fe80:0::1")
    assert machine("") == machine("nowhere") == b""
    assert network(machine("2001:db8::1")) == network(machine("2001:db8::2:3:4:5"))
    assert network(machine("2001:db8::1")) != network(machine("2001:db8:0:1::1"))
    assert network(machine("10.0.0.1")) != network(machine("10.0.0.2"))


def test_there_are_places_for_strangers_and_others_for_members() -> None:
    made, gone = lobby()
    crowd(made, *(f"198.51.100.{n}" for n in range(STRANGERS)))
    crowd(made, *AT_HOME * ["10.0.0.1"], *AT_HOME * ["fd00::1"])
    assert not gone and len(made) == STRANGERS + 2 * AT_HOME
    crowd(made, "203.0.113.1")
    assert len(gone) == 1 and gone[0].startswith("198.51.100."), "a stranger has to go for a stranger"


@pytest.mark.parametrize("address", ["198.51.100.1", "2001:db8::%x"])
def test_who_calls_from_one_address_pushes_out_nobody_else(address: str) -> None:
    made, gone = lobby()
    crowd(made, *(f"203.0.113.{n}" for n in range(EACH)))
    crowd(made, *(address % n if "%" in address else address for n in range(1, 500)))
    assert len(made) == 2 * EACH
    assert len(gone) == 499 - EACH and not any(who.startswith("203") for who in gone)


def test_who_calls_from_where_a_member_is_pushes_out_no_member_elsewhere() -> None:
    made, gone = lobby()
    crowd(made, "10.0.0.1", *500 * ["fd00::1"])
    assert len(gone) == 500 - AT_HOME and all(who.startswith("fd00::1") for who in gone)


def test_chance_says_who_has_to_go() -> None:
    """Of a hundred that came first, some are there when a hundred more have come."""
    stayed = 0
    for _ in range(20):
        made, _ = lobby()
        crowd(made, *(f"198.51.100.{n}" for n in range(STRANGERS)))
        first = set(made)
        crowd(made, *(f"203.0.113.{n}" for n in range(STRANGERS)))
        stayed += len(first & set(made))
    assert 0.2 < stayed / (20 * STRANGERS) < 0.55  # 1/e on the average


def test_who_leaves_makes_room() -> None:
    made, gone = lobby()
    for number in range(10 * STRANGERS):
        made.enter(f"{number}", machine(f"198.51.100.{number % 250}"), MEMBERS)
        made.leave(f"{number}")
        made.leave(f"{number}")
    assert not gone and not len(made) and not made.crowds and not made.strange


@in_loop
async def test_a_name_tells_the_machines_that_it_stands_for() -> None:
    import logging

    def name(host: str) -> Name:
        return Name(host, 1, "nodes.b.address", logging.getLogger("test"), lambda: None)

    assert name("::ffff:10.0.0.1").machines == {machine("10.0.0.1")}
    local = name("localhost")
    assert not local.machines
    await local.addresses()
    assert machine("127.0.0.1") in local.machines


# --- a flood ------------------------------------------------------------------------------------------

RATE = 1000
"""Dials a second."""
ROUND_TRIP = 0.1


def sources() -> Iterator[str]:
    """As many addresses as a flood may have."""
    while True:
        for n in range(1000):
            yield f"127.1.{1 + n // 250}.{1 + n % 250}"


@asynccontextmanager
async def flood(port: int) -> AsyncIterator[list[int]]:
    """Strangers dial this port all the time, say nothing, and stay until they are cut off."""
    made = [0]
    from_where = sources()

    async def pour() -> None:
        held: list[socket.socket] = []
        began = time.monotonic()
        try:
            while True:
                await asyncio.sleep(0.01)
                while made[0] < (time.monotonic() - began) * RATE:
                    caller = socket.socket()
                    caller.setblocking(False)
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    with suppress(BlockingIOError):
                        caller.bind((next(from_where), 0))
                        code = caller.connect_ex(("127.0.0.1", port))
                        assert code in (0, errno.EINPROGRESS)
                    held.append(caller)
                    made[0] += 1
                while len(held) > 400:
                    held.pop(0).close()
        finally:
            for caller in held:
                caller.close()

    pouring = asyncio.create_task(pour())
    try:
        yield made
    finally:
        pouring.cancel()
        with suppress(asyncio.CancelledError):
            await pouring


@pytest.mark.parametrize("known", [True, False], ids=["from its address", "through another"])
@in_loop
async def test_a_member_far_away_is_not_kept_out_by_a_flood(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its greeting takes a round trip after its call; through a translated address it is one of the strangers
    to those who have not met it."""
    greet = Outgoing.connection_made

    def late(self: Outgoing, transport: Any) -> None:
        self.link.host.loop.call_later(ROUND_TRIP, lambda: transport.is_closing() or greet(self, transport))

    async with cluster(tmp_path) as at:
        leader = await at.agreed()
        if not known:
            hide(at, monkeypatch)
        monkeypatch.setattr(Outgoing, "connection_made", late)
        [b, c] = [host for host in at.hosts.values() if host is not leader]
        async with flood(at.ports[b.id]) as made:
            await until(lambda: len(b.strangers) >= STRANGERS - 1)
            refused = b.figures.refusals["too_many"]
            link = c.links[b.id]
            before, began = link.outgoing, time.monotonic()
            link.drop()
            await until(lambda: link.outgoing not in (None, before))
            print(f"back after {time.monotonic() - began:.2f} s, {made[0]} dials")
            await until(lambda: b.figures.refusals["too_many"] > refused)
            assert leader.is_leader("main")


def hide(at: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows where the others call from."""
    monkeypatch.setattr(Name, "machines", frozenset(), raising=False)
    for host in at.hosts.values():
        host.seen_at.clear()
        for link in host.links.values():
            link.name.__dict__.pop("machines", None)


@in_loop
async def test_a_flood_from_one_address_leaves_the_places_of_others_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        a, port = at.hosts["a"], at.ports["a"]
        async with stranger(port, "127.0.2.1") as patient:
            await until(lambda: len(a.strangers) == 1)
            [first] = a.strangers
            for _ in range(100):
                async with stranger(port, "127.0.2.2"):
                    pass
            assert first in set(a.strangers)
            patient.say(b"\0\0\0\0")
            await patient.closed()
