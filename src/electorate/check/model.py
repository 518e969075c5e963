"""All that can happen to a small cluster: states, actions that lead from one to the next, and what must hold.

A state is the nodes, the messages under way, the faults that may still strike, and who has led so far. An
action is one happening: a message arrives, is lost or arrives twice; a timer fires; a node crashes, also in
the middle of a step, and restarts; a connection breaks; the user has a wish.

Clocks are free, unless `ticks` are given: a node's clock moves when one of its timers fires, as far as it
takes, and no timer need be punctual. So a node may be as slow or as fast as it likes, and may suspect any
other at any time. With `ticks` all clocks move together, a tick at a time, one of them perhaps a tick ahead;
then leases count.

What is left out, so that the states are finite: a node sends its next beat, or question while it rejoins,
when the last one and the answers to it have arrived or are lost; a connection breaks, and is made, in both
directions at once; and where the network reorders, equal messages under way count as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any, NamedTuple, TypeAlias

import msgspec

from electorate.check.machine import (
    ADOPT,
    AS_IT_IS,
    BLANK,
    COMMIT,
    COPIED,
    COPY,
    CRASH,
    MEET,
    PASS,
    RENUMBER,
    START,
    TEAR,
    Event,
    Machine,
    Machines,
    Step,
    Store,
    digest,
)
from electorate.check.search import Move
from electorate.core.identity import Rejoin, Start, Verdict
from electorate.core.model import (
    Beat,
    Membership,
    Message,
    NodeId,
    QuorumRule,
    Recall,
    Recalled,
    Settings,
    Support,
    Term,
    Timer,
    Timing,
)
from electorate.core.node import BEAT, RECALL

Action: TypeAlias = tuple[Any, ...]

FREE = Timing(beat=0.0, lease=1.0, drift=0.0, patience=1.0, rank_slot=0.0, finalize_wait=0.0)
"""Durations where clocks are free: only a lease and patience take any time at all."""
TICKING = Timing(beat=1.0, lease=2.0, drift=0.0, patience=1.0, rank_slot=0.0, finalize_wait=0.0)
"""In ticks, where all clocks agree: a leader that beats in each of them can keep its lease."""
DRIFTING = Timing(beat=1.0, lease=3.0, drift=1 / 6, patience=1.0, rank_slot=0.0, finalize_wait=0.0)
"""In ticks, where a clock may gain: a lease of 3 may pass in 2 ticks, and a leader counts on no more."""

WAITS = ("silence", "answers", "hop", "tenure", "takeover", "campaign")
"""Timers that mean: I have waited long enough. Each that fires is a suspicion, be it right or wrong."""

CALLS: dict[Timer, tuple[type[Message], type[Message]]] = {
    BEAT: (Beat, Support),
    RECALL: (Recall, Recalled),
}
"""Timers after which a node says something again, and what answers it: it waits until both have arrived."""

ANY = -1
"""As often as it likes."""


class Faults(NamedTuple):
    """How often each may still strike."""

    crashes: int = 0
    drops: int = 0
    duplicates: int = 0
    suspicions: int = 1
    cuts: int = 0
    wishes: int = 0
    drifts: int = 0
    losses: int = 0
    rollbacks: int = 0
    copies: int = 0

    def less(self, name: str) -> Faults:
        left = getattr(self, name)
        return self if left == ANY else self._replace(**{name: left - 1})


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How far to look."""

    faults: Faults = Faults()
    max_term: Term = 2
    ticks: int = 0
    """0: clocks are free."""
    elections: tuple[str, ...] = ("main",)
    contenders: tuple[NodeId, ...] | None = None
    """Who wants to lead (None: all who may)."""
    victims: tuple[NodeId, ...] | None = None
    """Who may crash (None: anybody)."""
    apart: tuple[tuple[NodeId, NodeId], ...] = ()
    """Who never finds each other again."""
    without: tuple[NodeId, ...] = ()
    """Whom the operator of a node that lost its store declares gone for good."""
    reorder: bool = False
    """Messages on one link may overtake each other, as no TCP connection lets them."""
    slow_disk: bool = False
    """A commit takes a while, in which other things happen."""
    watch: tuple[str, ...] = ("I1", "I2", "I3", "I4", "I9", "quorum", "agreement", "orbit")
    """The properties that must hold."""


