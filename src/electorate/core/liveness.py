"""Support between two nodes, in both directions, shared by all elections on them.

    the voter                               the leader's node
    Follow(pair)  ---->                     counts the voter while its supports bear this pair
                     <---- Beat(seq)        remembers when it sent seq
    promises until receipt + L
    Support(seq, pair) ---->                is supported until sent_at(seq) + L·(1 - 2·drift)

The voter counts from receipt and the leader from sending, each allowing for the drift of both clocks,
so the leader's reckoning always ends first, whatever the network did in between. Whoever says Follow has
promised already, for a lease from then on: the leader may know it as a supporter from another election.

One beat keeps alive every election that its sender leads, which needs a guard: a voter whose promise
has lapsed may have given *one* of those elections away while the beats go on. So each lapse begins a
new epoch of support, and a leader counts a voter in an election only while its supports bear the pair
`(incarnation, epoch)` that the voter's `Follow` bore.
"""

from __future__ import annotations

from typing import NamedTuple

from electorate.core.model import NodeId, Term, Timing

Pair = tuple[int, int]
"""The incarnation of a voter, and the epoch of its support within it."""

Followers = frozenset[tuple[NodeId, Pair]]
"""The voters that follow a leader, each with the stretch of its support that counts for it."""


class Peer:
    """What one node promised another, and what it was promised."""

    __slots__ = (
        "connected",
        "epoch",
        "granted",
        "id",
        "incarnation",
        "leaps_from",
        "pair",
        "promised",
        "rejoining",
        "timing",
        "watched",
    )

    def __init__(self, id: NodeId, timing: Timing) -> None:
        self.id = id
        self.timing = timing
        self.connected = False
        self.incarnation = 0
        """The newest incarnation of the peer that we have met."""
        self.rejoining = False
        """That incarnation has lost its store, and knows nothing yet."""
        self.promised: float | None = None
        """We support the peer until then, on our clock."""
        self.epoch = 0
        """The current stretch of our support for it."""
        self.watched = False
        """A silence timer is armed for it."""
        self.leaps_from = float("-inf")
        """From then on I may believe once more that I am far behind it."""
        self.granted = float("-inf")
        """When we sent the newest beat that it supported."""
        self.pair: Pair = (0, 0)
        """The stretch of its support for us to which `granted` belongs."""

    # the voter's side

    def promise(self, now: float) -> None:
        """A beat has come, or I begin to follow: support the peer for a lease from now."""
        self.lapse(now)
        self.promised = now + self.timing.lease

    def stands(self, now: float) -> bool:
        """Whether our promise to the peer still binds us."""
        return self.promised is not None and now < self.promised

    def lapse(self, now: float) -> None:
        """If our promise has run out, our support from here on is another stretch."""
        if self.promised is not None and now >= self.promised:
            self.release()

    def release(self) -> None:
        self.promised = None
        self.begin_stretch()

    def begin_stretch(self) -> None:
        """Whoever counts on me by an older Follow must be told that I follow still, or it stops to count."""
        self.epoch += 1

    # the leader's side

    def support(self, sent_at: float, pair: Pair) -> bool:
        """The peer supports our beat of that time. Returns whether a new stretch of support began."""
        if pair < self.pair:
            return False
        fresh = pair > self.pair
        self.pair = pair
        self.granted = sent_at if fresh else max(self.granted, sent_at)
        return fresh

    @property
    def supports_until(self) -> float:
        """We may rely on the peer's support until then, on our clock."""
        return self.granted + self.timing.safe_lease

    def is_there(self, now: float) -> bool:
        """Whether it can be reached, and has answered a beat not long ago."""
        return self.connected and now < self.supports_until

    def state(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__ if name != "timing")


class Lease:
    """Until when a quorum of these voters, in these stretches of their support, supports a leader, on its own
    clock. Shared by all leaderships that rest on the same ones."""

    __slots__ = ("followers", "until")

    def __init__(self, followers: Followers) -> None:
        self.followers = followers
        self.until = float("-inf")


class Tenure(NamedTuple):
    """A leadership as any thread may read it: a value, in which only `lease.until` is ever replaced."""

    term: Term
    assured: float
    lease: Lease

    @property
    def until(self) -> float:
        return max(self.assured, self.lease.until)


class Beats:
    """The beats a node has sent: when, as long as a support of them could still be worth something."""

    __slots__ = ("lease", "running", "sent", "seq")

    def __init__(self, incarnation: int, lease: float) -> None:
        self.lease = lease
        self.seq = incarnation << 32
        """No two incarnations of a node use the same number."""
        self.sent: tuple[tuple[int, float], ...] = ()
        self.running = False

    def next(self, now: float) -> int:
        self.seq += 1
        recent = tuple(beat for beat in self.sent if now - beat[1] < self.lease)
        self.sent = (*recent, (self.seq, now))
        return self.seq

    def sent_at(self, seq: int) -> float | None:
        """When we sent this beat: not when its answer came."""
        for number, at in reversed(self.sent):
            if number == seq:
                return at
        return None
