"""A handful of core nodes on a table: the test delivers each message, fires each timer and ends each
commit by hand. For what the simulator would only meet by luck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from electorate.core.identity import Rejoin, Start
from electorate.core.model import (
    Effect,
    Follow,
    Forget,
    Gone,
    Lead,
    Member,
    Membership,
    Message,
    NodeId,
    Notice,
    Promise,
    QuorumRule,
    Record,
    Settings,
    Timer,
    View,
)
from electorate.core.node import Node
from electorate.core.outbox import Outbox

E = "main"


class Place:
    """One node at the table, with a disk that commits when it is told to (or at once)."""

    def __init__(self, table: Table, id: NodeId) -> None:
        self.table = table
        self.id = id
        self.disk: dict[str, Promise] = {}
        self.gone: frozenset[NodeId] = frozenset()
        """Whom the disk says to refuse until they rejoin."""
        self.incarnation = 0
        self.instant_disk = True
        self.start()

    def start(self, rejoin: bool | Rejoin = False) -> None:
        self.incarnation += 1
        self.unsaved: list[Record] | None = None
        self.timers: dict[Timer, tuple[float, float]] = {}
        self.views: list[View] = []
        self.notices: list[Notice] = []
        self.outbox = Outbox(self)
        self.node = Node(
            self.id,
            self.table.membership,
            self.table.settings,
            start=Start(self.incarnation, self.incarnation),
            promises=self.disk,
            gone=self.gone,
            rejoin=Rejoin() if rejoin is True else rejoin or None,
        )
        self.outbox.perform(self.node.start(self.table.now))

    @property
    def rejoining(self) -> bool:
        """What it says of itself when it is met."""
        return self.node.rejoin is not None and self.node.rejoin.lost

    def transmit(self, to: NodeId, message: Message) -> None:
        self.table.transmitted(self.id, to, message)

    def arm(self, timer: Timer, low: float, high: float) -> None:
        self.timers[timer] = (low, high)

    def disarm(self, timer: Timer) -> None:
        self.timers.pop(timer, None)

    def announce(self, view: View) -> None:
        self.views.append(view)

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def save(self, records: list[Record]) -> None:
        self.unsaved = records
        if self.instant_disk:
            self.commit()

    def commit(self) -> None:
        """The commit under way reaches the disk."""
        assert self.unsaved is not None
        self.write()
        self.outbox.saved()

    def write(self) -> None:
        """What is under way is durable, but the node has not heard so."""
        for record in self.unsaved or ():
            if isinstance(record, Gone):
                self.gone = self.gone | {record.node} if record.gone else self.gone - {record.node}
            elif isinstance(record, Forget):
                self.disk.pop(record.election, None)
            else:
                self.disk[record.election] = record
        self.unsaved = None

    def fire(self, purpose: str, subject: str = E) -> None:
        del self.timers[purpose, subject]
        self.table.do(self.id, Node.fire, (purpose, subject))

    def crash(self) -> None:
        self.table.wire = [m for m in self.table.wire if self.id not in m[:2]]


class Table:
    def __init__(
        self,
        ids: str = "abc",
        rule: QuorumRule = QuorumRule.MAJORITY,
        members: tuple[Member, ...] = (),
        **settings: Any,
    ) -> None:
        self.membership = Membership(members or tuple(Member(id) for id in ids), rule)
        self.settings = Settings(**{"elections": (E, "other"), **settings})
        self.now = 10.0
        self.wire: list[tuple[NodeId, NodeId, Message]] = []
        self.places = {m.id: Place(self, m.id) for m in self.membership.members}

    def __getitem__(self, id: NodeId) -> Place:
        return self.places[id]

    def connect(self, *pairs: str) -> None:
        """Connect all to all, or the given pairs ("ab") in both directions."""
        wanted = pairs or [a + b for a in self.places for b in self.places if a < b]
        for pair in wanted:
            for x, y in (tuple(pair), tuple(reversed(pair))):
                self.do(x, Node.connected, y, self[y].incarnation, self[y].rejoining)

    def transmitted(self, source: NodeId, to: NodeId, message: Message) -> None:
        """A message leaves the node."""
        self.wire.append((source, to, message))

    def do(self, id: NodeId, event: Callable[..., list[Effect]], *arguments: object) -> None:
        """Let an event happen to a node: `do("a", Node.contend, E)`."""
        self[id].outbox.perform(event(self[id].node, self.now, *arguments))

    def deliver(self, kind: type[Message] | None = None, source: str = "", to: str = "") -> list[Message]:
        """Deliver the messages that are under way now and fit; returns them."""
        fits = [
            m
            for m in self.wire
            if (kind is None or isinstance(m[2], kind))
            and (not source or m[0] in source)
            and (not to or m[1] in to)
        ]
        for item in fits:
            self.wire.remove(item)
            self.do(item[1], Node.receive, item[0], item[2])
        return [message for _, _, message in fits]

    def settle(self) -> None:
        """Deliver everything, and whatever comes of it."""
        while self.wire:
            self.deliver()

    def contend(self, *ids: NodeId) -> None:
        for id in ids:
            self.do(id, Node.contend, E)

    def transfer(self, leader: NodeId, heir: NodeId, force: bool = False) -> None:
        """Hand over, or begin to: the heir says once more that it follows."""
        self.do(leader, Node.transfer, E, heir, force)
        self.deliver(Lead, source=leader, to=heir)
        self.deliver(Follow, source=heir, to=leader)

    def leaders(self, election: str = E) -> list[NodeId]:
        """Who holds a lease at this instant; all clocks on the table show the same."""
        return [id for id, place in self.places.items() if place.node.is_leader(self.now, election)]

    def elect(self, id: NodeId, election: str = E) -> None:
        """Make this node the leader, with a lease."""
        self.do(id, Node.contend, election)
        self.settle()
        for purpose in ("campaign", "answers"):
            if (purpose, election) in self[id].timers:
                self[id].fire(purpose, election)
                self.settle()
        assert self.leaders(election) == [id], (id, self.leaders(election))
