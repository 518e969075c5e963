"""Every guard of the design, removed: the simulator (or a table of nodes) must then see a violation.

The same runs with the guard in place are clean, or these tests would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from electorate.core.elector import Elector
from electorate.core.liveness import Beats, Pair, Peer
from electorate.core.model import (
    Accept,
    Beat,
    Effect,
    Follow,
    Lead,
    Member,
    Membership,
    NodeId,
    Promise,
    Resign,
    Role,
    Save,
    Send,
    Settings,
    Support,
    Timing,
)
from electorate.core.node import Node
from electorate.core.outbox import Outbox
from electorate.core.raft import RequestVote
from electorate.core.ring import Coordinator, Token
from electorate.sim.faults import FAST
from electorate.sim.network import Delay, Weather
from electorate.sim.run import simulate
from electorate.sim.world import Host, Plan, World
from tests.table import E, Table

SAFETY = ("I1", "I2", "I3", "I4", "I8")
Patch = pytest.MonkeyPatch


def hunt(algorithm: str, seeds: range, nodes: int = 3, seconds: float = 20.0) -> str | None:
    """The first violation of safety in hostile runs, or None."""
    for seed in seeds:
        outcome = simulate("hostile", seed, nodes, seconds, settings=Settings(algorithm=algorithm))  # type: ignore[arg-type]
        for violation in outcome.violations:
            if violation.startswith(SAFETY):
                return violation
    return None


def no_support_epoch(patch: Patch) -> None:
    patch.setattr(Peer, "begin_stretch", lambda self: None)


def no_amnesia_guard(patch: Patch) -> None:
    patch.setattr(Elector, "is_amnesiac", lambda self: False)


def no_stickiness(patch: Patch) -> None:
    patch.setattr(Elector, "is_sticky", lambda self, claimant: False)


def lead_on_while_handing_over(patch: Patch) -> None:
    step_down = Elector.step_down

    def say_only(
        self: Elector, heir: NodeId | None = None, wished: bool = False, force: bool = False
    ) -> None:
        if heir is None:
            return step_down(self)
        for peer in self.node.peers:
            self.send(peer, Resign(self.name, self.leader_term, heir, False))
        return None

    patch.setattr(Elector, "step_down", say_only)


def lead_on_while_backing_another(patch: Patch) -> None:
    patch.setattr(Elector, "free_myself_for", lambda self, claimant: self.forget_leader())


def count_from_receipt(patch: Patch) -> None:
    on_support = Node.on_support

    def late(self: Node, sender: NodeId, support: Support) -> None:
        self.beats.sent = tuple((n, self.now if n == support.seq else at) for n, at in self.beats.sent)
        on_support(self, sender, support)

    patch.setattr(Node, "on_support", late)


def send_before_saving(patch: Patch) -> None:
    perform = Outbox.perform

    def hasty(self: Outbox, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.host.transmit(effect.to, effect.message)
            else:
                perform(self, [effect])

    patch.setattr(Outbox, "perform", hasty)


def never_save(patch: Patch) -> None:
    perform = Outbox.perform
    patch.setattr(
        Outbox,
        "perform",
        lambda self, effects: perform(self, [e for e in effects if not isinstance(e, Save)]),
    )


def back_twice_in_a_term(patch: Patch) -> None:
    patch.setattr(Elector, "has_backed_another", lambda self, claimant: False)


def let_leases_come_back(patch: Patch) -> None:
    examine = Node.examine

    def indulgent(self: Node, election: Elector) -> None:
        if self.tenures[election.name].until > self.now:
            examine(self, election)

    patch.setattr(Node, "examine", indulgent)


def believe_any_break_is_death(patch: Patch) -> None:
    lost = Node.lost
    patch.setattr(Node, "lost", lambda self, now, peer, dead: lost(self, now, peer, True))


def give_away_before_the_work_has_ended(patch: Patch) -> None:
    patch.setattr(Elector, "occupy", lambda self: None)


def forget_what_restarted_voters_promised(patch: Patch) -> None:
    patch.setattr(Elector, "assure", lambda self: None)


REMOVALS: list[tuple[Callable[[Patch], None], str, int]] = [
    (no_support_epoch, "raft", 3),
    (no_amnesia_guard, "raft", 3),
    (no_stickiness, "bully", 3),
    (lead_on_while_handing_over, "bully", 3),
    (lead_on_while_backing_another, "raft", 3),
    (count_from_receipt, "bully", 3),
    (send_before_saving, "raft", 3),
    (never_save, "zab", 3),
    (back_twice_in_a_term, "ring", 3),
    (let_leases_come_back, "raft", 3),
    (believe_any_break_is_death, "raft", 3),
    (give_away_before_the_work_has_ended, "bully", 3),
    (forget_what_restarted_voters_promised, "raft", 3),
]


@pytest.mark.parametrize(
    ("remove", "algorithm", "nodes"), REMOVALS, ids=lambda value: getattr(value, "__name__", None)
)
def test_without_the_guard_the_simulator_finds_a_violation(
    remove: Callable[[Patch], None], algorithm: str, nodes: int, monkeypatch: Patch
) -> None:
    remove(monkeypatch)
    assert hunt(algorithm, range(400), nodes), f"{remove.__name__} went unnoticed"


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
def test_with_every_guard_hostile_runs_are_safe(algorithm: str) -> None:
    assert hunt(algorithm, range(40)) is None


def overlap_of_drifting_clocks() -> list[str]:
    """A leader with a slow clock and voters with fast ones, all at the bound, on a fast network; then the
    leader is cut off. Its lease must end before another has one."""
    timing = Timing(beat=0.04, lease=0.2, drift=0.05, patience=0.01, rank_slot=0.0001)
    quick = Weather(delay=Delay("constant", 0.00001))
    members = Membership(tuple(Member(id) for id in "abc"))
    world = World(Plan(membership=members, settings=Settings(timing=timing), weather=quick), 1)
    for id, rate in (("a", 1.05), ("b", 1.05), ("c", 0.95)):
        world.hosts[id].set_rate(rate)
    world.start()
    world.run(1.0)
    assert world.holders(E) == ["c"]
    world.split(("a", "b"), ("c",))
    world.run(2.0)
    assert world.holders(E) == ["b"]
    return [violation.invariant for violation in world.violations]


def test_clock_drift_is_allowed_for(monkeypatch: Patch) -> None:
    assert overlap_of_drifting_clocks() == []
    monkeypatch.setattr(Timing, "safe_lease", property(lambda self: self.lease))
    assert overlap_of_drifting_clocks() == ["I2"]


def leaders_before_the_commit() -> list[NodeId]:
    """The only voter backs itself, and its disk is slow: it would lead the same term again after a crash."""
    table = Table("a")
    table["a"].instant_disk = False
    table.contend("a")
    table.settle()
    early = table.leaders()
    table["a"].commit()
    table.settle()
    assert table.leaders() == ["a"]
    return early


def test_own_vote_counts_only_once_it_is_durable(monkeypatch: Patch) -> None:
    assert leaders_before_the_commit() == []
    claim = Elector.claim

    def count_at_once(self: Elector, newest: int = 0) -> None:
        claim(self, newest)
        self.on_accept(self.me, Accept(self.name, self.claimed, self.node.incarnation))

    monkeypatch.setattr(Elector, "claim", count_at_once)
    assert leaders_before_the_commit() == ["a"]


def test_a_beat_of_an_earlier_life_proves_nothing(monkeypatch: Patch) -> None:
    """A support of a beat that the leader's last incarnation sent must not count for this one."""

    def support_of_old_beat() -> int:
        table = Table("ab")
        table.connect()
        table.elect("b")
        old = table["b"].node.beats.seq
        table["b"].crash()
        table["b"].start()
        table.now += 0.01
        table["b"].node.beats.next(table.now)
        table.do("b", Node.receive, "a", Support(old, 1, 0))
        return table["b"].node.ignored["a support of no beat of mine"]

    assert support_of_old_beat() == 1

    def from_zero(self: Beats, incarnation: int, lease: float) -> None:
        self.lease, self.seq, self.sent, self.running = lease, 0, (), False

    monkeypatch.setattr(Beats, "__init__", from_zero)
    assert support_of_old_beat() == 0


