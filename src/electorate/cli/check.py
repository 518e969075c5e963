"""`elect check`: every order of messages, losses, crashes and suspicions, within bounds, in the real code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from electorate.check.flaws import FLAWS, flawed
from electorate.check.question import Answer, Question, gallery, load, shipped, understand
from electorate.check.search import Search
from electorate.check.story import tell
from electorate.cli.colour import say
from electorate.cli.invocation import elect
from electorate.core.model import Settings
from electorate.errors import UserError, hint

ALGORITHMS = ("bully", "ring", "raft", "zab")


def check(
    algorithm: Annotated[str, typer.Argument(help="bully, ring, raft or zab.")] = "",
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 3,
    contenders: Annotated[str, typer.Option(help="Who wants to lead, such as b,c (default: all).")] = "",
    elections: Annotated[int, typer.Option(min=1, help="How many elections at once.")] = 1,
    crashes: Annotated[int, typer.Option(help="So many crashes.")] = 0,
    drops: Annotated[int, typer.Option(help="So many lost messages.")] = 0,
    duplicates: Annotated[int, typer.Option(help="So many messages that arrive twice.")] = 0,
    suspicions: Annotated[
        int, typer.Option(help="So many timers that run out, rightly or wrongly (-1: any number).")
    ] = 0,
    cuts: Annotated[int, typer.Option(help="So many broken connections.")] = 0,
    wishes: Annotated[int, typer.Option(help="So many resignations or transfers.")] = 0,
    drifts: Annotated[int, typer.Option(help="With --time: so many ticks that one clock gains.")] = 0,
    losses: Annotated[int, typer.Option(help="So many stores lost: the node rejoins.")] = 0,
    rollbacks: Annotated[int, typer.Option(help="So many stores put back as they were at first.")] = 0,
    begin: Annotated[
        str, typer.Option(help="Steps before the search, such as 'contend c main, settle, cut b c'.")
    ] = "",
    max_term: Annotated[int, typer.Option(help="The newest term to look at.")] = 2,
    time: Annotated[str, typer.Option(help="ticks:K lets all clocks move together, K ticks in all.")] = "",
    quorum: Annotated[str, typer.Option(help="majority, or textbook.")] = "majority",
    reorder: Annotated[bool, typer.Option("--reorder", help="Messages overtake each other.")] = False,
    slow_disk: Annotated[bool, typer.Option("--slow-disk", help="Commits take a while.")] = False,
    dead_ends: Annotated[bool, typer.Option("--dead-ends", help="Can a leader always be elected?")] = False,
    flaw: Annotated[str, typer.Option(help=f"Take a guard away: {', '.join(FLAWS)}.")] = "",
    file: Annotated[Path | None, typer.Option(help="A question from a file, instead of options.")] = None,
    classic: Annotated[
        str, typer.Option("--gallery", help="A classic flaw and its shortest story; `list`, `all`.")
    ] = "",
    breadth: Annotated[bool, typer.Option("--bfs", help="Breadth first: the shortest way.")] = False,
    depth: Annotated[bool, typer.Option("--dfs", help="Depth first.")] = False,
    walks: Annotated[
        int, typer.Option("--random", show_default=False, help="So many random walks, on all cores.")
    ] = 0,
    limit: Annotated[
        int, typer.Option(show_default=False, help="Stop after so many states (default: when all are seen).")
    ] = 0,
    all_orders: Annotated[bool, typer.Option("--no-reduction", help="Try also orders that commute.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="If interrupted or at the limit: write this file.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with such a file.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Write a violation for `elect sim --replay`.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="The shipped questions, without their limits.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Explore every behaviour of a small cluster, within bounds. With an algorithm alone, or none, it answers
    the shipped questions.

    Exit code 0: nothing is wrong, or the flaw was found that should be. 1: a violation. 5: interrupted, or
    the limit was reached.
    """
    asked = {
        "nodes": nodes,
        "crashes": crashes,
        "drops": drops,
        "duplicates": duplicates,
        "suspicions": suspicions,
        "cuts": cuts,
        "wishes": wishes,
        "drifts": drifts,
        "losses": losses,
        "rollbacks": rollbacks,
        "begin": [step.strip() for step in begin.split(",") if step.strip()],
        "max_term": max_term,
        "ticks": ticks(time),
        "quorum": quorum,
        "reorder": reorder,
        "slow_disk": slow_disk,
        "dead_ends": dead_ends,
        "flaw": flaw,
        "limit": limit,
    }
    if contenders:
        asked["contenders"] = contenders.split(",")
    if elections > 1:
        asked["elections"] = [f"e{number}" for number in range(1, elections + 1)]
    if classic:
        return show_gallery(classic, as_json)
    if algorithm and algorithm not in ALGORITHMS:
        raise UserError(f"algorithm '{algorithm}' is not one of {', '.join(ALGORITHMS)}")
    if file is None and asked == DEFAULTS and not walks:
        return show_shipped([q for q in shipped() if algorithm in ("", q.algorithm)], deep, as_json)
    question = load(file) if file else ask({"algorithm": algorithm or "raft", **asked})
    with flawed(question.flaw):
        if walks:
            return show(wander(question, walks), replay, as_json)
        order = "depth" if depth and not breadth else "breadth"
        search = question.search(order, reduce=not all_orders)  # type: ignore[arg-type]
        if resume:
            search.resume(resume, question.name)
        show(follow(question, search, save), replay, as_json)


