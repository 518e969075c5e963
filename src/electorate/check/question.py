"""What is to be checked: a cluster, the bounds, and what must not be. A question can be a file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from electorate.check.flaws import flawed
from electorate.check.model import ANY, DRIFTING, FREE, TICKING, Bounds, Faults, Model
from electorate.check.opening import opened
from electorate.check.search import Found, Move, Order, Search, Verdict, shrunk, walk
from electorate.check.story import steps
from electorate.core.model import Kind, Member, Membership, NodeId, QuorumRule, Settings, Timing
from electorate.errors import UserError
from electorate.sim.faults import ids
from electorate.sim.stage import Schedule

SHIPPED = files("electorate.check") / "shipped.toml"
GALLERY = files("electorate.check") / "gallery"

SAFETY = ("I1", "I2", "I3", "I4", "I9", "quorum", "agreement", "orbit")


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One search. The numbers are bounds: how often each fault may strike, and how far to look."""

    algorithm: str
    about: str = ""
    """In a few words, for lists."""
    story: str = ""
    why: str = ""
    remedy: dict[str, Any] = {}
    """What to change so that the flaw is gone."""
    nodes: int = 3
    witnesses: int = 0
    """So many of the nodes, the first ones, vote and never lead."""
    weights: dict[NodeId, int] = {}
    contenders: tuple[NodeId, ...] | None = None
    quorum: QuorumRule = QuorumRule.MAJORITY
    settings: dict[str, Any] = {}
    elections: tuple[str, ...] = ("main",)
    begin: tuple[str, ...] = ()
    """The steps before the search begins: see `opening`."""
    crashes: int = 0
    drops: int = 0
    duplicates: int = 0
    suspicions: int = 0
    cuts: int = 0
    wishes: int = 0
    drifts: int = 0
    losses: int = 0
    rollbacks: int = 0
    copies: int = 0
    max_term: int = 2
    ticks: int = 0
    victims: tuple[NodeId, ...] | None = None
    apart: tuple[tuple[NodeId, NodeId], ...] = ()
    without: tuple[NodeId, ...] = ()
    reorder: bool = False
    slow_disk: bool = False
    dead_ends: bool = False
    """Look for states from which no leader can be elected any more."""
    flaw: str = ""
    watch: tuple[str, ...] = SAFETY
    violates: str = ""
    """The property that is meant to be broken."""
    finds: tuple[str, ...] = ()
    """The flaws that this question is there for: with each of them it fails."""
    sometimes: tuple[str, ...] = ()
    """What must be seen at least once, or the search has shown nothing."""
    limit: int = 0
    """So many states at most (0: all)."""

    @property
    def name(self) -> str:
        """All that differs from the plainest question, in words."""
        plain = Question(algorithm=self.algorithm)
        silent = (
            "algorithm",
            "about",
            "story",
            "why",
            "remedy",
            "watch",
            "violates",
            "finds",
            "sometimes",
            "limit",
            "nodes",
        )
        words = [self.algorithm, f"{self.nodes} nodes"]
        for field in Question.__struct_fields__:
            value = getattr(self, field)
            if field not in silent and value != getattr(plain, field):
                words.append(wording(field.replace("_", " "), value))
        return ", ".join(words)

    @property
    def title(self) -> str:
        variant = self.settings.get("ring", self.algorithm)
        return f"{variant}: {self.about}" if self.about else self.name

    def model(self) -> Model:
        members = tuple(
            Member(
                id,
                Kind.WITNESS if number < self.witnesses else Kind.VOTER,
                weight=self.weights.get(id, 1),
            )
            for number, id in enumerate(ids(self.nodes))
        )
        settings = msgspec.convert(
            {
                **self.settings,
                "algorithm": self.algorithm,
                "elections": self.elections,
                "timing": msgspec.to_builtins(self.timing),
            },
            Settings,
        )
        bounds = Bounds(
            faults=Faults(*(getattr(self, name) for name in Faults._fields)),
            max_term=self.max_term,
            ticks=self.ticks,
            elections=self.elections,
            contenders=self.contenders,
            victims=self.victims,
            apart=self.apart,
            without=self.without,
            reorder=self.reorder,
            slow_disk=self.slow_disk,
            watch=self.watch,
        )
        model = Model(Membership(members, self.quorum), settings, bounds)
        model.opening = opened(model, self.begin)
        return model

    @property
    def timing(self) -> Timing:
        if not self.ticks:
            return FREE
        return DRIFTING if self.drifts else TICKING

    def search(self, order: Order = "breadth", *, reduce: bool = True, seed: int = 0) -> Search:
        return Search(self.model(), order, reduce=reduce, dead_ends=self.dead_ends, seed=seed)

    def answer(self) -> Answer:
        """Search to the end, or to the limit."""
        with flawed(self.flaw):
            return self.tell(self.search())

    def tell(self, search: Search, report: Callable[[Search], None] | None = None) -> Answer:
        """Go on with a search that was made for this question, within `flawed`."""
        return self.conclude(search, search.run(self.limit, report))

    def wander(self, walks: int, length: int, seed: int) -> Answer:
        """Random walks, within `flawed`."""
        search = self.search("random", seed=seed)
        return self.conclude(search, search.wander(walks, length))

    def conclude(self, search: Search, verdict: Verdict) -> Answer:
        assert isinstance(search.graph, Model)
        opening = search.graph.opening
        way: tuple[Move, ...] = ()
        early = next((n for n, move in enumerate(opening, 1) if move.problems), 0)
        if early:
            found = (Found(opening[early - 1].problems[0], ()),)
            return Answer(self, verdict._replace(found=found), without_states(opening[:early]))
        if verdict.found:
            first = verdict.found[0]
            short = search.order == "breadth"
            way = tuple(walk(search.graph, first.way) if short else shrunk(search.graph, first.way))
            way = (*opening, *way)
        return Answer(self, verdict, without_states(way))

    def check(self) -> None:
        """Raises ValueError for what cannot be asked."""
        if self.algorithm not in ("bully", "ring", "raft", "zab"):
            raise ValueError(f"there is no algorithm '{self.algorithm}'")
        if not 1 <= self.nodes <= 7:
            raise ValueError(f"nodes: {self.nodes} is not in 1 to 7; more cannot be checked in a lifetime")
        for name in (*Faults._fields, "max_term", "ticks", "limit"):
            if getattr(self, name) < (ANY if name == "suspicions" else 0):
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        for id in self.contenders or ():
            if id not in ids(self.nodes):
                raise ValueError(
                    f"contenders: there is no node '{id}'; there is {', '.join(ids(self.nodes))}"
                )
        if self.drifts and not self.ticks:
            raise ValueError("drifts: without ticks clocks are free anyway")
        self.model()


