"""The model checker: it runs the very code, finds what is known to be wrong, and finds nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from electorate.check.flaws import FLAWS, flawed
from electorate.check.question import Answer, Question, gallery, shipped, understand
from electorate.check.search import Move, Search, walk
from electorate.check.story import steps, tell
from electorate.errors import UserError
from electorate.sim.stage import Schedule, Stage

ELECT = (sys.executable, "-m", "electorate.cli.main")
BOUND = 120.0
ALGORITHMS = ("bully", "ring", "raft", "zab")


def question(**content: Any) -> Question:
    return understand({"algorithm": "raft", **content})


def elect(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ELECT, *words], cwd=directory, capture_output=True, text=True, timeout=BOUND, check=False
    )


# --- what the checker says is what the simulator does -----------------------------------------------


def played(asked: Question, way: tuple[Move, ...]) -> Stage:
    """The same steps in the simulator, by nodes that were never copied."""
    model = asked.model()
    schedule = Schedule(
        story="",
        members=model.membership.members,
        settings=model.machines.settings,
        quorum=asked.quorum,
        elections=asked.elections,
        slow_disk=asked.slow_disk,
        steps=steps(way),
    )
    stage = Stage(schedule)
    stage.play()
    return stage


@pytest.mark.parametrize(
    "kind", [{}, {"reorder": True}, {"slow_disk": True}, {"ticks": 8, "drifts": 2}], ids=str
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_way_through_the_checker_is_a_run_of_the_real_nodes(algorithm: str, kind: dict[str, Any]) -> None:
    faults = {"crashes": 2, "drops": 2, "duplicates": 1, "suspicions": 6, "cuts": 2, "wishes": 2}
    asked = question(algorithm=algorithm, max_term=9, **faults, **kind)
    for seed in range(4):
        random, model = Random(seed), asked.model()
        state = model.initial()
        way: list[Move] = []
        while len(way) < 60 and (moves := model.moves(state)[0]):
            way.append(random.choice(moves))
            state = way[-1].state
        stage = played(asked, tuple(way))
        for machine in state.machines:
            host = stage.hosts[machine.id]
            assert host.disk == machine.disk
            assert host.up == (machine.node is not None)
            if machine.node:
                assert host.node.view("main") == machine.node.view("main")
                assert host.node.elections["main"].promise == machine.node.elections["main"].promise
        assert not stage.violations


# --- what is known to be wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("name", gallery())
def test_a_classic_flaw_is_found_and_its_remedy_removes_it(name: str) -> None:
    asked = gallery()[name]
    answer = asked.answer()
    assert answer.problem.startswith(asked.violates), answer.problem
    assert answer.is_good
    with flawed(asked.flaw):
        stage = Stage(answer.schedule())
        stage.play()
    if asked.violates.startswith("I"):
        assert asked.violates in {violation.invariant for violation in stage.violations}
    remedied = msgspec.structs.replace(asked, violates="", remedy={}, **asked.remedy)
    enough = max(10_000, answer.verdict.states)
    assert msgspec.structs.replace(remedied, limit=enough).answer().problem == ""


def test_a_flaw_ends_with_its_context() -> None:
    for name, patches in FLAWS.items():
        sound = [vars(where)[what] for where, what, _ in patches]
        with flawed(name):
            assert not any(vars(where)[what] in sound for where, what, _ in patches)
        assert [vars(where)[what] for where, what, _ in patches] == sound
    with pytest.raises(UserError, match="there is no flaw 'x'"), flawed("x"):
        pass


# --- what should be right ---------------------------------------------------------------------------


@pytest.mark.parametrize("asked", shipped(), ids=lambda asked: asked.title)
def test_a_shipped_question_holds(asked: Question) -> None:
    answer = asked.answer()
    assert answer.problem == "", "\n".join(tell(answer.way))
    assert answer.missing == ()
    assert answer.verdict.complete != bool(asked.limit and answer.verdict.states >= asked.limit)
    assert answer.verdict.complete or asked.sometimes


@pytest.mark.parametrize(
    ("asked", "flaw"),
    [pytest.param(asked, flaw, id=f"{asked.title}, {flaw}") for asked in shipped() for flaw in asked.finds],
)
def test_a_shipped_question_misses_each_guard_that_it_is_there_for(asked: Question, flaw: str) -> None:
    enough = max(100_000, asked.limit)
    answer = msgspec.structs.replace(asked, flaw=flaw, limit=enough).answer()
    assert answer.problem, f"{answer.verdict.states} states, and nothing is wrong"
    with flawed(flaw):
        assert answer.problem in {problem for move in answer.way for problem in move.problems}


def test_every_question_can_fail_and_every_flaw_is_found() -> None:
    assert all(asked.finds for asked in shipped())
    found = {flaw for asked in shipped() for flaw in asked.finds} | {q.flaw for q in gallery().values()}
    assert found - {""} == set(FLAWS)


def test_all_algorithms_are_asked_about_everything() -> None:
    for algorithm in ALGORITHMS:
        asked = [q for q in shipped() if q.algorithm == algorithm]
        for name in ("crashes", "drops", "duplicates", "suspicions", "cuts", "wishes", "ticks"):
            assert any(getattr(q, name) for q in asked), (algorithm, name)
        assert any(q.dead_ends for q in asked)
    for ring in ("chang-roberts", "hirschberg-sinclair"):
        assert any(q.settings.get("ring") == ring for q in shipped())
    for name in ("drifts", "losses", "rollbacks"):
        assert any(getattr(q, name) for q in shipped()), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_orders_that_commute_need_not_be_tried(algorithm: str) -> None:
    asked = question(algorithm=algorithm, nodes=2, suspicions=1)
    full, reduced = asked.search(reduce=False).run(), asked.search().run()
    assert full.complete
    assert reduced.complete
    assert reduced.states <= full.states
    assert full.marks == reduced.marks
    with flawed("two-votes-a-term"):
        wrong = question(algorithm="raft", contenders=["b", "c"], max_term=1)
        assert all(wrong.search(reduce=how).run().found[0].problem.startswith("I4") for how in (True, False))


# --- searching --------------------------------------------------------------------------------------


class Maze:
    """Numbers, from each to its double and its successor, up to a bound; some of them are pits."""

    def __init__(self, bound: int, bad: int = -1, pit: int = -1) -> None:
        self.bound = bound
        self.bad = bad
        self.pit = pit

    def initial(self) -> int:
        return 1

    def fingerprint(self, state: int) -> int:
        return state

    def moves(self, state: int) -> tuple[list[Move], bool]:
        ways = [] if state == self.pit else [("double", 2 * state), ("next", state + 1)]
        return [
            Move(name, to, ("bad",) if to == self.bad else ()) for name, to in ways if to <= self.bound
        ], False

    def ample(self, state: int, moves: list[Move]) -> list[int]:
        return list(range(len(moves)))

    def is_goal(self, state: int) -> bool:
        return state == self.bound


def test_breadth_finds_the_shortest_way() -> None:
    search = Search(Maze(1000, bad=96))
    [found] = search.run().found
    assert len(found.way) == 7
    assert [move.state for move in walk(search.graph, found.way)][-1] == 96


def test_depth_finds_a_way_too() -> None:
    assert Search(Maze(1000, bad=96), "depth").run().found


def test_every_state_is_seen_once() -> None:
    verdict = Search(Maze(1000)).run()
    assert (verdict.states, verdict.transitions, verdict.complete) == (1000, 999 + 500, True)


def test_a_dead_end_is_found() -> None:
    assert Search(Maze(64), dead_ends=True).run().found == ()
    search = Search(Maze(64, pit=7), dead_ends=True)
    [found] = search.run().found
    assert "dead end" in found.problem
    assert [move.state for move in walk(search.graph, found.way)][-1] == 7


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    asked = question(nodes=2, suspicions=1)
    whole = asked.search().run()
    first = asked.search()
    first.run(limit=whole.states // 2)
    first.save(tmp_path / "half", asked.name)
    second = asked.search()
    second.resume(tmp_path / "half", asked.name)
    resumed = second.run()
    assert resumed[:3] == whole[:3]
    assert resumed.complete
    assert resumed.marks == whole.marks
    with pytest.raises(UserError, match="holds another check"):
        asked.search().resume(tmp_path / "half", "another")
    (tmp_path / "cut").write_bytes((tmp_path / "half").read_bytes()[:200])
    with pytest.raises(UserError, match="cannot go on with"):
        asked.search().resume(tmp_path / "cut", asked.name)


ASLEEP, CANDIDATE, RELAY, LEADER = range(4)


class Ring:
    """Chang and Roberts' election on a ring with ids that descend in the direction of the messages. A node that wakes
    by itself is a candidate and sends its own id. Whoever is woken by a message, or hears a larger id than its
    own, is a relay, and passes all on; a candidate drops a smaller one, and leads when its own is back."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def initial(self) -> Any:
        return ((ASLEEP,) * self.nodes, ((),) * self.nodes)

    def fingerprint(self, state: Any) -> int:
        return hash(state)

    def moves(self, state: Any) -> tuple[list[Move], bool]:
        phases, links = state
        moves = []
        for node, (phase, link) in enumerate(zip(phases, links, strict=True)):
            mine = self.nodes - node
            if phase == ASLEEP:
                woken = self.after(state, node, CANDIDATE, link, (mine,))
                moves.append(Move(("wake", node), woken))
            if link:
                first, *rest = link
                lost = phase == CANDIDATE and first < mine
                won = phase == CANDIDATE and first == mine
                becomes = LEADER if won else phase if lost else RELAY
                passed = () if won or lost else (first,)
                arrived = self.after(state, node, becomes, tuple(rest), passed)
                moves.append(Move(("arrive", node), arrived))
        return moves, False

    def after(self, state: Any, node: int, phase: int, link: Any, sent: Any) -> Any:
        phases, links = map(list, state)
        phases[node], links[node] = phase, link
        links[(node + 1) % self.nodes] += sent
        return (tuple(phases), tuple(links))

    def ample(self, state: Any, moves: list[Move]) -> list[int]:
        return list(range(len(moves)))

    def is_goal(self, state: Any) -> bool:
        return LEADER in state[0]


