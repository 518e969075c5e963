"""One node as the checker sees it: the very `core.Node`, its disk and its timers, as a value.

A node is a pure function of its state and the event, so each pair of them is run once, on a copy of the
real object, and remembered. All times in a state are relative to the node's own clock, and whatever lies so
far in the past that it cannot matter any more is forgotten; so a state that has been before is recognised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from electorate.core.elector import Elector
from electorate.core.identity import Identity, Rejoin, Start, Verdict, judge
from electorate.core.model import (
    NOBODY,
    Accept,
    Forget,
    Gone,
    Membership,
    Message,
    NodeId,
    Notice,
    Promise,
    Record,
    Refuse,
    Rejoined,
    Resign,
    Role,
    Settings,
    Term,
    Timer,
    View,
)
from electorate.core.node import BEAT, Node
from electorate.core.outbox import Outbox
from electorate.core.ring import Coordinator, Ring, Token
from electorate.core.zab import Notification, State, Zab
from electorate.sim.invariants import is_durable

Event: TypeAlias = tuple[Any, ...]
"""A method of `core.Node` and its arguments after `now`; or one of those below."""
START, CRASH, TEAR, COMMIT, PASS, RENUMBER = "start", "crash", "tear", "commit", "pass", "renumber"
MEET, ADOPT, COPY = "meet", "adopt", "copy"
AS_IT_IS, BLANK, COPIED = "its store", "an empty store", "the copy of its store"

PAUSES = 1
"""Failures in a row are counted up to here: they only lengthen pauses, and clocks are free."""
NEVER = float("-inf")


class Armed(NamedTuple):
    """A timer that fires some time between these two, from now on."""

    timer: Timer
    low: float
    high: float


class Store(NamedTuple):
    """What a node keeps through a crash, if it does not lose it."""

    promises: tuple[Promise, ...] = ()
    """In the order of their elections."""
    chain: frozenset[Start] = frozenset()
    met: tuple[tuple[NodeId, Start], ...] = ()
    """The newest start of each other node that was ever met."""
    gone: frozenset[NodeId] = frozenset()
    rejoin: Rejoin | None = None
    """It has not rejoined yet."""

    @property
    def by_election(self) -> dict[str, Promise]:
        return {promise.election: promise for promise in self.promises}

    @property
    def newest(self) -> Start:
        return max(self.chain, default=Start(0))

    def noting(self, record: Record) -> Store:
        promises = self.by_election
        if isinstance(record, Gone):
            gone = self.gone | {record.node} if record.gone else self.gone - {record.node}
            return self._replace(gone=gone)
        if isinstance(record, Forget):
            promises.pop(record.election, None)
        else:
            promises[record.election] = record
        return self._replace(promises=tuple(promises[name] for name in sorted(promises)))

    def meeting(self, node: NodeId, start: Start) -> Store:
        return self._replace(met=tuple(sorted((dict(self.met) | {node: start}).items())))


class Machine:
    """One node at one moment. Two with the same `digest` are the same."""

    __slots__ = (
        "copied",
        "digest",
        "holds",
        "id",
        "links",
        "lives",
        "node",
        "queue",
        "start",
        "store",
        "timers",
    )

    def __init__(
        self,
        id: NodeId,
        node: Node | None = None,
        store: Store = Store(),  # noqa: B008
        copied: Store = Store(),  # noqa: B008
        lives: int = 0,
        timers: tuple[Armed, ...] = (),
        queue: tuple[Any, ...] = (),
    ) -> None:
        self.id = id
        self.node = node
        """None while it is down."""
        self.store = store
        self.copied = copied
        """What an operator could put back in place of the store."""
        self.lives = lives
        """How often it has started: what stands for the random number of a start."""
        self.timers = timers
        self.queue = queue
        """What waits for a commit under way, if disks are slow: see `core.outbox`."""
        self.digest = digest(self.key())
        self.holds = tuple(name for name in node.leading if node.is_leader(0.0, name)) if node else ()
        """The elections in which it has a lease."""
        self.start = node.started if node else store.newest
        peers = node.peers if node else {}
        self.links = {id: start for id, start in store.met if id in peers and peers[id].connected}
        """To whom it is connected, and which life of each that is."""

    @property
    def disk(self) -> dict[str, Promise]:
        return self.store.by_election

    @property
    def numbered(self) -> bool:
        """It has counted beats."""
        return self.node is not None and self.node.beats.seq != self.node.incarnation << 32

    def key(self) -> tuple[Any, ...]:
        inside = None if self.node is None else self.node.state()
        return (self.id, inside, self.store, self.copied, self.lives, frozenset(self.timers), self.queue)

    def judges(self, other: Machine) -> Verdict:
        """Whether this one takes the other for the node that it has met before. The other shows whichever of
        its starts is asked for, if it has it."""
        known = dict(self.store.met).get(other.id)
        shown = known if known in other.store.chain else min(other.store.chain, default=None)
        rejoining = other.store.rejoin is not None and other.store.rejoin.lost
        return judge(known, other.id in self.store.gone, Identity(other.start, shown, rejoining))


class Step(NamedTuple):
    """What came of one event at one node."""

    machine: Machine
    sent: tuple[tuple[NodeId, Message], ...]
    facts: frozenset[tuple[str, str, Term, NodeId]]
    """Who has led, held a lease, or was followed, for what election and in which term."""
    votes: frozenset[tuple[str, str, int, NodeId]]
    """ZAB: for whom the node has voted, in which round."""
    elected: tuple[tuple[str, int, NodeId], ...]
    """ZAB: whom it now holds for elected, and in which round."""
    problems: tuple[str, ...]
    """What the node has broken by itself: I4, and what is no matter of safety but of peace."""
    marks: frozenset[str]
    """What this shows to be possible."""
    saves: int
    """How many commits the event called for."""


class Recorder:
    """The driver of one step: does nothing, and notes everything. Disks are prompt unless they are `slow`."""

    def __init__(self, machine: Machine, slow: bool, elapsed: float) -> None:
        self.id = machine.id
        self.slow = slow
        self.store = machine.store
        self.timers = {
            timer: Armed(timer, max(low - elapsed, 0.0), max(high - elapsed, 0.0))
            for timer, low, high in machine.timers
        }
        self.sent: list[tuple[NodeId, Message]] = []
        self.views: list[View] = []
        self.problems: list[str] = []
        self.saves = 0
        self.torn_at: int | None = None
        self.gone = False
        self.outbox = Outbox(self)
        waiting, self.saving = (machine.queue or ((), ()))[:2]
        self.outbox.queue.update(dict.fromkeys(waiting))
        self.outbox.committing = len(self.saving)

    def transmit(self, to: NodeId, message: Message) -> None:
        if self.gone:
            return
        self.sent.append((to, message))
        claimant = backed_by(self.id, to, message)
        if claimant is not None:
            self.check_durable(claimant, message)

    def check_durable(self, claimant: NodeId, message: Any) -> None:
        if not is_durable(self.store.by_election, message.election, message.term, claimant):
            self.problems.append(
                f"I4: {self.id} backed {claimant} in term {message.term} before it was durable"
            )

    def arm(self, timer: Timer, low: float, high: float) -> None:
        if not self.gone:
            self.timers[timer] = Armed(timer, max(low, 0.0), max(low, high, 0.0))

    def disarm(self, timer: Timer) -> None:
        if not self.gone:
            self.timers.pop(timer, None)

    def announce(self, view: View) -> None:
        if not self.gone:
            self.views.append(view)

    def notify(self, notice: Notice) -> None:
        if isinstance(notice, Rejoined) and not self.gone:
            self.store = self.store._replace(rejoin=None)

    def save(self, records: list[Record]) -> None:
        self.saves += 1
        if self.saves == self.torn_at:
            self.gone = True
        self.saving = tuple(records)

    def commit(self) -> None:
        """What is being saved is on the disk now."""
        for record in self.saving:
            if isinstance(record, Promise):
                self.compare(self.store.by_election.get(record.election, Promise(record.election)), record)
            self.store = self.store.noting(record)
        self.saving = ()
        self.outbox.saved()

    def compare(self, before: Promise, promise: Promise) -> None:
        if promise.term == before.term and before.backed not in (None, NOBODY, promise.backed):
            self.problems.append(
                f"I4: {self.id} backed {before.backed} and {promise.backed} in term {promise.term}"
            )
        if promise.term < before.term:
            self.problems.append(f"I4: {self.id} went back from term {before.term} to {promise.term}")

    def perform(self, effects: Iterable[Any]) -> None:
        self.outbox.perform(effects)
        while self.outbox.committing and not self.slow and not self.gone:
            self.commit()

    def hear_myself(self, node: Node, now: float) -> None:
        """What a node says to itself arrives at once."""
        while mine := [message for to, message in self.sent if to == self.id]:
            self.sent = [(to, message) for to, message in self.sent if to != self.id]
            for message in mine:
                self.perform(node.receive(now, self.id, message))

    @property
    def queue(self) -> tuple[Any, ...]:
        return (tuple(self.outbox.queue), self.saving) if self.outbox.queue else ()


def backed_by(voter: NodeId, to: NodeId, message: Message) -> NodeId | None:
    """Whom this message says that the voter backs."""
    if isinstance(message, Accept):
        return to
    if isinstance(message, Coordinator) and message.is_backed_by(voter):
        return message.leader
    return None


class Machines:
    """All that nodes of one cluster can do: `step` runs the real code, once for each state and event."""

    def __init__(self, membership: Membership, settings: Settings, slow_disk: bool = False) -> None:
        self.membership = membership
        self.settings = settings
        self.slow_disk = slow_disk
        self.known: dict[int, Machine] = {}
        self.steps: dict[tuple[int, Event], Step] = {}

    def blank(self, id: NodeId) -> Machine:
        """A node that has never run."""
        return self.intern(Machine(id))

    def intern(self, machine: Machine) -> Machine:
        return self.known.setdefault(machine.digest, machine)

    def step(self, machine: Machine, event: Event) -> Step:
        found = self.steps.get((machine.digest, event))
        if found is None:
            found = self.steps[machine.digest, event] = self.run(machine, event)
        return found

    def run(self, machine: Machine, event: Event) -> Step:
        what, *arguments = event
        elapsed = float(arguments.pop()) if what in ("fire", PASS) else 0.0
        recorder = Recorder(machine, self.slow_disk, elapsed)
        if what == CRASH:
            if arguments[0]:
                recorder.commit()
                recorder.sent.clear()
            return self.down(machine, recorder)
        if what == TEAR:
            recorder.torn_at, (what, *arguments) = arguments
            elapsed = float(arguments.pop()) if what == "fire" else 0.0
        if what in (START, ADOPT):
            return self.start(machine, recorder, what, *arguments)
        if what == COPY:
            return self.after(machine, recorder, machine.node, copied=machine.store)
        assert machine.node is not None
        node = duplicate(machine.node)
        match what:
            case "commit":
                recorder.commit()
            case "pass":
                pass
            case "renumber":
                renumber(node)
            case "fire":
                del recorder.timers[arguments[0]]
                recorder.perform(node.fire(elapsed, arguments[0]))
            case "meet":
                peer, start, rejoining = arguments
                recorder.store = recorder.store.meeting(peer, start)
                recorder.perform(node.connected(0.0, peer, start.incarnation, rejoining))
            case _:
                recorder.perform(getattr(node, what)(0.0, *arguments))
        recorder.hear_myself(node, elapsed)
        if recorder.gone:
            return self.down(machine, recorder)
        shift(node, elapsed)
        return self.after(machine, recorder, node, event)

    def start(
        self, machine: Machine, recorder: Recorder, what: str, found: str | Start, rejoin: Rejoin | None
    ) -> Step:
        """The process starts: with which store, and whether it is told to rejoin. Or it learns, while it
        rejoins, which start of its another one remembers, and begins a new life after that."""
        if what == ADOPT:
            assert isinstance(found, Start)
            store = machine.store._replace(chain=machine.store.chain | {found})
        else:
            store = {AS_IT_IS: machine.store, BLANK: Store(), COPIED: machine.copied}[str(found)]
            store = store._replace(rejoin=rejoin or store.rejoin)
        start = Start(store.newest.incarnation + 1, machine.lives + 1)
        recorder.timers.clear()
        recorder.outbox.queue.clear()
        recorder.store = store._replace(chain=store.chain | {start})
        node = Node(
            machine.id,
            self.membership,
            self.settings,
            start=start,
            promises=store.by_election,
            gone=store.gone,
            rejoin=store.rejoin,
        )
        recorder.perform(node.start(0.0))
        shift(node, 0.0)
        return self.after(machine, recorder, node)

    def down(self, machine: Machine, recorder: Recorder) -> Step:
        recorder.timers.clear()
        recorder.outbox.queue.clear()
        return self.after(machine, recorder, None)

    def after(
        self,
        machine: Machine,
        recorder: Recorder,
        node: Node | None,
        event: Event = (),
        copied: Store | None = None,
    ) -> Step:
        timers = tuple(recorder.timers.values())
        lives = machine.lives + (node is not None and node.started != machine.start)
        kept = (recorder.store, machine.copied if copied is None else copied)
        after = self.intern(Machine(machine.id, node, *kept, lives, timers, recorder.queue))
        facts = frozenset(fact for view in recorder.views for fact in facts_of(view, machine.id))
        sent = tuple(recorder.sent)
        problems = (
            *recorder.problems,
            *orbits(recorder),
            *revivals(machine, after),
            *stuck(after),
            *disruptions(machine, after, event),
        )
        votes = frozenset(vote for _, message in sent for vote in votes_of(message, machine.id))
        elected = tuple(decisions(machine, after))
        marks = marks_of(machine, after, recorder)
        return Step(after, sent, facts, votes, elected, problems, marks, recorder.saves)


def facts_of(view: View, me: NodeId) -> Iterator[tuple[str, str, Term, NodeId]]:
    if view.role is Role.LEADER:
        yield ("held a lease" if view.secured else "led", view.election, view.term, me)
    elif view.leader is not None:
        yield ("was followed", view.election, view.term, view.leader)


def votes_of(message: Message, me: NodeId) -> Iterator[tuple[str, str, int, NodeId]]:
    if isinstance(message, Notification) and message.state is State.LOOKING:
        yield (f"voted for {message.leader}", message.election, message.round, me)


def decisions(before: Machine, after: Machine) -> Iterator[tuple[str, int, NodeId]]:
    """The votes of its round have elected somebody."""
    if before.node is None or after.node is None:
        return
    for name, election in after.node.elections.items():
        earlier = before.node.elections.get(name)
        if not (isinstance(election, Zab) and isinstance(earlier, Zab)):
            continue
        if election.decided and not election.settled and not earlier.decided:
            yield name, election.round, election.decided


def orbits(recorder: Recorder) -> Iterator[str]:
    """A token that comes to the same node again will do so for ever."""
    for to, message in recorder.sent:
        if isinstance(message, Token) and message.visited.count(recorder.id) > 1:
            yield f"orbit: the token of {message.initiator} goes to {to} once more, and will for ever"


def revivals(before: Machine, after: Machine) -> Iterator[str]:
    """I3: a lease that has ended begins again."""
    if before.node is None or after.node is None:
        return
    for name, leading in before.node.leading.items():
        term, ended = leading.leader_term, leading.secured and name not in before.holds
        if ended and name in after.holds and after.node.leading[name].leader_term == term:
            yield f"I3: the lease of {after.id} in term {term} had ended, and has begun again"


def stuck(machine: Machine) -> Iterator[str]:
    """I9: who wants to lead, and could, is about to try; who follows, or leads, waits for the end of that."""
    node = machine.node
    if node is None:
        return
    armed = {timer for timer, _, _ in machine.timers}
    for name, election in node.elections.items():
        if election.role is Role.LEADER:
            if BEAT not in armed or not (election.secured or ("tenure", name) in armed):
                yield f"I9: {machine.id} leads {name} without a timer that would end it"
        elif election.leader is not None:
            if ("silence", election.leader) not in armed:
                yield f"I9: {machine.id} follows {election.leader} in {name}, and would not miss it"
        elif (
            election.contends
            and election.eligible
            and node.rejoin is None
            and node.membership.is_quorum(node.reachable)
            and not armed & {("campaign", name), ("answers", name)}
        ):
            yield f"I9: {machine.id} wants to lead {name}, reaches a quorum, and will never try"


def disruptions(before: Machine, after: Machine, event: Event) -> Iterator[str]:
    """A leader that a quorum supports hears of a newer term, and has to go."""
    if before.node is None or after.node is None or not event or event[0] != "receive":
        return
    for name, leading in before.node.leading.items():
        newer = after.node.elections[name].promise.term > leading.leader_term
        if leading.lease > 0 and newer and name not in after.node.leading:
            yield f"disruption: {after.id}, whom a quorum supports, is deposed by {event[1]}"


def marks_of(before: Machine, after: Machine, recorder: Recorder) -> frozenset[str]:
    """What a check must have seen at least once, or it has not looked far enough to mean anything."""
    marks = set()
    for _, message in recorder.sent:
        if isinstance(message, Refuse):
            marks.add(f"a claim is refused: {message.reason}")
        if isinstance(message, Resign):
            marks.add("a leader names its heir" if message.heir else "a leader resigns")
    for view in recorder.views:
        if view.role is Role.LEADER:
            marks.add("a leader has its lease" if view.secured else "a leader is elected")
            if view.term > 1:
                marks.add("a leader of a later term is elected")
    held = [e.held for m in (before, after) for e in (m.node.elections.values() if m.node else ())]
    if before.node and after.node and any(held[len(held) // 2 :]) and not any(held[: len(held) // 2]):
        marks.add("a claim waits, because a leader lives or a restart was just now")
    return frozenset(marks)


# --- a node as a value ------------------------------------------------------------------------------


def duplicate(node: Node) -> Node:
    """Another node in the same state. Fields of elections hold immutable values, so those are shared."""
    twin: Node = twin_of(node)
    twin.out, twin.ignored, twin.restless = [], Counter(), {}
    twin.peers = {id: copy(peer) for id, peer in node.peers.items()}
    twin.beats = copy(node.beats)
    twin.promises, twin.brought = dict(node.promises), node.brought.copy()
    twin.reachable = set(node.reachable)
    twin.answered = dict(node.answered)
    twin.elections = {name: twin_of(election) for name, election in node.elections.items()}
    for election in twin.elections.values():
        election.node = twin
    twin.leading = {name: twin.elections[name] for name in node.leading}
    twin.leases = {tenure.lease.followers: copy(tenure.lease) for tenure in node.tenures.values()}
    twin.tenures = {
        name: tenure._replace(lease=twin.leases[tenure.lease.followers])
        for name, tenure in node.tenures.items()
    }
    twin.unsecured = {name: twin.elections[name] for name in node.unsecured}
    twin.untold, twin.moved = among(twin, node.untold), among(twin, node.moved)
    return twin


def among(twin: Node, told: Mapping[NodeId, Mapping[str, Elector]]) -> dict[NodeId, dict[str, Elector]]:
    """The elections of the twin that are the same, by peer."""
    return {peer: {name: twin.elections[name] for name in names} for peer, names in told.items()}


def twin_of(thing: Any) -> Any:
    twin = object.__new__(type(thing))
    twin.__dict__.update(thing.__dict__)
    return twin


def shift(node: Node, elapsed: float) -> None:
    """Let this moment be the zero of the node's clock, and forget what lies behind."""
    timing = node.timing
    node.now = 0.0
    node.started_at = max(node.started_at - elapsed, -timing.patience)
    forgotten = node.lost_store or any(e.has_voted_before for e in node.elections.values())
    node.quiet_until = to_come(node.quiet_until - elapsed) if forgotten else NEVER
    node.next_check = max(node.next_check - elapsed, 0.0)
    node.beats.sent = tuple((seq, max(at - elapsed, -timing.lease)) for seq, at in node.beats.sent)
    for peer in node.peers.values():
        if peer.promised is not None:
            peer.promised = max(peer.promised - elapsed, 0.0)
        peer.granted = to_come(peer.granted - elapsed, -timing.safe_lease)
    for lease in node.leases.values():
        lease.until = to_come(lease.until - elapsed)
    for name, tenure in node.tenures.items():
        node.tenures[name] = tenure._replace(assured=to_come(tenure.assured - elapsed))
    for election in node.elections.values():
        election.assured = to_come(election.assured - elapsed)
        election.deterred_until = to_come(election.deterred_until - elapsed)
        election.stands_back_until = to_come(election.stands_back_until - elapsed)
        election.held = tuple((s, m, until - elapsed) for s, m, until in election.held if until > elapsed)
        if election.intended is not None:
            heir, until, force = election.intended
            election.intended = (heir, max(until - elapsed, 0.0), force)
        waits = election.asked or isinstance(election, Ring)
        asked_at = to_come(election.asked_at - elapsed, -election.longest_wait)
        election.asked_at = asked_at if waits else NEVER
        election.attempts = min(election.attempts, PAUSES)
        election.takeovers = min(election.takeovers, PAUSES)
        if isinstance(election, Ring) and election.suspect is not None:
            suspect, until = election.suspect
            election.suspect = (suspect, until - elapsed) if until > elapsed else None


def to_come(time: float, from_on: float = 0.0) -> float:
    """A time that matters only while it lies ahead of the given one."""
    return time if time > from_on else NEVER


def renumber(node: Node) -> None:
    """No beat or support of this node is under way, so it may count its beats anew."""
    node.beats.seq = node.incarnation << 32
    node.beats.sent = ()


def digest(value: object, renaming: dict[str, str] | None = None) -> int:
    """A number for a value, the same in every process; two values share one with a chance of 2^-64."""
    return int.from_bytes(blake2b(repr(plain(value, renaming or {})).encode(), digest_size=8).digest())


def plain(value: Any, renaming: dict[str, str]) -> Any:
    """The value in a form whose `repr` is the same for equal values, with nodes renamed."""
    if isinstance(value, str):
        return renaming.get(value, value)
    if isinstance(value, frozenset | set):
        return sorted((plain(each, renaming) for each in value), key=repr)
    if isinstance(value, tuple):
        return (type(value).__name__, *(plain(each, renaming) for each in value))
    if hasattr(value, "__struct_fields__"):
        return (type(value).__name__, *(plain(getattr(value, f), renaming) for f in value.__struct_fields__))
    return value