DEFAULTS = {
    "nodes": 3,
    "max_term": 2,
    "ticks": 0,
    "quorum": "majority",
    "flaw": "",
    "limit": 0,
    "begin": [],
    "losses": 0,
    "rollbacks": 0,
    **dict.fromkeys(("crashes", "drops", "duplicates", "suspicions", "cuts", "wishes", "drifts"), 0),
    **dict.fromkeys(("reorder", "slow_disk", "dead_ends"), False),
}
"""The options of a question when none is given."""


def ask(content: dict[str, Any]) -> Question:
    try:
        return understand(content)
    except ValueError as error:
        raise UserError(str(error)) from None


def ticks(time: str) -> int:
    unit, _, number = time.partition(":")
    if time and not (unit == "ticks" and number.isdecimal()):
        raise UserError(f"--time {time} is not like ticks:4")
    return int(number or 0)


# --- one question -----------------------------------------------------------------------------------


def follow(question: Question, search: Search, save: Path | None) -> Answer:
    """Search, and say how far it is; keep what was found out if it is interrupted."""
    console = Console(stderr=True)

    def report(search: Search) -> None:
        rate = len(search.parents) / max(search.seconds, 0.001)
        status.update(
            f"{len(search.parents):,} states, {search.transitions:,} transitions, depth {search.depth},"
            f" {len(search.waiting):,} waiting, {rate:,.0f} states/s"
        )

    with console.status(question.name) as status:
        try:
            answer = question.tell(search, report if console.is_terminal else None)
        except KeyboardInterrupt:
            answer = Answer(question, search.verdict, ())
    if save and not answer.verdict.complete and not answer.problem:
        search.save(save, question.name)
        print(f"elect: saved in {save}; go on with --resume {save}", file=sys.stderr)
    return answer