COUNTED = {4: (163, 361), 8: (76_835, 309_058), 10: (1_924_005, 9_386_530)}
"""States and transitions: for ten nodes those that SPIN and TLC report."""


@pytest.mark.parametrize("nodes", [4, 8, *([10] if "DEEP" in os.environ else [])])
def test_a_classic_is_counted_as_by_other_checkers(nodes: int) -> None:
    verdict = Search(Ring(nodes), dead_ends=True).run()
    assert (verdict.states, verdict.transitions) == COUNTED[nodes]
    assert verdict.found == ()


# --- the command ------------------------------------------------------------------------------------


def test_a_violation_is_told_and_played_again(tmp_path: Path) -> None:
    options = ("--nodes", "2", "--quorum", "textbook", "--cuts", "1", "--replay", "split.json")
    done = elect(tmp_path, "check", "bully", *options)
    assert done.returncode == 1
    assert "  1. a wants to lead main" in done.stdout
    assert "** I1: b and a both became leader of term 1" in done.stdout
    again = elect(tmp_path, "sim", "--replay", "split.json")
    assert again.returncode == 1
    assert "VIOLATED  I1 at 0.0000 s: b and a both became leader of term 1" in again.stdout
    schedule = json.loads((tmp_path / "split.json").read_text())
    schedule["steps"] = [*schedule["steps"], "deliver a b Nonsense"]
    (tmp_path / "wrong.json").write_text(json.dumps(schedule))
    wrong = elect(tmp_path, "sim", "--replay", "wrong.json")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "step 'deliver a b Nonsense' is not possible here" in wrong.stderr