def free_before_the_first_beat() -> list[NodeId]:
    """a follows c and has had no beat yet; b asks for its vote. Who votes for it?"""
    table = Table("abc", pre_vote=False)
    table.connect()
    table.do("c", Node.contend, E)
    table.deliver(RequestVote, to="a")
    table.wire = [m for m in table.wire if m[1] != "b"]
    table.deliver(Accept)
    table.deliver(Lead, to="a")
    table.deliver(Follow)
    assert not table.leaders(), "no beat has been answered yet"
    table.do("a", Node.receive, "b", RequestVote(E, 2, 0, False))
    return ["a"] if table["a"].disk[E].backed == "b" else []


def test_support_begins_at_follow(monkeypatch: Patch) -> None:
    """a follows c, and has not had a beat yet: it does not vote for b all the same."""
    assert free_before_the_first_beat() == []
    watch = Node.watch

    def unbound(self: Node, leader: NodeId) -> Pair:
        pair = watch(self, leader)
        self.peers[leader].promised = None
        return pair

    monkeypatch.setattr(Node, "watch", unbound)
    assert free_before_the_first_beat() == ["a"]


def claim_for_the_leader() -> bool:
    """A promise of a to b, its leader, has run out unnoticed; a ring claim comes round for b, and frees a to vote for
    b's next term, and then for others. Does b know, by a's support from then on, not to count on a?"""
    table = Table("ab", algorithm="ring")
    table.connect()
    table.elect("b")
    table["b"].fire("beat", "")
    table.deliver(Beat)
    table.now += table.settings.timing.lease
    claim = Coordinator(E, 5, 0, "b", 9, ("b",), "b", (("b", 1),))
    table.do("a", Node.receive, "b", claim)
    assert table["a"].disk[E].backed == "b"
    [(_, pair)] = table["b"].node.elections[E].followers
    return table["a"].node.peers["b"].epoch > pair[1]


