"""Save is a barrier: what a node says it has stored is on its disk before it says so, whatever the word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from electorate.core.model import (
    Accept,
    Follow,
    Gone,
    Grant,
    Lead,
    Message,
    PreVote,
    Promise,
    Reason,
    Recall,
    Recalled,
    Refuse,
    Rejoined,
    Resign,
    Save,
)
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.core.ring import Coordinator
from electorate.core.zab import FollowerInfo, LeaderInfo, Notification, State
from tests.table import E, Table


def slow(algorithm: str = "raft", **settings: Any) -> Table:
    """a has a slow disk; nobody leads."""
    table = Table(algorithm=algorithm, **settings)
    table.connect()
    table["a"].instant_disk = False
    return table


def said(table: Table, kind: type[Message]) -> list[Message]:
    return [message for source, _, message in table.wire if source == "a" and isinstance(message, kind)]


def vote(table: Table) -> None:
    table.do("a", Node.receive, "b", RequestVote(E, 4, 0, False))


def follow(table: Table) -> None:
    table.do("a", Node.receive, "b", Lead(E, 4, 0))


def refuse(table: Table) -> None:
    """b's claim is staler: a adopts its term, which it tells, and does not back it."""
    table.do("a", Node.contend, E)
    table.do("a", Node.set_position, E, 7)
    table.do("a", Node.receive, "b", RequestVote(E, 4, 0, False))


def join(table: Table) -> None:
    table.do("a", Node.receive, "c", Coordinator(E, 4, 0, "c", 1, ("c",), "c", (("c", 1),)))


def tell_a_vote(table: Table) -> None:
    """a has accepted epoch 4, which led to nothing; somebody looks."""
    table.do("a", Node.receive, "b", LeaderInfo(E, 4, 0, 0))
    table.do("a", Node.receive, "c", Notification(E, 4, "c", 0, 0, 1, State.LOOKING))


def inform_the_elected(table: Table) -> None:
    """a has heard of epoch 4, looks, and all elect c."""
    table.do("a", Node.receive, "b", Refuse(E, 0, 4, Reason.OLD_TERM))
    for other in "bc":
        table.do("a", Node.receive, other, Notification(E, 4, "c", 0, 0, 1, State.LOOKING))


def answer_a_recall(table: Table) -> None:
    table.do("a", Node.receive, "b", Recall(9, "", ("c",)))


@pytest.mark.parametrize(
    ("event", "word", "algorithm"),
    [
        (vote, Accept, "raft"),
        (follow, Follow, "raft"),
        (refuse, Refuse, "raft"),
        (join, Coordinator, "ring"),
        (tell_a_vote, Notification, "zab"),
        (inform_the_elected, FollowerInfo, "zab"),
        (answer_a_recall, Recalled, "raft"),
    ],
)
def test_nothing_that_rests_on_the_disk_is_said_before_it_is_written(
    event: Callable[[Table], None], word: type[Message], algorithm: str
) -> None:
    table = slow(algorithm, pre_vote=False)
    event(table)
    assert table["a"].unsaved, "there is something to write"
    assert not said(table, word)
    while table["a"].unsaved:
        table["a"].commit()
    assert said(table, word), "it is said in the end"


def test_who_is_gone_is_on_the_disk_before_the_one_that_says_so_is_answered() -> None:
    table = slow()
    answer_a_recall(table)
    assert table["a"].unsaved == [Gone("c", True)]
    table["a"].commit()
    assert table["a"].gone == {"c"}
    table["a"].start()
    table.do("a", Node.receive, "c", RequestVote(E, 1, 0, False))
    assert not said(table, Accept), "nor is it forgotten"


def test_a_leader_of_zab_is_announced_once_its_epoch_is_durable() -> None:
    table = slow("zab")
    table.contend("a")
    while not table["a"].node.elections[E].claimed:
        if ("campaign", E) in table["a"].timers:
            table["a"].fire("campaign")
        table.deliver()
    table["a"].commit()
    table.deliver()
    table.deliver(Accept)
    assert table["a"].node.elections[E].leader == "a"
    assert table["a"].unsaved == [Promise(E, 1, "a", 1)]
    assert not said(table, Lead)
    table["a"].commit()
    assert said(table, Lead)


def test_a_node_has_rejoined_once_it_is_durable_that_it_votes_for_nobody() -> None:
    table = Table()
    table["a"].start(rejoin=True)
    table["a"].instant_disk = False
    table.connect()
    number = table["a"].node.started.number
    for other in "bc":
        table.do("a", Node.receive, other, Recalled(number, "", ((E, 3),), False, 0.5))
    assert table["a"].node.rejoin is None
    assert Rejoined() not in table["a"].notices
    while table["a"].unsaved:
        table["a"].commit()
    assert table["a"].disk[E] == Promise(E, 3, "")
    assert Rejoined() in table["a"].notices


@pytest.mark.parametrize("wishes", [(Node.contend,), (Node.contend, Node.withdraw)])
def test_of_what_waits_the_last_word_stays_the_last(wishes: tuple[Any, ...]) -> None:
    """a changes its mind while its disk is slow, perhaps back to what it has said first: its leader hears the last."""
    table = slow()
    table.do("a", Node.receive, "c", Lead(E, 1, 0))
    for wish in wishes:
        table.do("a", wish, E)
    table["a"].commit()
    follows = [message.contends for message in said(table, Follow) if isinstance(message, Follow)]
    assert follows[-1] is (wishes[-1] is Node.contend)
    assert len(follows) == len(set(follows)), "and nothing waits twice"


def test_what_has_been_let_go_may_be_said_again() -> None:
    table = slow()
    for term in (1, 2):
        table.do("a", Node.receive, "c", Lead(E, term, 0))
        table["a"].commit()
    table.do("a", Node.receive, "c", Lead("other", 1, 0))
    table.do("a", Node.receive, "c", Lead(E, 2, 0))
    table["a"].commit()
    assert [m.term for m in said(table, Follow) if isinstance(m, Follow) and m.election == E] == [1, 2, 2]


def test_a_question_does_not_wait_for_what_it_does_not_rest_on() -> None:
    """Nor does an end: a Resign leaves though the disk is slow. But a Grant waits, in the order of what was said."""
    table = Table()
    table.connect()
    table.elect("c")
    table["c"].instant_disk = False
    table.do("c", Node.receive, "a", RequestVote("other", 1, 0, False))
    assert table["c"].unsaved
    table.do("c", Node.resign, E)
    assert [type(m) for source, _, m in table.wire if source == "c"] == [Resign, Resign]
    table.do("c", Node.receive, "a", PreVote("other", 2, 0, False))
    assert not any(isinstance(m, Grant) for _, _, m in table.wire)


def test_every_save_is_of_one_commit_or_the_next() -> None:
    table = slow(pre_vote=False)
    saves = [Save(Promise(E, term)) for term in (1, 2, 3)]
    table["a"].outbox.perform(saves[:1])
    table["a"].outbox.perform(saves[1:])
    assert table["a"].unsaved == [Promise(E, 1)]
    table["a"].commit()
    assert table["a"].unsaved == [Promise(E, 2), Promise(E, 3)]
    table["a"].commit()
    assert table["a"].disk[E].term == 3