class Answer(msgspec.Struct, frozen=True):
    """What came of a question."""

    question: Question
    verdict: Verdict
    way: tuple[Move, ...]
    """The shortest way to a violation, if there is one."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What should have been seen, and was not."""
        return tuple(mark for mark in self.question.sometimes if mark not in self.verdict.marks)

    @property
    def problem(self) -> str:
        return self.verdict.found[0].problem if self.verdict.found else ""

    @property
    def is_good(self) -> bool:
        """It is as the question says."""
        expected = self.question.violates
        return self.problem.startswith(expected) and bool(self.problem) == bool(expected) and not self.missing

    def schedule(self) -> Schedule:
        """The way as the simulator plays it."""
        question, model = self.question, self.question.model()
        return Schedule(
            story=self.problem,
            members=model.membership.members,
            settings=model.machines.settings,
            quorum=question.quorum,
            elections=question.elections,
            flaw=question.flaw,
            violates=self.problem.partition(":")[0],
            slow_disk=question.slow_disk,
            steps=steps(self.way),
        )


def without_states(way: tuple[Move, ...]) -> tuple[Move, ...]:
    """What is told, and can be sent from one process to another."""
    return tuple(move._replace(state=None) for move in way)


def wording(name: str, value: Any) -> str:
    match value:
        case bool():
            return name if value else f"no {name}"
        case dict():
            return ", ".join(wording(key.replace("_", " "), each) for key, each in value.items())
        case tuple():
            words = [each if isinstance(each, str) else "-".join(each) for each in value]
            return f"{name} {' '.join(words)}"
        case int():
            return f"terms up to {value}" if name == "max term" else f"{name} {value}"
        case _:
            return f"{name} {value}"


@cache
def shipped() -> tuple[Question, ...]:
    """The questions that come with electorate."""
    content = tomllib.loads(SHIPPED.read_text())
    return tuple(understand({"algorithm": name, **one}) for name, many in content.items() for one in many)


def gallery() -> dict[str, Question]:
    """The classic flaws, by name."""
    found = {Path(str(file)).stem: file for file in GALLERY.iterdir() if file.name.endswith(".toml")}
    return {name: understand(tomllib.loads(found[name].read_text())) for name in sorted(found)}


def load(file: Path) -> Question:
    """Raises `UserError`."""
    try:
        return understand(tomllib.loads(file.read_text()))
    except OSError as error:
        raise UserError(f"question {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"question {file}: {error}") from None


def understand(content: dict[str, Any]) -> Question:
    """Raises ValueError."""
    question = msgspec.convert(content, Question)
    question.check()
    return question
