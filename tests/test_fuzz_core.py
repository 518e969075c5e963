"""Three nodes, of which one is real, and whatever can happen: any order of events, any word of the others,
crashes before and after each commit. What the node has said must be on its disk, and stay true.

The machine shrinks what it finds to the fewest steps, and prints them.
"""

from __future__ import annotations

import os
from typing import Any

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

from electorate.core.model import (
    Accept,
    Beat,
    Claim,
    Follow,
    Lead,
    Message,
    NodeId,
    Promise,
    Role,
    Support,
    Timing,
)
from electorate.core.node import Node
from electorate.core.raft import Grant, PreVote
from electorate.core.ring import Ack, Coordinator, Echo, Probe, Token
from electorate.core.zab import FollowerInfo, Notification, State
from tests.table import E, Table
from tests.test_core import messages

PEERS = ("a", "b")
peers = st.sampled_from(PEERS)
elections = st.sampled_from([E, "other"])


class Anything(RuleBasedStateMachine):
    """Node c, of three; a and b are played, and lie. `algorithm` is set by the test."""

    algorithm = "raft"

    @initialize()
    def begin(self) -> None:
        known = self.algorithm in ("bully", "ring", "raft", "zab")
        self.table = (
            Table(algorithm=self.algorithm) if known else Table(algorithm="ring", ring=self.algorithm)
        )
        self.me = self.table["c"]
        self.me.instant_disk = False
        self.table.connect()
        self.table.contend("c")
        self.durable: dict[str, Promise] = {}
        self.backed: dict[tuple[str, int], NodeId] = {}
        self.led: set[tuple[str, int]] = set()
        self.supported: dict[int, float] = {}
        """The beats that a or b have answered, and when each was sent."""

    # --- what the world does ----------------------------------------------------------------------

    @rule(sender=st.sampled_from(["a", "b", "x"]), message=messages)
    def says(self, sender: NodeId, message: Message) -> None:
        self.note(sender, message)
        self.table.do("c", Node.receive, sender, message)

    @rule(sender=peers)
    def answers_what_it_was_asked(self, sender: NodeId) -> None:
        """As an honest voter would, so that the node gets far."""
        asked = [item for item in self.table.wire if item[:2] == ("c", sender)]
        self.table.wire = [item for item in self.table.wire if item not in asked]
        for _, _, message in asked:
            for answer in likely(message):
                self.note(sender, answer)
                self.table.do("c", Node.receive, sender, answer)

    @rule()
    def goes_on(self) -> None:
        """Its disk has written, and it hears what it says to itself."""
        if self.me.unsaved:
            self.me.commit()
        own = [item for item in self.table.wire if item[:2] == ("c", "c")]
        self.table.wire = [item for item in self.table.wire if item not in own]
        for _, _, message in own:
            self.table.do("c", Node.receive, "c", message)

    @rule()
    def prospers(self) -> None:
        """For a while everybody is honest, and it is its turn."""
        for _ in range(6):
            for timer in [("campaign", E), ("finalize", E)]:
                view = self.me.node.view(E)
                if view and not view.leader and timer in self.me.timers:
                    self.me.fire(*timer)
            self.goes_on()
            for peer in PEERS:
                self.answers_what_it_was_asked(peer)

    @rule(peer=peers, incarnation=st.integers(1, 3))
    def connects(self, peer: NodeId, incarnation: int) -> None:
        self.table.do("c", Node.connected, peer, incarnation)

    @rule(peer=peers, dead=st.booleans())
    def breaks(self, peer: NodeId, dead: bool) -> None:
        self.table.do("c", Node.lost, peer, dead)

    @rule(peer=peers, incarnation=st.integers(1, 3))
    def is_met(self, peer: NodeId, incarnation: int) -> None:
        self.table.do("c", Node.met, peer, incarnation)

    @rule(seconds=st.floats(0.0, 0.7))
    def waits(self, seconds: float) -> None:
        self.table.now += seconds

    @precondition(lambda self: self.me.timers)
    @rule(data=st.data())
    def timer_fires(self, data: st.DataObject) -> None:
        timer = data.draw(st.sampled_from(sorted(self.me.timers)))
        self.me.fire(*timer)

    @rule(
        wish=st.sampled_from([Node.contend, Node.withdraw, Node.resign, Node.occupy, Node.vacate]),
        name=elections,
    )
    def wishes(self, wish: Any, name: str) -> None:
        self.table.do("c", wish, name)

    @rule(to=st.sampled_from(["a", "b", "c", "x"]))
    def transfers(self, to: NodeId) -> None:
        self.table.do("c", Node.transfer, E, to)

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

    @rule()
    def dies_and_restarts(self) -> None:
        self.me.crash()
        self.me.start()
        self.supported = {}
        for peer in PEERS:
            self.table.do("c", Node.connected, peer, 3)

    # --- what must hold ---------------------------------------------------------------------------

    def note(self, sender: NodeId, message: Message) -> None:
        if isinstance(message, Support) and sender in PEERS:
            sent = self.me.node.beats.sent_at(message.seq)
            if sent is not None:
                self.supported[message.seq] = sent

    @invariant()
    def promises_only_grow(self) -> None:
        for name, promise in self.me.disk.items():
            before = self.durable.get(name, Promise(name))
            assert promise.term >= before.term
            assert promise.epoch >= before.epoch
            self.durable[name] = promise
            if promise.backed:
                first = self.backed.setdefault((name, promise.term), promise.backed)
                assert promise.backed == first, "two were backed in one term"

    @invariant()
    def what_is_said_is_on_the_disk(self) -> None:
        for source, to, message in self.table.wire:
            if source != "c":
                continue
            kept = self.me.disk.get(getattr(message, "election", E), Promise(E))
            if isinstance(message, Accept):
                assert kept.term > message.term or (kept.term, kept.backed) == (message.term, to)
            elif isinstance(message, Lead):
                assert kept.term > message.term or (kept.term, kept.backed) == (message.term, "c")
            elif isinstance(message, Follow):
                assert kept.term >= message.term
        del self.table.wire[:-20]

    @invariant()
    def leads_by_a_quorum_and_once(self) -> None:
        for name, election in self.me.node.elections.items():
            if election.role is not Role.LEADER:
                continue
            kept = self.me.disk[name]
            assert kept.term >= election.leader_term
            assert self.backed.get((name, election.leader_term), "c") == "c"

    @invariant()
    def a_lease_rests_on_an_answer(self) -> None:
        newest = max(self.supported.values(), default=float("-inf"))
        for name in (E, "other"):
            assert self.me.node.lease(name) <= newest + Timing().safe_lease

    @invariant()
    def the_state_is_a_value(self) -> None:
        hash(self.me.node.state())


