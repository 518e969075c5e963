"""What must hold at every step, judged in true time, which no node knows.

    I1  at most one leader per term and election
    I2  no two leases on one election at one instant
    I3  the terms of successive leaderships strictly grow
    I4  a voter backs at most one claimant per term, across crashes, and says so only once it is durable
    I5  after the faults, one leader whom all agree on, within a bound
    I6  in calm, the best rank leads (Bully, Ring, and ZAB among looking nodes)
    I7  in calm, only the leader's links carry messages, and idle elections none
    I8  a leadership that work rests on is given away only when the work has ended
    I9  somebody always tries: who wants to lead, may, knows no leader and reaches a quorum has a timer armed
        after which it tries; who follows has one that misses its leader, who leads one that ends its lease
    I10 who was cut off disturbs nobody: a node claims no term that could exchange messages with no quorum
        for two leases (unless nobody is asked before a claim, or the last leader has named it its heir)

I1 to I4 and I8 to I10 are watched here; the others are asked of a run at its end (`sim.run`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from electorate.core.elector import Elector
from electorate.core.model import (
    NOBODY,
    OTHERS,
    Accept,
    Message,
    NodeId,
    Promise,
    QuorumRule,
    Resign,
    Role,
    Term,
    View,
)
from electorate.core.node import BEAT
from electorate.core.ring import Coordinator

if TYPE_CHECKING:
    from electorate.sim.world import Host, World


ROUNDING = 1e-9
"""Seconds by which two reckonings of one instant may differ."""


class Violation(NamedTuple):
    invariant: str
    time: float
    story: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.time:.4f} s: {self.story}"


class Invariants:
    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []
        self.leader_of_term: dict[tuple[str, Term], NodeId] = {}
        self.backed: dict[tuple[str, NodeId, Term], NodeId] = {}
        self.newest: dict[str, Term] = {}
        """The term of the last leadership that had a lease."""
        self.reigning: dict[str, dict[NodeId, bool]] = {}
        """For each election who is in the role of leader, and whether it has had its lease."""
        self.attention: dict[str, None] = {}
        """Elections with a leader that has not had its lease yet, or with more than one leader."""
        self.held: set[tuple[str, NodeId, Term]] = set()
        self.ended: set[tuple[str, NodeId, Term]] = set()
        """The leases that were held, and those that had ended, when last looked at."""
        self.overlaps: set[tuple[str, ...]] = set()
        """Who has been seen to hold a lease together: one violation, however long it lasts."""
        self.leases: list[tuple[str, NodeId, Term, float]] = []
        """Each leadership that had a lease, and when that began."""
        self.idle: dict[tuple[NodeId, str], str] = {}
        """Who has been seen to wait for nothing, in which election: one violation, however long it lasts."""
        settings, rule = world.plan.settings, world.plan.membership.rule
        self.asks_before_claims = rule is not QuorumRule.TEXTBOOK and (
            settings.pre_vote or settings.algorithm not in ("raft", "bully")
        )

    def violated(self, invariant: str, story: str) -> None:
        violation = Violation(invariant, self.world.now, story)
        self.violations.append(violation)
        self.world.note("violation", "", None, f"{invariant} is violated: {story}")

    def changed(self, host: Host, view: View) -> None:
        reigning = self.reigning.setdefault(view.election, {})
        if view.role is not Role.LEADER:
            reigning.pop(host.id, None)
            if host.working.pop(view.election, 0.0) > self.world.now + ROUNDING:
                self.violated("I8", f"{host.id} gave {view.election} away before its work had ended")
            return
        if view.secured:
            return
        other = self.leader_of_term.setdefault((view.election, view.term), host.id)
        if other != host.id:
            self.violated("I1", f"{other} and {host.id} both became leader of term {view.term}")
        reigning[host.id] = False
        self.attention[view.election] = None

    def gone(self, host: Host) -> None:
        for reigning in self.reigning.values():
            reigning.pop(host.id, None)

    def saved(self, host: Host, promise: Promise) -> None:
        if promise.backed in (None, NOBODY):
            return
        backed = self.backed.setdefault((promise.election, host.id, promise.term), promise.backed)
        if backed != promise.backed:
            self.violated("I4", f"{host.id} backed {backed} and {promise.backed} in term {promise.term}")

    def store_replaced(self, host: Host) -> None:
        """What it was has become another voter, whose predecessor nobody counts on any more."""
        self.backed = {key: claimant for key, claimant in self.backed.items() if key[1] != host.id}

    def said(self, host: Host, to: NodeId, message: Message) -> None:
        """A backing leaves the node: the disk must know of it."""
        if isinstance(message, Accept):
            claimant = to
        elif isinstance(message, Coordinator) and (host.id, host.node.incarnation) in message.backers:
            claimant = message.leader
        else:
            return
        if not is_durable(host.disk, message.election, message.term, claimant):
            self.violated("I4", f"{host.id} backed {claimant} in term {message.term} before it was durable")

    def after_event(self, host: Host, message: Message | None = None) -> None:
        """I9 and I10, of a host that something has happened to."""
        if not host.up:
            return
        for name, election in host.node.elections.items():
            waits = waits_for_nothing(host, election)
            if waits and (host.id, name) not in self.idle:
                self.violated("I9", f"{host.id} {waits} {name}")
            if waits:
                self.idle[host.id, name] = waits
            elif self.idle:
                self.idle.pop((host.id, name), None)
            promise = election.promise
            if promise.backed == host.id and promise.term > host.claims.get(name, 0):
                host.claims[name] = promise.term
                named = isinstance(message, Resign) and message.heir == host.id
                if self.asks_before_claims and not named and self.was_cut_off(host):
                    self.violated("I10", f"{host.id} was cut off, and claims term {promise.term} of {name}")

    def was_cut_off(self, host: Host) -> bool:
        """Whether for two leases no quorum has been within reach (on a ring: through others either)."""
        world = self.world
        since = world.now - 2 * world.plan.settings.timing.lease
        met = [host.id]
        for near in met if world.plan.settings.algorithm == "ring" else [host.id]:
            met += [id for id in world.hosts if id not in met and world.met_since(near, id, since)]
        membership = world.plan.membership
        return not membership.is_quorum([id for id in met if id in membership.voters])

    def after_step(self) -> None:
        """Look at the elections whose leases may have changed in a way that matters."""
        for election in tuple(self.attention):
            reigning = self.reigning[election]
            for node in tuple(reigning):
                if not reigning[node] and self.holds(node, election):
                    reigning[node] = True
                    self.began(election, node)
            if len(reigning) > 1:
                self.compare(election, reigning)
            elif all(reigning.values()):
                del self.attention[election]

    def holds(self, node: NodeId, election: str) -> bool:
        host = self.world.hosts[node]
        return host.true_time(host.node.lease(election)) > self.world.now

    def began(self, election: str, node: NodeId) -> None:
        term = self.world.hosts[node].node.elections[election].leader_term
        newest = self.newest.get(election, 0)
        if term <= newest:
            self.violated("I3", f"{node} leads term {term} after a leader of term {newest}")
        self.newest[election] = max(term, newest)
        self.leases.append((election, node, term, self.world.now))
        if self.world.plan.work is not None:
            self.world.after(0.0, self.world.hosts[node].begin_work, election, term)

    def seen(self, election: str, holders: list[NodeId]) -> None:
        """I3, looked at now and then: a lease that has ended never comes back in the same term."""
        held = {
            (election, node, self.world.hosts[node].node.elections[election].leader_term) for node in holders
        }
        for _, node, term in sorted(held & self.ended):
            self.violated("I3", f"the lease of {node} in term {term} has come back to life")
        self.ended = (self.ended | (self.held - held)) - held
        self.held = held

    def compare(self, election: str, reigning: dict[NodeId, bool]) -> None:
        holders = [node for node in reigning if self.holds(node, election)]
        if len(holders) > 1 and (election, *holders) not in self.overlaps:
            self.overlaps.add((election, *holders))
            self.violated("I2", f"{' and '.join(holders)} hold a lease on {election} at the same time")


def is_durable(disk: Mapping[str, Promise], election: str, term: Term, claimant: NodeId) -> bool:
    """Whether this disk knows of the backing; if it was forgotten, nobody else is backed in a term up to the
    floor, or in that in which it was spoken of again."""
    if election not in disk:
        return term <= disk.get(OTHERS, Promise(OTHERS)).term
    promise = disk[election]
    return promise.term > term or (promise.term == term and promise.backed in (claimant, NOBODY))


def waits_for_nothing(host: Host, election: Elector) -> str:
    """What this host has no timer armed for, or nothing."""
    node, timers, name = host.node, host.timers, election.name
    if election.leader is not None and election.leader != host.id:
        return (
            "" if ("silence", election.leader) in timers else f"would not miss {election.leader}, leader of"
        )
    if election.role is Role.LEADER:
        ends = BEAT in timers and (election.secured or ("tenure", name) in timers)
        return "" if ends else "would lead for ever, lease or not,"
    tries = ("campaign", name) in timers or ("answers", name) in timers
    if tries or not (election.contends and election.eligible) or node.rejoin is not None:
        return ""
    return "has no leader and will never try to lead" if node.membership.is_quorum(node.reachable) else ""
