"""Drives one node in real time: an event loop, connections, timers and a store around `core.Node`.

The host does for a node what a `World` does in the simulator, through the same `Outbox`. Commits run in a
thread of their own, so a slow disk delays promises but never beats; if one takes longer than a lease, the
node can promise nothing, so it gives up what it leads.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from electorate.core.model import (
    Beat,
    Effect,
    ElectionMessage,
    Follow,
    Message,
    NodeId,
    Promise,
    Recalled,
    Role,
    Support,
    Term,
    Timer,
    View,
)
from electorate.core.node import Node
from electorate.core.outbox import Outbox
from electorate.errors import UserError
from electorate.runtime import fork
from electorate.runtime.clock import now
from electorate.runtime.config import Config
from electorate.runtime.figures import Figures, Refusal
from electorate.runtime.link import Incoming, Link
from electorate.runtime.secret import Secret
from electorate.runtime.store import Disk, Store, remedy
from electorate.runtime.timers import Timers
from electorate.runtime.tls import Certificates
from electorate.runtime.wire import PROTOCOL, Greeting, Life, Refused, WireError, Word

T = TypeVar("T")

STRANGERS = 64
"""So many connections at most may be without a greeting at one time."""

PAUSE = 0.1
"""Seconds until calls are taken again, after the machine could not take one."""

REASONS = 1000
"""So many different complaints at most are remembered; strangers must not fill the memory."""

FOREVER = 3600.0
"""What an observer is told of the lease of a node that needs nobody's support, in seconds."""

Observer = Callable[[str, dict[str, Any]], None]
"""Is told of each thing that happens: its kind, and what there is to know."""


class Known(NamedTuple):
    """A leader, as other nodes know it."""

    id: NodeId
    address: str
    term: Term
    metadata: Mapping[str, str]


