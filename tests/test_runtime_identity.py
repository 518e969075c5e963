"""What a node owes the others when it leaves, begins another life, or cannot be heard: asked in steps, not in time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from electorate.core.identity import Identity, Start
from electorate.core.model import Role
from electorate.runtime import link as link_module
from electorate.runtime.contact import Contact
from electorate.runtime.link import HASTE, Link
from electorate.runtime.notify import watchdog_pause
from electorate.runtime.wire import VERSIONS, Part, Said, Welcome
from tests.runtime_hosts import E, cluster, in_loop, until

LONG = {"lease": 60.0, "beat": 0.1}
"""Nobody is missed for being silent."""


@in_loop
async def test_who_stops_stays_as_a_voter_until_another_leads(tmp_path: Path) -> None:
    """c is away: without the vote of the one that leaves, nobody could follow it."""
    async with cluster(tmp_path, absent="c", timing={**LONG, "patience": 1.0}) as at:
        leader = await at.agreed()
        [heir] = [host for host in at.hosts.values() if host is not leader]
        await at.stop(leader.id)
        assert at.saw(heir.id, "view", role=Role.LEADER, leader=heir.id)
        assert heir.view(E).term > 1  # type: ignore[union-attr]


@in_loop
async def test_only_one_that_contends_is_handed_over_to(tmp_path: Path) -> None:
    async with cluster(tmp_path, absent="abc", timing=LONG) as at:
        await at.start("a")
        for id in "bc":
            await at.start(id, contends=())
        leader = await at.agreed()
        assert leader.id == "a"
        await until(lambda: {voter for voter, _ in leader.node.elections[E].followers} == {"b", "c"})
        with pytest.raises(ValueError, match="node b may not lead, or does not contend"):
            leader.transfer(E, "b")
        with pytest.raises(ValueError, match="'x' is not in the cluster file"):
            leader.transfer(E, "x")
        with pytest.raises(ValueError, match="node c does not lead"):
            at.hosts["c"].transfer(E, "a")
        assert at.leader() is leader
        at.hosts["b"].contend(E)
        await until(lambda: "b" in leader.node.elections[E].contenders)
        leader.transfer(E, "b")
        assert (await at.agreed(but="a")).id == "b"


@in_loop
async def test_who_begins_another_life_has_resigned_first(tmp_path: Path) -> None:
    """It says so while it still has a voice: nobody waits for a lease of sixty seconds."""
    async with cluster(tmp_path, timing=LONG) as at:
        leader = await at.agreed()
        before = leader.node
        term = leader.view(E).term  # type: ignore[union-attr]
        leader.live_again()
        assert not before.leading and not leader.is_leader(E)
        await until(lambda: leader.node is not before)
        assert leader.node.incarnation == before.incarnation + 1
        assert not before.leading and not leader.is_leader(E)
        assert at.saw(leader.id, "lease", election=E, until=None)
        other = await at.agreed()
        assert other.view(E).term > term  # type: ignore[union-attr]


@in_loop
async def test_what_was_met_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        a, met = at.hosts["a"], {id: at.hosts[id].started for id in "bc"}
        await until(lambda: a.starts == met)
        for id in "abc":
            await at.stop(id)
        assert (await at.start("a")).starts == met


@in_loop
async def test_the_end_of_an_older_life_says_nothing_of_the_newest_and_each_end_is_told_once(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, timing=LONG) as at:
        await at.agreed()
        a, b = at.hosts["a"], at.hosts["b"].started
        await until(lambda: a.known("b") == b)
        a.peer_is_gone("b", b._replace(incarnation=b.incarnation - 1))
        a.peer_is_gone("b", b._replace(number=b.number - 1))
        assert not at.saw("a", "peer", peer="b", state="dead")
        for _ in range(3):
            a.peer_is_gone("b", b)
        assert [what for id, kind, what in at.events if id == "a" and what.get("state") == "dead"] == [
            {"peer": "b", "state": "dead"}
        ]


# --- one link, without a network ------------------------------------------------------------------


class Loop:
    def __init__(self) -> None:
        self.now = 100.0
        self.later: list[float] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: object) -> None: ...

    def call_later(self, delay: float, call: object) -> Any:
        self.later.append(delay)
        return asyncio.TimerHandle(0.0, lambda: None, (), cast(Any, self))

    def create_future(self) -> Any:
        return asyncio.get_running_loop().create_future()

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: object) -> None: ...


class Transport:
    def __init__(self, unread: int) -> None:
        self.unread = unread
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True


def staged() -> tuple[Link, Loop]:
    """b, as a's link sees it."""
    loop = Loop()

    class Host:
        id = "a"
        started = Start(2, 20)
        stopping = between_lives = False
        certificates = None
        versions = VERSIONS
        log = logging.getLogger("electorate.a")

        def beyond(self, whom: str, part: Part, what: str) -> None: ...

        def __init__(self) -> None:
            self.loop = loop
            self.contact = Contact(cast(Any, self))
            self.met: list[Identity] = []

        def lost(self, peer: str) -> None: ...

        def recognises(self, peer: str, identity: Identity) -> bool:
            return identity.start.number != 666

        def connected(self, peer: str, identity: Identity) -> None:
            self.met.append(identity)

    return Link(cast(Any, Host()), "b", ("127.0.0.1", 1)), loop


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [(Start(2, 20), 30, True), (Start(1, 10), 30, False), (Start(2, 20), 666, False)],
)
def test_a_welcome_counts_that_is_to_my_present_life_and_by_whom_i_know(
    mine: Start, theirs: int, stands: bool
) -> None:
    """I may have begun another life since I greeted."""
    link, _ = staged()
    outgoing = cast(Any, SimpleNamespace(start=mine, place=None, reached=None))
    link.welcomed(outgoing, Welcome(Said(Start(3, theirs)), 1))
    assert link.connected is stands
    assert len(cast(Any, link.host).met) == stands


@pytest.mark.parametrize(
    ("since", "error", "hasty"),
    [
        (0.0, ConnectionResetError(), True),
        (0.9 * HASTE, ConnectionResetError(), True),
        (1.1 * HASTE, ConnectionResetError(), False),
        (0.0, ConnectionRefusedError(), False),
        (0.0, OSError(), False),
        (0.0, TimeoutError(), False),
    ],
)
def test_a_dial_that_breaks_before_the_welcome_is_repeated_at_once_but_only_soon_after_a_break(
    since: float, error: Exception, hasty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying process closes its sockets one by one: between two of them it accepts, and hangs up."""

    async def reach(*arguments: object, **options: object) -> None:
        raise error

    async def attempt() -> None:
        link, loop = staged()
        monkeypatch.setattr(link_module, "reach", reach)
        link.dialling = cast(Any, object())  # as if one were under way, so that none begins
        link.broken()
        loop.now += since
        await link.attempt()
        [delay] = loop.later
        assert (delay <= 0.001) is hasty
        assert hasty or delay >= 0.5 * link_module.FIRST_PAUSE

    asyncio.run(attempt())


@pytest.mark.parametrize(("usec", "seconds"), [("3000000", 1.5), ("0", None), ("1", 5e-7)])
def test_the_watchdog_is_fed_twice_in_its_time(
    usec: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert watchdog_pause() == seconds
