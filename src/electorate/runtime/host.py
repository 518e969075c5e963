"""Drives one node in real time: an event loop, connections, timers and a store around `core.Node`.

The host does for a node what a `World` does in the simulator, through the same `Outbox`. Commits run in a
thread of their own, so a slow disk delays promises but never beats; if one takes longer than a lease, the
node can promise nothing, so it gives up what it leads.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from electorate.core.configuration import Value, Voters, configuration, differences, digests
from electorate.core.identity import Identity, Rejoin, Start, Verdict, judge
from electorate.core.model import (
    Awaiting,
    Beat,
    Disbelieved,
    Effect,
    ElectionMessage,
    Follow,
    Forgotten,
    Gone,
    Kind,
    Message,
    NodeId,
    Notice,
    Promise,
    Record,
    Rejoined,
    Role,
    Support,
    Term,
    Timer,
    TransferLapsed,
    View,
)
from electorate.core.node import MAX_NAME, Node, is_name
from electorate.core.outbox import Outbox
from electorate.errors import UserError, misspelt
from electorate.runtime import fork, wishes
from electorate.runtime.attestation import Testimony
from electorate.runtime.certificates import Certificates
from electorate.runtime.clock import now
from electorate.runtime.config import Config, ProofOfDeath
from electorate.runtime.contact import Contact
from electorate.runtime.directory import doubt
from electorate.runtime.door import Door
from electorate.runtime.figures import Figures, Refusal, hour
from electorate.runtime.handover import Handover
from electorate.runtime.hearsay import SENTENCE, WORD, Hearsay, Room, heard
from electorate.runtime.link import A_STRANGER, SAME, Incoming, Link
from electorate.runtime.lobby import Lobby
from electorate.runtime.names import hindrance, listen
from electorate.runtime.reasons import overruled, who_leads
from electorate.runtime.store import Conditions, Disk, Store, cure, remedy
from electorate.runtime.timers import Timers
from electorate.runtime.tree import plea
from electorate.runtime.ward import ATTESTED, Ward
from electorate.runtime.wire import (
    VERSIONS,
    Answered,
    Ask,
    Greeting,
    Part,
    Refused,
    Versions,
    WireError,
    Word,
)

T = TypeVar("T")

SPREAD = 1.0
"""Within so many seconds all who call have to prove anew who they are."""

LONGEST_WAIT, LOOK = 10.0, 0.1
"""Seconds until an address is free, at most, and between two attempts to have it."""

BURST = 100
"""So many changes of leadership are logged one by one within a second."""

NAMED = 5
"""So many keys at most are named in a sentence."""

FEW = 100
"""With more elections than this, a program has named them, and none is misspelt."""
TOLD = 50
"""So many keys at most are told of or remembered, in which another is configured otherwise."""

FOREVER = 3600.0
"""What is told of a lease at most, in seconds: that of a node that needs nobody's support has no end."""

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

    With `rejoin`, its store was lost: it asks all the others before it votes, but those that are gone for
    good (`without`). With `new_members` the voters are others than its store knows. `contends` names the
    elections that it wants to lead from the start (None: those of the configuration); `metadata` is a small
    dictionary that the other members, and their clients, get to know. `proof_of_death` is what it believes
    where the configuration does not say; `versions` are those that it speaks."""

    def __init__(
        self,
        config: Config,
        id: NodeId,
        data: Path,
        *,
        rejoin: bool = False,
        without: Iterable[NodeId] = (),
        new_members: bool = False,
        metadata: Mapping[str, str] | None = None,
        contends: Iterable[str] | None = None,
        proof_of_death: ProofOfDeath = "refused",
        versions: Versions = VERSIONS,
    ) -> None:
        if id not in config.nodes:
            raise UserError(f"node '{id}' is not in the cluster file; it has {', '.join(config.nodes)}")
        self.config = config
        self.versions = versions
        self.id = id
        self.metadata = dict(config.nodes[id].metadata if metadata is None else metadata)
        self.contends = tuple(config.elections if contends is None else contends)
        self.observers: dict[Observer, tuple[str, ...]] = {}
        """Each with the kinds of events that it is told of; none means all."""
        self.log = logging.getLogger(f"electorate.{id}")
        self.figures = Figures()
        self.certificates = Certificates(config, id, self.log) if config.tls or config.secret_file else None
        self.proof_of_death = config.proof_of_death or proof_of_death
        self.configuration = configuration(
            config.membership, config.settings, proof_of_death=config.proof_of_death
        )
        self.safety, self.rest = map(digests, self.configuration)
        wanted = self.wish_to_rejoin(rejoin, frozenset(without))
        self.store = Store(data, config.cluster, id)
        with self.store.opening(id):
            voters, lease = Voters.of(config.membership), config.timing.lease
            self.conditions = self.store.conditions_for(voters, lease, wanted, new_members)
            self.started = self.store.begin(self.conditions)
            self.chain = self.store.chain()
            lost = self.conditions.rejoin is not None and self.conditions.rejoin.lost
            self.starts = {} if lost else self.store.peers()
            """The newest start of each peer that was ever met; an old copy of a store may know better ones no
            more."""
        self.counts: Counter[str] = Counter()
        """What went wrong at the door, by reason."""
        self.hearsay = Hearsay(now)
        """What was refused or ignored of what others say."""
        self.otherwise: dict[NodeId, Room] = {}
        """What the log has told of peers that are configured otherwise."""
        self.differs: dict[NodeId, tuple[str, ...]] = {}
        """In which keys a peer is configured otherwise, though not in what safety rests on."""
        self.awaited: tuple[NodeId, ...] | None = None
        """While it rejoins: for whom it waits."""
        self.buried: dict[NodeId, Start] = {}
        """The last start of each peer that was seen to end."""
        self.sockets: set[socket.socket] = set()
        """What else this process listens on for this node."""
        self.stopping = False
        self.failed: asyncio.Future[str]
        """Done when the node cannot go on, with the reason."""
        self.listeners: list[socket.socket] = []
        """Where it listens: at each address of its name. A process that holds these too keeps them from
        refusing, and so is not believed dead."""
        self.door: Door
        if fear := doubt(data):
            self.log.warning("%s", fear)
        self.disk = Disk(f"electorate-{id}-store", self.balks)
        self.trouble: str | None = None
        """Why the store takes no write at present."""
        self.troubles: set[str] = set()
        """The kinds that the log has told of."""
        self.timers = Timers(self.fire)
        self.strangers: Lobby[Incoming] = Lobby(Incoming.dismiss)
        """Connections without a greeting."""
        self.seen_at: dict[NodeId, bytes] = {}
        """From which address each peer has greeted last."""
        self.incoming: dict[NodeId, Incoming] = {}
        self.leases: dict[str, tuple[Term, float]] = {}
        self.shown: dict[str, tuple[NodeId | None, Term]] = {}
        """The leader of each election that the log has told of last."""
        self.burst = 0
        """So many changes of leadership there were within a second."""
        self.suspected: set[str] = set()
        """The elections whose names may be misspelt, as the log has told."""
        self.wishes = wishes.Wishes(self.do_contend, self.do_withdraw)
        self.forked = False
        """This process was forked off the one that is this node."""
        self.handover: Handover
        self.handing_over: set[str] = set()
        self.handed: asyncio.Future[None]
        self.loop: asyncio.AbstractEventLoop
        self.watching: asyncio.Task[None] | None = None
        """Whether its certificates change."""
        self.links: dict[NodeId, Link] = {}
        self.contact = Contact(self)
        self.between_lives = False
        """Another life of this node begins as soon as its store has it: this one speaks to nobody new."""
        self.ward = Ward(self)
        self.new_node(self.store.load(), self.store.gone())

    def wish_to_rejoin(self, rejoin: bool, without: frozenset[NodeId]) -> Rejoin | None:
        """What was wished, if the others can be asked then. Raises `UserError`."""
        if not rejoin:
            if without:
                raise UserError(
                    "--without names who is gone for good when a node rejoins: give --rejoin, too"
                )
            return None
        membership = self.config.membership
        for node in sorted(without):
            if node == self.id or node not in membership.voters:
                raise UserError(f"--without {node}: it is no other voter of the cluster file")
        rest = [voter for voter in membership.voters if voter != self.id and voter not in without]
        if without and not membership.meets_every_quorum(rest):
            raise UserError(
                f"--without {','.join(sorted(without))}: then {', '.join(rest) or 'nobody'} can tell what was"
                " promised, and that is not enough: every quorum must have one that is asked"
            )
        return Rejoin(without=without)

    def new_node(self, promises: Mapping[str, Promise], gone: frozenset[NodeId]) -> None:
        self.outbox = Outbox(self)
        self.node = Node(
            self.id,
            self.config.membership,
            self.config.settings,
            start=self.started,
            promises=promises,
            gone=gone,
            longest_lease=self.conditions.longest_lease,
            rejoin=self.conditions.rejoin,
            keeps=self.config.elections,
        )

    def identity(self, asked: Start | None) -> Identity:
        """Who I am, to one who remembers this start of mine, or has not said which."""
        rejoin = self.node.rejoin
        return Identity(self.started, self.start_shown(asked), rejoin is not None and rejoin.lost)

    @property
    def testimony(self) -> Testimony:
        """What a guardian must know to attest my end; another life of mine needs another one."""
        return Testimony(self.started, self.certificates.credentials if self.certificates else None)

    def has_new_certificate(self, trust: bool) -> None:
        """Tell my guardian, and show it to the others; if I trust others than before, let them all prove anew
        who they are."""
        self.tell("testimony", {})
        for link in self.links.values():
            link.renew()
        if trust:
            for incoming in self.incoming.values():
                incoming.stay(random.uniform(0.0, SPREAD))

    def start_shown(self, asked: Start | None) -> Start | None:
        """The start of my chain that is asked for, or in its place; by default the one before this."""
        if asked in self.chain:
            return asked
        wanted = asked.incarnation if asked else self.started.incarnation - 1
        return next((start for start in self.chain if start.incarnation == wanted), None)

    # --- from start to stop --------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, dial the others, and contend for the configured elections."""
        self.loop = asyncio.get_running_loop()
        self.failed = self.loop.create_future()
        self.handover = Handover(self)
        try:
            await self.ward.relieve()
            await self.listen()
            self.config = self.config.listening(self.id, self.listeners[0].getsockname()[1])
            await self.ward.start()
        except (UserError, asyncio.CancelledError):
            for listener in self.listeners:
                listener.close()
            self.ward.release()
            self.close_store()
            raise
        addresses = {id: self.config.address(id) for id in self.node.peers}
        self.links = {peer: Link(self, peer, address) for peer, address in addresses.items()}
        fork.running.add(self)
        if self.certificates:
            self.certificates.changed = self.has_new_certificate
            if doubt := self.certificates.source.doubt:
                self.log.warning("%s", doubt)
            self.watching = self.loop.create_task(self.certificates.watch())
        self.door = Door(self.loop, self.listeners, self.welcome, self.log, self.counts)
        self.door.open()
        try:
            self.begin()
        except ValueError as error:
            await self.stop()
            raise UserError(str(error)) from None
        for link in self.links.values():
            link.dial_soon()
        self.log.info("%s", self.contact.first())
        self.tell(
            "ready", {"address": self.config.nodes[self.id].address, "incarnation": self.node.incarnation}
        )

    async def listen(self) -> None:
        """Where the others dial. A guardian whose data directory was moved away holds that for some leases
        yet. Raises `UserError`."""
        key, host, port = self.config.listens(self.id)
        patience = now() + min(ATTESTED * self.config.timing.lease, LONGEST_WAIT)
        while not self.listeners:
            try:
                self.listeners = await listen(host, port, key, self.log)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or now() > patience:
                    why = hindrance(error, key, port)
                    raise UserError(f"node {self.id} cannot listen on {host}:{port}: {why}") from None
                await asyncio.sleep(LOOK)

    def begin(self) -> None:
        self.do(self.node.start(now()))
        self.contact.look()
        self.forget_longer_lease()
        if self.node.kind == "voter":
            for election in (*self.contends, *self.wishes.contends):
                self.contend(election)

    async def stop(self) -> None:
        """Resign, say so, close. Safe to call twice."""
        if self.stopping:
            return
        self.wishes.close()
        led = tuple(self.node.leading)
        for election in tuple(self.node.elections):
            self.do(self.node.withdraw(now(), election))
        await self.handed_over(led)
        await self.handover.close()
        self.stopping = True
        self.timers.clear()
        if self.watching:
            self.watching.cancel()
        self.contact.forget()
        for link in self.links.values():
            link.close()
        self.refuse_calls()
        for incoming in (*self.incoming.values(), *self.strangers):
            incoming.abort()
        await asyncio.sleep(0)
        fork.running.discard(self)
        await self.ward.close()
        await self.leave_store()

    def refuse_calls(self) -> None:
        """From now on this address refuses, unless another process holds it."""
        self.door.close()

    def descriptors(self) -> list[int]:
        """The files and sockets by which this process is this node."""
        taken = [incoming.connection for incoming in (*self.incoming.values(), *self.strangers)]
        outgoing = [link.outgoing.transport for link in self.links.values() if link.outgoing]
        dialled = [transport.get_extra_info("socket") for transport in outgoing]
        sockets = [*self.listeners, *self.sockets, *taken, *dialled]
        held = [self.store.lock, *self.ward.descriptors()]
        return [*held, *(socket.fileno() for socket in sockets if socket.fileno() >= 0)]

    async def handed_over(self, elections: tuple[str, ...]) -> None:
        """Stay as a voter until another leads what this node led: not for long, unless an heir that a user
        has named is awaited."""
        self.handing_over = set(elections)
        if self.handing_over and any(link.connected for link in self.links.values()):
            self.handed = self.loop.create_future()
            wishes = [leading.intended for leading in self.node.leading.values() if leading.intended]
            awaited = max((until - now() for _, until, _ in wishes), default=0.0)
            at_most = max(0.0, awaited) + 2 * self.config.timing.patience
            what = f"'{elections[0]}'" if len(elections) == 1 else f"{len(elections)} elections"
            self.log.info("stopping: waiting until another leads %s, %.1f s at most", what, at_most)
            await asyncio.wait([self.handed], timeout=at_most)

    def close_store(self) -> None:
        self.disk.submit(self.store.close).result()
        self.disk.shutdown()

    async def leave_store(self) -> None:
        """Close it when all is written, but do not wait for longer than a lease."""
        closing = asyncio.wrap_future(self.disk.submit(self.store.close), loop=self.loop)
        closed, _ = await asyncio.wait([closing], timeout=self.config.timing.lease)
        if closed:
            self.disk.shutdown()
        else:
            self.disk.abandon()
            self.log.error(
                "data directory %s takes no write: stopping without it; what waits for it was never promised",
                self.store.directory,
            )

    def on_disk(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Do this after all that the disk has to do, however often it has to be tried."""
        return asyncio.wrap_future(self.disk.persist(call, *args), loop=self.loop)

    def fail(self, reason: str) -> None:
        """This node cannot keep its promises any more: lead no longer, and let the process end."""
        if self.failed.done():
            return
        self.log.error("%s", reason)
        self.failed.set_result(reason)
        self.tell("failed", {"reason": reason})
        self.do(self.node.stalled(now()))

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
        """Raises `ValueError` if this node may not hold an election of that name."""
        self.check_room(election)
        self.suspect(election)
        self.wishes.contend(election)

    def suspect(self, election: str) -> None:
        """One letter too many makes an election of its own, with a leader of its own: say so once if this
        name is not in the cluster file, and resembles another."""
        if len(self.node.elections) > FEW or election in (*self.suspected, *self.config.elections):
            return
        if near := misspelt(election, (name for name in self.names() if name != election)):
            self.suspected.add(election)
            self.log.warning(
                "there is an election '%s', which is not in the cluster file; did you mean '%s'? Each has a"
                " leader of its own; if both are meant, name both in `elections` there",
                election,
                near,
            )

    def check_room(self, election: str) -> None:
        if election in self.node.elections or self.node.may_hold(election, self.id):
            return
        if not is_name(election):
            raise ValueError(
                f"the name of an election has 1 to {MAX_NAME} bytes in UTF-8, all of characters that can be"
                " printed"
            )
        raise ValueError(
            f"there is no room for an election '{election}': node {self.id} holds"
            f" {len(self.node.elections)} already, and takes no more"
        )

    def withdraw(self, election: str) -> None:
        self.wishes.withdraw(election)

    def do_contend(self, election: str) -> None:
        self.do(self.node.contend(now(), election))

    def do_withdraw(self, election: str) -> None:
        self.do(self.node.withdraw(now(), election))

    def freeze(self, election: str, seconds: float) -> None:
        """Do not contend for so long; 0 ends that. Raises `ValueError` if this node leads, or may not hold an
        election of that name."""
        self.check_room(election)
        if seconds and election in self.node.leading:
            raise ValueError(f"node {self.id} leads '{election}': let it resign for so many seconds")
        self.wishes.freeze(election, seconds)

    def resign(self, election: str, seconds: float = 0.0) -> None:
        """Let another lead, and do not contend for so long. Raises `ValueError` if `seconds` is no such
        number."""
        wishes.check(seconds)
        self.do(self.node.resign(now(), election))
        if seconds:
            self.wishes.freeze(election, seconds)

    def transfer(self, election: str, to: NodeId, force: bool = False) -> None:
        """Hand the leadership over, now or as soon as the heir follows with data as fresh as mine (or by
        force), but within a lease. To hand it to myself takes back what was wished before, and for how long
        I was not to contend then. Raises `ValueError` if I do not lead, or the heir cannot."""
        self.check_member(to)
        leading = self.node.leading.get(election)
        if leading is None:
            raise ValueError(f"node {self.id} does not lead '{election}': {who_leads(self, election)}")
        if to == self.id:
            self.wishes.freeze(election, 0.0)
        if not leading.may_inherit(to):
            raise ValueError(f"node {to} may not lead, or does not contend")
        self.do(self.node.transfer(now(), election, to, force))

    def check_member(self, id: NodeId) -> None:
        """Raises `ValueError`."""
        if id not in self.config.nodes:
            raise ValueError(
                f"node '{heard(id)}' is not in the cluster file; it has {', '.join(self.config.nodes)}"
            )

    def set_position(self, election: str, position: int) -> None:
        """Raises `ValueError` for what is no 63-bit number, or an election that this node may not hold."""
        self.check_room(election)
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
        """Whether this node provably leads at this instant: a clock read, no I/O. May be asked from any
        thread; the clock is read last, so a thread that was paused in here is not told of the past."""
        tenure = self.node.tenures.get(election)
        if tenure is None:
            return False
        until, assured = tenure.lease.until, tenure.assured
        at = now()
        return at < until or at < assured

    def lease_left(self, election: str) -> float:
        """For how many seconds more this node certainly leads, an hour at most; 0 if it does not."""
        return min(max(0.0, self.node.lease(election) - now()), FOREVER)

    def lease(self, election: str) -> float:
        """Until when, on `clock.now`, this node certainly leads; -inf if it does not."""
        return self.node.lease(election)

    def tenure(self, election: str) -> tuple[Term, float]:
        """In which term this node certainly leads, and for how many seconds more; (0, 0) if it does not. May
        be asked from any thread."""
        tenure = self.node.tenures.get(election)
        if tenure is None:
            return 0, 0.0
        left = tenure.until - now()
        return (tenure.term, left) if left > 0 else (0, 0.0)

    def leader(self, election: str) -> Known | None:
        """Who leads, as far as this node knows, and what it has told of itself."""
        view = self.view(election)
        return self.named(view) if view else None

    def named(self, view: View) -> Known | None:
        """The same of a view that this node has, or has had."""
        if view.leader is None:
            return None
        metadata = self.metadata if view.leader == self.id else self.links[view.leader].metadata
        return Known(view.leader, self.config.nodes[view.leader].address, view.term, metadata)

    def view(self, election: str) -> View | None:
        return self.node.view(election)

    def knows(self, election: str) -> bool:
        """Whether it is in the cluster file, or anybody has spoken of it. May be asked from any thread."""
        return election in self.config.elections or election in self.node.elections

    def names(self) -> tuple[str, ...]:
        """Of all elections that are known, those of the cluster file first. May be asked from any thread."""
        return tuple(dict.fromkeys((*self.config.elections, *tuple(self.node.elections))))

    @contextmanager
    def awaiting(self, election: str, wanted: Callable[[View], bool]) -> Iterator[asyncio.Future[View]]:
        """The first view that is as wanted, be it for an instant that whoever looks now and then would miss.
        A `ValueError` of `wanted` is that of the future."""
        came: asyncio.Future[View] = self.loop.create_future()

        def see(view: View) -> None:
            try:
                if not came.done() and wanted(view):
                    came.set_result(view)
            except ValueError as error:
                came.set_exception(error)
                came.exception()

        def hear(kind: str, what: dict[str, Any]) -> None:
            if what["election"] == election:
                see(View(**what))

        if view := self.view(election):
            see(view)
        self.observe(hear, "view")
        try:
            yield came
        finally:
            self.unobserve(hear)

    # --- events of the node -------------------------------------------------------------------------

    def do(self, effects: list[Effect]) -> None:
        self.outbox.perform(effects)

    def received(self, peer: NodeId, message: Word) -> None:
        if self.stopping:
            return
        if isinstance(message, Ask):
            self.handover.on_ask(peer, message)
        elif isinstance(message, Answered):
            self.handover.on_answered(peer, message)
        else:
            at = now()
            granted = self.node.peers[peer].granted
            self.do(self.node.receive(at, peer, message))
            if self.node.peers[peer].granted > granted:
                self.figures.supported(peer, at - self.node.peers[peer].granted)
            if isinstance(message, Support):
                self.tell_leases(self.node.leading)
            elif isinstance(message, Follow):
                self.tell_leases([message.election])

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

    def save(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Gone) and record.gone:
                self.break_with(record.node)
        commit = self.disk.persist(self.store.commit, records)
        patience = self.loop.call_later(self.config.timing.lease, self.stalled, commit)
        done = asyncio.wrap_future(commit, loop=self.loop)
        done.add_done_callback(partial(self.saved, self.outbox, patience, now()))

    def break_with(self, peer: NodeId) -> None:
        """It is gone for good: whatever speaks for it must greet again, as one that rejoins."""
        self.links[peer].drop()
        if incoming := self.incoming.get(peer):
            incoming.abort()

    def saved(
        self, outbox: Outbox, patience: asyncio.TimerHandle, asked: float, commit: asyncio.Future[None]
    ) -> None:
        patience.cancel()
        self.figures.commit_time.add(now() - asked)
        if self.written(commit) and outbox is self.outbox and not self.stopping:
            outbox.saved()

    def written(self, done: asyncio.Future[Any] | Future[Any]) -> bool:
        """Whether the disk has taken it; if it never will, this node must end."""
        if done.cancelled():
            return False
        if error := done.exception():
            self.fail(f"data directory {self.store.directory} {remedy(error, self.id)}")
        elif self.trouble:
            self.restored()
        return not error

    def stalled(self, commit: Future[None]) -> None:
        """A commit has taken longer than a lease: until it is done, nothing more can be promised. If only
        this loop was late to hear of it, the disk is well."""
        if not (commit.done() or self.trouble):
            self.troubled("has stalled: see whether the disk is overloaded or fails", "it hangs")

    def balks(self, error: BaseException) -> None:
        """In the thread of the disk: it has not taken a write, which is tried again."""
        with suppress(RuntimeError):  # the loop has ended, and so has this node
            self.loop.call_soon_threadsafe(self.troubled, remedy(error, self.id), cure(error))

    def troubled(self, what: str, kind: str) -> None:
        """The store takes no write: until it does, nothing can be promised, so this node leads no longer.
        Each kind of trouble is said once."""
        if self.stopping or self.failed.done():
            return
        if self.trouble is None:
            self.figures.store_fails()
        self.trouble = f"data directory {self.store.directory} {what}"
        if kind not in self.troubles:
            self.troubles.add(kind)
            self.log.error("%s; leading no longer, until it takes a write", self.trouble)
            self.tell("stalled", {"reason": self.trouble})
        self.do(self.node.stalled(now()))

    def restored(self) -> None:
        """The store takes writes again."""
        lasted = self.figures.store_works()
        self.log.warning("data directory %s takes writes again, after %.1f s", self.store.directory, lasted)
        self.trouble = None
        self.troubles.clear()
        self.tell("restored", {})

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

    def notify(self, notice: Notice) -> None:
        if isinstance(notice, Awaiting):
            self.awaits(notice.nodes)
        elif isinstance(notice, Rejoined):
            self.has_rejoined()
        elif isinstance(notice, Forgotten):
            self.forget(notice.election)
        elif isinstance(notice, Disbelieved):
            self.complain("not believing", notice.node, f"it speaks of {notice.what}", "junk")
        else:
            lapsed = {"election": notice.election, "heir": notice.heir, "reason": self.lapse(notice)}
            self.tell("lapsed", lapsed)

    def forget(self, election: str) -> None:
        self.shown.pop(election, None)
        self.suspected.discard(election)
        self.figures.forget(election)
        self.tell("forgotten", {"election": election})

    def awaits(self, nodes: tuple[NodeId, ...]) -> None:
        self.awaited = nodes
        self.log.warning("%s", self.waiting)
        self.tell("awaiting", {"nodes": nodes})

    @property
    def waiting(self) -> str | None:
        """Why it does not vote yet: for whom it waits while it rejoins. May be asked from any thread."""
        rejoin, awaited = self.conditions.rejoin, self.awaited
        if awaited is None or rejoin is None:
            return None
        why = "it has lost its store" if rejoin.lost else "the voters are new"
        if not awaited:
            return f"{why}, and too few are left that can tell what was promised"
        hint = self.hint_without(rejoin, awaited) if rejoin.lost else ""
        return f"{why}: before it votes, it waits for {', '.join(awaited)}{hint}"

    def hint_without(self, rejoin: Rejoin, awaited: tuple[NodeId, ...]) -> str:
        """Whom of these a restart could leave out, so that the rest still can tell what was promised."""
        others = [voter for voter in self.config.membership.voters if voter != self.id]
        tell = [voter for voter in others if not self.node.peers[voter].rejoining]
        hints = []
        for node in awaited:
            without = sorted({*rejoin.without, node})
            if self.config.membership.meets_every_quorum([voter for voter in tell if voter not in without]):
                hints.append(f"--without {','.join(without)}")
        if not hints:
            return "; none of them can be left out, because the rest could not tell all that was promised"
        return f"; if one is gone for good, restart with --rejoin {' or '.join(hints)}"

    def has_rejoined(self) -> None:
        """The others have told what I may have promised: from now on, this store is believed."""
        self.awaited = None
        self.log.info("all have told what they know: this node votes again after a lease")
        longest = max(self.conditions.longest_lease, self.node.longest_lease)
        self.keep(msgspec.structs.replace(self.conditions, longest_lease=longest, rejoin=None))
        self.forget_longer_lease()
        self.tell("rejoined", {})

    def keep(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.on_disk(self.store.set_conditions, conditions).add_done_callback(self.written)

    def forget_longer_lease(self) -> None:
        """What was promised under a longer lease is over when that has passed since the start."""
        lease = self.config.timing.lease
        if self.conditions.rejoin or self.stopping or self.conditions.longest_lease <= lease:
            return
        left = self.node.quiet_until - now()
        if left > 0:
            self.loop.call_later(left, self.forget_longer_lease)
        else:
            self.keep(msgspec.structs.replace(self.conditions, longest_lease=lease))

    def lapse(self, notice: TransferLapsed) -> str:
        """Why a transfer came to nothing."""
        if notice.why == "overruled":
            return overruled(self)
        if notice.why == "ended":
            return f"the leadership of node {self.id} ended before node {notice.heir} could take it over"
        if notice.why == "quiet":
            return f"node {notice.heir} has answered no beat for a while; see whether it hangs"
        if notice.positions is None:
            return f"node {notice.heir} has not followed, or does not contend"
        theirs, mine = notice.positions
        return f"node {notice.heir} is behind: its position is {theirs}, that of node {self.id} {mine}"

    def log_change(self, view: View) -> None:
        """One line for each change of leadership, as long as they are not too many."""
        shown = (view.leader, view.term if view.leader else 0)
        if self.shown.get(view.election, (None, 0)) == shown:
            return
        if view.election not in self.shown:
            self.suspect(view.election)
        self.shown[view.election] = shown
        if not self.burst:
            self.loop.call_later(1.0, self.end_burst)
        self.burst += 1
        if self.burst > BURST:
            return
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

    def end_burst(self) -> None:
        if self.burst > BURST:
            self.log.info("and %d more changes of leadership within a second", self.burst - BURST)
        self.burst = 0

    # --- what the links report -----------------------------------------------------------------------------

    def known(self, peer: NodeId) -> Start | None:
        """The newest start of this peer that was met."""
        return self.starts.get(peer)

    def verdict(self, peer: NodeId, identity: Identity) -> Verdict:
        observes = self.node.kind is Kind.OBSERVER
        return judge(self.known(peer), peer in self.node.gone, identity, observes)

    def recognises(self, peer: NodeId, identity: Identity) -> bool:
        """Whether it is the peer that has welcomed me; if not, it has forgotten a later life."""
        verdict = self.verdict(peer, identity)
        if verdict is not Verdict.WELCOME and not identity.rejoining:
            self.complain("refusing", peer, self.doubt(peer, identity, verdict), "lost_store")
        return verdict is Verdict.WELCOME

    def doubt(self, peer: NodeId, identity: Identity, verdict: Verdict) -> str:
        if verdict is Verdict.GONE:
            return f"node '{peer}' was named as gone for good when another rejoined: restart it with --rejoin"
        known = self.known(peer)
        assert known
        return (
            f"I have met incarnation {known.incarnation} of node '{peer}', and this one does not know it: its"
            " store was lost or rolled back, or runs twice; restart it with --rejoin"
        )

    def remember(self, peer: NodeId, start: Start) -> None:
        """Keep the newest start of a peer, on the disk as well: after my own restart, I still know it."""
        self.buried.pop(peer, None)
        if self.starts.get(peer) != start:
            self.starts[peer] = start
            self.on_disk(self.store.remember, peer, start).add_done_callback(self.written)

    def adopts(self, start: Start | None) -> bool:
        """Another remembers this start of mine. If my lost store knew it, so does this one from now on; if it
        is not older than I am, I begin a later life, and return True."""
        if start is None or start in self.chain or not (self.node.rejoin and self.node.rejoin.lost):
            return False
        self.chain.add(start)
        self.on_disk(self.store.adopt, start).add_done_callback(self.written)
        if start.incarnation >= self.started.incarnation and not self.stopping:
            self.live_again()
            return True
        return False

    def connected(self, peer: NodeId, identity: Identity) -> None:
        self.remember(peer, identity.start)
        self.tell("peer", {"peer": peer, "state": "connected"})
        self.do(self.node.connected(now(), peer, identity.start.incarnation, identity.rejoining))
        self.contact.reached(peer)
        self.contact.look()

    def lost(self, peer: NodeId) -> None:
        self.figures.parted(peer)
        self.handover.lost(peer)
        self.contact.parted(peer)
        self.tell("peer", {"peer": peer, "state": "lost"})
        self.do(self.node.lost(now(), peer, dead=False))
        self.contact.look()

    def peer_is_gone(self, peer: NodeId, start: Start) -> None:
        """It is proven that this life of the peer is over. If it is the newest, say so, once, and listen no
        more to what may still be on its way from it."""
        if start == self.known(peer) and self.buried.get(peer) != start:
            self.buried[peer] = start
            if incoming := self.incoming.get(peer):
                incoming.abort()
            self.tell("peer", {"peer": peer, "state": "dead"})
            self.do(self.node.lost(now(), peer, dead=True))

    def refused_by(self, peer: NodeId, refusal: Refused) -> None:
        if refusal.differs:
            self.complain("refused by", peer, self.disagreement(refusal.differs), "configuration")
        else:
            self.complain("refused by", peer, refusal.reason, "refused_by_peer")

    def live_again(self) -> None:
        """Others have met a later life of mine than this: begin another one, from nothing."""
        self.do(self.node.stalled(now()))
        self.timers.clear()
        self.between_lives = True
        self.on_disk(self.store.live_again).add_done_callback(self.reborn)

    def reborn(self, life: asyncio.Future[tuple[Start, dict[str, Promise], frozenset[NodeId]]]) -> None:
        if not self.written(life) or self.stopping:
            return
        self.timers.clear()
        self.started, promises, gone = life.result()
        self.chain.add(self.started)
        self.tell("testimony", {})
        self.new_node(promises, gone)
        self.between_lives = False
        for link in self.links.values():
            link.drop()
            link.dial_soon()
        for incoming in self.incoming.values():
            incoming.abort()
        self.begin()

    def complain(self, how: str, whom: str, reason: str, refusal: Refusal) -> None:
        """Count each complaint; log it when it is new. `whom` and `how` are words of ours."""
        self.figures.refusals[refusal] += 1
        complaint = heard(f"{how} {whom}: {reason}", SENTENCE)
        if self.hearsay.hear((how, whom, refusal), complaint):
            self.log.warning("%s", complaint)
            self.tell("peer", {"peer": whom, "state": "refused", "reason": complaint})

    def foreign(self, tongue: str, id: NodeId) -> str:
        """What to say where that was spoken at the address of this node."""
        place = f"nodes.{id}.address is where nodes speak to each other"
        if tongue == "TLS":
            return f"{place}, and node {self.id} does not speak TLS: {SAME}"
        http = self.config.http_address(id)
        where = f"node {id} serves HTTP at {http[0]}:{http[1]}" if http else f"nodes.{id}.http is not set"
        return f"{place}; {where}"

    def junk(self, whose: str, error: WireError) -> None:
        self.complain("junk from", whose, str(error), "junk")

    # --- strangers -----------------------------------------------------------------------------

    def welcome(self, connection: socket.socket) -> None:
        """Somebody calls. If there are too many that have not greeted, one of them has to go."""
        incoming = Incoming(self, connection)
        homes = (link.name.machines for link in self.links.values())
        members = {*self.seen_at.values(), *chain.from_iterable(homes)}
        if self.strangers.enter(incoming, incoming.machine, members):
            self.counts["too many strangers"] += 1
            self.figures.refusals["too_many"] += 1

    def is_at(self, peer: NodeId, machine: bytes) -> bool:
        """Whether that is an address of this peer, as far as its name tells."""
        return machine in self.links[peer].name.machines

    def objection(self, greeting: Greeting, whom: str) -> Refused | None:
        """Why this greeting is not accepted, or None. Complaints about it are complaints about `whom`."""
        refusal: Refusal
        differs: tuple[str, ...] = ()
        versions = Versions(*greeting.versions)
        if self.versions.agree(versions) is None:
            refusal = "protocol"
            reason = self.incompatible(greeting.node, versions)
        elif greeting.cluster != self.config.cluster:
            refusal = "cluster"
            reason = f"I belong to cluster '{self.config.cluster}', not '{heard(greeting.cluster)}'"
        elif greeting.to != self.id:
            refusal = "wrong_address"
            reason = (
                f"I am node '{self.id}', not '{heard(greeting.to)}': check the addresses in the cluster file"
            )
        elif greeting.node not in self.links:
            refusal = "unknown_node"
            reason = f"node '{heard(greeting.node)}' is not in my cluster file"
        elif differs := differences(self.safety, greeting.safety):
            refusal = "configuration"
            reason = self.disagreement(differs)
        else:
            return self.doubtful(greeting, whom)
        if whom != A_STRANGER:
            self.complain("refusing", whom, reason, refusal)
        else:
            self.complain("refusing", whom, "it says it is a node that is not mine", refusal)
            self.log.debug("refusing %.100r: %s", greeting.node, reason)
        return Refused(reason, None, told(differs))

    def incompatible(self, node: NodeId, theirs: Versions) -> str:
        """Why the two cannot speak with each other, and who is to be upgraded to what."""
        mine, node = self.versions, heard(node)
        older, to = (self.id, theirs) if mine.newest < theirs.newest else (node, mine)
        return (
            f"node '{self.id}' speaks {mine}, and node '{node}' {theirs}: upgrade node '{older}' to a release"
            f" that speaks version {to.oldest}, before those that no longer speak version"
            f" {min(mine.newest, theirs.newest)}"
        )

    def beyond(self, whom: str, part: Part, what: str) -> None:
        """A later version says more than this one knows: that is ignored, and counted."""
        self.figures.beyond[whom, part] += 1
        more = (
            f"a {heard(what)}, which I do not know"
            if part is Part.MESSAGE
            else f"more in a {what} than I know"
        )
        complaint = f"ignoring {whom}: it says {more}; it is of a later version"
        if self.hearsay.hear(("ignoring", whom, part), complaint):
            self.log.info("%s", complaint)

    def doubtful(self, greeting: Greeting, whom: str) -> Refused | None:
        """The node is one of mine; is it the one that I know?"""
        peer, identity = greeting.node, greeting.said.identity
        verdict = self.verdict(peer, identity)
        if verdict is Verdict.WELCOME:
            return None
        known = self.known(peer)
        reason = self.doubt(peer, identity, verdict)
        if verdict is not Verdict.SHOW and not identity.rejoining:
            self.complain("refusing", whom, reason, "lost_store")
        return Refused(reason, known)

    def disagreement(self, keys: tuple[str, ...]) -> str:
        """One sentence that names the keys in which another is configured otherwise."""
        named = [f"{key} ({self.configured(key)} here)" for key in told(keys[:NAMED])]
        if len(keys) > NAMED:
            named.append(f"{len(keys) - NAMED} more" if len(keys) < TOLD else "many more")
        return f"our configurations differ in {', '.join(named)}: give all nodes the same cluster file"

    def configured(self, key: str) -> str:
        values: Mapping[str, Value] = {**self.configuration.safety, **self.configuration.rest}
        return msgspec.json.encode(values[key]).decode() if key in values else "missing"

    def compare(self, peer: NodeId, rest: Mapping[str, int]) -> None:
        """Say it once if a peer is configured otherwise, where safety does not rest on it."""
        differs = told(differences(self.rest, rest))
        room = self.otherwise.setdefault(peer, Room(now()))
        if differs and room.hear(what := self.disagreement(differs), now()):
            self.log.warning("node %s: %s", peer, what)
        self.differs[peer] = differs

    def greeted(self, greeting: Greeting, incoming: Incoming) -> None:
        """A member has dialled me: the newest connection of it counts, and I dial it as well."""
        peer, identity = greeting.node, greeting.said.identity
        self.remember(peer, identity.start)
        self.compare(peer, greeting.rest)
        self.seen_at[peer] = incoming.machine
        older = self.incoming.get(peer)
        self.incoming[peer] = incoming
        if older:
            self.handover.lost(peer)
            incoming.replace(older)
        self.do(self.node.met(now(), peer, identity.start.incarnation, identity.rejoining))
        link = self.links[peer]
        if link.again:
            link.dial_soon()

    def hung_up(self, incoming: Incoming) -> None:
        """If a peer has none left to me, it may have ended: dial, if that is what I wait for."""
        if incoming.peer and self.incoming.get(incoming.peer) is incoming:
            del self.incoming[incoming.peer]
            self.handover.lost(incoming.peer)
            self.links[incoming.peer].dial_soon()

    def standing(self, view: View) -> dict[str, Any]:
        """What this node knows of one election."""
        reign = self.figures.reigns.get(view.election)
        return {
            "election": view.election,
            "role": view.role,
            "leader": view.leader,
            "term": view.term,
            "lease_left": round(self.lease_left(view.election), 4),
            "frozen": round(self.wishes.frozen_for(view.election), 1),
            "since": round(reign.since, 3) if reign and view.leader else None,
            "changes": reign.changes if reign else 0,
        }

    def status(self) -> dict[str, Any]:
        """What this node knows, for people and programs."""
        return {
            "elections": [self.standing(election.view) for election in self.node.elections.values()],
            "peers": self.peers(),
            "lost_since": self.lost_since(),
            "speaks": self.versions,
            "versions": self.spoken(),
            "unreached": self.unreached(),
            "no_quorum": self.contact.no_quorum,
            "no_store": self.no_store,
            "resists": self.resists,
            "differs": self.differing(),
            "waiting": self.waiting,
            "awaits": self.awaited,
            "ignored": self.ignored(),
        }

    def peers(self) -> dict[NodeId, str]:
        """Whether each is connected, lost, or was never reached since this start. May be asked from any
        thread."""
        apart = dict.fromkeys(self.contact.lost, "lost")
        return {
            peer: "connected" if link.connected else apart.get(peer, "never reached")
            for peer, link in self.links.items()
        }

    def lost_since(self) -> dict[NodeId, float]:
        """When each peer was lost, in seconds since 1970. May be asked from any thread."""
        return {peer: round(at, 3) for peer, at in self.contact.lost.copy().items()}

    def spoken(self) -> dict[NodeId, int]:
        """The version that is spoken with each peer that is connected. May be asked from any thread."""
        spoken = {peer: link.version for peer, link in self.links.items() if link.connected}
        return {peer: version for peer, version in spoken.items() if version}

    def unreached(self) -> dict[NodeId, str]:
        """Why the last attempt to reach a peer failed. May be asked from any thread."""
        return self.contact.why.copy()

    @property
    def no_store(self) -> str | None:
        """Since when the store takes no write, and why. May be asked from any thread."""
        since, trouble = self.figures.store_fails_since, self.trouble
        return f"since {hour(since)}, {trouble}" if since and trouble else None

    @property
    def resists(self) -> str | None:
        """What of a command cannot be ended, and what comes of that. May be asked from any thread."""
        left = self.ward.resisting
        return plea(left) if left else None

    def expiry(self) -> dict[NodeId, float]:
        """When the certificate that each node has shown last ends, in seconds since 1970, and my own. May be
        asked from any thread."""
        own = {self.id: self.certificates.end} if self.certificates else {}
        return {**own, **self.figures.expiry.copy()}

    def differing(self) -> dict[NodeId, tuple[str, ...]]:
        """The peers that are configured otherwise, and in which keys. May be asked from any thread."""
        return {peer: keys for peer, keys in tuple(self.differs.items()) if keys}

    def ignored(self) -> dict[str, int]:
        """What was ignored or refused, and how often."""
        return {**self.node.ignored, **self.counts, **self.hearsay.counts()}


def told(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys in which another is configured otherwise, some of which it has named."""
    return tuple(heard(key, 2 * WORD) for key in keys[:TOLD])
