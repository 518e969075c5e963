"""Three nodes, of which one is watched, and whatever can happen to it: any order of events, any word in the names
of the others, crashes before and after each commit. What it has said must be on its disk, and stay true.

The two others are real nodes, and honest: so the watched one gets far. How far is counted, and a test of luck
that has not come far enough fails. The machine shrinks what it finds to the fewest steps, and prints them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from electorate.core.bully import Election, Victory
from electorate.core.elector import Elector
from electorate.core.liveness import Pair
from electorate.core.model import (
    MAX_TERM,
    Accept,
    Beat,
    Effect,
    ElectionMessage,
    Follow,
    Grant,
    Lead,
    Message,
    NodeId,
    PreVote,
    Promise,
    Reason,
    Recall,
    Recalled,
    Refuse,
    Resign,
    Role,
    Support,
    Term,
    Timing,
)
from electorate.core.node import BEAT, RECALL, Node
from electorate.core.raft import RequestVote
from electorate.core.ring import Ack, Coordinator, Echo, Probe, Token
from electorate.core.zab import FollowerInfo, LeaderInfo, Notification, State
from tests.table import E, Table

COMMON: tuple[type[Message], ...] = (
    *(Beat, Support, Recall, Recalled, PreVote, Grant, Accept, Refuse, Lead, Follow, Resign),
)
RING: tuple[type[Message], ...] = (Token, Coordinator, Ack)
WORDS: dict[str, tuple[type[Message], ...]] = {
    "bully": (Election, Victory),
    "ring": RING,
    "raft": (RequestVote,),
    "zab": (Notification, FollowerInfo, LeaderInfo),
    "chang-roberts": RING,
    "hirschberg-sinclair": (*RING, Probe, Echo),
}
"""What each algorithm says, beside what is common to all."""
SMALL = 9 * [*range(5)]
NEVER = float("-inf")
ABSURD = [-1, MAX_TERM, MAX_TERM + 1, 2**63]


def values(name: str, kind: Any) -> st.SearchStrategy[Any]:
    """Plausible and absurd values for a field of a message."""
    nodes = st.sampled_from(["a", "b", "c", "a", "b", "c", "x", ""])
    numbers = st.sampled_from(SMALL + ABSURD)
    names = st.sampled_from([E, E, E, "other", "unknown"])
    match name:
        case "visited" | "without" | "back":
            return st.lists(nodes, max_size=4).map(tuple)
        case "contenders":
            return st.lists(st.tuples(nodes, numbers), max_size=4).map(tuple)
        case "backers":
            return st.lists(st.tuples(st.sampled_from("abx"), numbers), max_size=4).map(tuple)
        case "terms":
            return st.lists(st.tuples(names, numbers), max_size=3).map(tuple)
        case "leader" | "initiator" | "heir":
            return nodes
        case "election":
            return names
        case "after":
            return st.sampled_from(["", E, "zzz"])
        case "reason":
            return st.sampled_from(list(Reason))
        case "state":
            return st.sampled_from(list(State))
        case "lease":
            return st.sampled_from([0.0, 0.5, 2.0, -1.0])
        case "clockwise" | "insist" | "contends" | "more" | "wished" | "force":
            return st.booleans()
    return numbers


def message_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = {field.name: values(field.name, field.type) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


def words(algorithm: str) -> st.SearchStrategy[Message]:
    """Mostly those of this algorithm, and now and then one of another."""
    own, others = WORDS[algorithm], [word for those in WORDS.values() for word in those]
    kinds = st.sampled_from([*own * 3, *COMMON, *others])
    return kinds.flatmap(message_of)


PEERS = ("a", "b")
peers = st.sampled_from(PEERS)
anybody = st.sampled_from(["a", "b", "c", "c"])
elections = st.sampled_from([E, E, "other"])
Claimed = tuple[str, Term]
Stretch = tuple[NodeId, Pair]


class Watched(Table):
    """The table, and all that c has said, has heard and has come to."""

    def __init__(self, algorithm: str) -> None:
        self.durable: dict[str, Promise] = {}
        self.backed: dict[Claimed, NodeId] = {}
        self.accepted: dict[Claimed, set[tuple[NodeId, int]]] = {}
        """Who has told c that it backs it, and in which life."""
        self.followed: dict[Claimed, set[Stretch]] = {}
        """Who has told c that it follows it, and in which stretch of support."""
        self.supported: dict[Stretch, float] = {}
        """When c sent the newest beat that was answered in this stretch."""
        self.led: list[Claimed] = []
        self.given: dict[str, tuple[NodeId, Term]] = {}
        """To whom c has wished to hand over, at the end of which term."""
        self.reached: set[str] = set()
        if algorithm in ("chang-roberts", "hirschberg-sinclair"):
            super().__init__(algorithm="ring", ring=algorithm)
        else:
            super().__init__(algorithm=algorithm)
        self.me = self["c"]
        self.me.instant_disk = False
        self.connect()
        self.contend("c")

    # --- how the world goes on --------------------------------------------------------------------

    def settle(self) -> None:
        """Everything that is under way arrives and is written, and whatever comes of it."""
        for _ in range(100):
            if self.me.unsaved:
                self.me.commit()
            if not self.wire and not self.me.unsaved:
                return
            self.deliver()
        raise AssertionError("they never stop talking")

    def let_try(self, id: NodeId) -> None:
        """Whoever leads resigns, it is the turn of this node, and everybody is honest."""
        self.contend(id)
        self.settle()
        for leader in self.leaders():
            if leader != id:
                self.do(leader, Node.resign, E)
        self.settle()
        for purpose in ("campaign", "finalize", "answers"):
            if (purpose, E) in self[id].timers:
                self[id].fire(purpose)
                self.settle()

    def let_beat(self) -> None:
        """Time passes as it should: whoever leads is heard."""
        self.now += 0.1
        for place in self.places.values():
            if ("beat", "") in place.timers:
                place.fire("beat", "")
        self.settle()

    # --- what c does and comes to -----------------------------------------------------------------

    def do(self, id: NodeId, event: Callable[..., list[Effect]], *arguments: Any) -> None:
        if id != "c":
            return super().do(id, event, *arguments)
        if event is Node.receive:
            self.hear(*arguments)
        before = {name: e.leader_term for name, e in self.me.node.leading.items() if e.secured}
        super().do(id, event, *arguments)
        self.note(before if event in (Node.receive, Node.fire) else {})
        return None

    def hear(self, sender: NodeId, message: Message) -> None:
        """What c may rely on from now on."""
        if sender not in self.membership.voters:
            return
        match message:
            case Accept(election=name, term=term, incarnation=life):
                self.accepted.setdefault((name, term), set()).add((sender, life))
            case Coordinator(election=name, term=term, leader="c", backers=backers):
                self.accepted.setdefault((name, term), set()).update(backers)
            case Follow(election=name, term=term):
                self.followed.setdefault((name, term), set()).add(
                    (sender, (message.incarnation, message.epoch))
                )
            case Support():
                sent = self.me.node.beats.sent_at(message.seq)
                stretch = (sender, (message.incarnation, message.epoch))
                if sent is not None:
                    self.supported[stretch] = max(sent, self.supported.get(stretch, sent))

    def note(self, before: dict[str, Term]) -> None:
        """An event of c is over, which was not its own wish if `before` names whom it led until then."""
        self.read_disk()
        self.somebody_tries()
        for name, election in self.me.node.elections.items():
            if election.role is Role.LEADER:
                self.rests_on_promises(name, election)
            if name in before and (election.role, election.leader_term) != (Role.LEADER, before[name]):
                self.reached.add("was deposed")
            if election.leader in PEERS:
                self.reached.add("followed")
                if name in self.given and self.given[name] < (election.leader, election.leader_term):
                    heir, term = self.given.pop(name)
                    if election.leader == heir and election.leader_term > term:
                        self.reached.add("handed over")

    def somebody_tries(self) -> None:
        """I9: c waits for nothing that need never come."""
        node = self.me.node
        if node.rejoin is not None:
            assert RECALL in self.me.timers
        for name, election in node.elections.items():
            armed = {purpose for purpose, subject in self.me.timers if subject == name}
            if election.role is Role.LEADER:
                assert BEAT in self.me.timers
                assert election.secured or "tenure" in armed, "it does not miss a lease that it never had"
            elif election.leader is not None:
                assert ("silence", election.leader) in self.me.timers, "it would not miss its leader"
            elif election.contends and node.rejoin is None and node.membership.is_quorum(node.reachable):
                assert armed & {"campaign", "answers"}, "it does not try"

    def rests_on_promises(self, name: str, election: Elector) -> None:
        term = election.leader_term
        lease = self.me.node.lease(name)
        if (name, term) not in self.led:
            assert self.backed.get((name, term)) == "c", "it leads without its own durable vote"
            lives = [(voter, self.me.node.incarnation_of(voter)) for voter in self.membership.voters]
            heard = self.accepted[name, term]
            assert self.membership.is_quorum([voter for voter, life in lives if (voter, life) in heard])
            self.led.append((name, term))
        answered = [self.supported.get(stretch, NEVER) for stretch in self.followed.get((name, term), ())]
        assert lease <= max(answered, default=NEVER) + Timing().safe_lease
        if self.now < lease:
            self.reached.add("led with a lease")
            if len([before for before, _ in self.led if before == name]) > 1:
                self.reached.add("led a second term")

    def transmitted(self, source: NodeId, to: NodeId, message: Message) -> None:
        super().transmitted(source, to, message)
        if source != "c" or not isinstance(message, ElectionMessage):
            return
        term = message.term
        kept = self.me.disk.get(message.election, Promise(message.election))
        match message:
            case Accept():
                assert kept.term > term or (kept.term, kept.backed) == (term, to)
            case Lead():
                assert kept.term > term or (kept.term, kept.backed) == (term, "c")
            case Coordinator(leader=leader) if term and message.is_backed_by("c"):
                assert kept.term > term or (kept.term, kept.backed) == (term, leader)
            case Follow() | Notification() | FollowerInfo():
                assert kept.term >= term
            case Refuse(newest=newest):
                assert kept.term >= newest
            case Resign(election=name, heir=heir, wished=True) if heir in PEERS:
                self.given[name] = (heir, term)

    def read_disk(self) -> None:
        """What c's disk holds, after whatever has happened."""
        for name, promise in self.me.disk.items():
            before = self.durable.get(name, Promise(name))
            assert promise.term >= before.term
            assert promise.epoch >= before.epoch
            self.durable[name] = promise
            if promise.backed:
                first = self.backed.setdefault((name, promise.term), promise.backed)
                assert promise.backed == first, "two were backed in one term"
                if promise.backed in PEERS:
                    self.reached.add("voted for another")


