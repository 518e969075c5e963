"""Every answer that is counted: of whom, for which term or question, of which life, and once."""

from __future__ import annotations

from typing import Any

import pytest

from electorate.core.bully import Election
from electorate.core.model import (
    Accept,
    Beat,
    Follow,
    Grant,
    Kind,
    Lead,
    Member,
    Message,
    PreVote,
    Promise,
    Reason,
    Refuse,
    Resign,
    Role,
    Support,
)
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.core.ring import Ack, Coordinator, Echo, HirschbergSinclair, Probe, Ring, Token
from electorate.core.zab import FollowerInfo, LeaderInfo, Notification, State, Zab
from tests.table import E, Table

LEASE = 0.5

FIVE_AND_AN_OBSERVER = (*(Member(id) for id in "abcde"), Member("o", kind=Kind.OBSERVER))


def said(table: Table, kind: type[Message], by: str = "b") -> list[Message]:
    return [message for source, _, message in table.wire if source == by and isinstance(message, kind)]


def asking() -> Table:
    """b asks whether it would be backed for term 1."""
    table = Table(members=FIVE_AND_AN_OBSERVER)
    table.connect()
    table.contend("b")
    table["b"].fire("campaign")
    assert table["b"].node.elections[E].asked == 1
    return table


def claiming() -> Table:
    """b claims term 1, and has its own vote."""
    table = Table(members=FIVE_AND_AN_OBSERVER, pre_vote=False)
    table.connect()
    table.contend("b")
    table["b"].fire("campaign")
    table.deliver(Accept, to="b")
    assert table["b"].node.elections[E].claimed == 1
    return table


# --- Grant, Accept, Refuse --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grants", "claims"),
    [
        ([("a", 1), ("c", 1)], True),
        ([("a", 1), ("a", 1), ("a", 1)], False),
        ([("a", 1), ("o", 1)], False),
        ([("a", 1), ("c", 2)], False),
        ([("a", 1), ("c", 0)], False),
    ],
)
def test_a_claim_is_made_when_a_quorum_would_back_it(grants: list[tuple[str, int]], claims: bool) -> None:
    table = asking()
    for voter, term in grants:
        table.do("b", Node.receive, voter, Grant(E, term))
    assert bool(said(table, RequestVote)) is claims


def test_a_grant_that_comes_too_late_asks_nothing() -> None:
    """The round is lost, or the claim made: nothing is claimed by a Grant."""
    table = asking()
    table["b"].fire("answers")
    for voter in "acd":
        table.do("b", Node.receive, voter, Grant(E, 1))
    assert not said(table, RequestVote)


def test_the_grants_of_a_lost_round_do_not_count_in_the_next() -> None:
    table = asking()
    table.do("b", Node.receive, "a", Grant(E, 1))
    table["b"].fire("answers")
    table["b"].fire("campaign")
    assert table["b"].node.elections[E].asked == 1, "the same term again: it was never claimed"
    table.do("b", Node.receive, "c", Grant(E, 1))
    assert not said(table, RequestVote)


@pytest.mark.parametrize(
    ("accepts", "wins"),
    [
        ([("a", 1, 1), ("c", 1, 1)], True),
        ([("a", 1, 1), ("a", 1, 1), ("a", 1, 1)], False),
        ([("a", 1, 1), ("o", 1, 1)], False),
        ([("a", 1, 1), ("c", 0, 1)], False),
        ([("a", 1, 1), ("c", 2, 1)], False),
        ([("a", 1, 1), ("c", 1, 0)], False),
        ([("a", 1, 1), ("c", 1, 2)], False),
    ],
)
def test_a_quorum_of_votes_for_this_very_claim_makes_a_leader(
    accepts: list[tuple[str, int, int]], wins: bool
) -> None:
    table = claiming()
    for voter, term, life in accepts:
        table.do("b", Node.receive, voter, Accept(E, term, life))
    assert (table["b"].node.elections[E].role is Role.LEADER) is wins


