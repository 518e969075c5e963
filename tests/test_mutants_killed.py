"""What only mutants have missed: rules that storms and scenarios seldom or never meet, asked at a table of nodes."""

from __future__ import annotations

from electorate.core.bully import Alive, Election, Victory
from electorate.core.liveness import Beats, Peer
from electorate.core.model import (
    Accept,
    Beat,
    Follow,
    Grant,
    Kind,
    Lead,
    Member,
    PreVote,
    Promise,
    Reason,
    Refuse,
    Resign,
    Role,
    Support,
    Timing,
)
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.core.ring import Coordinator, Token
from tests.table import E, Table


def said(table: Table, by: str, kind: type) -> list[object]:
    return [message for source, _, message in table.wire if source == by and isinstance(message, kind)]


def test_who_has_rejoined_backs_nobody_in_a_known_term_even_when_it_is_quiet_no_longer() -> None:
    table = Table("abc", pre_vote=False)
    table.connect()
    table.elect("c")
    term = table["a"].disk[E].term
    table["a"].disk.clear()
    table["a"].start(rejoin=True)
    table.connect("ab", "ac")
    table["a"].fire("recall", "")
    table.settle()
    assert table["a"].disk[E] == Promise(E, term, "", 0)
    table.now += 2 * table.settings.timing.lease
    table.do("a", Node.receive, "b", RequestVote(E, term, 0, False))
    assert not said(table, "a", Accept)
    table.do("a", Node.receive, "b", RequestVote(E, term + 1, 0, False))
    assert said(table, "a", Accept) == [Accept(E, term + 1, 2)]


def test_an_observer_backs_nobody() -> None:
    table = Table(members=(*(Member(id) for id in "abc"), Member("o", kind=Kind.OBSERVER)))
    table.connect()
    table.do("o", Node.receive, "b", RequestVote(E, 1, 0, False))
    assert not said(table, "o", Accept)
    assert E not in table["o"].disk


def test_an_heir_that_has_just_restarted_does_not_claim() -> None:
    """It may have promised its support to another, and must not back itself either."""
    table = Table("abc", pre_vote=False)
    table.connect()
    table.elect("c")
    term = table["b"].disk[E].term
    table["b"].crash()
    table["b"].start()
    table.connect("ab", "bc")
    table.contend("b")
    for _ in range(2):
        table.do("b", Node.receive, "c", Resign(E, term, "b", False))
        assert not said(table, "b", RequestVote)
        assert table["b"].disk[E].term == term
        assert ("campaign", E) in table["b"].timers, "but later"


def test_a_leader_without_a_lease_that_joins_a_ring_claim_in_its_own_name_resigns_first() -> None:
    table = Table("abc", algorithm="ring")
    table.connect()
    table.contend("c")
    while table.deliver(Token) or table.deliver(Coordinator):
        pass
    assert table["c"].node.elections[E].role is Role.LEADER
    assert not table.leaders(), "no beat has been answered yet"
    table.do("c", Node.receive, "b", Coordinator(E, 9, 0, "b", 7, ("b",), "c", (("b", 1),)))
    assert Resign(E, 1, None, False) in said(table, "c", Resign)


def test_a_bully_that_cannot_lead_yet_stops_nobody() -> None:
    table = Table("abc", algorithm="bully")
    table.connect()
    table.elect("c")
    table["c"].crash()
    table["c"].start()
    table.connect("ac", "bc")
    table.contend("c")
    table.do("c", Node.receive, "b", Election(E, 1, 0))
    assert not said(table, "c", Alive)
    table.now += table.settings.timing.lease
    table.do("c", Node.receive, "b", Election(E, 1, 0))
    assert said(table, "c", Alive)


def claimant(ids: str = "abcde", members: tuple[Member, ...] = ()) -> Table:
    """b asks for the first term, and has its own vote."""
    table = Table(ids, members=members, pre_vote=False)
    table.connect()
    table.contend("b")
    table["b"].fire("campaign")
    table.deliver(Accept, to="b")
    assert table["b"].node.elections[E].claimed == 1
    return table


def test_the_backers_of_an_old_claim_come_too_late_for_one_that_has_backed_another() -> None:
    table = claimant()
    table.do("b", Node.receive, "c", RequestVote(E, 2, 0, False))
    for voter in "ad":
        table.do("b", Node.receive, voter, Accept(E, 1, 1))
    assert table["b"].node.elections[E].role is Role.FOLLOWER
    assert table["b"].views[-1].leader is None


def test_the_backers_of_an_old_claim_come_too_late_for_one_that_has_heard_of_a_newer_term() -> None:
    table = claimant()
    table.do("b", Node.receive, "c", Refuse(E, 1, 7, Reason.OLD_TERM))
    assert table["b"].disk[E] == Promise(E, 7), "and that is on its disk"
    for voter in "ad":
        table.do("b", Node.receive, voter, Accept(E, 1, 1))
    assert table["b"].node.elections[E].role is not Role.LEADER


