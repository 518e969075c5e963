"""What a host counts as it goes, for whoever measures it: a number added here and there, and no text."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from typing import Literal, NamedTuple

from electorate.core.model import NodeId, Role, Term, View

Refusal = Literal[
    "certificate",
    "cluster",
    "command",
    "configuration",
    "host",
    "https",
    "junk",
    "lost_store",
    "no_greeting",
    "protocol",
    "refused_by_peer",
    "token",
    "too_many",
    "unknown_node",
    "wrong_address",
]
"""Why a connection, or a stranger's request, was refused: few words, so that strangers cannot invent more."""

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets of every histogram, in seconds; one more bucket holds the rest."""


class Histogram:
    """How often something took how many seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Reign(NamedTuple):
    """A leadership, of whomever, as this node has seen it."""

    leader: NodeId
    term: Term
    since: float
    """When this node learnt of it, in seconds since 1970: for people, nothing rests on it."""
    changes: int
    """How many leaderships it has seen begin after the first."""


def hour(at: float) -> str:
    """What this machine's clock on the wall showed then."""
    return time.strftime("%H:%M:%S", time.localtime(at))


class Figures:
    """The figures of one host since it was made."""

    def __init__(self) -> None:
        self.elections: Counter[Literal["started", "won", "lost"]] = Counter()
        """How often this node became a candidate, and what became of that."""
        self.election_time = Histogram()
        """From becoming a candidate until a leader is known, whoever it is."""
        self.failover_time = Histogram()
        """From the loss of a known leader until the next is known."""
        self.commit_time = Histogram()
        self.beats: Counter[NodeId] = Counter()
        self.missed: Counter[NodeId] = Counter()
        """Beats to which there was no answer when the next one left."""
        self.round_trip: dict[NodeId, float] = {}
        """Seconds from the newest beat that was answered to its answer."""
        self.expiry: dict[NodeId, float] = {}
        """When the certificate that a peer showed last ends, in seconds since 1970."""
        self.refusals: Counter[Refusal] = Counter()
        self.beyond: Counter[tuple[str, str]] = Counter()
        """Messages, and fields, of a later version that were ignored, by who has said them."""
        self.unanswered: set[NodeId] = set()
        self.roles: dict[str, Role] = {}
        self.candidate_since: dict[str, float] = {}
        self.reigns: dict[str, Reign] = {}
        """The newest leadership of each election that has had one."""
        self.leaderless_since: dict[str, float] = {}
        self.store_fails_since = 0.0
        """Since when the store takes no write, in seconds since 1970: for people, nothing rests on it."""

    def store_fails(self) -> None:
        self.store_fails_since = time.time()

    def store_works(self) -> float:
        """For how many seconds it did not."""
        since, self.store_fails_since = self.store_fails_since, 0.0
        return time.time() - since

    def changed(self, view: View, at: float) -> None:
        """An election is seen otherwise from this time on."""
        name = view.election
        was, self.roles[name] = self.roles.get(name), view.role
        if view.role is not was:
            self.count(view.role, was)
        if view.role is Role.CANDIDATE:
            self.candidate_since.setdefault(name, at)
        if view.leader is not None:
            self.crown(name, view.leader, view.term)
            if (since := self.candidate_since.pop(name, None)) is not None:
                self.election_time.add(at - since)
            if (since := self.leaderless_since.pop(name, None)) is not None:
                self.failover_time.add(at - since)
        elif name in self.reigns:
            self.leaderless_since.setdefault(name, at)

    def crown(self, election: str, leader: NodeId, term: Term) -> None:
        last = self.reigns.get(election)
        if last is None or (last.leader, last.term) != (leader, term):
            self.reigns[election] = Reign(leader, term, time.time(), last.changes + 1 if last else 0)

    def forget(self, election: str) -> None:
        for known in (self.roles, self.candidate_since, self.reigns, self.leaderless_since):
            known.pop(election, None)

    def count(self, role: Role, was: Role | None) -> None:
        if role is Role.CANDIDATE:
            self.elections["started"] += 1
        elif role is Role.LEADER:
            self.elections["won"] += 1
        elif was is Role.CANDIDATE:
            self.elections["lost"] += 1

    def sent_beat(self, to: NodeId) -> None:
        self.beats[to] += 1
        if to in self.unanswered:
            self.missed[to] += 1
        self.unanswered.add(to)

    def supported(self, by: NodeId, round_trip: float) -> None:
        self.unanswered.discard(by)
        self.round_trip[by] = round_trip

    def parted(self, peer: NodeId) -> None:
        """The connection broke: nothing that was sent on it will be answered, and that is no miss."""
        self.unanswered.discard(peer)
        self.round_trip.pop(peer, None)
