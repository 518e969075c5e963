"""What is asked and what is answered, as JSON: the types that are sent, and that the description shows."""

from __future__ import annotations

from typing import Annotated

import msgspec

from electorate.core.model import NodeId, Role, Term
from electorate.runtime.handover import Wish
from electorate.runtime.wishes import LONGEST, frozen


class Leader(msgspec.Struct):
    """Who leads an election, as far as this node knows."""

    election: str
    leader: NodeId | None
    address: str | None
    term: Term
    metadata: dict[str, str]


class Fitness(msgspec.Struct):
    """Whether it is so, and if not, why."""

    ok: bool
    reason: str | None = None


class Standing(msgspec.Struct):
    """What this node knows of one election. `lease_left` is in seconds, 3600 at most (so it is where a leader
    needs nobody's support). `frozen` is for how many seconds more it does not contend, as was wished. `since`
    tells when it learnt of the leader, in seconds since 1970; `changes`, how many leaderships it has seen
    begin after the first."""

    election: str
    role: Role
    leader: NodeId | None
    term: Term
    lease_left: float
    frozen: float
    since: float | None
    changes: int


class Elections(msgspec.Struct):
    """A page of the elections, in the order of their names; `next` is the `after` of the next page."""

    elections: list[Standing]
    total: int
    next: str | None


class Status(msgspec.Struct):
    """What this node knows. Only the first hundred elections are named: `/elections` has all."""

    version: str
    cluster: str
    algorithm: str
    node: NodeId
    kind: str
    elections: list[Standing]
    total: int
    peers: dict[NodeId, str]
    """Whether each is connected, lost, or was never reached since this node started."""
    lost_since: dict[NodeId, float]
    """When each peer was lost, in seconds since 1970."""
    speaks: tuple[int, int]
    """The oldest and the newest version of the protocol that this node speaks."""
    versions: dict[NodeId, int]
    """The one that is spoken with each peer that is connected."""
    unreached: dict[NodeId, str]
    """Why the last attempt to reach a peer failed."""
    no_quorum: str | None
    """Since when this node reaches no quorum, and whom it does not reach."""
    no_store: str | None
    """Since when the store of this node takes no write, and why: it can promise nothing until it does."""
    resists: str | None
    """What of a command cannot be ended, so that this node keeps its port and its data directory."""
    differs: dict[NodeId, tuple[str, ...]]
    """In which keys a peer is configured otherwise, where safety does not rest on it."""
    waiting: str | None
    """Why this node does not vote yet."""
    awaits: tuple[NodeId, ...] | None
    """While it rejoins: for whom it waits."""
    ignored: dict[str, int]


class Change(msgspec.Struct):
    """An election as this node sees it from now on."""

    election: str
    role: Role
    leader: NodeId | None
    term: Term
    secured: bool
    yielding: bool


class Complaint(msgspec.Struct):
    """What is wrong with a request."""

    error: str


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]


class Transfer(msgspec.Struct, forbid_unknown_fields=True):
    """Let `to` lead the election; by `force`, though its position is behind."""

    election: Name
    to: Name
    force: bool = False

    def __str__(self) -> str:
        return str(Wish(self.election, self.to, self.force))


class Resign(msgspec.Struct, forbid_unknown_fields=True):
    """Let another lead the election; who led does not contend for so many seconds."""

    election: Name
    seconds: Seconds = 0.0

    def __str__(self) -> str:
        return str(Wish(self.election, seconds=self.seconds))


class Freeze(msgspec.Struct, forbid_unknown_fields=True):
    """Do not contend in the election for so many seconds; 0 ends that."""

    election: Name
    seconds: Seconds

    def __str__(self) -> str:
        return frozen(self.election, self.seconds)