class Anything(RuleBasedStateMachine):
    """What befalls node c. `algorithm` is set by the test, and `reached` counted for it."""

    algorithm: ClassVar[str] = "raft"
    reached: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        self.table = Watched(self.algorithm)
        self.me = self.table.me

    def teardown(self) -> None:
        self.reached.update(self.table.reached)
        self.reached["runs"] += 1

    # --- what the world does ----------------------------------------------------------------------

    @rule(
        sender=st.sampled_from([*4 * PEERS, "x"]),
        ahead=st.sampled_from([0, 0, 1, 1, -1, None]),
        data=st.data(),
    )
    def is_lied_to(self, sender: NodeId, ahead: int | None, data: st.DataObject) -> None:
        """Mostly about the present: `ahead` of the newest term, or beat."""
        message = data.draw(words(self.algorithm))
        if ahead is not None:
            match message:
                case ElectionMessage(election=name) if name in self.me.node.elections:
                    term = self.me.node.elections[name].promise.term + ahead
                    message = msgspec.structs.replace(message, term=term)
                case Support():
                    message = msgspec.structs.replace(message, seq=self.me.node.beats.seq + ahead)
        before = self.me.node.ignored.total()
        self.table.do("c", Node.receive, sender, message)
        self.reached["lies"] += 1
        self.reached["ignored"] += self.me.node.ignored.total() > before

    @rule()
    def all_goes_on(self) -> None:
        self.table.settle()

    @rule(id=anybody)
    def tries(self, id: NodeId) -> None:
        self.table.let_try(id)

    @rule(beats=st.integers(1, 4))
    def time_passes(self, beats: int) -> None:
        for _ in range(beats):
            self.table.let_beat()

    @rule(seconds=st.floats(0.0, 0.7))
    def nothing_is_heard(self, seconds: float) -> None:
        self.table.now += seconds

    @rule()
    def one_word_arrives(self) -> None:
        if self.table.wire:
            source, to, message = self.table.wire.pop(0)
            self.table.do(to, Node.receive, source, message)

    @rule(peer=peers, older=st.booleans())
    def connects(self, peer: NodeId, older: bool) -> None:
        place = self.table[peer]
        self.table.do("c", Node.connected, peer, place.incarnation - older, place.rejoining)

    @rule(peer=peers, dead=st.booleans())
    def breaks(self, peer: NodeId, dead: bool) -> None:
        self.table.do("c", Node.lost, peer, dead)

    @rule()
    def comes_together(self) -> None:
        self.table.connect()

    @rule(peer=peers, newer=st.integers(-1, 1))
    def is_met(self, peer: NodeId, newer: int) -> None:
        self.table.do("c", Node.met, peer, self.table[peer].incarnation + newer)

    @precondition(lambda self: self.me.timers)
    @rule(data=st.data())
    def timer_fires(self, data: st.DataObject) -> None:
        self.me.fire(*data.draw(st.sampled_from(sorted(self.me.timers))))

    @rule(peer=peers, data=st.data())
    def timer_of_another_fires(self, peer: NodeId, data: st.DataObject) -> None:
        if self.table[peer].timers:
            self.table[peer].fire(*data.draw(st.sampled_from(sorted(self.table[peer].timers))))

    @rule(
        wish=st.sampled_from([Node.contend, Node.withdraw, Node.resign, Node.occupy, Node.vacate]),
        name=elections,
    )
    def wishes(self, wish: Any, name: str) -> None:
        self.table.do("c", wish, name)

    @rule(to=st.sampled_from(["a", "b", "c", "x"]), force=st.booleans())
    def transfers(self, to: NodeId, force: bool) -> None:
        self.table.do("c", Node.transfer, E, to, force)

    @rule(id=anybody)
    def is_handed_over(self, id: NodeId) -> None:
        """Whoever leads wishes so; if nobody does, it tries. It is as fresh as any."""
        self.table.connect()
        self.table.contend(id)
        freshest = max(place.node.elections[E].position for place in self.table.places.values())
        self.table.do(id, Node.set_position, E, freshest)
        self.table.settle()
        for leader in self.table.leaders():
            self.table.do(leader, Node.transfer, E, id)
        self.table.settle()
        self.table.let_try(id)

    @rule(peer=peers)
    def hears_of_a_newer_term(self, peer: NodeId) -> None:
        self.table.settle()
        term = self.me.node.elections[E].promise.term
        self.table.do("c", Node.receive, peer, Refuse(E, term, term + 1, Reason.OLD_TERM))

    @rule(position=st.integers(-1, 5))
    def is_as_fresh_as(self, position: int) -> None:
        self.table.do("c", Node.set_position, E, position)

    @rule()
    def stalls(self) -> None:
        self.table.do("c", Node.stalled)

    @precondition(lambda self: self.me.unsaved)
    @rule()
    def commits(self) -> None:
        self.me.commit()

    @rule(written=st.booleans())
    def dies_and_restarts(self, written: bool) -> None:
        """Before or after what it was writing was durable."""
        if written:
            self.me.write()
        self.restart("c")

    @rule(peer=peers)
    def another_restarts(self, peer: NodeId) -> None:
        self.restart(peer)

    @rule()
    def loses_its_store(self) -> None:
        self.me.disk.clear()
        self.table.durable.clear()
        self.table.backed.clear()
        self.table.led.clear()
        self.restart("c", rejoin=True)
        self.table.contend("c")
        self.me.fire("recall", "")
        self.table.settle()
        if self.me.node.rejoin is None:
            self.table.reached.add("rejoined")

    def restart(self, id: NodeId, rejoin: bool = False) -> None:
        self.table[id].crash()
        self.table[id].start(rejoin)
        self.table.supported = {} if id == "c" else self.table.supported
        self.table.connect()

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def its_word_is_on_its_disk(self) -> None:
        self.table.read_disk()

    @invariant()
    def the_state_is_a_value(self) -> None:
        hash(self.me.node.state())


GOALS = {
    "led with a lease": 1 / 3,
    "led a second term": 1 / 15,
    "was deposed": 1 / 25,
    "handed over": 1 / 15,
    "voted for another": 1 / 6,
    "followed": 1 / 6,
    "rejoined": 1 / 6,
}
"""In which part of the stories this must happen to c."""
FUZZ_EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


@pytest.mark.parametrize("algorithm", WORDS)
def test_whatever_happens_a_node_keeps_its_word(algorithm: str) -> None:
    """The same stories each time, unless a number of new ones is asked for."""
    reached: Counter[str] = Counter()
    machine = type("Anything", (Anything,), {"algorithm": algorithm, "reached": reached})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(FUZZ_EXAMPLES or 150),
            stateful_step_count=40,
            derandomize=FUZZ_EXAMPLES is None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    rare = {goal: reached[goal] for goal in GOALS if reached[goal] < reached["runs"] * GOALS[goal]}
    assert not rare, (rare, reached)
    assert reached["ignored"] < reached["lies"] * 9 / 10, reached