def test_what_holds_is_said_for_machines_too(tmp_path: Path) -> None:
    done = elect(tmp_path, "check", "raft", "--nodes", "2", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["problem"], said["complete"], said["story"]) == (None, True, [])
    assert said["states"] > 50


def test_the_gallery_can_be_read(tmp_path: Path) -> None:
    listed = elect(tmp_path, "check", "--gallery", "list").stdout
    assert all(name in listed for name in gallery())
    shown = elect(tmp_path, "check", "--gallery", "textbook-bully-partition")
    assert shown.returncode == 0
    assert "The remedy: quorum = 'majority'." in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("paxos",), "algorithm 'paxos' is not one of"),
        (("raft", "--flaw", "x"), "there is no flaw 'x'"),
        (("raft", "--time", "5"), "--time 5 is not like ticks:4"),
        (("raft", "--contenders", "z"), "there is no node 'z'"),
        (("raft", "--nodes", "9"), "nodes: 9 is not in 1 to 7"),
        (("--gallery", "x"), "there is no 'x' in the gallery"),
        (("raft", "--nodes", "2", "--resume", "none"), "cannot go on with none"),
        (("--file", "none.toml"), "question none.toml: No such file"),
    ],
)
def test_wrong_use_is_a_sentence(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = elect(tmp_path, "check", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("elect: ")


def test_ctrl_c_keeps_what_was_found_out(tmp_path: Path) -> None:
    command = [*ELECT, "check", "zab", "--suspicions", "1", "--save", "half"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while "electorate.cli.main" not in Path(f"/proc/{process.pid}/cmdline").read_text() or (
            float(Path(f"/proc/{process.pid}/stat").read_text().split()[13]) < 2 * os.sysconf("SC_CLK_TCK")
        ):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=BOUND)
    assert process.returncode == 5, complaint
    assert "nothing is wrong so far" in said
    assert (tmp_path / "half").stat().st_size > 1000
    going_on = ("check", "zab", "--suspicions", "1", "--resume", "half", "--limit", "1")
    assert elect(tmp_path, *going_on).returncode == 5


def test_random_walks_use_every_core(tmp_path: Path) -> None:
    done = elect(tmp_path, "check", "raft", "--suspicions", "2", "--max-term", "4", "--random", "6", "--json")
    assert json.loads(done.stdout)["problem"] is None
    textbook = ("--quorum", "textbook", "--suspicions", "2", "--random", "50")
    found = elect(tmp_path, "check", "bully", *textbook)
    assert found.returncode == 1
    assert len([line for line in found.stdout.splitlines() if line.lstrip()[:1].isdigit()]) < 10


def test_an_answer_says_what_was_never_seen() -> None:
    answer: Answer = question(nodes=1, sometimes=["a claim is refused: I know a newer term"]).answer()
    assert answer.missing == ("a claim is refused: I know a newer term",)
    assert not answer.is_good
