"""Every wish that is kept: to whom a leadership is to be given, and for how long that is meant."""

from __future__ import annotations

from typing import Any

import pytest

from electorate.core.bully import Victory
from electorate.core.model import (
    Follow,
    Lead,
    Promise,
    Reason,
    Refuse,
    Resign,
    Role,
    TransferLapsed,
)
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.sim.scenario import Play, understand
from tests.table import E, Table


def led(*contenders: str, algorithm: str = "raft", **settings: Any) -> Table:
    """c leads four nodes, a to d; these contend too."""
    table = Table("abcd", algorithm=algorithm, **settings)
    table.connect()
    table.elect("c")
    table.contend(*contenders)
    table.settle()
    return table


def heirs(table: Table) -> set[str | None]:
    """To whom c has given its leadership."""
    return {m.heir for source, _, m in table.wire if source == "c" and isinstance(m, Resign)}


@pytest.mark.parametrize("occupied", [False, True])
def test_the_named_one_inherits_and_not_the_best(occupied: bool) -> None:
    table = led("a", "b", "d")
    if occupied:
        table.do("c", Node.occupy, E)
    table.transfer("c", "a")
    assert bool(heirs(table)) is not occupied
    table.do("c", Node.vacate, E)
    assert heirs(table) == {"a"}


def test_a_newer_term_does_not_take_the_place_of_a_wish_that_waits_for_the_work() -> None:
    table = led("a", "b", "d")
    table.do("c", Node.occupy, E)
    table.transfer("c", "a")
    table.do("c", Node.receive, "b", Refuse(E, 1, 9, Reason.OLD_TERM))
    table.do("c", Node.vacate, E)
    assert heirs(table) == {"a"}
    assert [m.wished for _, _, m in table.wire if isinstance(m, Resign)] == [True, True, True]


def test_the_last_of_two_wishes_holds() -> None:
    table = led("a", "b", "d")
    table.do("c", Node.occupy, E)
    table.transfer("c", "a")
    table.transfer("c", "b")
    table.do("c", Node.vacate, E)
    assert heirs(table) == {"b"}


def test_a_wish_for_one_who_does_not_follow_yet_waits_for_a_lease_and_no_longer() -> None:
    for late in (False, True):
        table = Table("abcd")
        table.connect("ac", "bc", "ab")
        table.elect("c")
        table.transfer("c", "d")
        assert not heirs(table)
        for _ in range(6 if late else 2):
            table.now += 0.1
            table["c"].fire("beat", "")
            table.settle()
        table.do("c", Node.receive, "d", Follow(E, 1, 1, 0, True, 0))
        assert not heirs(table), "it cannot be reached"
        table.do("c", Node.connected, "d", 1)
        table.do("c", Node.receive, "d", Follow(E, 1, 1, 0, True, 0))
        assert heirs(table) == (set() if late else {"d"})


def test_a_wish_that_lapses_is_told_and_forgotten() -> None:
    table = led("a")
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a")
    assert not heirs(table), "a is behind"
    table["c"].fire("transfer")
    assert table["c"].notices == [TransferLapsed(E, "a", (0, 7))]
    assert table.leaders() == ["c"]
    table.do("c", Node.receive, "a", Follow(E, 1, 1, 0, True, 7))
    assert not heirs(table), "nobody wishes that any more"


def test_an_heir_that_is_behind_is_asked_at_each_beat_until_it_has_caught_up() -> None:
    table = led("a")
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a")
    table.settle()
    assert table.leaders() == ["c"]
    table.do("a", Node.set_position, E, 7)
    table.now += 0.1
    table["c"].fire("beat", "")
    table.settle()
    assert table.leaders() == ["a"]


def test_by_force_an_heir_that_is_behind_is_not_waited_for() -> None:
    table = led("a")
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a", True)
    assert heirs(table) == {"a"}


def test_an_heir_by_force_leads_though_others_are_fresher() -> None:
    for algorithm in ("raft", "zab"):
        table = led("a", "b", "d", algorithm=algorithm)
        for id in "bcd":
            table.do(id, Node.set_position, E, 7)
        table.transfer("c", "a", True)
        table.settle()
        assert table.leaders() == ["a"], algorithm


