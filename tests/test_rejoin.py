"""A node whose store was lost asks, and votes for nobody whom the lost one may have voted against; and who is meant
by an answer."""

from __future__ import annotations

from typing import Any

import pytest

from electorate.core.identity import Rejoin
from electorate.core.model import (
    MAX_TERM,
    Accept,
    Awaiting,
    Beat,
    Disbelieved,
    Grant,
    Kind,
    Lead,
    Member,
    Message,
    PreVote,
    Promise,
    Recall,
    Recalled,
    Rejoined,
    Support,
    Timing,
)
from electorate.core.node import ABSURD, MAX_RECALLED, PAGE, RECALL, Node
from electorate.core.raft import RequestVote
from electorate.core.zab import LeaderInfo
from tests.table import E, Table

LEASE = Timing().lease


def lost(ids: str = "abc", rejoin: Rejoin | bool = True, **settings: Any) -> Table:
    """a has lost its store and rejoins; all are connected, and what it asked is lost."""
    table = Table(ids, pre_vote=False, **settings)
    table.connect()
    table["a"].crash()
    table["a"].start(rejoin)
    table.connect()
    table.wire.clear()
    return table


def answer(table: Table, voter: str, *terms: tuple[str, int], lease: float = LEASE, **page: object) -> None:
    about = {"number": table["a"].node.started.number, "after": "", "more": False, **page}
    table.do("a", Node.receive, voter, Recalled(terms=terms, lease=lease, **about))  # type: ignore[arg-type]


def said(table: Table, kind: type[Message], by: str = "a") -> list[Message]:
    return [message for source, _, message in table.wire if source == by and isinstance(message, kind)]


def has_rejoined(table: Table) -> bool:
    rejoined = table["a"].node.rejoin is None
    assert (Rejoined() in table["a"].notices) is rejoined
    return rejoined


def test_every_other_voter_is_waited_for_and_named() -> None:
    table = lost("abcde")
    assert table["a"].notices[-1] == Awaiting(("b", "c", "d", "e"))
    for voter in "bcd":
        answer(table, voter)
        assert not has_rejoined(table)
    assert table["a"].notices[-1] == Awaiting(("e",))
    answer(table, "e")
    assert has_rejoined(table)


def test_the_same_answer_twice_is_one() -> None:
    table = lost("abc")
    for _ in range(3):
        answer(table, "b")
    assert not has_rejoined(table)


def test_who_rejoins_does_not_count_itself() -> None:
    """c alone is no quorum, and with a it would be: but what a knows is nothing."""
    table = lost("abc", Rejoin(without=frozenset("b")))
    assert table["a"].notices[-1] == Awaiting(("c",))
    answer(table, "c")
    assert not has_rejoined(table)
    assert table["a"].notices[-1] == Awaiting(()), "too few are left"


def test_who_is_gone_for_good_is_not_waited_for() -> None:
    table = lost("abcde", Rejoin(without=frozenset("b")))
    for voter in "cde":
        assert not has_rejoined(table)
        answer(table, voter)
    assert has_rejoined(table)
    assert table["a"].gone == {"b"}


def test_two_that_have_lost_their_stores_do_not_wait_for_each_other_nor_answer() -> None:
    table = Table("abcde")
    table.connect()
    for id in "ab":
        table[id].crash()
        table[id].start(rejoin=True)
    table.connect()
    table.settle()
    for id in "ab":
        assert table[id].node.rejoin is None, "c, d and e have told all"
        assert set(table[id].node.answered) == set("cde")


def test_too_many_that_have_lost_their_stores_rejoin_never() -> None:
    table = Table("abc")
    table.connect()
    for id in "ab":
        table[id].crash()
        table[id].start(rejoin=True)
    table.connect()
    table["a"].fire(*RECALL)
    table.settle()
    assert not has_rejoined(table)
    assert table["b"].node.ignored["a Recall while I do not know myself"] > 0


def test_an_observer_neither_is_waited_for_nor_counts() -> None:
    members = (*(Member(id) for id in "abc"), Member("o", kind=Kind.OBSERVER))
    table = lost(members=members)
    answer(table, "o", (E, 7))
    assert table["a"].node.ignored["a page that I do not wait for"] == 1
    answer(table, "b")
    assert not has_rejoined(table)
    answer(table, "c")
    assert has_rejoined(table)
    assert E not in table["a"].disk


def test_an_answer_to_an_earlier_start_does_not_count() -> None:
    table = lost()
    for voter in "bc":
        answer(table, voter, number=table["a"].node.started.number - 1)
    assert not has_rejoined(table)


def test_a_long_answer_comes_in_pages_and_the_last_one_ends_it() -> None:
    table = lost(elections=None, max_elections=10_000)
    answer(table, "c")
    answer(table, "b", ("e1", 3), ("e2", 4), more=True)
    assert not has_rejoined(table)
    assert said(table, Recall)[-1] == Recall(table["a"].node.started.number, "e2", ())
    answer(table, "b", ("e9", 9))
    assert not has_rejoined(table), "that is the first page once more"
    answer(table, "b", ("e3", 5), after="e2")
    assert has_rejoined(table)
    assert {name: promise.term for name, promise in table["a"].disk.items()} == {"e1": 3, "e2": 4, "e3": 5}


