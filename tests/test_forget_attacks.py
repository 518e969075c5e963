"""What attacks on the forgetting of elections have found: what is promised, and who can fill or end what."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from electorate.core.identity import Rejoin, Start
from electorate.core.model import (
    MAX_LEAP,
    NOBODY,
    OTHERS,
    Accept,
    Floor,
    Lead,
    Member,
    Membership,
    PreVote,
    Promise,
    Reason,
    Recall,
    Recalled,
    Refuse,
    Send,
    Settings,
)
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.core.zab import Notification, State
from electorate.engines.embedded import Node as EmbeddedNode
from tests.api_nodes import cluster, nodes
from tests.runtime_hosts import in_loop, until
from tests.table import E, Table
from tests.test_forget import JOB, WHILE, elections, lead_and_end, pass_by, table

ABC = Membership(tuple(Member(id) for id in "abc"))


def look(node: Node, times: int = 3, every: float = 1.0) -> None:
    for _ in range(times):
        node.fire(node.now + every, ("forget", ""))


def time_goes_by(on: Table, election: str) -> None:
    """For a and b, with c silent."""
    for _ in range(30):
        on.settle()
        on.now += 0.3
        for id in "ab":
            for timer in [(p, election) for p in ("finalize", "answers", "campaign")] + [("beat", "")]:
                if timer in on[id].timers:
                    on[id].fire(*timer)


# --- safety ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forget_after", "lease"), [(0.1, 0.5), (600.0, 1800.0)])
def test_who_has_just_restarted_does_not_forget_that(forget_after: float, lease: float) -> None:
    """It supported a leader in an earlier life, whose lease may last: it must back nobody meanwhile."""
    node = Node(
        "b",
        ABC,
        Settings(forget_after=forget_after),
        start=Start(2, 2),
        promises={JOB: Promise(JOB, 1, "a")},
        longest_lease=lease,
    )
    node.start(0.0)
    node.connected(0.0, "c", 1)
    look(node, 2, forget_after)
    assert node.now < node.quiet_until
    said = [e.message for e in node.receive(node.now, "c", RequestVote(JOB, 2, 0, False)) if type(e) is Send]
    assert not [message for message in said if isinstance(message, Accept)]


def test_who_rejoins_takes_any_floor_of_the_others() -> None:
    floor = MAX_LEAP + 50
    node = Node("b", ABC, Settings(), start=Start(1, 5), rejoin=Rejoin())
    node.start(0.0)
    for peer in "ac":
        node.connected(0.0, peer, 1)
        node.receive(0.0, peer, Recalled(5, "", (), False, 0.5, floor))
    assert node.rejoin is None
    assert node.floor == floor


def test_promises_that_found_no_room_are_told_to_who_rejoins() -> None:
    promises = {f"job-{n}": Promise(f"job-{n}", 7, "a") for n in range(5)}
    node = Node("b", ABC, Settings(max_elections=2), promises=promises)
    node.start(0.0)
    node.connected(0.0, "a", 1)
    [answer] = [e.message for e in node.receive(0.0, "a", Recall(1, "", ())) if type(e) is Send]
    assert isinstance(answer, Recalled)
    assert len(answer.terms) == 5 or answer.floor >= 7


# --- one member ends what others need ---------------------------------------------------------------


@pytest.mark.parametrize("newest", [MAX_LEAP, MAX_LEAP - 1])
def test_the_largest_leap_that_is_taken_does_not_end_the_election(newest: int) -> None:
    on = Table()
    on.connect("ab")
    on.do("a", Node.connected, "c", 1)
    on.elect("a")
    on.contend("b")
    on.do("a", Node.receive, "c", Refuse(E, 1, newest, Reason.OLD_TERM))
    for _ in range(4):
        time_goes_by(on, E)
        leaders = [id for id in "ab" if on[id].node.elections[E].leader == id]
        assert leaders, "nobody leads any more"
        on.do(leaders[0], Node.resign, E)


def test_one_floor_does_not_end_all_forgetting() -> None:
    on = table()
    on.do("a", Node.receive, "c", Floor(MAX_LEAP))
    on.settle()
    lead_and_end(on)
    pass_by(on, 3)
    assert elections(on)["a"] == []


def test_a_leap_of_rounds_does_not_keep_a_voter_out_that_has_forgotten() -> None:
    on = Table(elections=None, algorithm="zab")
    on.do("a", Node.contend, JOB)
    on.do("a", Node.connected, "c", 1)
    for round in (MAX_LEAP, 2 * MAX_LEAP):
        on.do("a", Node.receive, "c", Notification(JOB, 0, "", -1, -1, round, State.LOOKING))
    on.do("a", Node.lost, "c", True)
    on.wire.clear()
    on.connect("ab")
    time_goes_by(on, JOB)
    assert on["a"].node.elections[JOB].leader == "a"


def test_a_lie_to_one_who_rejoins_does_not_end_an_election() -> None:
    node = Node("b", ABC, Settings(), start=Start(1, 5), rejoin=Rejoin())
    node.start(0.0)
    for peer, term in (("a", 3), ("c", 2**48)):
        node.connected(0.0, peer, 1)
        node.receive(0.0, peer, Recalled(5, "", ((E, term),), False, 0.5, 0))
    assert node.elections[E].promise.term <= 2 * MAX_LEAP


# --- one member fills the room ------------------------------------------------------------------------


def test_what_one_member_brought_is_still_its_own_after_a_restart() -> None:
    on = table(max_elections=100)
    for start in (0, 100):
        for n in range(start, start + 100):
            on.do("a", Node.receive, "c", RequestVote(f"{n}", 1, 0, False))
        on.wire.clear()
        on["a"].start()
    for n in range(200, 300):
        on.do("a", Node.receive, "c", RequestVote(f"{n}", 1, 0, False))
    on.do("a", Node.contend, "mine")
    assert "mine" in on["a"].node.elections


def test_what_one_member_says_fills_half_of_the_room_though_others_pass_it_on() -> None:
    on = table(algorithm="zab", max_elections=100)
    for n in range(100):
        on.do("ab"[n % 2], Node.receive, "c", Notification(f"{n}", 0, "c", 0, 0, 1, State.LOOKING))
    on.deliver(Notification, source="ab", to="ab")
    on.do("a", Node.contend, "mine")
    assert "mine" in on["a"].node.elections


# --- what is never forgotten ----------------------------------------------------------------------------


def test_who_does_not_want_to_lead_does_not_look_for_ever() -> None:
    """256 of these, and no node of the cluster ever campaigns again (`Timers.UNDER_WAY`)."""
    on = table(algorithm="zab")
    on.do("a", Node.receive, "c", Notification(JOB, 0, "", -1, -1, 1, State.LOOKING))
    for _ in range(30):
        on.settle()
        on.now += WHILE
        for id in "ab":
            if ("answers", JOB) in on[id].timers:
                on[id].fire("answers", JOB)
    on.settle()
    pass_by(on, 3)
    assert elections(on)["a"] == elections(on)["b"] == []


def test_a_question_that_is_held_and_too_old_keeps_nothing() -> None:
    node = Node("b", ABC, Settings())
    node.start(0.0)
    for peer in "ac":
        node.connected(0.0, peer, 1)
    node.receive(1.0, "a", RequestVote(JOB, 1, 0, False))
    node.receive(1.0, "a", Lead(JOB, 1, 0))
    node.receive(1.1, "c", PreVote(JOB, 2, 0, False))
    node.receive(1.2, "a", RequestVote(JOB, 3, 0, False))
    node.lost(1.3, "a", True)
    look(node, 10, 600.0)
    assert not node.elections


def test_a_zab_leader_below_the_floor_leaves_no_row_behind() -> None:
    on = table(algorithm="zab")
    on.do("b", Node.receive, "c", Floor(10))
    on.do("b", Node.receive, "a", Lead(JOB, 7, 0))
    on.do("b", Node.lost, "a", True)
    on.wire.clear()
    pass_by(on, 3)
    assert elections(on)["b"] == []
    assert on["b"].disk == {OTHERS: Promise(OTHERS, 10, NOBODY)}


# --- what a follower without support believes --------------------------------------------------------------


def test_an_older_leader_does_not_replace_a_newer_one_below_the_floor() -> None:
    on = table()
    on.do("b", Node.receive, "c", Floor(10))
    on.do("b", Node.receive, "c", Lead(JOB, 8, 0))
    on.do("b", Node.receive, "a", Lead(JOB, 5, 0))
    assert on["b"].node.elections[JOB].leader == "c"


# --- the library ----------------------------------------------------------------------------------------


@in_loop
async def test_what_is_frozen_waits_though_it_was_never_spoken_of(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", forget_after=0.1) as of:
        node = of["a"].node
        job = node.election("job")
        job.freeze(0.5)
        await until(lambda: "job" not in node.host.node.elections)
        async with job.leadership(timeout=5):
            assert job.is_leader


@in_loop
async def test_who_only_asks_keeps_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", forget_after=0.1) as of:
        node = of["a"].node
        for n in range(100):
            assert node.election(f"job-{n}").leader is None
        await asyncio.sleep(0.5)
        assert len(node.elections) < 10


@in_loop
async def test_what_finds_no_room_is_not_kept_as_a_wish(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", forget_after=600, max_elections=3) as of:
        node = of["a"].node
        for n in range(10):
            with contextlib.suppress(ValueError):
                node.election(f"job-{n}").contend()
        gc.collect()
        assert len(node.host.wishes.contends) <= 3
        assert len(node.elections) <= 4


@in_loop
async def test_a_node_stops_while_elections_come(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        node = make("a")
        await node.start()
        ours = [node.election(f"ours-{n}") for n in range(3)]

        async def handed_over() -> None:
            node.election("one more")

        ours[0].handed_over = handed_over  # type: ignore[method-assign]
        await node.stop()


@in_loop
async def test_a_node_starts_while_elections_come(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make:
        node: EmbeddedNode = make("a")

        async def position() -> int:
            node.election("one more")
            return 1

        election = node.election("job")
        election.position = position
        election.contend()
        others = [node.election(f"other-{n}") for n in range(3)]
        try:
            await node.start()
        finally:
            await node.stop()
        del others


@in_loop
async def test_zab_candidates_that_give_up_end_no_other_elections(tmp_path: Path) -> None:
    async with cluster(tmp_path, algorithm="zab", forget_after=0.5) as of:
        members = [election.node for election in of.values()]

        async def try_for(n: int, node: EmbeddedNode) -> None:
            try:
                async with node.election(f"job-{n}").leadership(timeout=0.001 + n % 29 / 1000):
                    pass
            except TimeoutError:
                pass

        for first in range(0, 800, 40):
            wanted = range(first, first + 40)
            await asyncio.gather(*(try_for(n, members[(n + k) % 3]) for n in wanted for k in range(2)))
        async with members[0].election("afterwards").leadership(timeout=8):
            pass


@in_loop
async def test_a_span_ends_when_its_election_is_forgotten(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.trace")
    async with cluster(tmp_path, "a", forget_after=0.1) as of:
        node = of["a"].node
        for n in range(10):
            async with node.election(f"job-{n}").leadership():
                pass
        await until(lambda: len(node.host.node.elections) <= 1)
        [follow] = [o for o in node.host.observers if o.__name__ == "follow"]
        [spans] = [c.cell_contents for c in follow.__closure__ or () if isinstance(c.cell_contents, dict)]
        assert len(spans) <= 1