def test_a_transfer_to_oneself_takes_the_wish_back() -> None:
    table = led("a")
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a")
    table.do("c", Node.transfer, E, "c")
    assert ("transfer", E) not in table["c"].timers
    table.do("c", Node.receive, "a", Follow(E, 1, 1, 0, True, 7))
    assert not heirs(table)


def test_a_wish_ends_with_the_leadership_it_was_for() -> None:
    """c leads again later: nobody inherits by a wish of then."""
    table = led("a")
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a")
    table.do("c", Node.receive, "b", Refuse(E, 1, 5, Reason.OLD_TERM))
    table.settle()
    table.now += 2.0
    table.elect("c")
    assert table["c"].node.elections[E].leader_term > 5
    table.do("a", Node.set_position, E, 9)
    table.contend("a")
    table.settle()
    assert table.leaders() == ["c"]


def test_who_was_to_yield_to_nobody_in_particular_yields_to_the_best_that_is_fresh() -> None:
    table = led("a", "b", "d")
    for id, position in (("c", 5), ("a", 5), ("b", 5), ("d", 1)):
        table.do(id, Node.set_position, E, position)
        table.do(id, Node.contend, E)
    table.settle()
    table.do("c", Node.resign, E)
    assert heirs(table) == {"b"}, "d, the best rank, is behind"


def test_one_that_has_handed_over_by_a_wish_does_not_take_it_back() -> None:
    """Not while the heir leads, though it is better; and not by trying first when nobody comes."""
    table = led("a", algorithm="bully")
    table.transfer("c", "a")
    table.settle()
    assert table.leaders() == ["a"]
    table.now += 0.1
    table["a"].fire("beat", "")
    table.settle()
    assert table.leaders() == ["a"]


def test_who_has_resigned_stands_back_for_a_lease_unless_it_is_named_as_heir() -> None:
    table = led("a")
    table.do("c", Node.resign, E)
    low, _ = table["c"].timers["campaign", E]
    assert low >= table.settings.timing.lease
    assert not table["c"].node.elections[E].available
    table.wire.clear()
    table.do("c", Node.receive, "a", Lead(E, 2, 0))
    table.do("c", Node.receive, "a", Resign(E, 2, "c", True))
    assert any(isinstance(m, RequestVote) for source, _, m in table.wire if source == "c")


def test_nobody_else_takes_over_from_whom_a_user_has_chosen() -> None:
    """a leads by a wish; b and d are better, and would take over from one that leads by an election."""
    table = Table("abd", algorithm="bully")
    table.connect()
    table.contend("a", "b", "d")
    table.settle()
    table.transfer("d", "a")
    table.settle()
    for _ in range(5):
        table.now += 0.1
        for id in "bd":
            if ("takeover", E) in table[id].timers:
                table[id].fire("takeover")
        table["a"].fire("beat", "")
        table.settle()
        assert table.leaders() == ["a"]


def test_who_withdraws_neither_tries_nor_inherits() -> None:
    table = led("a", "b")
    table.do("a", Node.withdraw, E)
    table.settle()
    table.transfer("c", "a")
    assert table["c"].node.ignored["the heir may not lead, or does not contend"] == 1
    table.do("a", Node.receive, "c", Resign(E, 1, "a", True))
    assert ("campaign", E) not in table["a"].timers
    assert table["a"].node.elections[E].role is Role.FOLLOWER
    assert table["a"].disk[E] == Promise(E, 1, "c")


def test_a_candidate_that_withdraws_claims_no_longer() -> None:
    table = Table("abc", pre_vote=False)
    table.connect()
    table.contend("c")
    assert table["c"].node.elections[E].claimed == 1
    table.do("c", Node.withdraw, E)
    table.settle()
    assert table.leaders() == []
    assert table["c"].node.elections[E].role is Role.FOLLOWER


def test_who_cannot_win_displaces_nobody() -> None:
    """d is better and preempts, but a and b, who contend, are fresher: c leads on."""
    table = led("a", "b", preempt=True)
    for id in "abc":
        table.do(id, Node.set_position, E, 7)
    table.contend("a", "b", "d")
    table.settle()
    assert table.leaders() == ["c"]
    table.do("c", Node.set_position, E, 0)
    table.do("c", Node.receive, "d", RequestVote(E, 2, 0, False))
    assert table.leaders() == ["c"], "c would back it itself, but no quorum would"


