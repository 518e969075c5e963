"""Storms: random faults from a seed, in three strengths.

calm       nothing goes wrong
rough      crashes, pauses, partitions and bad weather every second or so, as in a bad week
hostile    a fault every 20 to 400 ms, restarts within 1 to 20 ms, crashes in the middle of a step,
           stalled and full disks, drifting clocks: as bad as it takes to break a design that lacks a guard
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

import msgspec

from electorate.core.identity import Rejoin, Verdict
from electorate.core.model import Member, Membership, NodeId, QuorumRule, Settings, Timing
from electorate.sim.network import Delay, Weather
from electorate.sim.world import COMMIT, Host, Plan, Store, World

Level = Literal["calm", "rough", "hostile"]

FAST = Timing(beat=0.04, lease=0.2, drift=0.01, patience=0.03, rank_slot=0.005, finalize_wait=0.01)
"""Timing of the storms: short leases, so that a simulated minute holds many leaderships."""

GAPS = {"rough": (0.2, 2.0), "hostile": (0.02, 0.4)}


def ids(count: int) -> tuple[NodeId, ...]:
    """a, b, c … for a few nodes, n0001 … for many: the order of the ids is the order of their numbers."""
    if count <= 26:
        return tuple(chr(ord("a") + number) for number in range(count))
    return tuple(f"n{number:04}" for number in range(1, count + 1))


def plan_for(
    level: Level,
    seed: int,
    nodes: int,
    settings: Settings,
    rule: QuorumRule = QuorumRule.MAJORITY,
) -> Plan:
    """The plan of a run: in a storm, the weather, the timing and the number of elections vary too."""
    membership = Membership(tuple(Member(id) for id in ids(nodes)), rule)
    if level == "calm":
        return Plan(membership=membership, settings=settings)
    random = Random(seed)
    elections = ("main", "shard-1", "shard-2")[: random.choice((1, 1, 2, 3))]
    stagger: Literal["rank", "random"] = random.choice(("rank", "rank", "random"))
    settings = msgspec.structs.replace(settings, timing=FAST, elections=elections)
    if settings.algorithm == "raft" and settings.stagger == "rank":
        settings = msgspec.structs.replace(settings, stagger=stagger)
    return Plan(
        membership=membership,
        settings=settings,
        weather=weather_for(level, random),
        elections=elections,
        work=random.choice((None, 0.0, 0.3)),
        skew=True,
    )


def weather_for(level: Level, random: Random) -> Weather:
    if level == "rough":
        return Weather(delay=Delay("lognormal", 0.001, 0.004), loss=0.002, duplicate=0.002)
    return Weather(
        delay=random.choice((Delay("uniform", 0.0003, 0.003), Delay("lognormal", 0.002, 0.01))),
        loss=random.choice((0.0, 0.01, 0.05)),
        duplicate=random.choice((0.0, 0.05)),
        reorder=random.choice((0.0, 0.02, 0.2)),
    )


class Storm:
    """Strikes a world with one fault after another until a given time, then leaves it as clusters are left:
    connected, but for a minority that stays down, and for users who do not want to lead any more."""

    def __init__(self, world: World, level: Level, until: float) -> None:
        self.world = world
        self.random = world.random
        self.until = until
        self.over = False
        self.forgetful: set[NodeId] = set()
        """Whose store has been replaced, and who does not rejoin yet."""
        if level != "calm":
            self.low, self.high = GAPS[level]
            strikes = ROUGH if level == "rough" else HOSTILE
            alone = len(world.hosts) == 1
            self.strikes = [strike for strike in strikes if not (alone and strike in AMONG_SEVERAL)]
            if world.plan.settings.elections is None and world.plan.settings.forget_after < until:
                self.strikes += [Storm.lay_down, Storm.lay_down]
            if not alone and world.plan.proof_of_death != "refused":
                self.strikes.append(Storm.reject)
            self.next_strike()

    def next_strike(self) -> None:
        at = self.world.now + self.random.uniform(self.low, self.high)
        if at < self.until:
            self.world.at(at, self.strike)
        else:
            self.world.at(self.until, self.calm)

    def strike(self, *_: object) -> None:
        self.random.choice(self.strikes)(self)
        self.next_strike()

    def calm(self, *_: object) -> None:
        """The faults stop: everybody is connected, and who is not left down runs."""
        world = self.world
        self.over = True
        self.tell("the faults stop")
        world.change_weather(Weather(delay=Delay("uniform", 0.0005, 0.0015)))
        left = self.left_down()
        for id in left:
            world.hosts[id].crash()
        world.heal()
        for host in world.hosts.values():
            host.commit_time = COMMIT
            host.full = False
            host.sends_left = None
            host.go_on()
            if host.id not in left:
                self.bring_up(host, frozenset(left))
        reconsider = self.random.random() < 0.5
        for election in world.plan.elections:
            for host in world.hosts.values():
                host.vacate(election)
                if reconsider and host.id in world.plan.membership.candidates:
                    host.wish("contend", election)

    def left_down(self) -> list[NodeId]:
        """Half of the time, some that stay down for good: the others are still a quorum, and can tell those
        of them that rejoin what these have promised."""
        membership = self.world.plan.membership
        left: list[NodeId] = []
        hosts = list(self.world.hosts)
        self.random.shuffle(hosts)
        for id in hosts if self.random.random() < 0.5 else ():
            rest = [voter for voter in membership.voters if voter not in (*left, id)]
            enough = membership.is_quorum(rest) and membership.candidates & set(rest)
            if self.random.random() < 0.7 and enough and self.can_spare({*left, id}):
                left.append(id)
        return left

    def bring_up(self, host: Host, left: frozenset[NodeId]) -> None:
        """Let it run, and rejoin without those that are left down, if it must."""
        voters = frozenset(self.world.plan.membership.voters)
        if host.id in self.in_doubt():
            host.crash()
            host.start(Rejoin(without=left & voters))
        elif not host.up:
            host.start()

    # --- the faults

    def tell(self, story: str) -> None:
        self.world.note("fault", "", None, story)

    def any_host(self) -> Host:
        return self.random.choice(list(self.world.hosts.values()))

    def target(self) -> Host:
        """Any host, but more often one that leads: that is where it hurts."""
        leaders = [host for host in self.world.hosts.values() if host.up and host.node.leading]
        return self.random.choice(leaders) if leaders and self.random.random() < 0.6 else self.any_host()

    def some_hosts(self) -> list[Host]:
        hosts = list(self.world.hosts.values())
        return self.random.sample(hosts, min(len(hosts), self.random.choice((1, 1, 2, 3))))

    def others(self, host: Host) -> list[Host]:
        return [other for other in self.world.hosts.values() if other is not host]

    def pair(self) -> tuple[Host, Host]:
        first, second = self.random.sample(list(self.world.hosts.values()), 2)
        return first, second

    def later(self, low: float, high: float, action: Callable[..., None], *arguments: object) -> None:
        def act(*_: object) -> None:
            if not self.over:
                action(*arguments)

        self.world.after(self.random.uniform(low, high), act)

    def crash(self) -> None:
        self.bring_down(self.target())

    def crash_voters(self) -> None:
        """Some voters restart at once, at times out of the sight of a leader: what they had promised to it is
        forgotten, unless the design is wary."""
        if self.random.random() < 0.5:
            self.cut_off(self.target())
        for host in self.world.hosts.values():
            if self.random.random() < 0.5 and not (host.up and host.node.leading):
                self.bring_down(host, quick=True)

    def bring_down(self, host: Host, quick: bool = False) -> None:
        host.crash()
        low, high = (0.001, 0.02) if quick or self.random.random() < 0.5 else (0.05, 1.0)
        self.later(low, high, self.restart, host)

    def restart(self, host: Host) -> None:
        if not host.up:
            host.start()

    def crash_in_step(self) -> None:
        """The next sends of this host are its last: a crash between two effects of one step."""
        host = self.target()
        if host.up:
            host.sends_left = self.random.randint(1, 6)
            self.later(0.2, 0.6, self.restart, host)

    def lose_stores(self) -> None:
        """Some lose their stores and rejoin, at times without one that is believed to be gone for good; often
        one that leads is cut off meanwhile, or is that very one."""
        leaders = [host for host in self.world.hosts.values() if host.up and host.node.leading]
        besieged = self.random.choice(leaders) if leaders and self.random.random() < 0.5 else None
        hosts = [host for host in self.some_hosts() if host is not besieged]
        ids = {host.id for host in hosts}
        without = set[NodeId]()
        if others := [id for id in self.world.plan.membership.voters if id not in ids]:
            absent = besieged.id if besieged and besieged.id in others else self.random.choice(others)
            without = {absent} if self.random.random() < 0.4 else without
        if not (ids and self.can_spare(ids | without)):
            return
        story = f" without {' '.join(without)}" if without else ""
        self.tell(f"the stores of {' '.join(sorted(ids))} are lost; they rejoin{story}")
        if besieged is not None:
            self.cut_off(besieged)
        for host in hosts:
            host.crash()
            host.replace_store(Store(rejoin=Rejoin(without=frozenset(without))))
            self.later(0.001, 0.02 if besieged else 0.5, self.restart, host)

    def cut_off(self, host: Host) -> None:
        others = tuple(id for id in self.world.hosts if id != host.id)
        self.tell(f"partition: {host.id} | {' '.join(others)}")
        self.world.split((host.id,), others)
        self.later(0.1, 0.8, self.world.heal)

    def forget_store(self) -> None:
        """One comes back without its store as if nothing had happened: it must be told to rejoin."""
        host = self.any_host()
        if self.can_spare({host.id}) and all(host.id in o.store.met for o in self.others(host)):
            self.tell(f"{host.id} loses its store")
            self.replace_store(host, Store())

    def copy_store(self) -> None:
        host = self.any_host()
        host.copy = host.store.copy()

    def roll_back(self) -> None:
        """An old copy of a store is put back. It has started since, as all others know."""
        host = self.any_host()
        since = host.copy.incarnation
        noticed = all(
            o.store.met[host.id].incarnation > since if host.id in o.store.met else False
            for o in self.others(host)
        )
        if since and noticed and self.can_spare({host.id}):
            self.tell(f"the store of {host.id} is rolled back")
            self.replace_store(host, host.copy.copy())

    def replace_store(self, host: Host, store: Store) -> None:
        host.crash()
        host.replace_store(store)
        self.forgetful.add(host.id)
        self.later(0.001, 0.1, self.restart, host)
        self.later(0.2, 0.8, self.mend)

    def mend(self) -> None:
        """Operators look after those that must rejoin."""
        for host in self.world.hosts.values():
            if host.store.rejoin is None and host.id in self.in_doubt():
                self.tell(f"{host.id} is told to rejoin")
                host.crash()
                host.start(Rejoin())
            if host.store.rejoin is not None:
                self.forgetful.discard(host.id)

    def in_doubt(self) -> set[NodeId]:
        """Who rejoins, or must: whom others refuse, and first whom the most do, because the word of one who
        must rejoin itself does not count."""
        hosts = self.world.hosts.values()
        rejoins = {host.id: host.store.rejoin for host in hosts if host.store.rejoin is not None}
        doubtful = self.forgetful.union(rejoins, *(rejoin.without for rejoin in rejoins.values()))
        sound = [host for host in hosts if host.id not in doubtful]
        refused = {
            host.id: {o.id for o in sound if o is not host and o.judges(host) is not Verdict.WELCOME}
            for host in sound
        }
        while worst := max(refused, key=lambda id: len(refused[id] - doubtful), default=None):
            if not refused.pop(worst) - doubtful:
                break
            doubtful.add(worst)
        return doubtful

    def can_spare(self, ids: set[NodeId]) -> bool:
        """Whether the others, but for those in doubt, know all that a quorum may have done."""
        membership = self.world.plan.membership
        doubtful = self.in_doubt() | ids
        return not membership.is_quorum([voter for voter in membership.voters if voter in doubtful])

    def pause(self) -> None:
        host = self.target()
        host.pause()
        self.later(0.01, 0.8, host.go_on)

    def split(self) -> None:
        hosts = list(self.world.hosts)
        self.random.shuffle(hosts)
        at = self.random.randint(1, len(hosts) - 1)
        one, other = tuple(hosts[:at]), tuple(hosts[at:])
        self.tell(f"partition: {' '.join(one)} | {' '.join(other)}")
        self.world.split(one, other)
        self.later(0.05, 1.0, self.world.heal)

    def one_way(self) -> None:
        a, b = self.pair()
        self.tell(f"nothing passes from {a.id} to {b.id}")
        self.world.block(a.id, b.id)
        self.later(0.05, 1.0, self.world.unblock, a.id, b.id)

    def deafen(self) -> None:
        """A host hears nobody, though everybody hears it."""
        host = self.target()
        self.tell(f"{host.id} hears nobody")
        for other in host.links:
            self.world.block(other, host.id)
            self.later(0.1, 0.8, self.world.unblock, other, host.id)

    def part_pair(self) -> None:
        a, b = self.pair()
        self.tell(f"no link between {a.id} and {b.id}")
        for x, y in ((a.id, b.id), (b.id, a.id)):
            self.world.block(x, y)
            self.later(0.1, 1.5, self.world.unblock, x, y)

    def cut(self) -> None:
        a, b = self.pair()
        self.world.cut(a.id, b.id)

    def reject(self) -> None:
        """Something refuses in the name of a node that lives, as a rejecting firewall does: to another, or to
        all. No design that takes a refusal for a death can bear that."""
        host = self.target()
        others = self.others(host) if self.random.random() < 0.5 else [self.random.choice(self.others(host))]
        self.tell(f"{host.id} and {' '.join(other.id for other in others)} are refused by what lies between")
        for other in others:
            self.world.reject(host.id, other.id)
            for x, y in ((host.id, other.id), (other.id, host.id)):
                self.later(0.1, 0.8, self.world.unblock, x, y)

    def slow(self) -> None:
        a, b = self.pair()
        self.world.links[a.id, b.id].slow = self.random.uniform(0.01, 0.3)
        self.later(0.1, 1.0, setattr, self.world.links[a.id, b.id], "slow", 0.0)

    def slow_disk(self) -> None:
        host = self.target()
        host.commit_time = (0.01, self.random.uniform(0.02, 0.4))
        self.later(0.1, 1.0, setattr, host, "commit_time", COMMIT)

    def lay_down(self) -> None:
        """Nobody wants to lead an election any more, until it may have been forgotten."""
        election, after = self.random.choice(self.world.plan.elections), self.world.plan.settings.forget_after
        for host in self.world.hosts.values():
            if host.contends[election]:
                self.later(after, 5 * after, host.wish, "contend", election)
            host.wish("set_position", election, 0)
            host.wish("withdraw", election)

    def full_disk(self) -> None:
        host = self.target()
        self.tell(f"the disk of {host.id} is full")
        host.full = True
        self.later(0.1, 1.5, setattr, host, "full", False)

    def wish(self) -> None:
        """The user of a node wants something, whether it makes sense there or not."""
        host, election = self.target(), self.random.choice(self.world.plan.elections)
        match self.random.choice(WISHES):
            case "transfer":
                host.wish("transfer", election, self.any_host().id)
            case "set_position":
                self.any_host().wish("set_position", election, self.random.randint(0, 5))
            case "withdraw":
                host.wish("withdraw", election)
                if self.random.random() < 0.7:
                    self.later(0.1, 0.5, host.wish, "contend", election)
            case "contend":
                self.any_host().wish("contend", election)
            case "occupy":
                host.occupy(election)
                self.later(0.0, 1.0, host.vacate, election)
            case "vacate":
                host.vacate(election)
            case wish:
                host.wish(wish, election)


ROUGH = (
    *(Storm.crash, Storm.pause, Storm.split, Storm.cut, Storm.slow, Storm.slow_disk, Storm.wish),
    *(Storm.full_disk, Storm.lose_stores, Storm.mend),
)
HOSTILE = (
    *(Storm.crash, Storm.crash_voters, Storm.crash_voters, Storm.crash_in_step, Storm.crash_in_step),
    *(Storm.pause, Storm.pause, Storm.split, Storm.split, Storm.one_way, Storm.one_way, Storm.deafen),
    *(Storm.part_pair, Storm.part_pair, Storm.cut, Storm.slow, Storm.slow_disk, Storm.wish, Storm.wish),
    *(
        Storm.full_disk,
        Storm.lose_stores,
        Storm.forget_store,
        Storm.copy_store,
        Storm.copy_store,
        Storm.roll_back,
        Storm.mend,
    ),
)
AMONG_SEVERAL = (Storm.split, Storm.one_way, Storm.part_pair, Storm.cut, Storm.slow)
WISHES = ("contend", "withdraw", "resign", "transfer", "transfer", "set_position", "occupy", "vacate")
