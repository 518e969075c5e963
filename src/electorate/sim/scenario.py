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
several elections are held, `of NAME` says which one is meant. VERBS and EXPECTATIONS, at the end, list all
that can be said.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from electorate.core.identity import Rejoin, Verdict
from electorate.core.model import Member, Membership, NodeId, QuorumRule, Role, Settings, Timing
from electorate.errors import UserError, meant
from electorate.sim.faults import ids
from electorate.sim.network import Weather
from electorate.sim.run import settle
from electorate.sim.world import COMMIT, Host, Plan, ProofOfDeath, Store, World

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
    listed: bool = True
    """Whether the nodes know these elections before anybody speaks of them."""
    contenders: list[NodeId] | None = None
    proof_of_death: ProofOfDeath = "refused"
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
            settings=msgspec.convert(
                {**settings, "elections": self.elections if self.listed else None}, Settings
            ),
            weather=self.weather,
            elections=tuple(self.elections),
            contenders=None if self.contenders is None else tuple(self.contenders),
            proof_of_death=self.proof_of_death,
        )


def shipped() -> list[str]:
    """The names of the scenarios that come with electorate."""
    return sorted(Path(str(item)).stem for item in SHIPPED.iterdir() if item.name.endswith(".toml"))


def load(name: str) -> Scenario:
    """Read a scenario from a file, or one of the shipped ones by its name."""
    try:
        text = (SHIPPED / f"{name}.toml").read_text() if name in shipped() else Path(name).read_text()
        return understand(tomllib.loads(text))
    except OSError as error:
        near = meant(name, shipped())
        question = f"did you mean '{near}'? " if near else ""
        raise UserError(
            f"scenario {name}: {error.strerror}; {question}`elect sim --scenario list` names all"
        ) from None
    except ValueError as error:
        raise UserError(f"scenario {name}: {error}") from None


def understand(content: dict[str, Any]) -> Scenario:
    """The scenario, with every word of it checked. Raises ValueError (so do TOML and msgspec)."""
    scenario = msgspec.convert(content, Scenario)
    own = Scenario.__struct_fields__
    check_keys("settings", scenario.settings, [key for key in Settings.__struct_fields__ if key not in own])
    check_keys("timing", scenario.timing, Timing.__struct_fields__)
    check_keys("weather", content.get("weather", {}), Weather.__struct_fields__)
    if isinstance(scenario.nodes, dict):
        for id, member in scenario.nodes.items():
            check_keys(f"nodes.{id}", member, Member.__struct_fields__)
    check_values(scenario)
    return scenario


def check_values(scenario: Scenario) -> None:
    for key in ("beat", "lease", "patience"):
        if scenario.timing.get(key, 1.0) <= 0:
            raise ValueError(f"timing: '{key}' must be more than 0 seconds")
    members = scenario.plan().membership.by_id
    if not members or not scenario.elections:
        raise ValueError("there must be at least one node and one election")
    for id in scenario.contenders or ():
        if id not in members:
            raise ValueError(f"contenders: there is no node '{id}'")
    for step in scenario.steps:
        check_step(parse(step), members, scenario.elections)