def test_an_heir_that_has_fallen_silent_does_not_end_a_leadership() -> None:
    """a has said Follow and supported c, and hangs since then, with its connections up."""
    table = led("a", "b", "d")
    table.do("c", Node.transfer, E, "a")
    table.wire = [m for m in table.wire if m[1] != "a"]
    for _ in range(5):
        table.now += 0.1
        table["c"].fire("beat", "")
        table.wire = [m for m in table.wire if "a" not in m[:2]]
        table.settle()
    assert not heirs(table)
    table["c"].fire("transfer")
    assert table["c"].notices == [TransferLapsed(E, "a", None, "quiet")]
    assert table.leaders() == ["c"]
    table.do("c", Node.resign, E)
    assert heirs(table) == {"d"}, "the best of those that answer"


# --- two wishes, one after the other

ALGORITHMS = ("bully", "ring", "raft", "zab")


def played(algorithm: str, *steps: str) -> list[tuple[str, str]]:
    """Play this with four nodes, of which d leads first. Returns what was told of transfers: the heir, and why
    it does not lead. Every invariant holds, that somebody always tries (I9) among them."""
    content = {"story": "", "algorithm": algorithm, "nodes": 4, "steps": ["1.0 expect leader d", *steps]}
    play = Play(understand(content))
    world = play.run()
    assert not play.failures
    assert world.entries
    lapsed = [entry.what for entry in world.entries if entry.kind == "notice"]
    return [(what.heir, what.why) for what in lapsed if isinstance(what, TransferLapsed)]


Told = list[tuple[str, str]]