@pytest.mark.parametrize(
    ("refusals", "lost"),
    [
        ([("a", 1), ("c", 1), ("d", 1)], True),
        ([("a", 1), ("a", 1), ("a", 1)], False),
        ([("a", 1), ("c", 1), ("o", 1)], False),
        ([("a", 1), ("c", 1), ("d", 0)], False),
    ],
)
def test_a_round_is_lost_when_too_few_are_left(refusals: list[tuple[str, int]], lost: bool) -> None:
    for table, reason in ((claiming(), Reason.BACKED_ANOTHER), (asking(), Reason.STALER)):
        newest = table["b"].node.elections[E].promise.term
        for voter, term in refusals:
            table.do("b", Node.receive, voter, Refuse(E, term, newest, reason))
        assert (table["b"].node.elections[E].role is Role.FOLLOWER) is lost


# --- Follow, Support --------------------------------------------------------------------------------


def leading(ids: str = "abc") -> Table:
    table = Table(ids)
    table.connect()
    table.elect("c")
    table.wire.clear()
    return table


def test_a_lease_that_shrinks_is_looked_at_again() -> None:
    """b has answered the newest beat, a an older one. b's support then turns out to be another stretch: c leads on by
    a's, which ends sooner. Nothing that comes after its end brings that leadership back."""
    table = leading()
    lease = table["c"].node.lease(E)
    table.now += 0.3
    table["c"].fire("beat", "")
    table.deliver(Beat, to="b")
    table.deliver(Support)
    assert table["c"].node.lease(E) > lease
    table["c"].node.check_leases()
    table.do("c", Node.receive, "b", Support(table["c"].node.beats.seq, 1, 1))
    assert table["c"].node.lease(E) == lease
    assert table["c"].node.tenures[E].until == lease, "which is what other threads read"
    table.now = lease + 0.01
    table.do("c", Node.receive, "b", Follow(E, 1, 1, 1, False, 0))
    assert table.leaders() == []
    assert table["c"].node.elections[E].role is not Role.LEADER


def test_only_the_supports_of_followers_count() -> None:
    """a does not follow: its supports alone lengthen nothing."""
    table = leading()
    node = table["c"].node
    node.elections[E].followers = frozenset(f for f in node.elections[E].followers if f[0] == "b")
    node.rests_on_followers(node.elections[E])
    lease = node.lease(E)
    table.now += 0.1
    table["c"].fire("beat", "")
    table.deliver(Beat, to="a")
    table.deliver(Support)
    assert node.lease(E) == lease


def test_an_observer_that_follows_lengthens_no_lease() -> None:
    table = Table(members=(*(Member(id) for id in "abc"), Member("o", kind=Kind.OBSERVER)))
    table.connect()
    table.elect("c")
    lease = table["c"].node.lease(E)
    table.now += 0.1
    table["c"].fire("beat", "")
    table.deliver(Beat, to="o")
    table.deliver(Support)
    assert table["c"].node.lease(E) == lease


def test_what_a_voter_has_promised_holds_when_its_next_life_follows_before_it_supports() -> None:
    table = leading()
    table.now += 0.2
    table["c"].fire("beat", "")
    table.settle()
    lease = table["c"].node.lease(E)
    for voter in "ab":
        table.do("c", Node.receive, voter, Follow(E, 1, 2, 0, False, 0))
    assert table["c"].node.lease(E) == lease
    assert table.leaders() == ["c"]


# --- ZAB --------------------------------------------------------------------------------------------


def zab(table: Table, id: str = "a") -> Zab:
    election = table[id].node.elections[E]
    assert isinstance(election, Zab)
    return election


def looking(members: tuple[Member, ...] = FIVE_AND_AN_OBSERVER) -> Table:
    """a looks, in round 1, and votes for itself."""
    table = Table(members=members, algorithm="zab", stagger="none")
    table.connect()
    table.contend("a")
    if ("campaign", E) in table["a"].timers:
        table["a"].fire("campaign")
    assert zab(table).looking and zab(table).round == 1
    table.wire.clear()
    return table