def test_pages_are_of_bounded_size_and_leave_nothing_out() -> None:
    table = Table("ab", elections=None, max_elections=10_000)
    table.connect()
    names = sorted(f"{number:0200}" for number in range(1000))
    for name in names:
        table.do("b", Node.receive, "a", Lead(name, 5, 0))
    table.wire.clear()
    told: list[str] = []
    pages = 0
    more = True
    while more:
        table.do("b", Node.receive, "a", Recall(1, told[-1] if told else "", ()))
        [page] = said(table, Recalled, "b")
        assert isinstance(page, Recalled)
        table.wire.clear()
        assert sum(len(name) + 16 for name, _ in page.terms) < PAGE + 300
        told += [name for name, _ in page.terms]
        more, pages = page.more, pages + 1
    assert told == sorted([*names]) and pages > 2


def test_who_rejoins_takes_no_part() -> None:
    """Neither in an election, nor in a lease, nor in another's rejoining."""
    table = lost()
    table.do("a", Node.receive, "b", RequestVote(E, 3, 0, False))
    table.do("a", Node.receive, "b", PreVote(E, 3, 0, False))
    table.do("a", Node.receive, "b", Lead(E, 3, 0))
    table.do("a", Node.receive, "b", Beat(5))
    table.do("a", Node.receive, "b", Recall(7, "", ()))
    assert table.wire == []
    assert E not in table["a"].disk


def test_whose_store_is_whole_answers_but_takes_no_part() -> None:
    """It waits because the set of voters is another (`--new-members`)."""
    table = lost(rejoin=Rejoin(lost=False))
    table.do("a", Node.receive, "b", RequestVote(E, 3, 0, False))
    assert table.wire == []
    table.do("a", Node.receive, "b", Recall(7, "", ()))
    assert len(said(table, Recalled)) == 1


@pytest.mark.parametrize(
    ("kept", "told", "whole", "then"),
    [
        (None, 3, False, Promise(E, 3, "")),
        (Promise(E, 1), 1, False, Promise(E, 1, "")),
        (Promise(E, 1, "b"), 1, False, Promise(E, 1, "")),
        (Promise(E, 5), 3, False, Promise(E, 5)),
        (Promise(E, 1, "b"), 1, True, Promise(E, 1, "b")),
        (Promise(E, 1, "b"), 2, True, Promise(E, 2, "")),
    ],
)
def test_it_votes_for_nobody_in_a_term_that_another_knows(
    kept: Promise | None, told: int, whole: bool, then: Promise
) -> None:
    """Also not in the very term of a store that was rolled back: it may have voted since. One that is whole knows
    how it has voted."""
    table = Table(pre_vote=False)
    table["a"].disk = {E: kept} if kept else {}
    table["a"].start(Rejoin(lost=not whole))
    table.connect()
    for voter in "bc":
        answer(table, voter, (E, told))
    assert has_rejoined(table)
    assert table["a"].node.elections[E].promise == then
    table.now += 10 * LEASE
    table.do("a", Node.receive, "c", RequestVote(E, then.term, 0, False))
    assert bool(said(table, Accept)) is (then.backed is None), (
        "nobody else knows of term 5: it was not voted in"
    )
    table.wire.clear()
    table.do("a", Node.receive, "c", RequestVote(E, then.term + 1, 0, False))
    assert len(said(table, Accept)) == 1


def test_it_is_quiet_in_every_election_for_the_longest_lease_that_it_may_have_promised() -> None:
    table = lost(elections=None)
    answer(table, "b", (E, 3), lease=4 * LEASE)
    answer(table, "c", lease=LEASE)
    for election in (E, "that nobody has named"):
        table.do("a", Node.receive, "b", RequestVote(election, 9, 0, False))
        table.do("a", Node.receive, "b", PreVote(election, 9, 0, False))
    table.now += 3.9 * LEASE
    table.do("a", Node.receive, "b", RequestVote("another one", 9, 0, False))
    assert not said(table, Accept) and not said(table, Grant)
    table.now += 0.2 * LEASE
    for election in (E, "that nobody has named", "another one"):
        table.do("a", Node.receive, "b", RequestVote(election, 9, 0, False))
    assert len(said(table, Accept)) == 3


def test_an_absurd_term_is_not_taken() -> None:
    table = lost()
    for term in (MAX_TERM + 1, MAX_RECALLED + 1):
        answer(table, "b", (E, term))
        answer(table, "b", floor=term)
    answer(table, "c", (E, -1), ("unknown", 3))
    assert not has_rejoined(table), "it is told so, and waits for a sound answer"
    assert table["a"].notices[-1] == Awaiting(("b",))
    assert table["a"].notices.count(Disbelieved("b", ABSURD)) == 4
    assert table["a"].node.elections[E].promise == Promise(E)
    answer(table, "b", (E, MAX_RECALLED))
    assert has_rejoined(table)


