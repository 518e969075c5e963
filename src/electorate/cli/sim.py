"""`elect sim`: watch one simulated run, or look for a seed that breaks something."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from electorate.check.flaws import flawed
from electorate.cli.colour import say
from electorate.cli.invocation import elect
from electorate.core.model import Beat, QuorumRule, Support
from electorate.errors import UserError, meant
from electorate.sim.faults import GAPS
from electorate.sim.run import Outcome, storm, summary
from electorate.sim.scenario import Play, load, shipped
from electorate.sim.shapes import ALGORITHMS, RINGS, Wanted, describe
from electorate.sim.stage import Stage, read
from electorate.sim.swarm import swarm
from electorate.sim.trace import Entry, record, tell
from electorate.sim.world import World

LEVELS = ("calm", *GAPS)

SPLIT_BRAIN = """\
Two nodes held the leadership at once. With the textbook quorum, whoever is believed alive is enough to
elect: each side of a partition believes the other side dead, and elects its own leader. The default
(`--quorum majority`) lets only a side with more than half of the voters elect."""


def sim(
    algorithm: Annotated[
        str, typer.Argument(help="bully, ring (any of the three), raft, zab, or a ring by its name.")
    ] = "raft",
    nodes: Annotated[
        int,
        typer.Option(
            min=0, max=2000, show_default=False, help="How many nodes (default: 5; in a storm, drawn)."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="One number decides everything that is random.")] = 1,
    seeds: Annotated[
        int, typer.Option(min=0, show_default=False, help="Run so many seeds, from --seed on, on all cores.")
    ] = 0,
    faults: Annotated[str, typer.Option(help="calm, or a storm: rough or hostile.")] = "calm",
    seconds: Annotated[
        float,
        typer.Option(
            "--for", min=0.0, show_default=False, help="Simulated seconds (default: 2; in a storm, 20)."
        ),
    ] = 0.0,
    quorum: Annotated[
        str,
        typer.Option(
            help="majority, weighted, hierarchical, or textbook: whoever is believed alive "
            "(default: majority; in a storm, drawn)."
        ),
    ] = "",
    ring: Annotated[str, typer.Option(help=f"Which ring: {', '.join(RINGS)}.")] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="Equal nodes and default settings, in a storm as well.")
    ] = False,
    scenario: Annotated[str, typer.Option(help="A scenario file or the name of a shipped one; `list`.")] = "",
    replay: Annotated[Path | None, typer.Option(help="A schedule that `elect check` has written.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Run an election in virtual time and tell its story, or hunt through many seeds for a violation.

    A storm draws the cluster that it strikes from the seed as well: how many nodes, who only votes or
    listens, the rule for a quorum, who wants to lead, and every option that changes behaviour. What is
    asked for by an option is not drawn.

    Exit code 0: every invariant held. 1: one was violated, or a scenario did not go as it should.
    """
    if scenario == "list":
        return list_scenarios()
    for what, word, words in (
        ("algorithm", algorithm, ALGORITHMS),
        ("--faults", faults, LEVELS),
        ("--quorum", quorum, ("", *QuorumRule)),
        ("--ring", ring, ("", *RINGS)),
    ):
        if word not in words:
            near = meant(word, words)
            question = f"; did you mean '{near}'?" if near else ""
            raise UserError(f"{what} '{word}' is not one of {', '.join(filter(None, words))}{question}")
    if replay:
        return play_schedule(replay, as_json)
    if scenario:
        return play(scenario, as_json)
    wanted = Wanted(
        algorithm=ring if ring and algorithm == "ring" else algorithm,
        level=faults,  # type: ignore[arg-type]
        nodes=nodes or None,
        quorum=QuorumRule(quorum) if quorum else None,
        plain=plain,
    )
    seconds = seconds or {"calm": 2.0, "rough": 20.0, "hostile": 20.0}[faults]
    if seeds:
        return hunt(wanted, range(seed, seed + seeds), seconds, as_json)
    plan = wanted.plan(seed)
    world = storm(plan, seed, wanted.level, seconds, record=True)
    tell_story(world, as_json)
    if not as_json:
        print(f"\n{describe(plan)}")
    sys.exit(show(summary(world), as_json, wanted.quorum))


def list_scenarios() -> None:
    for name in shipped():
        print(f"{name:28} {load(name).story}")