class Envelope(NamedTuple):
    """A message under way."""

    digest: int
    source: NodeId
    target: NodeId
    message: Message


Fact: TypeAlias = tuple[str, str, Term, NodeId]
"""Something that was once the case: "led", "held a lease" or "was followed"; election, term, leader."""


class State(NamedTuple):
    machines: tuple[Machine, ...]
    net: tuple[Envelope, ...]
    faults: Faults
    ticks: int
    waking: tuple[tuple[NodeId, str], ...]
    """Who has not said yet that it wants to lead."""
    past: frozenset[Fact]


def link_of(envelope: Envelope) -> tuple[NodeId, NodeId]:
    return envelope.source, envelope.target


def without(net: tuple[Envelope, ...], gone: Envelope) -> tuple[Envelope, ...]:
    at = net.index(gone)
    return net[:at] + net[at + 1 :]


class Model:
    """The cluster, as a graph of states."""

    def __init__(self, membership: Membership, settings: Settings, bounds: Bounds) -> None:
        self.bounds = bounds
        self.membership = membership
        self.machines = Machines(membership, settings, bounds.slow_disk)
        self.ids = tuple(m.id for m in membership.members)
        self.index = {id: number for number, id in enumerate(self.ids)}
        self.envelopes: dict[tuple[NodeId, NodeId, Message], Envelope] = {}
        self.facts: dict[frozenset[Fact], int] = {}
        self.leases_count = bool(bounds.ticks) or membership.rule is QuorumRule.TEXTBOOK
        """Whether leases of two nodes can be compared: there is one time for all, or they never end."""
        self.opening: tuple[Move, ...] = ()
        """What has happened before the search begins."""
        self.anything_goes = False
        """While that happens, whoever is to crash does."""

    # --- the first state --------------------------------------------------------------------------

    def initial(self) -> State:
        """All run and are connected, nobody has said that it wants to lead; or what has become of that."""
        bounds = self.bounds
        if self.opening:
            begun: State = self.opening[-1].state
            return begun._replace(faults=bounds.faults, ticks=bounds.ticks)
        waking = tuple((id, e) for id in self.ids if self.contends(id) for e in bounds.elections)
        machines = tuple(
            self.machines.step(self.machines.blank(id), (START, AS_IT_IS, None)).machine for id in self.ids
        )
        state = State(machines, (), bounds.faults, bounds.ticks, waking, frozenset())
        for a, b in combinations(self.ids, 2):
            state = self.connect(state, a, b).state
        return state

    def contends(self, id: NodeId) -> bool:
        contenders = self.bounds.contenders
        return id in self.membership.candidates and (contenders is None or id in contenders)

    def may_crash(self, id: NodeId) -> bool:
        return self.anything_goes or self.bounds.victims is None or id in self.bounds.victims

    # --- what can happen --------------------------------------------------------------------------

    def moves(self, state: State) -> tuple[list[Move], bool]:
        if self.newest_term(state) > self.bounds.max_term:
            return [], True
        moves: list[Move] = []
        hidden = self.add_timers(state, moves)
        moves.extend(self.arrivals(state))
        moves.extend(self.wakings(state))
        moves.extend(self.connections(state))
        for machine in state.machines:
            moves.extend(self.strikes(state, machine))
        if self.bounds.ticks:
            hidden = hidden or not state.ticks
            moves.extend(self.time(state))
        return moves, hidden

    def newest_term(self, state: State) -> Term:
        nodes = (machine.node for machine in state.machines if machine.node)
        return max((e.promise.term for node in nodes for e in node.elections.values()), default=0)

    def arrivals(self, state: State) -> Iterator[Move]:
        """A message arrives, once or twice, or is lost. Where messages may wait for as long as they like, one
        that would change nothing now waits."""
        faults = state.faults
        for envelope in self.foremost(state):
            machine = self.machine(state, envelope.target)
            if machine.node is None:
                continue
            event = ("receive", envelope.source, envelope.message)
            step = self.machines.step(machine, event)
            idle = step.machine is machine and not step.sent
            left = state._replace(net=without(state.net, envelope))
            if not (idle and self.bounds.reorder) or type(envelope.message) in (Beat, Support):
                yield self.then(Move(("deliver", envelope), left), envelope.target, event)
            if idle:
                continue
            if faults.duplicates:
                again = state._replace(faults=faults.less("duplicates"))
                yield self.then(Move(("duplicate", envelope), again), envelope.target, event)
            if faults.drops:
                yield Move(("drop", envelope), self.renumbered(left._replace(faults=faults.less("drops"))))
            yield from self.tears(Move(("deliver", envelope), left), envelope.target, event)

    def foremost(self, state: State) -> Iterator[Envelope]:
        """What may arrive next: the oldest on each link, or anything if the network reorders."""
        links: set[tuple[NodeId, NodeId]] = set()
        for envelope in state.net:
            if self.bounds.reorder or link_of(envelope) not in links:
                links.add(link_of(envelope))
                yield envelope

    def add_timers(self, state: State, moves: list[Move]) -> bool:
        """Timers fire. Returns whether a bound keeps one from firing."""
        hidden = False
        for machine in state.machines:
            if machine.node is None:
                continue
            for timer, low, _ in machine.timers:
                faults = state.faults
                if self.bounds.ticks and low > 0:
                    continue
                if timer[0] in WAITS and not self.bounds.ticks:
                    if not faults.suspicions:
                        hidden = True
                        continue
                    faults = faults.less("suspicions")
                if timer in CALLS and self.is_under_way(state, machine.id, *CALLS[timer]):
                    continue
                move = Move(("fire", machine.id, timer, low), state._replace(faults=faults))
                event = ("fire", timer, low)
                moves.append(self.then(move, machine.id, event))
                moves.extend(self.tears(move, machine.id, event))
            quiet = max((e.quiet_until for e in machine.node.elections.values()), default=0.0)
            if quiet > 0 and not self.bounds.ticks:
                moves.append(self.then(Move((PASS, machine.id, quiet), state), machine.id, (PASS, quiet)))
        return hidden

    def tears(self, move: Move, node: NodeId, event: Event) -> Iterator[Move]:
        """The node crashes in the middle of this: just before one of its saves is on the disk."""
        state = move.state
        if self.bounds.slow_disk or not state.faults.crashes or not self.may_crash(node):
            return
        struck = state._replace(faults=state.faults.less("crashes"))
        for number in range(1, self.machines.step(self.machine(state, node), event).saves + 1):
            torn = self.then(Move((TEAR, number, *move.action), struck), node, (TEAR, number, event))
            yield torn._replace(state=self.silenced(torn.state, node))

    def wakings(self, state: State) -> Iterator[Move]:
        for id, election in state.waking:
            if self.machine(state, id).node is not None:
                awake = state._replace(waking=tuple(w for w in state.waking if w != (id, election)))
                yield self.then(Move(("contend", id, election), awake), id, ("contend", election))

    def connections(self, state: State) -> Iterator[Move]:
        """Somebody finds a process gone; two that live find each other, or lose each other."""
        for a, b in permutations(state.machines, 2):
            if a.node is not None and b.node is None and a.node.peers[b.id].connected:
                purged = self.purged(state, b.id, a.id)
                yield self.then(Move(("notice", a.id, b.id), purged), a.id, ("lost", b.id, True))
        for a, b in combinations(state.machines, 2):
            if a.node is None or b.node is None:
                continue
            if not (self.linked(a, b) and self.linked(b, a)):
                if (a.id, b.id) not in self.bounds.apart:
                    yield from self.meet(state, a, b)
            elif state.faults.cuts:
                yield self.cut(state, a.id, b.id)

    def linked(self, a: Machine, b: Machine) -> bool:
        """Whether a is connected to the b of today."""
        return a.links.get(b.id) == b.start

    def meet(self, state: State, a: Machine, b: Machine) -> Iterator[Move]:
        """They are connected, if each takes the other for the node that it knows. One that rejoins and is
        refused takes what the other remembers of it into its store, and begins a new life."""
        for one, other in ((a, b), (b, a)):
            if one.judges(other) is not Verdict.WELCOME:
                known = dict(one.store.met).get(other.id)
                if known is not None and other.store.rejoin is not None and known not in other.store.chain:
                    yield self.started(Move(("adopt", other.id, one.id), state), other.id, ADOPT, known)
                return
        yield self.connect(state, a.id, b.id)

    def connect(self, state: State, a: NodeId, b: NodeId) -> Move:
        move = Move(("connect", a, b), state)
        for node, other in ((a, b), (b, a)):
            here = self.machine(state, node).node
            if here is not None and here.peers[other].connected:
                move = move._replace(state=self.purged(move.state, other, node))
                move = self.then(move, node, ("lost", other, False))
        for node, other in ((a, b), (b, a)):
            there = self.machine(state, other)
            rejoining = there.node is not None and there.node.rejoin is not None and there.node.rejoin.lost
            move = self.then(move, node, (MEET, other, there.start, rejoining))
        return move

    def cut(self, state: State, a: NodeId, b: NodeId) -> Move:
        purged = self.purged(self.purged(state, a, b), b, a)
        move = Move(("cut", a, b), purged._replace(faults=state.faults.less("cuts")))
        return self.then(self.then(move, a, ("lost", b, False)), b, ("lost", a, False))

    def strikes(self, state: State, machine: Machine) -> Iterator[Move]:
        """A crash, a restart, a commit, a wish."""
        id, faults = machine.id, state.faults
        if machine.node is None:
            yield from self.restarts(state, machine)
            return
        if faults.copies and self.may_crash(id) and machine.copied != machine.store:
            copied = state._replace(faults=faults.less("copies"))
            yield self.then(Move((COPY, id), copied), id, (COPY,))
        if machine.queue:
            yield self.then(Move((COMMIT, id), state), id, (COMMIT,))
        if faults.crashes and self.may_crash(id):
            struck = state._replace(faults=faults.less("crashes"))
            for durable in (False, True) if machine.queue else (False,):
                move = self.then(Move((CRASH, id, durable), struck), id, (CRASH, durable))
                yield move._replace(state=self.silenced(move.state, id))
        if faults.wishes:
            wished = state._replace(faults=faults.less("wishes"))
            for election in machine.node.leading:
                yield self.then(Move(("resign", id, election), wished), id, ("resign", election))
                for heir in self.ids:
                    if heir != id:
                        move = Move(("transfer", id, election, heir), wished)
                        yield self.then(move, id, ("transfer", election, heir))

    def restarts(self, state: State, machine: Machine) -> Iterator[Move]:
        """The process starts again: with its store, without, or with a copy."""
        id, faults = machine.id, state.faults
        yield self.started(Move(("restart", id), state), id, START, AS_IT_IS)
        if faults.losses:
            rejoin = Rejoin(without=frozenset(self.bounds.without))
            lost = state._replace(faults=faults.less("losses"))
            yield self.started(Move(("lose", id), lost), id, START, BLANK, rejoin)
            if machine.copied != Store():
                yield self.started(Move(("recover", id), lost), id, START, COPIED, rejoin)
        if faults.rollbacks:
            rolled_back = state._replace(faults=faults.less("rollbacks"))
            yield self.started(Move(("return", id), rolled_back), id, START, COPIED)

    def started(
        self, move: Move, id: NodeId, how: str, found: str | Start, rejoin: Rejoin | None = None
    ) -> Move:
        """The process has started, and wants what it wanted."""
        move = move._replace(state=self.silenced(move.state, id))
        move = self.then(move, id, (how, found, rejoin))
        for election in self.bounds.elections if self.contends(id) else ():
            if (id, election) not in move.state.waking:
                move = self.then(move, id, ("contend", election))
        return move

    def time(self, state: State) -> Iterator[Move]:
        """All clocks move by a tick; one of them, perhaps, by two."""
        if not state.ticks:
            return
        yield self.tick(state, None)
        if state.faults.drifts:
            for machine in state.machines:
                if machine.node is not None:
                    yield self.tick(state._replace(faults=state.faults.less("drifts")), machine.id)

    def tick(self, state: State, fast: NodeId | None) -> Move:
        move = Move(("tick", fast), state._replace(ticks=state.ticks - 1))
        for machine in state.machines:
            if machine.node is not None:
                move = self.then(move, machine.id, (PASS, 2.0 if machine.id == fast else 1.0))
        return move._replace(problems=tuple(self.overlaps(move.state)))

    # --- what comes of it -------------------------------------------------------------------------

    def machine(self, state: State, id: NodeId) -> Machine:
        return state.machines[self.index[id]]

    def then(self, move: Move, id: NodeId, event: Event) -> Move:
        """And then this happens at one node."""
        action, state, problems, marks = move
        number = self.index[id]
        step = self.machines.step(state.machines[number], event)
        machines = (*state.machines[:number], step.machine, *state.machines[number + 1 :])
        net = state.net
        if step.sent:
            speaker = step.machine if step.machine.node else state.machines[number]
            more = [
                self.envelope(id, to, message)
                for to, message in step.sent
                if machines[self.index[to]].node and self.linked(speaker, machines[self.index[to]])
            ]
            net = self.joined(net, more)
        past = state.past
        if step.facts and not past.issuperset(step.facts):
            past |= step.facts
            problems = (*problems, *contradictions(past, step.facts), *self.usurpers(machines, step.facts))
            if self.bounds.ticks:
                problems = (*problems, *regressions(past, step.facts))
        if "phantom" in self.bounds.watch:
            past |= step.votes
            problems = (*problems, *self.phantoms(past, step))
        state = self.renumbered(State(machines, net, state.faults, state.ticks, state.waking, past))
        if step.problems or self.leases_count:
            problems = (*problems, *step.problems, *self.overlaps(state))
        if problems:
            problems = tuple(problem for problem in problems if problem.startswith(self.bounds.watch))
        return Move(action, state, problems, marks | step.marks)

    def envelope(self, source: NodeId, target: NodeId, message: Message) -> Envelope:
        key = (source, target, message)
        found = self.envelopes.get(key)
        if found is None:
            found = self.envelopes[key] = Envelope(digest(key), source, target, message)
        return found

    def joined(self, net: tuple[Envelope, ...], more: list[Envelope]) -> tuple[Envelope, ...]:
        """These are sent. Their order matters on each link, and if the network reorders not even there."""
        if self.bounds.reorder:
            return tuple(sorted({*net, *more}))
        return tuple(sorted((*net, *more), key=link_of))

    def silenced(self, state: State, id: NodeId) -> State:
        """A process has ended: nothing reaches it any more."""
        return self.renumbered(state._replace(net=tuple(e for e in state.net if e.target != id)))

    def purged(self, state: State, source: NodeId, target: NodeId) -> State:
        """A connection has broken: what was under way on it is lost."""
        return state._replace(net=tuple(e for e in state.net if link_of(e) != (source, target)))

    def is_under_way(self, state: State, id: NodeId, call: type[Message], answer: type[Message]) -> bool:
        for _, source, target, message in state.net:
            if (source == id and type(message) is call) or (target == id and type(message) is answer):
                return True
        return False

    def renumbered(self, state: State) -> State:
        """Beats are counted anew once none is under way: else no state would ever come back."""
        machines = state.machines
        for number, machine in enumerate(machines):
            if machine.numbered and not self.is_under_way(state, machine.id, Beat, Support):
                again = self.machines.step(machine, (RENUMBER,)).machine
                machines = (*machines[:number], again, *machines[number + 1 :])
        return state if machines is state.machines else state._replace(machines=machines)

    # --- what must hold ---------------------------------------------------------------------------

    def overlaps(self, state: State) -> Iterator[str]:
        """I2, where leases can be compared."""
        if not self.leases_count:
            return
        holders: dict[str, NodeId] = {}
        for machine in state.machines:
            for name in machine.holds:
                if holders.setdefault(name, machine.id) != machine.id:
                    yield f"I2: {holders[name]} and {machine.id} hold a lease at the same time"

    def usurpers(self, machines: tuple[Machine, ...], facts: frozenset[Fact]) -> Iterator[str]:
        """Whoever leads has the votes of a quorum, and they are on their disks."""
        if (
            self.membership.rule is QuorumRule.TEXTBOOK
            or self.bounds.faults.losses
            or self.bounds.faults.rollbacks
        ):
            return
        for what, election, term, leader in facts:
            votes = [(machine.id, machine.disk.get(election)) for machine in machines]
            voters = [
                id
                for id, vote in votes
                if vote and (vote.term > term or (vote.term, vote.backed) == (term, leader))
            ]
            if what == "led" and not self.membership.is_quorum(set(voters) & set(self.membership.voters)):
                backed = " and ".join(voters) or "nobody"
                yield f"quorum: {leader} leads term {term} with the votes of {backed}"

    def phantoms(self, past: frozenset[Fact], step: Step) -> Iterator[str]:
        """ZAB: who is held for elected has had the votes of a quorum, all in that round."""
        for election, round, leader in step.elected:
            voters = [n for what, e, r, n in past if (what, e, r) == (f"voted for {leader}", election, round)]
            if not self.membership.is_quorum(voters):
                yield (
                    f"phantom: {step.machine.id} holds {leader} for elected in round {round}, in which only"
                    f" {' and '.join(sorted(voters)) or 'nobody'} voted for it"
                )

    def is_goal(self, state: State) -> bool:
        """Every election has a leader with a lease: that is what elections are for."""
        secured = {
            name
            for machine in state.machines
            if machine.node
            for name, election in machine.node.leading.items()
            if election.secured
        }
        return secured.issuperset(self.bounds.elections)

    # --- which states are the same, and which moves can wait ---------------------------------------

    def fingerprint(self, state: State) -> int:
        past = self.facts.get(state.past)
        if past is None:
            past = self.facts[state.past] = digest(state.past)
        waking = tuple((self.index[id], self.bounds.elections.index(e)) for id, e in state.waking)
        machines = tuple([machine.digest for machine in state.machines])
        net = tuple([envelope.digest for envelope in state.net])
        return hash((machines, net, state.faults, state.ticks, waking, past))

    def ample(self, state: State, moves: list[Move]) -> list[int]:
        """Partial-order reduction. What one node does, and what others do, commute: the same state comes of
        either order. So it is enough to let one node go first, if nothing that the others do can change what
        it may do now: no fault is left that all share, and on every link to it a message waits already, which
        must arrive before any later one. All that is checked is remembered in `past`, so nothing is missed.
        """
        everything = list(range(len(moves)))
        if any(state.faults) or state.ticks or self.bounds.reorder or self.leases_count:
            return everything
        if not all(self.linked(a, b) for a, b in permutations(state.machines, 2)):
            return everything
        links = {link_of(envelope) for envelope in state.net}
        best = everything
        for machine in state.machines:
            beats = machine.numbered or any(armed.timer == BEAT for armed in machine.timers)
            if not beats and all((id, machine.id) in links for id in self.ids if id != machine.id):
                own = [n for n, move in enumerate(moves) if owner(move.action) == machine.id]
                if own and len(own) < len(best):
                    best = own
        return best


def owner(action: Action) -> NodeId:
    """The node at which this happens."""
    what = action[1]
    return what.target if isinstance(what, Envelope) else what


def contradictions(past: frozenset[Fact], facts: frozenset[Fact]) -> Iterator[str]:
    """I1 and agreement: what is new, against all that has been."""
    for what, election, term, node in sorted(facts):
        for before, where, earlier, other in sorted(past):
            if where != election or (before, earlier, other) == (what, term, node):
                continue
            if term == earlier and node != other:
                if what == before == "led":
                    yield f"I1: {other} and {node} both became leader of term {term}"
                elif "was followed" in (what, before):
                    yield f"agreement: in term {term} some follow {node} and some {other}"


def regressions(past: frozenset[Fact], facts: frozenset[Fact]) -> Iterator[str]:
    """I3: terms grow from each lease to the next."""
    for what, election, term, node in sorted(facts):
        newest = max(
            (earlier for before, where, earlier, _ in past if (before, where) == (what, election)), default=0
        )
        if what == "held a lease" and term < newest:
            yield f"I3: {node} has a lease in term {term}, after a leader of term {newest}"