def likely(message: Message) -> list[Message]:
    """What an honest voter would say to that."""
    match message:
        case Beat(seq=seq):
            return [Support(seq, 1, 0)]
        case Lead(election=election, term=term):
            return [Follow(election, term, 1, 0, True)]
        case PreVote(election=election, term=term):
            return [Grant(election, term)]
        case Token(initiator="c"):
            acknowledged = Ack(message.election, message.term, message.initiator, message.serial)
            return [acknowledged, msgspec.structs.replace(message, visited=(*message.visited, "a", "b"))]
        case Coordinator(leader="c"):
            acknowledged = Ack(message.election, message.term, message.initiator, message.serial)
            return [acknowledged, msgspec.structs.replace(message, backers=("a", "b", "c"))]
        case Probe(initiator="c", hops=hops) if hops > 2:
            return [message]
        case Probe(initiator="c"):
            return [Echo(message.election, message.term, "c", message.serial, 0, message.clockwise)]
        case Claim(election=election, term=term):
            return [Accept(election, term)]
        case Notification(leader="c", state=State.LOOKING):
            return [message, FollowerInfo(message.election, message.term)]
        case _:
            return []


@pytest.mark.parametrize(
    "algorithm", ["bully", "ring", "raft", "zab", "chang-roberts", "hirschberg-sinclair"]
)
def test_whatever_happens_a_node_keeps_its_word(algorithm: str) -> None:
    machine = type("Anything", (Anything,), {"algorithm": algorithm})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
