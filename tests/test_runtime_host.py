"""Hosts elect over real TCP, with real stores, and are not moved by what else comes over the wire."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import threading
from bisect import bisect_left
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from electorate.core.identity import Start
from electorate.core.liveness import Followers
from electorate.core.model import Beat
from electorate.core.node import Node
from electorate.errors import UserError
from electorate.runtime import hearsay, lobby
from electorate.runtime import link as link_module
from electorate.runtime.clock import now
from electorate.runtime.host import Host
from electorate.runtime.reasons import not_leading
from electorate.runtime.wire import VERSIONS, Refused, Welcome, frame
from tests.runtime_hosts import E, blocked, cluster, crash, in_loop, stranger, undisturbed, until

ALGORITHMS = ("bully", "ring", "raft", "zab")


def counted(host: Host, *words: str) -> bool:
    """Whether a complaint with all these words has been counted."""
    return any(all(word in complaint for word in words) for complaint in host.ignored())


# --- elections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@in_loop
async def test_they_elect_hand_over_resign_and_leave(tmp_path: Path, algorithm: str) -> None:
    async with cluster(tmp_path, algorithm=algorithm, preempt=False) as at:
        first = await at.agreed()
        assert 0 < first.lease_left(E) <= 2.0
        assert [host.lease_left(E) for host in at.hosts.values() if host is not first] == [0, 0]

        heir = next(id for id in at.hosts if id != first.id)
        await until(lambda: heir in first.node.leading[E].contenders)
        first.transfer(E, heir)
        await until(lambda: at.leader() is at.hosts[heir])

        at.hosts[heir].resign(E)
        third = await at.agreed(but=heir)

        await at.stop(third.id)
        await at.agreed(but=third.id)
        terms = [what["term"] for _, kind, what in at.events if kind == "lease" and what["until"]]
        assert terms == sorted(terms)
        assert len(set(terms)) >= 4


@in_loop
async def test_who_stops_hands_over_to_whom_a_user_has_named_though_it_is_awaited(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        first = await at.agreed()
        heir, other = sorted(id for id in at.hosts if id != first.id)
        for host in (first, at.hosts[other]):
            host.set_position(E, 7)
        leading = first.node.leading[E]
        await until(lambda: leading.contenders.get(other) == 7 and heir in leading.contenders)
        first.transfer(E, heir)
        stopping = asyncio.create_task(at.stop(first.id))
        await until(lambda: not leading.contends)
        at.hosts[heir].set_position(E, 7)
        await stopping
        assert at.saw(first.id, "view", leader=heir)
        assert not at.saw(other, "view", leader=other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@in_loop
async def test_a_crash_is_proven_by_a_refused_connection(tmp_path: Path, algorithm: str) -> None:
    async with cluster(tmp_path, algorithm=algorithm) as at:
        first = await at.agreed()
        await crash(at, first.id)
        await at.agreed()
        assert all(at.saw(id, "peer", peer=first.id, state="dead") for id in at.hosts)


@in_loop
async def test_where_no_proof_is_believed_a_crash_costs_a_lease(tmp_path: Path) -> None:
    async with cluster(tmp_path, proof_of_death="none", timing={"beat": 0.1, "lease": 0.5}) as at:
        first = await at.agreed()
        await crash(at, first.id)
        await at.agreed()
        assert not any(what.get("state") == "dead" for _, _, what in at.events)


@in_loop
async def test_one_node_alone_leads(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a") as at:
        await at.agreed()
        assert at.saw("a", "lease", term=1)


@in_loop
async def test_a_restarted_node_comes_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        first = await at.agreed()
        other = next(id for id in at.hosts if id != first.id)
        await at.stop(other)
        host = await at.start(other)
        await until(lambda: at.leader() is first)
        assert host.node.incarnation == 2


@in_loop
async def test_a_status_tells_what_there_is(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        leader = await at.agreed()
        await until(lambda: all(link.connected for link in leader.links.values()))
        status = leader.status()
        [election] = status["elections"]
        assert election["role"] == "leader"
        assert election["leader"] == leader.id
        assert 0 < election["lease_left"] <= 2.0
        assert set(status["peers"].values()) == {"connected"}


@in_loop
async def test_wishes_that_make_no_sense(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a") as at:
        with pytest.raises(ValueError, match="node 'x' is not in the cluster file; it has a"):
            at.hosts["a"].transfer(E, "x")
        with pytest.raises(ValueError, match="node a does not lead 'another'"):
            at.hosts["a"].transfer("another", "a")
        for position in (-1, 2**63):
            with pytest.raises(ValueError, match="a position is"):
                at.hosts["a"].set_position(E, position)


@in_loop
async def test_a_port_in_use_and_an_unknown_id(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        taken = {
            id: {"address": f"127.0.0.1:{port}"} for id, port in zip("ba", at.ports.values(), strict=True)
        }
        with pytest.raises(UserError, match=r"node b cannot listen on 127\.0\.0\.1:\d+: .*change nodes\.b"):
            await at.start("b", at.config(nodes=taken))
        del at.hosts["b"]
        await at.start("b")  # its directory was let go
        with pytest.raises(UserError, match="node 'x' is not in the cluster file; it has a, b"):
            Host(at.config(), "x", tmp_path / "x")


@in_loop
async def test_what_another_thread_reads_of_a_lease_was_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While voters begin one stretch of support after another, no read mixes two of them."""
    published: set[float] = set()
    support = Node.supported_until

    def supported_until(node: Node, followers: Followers) -> float:
        until = support(node, followers)
        published.add(until)
        return until

    monkeypatch.setattr(Node, "supported_until", supported_until)
    read: list[tuple[float, int, float, float]] = []
    done = threading.Event()

    def watch(leader: Host) -> None:
        while not done.is_set():
            before, (term, left), after = now(), leader.tenure(E), now()
            if left:
                read.append((before, term, left, after))

    async with cluster(tmp_path, timing={"beat": 0.02, "lease": 1.0}) as at:
        leader = await at.agreed()
        others = [host for host in at.hosts.values() if host is not leader]
        await until(lambda: all(peer.connected for peer in leader.node.peers.values()))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread = threading.Thread(target=watch, args=(leader,))
        thread.start()
        for turn in range(40):
            other = others[turn % 2]
            other.node.peers[leader.id].begin_stretch()
            anew = (other.id, (other.node.incarnation, other.node.peers[leader.id].epoch))
            await until(lambda anew=anew: anew in leader.node.tenures[E].lease.followers)  # type: ignore[misc]
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
        assert leader.is_leader(E)
        term = leader.tenure(E)[0]
    longest = 1.0 * (1 - 2 * 0.001)
    assert len(read) > 1000
    leases = sorted(published)
    for before, of, left, after in read:
        assert of == term
        assert left <= longest
        place = bisect_left(leases, before + left)
        assert place < len(leases) and leases[place] <= after + left


