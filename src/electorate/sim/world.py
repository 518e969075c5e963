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
from typing import Any, Literal

import msgspec

from electorate.core.identity import Identity, Rejoin, Start, Verdict, judge
from electorate.core.model import (
    Awaiting,
    Beat,
    Effect,
    Forget,
    Gone,
    Kind,
    Membership,
    Message,
    NodeId,
    Notice,
    Promise,
    Rank,
    Record,
    Rejoined,
    Settings,
    Support,
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
RETRY = 0.1
"""Seconds until what a full disk has not taken is tried again."""
SAMPLE = 0.01
"""Availability is sampled once in so many simulated seconds."""


ProofOfDeath = Literal["attested", "refused", "none"]
"""What proves that a process is gone, beside a newer life of its node."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that, with a seed, determines a run before any fault."""

    membership: Membership
    settings: Settings
    weather: Weather = Weather()
    elections: tuple[str, ...] = ("main",)
    contenders: tuple[NodeId, ...] | None = None
    """Who wants to lead (None: all who may)."""
    abstaining: frozenset[tuple[str, NodeId]] = frozenset()
    """Of those, who does not want to lead which election."""
    positions: dict[tuple[str, NodeId], int] = {}
    """How fresh a node's data is at first, by election."""
    proof_of_death: ProofOfDeath = "refused"
    work: float | None = None
    """Each leader has work that rests on its leadership; asked to end it, it takes up to so many seconds."""
    skew: bool = False
    """Clocks drift as far as `timing.drift` allows, and start anywhere."""


class Store(msgspec.Struct):
    """What a host keeps on its disk, beyond the life of a process."""

    promises: dict[str, Promise] = {}
    gone: set[NodeId] = set()
    """Whom it refuses until they rejoin."""
    chain: set[Start] = set()
    """Its starts, and those before that others have told it of when it rejoined."""
    met: dict[NodeId, Start] = {}
    """The newest start of each peer that it has ever met."""
    incarnation: int = 0
    rejoin: Rejoin | None = None
    """Why it asks the others before it votes, until they have answered."""

    def copy(self) -> Store:
        kept = (self.promises.copy(), self.gone.copy(), self.chain.copy(), self.met.copy())
        return Store(*kept, self.incarnation, self.rejoin)


class Host:
    """One machine: a clock, a disk, and the process that runs a node."""

    def __init__(self, world: World, id: NodeId) -> None:
        self.world = world
        self.id = id
        self.links: dict[NodeId, Link] = {}
        drift = world.plan.settings.timing.drift
        self.rate = 1 + (world.random.uniform(-drift, drift) if world.plan.skew else 0.0)
        self.offset = world.random.uniform(0, 1000) if world.plan.skew else 0.0
        self.store = Store()
        self.copy = Store()
        """What the store was when it was last copied."""
        self.life = 0
        """The number of the present process: no other of any host has had it."""
        self.commit_time = COMMIT
        self.full = False
        """The disk takes no write."""
        self.committing: list[Record] = []
        self.contends: dict[str, bool] = {}
        self.positions: dict[str, int] = {}
        self.timers: dict[Timer, int] = {}
        self.working: dict[str, float] = {}
        """The elections that I lead and have work in, and how long my lease lasts at least, in true time."""
        self.up = False
        self.paused = False
        self.away_since = 0.0
        """When it was last paused or went down."""
        self.heard: dict[NodeId, float] = {}
        """When it last heard from each peer; beats and supports apart."""
        self.claims: dict[str, Term] = {}
        """The newest term of each election in which it has claimed."""
        self.awaits: tuple[NodeId, ...] | None = None
        """For whom it waits while it rejoins."""
        self.deferred: list[tuple[Callable[..., None], Any, Any]] = []
        """What has happened to a paused process, to be seen when it goes on."""
        self.reached: dict[NodeId, Start] = {}
        """The life of each other that this process has reached last."""
        self.mourned: dict[NodeId, Start] = {}
        """The lives of others that are known to be gone."""
        self.sends_left: int | None = None
        """Crash in the middle of a step, after so many more sends."""
        self.node: Node
        self.outbox: Outbox

    @property
    def disk(self) -> dict[str, Promise]:
        return self.store.promises

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

    def start(self, rejoin: Rejoin | None = None) -> None:
        """A process starts, and rejoins if it is told to, or its store says that it has not finished."""
        plan, store = self.world.plan, self.store
        store.incarnation += 1
        if rejoin is not None:
            store.rejoin = rejoin
            store.met.clear()
            store.gone.clear()
        start = Start(store.incarnation, self.world.random.getrandbits(63))
        store.chain.add(start)
        self.world.lives += 1
        self.life = self.world.lives
        self.up, self.paused, self.awaits = True, False, None
        self.reached, self.mourned = {}, {}
        self.claims = {p.election: p.term for p in self.disk.values() if p.backed == self.id}
        self.outbox = Outbox(self)
        self.node = Node(
            self.id,
            plan.membership,
            plan.settings,
            start=start,
            promises=dict(self.disk),
            gone=frozenset(store.gone),
            rejoin=store.rejoin,
        )
        self.world.note("start", self.id)
        self.do(self.node.start(self.clock()))
        for election, position in self.positions.items():
            self.do(self.node.set_position(self.clock(), election, position))
        for election, contends in self.contends.items():
            if contends:
                self.do(self.node.contend(self.clock(), election))
        for peer in self.links:
            self.world.after(self.world.round_trip(self.id, peer), self.dial, peer, self.life)

    def replace_store(self, store: Store) -> None:
        """The disk is replaced by an empty one, or by an older copy."""
        self.store = store
        self.world.invariants.store_replaced(self)

    def crash(self) -> None:
        """The process is gone. A commit under way may have reached the disk, or not."""
        if not self.up:
            return
        self.world.note("crash", self.id)
        if self.committing and self.world.random.random() < 0.5:
            self.write(self.committing)
        if not self.paused:
            self.away_since = self.world.now
        self.up, self.paused, self.sends_left = False, False, None
        self.committing = []
        self.timers.clear()
        self.working.clear()
        self.deferred.clear()
        self.world.invariants.gone(self)
        for peer, link in self.links.items():
            link.close()
            self.world.links[peer, self.id].find_broken()

    def pause(self) -> None:
        if self.up and not self.paused:
            self.world.note("pause", self.id)
            self.paused, self.away_since = True, self.world.now

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

    def dial(self, peer: NodeId, life: int) -> None:
        """Try to connect: refused at once where no process listens, unanswered where no message passes."""
        if self.asleep(self.dial, peer, life) or life != self.life:
            return
        link, target = self.links[peer], self.world.hosts[peer]
        if link.session:
            return
        if link.rejects:
            self.hear_refusal(peer)
            self.world.after(REDIAL, self.dial, peer, life)
        elif link.blocked or target.links[self.id].blocked or target.paused:
            self.world.after(REDIAL, self.dial, peer, life)
        elif not target.up:
            if self.world.plan.proof_of_death == "attested":
                self.is_gone(peer, target.node.started)
            else:
                self.hear_refusal(peer)
            self.world.after(REDIAL, self.dial, peer, life)
        elif (verdict := target.judges(self)) is not Verdict.WELCOME:
            self.refused(target, verdict)
            self.world.after(REDIAL, self.dial, peer, life)
        elif (verdict := self.judges(target)) is not Verdict.WELCOME:
            self.world.note("refused", peer, self.id, verdict.name)
            self.world.after(REDIAL, self.dial, peer, life)
        else:
            self.world.sessions += 1
            link.open(self.world.sessions)
            target.greeted(self)
            self.store.met[peer] = self.reached[peer] = target.node.started
            self.world.note("connect", self.id, peer)
            rejoining = target.node.rejoin is not None
            self.do(self.node.connected(self.clock(), peer, target.node.incarnation, rejoining))

    def hear_refusal(self, peer: NodeId) -> None:
        """In the name of the peer, by its machine or by something on the way: the rule of the runtime."""
        believed = self.world.plan.proof_of_death == "refused"
        if believed and peer in self.reached and not self.world.links[peer, self.id].session:
            self.is_gone(peer, self.reached[peer])

    def is_gone(self, peer: NodeId, start: Start) -> None:
        """What is taken for proven of this life counts if it is the newest."""
        if start == self.store.met.get(peer) and self.mourned.get(peer) != start:
            self.mourned[peer] = start
            self.world.note("dead", self.id, peer)
            self.do(self.node.lost(self.clock(), peer, dead=True))

    def judges(self, peer: Host) -> Verdict:
        """Whether the peer may be who it was when I last met it, as far as I know when I run."""
        known = self.store.met.get(peer.id)
        gone = self.node.gone if self.up else self.store.gone
        observes = self.node.kind is Kind.OBSERVER
        return judge(known, peer.id in gone, peer.identity(known), observes)

    def identity(self, asked: Start | None) -> Identity:
        """Who I am; of my earlier starts I show the one that is asked for, or another of that number."""
        chain, shown = self.store.chain, None
        if asked is not None:
            same = sorted(start for start in chain if start.incarnation == asked.incarnation)
            shown = asked if asked in chain else next(iter(same), None)
        return Identity(self.node.started, shown, self.node.rejoin is not None)

    def refused(self, by: Host, verdict: Verdict) -> None:
        """Who rejoins takes what the other remembers of it into its chain, and begins a later life; anybody
        else must be told by its operator to rejoin."""
        self.world.note("refused", self.id, by.id, verdict.name)
        known = by.store.met.get(self.id)
        if self.node.rejoin is None or known is None:
            return
        self.store.chain.add(known)
        if known.incarnation >= self.store.incarnation:
            self.crash()
            self.store.incarnation = known.incarnation
            self.start()

    def greeted(self, peer: Host) -> None:
        """A peer has dialled: it is alive, and not what it was before if its incarnation is new."""
        self.store.met[peer.id] = peer.node.started
        rejoining = peer.node.rejoin is not None
        self.do(self.node.met(self.clock(), peer.id, peer.node.incarnation, rejoining))
        if not self.links[peer.id].session:
            self.world.after(self.world.round_trip(self.id, peer.id), self.dial, peer.id, self.life)

    def broken(self, peer: NodeId, session: int) -> None:
        """The connection has broken: dial back at once, to learn whether the process is gone."""
        if self.links[peer].session != session or self.asleep(self.broken, peer, session):
            return
        self.links[peer].close()
        self.world.note("broken", self.id, peer)
        self.do(self.node.lost(self.clock(), peer, dead=False))
        self.world.after(self.world.round_trip(self.id, peer), self.dial, peer, self.life)

    # --- events of the node

    def do(self, effects: list[Effect]) -> None:
        self.world.handled += 1
        if effects:
            self.outbox.perform(effects)
        self.world.invariants.after_event(self)
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
                if len(effects) > 1 or type(message) is not Beat:
                    self.heard[sender] = world.now
                    world.invariants.after_event(self, message)
            elif type(message) is not Support:
                self.heard[sender] = world.now
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
        elif self.up:
            self.deferred.append((lambda *_: self.wish(what, election, *arguments), None, None))

    def fire(self, timer: Timer, number: int) -> None:
        if self.timers.get(timer) != number or self.asleep(self.fire, timer, number):
            return
        del self.timers[timer]
        if self.world.entries is not None:
            self.world.note("fire", self.id, None, timer)
        led = len(self.node.leading)
        effects = self.node.fire(self.clock(), timer)
        if timer == BEAT and led == len(self.node.leading):
            self.world.handled += 1
            self.outbox.perform(effects)
        else:
            self.do(effects)

    def committed(self, life: int, _: object = None) -> None:
        if life != self.life or self.asleep(self.committed, life, None):
            return None
        if self.full:
            self.world.note("fault", self.id, None, f"the disk of {self.id} is full")
            self.do(self.node.stalled(self.clock()))
            return self.world.after(RETRY, self.committed, life)
        self.write(self.committing)
        self.committing = []
        return self.outbox.saved()

    def write(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Promise):
                self.store.promises[record.election] = record
                self.world.invariants.saved(self, record)
            elif isinstance(record, Forget):
                self.store.promises.pop(record.election, None)
            elif record.gone:
                self.store.gone.add(record.node)
            else:
                self.store.gone.discard(record.node)

    def begin_work(self, election: str, term: Term) -> None:
        if not self.asleep(self.begin_work, election, term) and self.leads(election, term):
            self.working[election] = self.true_time(self.node.lease(election))
            self.do(self.node.occupy(self.clock(), election))

    def end_work(self, election: str, term: Term) -> None:
        if not self.asleep(self.end_work, election, term) and self.leads(election, term):
            self.working.pop(election, None)
            self.do(self.node.vacate(self.clock(), election))

    def occupy(self, election: str) -> None:
        """Work begins, if I lead; a wish of one that does not lead is ignored."""
        if leading := self.node.leading.get(election):
            self.begin_work(election, leading.leader_term)
        else:
            self.wish("occupy", election)

    def vacate(self, election: str) -> None:
        if leading := self.node.leading.get(election):
            self.end_work(election, leading.leader_term)
        else:
            self.wish("vacate", election)

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
            world.after(0.0, self.hear_myself, message, self.life)
        else:
            world.invariants.said(self, to, message)
            self.links[to].send(message)
        if self.sends_left is not None:
            self.sends_left -= 1
            if self.sends_left <= 0:
                self.crash()

    def hear_myself(self, message: Message, life: int) -> None:
        if life == self.life:
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
        if not self.up:
            return
        self.world.note("notice", self.id, None, notice)
        if isinstance(notice, Awaiting):
            self.awaits = notice.nodes
        elif isinstance(notice, Rejoined):
            self.store.rejoin, self.awaits = None, None

    def save(self, records: list[Record]) -> None:
        if self.up:
            for record in records:
                if isinstance(record, Gone) and record.gone:
                    self.world.cut(self.id, record.node)
            self.committing = records
            self.world.after(self.world.random.uniform(*self.commit_time), self.committed, self.life)

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
        self.lives = 0
        """How many processes have run."""
        self.queue: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self.looks = self.looks_with_leader = 0
        self.settled: float | None = None
        """How long after the storm all agreed."""
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
            host.contends = {
                e: host.id in contenders and (e, host.id) not in plan.abstaining for e in plan.elections
            }
        for (election, id), position in plan.positions.items():
            self.hosts[id].positions[election] = position

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
        if self.links[source, target].blocked:
            self.links[source, target].unblock()
            self.links[source, target].find_broken()
            self.links[target, source].find_broken()

    def reject(self, a: NodeId, b: NodeId) -> None:
        """Something between two nodes breaks what stands, and refuses in the name of either."""
        self.cut(a, b)
        for source, target in ((a, b), (b, a)):
            self.block(source, target)
            self.links[source, target].rejects = True

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
            if session := self.links[source, target].session:
                self.after(0.0, self.hosts[source].broken, target, session)

    # --- what can be seen from outside

    def holders(self, election: str) -> list[NodeId]:
        """Who holds a lease on this election at this instant of true time."""
        return [
            host.id for host in self.hosts.values() if host.up and host.node.is_leader(host.clock(), election)
        ]

    def leaderless(self) -> list[str]:
        """The elections that could have a leader whom all agree on, and have none: a quorum is up, and
        somebody up wants to lead and may. (Not of a quorum: who rejoins, and can never be told enough.)"""
        membership = self.plan.membership
        nodes = [host.node for host in self.hosts.values() if host.up and host.awaits != ()]
        if not membership.is_quorum([node.me for node in nodes if node.me in membership.voters]):
            return []
        wanted = {
            name
            for node in nodes
            for name, election in node.elections.items()
            if election.contends and election.eligible
        }
        return [e for e in self.plan.elections if e in wanted and not self.agreed_leader(e)]

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

    def rank(self, election: str, node: NodeId) -> Rank:
        return self.hosts[node].node.elections[election].rank

    def reaches(self, a: NodeId, b: NodeId) -> bool:
        return a == b or not (self.links[a, b].blocked or self.links[b, a].blocked)

    def met_since(self, a: NodeId, b: NodeId, time: float) -> bool:
        """Whether since then these two could exchange messages, or a has heard from b all the same."""
        peer, there, back = self.hosts[b], self.links[a, b], self.links[b, a]
        return self.hosts[a].heard.get(b, -1.0) >= time or not (
            (there.blocked and there.blocked_at < time)
            or (back.blocked and back.blocked_at < time)
            or (not (peer.up and not peer.paused) and peer.away_since < time)
        )

    def note(self, kind: str, node: NodeId, peer: NodeId | None = None, what: object = None) -> None:
        if self.entries is not None:
            self.entries.append(Entry(self.now, kind, node, peer, what))

    @property
    def violations(self) -> list[Violation]:
        return self.invariants.violations
