"""What a storm strikes: a cluster drawn from the seed, unless its shape is asked for.

One to nine nodes, some of which only vote or only listen; any rule for a quorum; who wants to lead what, with
which priority and how fresh; every option of `Settings` that changes behaviour. Whatever is drawn is legal:
in each election somebody wants to lead and may, and all together are a quorum.
"""

from __future__ import annotations

from random import Random
from typing import Any, get_args, get_type_hints

import msgspec

from electorate.core.model import Kind, Member, Membership, QuorumRule, Settings
from electorate.sim.faults import FAST, Level, ids, plan_for, weather_for
from electorate.sim.world import Plan, ProofOfDeath

RINGS: tuple[str, ...] = get_args(get_type_hints(Settings)["ring"])
ALGORITHMS: tuple[str, ...] = (*get_args(get_type_hints(Settings)["algorithm"]), *RINGS)
"""By the names that one asks for; `ring` is any of the three."""
ELECTIONS = ("main", *(f"shard-{number}" for number in range(1, 6)))


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a run should be like. In a storm, whatever is not said here is drawn."""

    algorithm: str
    level: Level = "hostile"
    nodes: int | None = None
    quorum: QuorumRule | None = None
    plain: bool = False
    """Equal nodes that all want to lead, five unless it is said how many, and the default settings."""

    def plan(self, seed: int) -> Plan:
        random = Random(f"shape {seed}")
        if self.plain or self.level == "calm":
            settings = Settings(**self.named(RINGS[0]))
            return plan_for(self.level, seed, self.nodes or 5, settings, self.quorum or QuorumRule.MAJORITY)
        membership = draw_membership(random, self.nodes, self.quorum)
        elections = ELECTIONS[: random.choice((1, 1, 2, 3, 4, 5, 6))]
        settings = Settings(
            **self.named(random.choice(RINGS)),
            **draw_options(random),
            timing=FAST,
            elections=random.choice((elections, None)),
            forget_after=Random(f"memory {seed}").choice((600.0, 600.0, 0.2, 1.0)),
        )
        return Plan(
            membership=membership,
            settings=settings,
            weather=weather_for(self.level, random),
            elections=elections,
            abstaining=draw_abstaining(random, membership, elections),
            positions=draw_positions(random, membership, elections),
            proof_of_death=draw_proof(random),
            work=random.choice((None, 0.0, 0.3)),
            skew=True,
        )

    def named(self, ring: str) -> dict[str, Any]:
        if self.algorithm in RINGS:
            return {"algorithm": "ring", "ring": self.algorithm}
        return {"algorithm": self.algorithm, "ring": ring}


def draw_membership(random: Random, nodes: int | None, quorum: QuorumRule | None) -> Membership:
    count = random.choice((1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 8, 9))
    rule = random.choice((*3 * (QuorumRule.MAJORITY,), QuorumRule.WEIGHTED, QuorumRule.HIERARCHICAL))
    rule = quorum or rule
    kinds = random.choice(((Kind.VOTER,), (*4 * (Kind.VOTER,), Kind.WITNESS, Kind.OBSERVER)))
    priorities = random.choice(((0,), (0, 1, 2, 3)))
    weights = (0, 1, 1, 2, 3) if rule in (QuorumRule.WEIGHTED, QuorumRule.HIERARCHICAL) else (1,)
    groups = "xyz"[: random.randint(1, 3)] if rule is QuorumRule.HIERARCHICAL else ("",)
    while True:
        members = tuple(
            Member(
                id,
                random.choice(kinds),
                random.choice(priorities),
                random.choice(weights),
                random.choice(groups),
            )
            for id in ids(nodes or count)
        )
        membership = Membership(members, rule)
        if membership.candidates:
            return membership


def draw_options(random: Random) -> dict[str, Any]:
    return {
        "rank_by": random.choice(("id", "id", "position", "spread")),
        "stagger": random.choice(("rank", "rank", "random", "none")),
        "preempt": random.choice((None, None, True, False)),
        "pre_vote": random.random() < 0.8,
        "freshness": random.choice(("require", "require", "prefer")),
    }


def draw_proof(random: Random) -> ProofOfDeath:
    drawn = random.random()
    return "attested" if drawn < 0.5 else "refused" if drawn < 0.8 else "none"


def draw_abstaining(
    random: Random, membership: Membership, elections: tuple[str, ...]
) -> frozenset[tuple[str, str]]:
    """Who may lead and does not want to; of each election at least one wants to."""
    share = random.choice((0.0, 0.0, 0.4))
    abstaining: set[tuple[str, str]] = set()
    for election in elections:
        candidates = sorted(membership.candidates)
        candidates.remove(random.choice(candidates))
        abstaining |= {(election, id) for id in candidates if random.random() < share}
    return frozenset(abstaining)


def draw_positions(
    random: Random, membership: Membership, elections: tuple[str, ...]
) -> dict[tuple[str, str], int]:
    """How fresh each node is, whether it may lead or not."""
    newest = random.choice((0, 0, 1, 9))
    return {(e, m.id): random.randint(0, newest) for e in elections for m in membership.members if newest}


def describe(plan: Plan) -> str:
    """The shape of a cluster in one line: what differs from the plainest."""
    membership, settings, plain = plan.membership, plan.settings, Settings()
    sorts = []
    for member in membership.members:
        traits = [str(member.kind)] if member.kind is not Kind.VOTER else []
        traits += [f"priority {member.priority}"] if member.priority else []
        traits += [f"weight {member.weight}"] if member.weight != 1 else []
        traits += [f"group {member.group}"] if member.group else []
        sorts.append(f"{member.id} ({', '.join(traits)})" if traits else member.id)
    options = [
        f"{name} {getattr(settings, name)}"
        for name in ("rank_by", "stagger", "preempt", "pre_vote", "freshness")
        if getattr(settings, name) != getattr(plain, name)
    ]
    named = settings.ring if settings.algorithm == "ring" else settings.algorithm
    elections = f"{len(plan.elections)} election{'s' * (len(plan.elections) > 1)}"
    return f"{named}; {' '.join(sorts)}; {', '.join((str(membership.rule), elections, *options))}"