# --- who is refused ---------------------------------------------------------------------------------

MET = Start(3, 33)
REFUSED: dict[str, tuple[Start, Start | None, dict[str, Any], str]] = {
    "another protocol": (
        MET,
        None,
        {"versions": (7, 8)},
        f"node 'a' speaks {VERSIONS}, and node 'd' versions 7 to 8: upgrade node 'a'",
    ),
    "another cluster": (MET, None, {"cluster": "prod"}, "I belong to cluster 'demo', not 'prod'"),
    "meant for another": (MET, None, {"to": "b"}, "I am node 'a', not 'b': check the addresses"),
    "an unknown member": (MET, None, {"node": "x"}, "node 'x' is not in my cluster file"),
    "myself": (MET, None, {"node": "a"}, "node 'a' is not in my cluster file"),
    "an older incarnation": (
        Start(2, 22),
        None,
        {},
        "I have met incarnation 3 of node 'd', and this one does",
    ),
    "another of the same": (
        Start(3, 44),
        None,
        {},
        "I have met incarnation 3 of node 'd', and this one does",
    ),
    "another store": (
        Start(9, 99),
        Start(3, 44),
        {},
        "I have met incarnation 3 of node 'd', and this one does",
    ),
}


@in_loop
async def test_greetings_that_are_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="abcd", absent="d") as at:
        await at.agreed()
        a, port = at.hosts["a"], at.ports["a"]
        with undisturbed(at):
            async with stranger(port) as member:
                answer = await member.greet(at.greeting("d", "a", MET))
                assert isinstance(answer, Welcome)
                assert answer.said.identity.start == a.started
            for start, shown, changed, reason in REFUSED.values():
                async with stranger(port) as caller:
                    answer = await caller.greet(at.greeting("d", "a", start, shown, **changed))
                    assert isinstance(answer, Refused)
                    assert answer.reason.startswith(reason)
                    assert answer.known == (None if changed else MET)
                    await caller.closed()
                if changed.get("node", "d") == "d":
                    assert counted(a, "refusing d", reason)
                else:
                    assert counted(a, "refusing a stranger: it says it is a node that is not mine")