def test_votes_of_my_round_do_not_settle_another() -> None:
    """b votes for c in a's round; c says that it leads, by another: c and those of that round are no quorum."""
    table = looking()
    table.do("a", Node.receive, "b", Notification(E, 0, "c", 0, 0, 1, State.LOOKING))
    assert zab(table).proposal.leader == "c"
    table.do("a", Node.receive, "c", Notification(E, 0, "c", 0, 0, 7, State.LEADING))
    assert zab(table).decided is None
    table.do("a", Node.receive, "d", Notification(E, 0, "c", 0, 0, 7, State.FOLLOWING))
    assert zab(table).decided is None, "c and d are two of five"
    table.do("a", Node.receive, "e", Notification(E, 0, "c", 0, 0, 7, State.FOLLOWING))
    assert zab(table).decided == "c"


def test_votes_of_my_round_count_with_those_that_have_settled_it() -> None:
    table = looking()
    table.do("a", Node.receive, "b", Notification(E, 0, "c", 0, 0, 1, State.LOOKING))
    table.do("a", Node.receive, "c", Notification(E, 0, "c", 0, 0, 1, State.LEADING))
    assert zab(table).decided == "c"


def test_those_who_follow_the_same_leader_of_other_epochs_are_no_quorum() -> None:
    table = looking()
    for sender, epoch, state in (
        ("c", 1, State.LEADING),
        ("d", 2, State.FOLLOWING),
        ("e", 3, State.FOLLOWING),
    ):
        table.do("a", Node.receive, sender, Notification(E, 3, "c", 0, epoch, 7, state))
    assert zab(table).decided is None


def test_one_that_votes_twice_is_one() -> None:
    table = looking()
    for _ in range(3):
        table.do("a", Node.receive, "b", Notification(E, 0, "a", 0, 0, 1, State.LOOKING))
    assert zab(table).agreeing == {"a", "b"}
    assert ("finalize", E) not in table["a"].timers


@pytest.mark.parametrize(("informants", "claims"), [("bc", True), ("bb", False), ("bo", False)])
def test_the_elected_claims_when_a_quorum_has_informed_it(informants: str, claims: bool) -> None:
    table = looking()
    zab(table).decide("a")
    for voter in informants:
        table.do("a", Node.receive, voter, FollowerInfo(E, 4))
    assert bool(said(table, LeaderInfo, "a")) is claims
    assert zab(table).claimed == (5 if claims else 0)


def test_who_is_not_elected_counts_nobody_who_would_follow_it() -> None:
    table = looking()
    for voter in "bc":
        table.do("a", Node.receive, voter, FollowerInfo(E, 4))
    assert not said(table, LeaderInfo, "a")


def test_who_informed_me_of_an_earlier_candidacy_does_not_count() -> None:
    table = looking()
    zab(table).decide("a")
    table.do("a", Node.receive, "b", FollowerInfo(E, 4))
    table["a"].fire("answers")
    assert zab(table).learners == frozenset()


# --- the rings --------------------------------------------------------------------------------------


def ring(table: Table, id: str = "a") -> Ring:
    election = table[id].node.elections[E]
    assert isinstance(election, Ring)
    return election


def on_a_ring(ids: str = "abc", **settings: Any) -> Table:
    """a has begun a round; its first word is under way."""
    table = Table(ids, algorithm="ring", stagger="none", **settings)
    table.connect()
    table.contend("a")
    if ("campaign", E) in table["a"].timers:
        table["a"].fire("campaign")
    return table


@pytest.mark.parametrize(
    ("sender", "initiator", "ahead", "quit_of_it"),
    [("b", "a", 0, True), ("c", "a", 0, False), ("b", "b", 0, False), ("b", "a", 1, False)],
)
def test_an_ack_is_of_this_message_by_this_successor(
    sender: str, initiator: str, ahead: int, quit_of_it: bool
) -> None:
    table = on_a_ring()
    [(to, token)] = ring(table).underway
    assert to == "b"
    table.do("a", Node.receive, sender, Ack(E, token.term, initiator, token.serial + ahead))
    assert (ring(table).underway == ()) is quit_of_it
    assert (("hop", E) not in table["a"].timers) is quit_of_it


