"""One run from start to verdict, and its summary."""

from __future__ import annotations

from typing import Any

import msgspec

from electorate.core.model import NodeId, Term
from electorate.sim.faults import Level, Storm, plan_for
from electorate.sim.world import SAMPLE, Plan, World


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. Times are simulated seconds; `availability` is the share of the time in which
    somebody held a lease on the first election, `settled` how soon after the storm all agreed."""

    seed: int
    leader: NodeId | None
    term: Term
    time_to_leader: float | None
    availability: float
    settled: float | None
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
    else:
        check_stays(world)
    return world


def simulate(
    level: Level, seed: int, nodes: int, seconds: float, plan: Plan | None = None, **options: Any
) -> Outcome:
    return summary(storm(plan or plan_for(level, seed, nodes, **options), seed, level, seconds))


def settle_bound(plan: Plan) -> float:
    """I5 promises agreement so soon after the faults: a lease until the last promise has lapsed, another
    while those that restart are quiet, a third if one has to rejoin first; and a candidate that has often
    failed waits for 16 rounds until it gives up, and for 8 times `patience` until it tries again. With the
    timing of storms that is 1.3 s, of which the worst of some thousand took 0.8 s, and for the rings, whose
    rounds are longer, 2.3 s and 1.6 s."""
    timing = plan.settings.timing
    turns = 2 + len(plan.membership.voters) / 8 if plan.settings.algorithm == "ring" else 1
    return 3 * timing.lease + (8 + 16 * turns) * timing.patience


def settle(world: World) -> None:
    """I5: one leader, and everybody agrees, for every election that can have one. What they agreed on before
    they noticed the last fault does not count: agreement is what lasts for a lease."""
    began = agreed = world.now
    deadline = began + settle_bound(world.plan)
    while world.now - agreed < world.plan.settings.timing.lease:
        world.run(world.now + SAMPLE)
        if leaderless := world.leaderless():
            agreed = world.now
            if agreed >= deadline:
                world.invariants.violated("I5", f"no agreed leader of {', '.join(leaderless)} in time")
                return
    world.settled = agreed - began


def check_stays(world: World) -> None:
    """I5: and who leads in calm goes on leading, unless a better one takes over."""
    if world.settled is None:
        return
    leaders = {election: world.agreed_leader(election) for election in world.plan.elections}
    led = len(world.invariants.leases)
    world.run(world.now + 5 * world.plan.settings.timing.lease)
    for election, successor, *_ in world.invariants.leases[led:]:
        leader, leaders[election] = leaders[election], successor
        improves = leader and world.rank(election, successor) > world.rank(election, leader)
        if leader and not (improves and world.plan.settings.preempts):
            story = f"{successor} follows {leader} as leader of {election} though nothing had happened"
            world.invariants.violated("I5", story)
    if (leaderless := world.leaderless()) and world.plan.settings.preempts:
        settle(world)  # a better one may be about to take over just now
    elif leaderless:
        world.invariants.violated("I5", f"no agreed leader of {', '.join(leaderless)} any more")
    for host in world.hosts.values():
        if host.up and host.awaits is not None:
            world.invariants.violated("I5", f"{host.id} has not rejoined, and waits for {host.awaits}")


def check_best_leads(world: World) -> None:
    """I6: in calm, the best-ranked contender leads."""
    for election in world.plan.elections:
        leader = world.agreed_leader(election)
        contenders = [
            host.node.elections[election].rank
            for host in world.hosts.values()
            if host.up and election in host.node.elections and host.node.elections[election].contends
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
        settled=world.settled,
        leaderships=len(terms),
        messages=dict(world.sent),
        ignored=ignored,
        events=world.handled,
        violations=[str(violation) for violation in world.violations],
    )