@in_loop
async def test_who_has_a_later_life_must_show_the_one_that_is_remembered(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="abcd", absent="d") as at:
        await at.agreed()
        a, port = at.hosts["a"], at.ports["a"]
        with undisturbed(at):
            for start, shown, welcome in (
                (MET, None, True),
                (Start(9, 99), None, False),
                (Start(9, 99), Start(8, 88), False),
                (Start(9, 99), MET, True),
                (Start(10, 1), Start(9, 99), True),
                (Start(12, 1), Start(9, 99), False),
            ):
                async with stranger(port) as caller:
                    answer = await caller.greet(at.greeting("d", "a", start, shown))
                    assert isinstance(answer, Welcome) == welcome
            assert not counted(a, "refusing d"), "to be asked is no reproach"


@in_loop
async def test_a_node_of_another_cluster_knows_why_it_stays_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, absent="c") as at:
        await at.agreed()
        with undisturbed(at):
            c = await at.start("c", at.config(cluster="prod"))
            await until(lambda: counted(c, "refused by a", "'demo', not 'prod'"))
            await until(lambda: counted(at.hosts["b"], "refusing c", "'demo', not 'prod'"))
            await until(lambda: counted(c, "refusing b", "'prod', not 'demo'"))
            await until(lambda: counted(at.hosts["b"], "refused by c", "'prod', not 'demo'"))
            await at.stop("c")


@in_loop
async def test_addresses_that_are_swapped_are_found_out(tmp_path: Path) -> None:
    async with cluster(tmp_path, absent="c") as at:
        await at.agreed()
        swapped = dict(zip("bac", at.ports.values(), strict=True))
        nodes = {id: {"address": f"127.0.0.1:{port}"} for id, port in swapped.items()}
        c = await at.start("c", at.config(nodes=nodes))
        await until(lambda: counted(c, "refused by a", "I am node 'b', not 'a': check the addresses"))
        await until(lambda: counted(at.hosts["b"], "refusing c", "I am node 'b', not 'a'"))
        assert at.leader("a", "b")


@pytest.mark.parametrize("rolled_back", [False, True])
@in_loop
async def test_a_store_that_was_lost_or_rolled_back_is_refused_until_it_rejoins(
    tmp_path: Path, rolled_back: bool
) -> None:
    async with cluster(tmp_path) as at:
        first = await at.agreed()
        await at.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "old")
        if rolled_back:
            await at.start("c")
            await at.agreed()
            await at.stop("c")
        shutil.rmtree(tmp_path / "c")
        if rolled_back:
            shutil.copytree(tmp_path / "old", tmp_path / "c")
        del first
        await at.agreed()

        with undisturbed(at):
            c = await at.start("c")
            for other in "ab":
                await until(lambda other=other: counted(c, f"refused by {other}", "--rejoin"))  # type: ignore[misc]
                await until(lambda other=other: counted(at.hosts[other], "refusing c", "--rejoin"))  # type: ignore[misc]
            await at.stop("c")

        incarnation = c.node.incarnation
        c = await at.start("c", rejoin=True)
        await at.agreed()
        assert c.node.incarnation > incarnation
        assert all(link.connected for link in c.links.values())
        await until(lambda: c.node.rejoin is None and c.conditions.rejoin is None)
        await at.stop("c")
        await at.start("c")
        await at.agreed()


# --- what else comes over the wire ------------------------------------------------------------------

JUNK = {
    "text": b"Who is there?\r\n\r\n",
    "a gibibyte": (2**30).to_bytes(4) + b"x" * 1000,
    "no greeting": frame(Beat(1)),
    "zeroes": bytes(10_000),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@in_loop
async def test_junk_instead_of_a_greeting(tmp_path: Path, junk: bytes) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        with undisturbed(at):
            async with stranger(at.ports["a"]) as caller:
                caller.say(junk)
                await caller.closed()
            assert counted(at.hosts["a"], "junk from a stranger")
            assert not at.hosts["a"].strangers


@pytest.mark.parametrize("junk", [(2**30).to_bytes(4), b"\0\0\0\1\xc1", frame(Refused("no"))])
@in_loop
async def test_junk_from_a_member(tmp_path: Path, junk: bytes) -> None:
    async with cluster(tmp_path, ids="abcd", absent="d") as at:
        await at.agreed()
        with undisturbed(at):
            async with stranger(at.ports["a"]) as member:
                assert isinstance(await member.greet(at.greeting("d", "a", MET)), Welcome)
                member.say(frame(Beat(1)) + junk)
                await member.closed()
            assert counted(at.hosts["a"], "junk from node d")


@in_loop
async def test_whoever_stays_silent_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        monkeypatch.setattr(link_module, "HANDSHAKE", 0.1)
        with undisturbed(at):
            async with stranger(at.ports["a"]) as silent, stranger(at.ports["a"]) as slow:
                slow.say(frame(at.greeting("b", "a", MET))[:-1])
                await silent.closed()
                await slow.closed()
            assert counted(at.hosts["a"], "no greeting in time")


@in_loop
async def test_there_is_room_for_so_many_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(tmp_path) as at:
        await at.agreed()
        a, port = at.hosts["a"], at.ports["a"]
        monkeypatch.setattr(lobby, "AT_HOME", 4)
        with undisturbed(at):
            async with AsyncExitStack() as held:
                for _ in range(7):
                    await held.enter_async_context(stranger(port))
                await until(lambda: a.ignored().get("too many strangers") == 3)
                assert len(a.strangers) == 4
            await until(lambda: not a.strangers)


@in_loop
async def test_complaints_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearsay, "DIFFERENT", 2)
    async with cluster(tmp_path, ids="ab", absent="b") as at:
        for name in range(6):
            async with stranger(at.ports["a"]) as caller:
                await caller.greet(at.greeting("b", "a", MET, cluster=f"demo{name}"))
        ignored = at.hosts["a"].ignored()
        assert len(ignored) == 3 and ignored["refusing b: other complaints (cluster)"] == 4