def test_backers_of_another_life_or_claim_do_not_count_and_nobody_counts_twice() -> None:
    for backers, wins in (
        ((("a", 1), ("b", 1)), True),
        ((("a", 1), ("b", 2)), False),
        ((("a", 1), ("a", 1), ("a", 1)), False),
        ((("b", 1), ("c", 1)), False),
    ):
        table = on_a_ring()
        table.do("a", Node.receive, "c", Token(E, 0, "a", ring(table).serial, ("a", "b", "c"), (("a", 0),)))
        assert ring(table).claimed == 1
        claim = Coordinator(E, 1, 0, "a", ring(table).serial, ("a", "b", "c"), "a", backers)
        table.do("a", Node.receive, "c", claim)
        assert (ring(table).role is Role.LEADER) is wins, backers


def test_a_token_that_visited_too_few_claims_nothing() -> None:
    """a was cut off: its term stays as it is."""
    table = on_a_ring()
    table.do("a", Node.receive, "c", Token(E, 0, "a", ring(table).serial, ("a",), (("a", 0),)))
    assert ring(table).promise == Promise(E)
    assert not said(table, Coordinator, "a")


def hirschberg(table: Table) -> HirschbergSinclair:
    election = table["a"].node.elections[E]
    assert isinstance(election, HirschbergSinclair)
    return election


@pytest.mark.parametrize(
    ("echoes", "further"),
    [
        ([(0, True), (0, False)], True),
        ([(0, True), (0, True)], False),
        ([(0, True), (-1, False)], False),
        ([(0, True), (1, False)], False),
    ],
)
def test_an_echo_from_each_side_of_this_very_probe_sends_the_next_one_further(
    echoes: list[tuple[int, bool]], further: bool
) -> None:
    table = on_a_ring(ring="hirschberg-sinclair")
    reach, serial = hirschberg(table).reach, hirschberg(table).serial
    for ahead, clockwise in echoes:
        table.do("a", Node.receive, "b", Echo(E, 0, "a", serial + ahead, (), clockwise))
    assert hirschberg(table).reach == (2 * reach if further else reach)


@pytest.mark.parametrize(
    ("ahead", "visited", "claims"),
    [(0, ("a", "b", "c"), True), (-1, ("a", "b", "c"), False), (0, ("a",), False)],
)
def test_a_probe_of_this_round_that_comes_home_claims_if_it_has_visited_enough(
    ahead: int, visited: tuple[str, ...], claims: bool
) -> None:
    table = on_a_ring(ring="hirschberg-sinclair")
    probe = Probe(E, 0, "a", hirschberg(table).serial + ahead, 0, 1, True, visited)
    table.do("a", Node.receive, "c", probe)
    assert (hirschberg(table).promise.term == 1) is claims


# --- what is no answer ------------------------------------------------------------------------------


def test_a_pre_vote_raises_no_term_and_binds_nobody() -> None:
    table = Table("abc")
    table.connect()
    table.do("a", Node.receive, "b", PreVote(E, 5, 0, False))
    table.do("a", Node.receive, "c", PreVote(E, 5, 0, False))
    assert len(said(table, Grant, "a")) == 2
    assert table["a"].disk == {}


def test_who_was_cut_off_does_not_raise_its_term() -> None:
    """And so deposes nobody when it comes back."""
    for algorithm in ("raft", "bully"):
        table = Table("abc", algorithm=algorithm)
        table.connect()
        table.contend("a")
        for _ in range(5):
            for purpose in ("campaign", "answers"):
                if (purpose, E) in table["a"].timers:
                    table["a"].fire(purpose)
            table.wire.clear()
        assert table["a"].node.elections[E].promise == Promise(E), algorithm


def test_a_leader_of_an_older_term_is_told_and_not_followed() -> None:
    table = Table("abc")
    table.connect()
    table.do("a", Node.receive, "b", Lead(E, 5, 0))
    table.wire.clear()
    table.do("a", Node.receive, "c", Lead(E, 4, 0))
    assert [m for _, _, m in table.wire] == [Refuse(E, 4, 5, Reason.OLD_TERM)]
    assert table["a"].node.elections[E].leader == "b"


ON_A_RING = ("tanenbaum", "chang-roberts", "hirschberg-sinclair")