def test_the_word_of_an_observer_makes_nobody_a_leader() -> None:
    table = claimant(members=(*(Member(id) for id in "abc"), Member("o", kind=Kind.OBSERVER)))
    table.do("b", Node.receive, "o", Accept(E, 1, 1))
    assert table["b"].node.elections[E].role is Role.CANDIDATE


def test_refusals_of_one_round_do_not_count_in_the_next() -> None:
    table = claimant()
    for voter in "acd":
        table.do("b", Node.receive, voter, Refuse(E, 1, 1, Reason.BACKED_ANOTHER))
    assert table["b"].node.elections[E].role is Role.FOLLOWER
    table["b"].fire("campaign")
    assert table["b"].node.elections[E].claimed == 2
    table.do("b", Node.receive, "a", Refuse(E, 2, 2, Reason.BACKED_ANOTHER))
    assert table["b"].node.elections[E].claimed == 2


def test_a_newer_term_leaves_the_epoch_in_the_store() -> None:
    table = Table("abc", algorithm="zab")
    table.connect()
    table.elect("c")
    epoch = table["a"].disk[E].epoch
    assert epoch == 1
    table.do("a", Node.receive, "b", Refuse(E, 1, 7, Reason.OLD_TERM))
    assert table["a"].disk[E] == Promise(E, 7, None, epoch)


def test_a_follower_of_an_ended_leadership_is_told_and_does_not_count() -> None:
    table = Table()
    table.connect()
    table.elect("c")
    before = table["c"].node.elections[E].followers
    table.do("c", Node.receive, "a", Follow(E, 0, 1, 1, False, 0))
    assert table["c"].node.elections[E].followers == before
    assert said(table, "c", Resign) == [Resign(E, 0, None, False)]


def test_a_witness_that_says_it_contends_inherits_nothing() -> None:
    table = Table(members=(Member("a", kind=Kind.WITNESS), Member("b"), Member("c")))
    table.connect()
    table.elect("c")
    table.do("c", Node.receive, "a", Follow(E, 1, *table["c"].node.peers["a"].pair, True, 0))
    table.do("c", Node.transfer, E, "a")
    assert table.leaders() == ["c"]


def test_a_support_names_the_life_and_the_stretch_of_its_voter() -> None:
    table = Table("ab")
    table.connect()
    table["a"].crash()
    table["a"].start()
    table.connect()
    table["a"].node.peers["b"].begin_stretch()
    table.do("a", Node.receive, "b", Beat(5))
    assert said(table, "a", Support) == [Support(5, 2, 1)]


def test_who_has_lost_its_store_claims_nothing_before_it_has_rejoined() -> None:
    table = Table("abc", pre_vote=False)
    table["a"].crash()
    table["a"].start(rejoin=True)
    table.connect()
    table.now += table.settings.timing.lease
    table.contend("a")
    if ("campaign", E) in table["a"].timers:
        table["a"].fire("campaign")
    assert not said(table, "a", RequestVote)
    assert E not in table["a"].disk


def leader_of_two() -> Table:
    """c leads two elections, with leases of their own: b alone follows in one, and a alone in the other."""
    table = Table("abc")
    table.connect()
    table.elect("c")
    table.elect("c", "other")
    node = table["c"].node
    for name, voter in ((E, "b"), ("other", "a")):
        node.elections[name].followers = frozenset(f for f in node.elections[name].followers if f[0] == voter)
        node.rests_on_followers(node.elections[name])
    node.check_leases()
    return table


def beat_and_hear(table: Table, voter: str) -> None:
    """c's next beat is answered by this voter alone."""
    table["c"].fire("beat", "")
    table.deliver(Beat, to=voter)
    table.deliver(Support)
    table.wire.clear()


def test_the_end_of_the_first_lease_is_not_missed_for_a_later_one() -> None:
    table = leader_of_two()
    table.now += 0.1
    beat_and_hear(table, "a")
    node = table["c"].node
    node.check_leases()
    assert node.next_check == node.lease(E) < node.lease("other")
    node.examine(node.elections["other"])
    assert node.next_check == node.lease(E)


def test_an_old_life_is_not_met_again() -> None:
    table = Table("ab")
    table["a"].crash()
    table["a"].start()
    table.connect()
    table.do("b", Node.lost, "a", False)
    table.do("b", Node.connected, "a", 1)
    assert not table["b"].node.peers["a"].connected
    assert table["b"].node.peers["a"].incarnation == 2


def test_work_does_not_outlive_the_lease_it_rests_on() -> None:
    """A leader whose lease has ended gives up at once, though the work goes on."""
    table = Table("abc")
    table.connect()
    table.contend("c")
    table.deliver(RequestVote)
    while (
        table.deliver(PreVote) or table.deliver(Grant) or table.deliver(RequestVote) or table.deliver(Accept)
    ):
        pass
    assert table["c"].node.elections[E].role is Role.LEADER
    assert not table.leaders()
    table.do("c", Node.occupy, E)
    table.do("c", Node.resign, E)
    assert table["c"].node.elections[E].role is Role.FOLLOWER