WORKING: dict[tuple[str, str], tuple[str, Told]] = {
    ("transfer a", "transfer a"): ("a", []),
    ("transfer a", "transfer b"): ("b", [("a", "overruled")]),
    ("transfer a", "transfer d"): ("d", [("a", "overruled")]),
    ("transfer a", "resign d"): ("c", [("a", "overruled")]),
    ("transfer a", "withdraw d"): ("a", []),
    ("transfer a", "contend d"): ("a", []),
    ("transfer a", "position d 0"): ("a", []),
    ("resign d", "transfer a"): ("a", []),
    ("resign d", "transfer d"): ("d", []),
    ("resign d", "resign d"): ("c", []),
    ("resign d", "withdraw d"): ("c", []),
    ("resign d", "contend d"): ("c", []),
    ("withdraw d", "transfer a"): ("a", []),
    ("withdraw d", "resign d"): ("c", []),
    ("withdraw d", "withdraw d"): ("c", []),
    ("withdraw d", "contend d"): ("d", []),
    ("contend d", "transfer a"): ("a", []),
    ("contend d", "resign d"): ("c", []),
    ("contend d", "withdraw d"): ("c", []),
}
"""While d works: who leads when the work has ended, and what was told of transfers before."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("first, second", WORKING)
def test_of_two_wishes_the_last_one_wins_when_the_work_has_ended(
    algorithm: str, first: str, second: str
) -> None:
    leader, told = WORKING[first, second]
    assert told == played(
        algorithm,
        "1.0 occupy d",
        f"1.1 {first}",
        f"1.2 {second}",
        "1.3 expect leader d",
        "1.3 vacate d",
        f"1.6 expect leader {leader}",
        f"6.0 expect leader {leader}",
    )


AWAITING: dict[str, tuple[str, str, Told]] = {
    "transfer a": ("a", "d", []),
    "transfer b": ("b", "b", [("a", "overruled")]),
    "transfer d": ("d", "d", [("a", "overruled")]),
    "resign d": ("c", "c", [("a", "overruled")]),
    "withdraw d": ("a", "c", []),
    "contend d": ("a", "d", []),
    "occupy d": ("d", "d", []),
    "vacate d": ("a", "d", []),
}
"""While a, to which d transfers, cannot be reached: who leads when it can, or cannot for too long; and what was
told before that."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize("second", AWAITING)
def test_an_heir_that_is_awaited_is_forgotten_only_by_another_wish_that_says_so(
    algorithm: str, second: str, comes: bool
) -> None:
    in_time, too_late, told = AWAITING[second]
    meanwhile = ["1.3 open a d", f"1.5 expect leader {in_time}"] if comes else ["1.3 expect leader any"]
    late = [("a", "quiet")] if not (comes or told) else []
    assert told + late == played(
        algorithm,
        "1.0 part d a",
        "1.1 transfer a",
        f"1.15 {second}",
        *meanwhile,
        f"2.5 expect leader {in_time if comes else too_late}",
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("comes", [True, False])
def test_an_heir_that_is_not_there_just_as_the_work_ends_is_awaited(algorithm: str, comes: bool) -> None:
    """But no longer than a wish lasts."""
    assert played(
        algorithm,
        "1.0 occupy d",
        "1.1 transfer a",
        "1.15 part d a",
        "1.15 cut d a",
        "1.2 vacate d",
        *(["1.3 open a d"] if comes else ["1.55 expect leader d"]),
        f"2.0 expect leader {'a' if comes else 'c'}",
    ) == ([] if comes else [("a", "quiet")])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_heir_that_was_lost_long_before_the_work_ends_is_not_awaited(algorithm: str) -> None:
    assert played(
        algorithm,
        "1.0 occupy d",
        "1.1 transfer a",
        "1.15 part d a",
        "1.15 cut d a",
        "1.8 vacate d",
        "1.9 expect leader c",
    ) == [("a", "ended")]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("wish, heir", [("transfer a", "a"), ("resign d", "c")])
def test_who_contends_again_when_its_work_has_ended_does_not_undo_a_wish(
    algorithm: str, wish: str, heir: str
) -> None:
    """That is what a loop around `leadership()` does. The wish holds until that leadership ends of itself."""
    played(
        algorithm,
        "1.0 occupy d",
        f"1.1 {wish}",
        "1.2 vacate d",
        "1.2 withdraw d",
        "1.2 contend d",
        f"1.4 expect leader {heir}",
        "2.0 contend d",
        f"6.0 expect leader {heir}",
        f"6.0 crash {heir}",
        "6.5 expect leader d",
    )


def test_who_has_withdrawn_and_contends_again_takes_over_where_the_best_leads() -> None:
    """That it withdrew was no wish for another; but whoever it has handed over to leads for a lease."""
    played(
        "bully",
        "1.0 withdraw d",
        "1.0 contend d",
        "1.1 expect leader c",
        "1.4 expect leader c",
        "3.0 expect leader d",
    )


@pytest.mark.parametrize("resigns", [True, False])
def test_a_wish_does_not_outlast_the_leadership_that_it_made(resigns: bool) -> None:
    """c heeds the wish for a, until b is elected of itself, whether c hears of a's end or not."""
    table = Table("abcd", algorithm="bully")
    table.connect()
    table.contend("a", "b", "c", "d")
    table.settle()
    table.transfer("d", "a")
    table.settle()
    assert table.leaders() == ["a"]
    table.do("c", Node.receive, "a", Lead(E, 2, 1))
    assert not any(isinstance(m, Victory) for _, _, m in table.wire)
    if resigns:
        table.do("c", Node.receive, "a", Resign(E, 2, None, False))
    table.do("c", Node.receive, "b", Lead(E, 3, 0))
    assert [to for source, to, m in table.wire if source == "c" and isinstance(m, Victory)] == ["b"]


def test_nobody_takes_over_while_a_wish_waits() -> None:
    """d outranks c, and asks; but a user has named a."""
    table = led("a", preempt=True)
    table.do("c", Node.occupy, E)
    table.transfer("c", "a")
    table.contend("d")
    table.settle()
    table.do("c", Node.vacate, E)
    assert heirs(table) == {"a"}


def test_a_lapse_is_told_while_work_goes_on() -> None:
    table = led("a")
    table.do("c", Node.occupy, E)
    table.do("c", Node.set_position, E, 7)
    table.transfer("c", "a")
    assert table["c"].node.elections[E].awaits_heir
    table["c"].fire("transfer")
    assert table["c"].notices == [TransferLapsed(E, "a", (0, 7))]
    table.do("c", Node.vacate, E)
    assert table.leaders() == ["c"] and not heirs(table)


def test_what_waits_for_the_work_alone_does_not_lapse() -> None:
    table = led("a")
    table.do("c", Node.occupy, E)
    table.transfer("c", "a")
    table["c"].fire("transfer")
    assert not table["c"].notices
    table.do("c", Node.vacate, E)
    assert heirs(table) == {"a"}
