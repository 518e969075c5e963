"""Elections that come and go: what is forgotten, what never is, and what one member can make another remember."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from electorate.core.identity import Rejoin, Start
from electorate.core.model import (
    MAX_LEAP,
    MAX_STRIDE,
    NO_SUPPORT,
    NOBODY,
    OTHERS,
    Accept,
    Disbelieved,
    Floor,
    Follow,
    Forgotten,
    Lead,
    Member,
    Membership,
    Promise,
    Reason,
    Recall,
    Recalled,
    Refuse,
    Resign,
    Role,
    Send,
    Settings,
)
from electorate.core.node import ABSURD, LEAPS_EVERY, MUCH, Node
from electorate.core.raft import RequestVote
from electorate.core.ring import Token
from electorate.core.zab import MAX_ROUND, PERSEVERANCE, Notification, State, Zab
from electorate.sim.invariants import is_durable
from electorate.sim.shapes import RINGS
from electorate.sim.world import Plan, World
from tests.table import E, Table

JOB = "job-1"
WHILE = 60.0
ALGORITHMS = ("bully", "ring", "raft", "zab")


def table(ids: str = "abc", **settings: Any) -> Table:
    table = Table(ids, elections=None, forget_after=WHILE, **settings)
    table.connect()
    return table


def elections(table: Table) -> dict[str, list[str]]:
    return {id: list(place.node.elections) for id, place in table.places.items()}


def pass_by(table: Table, looks: int = 2) -> None:
    """The nodes look so many times for what is idle."""
    for _ in range(looks):
        for place in table.places.values():
            if ("forget", "") in place.timers:
                place.fire("forget", "")
        table.settle()


def lead_and_end(table: Table, leader: str = "a", name: str = JOB) -> int:
    table.elect(leader, name)
    term = table[leader].node.elections[name].leader_term
    table.do(leader, Node.withdraw, name)
    table.settle()
    return term


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_nobody_wants_is_forgotten_and_its_terms_never_come_back(algorithm: str) -> None:
    on = table(algorithm=algorithm)
    terms = []
    for _ in range(3):
        terms.append(lead_and_end(on, "a"))
        pass_by(on)
        assert elections(on) == {"a": [], "b": [], "c": []}
        for place in on.places.values():
            assert place.disk == {OTHERS: Promise(OTHERS, terms[-1], NOBODY)}, "all that is left is the floor"
            assert ("forget", "") not in place.timers, "nothing is left to be looked at"
    assert terms == sorted(set(terms)), "terms grow"
    on.elect("b", "another")
    assert on["b"].node.elections["another"].leader_term > terms[-1], "the floor is that of all elections"


def test_only_what_was_idle_all_the_while_is_forgotten() -> None:
    on = table()
    lead_and_end(on)
    pass_by(on, 1)
    assert elections(on)["a"] == [JOB], "it may have ended just now"
    term = on["b"].node.elections[JOB].promise.term
    on.do("b", Node.receive, "a", RequestVote(JOB, term + 1, 0, False))
    pass_by(on, 1)
    assert elections(on)["b"] == [JOB], "somebody has spoken of it"
    assert elections(on)["a"] == []


def test_what_somebody_leads_wants_or_has_set_is_kept() -> None:
    on = table()
    on.elect("a", "led")
    on["c"].node.keeps |= {"named"}
    for name in ("set", "named", "wanted", "over"):
        lead_and_end(on, "a", name)
    on.do("b", Node.set_position, "set", 7)
    on.do("c", Node.contend, "wanted")
    on.wire.clear()
    pass_by(on, 3)
    assert elections(on) == {"a": ["led"], "b": ["led", "set"], "c": ["led", "named", "wanted"]}


def test_those_that_are_named_are_never_forgotten() -> None:
    on = Table(forget_after=WHILE)
    on.connect()
    lead_and_end(on, "a", E)
    pass_by(on)
    assert E in elections(on)["b"]
    assert all(("forget", "") not in place.timers for place in on.places.values())


def test_a_forgotten_vote_is_not_given_again() -> None:
    on = table()
    term = lead_and_end(on)
    pass_by(on)
    on.do("b", Node.receive, "c", RequestVote(JOB, term, 0, False))
    [(_, _, answer)] = on.wire
    assert answer == Refuse(JOB, term, term, Reason.BACKED_ANOTHER)


def test_who_leads_in_a_term_up_to_the_floor_is_known_and_missed_and_not_supported() -> None:
    """It has a quorum without me; I may have followed a later one."""
    on = table()
    on.do("c", Node.receive, "b", Floor(50))
    on.wire.clear()
    on.do("c", Node.receive, "a", Lead(JOB, 7, 0))
    [(_, to, said)] = on.wire
    assert isinstance(said, Follow)
    assert (to, said.term, said.epoch) == ("a", 7, NO_SUPPORT)
    assert on["c"].views[-1].leader == "a"
    assert ("silence", "a") in on["c"].timers, "it is missed when it falls silent"


def test_a_follower_that_has_forgotten_since_counts_no_longer() -> None:
    on = table()
    on.elect("a", JOB)
    leader = on["a"].node.elections[JOB]
    assert {voter for voter, _ in leader.followers} == {"b", "c"}
    on.do("a", Node.receive, "c", Follow(JOB, leader.leader_term, 1, NO_SUPPORT, False, 0))
    assert {voter for voter, _ in leader.followers} == {"b"}
    assert JOB not in on["a"].node.untold["c"], "it need not be told again"
    assert on.leaders(JOB) == ["a"]


@pytest.mark.parametrize("term", [6, 7])
def test_a_claim_up_to_the_floor_is_refused_and_told_the_floor(term: int) -> None:
    on = table()
    on.do("b", Node.receive, "c", Floor(7))
    on.wire.clear()
    on.do("b", Node.receive, "a", RequestVote(JOB, term, 0, False))
    [(_, _, answer)] = on.wire
    assert isinstance(answer, Refuse) and answer.newest == 7
    on.do("b", Node.receive, "a", RequestVote(JOB, 8, 0, False))
    on.deliver(Refuse)
    assert any(isinstance(message, Accept) and message.term == 8 for _, _, message in on.wire)


def test_the_floor_is_told_to_all_and_to_who_comes_back() -> None:
    on = Table("abc", elections=None, forget_after=WHILE)
    on.connect("ab")
    term = lead_and_end(on)
    pass_by(on)
    assert [on[id].node.floor for id in "abc"] == [term, term, 0]
    on.connect("ac")
    on.settle()
    assert on["c"].node.floor == term
    assert on["c"].disk[OTHERS].term == term


def test_a_restarted_node_knows_its_floor() -> None:
    on = table()
    term = lead_and_end(on)
    pass_by(on)
    node = Node("b", on.membership, on.settings, promises=on["b"].disk)
    node.start(0.0)
    assert (node.floor, list(node.elections)) == (term, [])
    said = [e.message for e in node.connected(0.0, "a", 1) if isinstance(e, Send)]
    assert said == [Floor(term)]


def test_who_rejoins_takes_the_floor_of_the_others() -> None:
    on = table()
    term = lead_and_end(on)
    pass_by(on)
    on.do("b", Node.receive, "c", Recall(5, "", ()))
    [answer] = on.deliver(Recalled)
    assert isinstance(answer, Recalled)
    assert (answer.terms, answer.floor) == ((), term)


def test_the_position_that_a_leader_does_not_know_yet_is_forgotten_as_well() -> None:
    on = table()
    on.elect("a", JOB)
    on.do("b", Node.set_position, JOB, 7)
    on.do("b", Node.set_position, JOB, 0)
    on.do("a", Node.withdraw, JOB)
    on.deliver(Resign)
    pass_by(on)
    assert on["b"].node.moved["a"] == {}


def test_a_leap_of_terms_is_not_taken_and_the_election_goes_on() -> None:
    on = table()
    on.elect("a", JOB)
    term = on["a"].node.elections[JOB].leader_term
    for newest in (2**48, 2**47, 2**40, term + MAX_LEAP + 1):
        on.do("a", Node.receive, "c", Refuse(JOB, term, newest, Reason.OLD_TERM))
        on.do("b", Node.receive, "c", RequestVote(JOB, newest, 0, False))
        on.do("b", Node.receive, "c", Floor(newest))
        on.do("b", Node.receive, "c", Lead("new", newest, 0))
    assert on.leaders(JOB) == ["a"]
    assert on["b"].node.floor == 0
    assert on["b"].node.elections[JOB].promise.term == term
    assert "new" not in on["b"].node.elections
    on.do("a", Node.resign, JOB)
    on.do("b", Node.contend, JOB)
    on.settle()
    on.elect("b", JOB)


def test_a_leap_of_zab_rounds_ends_no_election() -> None:
    on = table(algorithm="zab")
    on.do("a", Node.contend, JOB)
    for round in (MAX_ROUND + 1, MAX_ROUND):
        on.do("a", Node.receive, "c", Notification(JOB, 0, "c", 0, 0, round, State.LOOKING))
    election = on["a"].node.elections[JOB]
    assert isinstance(election, Zab) and election.round == MAX_ROUND
    assert on["a"].node.ignored["an absurd round"] == 1

    world = World(Plan(membership=on.membership, settings=Settings(algorithm="zab")), 1)
    world.start()
    for at in range(1, 6):
        world.run(float(at))
        leader = world.agreed_leader("main")
        assert leader is not None
        for host in world.hosts.values():
            host.node.elections["main"].round = MAX_ROUND  # type: ignore[attr-defined]
        world.hosts[leader].crash()
        world.hosts[leader].start()


def test_one_member_fills_half_of_the_room_and_no_more() -> None:
    node = Node("a", Membership((Member("a"), Member("b"), Member("c"))), Settings(max_elections=10))
    node.start(0.0)
    for n in range(100):
        node.receive(1.0, "b", Lead(f"of b {n}", 1, 0))
    assert len(node.elections) == 5
    assert node.ignored["an unknown election"] == 95
    node.receive(1.0, "c", Lead("of c", 1, 0))
    node.contend(1.0, "mine")
    assert {"of c", "mine"} <= node.elections.keys(), "there is room for others"
    node.receive(1.0, "b", Resign("of b 0", 1, None, False))
    for _ in range(2):
        node.fire(1.0, ("forget", ""))
    node.receive(1.0, "b", Lead("of b 100", 2, 0))
    assert "of b 100" in node.elections, "what is forgotten makes room"


def test_a_message_that_changes_nothing_is_not_remembered() -> None:
    on = table()
    for n in range(100):
        on.do("b", Node.receive, "c", Refuse(f"{n}", 0, 0, Reason.OLD_TERM))
        on.do("b", Node.receive, "c", Resign(f"{n}", 1, None, False))
        on.do("b", Node.receive, "c", Accept(f"{n}", 1, 1))
    assert on["b"].node.elections == {}
    assert on["b"].node.brought["c"] == 0


def test_many_are_forgotten_a_part_at_a_time() -> None:
    node = Node("a", Membership((Member("a"),)), Settings(forget_after=WHILE))
    node.start(0.0)
    for n in range(2 * MUCH + 1):
        node.contend(1.0, f"{n}")
        node.withdraw(1.0, f"{n}")
    seen = [
        sum(isinstance(effect, Forgotten) for effect in node.fire(at, ("forget", "")))
        for at in (60.0, 60.1, 60.2, 120.2, 120.3, 120.4)
    ]
    assert seen == [0, 0, 0, MUCH, MUCH, 1]
    assert node.elections == {} and not node.looking


def test_the_floor_is_told_as_soon_as_it_rises() -> None:
    on = table()
    term = lead_and_end(on)
    for _ in range(2):
        on["a"].fire("forget", "")
    on.settle()
    assert [on[id].node.floor for id in "abc"] == [term, term, term]


def test_what_is_wanted_without_a_quorum_is_kept() -> None:
    on = Table("abc", elections=None, forget_after=WHILE)
    on.do("a", Node.contend, JOB)
    pass_by(on)
    assert elections(on)["a"] == [JOB]


def test_a_node_of_a_ring_waits_for_the_ack_of_what_it_has_passed_on() -> None:
    on = table(algorithm="ring")
    on.do("b", Node.receive, "a", Token(JOB, 0, "a", 1, ("a",), (("a", 0),)))
    on.wire.clear()
    pass_by(on)
    assert elections(on)["b"] == [JOB]
    on["b"].fire("hop", JOB)
    assert [(to, type(message)) for _, to, message in on.wire] == [("a", Token)], (
        "it skips the one that is silent"
    )


def test_who_rejoins_is_bound_by_the_floor_of_others_and_by_what_finds_no_room() -> None:
    membership = Membership(tuple(Member(id) for id in "abc"))
    node = Node("a", membership, Settings(max_elections=1), start=Start(1, 5), rejoin=Rejoin())
    node.start(0.0)
    node.connected(0.0, "b", 1)
    node.receive(0.0, "b", Recalled(5, "", (("one", 3),), False, 0.5, 4))
    assert node.floor == 4
    node.connected(0.0, "c", 1)
    node.receive(0.0, "c", Recalled(5, "", (("one", 3), ("two", 9)), False, 0.5, 2))
    assert node.rejoin is None
    assert node.floor == 9, "no vote is given in a term of 'two' that is over"


@pytest.mark.parametrize("floor_first", [False, True])
@pytest.mark.parametrize(("remembered", "lost"), [(0, True), (5, True), (3, False), (5, False), (8, False)])
def test_who_rejoins_is_bound_by_the_floor_in_what_it_wants_already(
    remembered: int, lost: bool, floor_first: bool
) -> None:
    """The others have forgotten main, and with it a vote in term 5 that this store does not know any more."""
    promises = {E: Promise(E, remembered, "a")} if remembered else {}
    membership = Membership(tuple(Member(id) for id in "abc"))
    node = Node("a", membership, Settings(), start=Start(2, 5), promises=promises, rejoin=Rejoin(lost=lost))
    node.start(0.0)
    node.contend(0.0, E)
    for id in "bc":
        node.connected(0.0, id, 1)
        if floor_first:
            node.receive(0.0, id, Floor(5))
        node.receive(0.0, id, Recalled(5, "", (), False, 0.5, 5))
    assert node.rejoin is None
    if remembered < 5 or (lost and remembered == 5):
        assert node.elections[E].promise == Promise(E, 5, NOBODY)
    else:
        assert node.elections[E].promise == promises[E]


def test_a_vote_that_was_forgotten_is_as_durable_as_one_that_is_known() -> None:
    """Nobody else is voted for in its term, whether it is covered by the floor or was spoken of again since."""
    floor = Promise(OTHERS, 19, NOBODY)
    assert is_durable({OTHERS: floor}, E, 19, "b")
    assert is_durable({OTHERS: floor, E: Promise(E, 19, NOBODY)}, E, 19, "b")
    assert is_durable({OTHERS: floor, E: Promise(E, 19, "b")}, E, 19, "b")
    assert not is_durable({OTHERS: floor, E: Promise(E, 19, "c")}, E, 19, "b")
    assert not is_durable({OTHERS: floor, E: Promise(E, 19, None)}, E, 19, "b")
    assert not is_durable({OTHERS: floor}, E, 20, "b")


def test_a_leap_is_measured_from_what_is_in_the_store() -> None:
    term = 3 * MAX_LEAP
    promises = {JOB: Promise(JOB, term, "b"), OTHERS: Promise(OTHERS, term - 1, NOBODY)}
    node = Node("a", Membership((Member("a"), Member("b"))), Settings(), promises=promises)
    node.start(0.0)
    node.connected(1.0, "b", 1)
    for name in (JOB, "another"):
        node.receive(1.0, "b", Lead(name, term + 1, 0))
        assert node.elections[name].leader == "b"


@pytest.mark.parametrize("algorithm", ["bully", "raft", "zab", *RINGS])
@pytest.mark.parametrize("seed", range(6))
def test_an_election_that_nobody_wants_is_silent(algorithm: str, seed: int) -> None:
    """Even if all lose their wish while one is under way."""
    membership = Membership(tuple(Member(id) for id in "abcde"))
    ring = {"algorithm": "ring", "ring": algorithm} if algorithm in RINGS else {"algorithm": algorithm}
    world = World(Plan(membership=membership, settings=Settings(**ring)), seed)  # type: ignore[arg-type]
    world.start()
    world.run(1.0)
    for host in world.hosts.values():
        if host.node.leading:
            host.crash()
    random = Random(seed)
    for host in world.hosts.values():
        world.after(random.uniform(0.0, 0.03), lambda host, _: host.wish("withdraw", "main"), host)
    world.run(20.0)
    sent = sum(world.sent.values())
    world.run(100.0)
    assert sum(world.sent.values()) == sent, world.sent
    for host in world.hosts.values():
        assert not host.up or host.node.elections["main"].is_idle
    world.hosts["b"].wish("contend", "main")
    world.run(101.0)
    assert world.agreed_leader("main") == "b"


def looking(leader: str) -> Notification:
    vote = (leader, 0, 0) if leader else ("", -1, -1)
    return Notification(JOB, 0, *vote, 1, State.LOOKING)


def test_zab_who_does_not_want_to_lead_looks_only_as_long_as_somebody_may() -> None:
    on = table(algorithm="zab")
    on.do("b", Node.receive, "c", looking(""))
    assert (on.wire, elections(on)["b"]) == ([], []), "a vote for nobody takes nobody along"
    on.do("c", Node.receive, "b", looking("c"))
    assert on.wire == [], "nor does one for me, if I do not want to lead any more"
    on.do("b", Node.receive, "c", looking("c"))
    for _ in range(PERSEVERANCE + 2):
        assert on["b"].node.elections[JOB].role is Role.CANDIDATE
        on["b"].fire("answers", JOB)
    assert on["b"].node.elections[JOB].is_idle
    assert ("answers", JOB) not in on["b"].timers


def test_zab_who_wants_to_lead_now_says_so_at_once() -> None:
    on = table(algorithm="zab")
    on.do("b", Node.receive, "a", looking("a"))
    on["b"].fire("answers", JOB)
    on.wire.clear()
    on.do("b", Node.contend, JOB)
    said = [(to, message.leader) for _, to, message in on.wire if isinstance(message, Notification)]
    assert said == [("a", "b"), ("c", "b")]


def test_who_is_far_behind_believes_that_of_each_peer_once_a_minute() -> None:
    on = table()
    far = MAX_STRIDE + 1
    for n, (peer, believed) in enumerate((("a", True), ("a", False), ("c", True)), 1):
        on.do("b", Node.receive, peer, Lead(f"{n}", far, 0))
        assert (f"{n}" in elections(on)["b"]) is believed
    assert on["b"].notices == [Disbelieved("a", ABSURD)]
    on.do("b", Node.receive, "a", Lead("1", far + MAX_STRIDE, 0))
    assert on["b"].node.elections["1"].leader_term == far + MAX_STRIDE, "a stride is no leap"
    on.now += LEAPS_EVERY
    on.do("b", Node.receive, "a", Lead("2", MAX_LEAP, 0))
    assert on["b"].node.elections["2"].leader == "a"
