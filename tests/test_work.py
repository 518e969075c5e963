"""Work that rests on a leadership: who is asked to yield leads on until the work has ended."""

from __future__ import annotations

import pytest

from electorate.core.model import Beat, Follow, Reason, Refuse, Resign, Role, Support, TransferLapsed
from electorate.core.node import Node
from tests.table import E, Table


def at_work() -> Table:
    """c leads three nodes, and has work; b contends."""
    table = Table()
    table.connect()
    table.elect("c")
    table.contend("b")
    table.settle()
    table.do("c", Node.occupy, E)
    return table


def beat(table: Table) -> None:
    table["c"].fire("beat", "")
    table.settle()


def resigned(table: Table) -> list[Resign]:
    return [message for _, _, message in table.wire if isinstance(message, Resign)]


@pytest.mark.parametrize(
    ("wish", "arguments"), [(Node.transfer, (E, "b")), (Node.resign, (E,)), (Node.withdraw, (E,))]
)
def test_a_wish_waits_for_the_work(wish: object, arguments: tuple[str, ...]) -> None:
    table = at_work()
    table.do("c", wish, *arguments)  # type: ignore[arg-type]
    table.settle()
    view = table["c"].views[-1]
    assert (view.role, view.leader, view.yielding) == (Role.LEADER, "c", True)
    assert not resigned(table)
    table.now += 0.3
    beat(table)
    table.now += 0.3
    assert table.leaders() == ["c"], "its lease goes on"
    table.do("c", Node.vacate, E)
    assert {message.heir for message in resigned(table)} == {"b"}
    table.settle()
    assert table["b"].views[-1].role is Role.LEADER
    assert not table["c"].views[-1].yielding


def test_without_work_a_wish_is_done_at_once() -> None:
    table = at_work()
    table.do("c", Node.vacate, E)
    assert table.leaders() == ["c"], "the end of work alone ends no leadership"
    table.do("c", Node.resign, E)
    assert table.leaders() == []


def test_a_newer_term_waits_for_the_work() -> None:
    table = at_work()
    table.do("c", Node.receive, "a", Refuse(E, 1, 9, Reason.OLD_TERM))
    assert table["c"].views[-1].yielding
    assert table.leaders() == ["c"]
    table.do("c", Node.vacate, E)
    assert table.leaders() == []
    table.settle()


@pytest.mark.parametrize("named", [True, False])
def test_an_heir_that_was_lost_meanwhile_is_replaced(named: bool) -> None:
    """At once, but where a user has named it: then when that lapses."""
    table = at_work()
    if named:
        table.do("c", Node.transfer, E, "b")
    else:
        table.do("c", Node.resign, E)
    table.settle()
    table.do("c", Node.lost, "b", False)
    table.contend("a")
    table.settle()
    table.do("c", Node.vacate, E)
    if named:
        assert table.leaders() == ["c"]
        table["c"].fire("transfer")
        assert table["c"].notices == [TransferLapsed(E, "b", None, "quiet")]
    assert {message.heir for message in resigned(table)} == {"a"}


def test_work_ends_with_the_lease_at_the_latest() -> None:
    table = at_work()
    table.do("c", Node.resign, E)
    table.now += 1.0
    assert table.leaders() == []
    table.do("c", Node.occupy, E)
    assert table["c"].views[-1].role is not Role.LEADER
    assert not table["c"].views[-1].yielding
    table.do("c", Node.vacate, E)
    assert table["c"].node.ignored["only a leader can work"] == 0


def test_only_a_leader_can_work() -> None:
    table = Table()
    table.connect()
    table.do("a", Node.occupy, E)
    table.elect("a")
    assert not table["a"].node.elections[E].occupied
    table.do("a", Node.occupy, "unknown")
    table.do("a", Node.vacate, "unknown")
    assert table.leaders() == ["a"]


def test_what_was_promised_before_a_restart_holds() -> None:
    table = at_work()
    table.now += 0.2
    beat(table)
    lease = table["c"].node.lease(E)
    for voter in "ab":
        table[voter].crash()
        table[voter].start()
        table.do("c", Node.lost, voter, True)
    table.connect()
    table["c"].fire("beat", "")
    table.deliver(Beat)
    table.deliver(Support)
    assert table.leaders() == ["c"]
    assert table["c"].node.lease(E) == lease, "not longer either, until they follow again"
    table.settle()
    beat(table)
    assert table["c"].node.lease(E) >= lease


@pytest.mark.parametrize("algorithm", ["raft", "bully", "ring", "zab"])
def test_a_term_that_was_heard_of_during_work_is_adopted_after_it(algorithm: str) -> None:
    """Else whoever is a quorum without the one that knows it would climb to it term by term."""
    table = Table("abc", algorithm=algorithm)
    table.connect()
    table.elect("a")
    election = table["a"].node.elections[E]
    table.do("a", Node.occupy, E)
    table.do("a", Node.receive, "b", Refuse(E, election.leader_term, 45, Reason.OLD_TERM))
    assert election.role is Role.LEADER
    table.do("a", Node.vacate, E)
    assert election.role is not Role.LEADER
    assert election.promise.term == 45


def test_who_takes_over_is_ready_whatever_it_said_when_it_followed() -> None:
    """It had restarted then; its word that it can lead comes with the next beat, and its claim before."""
    table = at_work()
    election = table["c"].node.elections[E]
    pair = table["c"].node.peers["b"].pair
    table.do("c", Node.receive, "b", Follow(E, election.leader_term, *pair, True, 0, False))
    assert election.unready == {"b"}
    election.give_up("b")
    table.do("c", Node.vacate, E)
    assert Resign(E, election.leader_term, "b", False) in resigned(table)
