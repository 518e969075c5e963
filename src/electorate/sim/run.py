"""One run from start to verdict, and its summary."""

from __future__ import annotations

from typing import Any

import msgspec

from electorate.core.model import NodeId, Term
from electorate.sim.faults import Level, Storm, plan_for
from electorate.sim.world import SAMPLE, Plan, World


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. Times are simulated seconds; `availability` is the share of the time in which
    somebody held a lease on the first election."""

    seed: int
    leader: NodeId | None
    term: Term
    time_to_leader: float | None
    availability: float
    leaderships: int
    messages: dict[str, int]
    ignored: dict[str, int]
    events: int
    violations: list[str]


def storm(plan: Plan, seed: int, level: Level, seconds: float, record: bool = False) -> World:
    """Run under faults for that long, then in calm until all agree or the bound of I5 is over."""
    world = World(plan, seed, record=record)
    Storm(world, level, seconds)
    world.start()
    world.sample_availability(plan.elections[0], until=seconds)
    world.run(seconds)
    settle(world)
    if level == "calm":
        check_best_leads(world)
        check_quiet(world)
    return world


def simulate(
    level: Level, seed: int, nodes: int, seconds: float, plan: Plan | None = None, **options: Any
) -> Outcome:
    return summary(storm(plan or plan_for(level, seed, nodes, **options), seed, level, seconds))


def settle_bound(plan: Plan) -> float:
    """I5 promises agreement so soon after the faults: a lease until the last promise has lapsed, another
    for nodes that restarted, and a few rounds with growing pauses."""
    timing = plan.settings.timing
    return 6 * timing.lease + 30 * timing.patience


def settle(world: World) -> None:
    """I5: one leader, and everybody agrees, for every election."""
    deadline = world.now + settle_bound(world.plan)
    while not all(world.agreed_leader(election) for election in world.plan.elections):
        if world.now >= deadline:
            split = [e for e in world.plan.elections if not world.agreed_leader(e)]
            world.invariants.violated("I5", f"no agreed leader of {', '.join(split)} in time")
            return
        world.run(min(world.now + SAMPLE, deadline))


def check_best_leads(world: World) -> None:
    """I6: in calm, the best-ranked contender leads."""
    for election in world.plan.elections:
        leader = world.agreed_leader(election)
        contenders = [
            host.node.elections[election].rank
            for host in world.hosts.values()
            if host.up and host.node.elections[election].contends
        ]
        if leader and contenders and max(contenders)[-1] != leader:
            world.invariants.violated("I6", f"{leader} leads {election}, but {max(contenders)[-1]} is better")


def check_quiet(world: World, beats: int = 10) -> None:
    """I7: only the leaders' links carry messages, beats and supports, however many elections there are."""
    timing = world.plan.settings.timing
    leaders = {world.agreed_leader(election) for election in world.plan.elections}
    world.run(world.now + 2 * timing.lease)
    before = dict(world.sent)
    world.run(world.now + beats * timing.beat)
    spoken = {kind: count - before.get(kind, 0) for kind, count in world.sent.items()}
    spoken = {kind: count for kind, count in spoken.items() if count}
    links = len(leaders) * (len(world.hosts) - 1)
    expected = {"Beat": beats * links, "Support": beats * links}
    for kind, count in spoken.items():
        if abs(count - expected.get(kind, 0)) > links * (kind in expected):
            world.invariants.violated(
                "I7", f"{count} {kind} in {beats} beats of calm, not {expected.get(kind, 0)}"
            )


def summary(world: World) -> Outcome:
    election = world.plan.elections[0]
    leader = world.agreed_leader(election)
    terms = [term for name, _, term, _ in world.invariants.leases if name == election]
    starts = [at for name, _, _, at in world.invariants.leases if name == election]
    ignored: dict[str, int] = {}
    for host in world.hosts.values():
        for reason, count in host.node.ignored.items():
            ignored[reason] = ignored.get(reason, 0) + count
    return Outcome(
        seed=world.seed,
        leader=leader,
        term=terms[-1] if terms else 0,
        time_to_leader=starts[0] if starts else None,
        availability=world.availability,
        leaderships=len(terms),
        messages=dict(world.sent),
        ignored=ignored,
        events=world.handled,
        violations=[str(violation) for violation in world.violations],
    )