def check_keys(where: str, table: dict[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: '{key}' is not one of {', '.join(known)}")


class Step(NamedTuple):
    text: str
    time: float
    verb: str
    words: list[str]
    election: str | None


def parse(text: str) -> Step:
    """A step as time, verb, words and election."""
    time, verb, *words = text.split() if len(text.split()) > 1 else ("", "")
    election = None
    if "of" in words[:-1]:
        at = words.index("of")
        election = words[at + 1]
        words = words[:at] + words[at + 2 :]
    if re.fullmatch(SORTS["SECONDS"], time) is None:
        raise ValueError(f"step '{text}': a step is a time in seconds, a verb and its words")
    return Step(text, float(time), verb, words, election)


def check_step(step: Step, nodes: Collection[NodeId], elections: Collection[str]) -> None:
    if step.verb not in VERBS:
        raise ValueError(f"step '{step.text}': '{step.verb}' is not one of {', '.join(VERBS)}")
    if step.election is not None and step.election not in elections:
        raise ValueError(f"step '{step.text}': there is no election '{step.election}'")
    usage, words = VERBS[step.verb].usage, step.words
    if step.verb == "expect":
        kind = words[0] if words else ""
        if kind not in EXPECTATIONS:
            raise ValueError(f"step '{step.text}': '{kind}' is not one of {', '.join(EXPECTATIONS)}")
        usage, words = EXPECTATIONS[kind].usage, words[1:]
    if not any(fits(alternative, words, nodes) for alternative in usage.split(" or ")):
        what = step.verb if words is step.words else f"expect {step.words[0]}"
        raise ValueError(
            f"step '{step.text}': after '{what}' comes {usage or 'nothing'}, of {', '.join(nodes)}"
        )


def fits(usage: str, words: list[str], nodes: Collection[NodeId]) -> bool:
    """Whether the words are of the sorts that the usage names in capitals."""
    node = "|".join(map(re.escape, ("leader", *nodes)))
    sorts = {**SORTS, "NODE": node, "GROUPS": rf"{node}|\|"}
    pattern = ""
    for token in usage.split():
        name = token.strip("[].")
        times = "+" if token.endswith("...") else "?" if token.startswith("[") else ""
        pattern += f"(?: (?:{sorts.get(name, re.escape(name))})){times}"
    return re.fullmatch(pattern, "".join(f" {word}" for word in words)) is not None


SORTS = {
    "SECONDS": r"\d+(?:\.\d+)?",
    "RATE": r"(?=[\d.]*[1-9])\d+(?:\.\d+)?",
    "NUMBER": r"\d+",
    "MESSAGE": r"[A-Z]\w*",
    "ROLE": "|".join(Role),
}


class Play:
    """A scenario in progress: carries out its steps, and keeps what was not as expected."""

    def __init__(self, scenario: Scenario, *, record: bool = True, seed: int | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario.plan(), scenario.seed if seed is None else seed, record=record)
        self.failures: list[str] = []
        last = 0.0
        for step in map(parse, scenario.steps):
            last = max(last, step.time)
            self.world.at(step.time, self.carry_out, step)
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

    def carry_out(self, step: Step, _: object) -> None:
        self.world.note("story", "", None, " ".join(step.text.split()[1:]))
        VERBS[step.verb].act(self, step.words, step.election or self.scenario.elections[0])

    def fail(self, what: str) -> None:
        self.failures.append(f"at {self.world.now:.3f} s: {what}")

    # --- who is meant

    def leader(self, election: str) -> NodeId:
        holders = self.world.holders(election)
        if not holders:
            self.fail(f"nobody leads {election}")
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
        for host in [self.host(word, election) for word in words]:
            if host.up:
                self.fail(f"{host.id} cannot restart, it is running")
            else:
                host.start()

    def rejoin(self, words: list[str], election: str) -> None:
        """`rejoin a b without c`: their stores are lost, so each starts with `--rejoin --without c`."""
        ids, without = words, frozenset[NodeId]()
        if "without" in words:
            at = words.index("without")
            ids, without = words[:at], frozenset(words[at + 1 :])
        hosts = [self.host(word, election) for word in ids]
        for host in hosts:
            host.crash()
            host.replace_store(Store())
        for host in hosts:
            host.start(Rejoin(without=without))

    def copy(self, words: list[str], election: str) -> None:
        """`copy a`: of its store, as it is now."""
        host = self.host(words[0], election)
        host.copy = host.store.copy()

    def roll_back(self, words: list[str], election: str) -> None:
        """Start a node with the last copy of its store, or with an empty one, as if nothing had happened."""
        host = self.host(words[0], election)
        host.crash()
        host.replace_store(host.copy.copy())
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

    def reject(self, words: list[str], election: str) -> None:
        """`reject a b`: something between them breaks what stands, and refuses in the name of either."""
        a, b = (self.id(word, election) for word in words)
        self.world.reject(a, b)

    def slow(self, words: list[str], election: str) -> None:
        """`slow a b 0.2`: every message from a to b takes so many seconds longer."""
        self.world.links[self.id(words[0], election), self.id(words[1], election)].slow = float(words[2])

    def disk(self, words: list[str], election: str) -> None:
        """`disk a 0.3`: a commit takes that long; `disk a` : as usual."""
        seconds = float(words[1]) if len(words) > 1 else 0.0
        self.host(words[0], election).commit_time = (seconds, seconds) if seconds else COMMIT

    def fill(self, words: list[str], election: str) -> None:
        """`fill a`: its disk takes no write, until `empty a`."""
        self.host(words[0], election).full = True

    def empty(self, words: list[str], election: str) -> None:
        self.host(words[0], election).full = False

    def clock(self, words: list[str], election: str) -> None:
        """`clock a 1.01`: its clock runs so much faster than true time from here on."""
        self.host(words[0], election).set_rate(float(words[1]))

    def lose(self, words: list[str], election: str) -> None:
        """`lose Token`, `lose Resign 2`: the next messages of that kind are lost."""
        self.world.doomed[words[0]] += int(words[1]) if len(words) > 1 else 1

    def contend(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("contend", election)

    def withdraw(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("withdraw", election)

    def resign(self, words: list[str], election: str) -> None:
        self.host(words[0], election).wish("resign", election)

    def transfer(self, words: list[str], election: str) -> None:
        """`transfer b`: the leader hands over to b."""
        self.host("leader", election).wish("transfer", election, words[0])

    def occupy(self, words: list[str], election: str) -> None:
        """`occupy leader`: work that rests on the leadership begins."""
        self.host(words[0], election).occupy(election)

    def vacate(self, words: list[str], election: str) -> None:
        """`vacate a`: that work has ended."""
        self.host(words[0], election).vacate(election)

    def position(self, words: list[str], election: str) -> None:
        """`position a 17`: the data of a is that fresh."""
        self.host(words[0], election).wish("set_position", election, int(words[1]))

    # --- what is expected

    def expect(self, words: list[str], election: str) -> None:
        actual = EXPECTATIONS[words[0]].act(self, words[1:], election)
        if actual is not None:
            self.fail(f"expected {' '.join(words)}, but {actual}")

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
        """`term 3`, `term at most 3`, `term at least 3`: of the leader."""
        term = self.world.hosts[self.leader(election)].node.elections[election].leader_term
        return None if compares(term, words) else f"it was {term}"

    def expect_role(self, words: list[str], election: str) -> str | None:
        """`role a follower`, `role a observer` …"""
        view = self.host(words[0], election).node.view(election)
        return None if view and view.role == words[1] else f"it was {view.role if view else 'unknown'}"

    def expect_follows(self, words: list[str], election: str) -> str | None:
        """`follows a b`: a follows b; `follows a nobody`."""
        view = self.host(words[0], election).node.view(election)
        leader = (view.leader if view else None) or "nobody"
        met = leader == (words[1] if words[1] == "nobody" else self.id(words[1], election))
        return None if met else f"it follows {leader}"

    def expect_refuses(self, words: list[str], election: str) -> str | None:
        """`refuses a b`: a takes no greeting from b, whose store has been lost or rolled back."""
        host, peer = (self.host(word, election) for word in words)
        return "it is welcome" if host.judges(peer) is Verdict.WELCOME else None

    def expect_awaits(self, words: list[str], election: str) -> str | None:
        """`awaits a b c`: a rejoins, and waits for b and c; `awaits a nobody`."""
        awaited = self.host(words[0], election).awaits
        met = (awaited or ("nobody",)) == tuple(words[1:])
        return None if met else f"it waits for {' and '.join(awaited or ('nobody',))}"

    def expect_sent(self, words: list[str], election: str) -> str | None:
        """`sent PreVote`, `sent no RequestVote`, `sent 4 Token`, `sent at most 8 Token`: since the last time
        this was asked of that kind."""
        *how_many, kind = words
        count = self.world.sent[kind] - self.world.counted[kind]
        self.world.counted[kind] = self.world.sent[kind]
        return None if compares(count, how_many) else f"{count} were sent"


def compares(count: int, words: list[str]) -> bool:
    """Whether the count is as the words say: nothing (any at all), `no`, `4`, `at most 4`, `at least 4`."""
    match words:
        case []:
            return count > 0
        case ["no"]:
            return count == 0
        case ["at", "most", limit]:
            return count <= int(limit)
        case ["at", "least", limit]:
            return count >= int(limit)
        case _:
            return count == int(words[0])


class Verb(NamedTuple):
    """What a word of a step does, and the words that may follow it: capitals stand for a word of that sort,
    brackets for one that may be left out, dots for several."""

    act: Callable[[Play, list[str], str], Any]
    usage: str = ""


EXPECTATIONS: dict[str, Verb] = {
    "leader": Verb(Play.expect_leader, "any or none or not NODE... or NODE"),
    "leaders": Verb(Play.expect_leaders, "NUMBER"),
    "term": Verb(Play.expect_term, "NUMBER or at most NUMBER or at least NUMBER"),
    "role": Verb(Play.expect_role, "NODE ROLE"),
    "follows": Verb(Play.expect_follows, "NODE NODE or NODE nobody"),
    "refuses": Verb(Play.expect_refuses, "NODE NODE"),
    "awaits": Verb(Play.expect_awaits, "NODE NODE... or NODE nobody"),
    "sent": Verb(
        Play.expect_sent,
        "MESSAGE or no MESSAGE or NUMBER MESSAGE or at most NUMBER MESSAGE or at least NUMBER MESSAGE",
    ),
}

VERBS: dict[str, Verb] = {
    "crash": Verb(Play.crash, "NODE..."),
    "restart": Verb(Play.restart, "NODE..."),
    "rejoin": Verb(Play.rejoin, "NODE... or NODE... without NODE..."),
    "copy": Verb(Play.copy, "NODE"),
    "roll-back": Verb(Play.roll_back, "NODE"),
    "pause": Verb(Play.pause, "NODE"),
    "continue": Verb(Play.go_on, "[NODE]"),
    "split": Verb(Play.split, "GROUPS..."),
    "heal": Verb(Play.heal),
    "block": Verb(Play.block, "NODE NODE"),
    "part": Verb(Play.part, "NODE NODE"),
    "open": Verb(Play.open, "NODE NODE"),
    "cut": Verb(Play.cut, "NODE NODE"),
    "reject": Verb(Play.reject, "NODE NODE"),
    "slow": Verb(Play.slow, "NODE NODE SECONDS"),
    "disk": Verb(Play.disk, "NODE [SECONDS]"),
    "fill": Verb(Play.fill, "NODE"),
    "empty": Verb(Play.empty, "NODE"),
    "clock": Verb(Play.clock, "NODE RATE"),
    "lose": Verb(Play.lose, "MESSAGE [NUMBER]"),
    "position": Verb(Play.position, "NODE NUMBER"),
    "contend": Verb(Play.contend, "NODE"),
    "withdraw": Verb(Play.withdraw, "NODE"),
    "resign": Verb(Play.resign, "NODE"),
    "transfer": Verb(Play.transfer, "NODE"),
    "occupy": Verb(Play.occupy, "NODE"),
    "vacate": Verb(Play.vacate, "NODE"),
    "expect": Verb(Play.expect),
}