def test_it_asks_again_while_it_waits_and_no_longer() -> None:
    table = lost()
    table["a"].fire(*RECALL)
    assert len(said(table, Recall)) == 2 and RECALL in table["a"].timers
    table.settle()
    assert has_rejoined(table)
    assert RECALL not in table["a"].timers


def test_a_vote_of_an_earlier_life_does_not_count() -> None:
    """b claims, e accepts and loses its store; when b wakes, e's old word arrives."""
    table = Table("abcde", pre_vote=False)
    table.connect()
    table.contend("b")
    table["b"].fire("campaign")
    table.deliver(Accept, source="b")
    table.deliver(RequestVote, to="e")
    table["e"].node, old = table["e"].node, [m for m in table.wire if m[0] == "e"]
    assert old
    table["e"].crash()
    table["e"].disk.clear()
    table["e"].start(rejoin=True)
    table.do("b", Node.met, "e", 2, True)
    for _, _, message in old:
        table.do("b", Node.receive, "e", message)
    table.do("b", Node.receive, "d", Accept(E, 1, 1))
    assert table["b"].node.elections[E].backers == {"b", "d"}


def test_a_vote_is_forgotten_when_a_later_life_of_its_voter_is_met() -> None:
    table = Table("abcde", pre_vote=False)
    table.connect()
    table.contend("b")
    table["b"].fire("campaign")
    table.deliver(Accept, source="b")
    table.do("b", Node.receive, "e", Accept(E, 1, 1))
    table.do("b", Node.met, "e", 2, True)
    table.do("b", Node.receive, "d", Accept(E, 1, 1))
    assert table["b"].node.elections[E].backers == {"b", "d"}
    table.do("b", Node.receive, "e", Accept(E, 1, 2))
    assert table.leaders() == [] and table["b"].node.elections[E].leader == "b"


def gone(algorithm: str = "raft") -> Table:
    """An operator has named c as gone, to b; a has heard nothing."""
    table = Table(algorithm=algorithm, pre_vote=False)
    table.connect()
    table.do("b", Node.receive, "a", Recall(1, "", ("c", "b", "a", "x")))
    table.settle()
    return table


def test_who_was_named_as_gone_is_refused_until_it_rejoins() -> None:
    table = gone()
    assert table["b"].gone == {"c"}, "not who says so, nor who hears it, nor who is nobody"
    table.do("b", Node.receive, "c", RequestVote(E, 1, 0, False))
    assert table["b"].node.ignored["a message from one who is gone for good"] == 1
    table.do("b", Node.connected, "c", 2)
    assert table["b"].node.ignored["a connection to an incarnation that is gone"] == 1
    assert not table["b"].node.peers["c"].connected
    table.do("b", Node.connected, "c", 3, True)
    assert table["b"].node.peers["c"].connected
    assert table["b"].gone == frozenset(), "which is kept as well"
    table.do("b", Node.receive, "c", RequestVote(E, 1, 0, False))
    assert len(said(table, Accept, "b")) == 1


def test_nobody_speaks_for_one_who_is_gone() -> None:
    """Nor does another hand it a claim."""
    table = gone("zab")
    assert not table["b"].node.may_lead("c")
    objection = table["b"].node.elections[E].objection("c", LeaderInfo(E, 1, 0, 0))
    assert objection is not None


def test_a_support_is_not_counted_from_one_who_is_gone() -> None:
    table = Table(pre_vote=False)
    table.connect()
    table.elect("b")
    seq = table["b"].node.beats.seq
    table.do("b", Node.receive, "a", Recall(1, "", ("c",)))
    before = table["b"].node.peers["c"].granted
    table.now += 0.1
    table["b"].fire("beat", "")
    table.do("b", Node.receive, "c", Support(seq + 1, 1, 0))
    assert table["b"].node.peers["c"].granted == before


def test_whom_a_lost_store_called_gone_is_asked_like_any() -> None:
    """An old copy of a store that was put back may not know who has rejoined since."""
    table = Table()
    table["a"].gone = frozenset("b")
    table["a"].start(rejoin=True)
    assert table["a"].gone == frozenset()
    assert table["a"].notices[-1] == Awaiting(("b", "c"))
    table["a"].start(Rejoin(without=frozenset("b")))
    assert table["a"].gone == {"b"}


def test_who_has_rejoined_tries_though_nobody_says_anything_more() -> None:
    table = lost()
    table.contend("a")
    assert ("campaign", E) not in table["a"].timers
    for voter in "bc":
        answer(table, voter)
    assert has_rejoined(table)
    low, _ = table["a"].timers["campaign", E]
    assert low >= LEASE, "when it is quiet no longer"
