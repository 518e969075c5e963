"""What all nodes must agree on, key by key, as the cluster file names it.

Nodes that differ in what safety rests on could both lead: they refuse each other. In the rest they get in
each other's way at most. Each tells the other a digest of every key, so both can say which it is. What is
left at its default is not told: a node that knows one key more agrees with one that has never heard of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from electorate.core.model import Kind, Member, Membership, NodeId, QuorumRule, Settings

Value: TypeAlias = str | int | float | tuple[str, ...] | None

SAFETY = ("algorithm", "ring", "quorum", "timing.lease", "timing.drift")
"""Of the settings; and of each node that votes its kind, weight and group."""
COUNTS = ("kind", "weight", "group")


class Configuration(NamedTuple):
    """The value of each key."""

    safety: Mapping[str, Value]
    rest: Mapping[str, Value]


def configuration(membership: Membership, settings: Settings, **rest: Value) -> Configuration:
    """`rest` is what the machine itself does not know of."""
    safety: dict[str, Value] = {}
    for key, value in {"quorum": membership.rule.value, **flat(settings)}.items():
        (safety if key in SAFETY else rest)[key] = value
    for member in membership.members:
        votes = member.kind is not Kind.OBSERVER
        for key, value in about(member).items():
            (safety if votes and key in COUNTS else rest)[f"nodes.{member.id}.{key}"] = value
    return Configuration(safety, rest)


def flat(settings: Settings) -> dict[str, Value]:
    """The settings, without what means nothing to this algorithm."""
    values: dict[str, Value] = msgspec.structs.asdict(settings)
    del values["timing"]
    if settings.algorithm != "ring":
        del values["ring"]
    return values | {f"timing.{key}": float(v) for key, v in msgspec.structs.asdict(settings.timing).items()}


def about(member: Member) -> dict[str, Value]:
    return {
        "kind": member.kind.value,
        "weight": member.weight,
        "group": member.group,
        "priority": member.priority,
    }


DEFAULTS = {
    "proof_of_death": None,
    "quorum": QuorumRule.MAJORITY.value,
    **flat(Settings(algorithm="ring")),
    "algorithm": "raft",
}
OF_NODES = {**about(Member("")), "kind": None}
"""That there is such a node is always said."""


def default(key: str) -> Value:
    return OF_NODES[key.rpartition(".")[2]] if key.startswith("nodes.") else DEFAULTS[key]


def digests(values: Mapping[str, Value]) -> dict[str, int]:
    """32 bits of each: enough to tell that a key differs, and short enough to be said in a greeting."""
    return {
        key: int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=4).digest())
        for key, value in values.items()
        if value != default(key)
    }


def differences(mine: Mapping[str, int], theirs: Mapping[str, int]) -> tuple[str, ...]:
    """The keys in which they differ, by these digests."""
    return tuple(sorted(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)))


# --- who votes, as a store remembers it -------------------------------------------------------------


class Voters(NamedTuple):
    """Under which quorums a node has promised."""

    rule: str
    members: tuple[tuple[NodeId, str, int, str], ...]
    """The id, kind, weight and group of each that votes."""

    @classmethod
    def of(cls, membership: Membership) -> Voters:
        members = (membership.by_id[id] for id in membership.voters)
        return cls(membership.rule.value, tuple((m.id, m.kind.value, m.weight, m.group) for m in members))

    @property
    def ids(self) -> tuple[NodeId, ...]:
        return tuple(id for id, *_ in self.members)

    @property
    def membership(self) -> Membership:
        members = (Member(id, Kind(kind), 0, weight, group) for id, kind, weight, group in self.members)
        return Membership(tuple(members), QuorumRule(self.rule))

    def may_become(self, other: Voters) -> bool:
        """What was promised to any quorum of mine is known to a voter that stays."""
        return self.membership.meets_every_quorum(set(self.ids) & set(other.ids))
