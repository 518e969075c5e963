"""A process that goes on and on: what it holds does not grow. `make soak` takes the figures of the specification,
100,000 connections and 10,000 elections; `make test` a small part."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from electorate.cli.node import runner
from tests.runtime_hosts import BOUND, Cluster, E, cluster, stranger, until

ELECTIONS = int(os.environ.get("SOAK_ELECTIONS", "300"))
ATTEMPTS = int(os.environ.get("SOAK_ATTEMPTS", "3000"))
AT_ONCE = 50
GREETINGS = (b"", b"\0", b"\xff\xff\xff\xff junk", b"\0\0\0\x40half of a greeting")


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    tasks: int
    kilobytes: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(sum(1 for _ in Path("/proc/self/fd").iterdir()), len(asyncio.all_tasks()), pages * 4)

    def is_like(self, earlier: Held) -> bool:
        """Within what an allocator and a moment may explain."""
        return (
            self.descriptors <= earlier.descriptors + 2
            and self.tasks <= earlier.tasks + 2
            and self.kilobytes <= earlier.kilobytes + (6 << 10)
        )


async def elections(at: Cluster, number: int) -> None:
    """So many leaders, each of whom hands over to the next in the ring of ids."""
    ids = sorted(at.hosts)
    leader = await at.agreed()
    for _ in range(number):
        heir = ids[(ids.index(leader.id) + 1) % len(ids)]
        async with asyncio.timeout(BOUND):
            while at.hosts[heir] is not at.leader():
                if current := at.leader():
                    current.transfer(E, heir)
                await asyncio.sleep(0.001)
        leader = at.hosts[heir]
        at.events.clear()  # the test's own record


async def attempts(port: int, number: int) -> None:
    """So many strangers: they say nothing, junk or half a greeting, and hang up or are cut off."""

    async def once(said: bytes) -> None:
        try:
            async with stranger(port) as caller:
                if said:
                    caller.say(said)
                if said.startswith(b"\xff"):
                    await caller.closed()
        except OSError:
            return

    for start in range(0, number, AT_ONCE):
        await asyncio.gather(*(once(GREETINGS[i % 4]) for i in range(start, start + AT_ONCE)))


pytestmark = pytest.mark.timeout(3600)


def test_ten_thousand_elections_leave_nothing_behind(tmp_path: Path) -> None:
    with runner() as loop:
        loop.run(elect_and_compare(tmp_path))


async def elect_and_compare(directory: Path) -> None:
    async with cluster(directory) as at:
        await elections(at, ELECTIONS // 3)
        before = Held.now()
        await elections(at, ELECTIONS - ELECTIONS // 3)
        leader = await at.agreed()
        view = leader.view(E)
        assert view and view.term >= ELECTIONS
        assert Held.now().is_like(before), (before, Held.now())
        assert len(leader.node.elections) == 1


def test_a_hundred_thousand_connections_leave_nothing_behind(tmp_path: Path) -> None:
    with runner() as loop:
        loop.run(connect_and_compare(tmp_path))


async def connect_and_compare(directory: Path) -> None:
    async with cluster(directory) as at:
        leader = await at.agreed()
        view = leader.view(E)
        await attempts(at.ports[leader.id], ATTEMPTS // 3)
        before = Held.now()
        await attempts(at.ports[leader.id], ATTEMPTS - ATTEMPTS // 3)
        await until(lambda: not leader.strangers)
        assert Held.now().is_like(before), (before, Held.now())
        assert leader.view(E) == view, "nobody was disturbed"
        assert sum(leader.figures.refusals.values()) >= ATTEMPTS // 4
