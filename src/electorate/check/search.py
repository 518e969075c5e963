"""Walks through the states of a graph, each once, and keeps the way to each.

Breadth first finds the shortest way to a violation; depth first gets far sooner. States are not kept, only
a 64-bit fingerprint of each, and the number of the state and of the move that led to it: enough to walk any
way again, and to go on after an interruption.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from electorate.errors import UserError

Order: TypeAlias = Literal["breadth", "depth", "random"]

HEADER = b"electorate search 1\n"
REPORT = 4096
"""Progress is reported once in so many states."""


class Move(NamedTuple):
    """One action, where it leads, what it has broken, and what it has shown to be possible."""

    action: Any
    state: Any
    problems: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()


class Graph(Protocol):
    """What can be searched."""

    def initial(self) -> Any: ...

    def fingerprint(self, state: Any) -> int:
        """A number that equal states share, in every process."""

    def moves(self, state: Any) -> tuple[list[Move], bool]:
        """What can happen, always in the same order, and whether a bound forbids something more."""

    def ample(self, state: Any, moves: list[Move]) -> list[int]:
        """The numbers of moves that may be made before all others and nothing is missed; or of all."""

    def is_goal(self, state: Any) -> bool:
        """What must always remain possible holds here."""


class Found(NamedTuple):
    """A violation or a dead end, and the numbers of the moves that lead there."""

    problem: str
    way: tuple[int, ...]


class Verdict(NamedTuple):
    states: int
    transitions: int
    depth: int
    seconds: float
    complete: bool
    """Every state within the bounds has been seen."""
    found: tuple[Found, ...]
    marks: frozenset[str]
    """What has been shown to be possible."""
    graph: int
    """Two searches have seen the same states if this is the same."""


class Search:
    """One search. `run` goes on until a violation, the end, or the limit; it can be called again."""

    def __init__(
        self,
        graph: Graph,
        order: Order = "breadth",
        *,
        reduce: bool = True,
        dead_ends: bool = False,
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.order = order
        self.reduce = reduce and not dead_ends
        self.random = Random(seed)
        self.known: dict[int, int] = {}
        """The number of each state by its fingerprint."""
        self.parents = array("I")
        self.numbers = array("H")
        """For each state: from which, and by which of its moves, it was reached first."""
        self.waiting: deque[tuple[int, int, Any]] = deque()
        """States to look at: number, depth, state."""
        self.edges: tuple[array[int], array[int]] | None = (array("I"), array("I")) if dead_ends else None
        self.fine = bytearray()
        """Whether a state is a goal, or a bound hides what could still happen."""
        self.looks = self.transitions = self.depth = 0
        self.seconds = 0.0
        self.found: list[Found] = []
        self.marks: set[str] = set()
        self.add(graph.initial(), 0, 0, 0)

    @property
    def verdict(self) -> Verdict:
        complete = not self.waiting and self.order != "random"
        found, marks = tuple(self.found), frozenset(self.marks)
        graph = sum(self.known) % 2**64
        figures = (len(self.parents), self.transitions, self.depth, self.seconds)
        return Verdict(*figures, complete, found, marks, graph)

    # --- walking ----------------------------------------------------------------------------------

    def run(self, limit: int = 0, report: Callable[[Search], None] | None = None) -> Verdict:
        """Search until something is found, all is seen, or (if not 0) so many states are known."""
        began, before = time.monotonic(), self.seconds
        try:
            while self.waiting and not self.found and not (limit and len(self.parents) >= limit):
                latest = self.waiting.popleft() if self.order == "breadth" else self.waiting.pop()
                try:
                    self.look_at(*latest)
                except BaseException:
                    self.waiting.appendleft(latest)
                    raise
                self.looks += 1
                if report and self.looks % REPORT == 0:
                    self.seconds = before + time.monotonic() - began
                    report(self)
        finally:
            self.seconds = before + time.monotonic() - began
        if not self.waiting and not self.found and self.edges:
            self.look_for_dead_ends()
        self.seconds = before + time.monotonic() - began
        return self.verdict

    def look_at(self, number: int, depth: int, state: Any) -> None:
        moves, hidden = self.graph.moves(state)
        first = self.graph.ample(state, moves) if self.reduce else range(len(moves))
        fresh = self.follow(number, depth, moves, first)
        if not fresh and len(first) < len(moves):
            self.follow(number, depth, moves, [n for n in range(len(moves)) if n not in first])
        if self.edges and (hidden or self.graph.is_goal(state)):
            self.fine[number] = 1

    def follow(self, number: int, depth: int, moves: list[Move], which: Iterable[int]) -> bool:
        """Make these moves. Returns whether one led to a state that was not known."""
        fresh = False
        for n in which:
            move = moves[n]
            self.transitions += 1
            self.marks |= move.marks
            at, new = self.add(move.state, number, n, depth + 1)
            fresh = fresh or new
            if self.edges:
                self.edges[0].append(number)
                self.edges[1].append(at)
            if move.problems:
                self.found.append(Found(move.problems[0], (*self.way_to(number), n)))
        return fresh

    def add(self, state: Any, parent: int, move: int, depth: int) -> tuple[int, bool]:
        """Note a state. Returns its number, and whether it is new."""
        number = len(self.parents)
        at = self.known.setdefault(self.graph.fingerprint(state), number)
        if at != number:
            return at, False
        self.parents.append(parent)
        self.numbers.append(move)
        self.fine.append(0)
        self.depth = max(self.depth, depth)
        self.waiting.append((number, depth, state))
        return number, True

    def way_to(self, number: int) -> tuple[int, ...]:
        way = []
        while number:
            way.append(self.numbers[number])
            number = self.parents[number]
        return tuple(reversed(way))

    def wander(self, walks: int, length: int) -> Verdict:
        """Go at random, so far each time, until something is found."""
        began = time.monotonic()
        for _ in range(walks):
            state = self.graph.initial()
            way: tuple[int, ...] = ()
            for depth in range(1, length + 1):
                moves, _ = self.graph.moves(state)
                if not moves or self.found:
                    break
                number = self.random.randrange(len(moves))
                way = (*way, number)
                state = moves[number].state
                self.transitions += 1
                self.depth = max(self.depth, depth)
                self.known.setdefault(self.graph.fingerprint(state), 0)
                self.marks |= moves[number].marks
                if moves[number].problems:
                    self.found.append(Found(moves[number].problems[0], way))
        self.seconds += time.monotonic() - began
        return self.verdict

    # --- an interruption --------------------------------------------------------------------------

    def save(self, file: Path, question: str) -> None:
        """Write down how far the search has come. `question` is what it was about."""
        waiting = array("I", [number for number, _, _ in self.waiting])
        counts = (len(self.parents), len(waiting), self.looks, self.transitions, self.depth)
        with file.open("wb") as out:
            out.write(HEADER + question.encode() + b"\n")
            out.write(f"{' '.join(map(str, counts))} {self.seconds}\n".encode())
            for content in (array("q", self.known), self.parents, self.numbers, waiting):
                content.tofile(out)
            out.write("\n".join(sorted(self.marks)).encode())

    def resume(self, file: Path, question: str) -> None:
        """Go on where that search was interrupted. Raises `UserError`."""
        try:
            with file.open("rb") as source:
                if source.readline() != HEADER:
                    raise UserError(f"{file} was not written by an interrupted check")
                if (asked := source.readline().decode().strip()) != question:
                    raise UserError(f"{file} holds another check: {asked}")
                *counts, seconds = source.readline().decode().split()
                states, waits, self.looks, self.transitions, self.depth = map(int, counts)
                self.seconds = float(seconds)
                fingerprints, waiting = array("q"), array("I")
                self.parents, self.numbers = array("I"), array("H")
                for content, length in (
                    (fingerprints, states),
                    (self.parents, states),
                    (self.numbers, states),
                    (waiting, waits),
                ):
                    content.fromfile(source, length)
                self.marks = set(source.read().decode().split("\n")) - {""}
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"cannot go on with {file}: {error}") from None
        self.known = {fingerprint: number for number, fingerprint in enumerate(fingerprints)}
        self.fine = bytearray(len(self.parents))
        self.waiting = deque()
        self.rebuild(waiting)

    def rebuild(self, waiting: Sequence[int]) -> None:
        """Walk again to the states that wait."""
        children: dict[int, list[int]] = {}
        wanted = {0}
        for number in waiting:
            while number not in wanted:
                wanted.add(number)
                children.setdefault(self.parents[number], []).append(number)
                number = self.parents[number]
        states: dict[int, tuple[int, Any]] = {}
        ends = set(waiting)
        stack = [(0, 0, self.graph.initial())]
        while stack:
            number, depth, state = stack.pop()
            if number in ends:
                states[number] = (depth, state)
            if number in children:
                moves, _ = self.graph.moves(state)
                stack.extend(
                    (child, depth + 1, moves[self.numbers[child]].state) for child in children[number]
                )
        self.waiting.extend((number, *states[number]) for number in waiting)

    # --- dead ends --------------------------------------------------------------------------------

    def look_for_dead_ends(self) -> None:
        """Go back from where all is fine; whoever is not reached can never come there."""
        assert self.edges
        sources, targets = self.edges
        starts = array("I", bytes(4 * (len(self.parents) + 1)))
        for target in targets:
            starts[target + 1] += 1
        for number in range(len(self.parents)):
            starts[number + 1] += starts[number]
        back, filled = array("I", bytes(4 * len(sources))), array("I", starts)
        for source, target in zip(sources, targets, strict=True):
            back[filled[target]] = source
            filled[target] += 1
        fine = self.fine
        reached = [number for number in range(len(fine)) if fine[number]]
        while reached:
            number = reached.pop()
            for at in range(starts[number], starts[number + 1]):
                if not fine[back[at]]:
                    fine[back[at]] = 1
                    reached.append(back[at])
        dead = fine.find(0)
        if dead >= 0:
            self.found.append(Found("no leader can be elected any more (dead end)", self.way_to(dead)))


def shrunk(graph: Graph, way: Iterable[int]) -> list[Move]:
    """The moves of a way to a violation, without those that it can do without."""
    moves = list(walk(graph, way))
    actions = [move.action for move in moves]
    size = len(actions) // 2
    while size:
        at = 0
        while at < len(actions):
            shorter = retrace(graph, actions[:at] + actions[at + size :])
            if shorter and shorter[-1].problems and len(shorter) < len(actions):
                moves, actions = shorter, [move.action for move in shorter]
            else:
                at += size
        size //= 2
    return moves


def retrace(graph: Graph, actions: Iterable[Any]) -> list[Move]:
    """The moves that these actions are, as far as they are possible, up to the first violation."""
    state, moves = graph.initial(), []
    for action in actions:
        move = next((move for move in graph.moves(state)[0] if move.action == action), None)
        if move is not None:
            moves.append(move)
            state = move.state
            if move.problems:
                break
    return moves


def walk(graph: Graph, way: Iterable[int]) -> Iterator[Move]:
    """The moves of a way, from the beginning."""
    state = graph.initial()
    for number in way:
        move = graph.moves(state)[0][number]
        yield move
        state = move.state