class Host:
    """One node of a cluster. Raises `UserError` where the configuration or the machine does not allow it.

    `contends` names the elections that it wants to lead from the start (None: those of the configuration);
    `metadata` is a small dictionary that the other members, and their clients, get to know."""

    def __init__(
        self,
        config: Config,
        id: NodeId,
        data: Path,
        *,
        rejoin: bool = False,
        metadata: Mapping[str, str] | None = None,
        contends: Iterable[str] | None = None,
    ) -> None:
        if id not in config.nodes:
            raise UserError(f"node '{id}' is not in the cluster file; it has {', '.join(config.nodes)}")
        self.config = config
        self.id = id
        self.rejoin = rejoin
        self.metadata = dict(config.nodes[id].metadata if metadata is None else metadata)
        self.contends = tuple(config.elections if contends is None else contends)
        self.observers: dict[Observer, tuple[str, ...]] = {}
        """Each with the kinds of events that it is told of; none means all."""
        self.log = logging.getLogger(f"electorate.{id}")
        self.certificates = Certificates(config, id, self.log) if config.tls else None
        self.secret = Secret(config.path(config.secret_file, id)) if config.secret_file else None
        self.store = Store(data, config.cluster, id)
        self.counts: Counter[str] = Counter()
        """What was refused or ignored, by reason."""
        self.figures = Figures()
        self.birth = random.getrandbits(63)
        self.lives = {peer: Life(*life) for peer, life in self.store.peers().items()}
        """The newest life of each peer that was ever met."""
        self.vouched = self.store.rejoined
        """My store is not the one that the others may have known, and I have asked them, or will."""
        self.buried: dict[NodeId, Life] = {}
        """The last life of each peer that was seen to end."""
        self.sockets: set[socket.socket] = set()
        """What else this process listens on for this node."""
        self.stopping = False
        self.failed: asyncio.Future[str]
        """Done when the node cannot go on, with the reason."""
        self.listener: socket.socket
        """Where it listens. A process that holds this too keeps the address from refusing, and so is not
        believed dead."""
        self.disk = Disk(f"electorate-{id}-store")
        self.timers = Timers(self.fire)
        self.strangers: dict[Incoming, None] = {}
        """Connections without a greeting, the oldest first."""
        self.incoming: dict[NodeId, Incoming] = {}
        self.leases: dict[str, tuple[Term, float]] = {}
        self.shown: dict[str, tuple[NodeId | None, Term]] = {}
        """The leader of each election that the log has told of last."""
        self.handing_over: set[str] = set()
        self.handed: asyncio.Future[None]
        self.loop: asyncio.AbstractEventLoop
        self.links: dict[NodeId, Link] = {}
        self.new_node()

    def new_node(self) -> None:
        self.outbox = Outbox(self)
        self.node = Node(
            self.id,
            self.config.membership,
            self.config.settings,
            incarnation=self.store.incarnation,
            promises=self.store.load(),
            rejoin=self.rejoin,
        )

    @property
    def life(self) -> Life:
        return Life(self.node.incarnation, self.birth, self.store.number, self.rejoin or self.vouched)

    # --- from start to stop --------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, dial the others, and contend for the configured elections."""
        self.loop = asyncio.get_running_loop()
        self.failed = self.loop.create_future()
        host, port = self.config.address(self.id)
        try:
            self.listener = await listen(host, port)
        except OSError as error:
            self.close_store()
            raise UserError(
                f"node {self.id} cannot listen on {host}:{port}: {error.strerror or error};"
                f" stop whatever uses that port, or change nodes.{self.id}.address"
            ) from None
        addresses = {id: self.config.address(id) for id in self.node.peers}
        self.links = {peer: Link(self, peer, address) for peer, address in addresses.items()}
        fork.running.add(self)
        self.take_calls()
        self.begin()
        for link in self.links.values():
            link.dial_soon()
        self.tell("ready", {"address": f"{host}:{port}", "incarnation": self.node.incarnation})

    def begin(self) -> None:
        self.do(self.node.start(now()))
        if self.node.kind == "voter":
            for election in self.contends:
                self.do(self.node.contend(now(), election))

    async def stop(self) -> None:
        """Resign, say so, close. Safe to call twice."""
        if self.stopping:
            return
        led = tuple(self.node.leading)
        for election in tuple(self.node.elections):
            self.do(self.node.withdraw(now(), election))
        await self.handed_over(led)
        self.stopping = True
        self.timers.clear()
        for link in self.links.values():
            link.close()
        self.refuse_calls()
        for incoming in (*self.incoming.values(), *self.strangers):
            incoming.abort()
        await asyncio.sleep(0)
        fork.running.discard(self)
        await self.leave_store()

    def refuse_calls(self) -> None:
        """From now on this address refuses, unless another process holds it."""
        self.loop.remove_reader(self.listener)
        self.listener.close()

    def descriptors(self) -> list[int]:
        """The files and sockets by which this process is this node."""
        taken = [incoming.connection for incoming in (*self.incoming.values(), *self.strangers)]
        outgoing = [link.outgoing.transport for link in self.links.values() if link.outgoing]
        dialled = [transport.get_extra_info("socket") for transport in outgoing]
        sockets = [self.listener, *self.sockets, *taken, *dialled]
        return [self.store.lock, *(socket.fileno() for socket in sockets if socket.fileno() >= 0)]

    async def handed_over(self, elections: tuple[str, ...]) -> None:
        """Stay as a voter until another leads what this node led, but not for long."""
        self.handing_over = set(elections)
        if self.handing_over and any(link.connected for link in self.links.values()):
            self.handed = self.loop.create_future()
            await asyncio.wait([self.handed], timeout=2 * self.config.timing.patience)

    def close_store(self) -> None:
        self.disk.submit(self.store.close).result()
        self.disk.shutdown()

    async def leave_store(self) -> None:
        """Close it when all is written, but do not wait for longer than a lease."""
        closed, _ = await asyncio.wait([self.on_disk(self.store.close)], timeout=self.config.timing.lease)
        if closed:
            self.disk.shutdown()
        else:
            self.disk.abandon()
            self.log.error(
                "data directory %s takes no write: stopping without it; what waits for it was never promised",
                self.store.directory,
            )

    def on_disk(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Do this after all that the disk has to do."""
        return asyncio.wrap_future(self.disk.submit(call, *args), loop=self.loop)

    def fail(self, reason: str) -> None:
        """This node cannot keep its promises any more: lead no longer, and let the process end."""
        if self.failed.done():
            return
        self.log.error("%s", reason)
        self.failed.set_result(reason)
        self.do(self.node.stalled(now()))
        self.tell("failed", {"reason": reason})

    def observe(self, observer: Observer, *kinds: str) -> None:
        """Tell this one, too, of everything (or of these kinds) that happens from now on. It must return at
        once."""
        self.observers[observer] = kinds

    def unobserve(self, observer: Observer) -> None:
        del self.observers[observer]

    def tell(self, kind: str, what: dict[str, Any]) -> None:
        for observer, kinds in tuple(self.observers.items()):
            if not kinds or kind in kinds:
                observer(kind, what)

    # --- wishes and questions --------------------------------------------------------------------

    def contend(self, election: str) -> None:
        self.do(self.node.contend(now(), election))

    def withdraw(self, election: str) -> None:
        self.do(self.node.withdraw(now(), election))

    def resign(self, election: str) -> None:
        self.do(self.node.resign(now(), election))

    def transfer(self, election: str, to: NodeId) -> None:
        """Hand the leadership over, now or as soon as the heir follows. Raises `ValueError` if I do not
        lead, or the heir cannot."""
        if to not in self.config.nodes:
            raise ValueError(f"node '{to}' is not in the cluster file; it has {', '.join(self.config.nodes)}")
        leading = self.node.leading.get(election)
        if leading is None:
            raise ValueError(f"node {self.id} does not lead '{election}'")
        if to != self.id and not leading.may_inherit(to):
            raise ValueError(f"node {to} may not lead, or does not contend")
        self.do(self.node.transfer(now(), election, to))

    def set_position(self, election: str, position: int) -> None:
        """Raises `ValueError` for what is no 63-bit number."""
        if not 0 <= position < 2**63:
            raise ValueError("a position is a whole number from 0 to 2^63 - 1")
        self.do(self.node.set_position(now(), election, position))

    def occupy(self, election: str) -> None:
        """Work rests on this leadership: until `vacate` it is not given away, though it may be lost."""
        self.do(self.node.occupy(now(), election))

    def vacate(self, election: str) -> None:
        """The work has ended: hand over, if that was wanted."""
        self.do(self.node.vacate(now(), election))

    def is_leader(self, election: str) -> bool:
        """Whether this node provably leads at this instant: a clock read, no I/O."""
        return self.node.is_leader(now(), election)

    def lease_left(self, election: str) -> float:
        """For how many seconds more this node certainly leads; 0 if it does not."""
        return max(0.0, self.node.lease(election) - now())

    def lease(self, election: str) -> float:
        """Until when, on `clock.now`, this node certainly leads; -inf if it does not."""
        return self.node.lease(election)

    def tenure(self, election: str) -> tuple[Term, float]:
        """In which term this node certainly leads, and for how many seconds more; (0, 0) if it does not. May
        be asked from any thread."""
        leading = self.node.leading.get(election)
        if leading is None:
            return 0, 0.0
        term, left = leading.leader_term, leading.lease - now()
        still = self.node.leading.get(election) is leading and leading.leader_term == term
        return (term, left) if still and left > 0 else (0, 0.0)

    def leader(self, election: str) -> Known | None:
        """Who leads, as far as this node knows, and what it has told of itself."""
        view = self.view(election)
        if view is None or view.leader is None:
            return None
        metadata = self.metadata if view.leader == self.id else self.links[view.leader].metadata
        return Known(view.leader, self.config.nodes[view.leader].address, view.term, metadata)

    def view(self, election: str) -> View | None:
        return self.node.view(election)

    @contextmanager
    def awaiting(
        self, election: str, wanted: Callable[[NodeId | None, int], bool]
    ) -> Iterator[asyncio.Future[None]]:
        """A future that is done once leader and term are as wanted, be it for an instant that whoever looks
        now and then would miss."""
        came = self.loop.create_future()

        def see(name: str, leader: NodeId | None, term: int) -> None:
            if name == election and wanted(leader, term) and not came.done():
                came.set_result(None)

        def hear(kind: str, what: dict[str, Any]) -> None:
            see(what["election"], what["leader"], what["term"])

        if view := self.view(election):
            see(election, view.leader, view.term)
        self.observe(hear, "view")
        try:
            yield came
        finally:
            self.unobserve(hear)

    # --- events of the node -------------------------------------------------------------------------

    def do(self, effects: list[Effect]) -> None:
        self.outbox.perform(effects)

    def received(self, peer: NodeId, message: Word) -> None:
        if not self.stopping:
            at = now()
            granted = self.node.peers[peer].granted
            self.do(self.node.receive(at, peer, message))
            if self.node.peers[peer].granted > granted:
                self.figures.supported(peer, at - self.node.peers[peer].granted)
            if isinstance(message, Support):
                self.tell_leases(self.node.leading)
            elif isinstance(message, Follow):
                self.tell_leases([message.election])
            elif isinstance(message, Recalled):
                self.has_rejoined()

    def fire(self, timer: Timer) -> None:
        self.do(self.node.fire(now(), timer))

    def tell_leases(self, elections: Iterable[str]) -> None:
        """Tell the observer of those leases that have begun or grown."""
        if not any(not kinds or "lease" in kinds for kinds in self.observers.values()):
            return
        for name in elections:
            election = self.node.leading.get(name)
            if election is None:
                continue
            lease = (election.leader_term, min(election.lease, now() + FOREVER))
            if lease[1] > now() and self.leases.get(name) != lease:
                self.leases[name] = lease
                self.tell("lease", {"election": name, "term": lease[0], "until": lease[1]})

    # --- what the outbox asks for ----------------------------------------------------------------------

    def transmit(self, to: NodeId, message: Message) -> None:
        if to == self.id:
            self.loop.call_soon(self.hear_myself, self.node, message)
        else:
            self.links[to].write(message)
            if type(message) is Beat:
                self.figures.sent_beat(to)

    def hear_myself(self, node: Node, message: Message) -> None:
        if node is self.node and not self.stopping:
            self.do(node.receive(now(), self.id, message))
            if isinstance(message, ElectionMessage):
                self.tell_leases([message.election])

    def arm(self, timer: Timer, low: float, high: float) -> None:
        self.timers.arm(timer, low, high)

    def disarm(self, timer: Timer) -> None:
        self.timers.disarm(timer)

    def save(self, promises: list[Promise]) -> None:
        commit = self.disk.submit(self.store.commit, promises)
        patience = self.loop.call_later(self.config.timing.lease, self.stalled, commit)
        done = asyncio.wrap_future(commit, loop=self.loop)
        done.add_done_callback(partial(self.saved, self.outbox, patience, now()))

    def saved(
        self, outbox: Outbox, patience: asyncio.TimerHandle, asked: float, commit: asyncio.Future[None]
    ) -> None:
        patience.cancel()
        self.figures.commit_time.add(now() - asked)
        if self.written(commit) and outbox is self.outbox and not self.stopping:
            outbox.saved()

    def written(self, done: asyncio.Future[None] | Future[None]) -> bool:
        """Whether the disk has taken it; if it could not, this node must end."""
        if done.cancelled():
            return False
        if error := done.exception():
            self.fail(f"data directory {self.store.directory} {remedy(error, self.id)}")
        return not error

    def stalled(self, commit: Future[None]) -> None:
        """A commit has taken longer than a lease: until it is done, nothing more can be promised. If only
        this loop was late to hear of it, the disk is well."""
        if commit.done():
            return
        self.log.warning(
            "data directory %s has stalled: leading no longer, until it takes a write;"
            " see whether the disk is overloaded or fails",
            self.store.directory,
        )
        self.tell("stalled", {})
        self.do(self.node.stalled(now()))

    def announce(self, view: View) -> None:
        self.figures.changed(view, now())
        if view.role is not Role.LEADER and self.leases.pop(view.election, None) is not None:
            self.tell("lease", {"election": view.election, "term": view.term, "until": None})
        if view.leader is not None and view.election in self.handing_over:
            self.handing_over.discard(view.election)
            if not (self.handing_over or self.handed.done()):
                self.handed.set_result(None)
        self.log_change(view)
        self.tell(
            "view",
            {
                "election": view.election,
                "role": view.role,
                "leader": view.leader,
                "term": view.term,
                "secured": view.secured,
                "yielding": view.yielding,
            },
        )

    def log_change(self, view: View) -> None:
        """One line for each change of leadership."""
        shown = (view.leader, view.term if view.leader else 0)
        if self.shown.get(view.election, (None, 0)) == shown:
            return
        self.shown[view.election] = shown
        who = "nobody leads" if view.leader is None else f"{view.leader} leads"
        self.log.info(
            "%s: %s, term %d",
            view.election,
            "this node leads" if view.leader == self.id else who,
            view.term,
            extra={
                "election": view.election,
                "node": self.id,
                "role": view.role.value,
                "leader": view.leader,
                "term": view.term,
            },
        )

    # --- what the links report -----------------------------------------------------------------------------

    def known(self, peer: NodeId) -> Life | None:
        """The newest life of this peer that was met."""
        return self.lives.get(peer)

    def recognises(self, peer: NodeId, life: Life) -> bool:
        """Whether the peer may be in this life; if not, it has forgotten a later one."""
        if reason := self.doubt(peer, life):
            self.complain("refusing", peer, reason, "lost_store")
        return not reason

    def doubt(self, peer: NodeId, life: Life) -> str | None:
        known = self.known(peer)
        if known is None or life.may_follow(known):
            return None
        return (
            f"I have met incarnation {known.incarnation} of node '{peer}', this is another with"
            f" {life.incarnation}: its store was lost or rolled back, or runs twice; restart it with --rejoin"
        )

    def remember(self, peer: NodeId, life: Life) -> None:
        """Keep the newest life of a peer, on the disk as well: after my own restart, I still know it."""
        if self.lives.get(peer) != life:
            self.lives[peer] = life
            kept = self.on_disk(self.store.remember, peer, life)
            kept.add_done_callback(self.written)

    def has_rejoined(self) -> None:
        """A quorum has told what my lost store had promised: from now on, this store may be believed."""
        if self.rejoin and self.node.recalled is None and not self.vouched:
            self.vouched = True
            self.on_disk(self.store.set_rejoined).add_done_callback(self.written)

    def connected(self, peer: NodeId, life: Life) -> None:
        self.remember(peer, life)
        self.tell("peer", {"peer": peer, "state": "connected"})
        self.do(self.node.connected(now(), peer, life.incarnation))

    def lost(self, peer: NodeId) -> None:
        self.figures.parted(peer)
        self.tell("peer", {"peer": peer, "state": "lost"})
        self.do(self.node.lost(now(), peer, dead=False))

    def peer_is_gone(self, peer: NodeId, life: Life) -> None:
        """It is proven that this life of the peer is over. If it is the newest, say so, once."""
        if life == self.known(peer) and self.buried.get(peer) != life:
            self.buried[peer] = life
            self.tell("peer", {"peer": peer, "state": "dead"})
            self.do(self.node.lost(now(), peer, dead=True))

    def refused_by(self, peer: NodeId, refusal: Refused) -> None:
        self.complain("refused by", peer, refusal.reason, "refused_by_peer")
        if self.rejoin and refusal.known >= self.node.incarnation and not self.stopping:
            self.live_again(refusal.known + 1)

    def live_again(self, incarnation: int) -> None:
        """Others have met a later life of mine than my store tells of: begin another one, from nothing."""
        self.do(self.node.stalled(now()))
        self.timers.clear()
        if not self.written(self.disk.submit(self.store.set_incarnation, incarnation)):
            return
        self.new_node()
        for link in self.links.values():
            link.drop()
        for incoming in self.incoming.values():
            incoming.abort()
        self.begin()

    def complain(self, how: str, whom: str, reason: str, refusal: Refusal) -> None:
        """Count each complaint; log it when it is new."""
        self.figures.refusals[refusal] += 1
        complaint = f"{how} {whom}: {reason}"
        if complaint not in self.counts:
            if len(self.counts) >= REASONS:
                complaint = "other complaints"
            else:
                self.log.warning("%s", complaint)
                self.tell("peer", {"peer": whom, "state": "refused", "reason": complaint})
        self.counts[complaint] += 1

    def junk(self, whose: str, error: WireError) -> None:
        self.complain("junk from", whose, str(error), "junk")

    # --- strangers -----------------------------------------------------------------------------

    def take_call(self) -> None:
        """Somebody calls. If there are too many that have not greeted, the oldest of them has to go, so that
        strangers who stay cannot keep a member out."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self.log.error("node %s cannot take calls for a while: %s", self.id, error.strerror)
            self.loop.remove_reader(self.listener)
            self.loop.call_later(PAUSE, self.take_calls)
            return
        connection.setblocking(False)
        if len(self.strangers) >= STRANGERS:
            self.counts["too many strangers"] += 1
            self.figures.refusals["too_many"] += 1
            oldest = next(iter(self.strangers))
            oldest.settle()
            oldest.abort()
        self.strangers[Incoming(self, connection)] = None

    def take_calls(self) -> None:
        if not self.stopping:
            self.loop.add_reader(self.listener, self.take_call)

    def objection(self, greeting: Greeting) -> Refused | None:
        """Why this greeting is not accepted, or None."""
        known = self.known(greeting.node)
        refusal: Refusal = "lost_store"
        reason: str | None
        if greeting.protocol != PROTOCOL:
            refusal = "protocol"
            reason = f"I speak protocol {PROTOCOL}, not {greeting.protocol}: upgrade the older of the two"
        elif greeting.cluster != self.config.cluster:
            refusal = "cluster"
            reason = f"I belong to cluster '{self.config.cluster}', not '{greeting.cluster}'"
        elif greeting.to != self.id:
            refusal = "wrong_address"
            reason = f"I am node '{self.id}', not '{greeting.to}': check the addresses in the cluster file"
        elif greeting.node not in self.links:
            refusal = "unknown_node"
            reason = f"node '{greeting.node}' is not in my cluster file"
        else:
            reason = self.doubt(greeting.node, greeting.life)
        if reason is None:
            return None
        if greeting.node in self.links:
            self.complain("refusing", greeting.node, reason, refusal)
        else:
            self.complain("refusing", "a stranger", "it says it is a node that is not mine", refusal)
            self.log.debug("refusing %.100r: %s", greeting.node, reason)
        return Refused(reason, known.incarnation if known else 0)

    def greeted(self, peer: NodeId, incoming: Incoming, life: Life) -> None:
        """A member has dialled me: the newest connection of it counts, and I dial it as well."""
        self.remember(peer, life)
        older = self.incoming.get(peer)
        self.incoming[peer] = incoming
        if older:
            older.abort()
        self.do(self.node.met(now(), peer, life.incarnation))
        link = self.links[peer]
        if link.again:
            link.dial_soon()

    def hung_up(self, incoming: Incoming) -> None:
        """If a peer has none left to me, it may have ended: dial, if that is what I wait for."""
        if incoming.peer and self.incoming.get(incoming.peer) is incoming:
            del self.incoming[incoming.peer]
            self.links[incoming.peer].dial_soon()

    def standing(self, view: View) -> dict[str, Any]:
        """What this node knows of one election."""
        return {
            "election": view.election,
            "role": view.role,
            "leader": view.leader,
            "term": view.term,
            "lease_left": round(self.lease_left(view.election), 4),
        }

    def status(self) -> dict[str, Any]:
        """What this node knows, for people and programs."""
        return {
            "elections": [self.standing(election.view) for election in self.node.elections.values()],
            "peers": self.peers(),
            "ignored": self.ignored(),
        }

    def peers(self) -> dict[NodeId, str]:
        return {peer: "connected" if link.connected else "lost" for peer, link in self.links.items()}

    def ignored(self) -> dict[str, int]:
        """What was ignored or refused, and how often."""
        return {**self.node.ignored, **self.counts}


async def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the first address that the name stands for. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(100)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
