"""Scenarios: short readable files that tell one story each, and say what should come of it.

    story = "The leader crashes; the best of the others takes its place."
    algorithm = "raft"
    nodes = 3
    steps = [
        "0.5 expect leader c",
        "1.0 crash leader",
        "1.1 expect leader b",
    ]

A step is a time in seconds, a verb, and its words. `leader` stands for whoever holds the lease then; where
several elections are held, `of NAME` says which one is meant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from electorate.core.model import Member, Membership, NodeId, QuorumRule, Settings
from electorate.errors import UserError
from electorate.sim.faults import ids
from electorate.sim.network import Weather
from electorate.sim.run import settle
from electorate.sim.world import COMMIT, Host, Plan, World

SHIPPED = files("electorate.sim") / "scenarios"


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a scenario file. `nodes` is a number, or a table of members by id."""

    story: str
    algorithm: str
    steps: list[str]
    nodes: int | dict[NodeId, dict[str, Any]] = 3
    quorum: QuorumRule = QuorumRule.MAJORITY
    seed: int = 1
    seconds: float = 0.0
    """How long it lasts (0: until after the last step)."""
    settings: dict[str, Any] = {}
    timing: dict[str, float] = {}
    weather: Weather = Weather()
    elections: tuple[str, ...] = ("main",)
    contenders: list[NodeId] | None = None
    fast_failover: bool = True
    violates: list[str] = []
    """The invariants that this story is meant to break: without them, it has failed."""

    def plan(self) -> Plan:
        if isinstance(self.nodes, int):
            members = tuple(Member(id) for id in ids(self.nodes))
        else:
            members = tuple(msgspec.convert({"id": id, **m}, Member) for id, m in self.nodes.items())
        settings = {**self.settings, "algorithm": self.algorithm, "timing": self.timing}
        return Plan(
            membership=Membership(members, self.quorum),
            settings=msgspec.convert({**settings, "elections": self.elections}, Settings),
            weather=self.weather,
            elections=tuple(self.elections),
            contenders=None if self.contenders is None else tuple(self.contenders),
            fast_failover=self.fast_failover,
        )


def shipped() -> list[str]:
    """The names of the scenarios that come with electorate."""
    return sorted(Path(str(item)).stem for item in SHIPPED.iterdir() if item.name.endswith(".toml"))


def load(name: str) -> Scenario:
    """Read a scenario from a file, or one of the shipped ones by its name."""
    try:
        text = (SHIPPED / f"{name}.toml").read_text() if name in shipped() else Path(name).read_text()
    except OSError as error:
        known = ", ".join(shipped())
        raise UserError(f"scenario {name}: {error.strerror}; shipped are {known}") from None
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
        scenario.plan()
        for step in scenario.steps:
            parse(step)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise UserError(f"scenario {name}: {error}") from None
    return scenario


def parse(step: str) -> tuple[float, str, list[str], str | None]:
    """A step as time, verb, words and election."""
    time, verb, *words = step.split()
    election = None
    if "of" in words:
        at = words.index("of")
        election = words[at + 1]
        words = words[:at]
    if verb not in VERBS:
        raise ValueError(f"step '{step}': '{verb}' is not one of {', '.join(VERBS)}")
    return float(time), verb, words, election


