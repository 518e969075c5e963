"""The vocabulary of electorate: members, quorums, settings, promises, messages and effects.

Everything here is a value: immutable, comparable, without behaviour beyond arithmetic. Times are
seconds (float) on the clock of the node that reads them; a term is the number of a leadership and
its fencing token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Literal, TypeAlias

import msgspec

NodeId: TypeAlias = str
Term: TypeAlias = int
Rank: TypeAlias = tuple[int, int, int, NodeId]
"""Who should win: compared as a tuple, the greatest is the best."""

MAX_TERM: Term = 2**48
"""The last one: a term a millisecond lasts 8,900 years."""

MAX_STRIDE: Term = 2**20
"""By more terms than this nobody is behind who has not been cut off for long, or is not deceived."""

MAX_LEAP: Term = 2**32
"""By more than this nobody is: no quorum can have made so many terms."""

NOBODY: NodeId = ""
"""Backed in a term in which this node must back nobody: it may have backed another, and not remember."""

OTHERS = ""
"""No election has this name. The promise under it is the one in every election that is not remembered: its
term is the *floor*."""


# --- membership and quorums -----------------------------------------------------------------------


class Kind(StrEnum):
    """What a member may do: a voter backs and leads, a witness only backs, an observer only learns."""

    VOTER = "voter"
    WITNESS = "witness"
    OBSERVER = "observer"


class Member(msgspec.Struct, frozen=True):
    """A node of the membership. `weight` and `group` matter to weighted and hierarchical quorums."""

    id: NodeId
    kind: Kind = Kind.VOTER
    priority: int = 0
    weight: int = 1
    group: str = ""


class QuorumRule(StrEnum):
    """Which sets of voters are large enough that any two of them share a voter.

    `textbook` is the exception kept for the lab: whoever is believed alive will do, so that the
    split brain of the original Bully and Ring can be shown.
    """

    MAJORITY = "majority"
    WEIGHTED = "weighted"
    HIERARCHICAL = "hierarchical"
    TEXTBOOK = "textbook"


class Membership(msgspec.Struct, frozen=True, dict=True):
    """The fixed set of nodes, and the rule that makes some of its voters a quorum."""

    members: tuple[Member, ...]
    rule: QuorumRule = QuorumRule.MAJORITY

    @cached_property
    def by_id(self) -> Mapping[NodeId, Member]:
        return {m.id: m for m in self.members}

    @cached_property
    def voters(self) -> tuple[NodeId, ...]:
        """Those who back claimants, voters and witnesses, in the order of their ids."""
        return tuple(sorted(m.id for m in self.members if m.kind is not Kind.OBSERVER))

    @cached_property
    def candidates(self) -> frozenset[NodeId]:
        """Those who may lead: voters that weigh anything."""
        return frozenset(m.id for m in self.members if m.kind is Kind.VOTER and m.weight)

    def is_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Whether these voters are enough to make or to keep a leader."""
        match self.rule:
            case QuorumRule.MAJORITY:
                return 2 * len(nodes) > len(self.voters)
            case QuorumRule.WEIGHTED:
                return 2 * self._weight(nodes) > self._weight(self.voters)
            case QuorumRule.HIERARCHICAL:
                return self._carries_groups(nodes)
            case QuorumRule.TEXTBOOK:
                return bool(nodes)

    def _weight(self, nodes: Iterable[NodeId]) -> int:
        return sum(self.by_id[node].weight for node in nodes)

    def _carries_groups(self, nodes: Collection[NodeId]) -> bool:
        """A majority of the groups that weigh anything, each carried by a majority of its weight."""
        groups: dict[str, list[NodeId]] = {}
        for node in self.voters:
            if self.by_id[node].weight:
                groups.setdefault(self.by_id[node].group, []).append(node)
        carried = sum(
            2 * self._weight(n for n in group if n in nodes) > self._weight(group)
            for group in groups.values()
        )
        return 2 * carried > len(groups)

    def meets_every_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Whether every quorum holds one of these voters: what none of them knows, no quorum has done."""
        rest = [voter for voter in self.voters if voter not in nodes]
        return self.rule is QuorumRule.TEXTBOOK or not self.is_quorum(rest)

    def supported_until(self, support: Mapping[NodeId, float]) -> float:
        """The latest time until which a quorum of the given supports lasts, or -inf if none does."""
        if self.rule is QuorumRule.MAJORITY:
            needed = len(self.voters) // 2
            return sorted(support.values(), reverse=True)[needed] if len(support) > needed else float("-inf")
        lasting: set[NodeId] = set()
        for node in sorted(support, key=lambda node: support[node], reverse=True):
            lasting.add(node)
            if self.is_quorum(lasting):
                return support[node]
        return float("-inf")


# --- settings -------------------------------------------------------------------------------------


class Timing(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Durations in seconds, and `drift`, the most by which a clock may run fast or slow (0.001 = 0.1 %)."""

    beat: float = 0.1
    lease: float = 0.5
    drift: float = 0.001
    patience: float = 0.1
    """How long a candidate waits for answers before it thinks again."""
    rank_slot: float = 0.01
    """How much later than its better each contender tries, after a loss."""
    finalize_wait: float = 0.02
    """ZAB: how long a quorum must agree undisturbed. ZooKeeper's own value is 0.2."""

    @cached_property
    def safe_lease(self) -> float:
        """What a leader may count on, on its own clock, from the sending of a supported beat.

        A voter whose clock runs fast gives up after lease/(1 + drift) of true time; a leader whose
        clock runs slow counts lease·(1 - 2·drift) as lease·(1 - 2·drift)/(1 - drift) of it, which is less.
        """
        return self.lease * (1 - 2 * self.drift)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a node elects. Every node of a membership must have the same settings."""

    algorithm: Literal["bully", "ring", "raft", "zab"] = "raft"
    timing: Timing = Timing()
    rank_by: Literal["id", "position", "spread"] = "id"
    """What decides between equal priorities: position, then id; `position` lets it come before
    priority; `spread` replaces the id by a hash of (election, node), so that many elections spread."""
    stagger: Literal["rank", "random", "none"] = "rank"
    """After a loss contenders try in order of rank, after a random wait (Raft's paper), or at once."""
    preempt: bool | None = None
    """Whether a better-ranked node takes over from a living leader (None: Bully does, others do not)."""
    pre_vote: bool = True
    """Raft, Bully: ask whether a claim would be backed before raising the term."""
    freshness: Literal["require", "prefer"] = "require"
    """Raft: a voter never backs a staler claimant, or only if the claimant has been refused before."""
    ring: Literal["tanenbaum", "chang-roberts", "hirschberg-sinclair"] = "tanenbaum"
    elections: tuple[str, ...] | None = None
    """The elections held; None: any that a member speaks of, up to `max_elections`."""
    max_elections: int = 50_000
    """What other members speak of fills this at most; one of them, half of it."""
    forget_after: float = 600.0
    """An election that nobody leads, and that nobody here wants to, is forgotten after so many seconds, or up
    to twice as many; 0: never."""

    @property
    def preempts(self) -> bool:
        return self.preempt if self.preempt is not None else self.algorithm == "bully"

    def rank(self, election: str, member: Member, position: int) -> Rank:
        """The rank of a member that has this position in this election."""
        match self.rank_by:
            case "id":
                return (member.priority, position, 0, member.id)
            case "position":
                return (position, member.priority, 0, member.id)
            case "spread":
                digest = hashlib.blake2b(f"{election}\0{member.id}".encode(), digest_size=6).digest()
                return (member.priority, position, int.from_bytes(digest), member.id)


# --- what a node keeps, shows and refuses ---------------------------------------------------------


class Promise(msgspec.Struct, frozen=True, array_like=True):
    """What must outlive a crash: the newest term, whom this node backed in it, and the term (ZAB:
    the current epoch) of the last leader it followed."""

    election: str
    term: Term = 0
    backed: NodeId | None = None
    epoch: Term = 0


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """An operator has named this node as gone for good: it is refused until it rejoins. The driver breaks
    what connections there are to it."""

    node: NodeId
    gone: bool


class Forget(msgspec.Struct, frozen=True, array_like=True):
    """The promise in this election is not needed any more: the one in `OTHERS` covers it."""

    election: str


Record: TypeAlias = Promise | Gone | Forget
"""What a store keeps for the core."""


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    OBSERVER = "observer"


class View(msgspec.Struct, frozen=True):
    """What a node believes of an election: its own role, the leader it follows, and the newest term."""

    election: str
    role: Role
    leader: NodeId | None
    term: Term
    secured: bool = False
    """I lead, and have had my lease."""
    yielding: bool = False
    """I lead, but another is to: my work must end, and then I hand over."""


class Reason(StrEnum):
    """Why a voter does not back a claim."""

    NOT_A_VOTER = "I do not vote"
    INELIGIBLE = "the claimant may not lead"
    NO_TERM_LEFT = "no term is left"
    OLD_TERM = "I know a newer term"
    BACKED_ANOTHER = "I backed another in this term"
    JUST_RESTARTED = "I restarted and may have promised my support"
    LEADER_LIVES = "I support a living leader"
    STALER = "the claimant's data is older than mine"
    OUTRANKED = "I outrank the claimant"


# --- messages -------------------------------------------------------------------------------------

NO_SUPPORT = -1
"""The epoch of one who follows and does not support."""


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Anything one node says to another."""


class Beat(Message, frozen=True):
    """A leader's node to each peer, once an interval, for all the elections it leads."""

    seq: int


class Support(Message, frozen=True):
    """The answer to a beat: from its receipt, I back nobody against you for the time of a lease.

    `(incarnation, epoch)` tells one unbroken stretch of support from the next."""

    seq: int
    incarnation: int
    epoch: int


class Recall(Message, frozen=True):
    """A node that rejoins asks, page by page: which terms do you know, of the elections after this name?
    Refuse those that are gone for good. `number` is that of its start: an older answer does not count."""

    number: int
    after: str
    without: tuple[NodeId, ...]


class Recalled(Message, frozen=True):
    """A page of the terms that I know, in the order of the names; for how long I may have promised; and my
    floor, which covers the elections that I have forgotten."""

    number: int
    after: str
    terms: tuple[tuple[str, Term], ...]
    more: bool
    lease: float
    floor: Term = 0


class Floor(Message, frozen=True):
    """No term up to this one may be claimed any more in an election that is not remembered."""

    term: Term


class ElectionMessage(Message, frozen=True):
    """Anything said about one election."""

    election: str
    term: Term


class Claim(ElectionMessage, frozen=True):
    """Back me for this term. Each algorithm claims under its own name."""

    position: int


class PreVote(Claim, frozen=True):
    """Would you back me for this term?"""

    insist: bool


class Grant(ElectionMessage, frozen=True):
    """I would back you for this term, as things stand."""


class Accept(ElectionMessage, frozen=True):
    """I back you for this term, durably (ZAB calls it AckEpoch). It counts only for this life of mine: the
    store of a later one may have been lost."""

    incarnation: int


class Refuse(ElectionMessage, frozen=True):
    """I do not back your claim for `term`; mine is `newest`."""

    newest: Term
    reason: Reason


class Lead(ElectionMessage, frozen=True):
    """A quorum made me the leader of this term."""

    position: int


class Follow(ElectionMessage, frozen=True):
    """I follow you in this term; my supports count for you while they bear this pair. If I contend, you
    may hand over to me, once my data is as fresh as yours."""

    incarnation: int
    epoch: int
    """`NO_SUPPORT`: I only know that you lead."""
    contends: bool
    position: int
    ready: bool = True
    """I could lead now. Who has restarted is quiet for a lease, and says it again when that is over."""


class Resign(ElectionMessage, frozen=True):
    """My leadership of this term has ended; you are free. The heir, if any, should claim at once
    (Raft's dissertation calls that word TimeoutNow); if a user wished it so, nobody else should take over,
    and by force even if the heir is staler than others."""

    heir: NodeId | None
    wished: bool
    force: bool = False


# --- effects --------------------------------------------------------------------------------------

Timer: TypeAlias = tuple[str, str]
"""A purpose and whom or what it concerns: ("beat", ""), ("silence", peer), ("campaign", election)."""


class Save(msgspec.Struct, frozen=True, gc=False):
    """Make this durable before any later send leaves the node."""

    record: Record


class Send(msgspec.Struct, frozen=True, gc=False):
    to: NodeId
    message: Message


class Arm(msgspec.Struct, frozen=True, gc=False):
    """Fire this timer once, after a delay that the driver draws between `low` and `high`; it replaces
    an earlier deadline of the same timer."""

    timer: Timer
    low: float
    high: float


class Disarm(msgspec.Struct, frozen=True, gc=False):
    timer: Timer


class Changed(msgspec.Struct, frozen=True, gc=False):
    view: View


class Awaiting(msgspec.Struct, frozen=True, gc=False):
    """This node rejoins, and waits for these nodes; if they are none, too few are left to tell."""

    nodes: tuple[NodeId, ...]


class Rejoined(msgspec.Struct, frozen=True, gc=False):
    """This node has rejoined. Like a `Send`, it waits for the saves before it."""


Lapse: TypeAlias = Literal["quiet", "late", "overruled", "ended"]
"""Why a transfer came to nothing: the heir answered no more, or was not ready in time, or another wish came
after it, or the leadership ended before."""


class TransferLapsed(msgspec.Struct, frozen=True, gc=False):
    """A transfer came to nothing. Where the heir is behind: its position, and the newest."""

    election: str
    heir: NodeId
    positions: tuple[int, int] | None
    why: Lapse = "late"


class Forgotten(msgspec.Struct, frozen=True, gc=False):
    """This election is gone, as if it had never been spoken of, but for the terms that it may have."""

    election: str


class Disbelieved(msgspec.Struct, frozen=True, gc=False):
    """This node speaks of what cannot be."""

    node: NodeId
    what: str


Notice: TypeAlias = Awaiting | Rejoined | TransferLapsed | Forgotten | Disbelieved
"""What a driver may want to tell people."""

Effect: TypeAlias = Save | Send | Arm | Disarm | Changed | Notice