def play(name: str, as_json: bool) -> None:
    scenario = load(name)
    if not as_json:
        print(f"{Path(name).stem}: {scenario.story}\n")
    play = Play(scenario)
    world = play.run()
    tell_story(world, as_json)
    for failure in play.failures:
        say(json_line({"kind": "failure", "what": failure}) if as_json else f"NOT AS EXPECTED: {failure}")
    show(summary(world), as_json, scenario.quorum)
    sys.exit(1 if play.failures else 0)


def play_schedule(file: Path, as_json: bool) -> None:
    schedule = read(file)
    with flawed(schedule.flaw):
        stage = Stage(schedule)
        stage.play()
    tell_story(stage, as_json)
    for violation in stage.violations:
        say(json_line({"kind": "violation", "what": str(violation)}) if as_json else f"VIOLATED  {violation}")
    sys.exit(1 if stage.violations else 0)


def tell_story(world: World, as_json: bool) -> None:
    """The timeline: every message but beats and supports, of which only the first exchange is told."""
    told: set[tuple[str, str, str | None]] = set()
    for entry in world.entries or ():
        if as_json:
            print(json_line(record(entry)))
        elif not is_repetition(entry, told) and (line := tell(entry)):
            say(line)


def is_repetition(entry: Entry, told: set[tuple[str, str, str | None]]) -> bool:
    if not isinstance(entry.what, Beat | Support):
        if entry.kind in ("view", "fault", "story"):
            told.clear()
        return False
    key = (type(entry.what).__name__, entry.node, entry.peer)
    repeated = key in told
    told.add(key)
    return repeated


def json_line(content: Any) -> str:
    return msgspec.json.encode(content).decode()


def show(outcome: Outcome, as_json: bool, quorum: QuorumRule | None) -> int:
    """Print what the run came to; returns the exit code."""
    if as_json:
        print(json_line({"kind": "summary", **msgspec.to_builtins(outcome)}))
        return 1 if outcome.violations else 0
    messages = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.messages.items()))
    first = outcome.time_to_leader
    print()
    say(f"leader        {outcome.leader or 'none'}, term {outcome.term}, seed {outcome.seed}")
    print(f"first leader  {'never' if first is None else f'after {first * 1000:.1f} ms'}")
    print(f"leaderships   {outcome.leaderships}; a lease was held {outcome.availability:.1%} of the time")
    print(f"messages      {messages}")
    for violation in outcome.violations[:5]:
        say(f"VIOLATED      {violation}")
    if len(outcome.violations) > 5:
        print(f"              and {len(outcome.violations) - 5} more")
    if not outcome.violations:
        say("violations    none")
    elif quorum is QuorumRule.TEXTBOOK and any(v.startswith(("I1", "I2")) for v in outcome.violations):
        print(f"\n{SPLIT_BRAIN}")
    return 1 if outcome.violations else 0


def hunt(wanted: Wanted, seeds: range, seconds: float, as_json: bool) -> None:
    """Run every seed until one is violated; say how to see it again."""
    done = events = 0
    availability = settled = 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=as_json or not sys.stderr.isatty())
    with progress:
        task = progress.add_task(f"{wanted.algorithm}, {wanted.level}", total=len(seeds))
        for outcome in swarm(wanted, seeds, seconds):
            progress.advance(task)
            done, events = done + 1, events + outcome.events
            availability += outcome.availability
            settled = max(settled, outcome.settled or 0.0)
            if outcome.violations:
                progress.stop()
                code = show(outcome, as_json, wanted.quorum)
                if not as_json:
                    print(f"\nshape         {describe(wanted.plan(outcome.seed))}")
                    print(f"replay        {again(wanted, outcome.seed, seconds)}")
                sys.exit(code)
    share = availability / done
    if as_json:
        result = {"seeds": done, "violations": 0, "events": events, "availability": round(share, 4)}
        print(json_line({"kind": "summary", **result, "settled": round(settled, 4)}))
    else:
        seeds_run = f"{done} seed{'' if done == 1 else 's'}"
        say(f"{seeds_run}, {events:,} events, no violation; a lease was held {share:.1%} of the time")
        print(f"after the storm, all agreed within {settled:.2f} s")


def again(wanted: Wanted, seed: int, seconds: float) -> str:
    """The command that shows this seed's story."""
    options = [f"--nodes {wanted.nodes}"] if wanted.nodes else []
    options += [f"--seed {seed} --faults {wanted.level} --for {seconds:g}"]
    options += [f"--quorum {wanted.quorum}"] if wanted.quorum else []
    options += ["--plain"] if wanted.plain else []
    return f"{elect()} sim {wanted.algorithm} {' '.join(options)}"