class Play:
    """A scenario in progress: carries out its steps, and keeps what was not as expected."""

    def __init__(self, scenario: Scenario, *, record: bool = True, seed: int | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario.plan(), scenario.seed if seed is None else seed, record=record)
        self.failures: list[str] = []
        last = 0.0
        for step in scenario.steps:
            time, verb, words, election = parse(step)
            last = max(last, time)
            self.world.at(time, self.carry_out, step, (verb, words, election or scenario.elections[0]))
        self.until = scenario.seconds or last + 2 * self.world.plan.settings.timing.lease

    def run(self) -> World:
        """Run to the end; then every invariant must hold, but for those it is meant to break."""
        world, expected = self.world, set(self.scenario.violates)
        world.start()
        world.sample_availability(self.scenario.elections[0], self.until)
        world.run(self.until)
        if not expected:
            settle(world)
        broken = {violation.invariant for violation in world.violations}
        self.failures += [str(v) for v in world.violations if v.invariant not in expected]
        self.failures += [f"{name} should have been violated" for name in sorted(expected - broken)]
        return world

    def carry_out(self, step: str, what: tuple[str, list[str], str]) -> None:
        verb, words, election = what
        self.world.note("story", "", None, " ".join(step.split()[1:]))
        VERBS[verb](self, words, election)

    # --- who is meant

    def leader(self, election: str) -> NodeId:
        holders = self.world.holders(election)
        if not holders:
            self.failures.append(f"at {self.world.now:.3f} s nobody leads {election}")
        return holders[0] if holders else next(iter(self.world.hosts))

    def id(self, word: str, election: str) -> NodeId:
        return self.leader(election) if word == "leader" else word

    def host(self, word: str, election: str) -> Host:
        return self.world.hosts[self.id(word, election)]

    # --- what is done

    def crash(self, words: list[str], election: str) -> None:
        for host in [self.host(word, election) for word in words]:
            host.crash()

    def restart(self, words: list[str], election: str) -> None:
        for word in words:
            self.host(word, election).start()

    def rejoin(self, words: list[str], election: str) -> None:
        """Start a node whose store is lost, as `elect node --rejoin` would."""
        host = self.host(words[0], election)
        host.disk.clear()
        host.start(rejoin=True)

    def roll_back(self, words: list[str], election: str) -> None:
        """Start a node whose store is lost, as if nothing had happened."""
        host = self.host(words[0], election)
        host.disk.clear()
        host.incarnation = 0
        host.start()

    def pause(self, words: list[str], election: str) -> None:
        self.host(words[0], election).pause()

    def go_on(self, words: list[str], election: str) -> None:
        for host in self.world.hosts.values() if not words else [self.host(words[0], election)]:
            host.go_on()

    def split(self, words: list[str], election: str) -> None:
        groups: list[list[NodeId]] = [[]]
        for word in words:
            if word == "|":
                groups.append([])
            else:
                groups[-1].append(self.id(word, election))
        self.world.split(*map(tuple, groups))

    def heal(self, words: list[str], election: str) -> None:
        self.world.heal()

    def block(self, words: list[str], election: str) -> None:
        """`block a b`: nothing passes from a to b."""
        a, b = (self.id(word, election) for word in words)
        self.world.block(a, b)

    def part(self, words: list[str], election: str) -> None:
        """`part a b`: nothing passes between them."""
        a, b = (self.id(word, election) for word in words)
        self.world.block(a, b)
        self.world.block(b, a)

    def open(self, words: list[str], election: str) -> None:
        a, b = (self.id(word, election) for word in words)
        self.world.unblock(a, b)
        self.world.unblock(b, a)

    def cut(self, words: list[str], election: str) -> None:
        """`cut a b`: their connections break, though both live."""
        a, b = (self.id(word, election) for word in words)
        self.world.cut(a, b)

    def slow(self, words: list[str], election: str) -> None:
        """`slow a b 0.2`: every message from a to b takes so many seconds longer."""
        self.world.links[self.id(words[0], election), self.id(words[1], election)].slow = float(words[2])

    def disk(self, words: list[str], election: str) -> None:
        """`disk a 0.3`: a commit takes that long; `disk a` : as usual."""
        seconds = float(words[1]) if len(words) > 1 else 0.0
        self.host(words[0], election).commit_time = (seconds, seconds) if seconds else COMMIT

    def clock(self, words: list[str], election: str) -> None:
        """`clock a 1.01`: its clock runs so much faster than true time from here on."""
        self.host(words[0], election).set_rate(float(words[1]))

    def lose(self, words: list[str], election: str) -> None:
        """`lose Token`: the next message of that kind is lost."""
        self.world.doomed[words[0]] += 1

    def contend(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("contend", election)

    def withdraw(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("withdraw", election)

    def resign(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("resign", election)

    def transfer(self, words: list[str], election: str) -> None:
        """`transfer b`: the leader hands over to b."""
        self.host("leader", election).wish("transfer", election, words[0])

    def position(self, words: list[str], election: str) -> None:
        """`position a 17`: the data of a is that fresh."""
        self.host(words[0], election).wish("set_position", election, int(words[1]))

    # --- what is expected

    def expect(self, words: list[str], election: str) -> None:
        actual = EXPECTATIONS[words[0]](self, words[1:], election)
        if actual is not None:
            self.failures.append(f"at {self.world.now:.3f} s: expected {' '.join(words)}, but {actual}")

    def expect_leader(self, words: list[str], election: str) -> str | None:
        """`leader b`, `leader any`, `leader none` (nobody holds a lease), `leader not b`."""
        holders = self.world.holders(election)
        match words:
            case ["any"]:
                met = len(holders) == 1
            case ["none"]:
                met = not holders
            case ["not", *others]:
                met = bool(holders) and not set(holders) & set(others)
            case _:
                met = holders == words
        return None if met else f"{' and '.join(holders) or 'nobody'} held the lease"

    def expect_leaders(self, words: list[str], election: str) -> str | None:
        """`leaders 2`: so many believe that they lead."""
        count = len(self.world.holders(election))
        return None if count == int(words[0]) else f"{count} held a lease"

    def expect_term(self, words: list[str], election: str) -> str | None:
        """`term 3`, or `term at most 3`: of the leader."""
        term = self.world.hosts[self.leader(election)].node.elections[election].leader_term
        met = term <= int(words[-1]) if words[0] == "at" else term == int(words[-1])
        return None if met else f"it was {term}"

    def expect_role(self, words: list[str], election: str) -> str | None:
        """`role a follower`, `role a observer` …"""
        view = self.host(words[0], election).node.view(election)
        return None if view and view.role == words[1] else f"it was {view.role if view else 'unknown'}"

    def expect_follows(self, words: list[str], election: str) -> str | None:
        """`follows a b`: a follows b; `follows a nobody`."""
        view = self.host(words[0], election).node.view(election)
        leader = (view.leader if view else None) or "nobody"
        return None if leader == self.id(words[1], election) else f"it follows {leader}"

    def expect_sent(self, words: list[str], election: str) -> str | None:
        """`sent PreVote`, `sent no RequestVote`, since the last time this was asked of that kind."""
        kind = words[-1]
        count = self.world.sent[kind] - self.world.counted[kind]
        self.world.counted[kind] = self.world.sent[kind]
        met = not count if words[0] == "no" else bool(count)
        return None if met else f"{count} were sent"


Step = Callable[[Play, list[str], str], Any]

EXPECTATIONS: dict[str, Step] = {
    "leader": Play.expect_leader,
    "leaders": Play.expect_leaders,
    "term": Play.expect_term,
    "role": Play.expect_role,
    "follows": Play.expect_follows,
    "sent": Play.expect_sent,
}

VERBS: dict[str, Step] = {
    "crash": Play.crash,
    "restart": Play.restart,
    "rejoin": Play.rejoin,
    "roll-back": Play.roll_back,
    "pause": Play.pause,
    "continue": Play.go_on,
    "split": Play.split,
    "heal": Play.heal,
    "block": Play.block,
    "part": Play.part,
    "open": Play.open,
    "cut": Play.cut,
    "slow": Play.slow,
    "disk": Play.disk,
    "clock": Play.clock,
    "lose": Play.lose,
    "position": Play.position,
    "contend": Play.contend,
    "withdraw": Play.withdraw,
    "resign": Play.resign,
    "transfer": Play.transfer,
    "expect": Play.expect,
}