def wander(question: Question, walks: int, length: int = 200) -> Answer:
    """Random walks on all cores; the first violation counts."""
    workers = os.cpu_count() or 1
    share = -(-walks // workers)
    with ProcessPoolExecutor(workers) as pool:
        answers = list(
            pool.map(stroll, [question] * workers, [share] * workers, [length] * workers, range(workers))
        )
    found = next((answer for answer in answers if answer.problem), answers[0])
    states, transitions = (
        sum(getattr(a.verdict, name) for a in answers) for name in ("states", "transitions")
    )
    marks = frozenset().union(*(answer.verdict.marks for answer in answers))
    return Answer(
        question, found.verdict._replace(states=states, transitions=transitions, marks=marks), found.way
    )


def stroll(question: Question, walks: int, length: int, seed: int) -> Answer:
    with flawed(question.flaw):
        return question.wander(walks, length, seed)


def show(answer: Answer, replay: Path | None, as_json: bool) -> None:
    """Print an answer, and exit."""
    if as_json:
        print(line(answer))
    else:
        say(f"{answer.question.title}: {outcome(answer)}")
        for sentence in tell(answer.way):
            say(sentence)
        for mark in sorted(answer.verdict.marks):
            print(f"seen  {mark}")
    if replay and answer.way:
        replay.write_bytes(msgspec.json.format(msgspec.json.encode(answer.schedule()), indent=2))
        print(f"elect: see it again with: {elect()} sim --replay {replay}", file=sys.stderr)
    if answer.is_good:
        sys.exit(0 if answer.verdict.complete or answer.problem else 5)
    sys.exit(1)


def outcome(answer: Answer) -> str:
    v = answer.verdict
    end = answer.problem or ("nothing is wrong" if v.complete else "nothing is wrong so far")
    if answer.missing:
        end += f"; but never seen: {'; '.join(answer.missing)}"
    rate = v.states / max(v.seconds, 0.001)
    return (
        f"{end} ({v.states:,} states, {v.transitions:,} transitions, depth {v.depth},"
        f" {v.seconds:.1f} s, {rate:,.0f} states/s)"
    )


def line(answer: Answer) -> str:
    v = answer.verdict
    content = {
        "question": answer.question.title,
        "problem": answer.problem or None,
        "complete": v.complete,
        "states": v.states,
        "transitions": v.transitions,
        "depth": v.depth,
        "seconds": round(v.seconds, 3),
        "graph": f"{v.graph:016x}",
        "missing": answer.missing,
        "story": list(tell(answer.way)),
    }
    return msgspec.json.encode(content).decode()


# --- many -------------------------------------------------------------------------------------------


def answers(questions: Iterable[Question]) -> Iterator[Answer]:
    """All on all cores, in their order."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(Question.answer, questions)


def show_shipped(questions: list[Question], deep: bool, as_json: bool) -> None:
    if deep:
        questions = [msgspec.structs.replace(question, limit=0) for question in questions]
    table = Table("question", "states", "transitions", "depth", "seconds", "verdict")
    bad = 0
    for answer in answers(questions):
        bad += not answer.is_good
        if as_json:
            print(line(answer), flush=True)
        elif sys.stdout.isatty():
            v = answer.verdict
            figures = (f"{v.states:,}", f"{v.transitions:,}", str(v.depth), f"{v.seconds:.1f}")
            verdict = verdict_of(answer)
            table.add_row(
                answer.question.title, *figures, f"[{'green' if answer.is_good else 'bold red'}]{verdict}"
            )
        else:
            say(f"{answer.question.title}: {outcome(answer)}", flush=True)
    if table.rows:
        Console().print(table)
    sys.exit(1 if bad else 0)


def verdict_of(answer: Answer) -> str:
    if answer.is_good:
        return "holds" if answer.verdict.complete else "holds so far"
    return answer.problem or f"never seen: {'; '.join(answer.missing)}"


def show_gallery(name: str, as_json: bool) -> None:
    flaws = gallery()
    if name == "list":
        for each, question in flaws.items():
            print(f"{each:28} {question.story}")
        return
    if name != "all" and name not in flaws:
        raise UserError(f"there is no '{name}' in the gallery; {hint(name, flaws)}")
    chosen = list(flaws.values()) if name == "all" else [flaws[name]]
    bad = 0
    for answer in answers(chosen):
        bad += not answer.is_good
        if as_json:
            print(line(answer), flush=True)
            continue
        print(f"{answer.question.story}\n")
        for sentence in tell(answer.way):
            say(sentence)
        print(f"\n{answer.question.why.strip()}")
        print(f"\nThe remedy: {', '.join(remedies(answer.question))}.")
        print(f"Found: {outcome(answer)}\n")
    sys.exit(1 if bad else 0)


def remedies(question: Question) -> Iterator[str]:
    """What to change so that the flaw is gone, in words."""
    for key, value in question.remedy.items():
        if key == "flaw":
            yield f"the guard that --flaw {question.flaw} takes away"
        elif key == "settings":
            yield from (
                f"{name} = {getattr(Settings(), name)!r}" for name in question.settings if name not in value
            )
        else:
            yield f"{key} = {value!r}"