# --- the store --------------------------------------------------------------------------------------


@in_loop
async def test_a_node_whose_store_fails_says_so_leads_no_longer_and_goes_on_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path) as at:
        first = await at.agreed()
        rest = [id for id in at.hosts if id != first.id]
        attempts: list[BaseException] = []

        def count(error: BaseException) -> None:
            attempts.append(error)
            first.balks(error)

        first.disk.trouble = count
        with blocked(first.store.directory):
            first.contend("another")
            await until(lambda: first.trouble)
            assert not first.is_leader(E) and not first.is_leader("another")
            second = await at.agreed(*rest)
            await until(lambda: len(attempts) > 3)
            fault = first.status()["no_store"]
            assert re.search(
                r"^since \d\d:\d\d:\d\d, data directory .* cannot be written \(.*\): mend", fault
            )
            assert first.trouble == not_leading(first, "another")
        await until(lambda: first.view("another").leader)  # type: ignore[union-attr]
        assert first.status()["no_store"] is None
        assert caplog.text.count("cannot be written") == 1
        assert caplog.text.count("takes writes again, after") == 1
        assert at.saw(first.id, "stalled") and at.saw(first.id, "restored")
        await crash(at, second.id)
        await at.agreed(but=second.id)


@in_loop
async def test_who_has_won_before_its_store_failed_does_not_go_on_to_lead(tmp_path: Path) -> None:
    """Each attempt that fails says so again: what it is elected to meanwhile, it gives up."""
    async with cluster(tmp_path, ids="a") as at:
        a = await at.agreed()
        with blocked(a.store.directory):
            a.contend("another")
            await until(lambda: a.trouble and not a.node.leading)
            won = a.node.election("main")
            assert won
            won.win()
            await until(lambda: not a.node.leading)


@in_loop
async def test_a_store_that_turns_out_to_be_damaged_ends_the_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as at:
        first = await at.agreed()
        with blocked(first.store.directory):
            first.contend("another")
            await until(lambda: first.trouble)
            (first.store.directory / "electorate.db").write_bytes(b"promises, promises\n" * 1000)
        said = await first.failed
        assert "is damaged (" in said and f"start node {first.id} with --rejoin" in said
        assert not first.is_leader(E)
        await at.stop(first.id)
        await at.agreed()


@in_loop
async def test_a_node_whose_store_fails_can_be_stopped(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a", timing={"beat": 0.1, "lease": 0.5}) as at:
        a = await at.agreed()
        with blocked(a.store.directory):
            a.contend("another")
            await until(lambda: a.trouble)
            await at.stop("a")
            await until(lambda: not a.disk.thread.is_alive())
        await at.start("a")
        await at.agreed()


@in_loop
async def test_a_loop_that_was_late_to_hear_of_a_commit_is_no_stalled_store(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="a", timing={"beat": 0.05, "lease": 0.3}) as at:
        a = await at.agreed()
        a.contend("another")
        committed = a.on_disk(now)  # after the commit
        late = now() + 2 * a.config.timing.lease
        while now() < late or not a.disk.jobs.empty():
            pass
        await committed
        await until(lambda: a.is_leader("another"))
        assert a.is_leader(E)
        assert not at.saw("a", "stalled")


@in_loop
async def test_a_lease_without_end_is_told_as_an_hour(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as at:
        leader = await at.agreed()
        assert leader.lease_left(E) == leader.status()["elections"][0]["lease_left"] == 3600
