"""What proves that a process is gone: a refusal at the very place where it was reached, and nothing less."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import reserved_ports
from electorate.runtime import link as link_module
from electorate.runtime.link import Link
from electorate.runtime.names import Place, reach
from tests.runtime_hosts import Cluster, cluster, crash, in_loop, until

LONG = {"lease": 60.0, "beat": 0.1}
"""Nobody is missed for being silent: only a proof ends a leadership here."""


class Refusals:
    """Who has been refused by whose address, and how often; and where addresses have moved to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.moved: dict[int, int] = {}

    def count(self, dialler: str, peer: str) -> int:
        return self.seen.count((dialler, peer))


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    made = Refusals()
    judge = Link.refused_by_system

    def refused_by_system(link: Link, place: Place) -> None:
        judge(link, place)
        made.seen.append((link.host.id, link.peer))

    async def reach_what_has_moved(protocol: Any, addresses: Any, *arguments: Any) -> None:
        await reach(protocol, [(host, made.moved.get(port, port)) for host, port in addresses], *arguments)

    monkeypatch.setattr(Link, "refused_by_system", refused_by_system)
    monkeypatch.setattr(link_module, "reach", reach_what_has_moved)
    monkeypatch.setattr(link_module, "LONGEST_PAUSE", 0.02)
    yield made


def dead(at: Cluster, peer: str) -> set[str]:
    """Who has found this peer dead."""
    return {id for id, kind, what in at.events if kind == "peer" and what == {"peer": peer, "state": "dead"}}


@in_loop
async def test_an_address_that_has_moved_proves_nothing(tmp_path: Path, refusals: Refusals) -> None:
    with reserved_ports(1) as [elsewhere]:
        async with cluster(tmp_path, timing=LONG) as at:
            leader = await at.agreed()
            a, b = (host for host in at.hosts.values() if host is not leader)
            lost = leader.links[a.id]
            refusals.moved = {at.ports[leader.id]: elsewhere, at.ports[a.id]: elsewhere}
            a.links[leader.id].drop()
            lost.drop()
            await until(lambda: refusals.count(a.id, leader.id) > 5 and leader.id not in a.incoming)
            await until(lambda: refusals.count(leader.id, a.id) > 5)
            assert not dead(at, leader.id) and not dead(at, a.id)
            assert at.leader() is leader, "it is alive, and b still sees it"

            refusals.moved = {}
            await until(lambda: a.links[leader.id].connected and lost.connected)
            await crash(at, leader.id)
            await at.agreed()
            assert dead(at, leader.id) == {a.id, b.id}


@in_loop
async def test_an_address_that_was_never_reached_proves_nothing(tmp_path: Path, refusals: Refusals) -> None:
    async with cluster(tmp_path, timing=LONG) as at:
        leader = await at.agreed()
        a, b = (id for id in at.hosts if id != leader.id)
        await until(lambda: at.hosts[a].links[leader.id].connected)
        await at.stop(a)
        refusals.moved = {at.ports[leader.id]: 1}
        restarted = await at.start(a)
        assert restarted.known(leader.id) is not None, "from its store"
        await until(lambda: refusals.count(a, leader.id) > 5)
        await until(lambda: at.leader(leader.id, b) is leader)
        assert not dead(at, leader.id)


@in_loop
async def test_while_the_peer_is_connected_to_me_a_refusal_proves_nothing(
    tmp_path: Path, refusals: Refusals
) -> None:
    async with cluster(tmp_path, timing=LONG) as at:
        leader = await at.agreed()
        a, b = (host for host in at.hosts.values() if host is not leader)
        await until(lambda: leader.links[a.id].connected and leader.links[b.id].connected)
        [listener] = leader.listeners
        leader.loop.remove_reader(listener)
        listener.shutdown(socket.SHUT_RDWR)  # from now on it refuses, and what stands goes on
        a.links[leader.id].drop()
        await until(lambda: refusals.count(a.id, leader.id) > 5)
        assert leader.id in a.incoming
        assert not dead(at, leader.id)
        assert at.leader() is leader

        leader.stopping = True  # it dials nobody any more
        leader.links[a.id].close()
        await until(lambda: dead(at, leader.id) == {a.id})
        await crash(at, leader.id)
        await at.agreed()
        assert dead(at, leader.id) == {a.id, b.id}


@in_loop
async def test_when_the_last_connection_of_a_peer_hangs_up_it_is_dialled_at_once(
    tmp_path: Path, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying process closes its sockets one by one, the one that listens perhaps first."""
    async with cluster(tmp_path, timing=LONG) as at:
        leader = await at.agreed()
        a, b = (host for host in at.hosts.values() if host is not leader)
        await until(lambda: leader.links[a.id].connected and leader.links[b.id].connected)
        monkeypatch.setattr(link_module, "FIRST_PAUSE", 1000.0)
        monkeypatch.setattr(link_module, "LONGEST_PAUSE", 1000.0)
        leader.stopping = True
        leader.refuse_calls()
        for incoming in tuple(leader.incoming.values()):
            incoming.abort()
        await until(lambda: all(refusals.count(host.id, leader.id) == 1 for host in (a, b)))
        assert not dead(at, leader.id)
        for link in leader.links.values():
            link.close()
        await until(lambda: dead(at, leader.id) == {a.id, b.id})
        leader.timers.clear()
        del at.hosts[leader.id]
        leader.close_store()
        await at.agreed()