@pytest.mark.parametrize("slept", [0.0, 0.99, 1.0, 60.0])
@pytest.mark.parametrize("kind", ON_A_RING)
def test_what_comes_home_after_a_sleep_tells_who_was_there_and_not_who_is(kind: str, slept: float) -> None:
    table = on_a_ring(ring=kind)
    if kind == "hirschberg-sinclair":
        home: Message = Probe(E, 0, "a", ring(table).serial, 0, 1, True, ("a", "b", "c"))
    else:
        home = Token(E, 0, "a", ring(table).serial, ("a", "b", "c"), (("a", 0),))
    table.now += slept
    table.do("a", Node.receive, "c", home)
    table.deliver(Coordinator, to="a")
    assert bool(ring(table).claimed) is (slept < 2 * LEASE)


@pytest.mark.parametrize("slept", [0.0, 0.99, 1.0, 60.0])
def test_an_echo_from_before_a_sleep_is_none(slept: float) -> None:
    table = on_a_ring(ring="hirschberg-sinclair")
    serial = ring(table).serial
    for clockwise in (True, False):
        table.now += slept * clockwise
        table.do("a", Node.receive, "b", Echo(E, 0, "a", serial, (), clockwise))
    assert (ring(table).serial > serial) is (slept < 2 * LEASE)


def test_each_probe_has_its_own_time() -> None:
    table = on_a_ring(ring="hirschberg-sinclair")
    for _ in range(3):
        serial = ring(table).serial
        table.now += LEASE
        for clockwise in (True, False):
            table.do("a", Node.receive, "b", Echo(E, 0, "a", serial, (), clockwise))
        assert ring(table).serial > serial


def test_a_turn_past_many_silent_ones_is_not_late() -> None:
    """Twenty may have to be skipped, one patience each: that is longer than two leases."""
    ids = "abcdefghijklmnopqrstu"
    table = on_a_ring(ids)
    table.now += 20 * 0.1
    home = Token(E, 0, "a", ring(table).serial, tuple(ids), (("a", 0),))
    table.do("a", Node.receive, "u", home)
    table.deliver(Coordinator, to="a")
    assert ring(table).claimed == 1


@pytest.mark.parametrize("algorithm", ["raft", "bully"])
@pytest.mark.parametrize("slept", [0.0, 0.99, 1.0, 60.0])
def test_a_grant_from_before_a_sleep_is_none(algorithm: str, slept: float) -> None:
    table = Table("abc", algorithm=algorithm)
    table.connect()
    table.contend("c")
    for purpose in ("campaign", "answers"):
        if not table["c"].node.elections[E].asked:
            table["c"].fire(purpose)
    assert table["c"].node.elections[E].asked == 1
    table.now += slept
    table.do("c", Node.receive, "a", Grant(E, 1))
    assert bool(table["c"].node.elections[E].claimed) is (slept < 2 * LEASE)


def test_a_question_to_a_leader_is_taken_up_by_nobody_else() -> None:
    table = on_a_ring()
    table.wire.clear()
    table.do("b", Node.receive, "c", Coordinator(E, 7, 0, "c", 1, (), "c", ()))
    assert table["b"].node.elections[E].promise.term == 0
    assert table["b"].node.ignored["I do not lead"] == 1
    table.do("b", Node.receive, "c", Coordinator(E, 7, 0, "c", 2, ("c",), "c", (("c", 1),)))
    assert table["b"].node.elections[E].promise.backed == "c"


def test_bully_who_has_a_leader_asks_it_when_others_miss_it() -> None:
    """It may have resigned, and its word be lost, while it leads other elections: nobody else would ever tell."""
    table = Table("abcd", algorithm="bully")
    table.connect()
    table.contend("c")
    table.elect("d")
    table.do("d", Node.withdraw, E)
    table.wire[:] = [word for word in table.wire if word[1] != "c"]
    assert table["c"].node.elections[E].leader == "d"
    table.do("c", Node.receive, "b", Election(E, 1, 0))
    table.deliver(Follow, to="d")
    table.deliver(Resign, to="c")
    assert table["c"].node.elections[E].leader is None
