"""The core by itself: what a peer may say, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electorate.check.machine import duplicate
from electorate.core.bully import Election
from electorate.core.model import (
    MAX_TERM,
    Accept,
    Beat,
    Grant,
    Kind,
    Lead,
    Member,
    Membership,
    Message,
    PreVote,
    QuorumRule,
    Reason,
    Recalled,
    Refuse,
    Resign,
    Role,
    Settings,
    Support,
)
from electorate.core.node import ABSURD, Node
from electorate.core.raft import RequestVote
from electorate.core.zab import LeaderInfo
from tests.table import E, Table

ALGORITHMS = ("bully", "ring", "raft", "zab")


@pytest.mark.parametrize(
    ("sender", "message", "reason"),
    [
        ("x", Accept(E, 1, 1), "a message from one who is no member"),
        ("x", Beat(1), "a beat of one who is no member"),
        ("a", Support(99, 1, 0), "a support of no beat of mine"),
        ("a", Accept("nope", 1, 1), "an unknown election"),
        ("a", Accept(E, MAX_TERM + 1, 1), ABSURD),
        ("a", Lead(E, -1, 0), ABSURD),
        ("a", Refuse(E, 0, 2**63, Reason.OLD_TERM), ABSURD),
        ("a", Election(E, 1, 0), "not a message of this algorithm"),
        ("a", Accept(E, 7, 1), "an Accept of what I have never claimed"),
        ("o", Lead(E, 1, 0), "a Lead from one who may not lead"),
        ("o", RequestVote(E, 1, 0, False), "claim: the claimant may not lead"),
        ("a", Resign(E, 1, None, False), "a Resign from one who does not lead"),
        ("a", Recalled(0, "", (), False, 0.0), "a Recalled that I do not wait for"),
    ],
)
def test_what_makes_no_sense_is_counted_and_changes_nothing(
    sender: str, message: Message, reason: str
) -> None:
    members = (Member("a"), Member("b"), Member("o", Kind.OBSERVER))
    table = Table(members=members)
    table.connect()
    before = table["b"].node.elections[E].promise
    table.do("b", Node.receive, sender, message)
    assert table["b"].node.ignored == {reason: 1}
    assert table["b"].node.elections[E].promise == before
    assert table["b"].disk == {}


def test_a_node_accepts_any_election_that_members_speak_of_unless_it_is_told_which() -> None:
    members = Membership((Member("a"), Member("b")))
    node = Node("a", members, Settings(max_elections=4))
    node.start(0.0)
    for name in ("", "n" * 201, "one", "two", "three"):
        node.receive(1.0, "b", Lead(name, 1, 0))
    assert list(node.elections) == ["one", "two"]
    assert node.ignored["an unknown election"] == 3
    for name in ("two\nlines", "one", "three", "four", "five", "six", "seven"):
        node.contend(1.0, name)
    assert list(node.elections) == ["one", "two", "three", "four", "five", "six"]
    assert node.ignored["an unknown election"] == 5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observers_learn_and_witnesses_vote_but_neither_leads(algorithm: str) -> None:
    members = (Member("a"), Member("v"), Member("w", Kind.WITNESS), Member("o", Kind.OBSERVER))
    table = Table(members=members, algorithm=algorithm)
    table.connect()
    for id in ("w", "o"):
        table.contend(id)
        assert table[id].node.ignored["a member that may not lead cannot contend"] == 1
    table.elect("a")
    assert table["o"].views[-1].role is Role.OBSERVER
    assert {id: place.views[-1].leader for id, place in table.places.items()} == dict.fromkeys("avwo", "a")
    assert table["w"].disk[E].backed == "a", "a witness backs"
    assert "o" not in {voter for voter, _ in table["a"].node.elections[E].followers}
    assert E not in table["o"].disk or table["o"].disk[E].backed in (None, "a")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_mere_voter_backs_but_does_not_lead(algorithm: str) -> None:
    table = Table(algorithm=algorithm)
    table.connect()
    table.elect("a")
    assert table["c"].views[-1].leader == "a", "the best rank does not contend"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_transfer_and_resign_hand_over_at_once(algorithm: str) -> None:
    table = Table(algorithm=algorithm)
    table.connect()
    table.contend("a", "b", "c")
    table.settle()
    assert table.leaders() == ["c"]
    table.transfer("c", "a")
    assert table.leaders() == [], "first it ends its own leadership"
    table.settle()
    assert table.leaders() == ["a"]
    table.do("a", Node.resign, E)
    table.settle()
    assert table.leaders() == ["c"], "the best of those that contend"
    terms = [place.node.elections[E].leader_term for place in table.places.values()]
    assert terms == [3, 3, 3]


def test_a_transfer_to_one_who_does_not_contend_is_refused() -> None:
    table = Table()
    table.connect()
    table.elect("c")
    table.transfer("c", "b")
    assert table["c"].node.ignored == {"the heir may not lead, or does not contend": 1}
    assert table.leaders() == ["c"], "b follows, and has said that it does not contend"
    table.contend("b")
    table.settle()
    table.transfer("c", "b")
    table.settle()
    assert table.leaders() == ["b"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("preempt", [None, True, False])
def test_a_better_rank_takes_over_where_preemption_is_on(algorithm: str, preempt: bool | None) -> None:
    """By default in Bully only."""
    table = Table(algorithm=algorithm, preempt=preempt)
    table.connect()
    table.elect("a")
    table.contend("c")
    table.settle()
    takes_over = preempt if preempt is not None else algorithm == "bully"
    assert table.leaders() == ["c" if takes_over else "a"]


def test_a_tie_ends_at_once_if_nobody_else_is_within_reach() -> None:
    """c is gone: two that have each voted for themselves need not wait for its answer."""
    table = Table()
    table.connect("ab")
    table.contend("a", "b")
    for id in "ab":
        table[id].fire("campaign")
    for kind in (PreVote, Grant, RequestVote):
        table.deliver(kind)
    assert [("answers", E) in table[id].timers for id in "ab"] == [True, True]
    assert len(table.deliver(Refuse)) == 2
    assert [("answers", E) in table[id].timers for id in "ab"] == [False, False]
    assert [("campaign", E) in table[id].timers for id in "ab"] == [True, True]


def test_an_event_of_many_elections_leaves_most_of_them_to_timers() -> None:
    """Whoever asked for all of them at once would not read the answers in time."""
    table = Table("ab")
    b = table["b"]
    b.node.settings = msgspec.structs.replace(table.settings, elections=None)
    for number in range(1000):
        table.do("b", Node.contend, f"e{number}")
    table.connect()
    asked = sum(isinstance(message, PreVote) for _, _, message in table.wire)
    waiting = sum(purpose == "campaign" for purpose, _ in b.timers)
    assert 0 < asked < 500 and asked + waiting == 1000


def test_raft_refuses_a_staler_claimant_which_adopts_the_newer_term() -> None:
    table = Table(pre_vote=False)
    table.connect()
    for id, position in (("a", 5), ("b", 5), ("c", 1)):
        table.do(id, Node.set_position, E, position)
    table.do("a", Node.contend, E)
    table.do("c", Node.contend, E)
    table["a"].timers.clear()
    table.deliver(RequestVote)
    assert {m.reason for m in table.deliver(Refuse) if isinstance(m, Refuse)} == {Reason.STALER}


QUORUMS = [
    ("abc", QuorumRule.MAJORITY, ["ab", "bc", "abc"], ["a", ""]),
    ("abcd", QuorumRule.MAJORITY, ["abc", "abcd"], ["ab", "cd"]),
    ("abc", QuorumRule.TEXTBOOK, ["a", "b", "abc"], [""]),
]


def test_half_a_group_does_not_carry_it() -> None:
    """Two groups of two: a majority of the groups is both, and both members of each."""
    groups = tuple(Member(id, group=group) for id, group in zip("abcd", "xxyy", strict=True))
    membership = Membership(groups, QuorumRule.HIERARCHICAL)
    assert membership.is_quorum("abcd")
    assert not any(membership.is_quorum(few) for few in ("ac", "abc", "bcd", "ab"))


@pytest.mark.parametrize(("ids", "rule", "enough", "too_few"), QUORUMS)
def test_quorums(ids: str, rule: QuorumRule, enough: list[str], too_few: list[str]) -> None:
    membership = Membership(tuple(Member(id) for id in ids), rule)
    assert all(membership.is_quorum(set(nodes)) for nodes in enough)
    assert not any(membership.is_quorum(set(nodes)) for nodes in too_few)


members = st.lists(
    st.builds(
        Member,
        id=st.sampled_from("abcdefg"),
        kind=st.sampled_from(Kind),
        weight=st.integers(0, 3),
        group=st.sampled_from("xyz"),
    ),
    min_size=1,
    max_size=7,
    unique_by=lambda m: m.id,
).map(tuple)


@given(
    members=members,
    rule=st.sampled_from([QuorumRule.MAJORITY, QuorumRule.WEIGHTED, QuorumRule.HIERARCHICAL]),
    data=st.data(),
)
def test_any_two_quorums_share_a_voter(
    members: tuple[Member, ...], rule: QuorumRule, data: st.DataObject
) -> None:
    membership = Membership(members, rule)
    one = data.draw(st.sets(st.sampled_from(membership.voters))) if membership.voters else set()
    rest = set(membership.voters) - one
    assert not (membership.is_quorum(one) and membership.is_quorum(rest))


@given(members=members, rule=st.sampled_from(QuorumRule), data=st.data())
def test_support_lasts_as_long_as_a_quorum_of_it(
    members: tuple[Member, ...], rule: QuorumRule, data: st.DataObject
) -> None:
    membership = Membership(members, rule)
    support = {voter: data.draw(st.floats(0, 10)) for voter in membership.voters if data.draw(st.booleans())}
    until = membership.supported_until(support)
    lasting = {voter for voter, end in support.items() if end >= until}
    longer = {voter for voter, end in support.items() if end > until}
    assert until == float("-inf") or membership.is_quorum(lasting)
    assert not membership.is_quorum(longer)


def test_an_heir_that_claims_and_a_node_that_looks_do_not_answer_each_other_for_ever() -> None:
    """c hands over to a. The disks of most are slow; b is fresher than a, refuses it, and looks."""
    table = Table("abcde", algorithm="zab")
    table.connect()
    table.contend("a")
    table.elect("c")
    table.do("b", Node.contend, E)
    table.settle()
    table.do("b", Node.set_position, E, 5)
    for id in "cde":
        table[id].instant_disk = False
    table.transfer("c", "a")
    table.deliver(Resign)
    table.deliver(LeaderInfo)
    table["b"].fire("campaign")
    for _ in range(50):
        table.deliver()
    assert not table.wire


def test_what_happens_to_a_twin_leaves_the_node_as_it_was() -> None:
    """The checker runs each event on a copy."""
    table = Table()
    table.connect()
    table.elect("a")
    node = table["b"].node
    before = node.state()
    events: tuple[Callable[[Node], object], ...] = (
        lambda twin: twin.set_position(table.now, E, 7),
        lambda twin: twin.receive(table.now, "a", Resign(E, 1, None, False)),
        lambda twin: twin.contend(table.now, E),
        lambda twin: twin.lost(table.now, "a", True),
        lambda twin: twin.receive(table.now, "a", Beat(1)),
    )
    for event in events:
        event(duplicate(node))
        assert node.state() == before