def test_whatever_frees_a_voter_begins_a_new_stretch(monkeypatch: Patch) -> None:
    assert claim_for_the_leader()
    monkeypatch.setattr(Peer, "lapse", lambda self, now: None)
    assert not claim_for_the_leader()


def test_a_leader_does_not_count_those_who_follow_in_an_older_stretch() -> None:
    table = Table("ab")
    table.connect()
    table.elect("b")
    table["a"].node.peers["b"].begin_stretch()
    table["b"].fire("beat", "")
    table.deliver(Beat)
    table.deliver(Support)
    assert table.leaders() == []
    assert table["b"].views[-1].role is not Role.LEADER


def test_a_late_follow_of_an_older_stretch_does_not_hide_that_a_voter_must_be_told_again() -> None:
    table = Table()
    table.connect()
    table.elect("c")
    late = Follow(E, 1, 1, 0, False, 0)
    table.do("c", Node.receive, "a", Support(table["c"].node.beats.seq, 1, 1))
    assert E in table["c"].node.untold["a"]
    table.do("c", Node.receive, "a", late)
    assert E in table["c"].node.untold["a"]
    table.do("c", Node.receive, "a", Follow(E, 1, 1, 1, False, 0))
    assert E not in table["c"].node.untold["a"]


def proxy_claim() -> list[NodeId]:
    """b proposes c, who is leading already, to a, who follows it. Who holds the lease in the end?"""
    table = Table("abc", algorithm="ring")
    table.connect()
    table.elect("c")
    table.settle()
    claim = Coordinator(E, 5, 0, "b", 9, ("b",), "c", (("b", 1),))
    table.do("a", Node.receive, "b", claim)
    promise = table["a"].node.elections[E].promise
    return ["c"] if promise.term < 5 else ["freed"]


def test_a_claim_on_behalf_of_a_living_leader_frees_nobody(monkeypatch: Patch) -> None:
    assert proxy_claim() == ["c"]

    def trusting(message: Token | Coordinator) -> NodeId:
        return message.initiator if isinstance(message, Token) else message.leader

    monkeypatch.setattr("electorate.core.ring.speaker", trusting)
    assert proxy_claim() == ["freed"]


def test_a_stalled_store_ends_leadership_at_once() -> None:
    table = Table()
    table.connect()
    table.elect("c")
    table["c"].instant_disk = False
    table.do("c", Node.stalled)
    assert table.leaders() == []
    assert any(isinstance(m, Resign) for _, _, m in table.wire), "and says so, without waiting for the disk"


def test_a_lost_store_is_refused_and_rejoins_without_backing_anybody_twice() -> None:
    table = Table("abc", pre_vote=False)
    table.connect()
    table.elect("c")
    term = table["a"].disk[E].term
    table["a"].disk.clear()
    table.do("b", Node.connected, "a", table["a"].incarnation - 1)
    assert table["b"].node.ignored["a connection to an incarnation that is gone"] == 1
    table["a"].start(rejoin=True)
    table.do("a", Node.receive, "b", RequestVote(E, term, 0, False))
    assert table.wire == [], "nobody is backed before a quorum has told its terms"
    table.connect("ab", "ac")
    table["a"].fire("recall", "")
    table.settle()
    assert table["a"].disk[E] == Promise(E, term, "", 0)
    table.do("a", Node.receive, "b", RequestVote(E, term, 0, False))
    assert not any(isinstance(m, Accept) for _, _, m in table.wire)


def test_no_news_twice() -> None:
    """Lead is said once to whoever follows, and again at every beat to whoever does not."""
    table = Table()
    table.connect()
    table.elect("c")
    table["c"].fire("beat", "")
    assert [type(m) for _, _, m in table.wire] == [Beat, Beat]
    table.settle()
    table["c"].node.elections[E].node.untold["b"][E] = table["c"].node.elections[E]
    table["c"].fire("beat", "")
    assert [(to, type(m)) for _, to, m in table.wire] == [("a", Beat), ("b", Lead), ("b", Beat)]


def test_the_simulated_driver_takes_only_a_refused_connection_for_death() -> None:
    """The links of a leader break, though it lives: nobody is freed before the lease has run out."""
    members = Membership(tuple(Member(id) for id in "abc"))
    world = World(Plan(membership=members, settings=Settings(timing=FAST)), 1)
    world.start()
    world.run(1.0)
    assert world.holders(E) == ["c"]
    for other in "ab":
        world.cut("c", other)
    world.split(("a", "b"), ("c",))
    world.run(1.0 + FAST.lease / 2)
    assert all(
        isinstance(host, Host) and host.node.elections[E].leader == "c" for host in world.hosts.values()
    )
    world.run(2.0)
    assert world.holders(E) == ["b"]
    assert world.violations == []
