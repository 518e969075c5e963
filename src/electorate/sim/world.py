"""The simulated world: hosts with clocks, disks and processes, in virtual time.

One seed decides everything that is random, and nothing else does, so a seed is a complete bug report.
True time is known to the world only; a host reads its own clock, which may run fast or slow and started
anywhere. Each host drives a real `core.Node` through a real `core.Outbox`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

import msgspec

from electorate.core.identity import Rejoin, Start
from electorate.core.model import (
    Effect,
    Gone,
    Membership,
    Message,
    NodeId,
    Notice,
    Promise,
    Record,
    Settings,
    Term,
    Timer,
    View,
)
from electorate.core.node import BEAT, Node
from electorate.core.outbox import Outbox
from electorate.sim.invariants import Invariants, Violation
from electorate.sim.network import Link, Weather
from electorate.sim.trace import Entry

REDIAL = 0.05
"""Seconds between two attempts to connect."""
COMMIT = (0.0001, 0.0006)
"""How long a durable commit takes, in seconds."""
SAMPLE = 0.01
"""Availability is sampled once in so many simulated seconds."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that, with a seed, determines a run before any fault."""

    membership: Membership
    settings: Settings
    weather: Weather = Weather()
    elections: tuple[str, ...] = ("main",)
    contenders: tuple[NodeId, ...] | None = None
    """Who wants to lead (None: all who may)."""
    fast_failover: bool = True
    """A refused connection proves that the process is gone."""
    work: float | None = None
    """Each leader has work that rests on its leadership; asked to end it, it takes up to so many seconds."""
    skew: bool = False
    """Clocks drift as far as `timing.drift` allows, and start anywhere."""


