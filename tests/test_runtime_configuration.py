"""One configuration: nodes whose files differ in what safety rests on refuse each other and say in which key; a
store goes on only under what it has promised under."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from electorate.core.configuration import Voters, configuration, differences, digests
from electorate.core.model import Kind, Member, Membership, QuorumRule, Settings, Timing
from electorate.errors import UserError
from electorate.runtime import wire
from electorate.runtime.clock import now
from electorate.runtime.config import Config, check
from electorate.runtime.host import Host
from electorate.runtime.store import Store
from tests.runtime_hosts import Cluster, E, cluster, in_loop, until

LEASE = {"beat": 0.1, "lease": 2.0}


def of_c(**node: Any) -> dict[str, Any]:
    return {"nodes": {"c": node}}


def of_d(**node: Any) -> dict[str, Any]:
    return {"nodes": {"d": {"address": "127.0.0.1:1", **node}}}


SAFETY: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "algorithm": ({}, {"algorithm": "zab"}, '"raft"', '"zab"'),
    "ring": (
        {"algorithm": "ring"},
        {"algorithm": "ring", "ring": "chang-roberts"},
        '"tanenbaum"',
        '"chang-roberts"',
    ),
    "quorum": ({}, {"quorum": "weighted"}, '"majority"', '"weighted"'),
    "timing.lease": ({}, {"timing": {"beat": 0.1, "lease": 0.5}}, "2.0", "0.5"),
    "timing.drift": ({}, {"timing": {**LEASE, "drift": 0.01}}, "0.001", "0.01"),
    "nodes.c.kind": ({}, of_c(kind="witness"), '"voter"', '"witness"'),
    "nodes.c.weight": (
        {"quorum": "weighted"},
        {"quorum": "weighted", **of_c(weight=0)},
        "1",
        "0",
    ),
    "nodes.c.group": (
        {"quorum": "hierarchical"},
        {"quorum": "hierarchical", **of_c(group="north")},
        '""',
        '"north"',
    ),
    "nodes.d.kind": ({}, of_d(), "missing", '"voter"'),
}

REST: dict[str, tuple[dict[str, Any], str]] = {
    "nodes.c.priority": (of_c(priority=7), "7"),
    "proof_of_death": ({"proof_of_death": "none"}, '"none"'),
    "nodes.d.kind": (of_d(kind="observer"), '"observer"'),
    "rank_by": ({"rank_by": "spread"}, '"spread"'),
    "stagger": ({"stagger": "random"}, '"random"'),
    "preempt": ({"preempt": True}, "true"),
    "pre_vote": ({"pre_vote": False}, "false"),
    "freshness": ({"freshness": "prefer"}, '"prefer"'),
    "max_elections": ({"max_elections": 70}, "50000"),
    "forget_after": ({"forget_after": 5}, "600.0"),
    "timing.beat": ({"timing": {**LEASE, "beat": 0.2}}, "0.2"),
    "timing.patience": ({"timing": {**LEASE, "patience": 0.2}}, "0.2"),
    "timing.rank_slot": ({"timing": {**LEASE, "rank_slot": 0.02}}, "0.02"),
    "timing.finalize_wait": ({"timing": {**LEASE, "finalize_wait": 0.03}}, "0.03"),
}


def file(at: Cluster, settings: dict[str, Any]) -> Config:
    """A cluster file with these settings; those of a node are added to what is said of it."""
    nodes: dict[str, Any] = {id: {"address": f"127.0.0.1:{port}"} for id, port in at.ports.items()}
    for id, said in settings.get("nodes", {}).items():
        nodes[id] = {**nodes.get(id, {}), **said}
    return at.config(**{**settings, "nodes": nodes})


def said(host: Host, how: str, key: str, own: str) -> bool:
    sentence = f"{how}: our configurations differ in {key} ({own} here): give all nodes the same cluster file"
    return sentence in host.ignored()


@pytest.mark.parametrize("key", SAFETY)
@in_loop
async def test_who_differs_in_what_safety_rests_on_is_refused_by_the_name_of_the_key(
    tmp_path: Path, key: str
) -> None:
    of_a, of_b, at_a, at_b = SAFETY[key]
    async with cluster(tmp_path, absent="abc") as at:
        a = await at.start("a", file(at, of_a))
        b = await at.start("b", file(at, of_b))
        for host, peer, own in ((a, "b", at_a), (b, "a", at_b)):
            await until(lambda host=host, peer=peer, own=own: said(host, f"refusing {peer}", key, own))  # type: ignore[misc]
            await until(lambda host=host, peer=peer, own=own: said(host, f"refused by {peer}", key, own))  # type: ignore[misc]
            assert host.figures.refusals["configuration"] >= 2
            assert not host.links[peer].connected
        assert not [event for event in at.events if event[1] == "lease"], "two of three would be a quorum"

        await at.stop("b")
        shutil.rmtree(tmp_path / "b")
        await at.start("b", file(at, of_a))
        await at.agreed()


@pytest.mark.parametrize("key", REST)
@in_loop
async def test_who_differs_in_the_rest_takes_part_and_is_told_of(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    of_b, own = REST[key]
    async with cluster(tmp_path, absent="abc") as at:
        a = await at.start("a", file(at, {}))
        b = await at.start("b", file(at, of_b))
        await at.agreed()
        await until(lambda: a.status()["differs"] == {"b": (key,)} and b.status()["differs"] == {"a": (key,)})
        a.links["b"].drop()
        b.links["a"].drop()
        await until(lambda: a.links["b"].connected and b.links["a"].connected)
        warnings = [record.getMessage() for record in caplog.records if "differ" in record.getMessage()]
        assert len(warnings) == 2, "once each"
        assert any(f"our configurations differ in {key} ({own} here)" in warning for warning in warnings)

        await at.stop("b")
        await at.start("b", file(at, {}))
        await until(lambda: a.status()["differs"] == {} and a.links["b"].connected)


def test_every_key_of_the_settings_is_compared() -> None:
    """Or is named here, with the reason why not."""
    told = {
        key
        for kind in configuration(
            Membership((Member("c"), Member("d"))), Settings(algorithm="ring"), proof_of_death=None
        )
        for key in kind
    }
    listed = {"elections"}  # the runtime leaves them open
    assert told - {f"nodes.{id}.{key}" for id in "cd" for key in ("kind", "weight", "group", "priority")} == (
        {key for key in (*SAFETY, *REST) if not key.startswith("nodes.")} | listed
    )


def test_a_greeting_has_room_for_a_hundred_nodes() -> None:
    members = tuple(
        Member(f"{n:03}".ljust(100, "x"), Kind.WITNESS, 7, 9, f"group {n % 9}") for n in range(100)
    )
    strange = Settings(algorithm="ring", ring="chang-roberts", timing=Timing(lease=7.0, beat=1.0))
    safety, rest = map(digests, configuration(Membership(members, QuorumRule.HIERARCHICAL), strange))
    assert len(safety) + len(rest) > 400
    greeting = wire.Greeting(
        (1, 1), "x" * 100, members[0].id, members[1].id, wire.Said((1, 1)), (1, 1), safety, rest
    )
    assert list(wire.greetings().feed(wire.frame(greeting))) == [greeting]


def test_what_is_left_at_its_default_is_not_told() -> None:
    """So a node that knows one key more agrees with one that has never heard of it."""
    safety, rest = map(
        digests, configuration(Membership((Member("a"), Member("o", Kind.OBSERVER))), Settings())
    )
    assert (set(safety), set(rest)) == ({"nodes.a.kind"}, {"nodes.o.kind"})
    assert differences(safety, {}) == ("nodes.a.kind",)
    assert differences(safety, safety) == ()


# --- what the store knows ---------------------------------------------------------------------------


def five(at: Cluster, ids: str = "abcde") -> Config:
    return at.config(nodes={id: {"address": f"127.0.0.1:{at.ports[id]}"} for id in ids})


@in_loop
async def test_voters_change_while_all_are_stopped_and_each_waits_for_all(tmp_path: Path) -> None:
    async with cluster(tmp_path, ids="abcde", absent="abcde") as at:
        for id in "abc":
            await at.start(id, five(at, "abc"))
        first = await at.agreed()
        old = at.hosts["a"].view(E)
        assert old
        for id in "abc":
            await at.stop(id)
        with pytest.raises(
            UserError, match=r"a knows other voters.*only while all nodes are stopped.*--new-members"
        ):
            await at.start("a", five(at))

        for id in "abcd":
            await at.start(id, five(at), new_members=True)
        await until(lambda: all(host.awaited == ("e",) for host in at.hosts.values()))
        assert at.hosts["a"].waiting == "the voters are new: before it votes, it waits for e"
        await at.stop("a")
        await at.start("a", five(at))  # it goes on with that, without being told again
        await until(lambda: at.hosts["a"].awaited == ("e",))
        assert not any(host.is_leader(E) for host in at.hosts.values())

        await at.start("e", five(at), new_members=True)
        leader = await at.agreed()
        terms = {what["term"]: id for id, kind, what in at.events if kind == "lease" and what["until"]}
        assert terms[min(terms)] == first.id
        view = leader.view(E)
        assert view and view.term > old.term
        await until(lambda: all(host.conditions.rejoin is None for host in at.hosts.values()))
        await at.stop("b")
        await at.start("b", five(at))
        await at.agreed()


@pytest.mark.parametrize(
    ("before", "after", "possible"),
    [
        ("abc", "abcde", True),
        ("abcde", "abc", True),
        ("abc", "ade", False),
        ("abc", "abd", True),
        ("abcde", "ab", False),
    ],
)
def test_so_many_voters_must_stay_that_each_quorum_has_one(
    tmp_path: Path, before: str, after: str, possible: bool
) -> None:
    def host(ids: str, **options: Any) -> Host:
        nodes = {id: f"127.0.0.1:{7400 + n}" for n, id in enumerate(ids)}
        return Host(check({"cluster": "demo", "nodes": nodes}), "a", tmp_path, **options)

    host(before).close_store()
    if possible:
        made = host(after, new_members=True)
        assert made.node.rejoin and not made.node.rejoin.lost
        made.close_store()
    else:
        with pytest.raises(
            UserError, match=f"too many voters change at once: of {', '.join(before)}.*change fewer"
        ):
            host(after, new_members=True)
        host(before).close_store()


@pytest.mark.parametrize(
    "change", [{"kind": "witness"}, {"weight": 2}, {"group": "north"}, {"priority": 3}, {"kind": "observer"}]
)
def test_what_the_store_knows_of_the_voters(tmp_path: Path, change: dict[str, Any]) -> None:
    def host(**of_b: Any) -> Host:
        nodes = {id: {"address": f"127.0.0.1:{7400 + n}"} for n, id in enumerate("abc")}
        nodes["b"] |= of_b
        return Host(check({"cluster": "demo", "quorum": "hierarchical", "nodes": nodes}), "a", tmp_path)

    host().close_store()
    if change == {"priority": 3}:
        host(**change).close_store()
    else:
        with pytest.raises(UserError, match="knows other voters"):
            host(**change)


@in_loop
async def test_with_another_lease_a_node_is_quiet_for_the_longer_one_and_then_forgets_it(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, ids="a", timing={"beat": 0.2, "lease": 1.0}) as at:
        await at.agreed()
        await at.stop("a")
        short = at.config(timing={"beat": 0.05, "lease": 0.2})
        began = now()
        a = await at.start("a", short)
        assert a.node.longest_lease == a.conditions.longest_lease == 1.0
        await until(lambda: a.is_leader(E))
        assert now() >= began + 1.0, "its term was promised under the longer lease"
        await until(lambda: a.conditions.longest_lease == 0.2)
        await at.stop("a")
        a = await at.start("a", short)
        assert a.node.longest_lease == 0.2


def test_a_lease_is_forgotten_only_when_it_is_over(tmp_path: Path) -> None:
    for lease, longest in ((1.0, 1.0), (0.4, 1.0), (3.0, 3.0), (0.4, 3.0)):
        nodes = {"a": "127.0.0.1:7400"}
        Host(
            check({"cluster": "demo", "nodes": nodes, "timing": {"lease": lease}}), "a", tmp_path
        ).close_store()
        store = Store(tmp_path, "demo", "a")
        assert store.conditions.longest_lease == longest
        assert store.conditions.voters == Voters.of(Membership((Member("a"),)))
        store.close()
