"""What must hold at every step, judged in true time, which no node knows.

    I1  at most one leader per term and election
    I2  no two leases on one election at one instant
    I3  the terms of successive leaderships strictly grow
    I4  a voter backs at most one claimant per term, across crashes, and says so only once it is durable
    I5  after the faults, one leader whom all agree on, within a bound
    I6  in calm, the best rank leads (Bully, Ring, and ZAB among looking nodes)
    I7  in calm, only the leader's links carry messages, and idle elections none
    I8  a leadership that work rests on is given away only when the work has ended

I1 to I4 and I8 are safety and watched here; the others are asked of a run at its end (`sim.run`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from electorate.core.model import NOBODY, Accept, Message, NodeId, Promise, Role, Term, View
from electorate.core.ring import Coordinator

if TYPE_CHECKING:
    from electorate.sim.world import Host, World


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

    def violated(self, invariant: str, story: str) -> None:
        violation = Violation(invariant, self.world.now, story)
        self.violations.append(violation)
        self.world.note("violation", "", None, f"{invariant} is violated: {story}")

    def changed(self, host: Host, view: View) -> None:
        reigning = self.reigning.setdefault(view.election, {})
        if view.role is not Role.LEADER:
            reigning.pop(host.id, None)
            if host.working.pop(view.election, 0.0) > self.world.now:
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

    def said(self, host: Host, to: NodeId, message: Message) -> None:
        """A backing leaves the node: the disk must know of it."""
        if isinstance(message, Accept):
            claimant = to
        elif isinstance(message, Coordinator) and message.is_backed_by(host.id):
            claimant = message.leader
        else:
            return
        promise = host.disk.get(message.election)
        durable = promise and (promise.term > message.term or promise.backed == claimant)
        if not durable or not promise or promise.term < message.term:
            self.violated("I4", f"{host.id} backed {claimant} in term {message.term} before it was durable")

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