class Host:
    """One machine: a clock, a disk, and the process that runs a node."""

    def __init__(self, world: World, id: NodeId) -> None:
        self.world = world
        self.id = id
        self.links: dict[NodeId, Link] = {}
        drift = world.plan.settings.timing.drift
        self.rate = 1 + (world.random.uniform(-drift, drift) if world.plan.skew else 0.0)
        self.offset = world.random.uniform(0, 1000) if world.plan.skew else 0.0
        self.disk: dict[str, Promise] = {}
        self.incarnation = 0
        self.store = 0
        """The number of the present store: one that was lost is replaced by another."""
        self.rejoining = False
        self.lives: dict[NodeId, tuple[int, int]] = {}
        """The newest incarnation and store of each peer that was ever met; kept on the disk."""
        self.commit_time = COMMIT
        self.committing: list[Record] = []
        self.contends: dict[str, bool] = {}
        self.positions: dict[str, int] = {}
        self.timers: dict[Timer, int] = {}
        self.working: dict[str, float] = {}
        """The elections that I lead and have work in, and how long my lease lasts at least, in true time."""
        self.up = False
        self.paused = False
        self.deferred: list[tuple[Callable[..., None], Any, Any]] = []
        """What has happened to a paused process, to be seen when it goes on."""
        self.mourned: dict[NodeId, int] = {}
        """The incarnations of others that are known to be gone."""
        self.sends_left: int | None = None
        """Crash in the middle of a step, after so many more sends."""
        self.node: Node
        self.outbox: Outbox

    # --- the clock

    def clock(self) -> float:
        return self.offset + self.rate * self.world.now

    def true_time(self, local: float) -> float:
        return (local - self.offset) / self.rate

    def set_rate(self, rate: float) -> None:
        """From now on the clock runs at another speed; what it shows at this instant does not jump."""
        self.offset += (self.rate - rate) * self.world.now
        self.rate = rate

    # --- the process

    def start(self, rejoin: bool = False) -> None:
        plan = self.world.plan
        self.incarnation += 1
        self.rejoining = self.rejoining or rejoin
        self.up, self.paused = True, False
        self.mourned = {}
        self.outbox = Outbox(self)
        self.node = Node(
            self.id,
            plan.membership,
            plan.settings,
            start=Start(self.incarnation, self.world.random.getrandbits(63)),
            promises=dict(self.disk),
            rejoin=Rejoin() if rejoin else None,
        )
        self.world.note("start", self.id)
        self.do(self.node.start(self.clock()))
        for election, position in self.positions.items():
            self.do(self.node.set_position(self.clock(), election, position))
        for election, contends in self.contends.items():
            if contends:
                self.do(self.node.contend(self.clock(), election))
        for peer in self.links:
            self.world.after(self.world.round_trip(self.id, peer), self.dial, peer, self.incarnation)

    def lose_store(self) -> None:
        """The disk is replaced by an empty one."""
        self.disk.clear()
        self.lives.clear()
        self.store += 1
        self.incarnation, self.rejoining = 0, False

    def crash(self) -> None:
        """The process is gone. A commit under way may have reached the disk, or not."""
        if not self.up:
            return
        self.world.note("crash", self.id)
        if self.committing and self.world.random.random() < 0.5:
            self.write(self.committing)
        self.up, self.paused, self.sends_left = False, False, None
        self.committing = []
        self.timers.clear()
        self.working.clear()
        self.deferred.clear()
        self.world.invariants.gone(self)
        for peer, link in self.links.items():
            link.close()
            if not self.world.links[self.id, peer].blocked:
                self.world.after(link.delay.draw(self.world.random), self.world.hosts[peer].broken, self.id)

    def pause(self) -> None:
        if self.up and not self.paused:
            self.world.note("pause", self.id)
            self.paused = True

    def go_on(self) -> None:
        if self.up and self.paused:
            self.world.note("go on", self.id)
            self.paused = False
            deferred, self.deferred = self.deferred, []
            for handler, first, second in deferred:
                self.world.at(self.world.now, handler, first, second)

    def asleep(self, handler: Callable[..., None], first: Any, second: Any) -> bool:
        """Whether the process cannot see this now; if it is only paused, it will see it later."""
        if self.up and not self.paused:
            return False
        if self.up:
            self.deferred.append((handler, first, second))
        return True

    # --- connections

    def dial(self, peer: NodeId, incarnation: int) -> None:
        """Try to connect: refused at once where no process listens, unanswered where no message passes."""
        if self.asleep(self.dial, peer, incarnation) or incarnation != self.incarnation:
            return
        link, target = self.links[peer], self.world.hosts[peer]
        if link.session:
            return
        if link.blocked or target.links[self.id].blocked or target.paused:
            self.world.after(REDIAL, self.dial, peer, incarnation)
        elif not target.up:
            if self.world.plan.fast_failover and self.mourned.get(peer) != target.incarnation:
                self.mourned[peer] = target.incarnation
                self.do(self.node.lost(self.clock(), peer, dead=True))
            self.world.after(REDIAL, self.dial, peer, incarnation)
        elif not (target.recognises(self) and self.recognises(target)):
            self.world.note("refused", self.id, peer, "its store was lost or rolled back")
            self.world.after(REDIAL, self.dial, peer, incarnation)
        else:
            self.world.sessions += 1
            link.session = self.world.sessions
            self.lives[peer] = (target.incarnation, target.store)
            target.greeted(self.id, self.incarnation)
            self.world.note("connect", self.id, peer)
            self.do(self.node.connected(self.clock(), peer, target.incarnation))

    def recognises(self, peer: Host) -> bool:
        """Whether the peer may be who it was: with the same store, or after it has asked what a lost one
        had promised."""
        incarnation, store = self.lives.get(peer.id, (0, peer.store))
        return peer.incarnation >= incarnation and (peer.store == store or peer.rejoining)

    def greeted(self, peer: NodeId, incarnation: int) -> None:
        """A peer has dialled: it is alive, and not what it was before if its incarnation is new."""
        if not self.asleep(self.greeted, peer, incarnation):
            self.lives[peer] = (incarnation, self.world.hosts[peer].store)
            self.do(self.node.met(self.clock(), peer, incarnation))
            if not self.links[peer].session:
                self.world.after(self.world.round_trip(self.id, peer), self.dial, peer, self.incarnation)

    def broken(self, peer: NodeId, _: object = None) -> None:
        """The connection has broken: dial back at once, to learn whether the process is gone."""
        if self.asleep(self.broken, peer, None):
            return
        self.links[peer].close()
        self.world.note("broken", self.id, peer)
        self.do(self.node.lost(self.clock(), peer, dead=False))
        self.world.after(self.world.round_trip(self.id, peer), self.dial, peer, self.incarnation)

    # --- events of the node

    def do(self, effects: list[Effect]) -> None:
        self.world.handled += 1
        if effects:
            self.outbox.perform(effects)
        if self.world.invariants.attention:
            self.world.invariants.after_step()

    def receive(self, sender: NodeId, message: Message) -> None:
        if self.up and not self.paused:
            world = self.world
            if world.entries is not None:
                world.note("receive", sender, self.id, message)
            effects = self.node.receive(self.offset + self.rate * world.now, sender, message)
            world.handled += 1
            if effects:
                self.outbox.perform(effects)
            if world.invariants.attention:
                world.invariants.after_step()
        elif self.up:
            self.deferred.append((self.receive, sender, message))

    def wish(self, what: str, election: str, *arguments: Any) -> None:
        """The local user's wish (a method of `core.Node`); contending and positions outlive a restart."""
        if what in ("contend", "withdraw"):
            self.contends[election] = what == "contend"
        if what == "set_position":
            self.positions[election] = arguments[0]
        if self.up and not self.paused:
            self.world.note("fault", self.id, None, " ".join((self.id, what, election, *map(str, arguments))))
            self.do(getattr(self.node, what)(self.clock(), election, *arguments))

    def fire(self, timer: Timer, number: int) -> None:
        if self.timers.get(timer) != number or self.asleep(self.fire, timer, number):
            return
        del self.timers[timer]
        if self.world.entries is not None:
            self.world.note("fire", self.id, None, timer)
        self.do(self.node.fire(self.clock(), timer))

    def committed(self, incarnation: int, _: object = None) -> None:
        if incarnation != self.incarnation or self.asleep(self.committed, incarnation, None):
            return
        self.write(self.committing)
        self.committing = []
        self.outbox.saved()

    def write(self, records: list[Record]) -> None:
        for promise in records:
            if isinstance(promise, Gone):
                continue
            self.disk[promise.election] = promise
            self.world.invariants.saved(self, promise)

    def begin_work(self, election: str, term: Term) -> None:
        if not self.asleep(self.begin_work, election, term) and self.leads(election, term):
            self.working[election] = self.true_time(self.node.lease(election))
            self.do(self.node.occupy(self.clock(), election))

    def end_work(self, election: str, term: Term) -> None:
        if not self.asleep(self.end_work, election, term) and self.leads(election, term):
            self.working.pop(election, None)
            self.do(self.node.vacate(self.clock(), election))

    def leads(self, election: str, term: Term) -> bool:
        leading = self.node.leading.get(election)
        return leading is not None and leading.leader_term == term

    # --- what the outbox asks for

    def transmit(self, to: NodeId, message: Message) -> None:
        world = self.world
        if not self.up:
            return
        world.sent[type(message).__name__] += 1
        if world.entries is not None:
            world.note("send", self.id, to, message)
        if to == self.id:
            world.after(0.0, self.hear_myself, message, self.incarnation)
        else:
            world.invariants.said(self, to, message)
            self.links[to].send(message)
        if self.sends_left is not None:
            self.sends_left -= 1
            if self.sends_left <= 0:
                self.crash()

    def hear_myself(self, message: Message, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.receive(self.id, message)

    def arm(self, timer: Timer, low: float, high: float) -> None:
        world = self.world
        if not self.up:
            return
        if self.working and timer == BEAT:
            for election in self.working:
                self.working[election] = self.true_time(self.node.lease(election))
        delay = low if high <= low else low + (high - low) * world.random.random()
        world.scheduled = number = world.scheduled + 1
        self.timers[timer] = number
        heappush(world.queue, (world.now + delay / self.rate, number, self.fire, timer, number))

    def disarm(self, timer: Timer) -> None:
        self.timers.pop(timer, None)

    def notify(self, notice: Notice) -> None:
        pass

    def save(self, records: list[Record]) -> None:
        if self.up:
            self.committing = records
            self.world.after(self.world.random.uniform(*self.commit_time), self.committed, self.incarnation)

    def announce(self, view: View) -> None:
        if self.up:
            self.world.note("view", self.id, None, view)
            self.world.invariants.changed(self, view)
            if view.yielding and self.world.plan.work is not None:
                patience = self.world.random.uniform(0, self.world.plan.work)
                self.world.after(patience, self.end_work, view.election, view.term)


class World:
    """A run: hosts and links, a queue of things to come, and the invariants that watch over it."""

    def __init__(self, plan: Plan, seed: int, *, record: bool = False) -> None:
        self.plan = plan
        self.seed = seed
        self.random = Random(seed)
        self.weather = plan.weather
        self.now = 0.0
        self.scheduled = 0
        self.handled = 0
        """Events given to a machine: messages, timers, connections, wishes."""
        self.sessions = 0
        self.queue: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self.looks = self.looks_with_leader = 0
        self.sent: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        """Of those sent, how many an expectation has looked at."""
        self.doomed: Counter[str] = Counter()
        """How many of the next messages of a kind will be lost."""
        self.entries: list[Entry] | None = [] if record else None
        self.invariants = Invariants(self)
        self.hosts = {m.id: Host(self, m.id) for m in plan.membership.members}
        self.links = {(a, b): Link(self, a, b) for a in self.hosts for b in self.hosts if a != b}
        for (a, b), link in self.links.items():
            self.hosts[a].links[b] = link
        contenders = plan.membership.candidates if plan.contenders is None else plan.contenders
        for host in self.hosts.values():
            host.contends = dict.fromkeys(plan.elections, host.id in contenders)

    # --- time

    def at(self, time: float, handler: Callable[..., None], first: Any = None, second: Any = None) -> None:
        self.scheduled += 1
        heappush(self.queue, (time, self.scheduled, handler, first, second))

    def after(
        self, delay: float, handler: Callable[..., None], first: Any = None, second: Any = None
    ) -> None:
        self.at(self.now + delay, handler, first, second)

    def run(self, until: float, *, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass until then, or until `stop` says so (asked after every event)."""
        queue = self.queue
        while queue and queue[0][0] <= until:
            self.now, _, handler, first, second = heappop(queue)
            handler(first, second)
            if stop is not None and stop():
                return
        self.now = until

    def start(self) -> None:
        for host in self.hosts.values():
            host.start()

    def sample_availability(self, election: str, until: float) -> None:
        """Look at regular instants of true time whether somebody holds the lease."""
        holders = self.holders(election)
        self.looks += 1
        self.looks_with_leader += bool(holders)
        self.invariants.seen(election, holders)
        if self.now < until:
            self.after(SAMPLE, lambda *_: self.sample_availability(election, until))

    @property
    def availability(self) -> float:
        return self.looks_with_leader / self.looks if self.looks else 0.0

    # --- the network as a whole

    def change_weather(self, weather: Weather) -> None:
        self.weather = weather
        for link in self.links.values():
            link.expose()

    def round_trip(self, a: NodeId, b: NodeId) -> float:
        return self.links[a, b].delay.draw(self.random) + self.links[b, a].delay.draw(self.random)

    def block(self, source: NodeId, target: NodeId) -> None:
        self.links[source, target].block()

    def unblock(self, source: NodeId, target: NodeId) -> None:
        """Open this direction. A connection whose other end has died meanwhile turns out to be broken."""
        link, target_host = self.links[source, target], self.hosts[target]
        if link.blocked:
            link.unblock()
            if link.session and not (target_host.up and target_host.links[source].session):
                self.after(link.delay.draw(self.random), self.hosts[source].broken, target)

    def split(self, *groups: tuple[NodeId, ...]) -> None:
        """Let nodes speak only to those of their own group; whoever is in no group is alone."""
        of = {node: number for number, group in enumerate(groups) for node in group}
        for a, b in self.links:
            together = a in of and of[a] == of.get(b)
            (self.unblock if together else self.block)(a, b)

    def heal(self) -> None:
        for a, b in self.links:
            self.unblock(a, b)
            self.links[a, b].slow = 0.0

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Break the connections between two nodes, though both processes live."""
        for source, target in ((a, b), (b, a)):
            if self.links[source, target].session:
                self.after(0.0, self.hosts[source].broken, target)

    # --- what can be seen from outside

    def holders(self, election: str) -> list[NodeId]:
        """Who holds a lease on this election at this instant of true time."""
        return [
            host.id for host in self.hosts.values() if host.up and host.node.is_leader(host.clock(), election)
        ]

    def agreed_leader(self, election: str) -> NodeId | None:
        """The one who holds a lease and whom every running node that it reaches names as its leader."""
        holders = self.holders(election)
        if len(holders) != 1:
            return None
        leader = self.hosts[holders[0]]
        for host in self.hosts.values():
            if host.up and not host.paused and self.reaches(leader.id, host.id):
                view = host.node.view(election)
                if view is None or view.leader != leader.id:
                    return None
        return leader.id

    def reaches(self, a: NodeId, b: NodeId) -> bool:
        return a == b or not (self.links[a, b].blocked or self.links[b, a].blocked)

    def note(self, kind: str, node: NodeId, peer: NodeId | None = None, what: object = None) -> None:
        if self.entries is not None:
            self.entries.append(Entry(self.now, kind, node, peer, what))

    @property
    def violations(self) -> list[Violation]:
        return self.invariants.violations