def test_a_leader_that_gets_no_lease_in_time_steps_down() -> None:
    table = Table("abc")
    table.connect()
    table.contend("c")
    while (
        table.deliver(PreVote) or table.deliver(Grant) or table.deliver(RequestVote) or table.deliver(Accept)
    ):
        pass
    table.wire.clear()
    table.now += table.settings.timing.lease
    table["c"].fire("tenure")
    assert table["c"].node.elections[E].role is not Role.LEADER
    assert said(table, "c", Resign)


def test_a_leader_that_takes_over_nothing_keeps_its_place_against_a_lesser_claimant() -> None:
    table = Table("abc", algorithm="bully")
    table.connect()
    table.elect("c")
    table.do("c", Node.receive, "a", Victory(E, 9, 0))
    assert table.leaders() == ["c"]


def test_a_bound_voter_that_is_asked_tells_its_leader_that_it_follows() -> None:
    table = Table("abc", pre_vote=False)
    table.connect()
    table.elect("c")
    table["c"].fire("beat", "")
    table.settle()
    table.do("a", Node.receive, "b", RequestVote(E, 2, 0, False))
    assert [to for source, to, message in table.wire if source == "a" and isinstance(message, Follow)] == [
        "c"
    ]


def test_nobody_leads_at_the_instant_at_which_its_lease_ends() -> None:
    table = Table("abc")
    table.connect()
    table.elect("c")
    node = table["c"].node
    assert not node.is_leader(node.lease(E), E)
    assert node.is_leader(node.lease(E) - 0.001, E)


def test_a_promise_that_has_run_out_at_this_instant_is_another_stretch_at_the_next_beat() -> None:
    peer = Peer("c", Timing(lease=0.5))
    peer.promise(1.0)
    peer.promise(1.4)
    assert peer.epoch == 0
    peer.promise(1.9)
    assert peer.epoch == 1


def test_a_support_of_a_stretch_that_is_over_neither_counts_nor_brings_it_back() -> None:
    peer = Peer("c", Timing(lease=0.5))
    assert peer.support(1.0, (1, 2))
    assert not peer.support(3.0, (1, 1))
    assert (peer.pair, peer.granted) == ((1, 2), 1.0)
    assert not peer.support(0.5, (1, 2)), "nor does a late one shorten the lease"
    assert peer.granted == 1.0
    assert not peer.support(2.0, (1, 2))
    assert peer.granted == 2.0
    assert peer.support(1.5, (2, 0)), "a new stretch counts from its own beat"
    assert peer.granted == 1.5


def test_a_support_counts_from_the_beat_it_names() -> None:
    beats = Beats(1, lease=0.5)
    first, second = beats.next(1.0), beats.next(1.1)
    assert (beats.sent_at(first), beats.sent_at(second), beats.sent_at(second + 1)) == (1.0, 1.1, None)


def test_a_disk_that_stalls_does_not_fill_the_memory() -> None:
    """A leader repeats its Lead with each beat, and is answered each time: behind the disk, that waits once."""
    table = Table("abc")
    table.connect()
    b = table["b"]
    b.instant_disk = False
    for _ in range(100):
        table.do("b", Node.receive, "a", Lead(E, 1, 0))
    assert b.unsaved == [Promise(E, 1, "a", 0)]
    assert len(b.outbox.queue) <= 3
    assert not said(table, "b", Follow)
    b.commit()
    assert len(said(table, "b", Follow)) == 1
    assert not b.outbox.queue
    table.do("b", Node.receive, "a", Lead(E, 1, 0))
    assert len(said(table, "b", Follow)) == 2, "what does not wait is said again"


def test_all_that_has_gathered_during_a_commit_is_in_the_next() -> None:
    table = Table("abc", pre_vote=False)
    table.connect()
    b = table["b"]
    b.instant_disk = False
    for election in (E, "other"):
        table.do("b", Node.receive, "a", RequestVote(election, 1, 0, False))
    table.do("b", Node.receive, "a", RequestVote(E, 2, 0, False))
    assert b.unsaved == [Promise(E, 1, "a")]
    b.commit()
    assert b.unsaved == [Promise("other", 1, "a"), Promise(E, 2, "a")]
    assert said(table, "b", Accept) == [Accept(E, 1, 1)]
    b.commit()
    assert b.disk == {E: Promise(E, 2, "a"), "other": Promise("other", 1, "a")}


def test_the_same_life_that_greets_again_has_not_died() -> None:
    """a is bound to c still, and b counts a's vote still."""
    table = Table("abc", pre_vote=False)
    table.connect()
    table.elect("c")
    for event in (Node.met, Node.connected):
        table.do("a", event, "c", table["c"].incarnation)
        assert table["a"].views[-1].leader == "c"
        table.do("a", Node.receive, "b", RequestVote(E, 2, 0, False))
        assert not said(table, "a", Accept)
    table = claimant()
    table.do("b", Node.receive, "a", Accept(E, 1, 1))
    table.do("b", Node.met, "a", 1)
    assert table["b"].node.elections[E].backers == {"a", "b"}
