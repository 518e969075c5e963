"""`elect torture`: real nodes under real faults, and a verdict."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import typer

from electorate.cli.cluster import Stuck, run
from electorate.cli.plan import ALGORITHMS, MOST_NODES
from electorate.cli.torture.arena import Arena
from electorate.cli.torture.fabric import fabric
from electorate.cli.torture.referee import History, Violation, availability, failovers, judge
from electorate.cli.torture.report import report
from electorate.cli.torture.schedule import Schedule, compose, read
from electorate.errors import UserError, hint


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, in numbers. `availability` is a share, `outages` are seconds, by fault."""

    algorithm: str
    nodes: int
    seed: int
    seconds: float
    replay: str
    separate_networks: bool
    faults: int
    leaderships: int
    writes: int
    refused_writes: int
    skipped: dict[str, int]
    availability: dict[str, float]
    outages: dict[str, list[float]]
    violations: list[Violation]


def torture(
    algorithm: Annotated[str, typer.Option(help="bully, ring, raft or zab")] = "raft",
    nodes: Annotated[int, typer.Option(help="how many hosts")] = 5,
    minutes: Annotated[float, typer.Option(help="how long it lasts")] = 1.0,
    elections: Annotated[int, typer.Option(help="how many elections the nodes hold")] = 1,
    seed: Annotated[int | None, typer.Option(help="decides what happens when (default: drawn)")] = None,
    schedule: Annotated[Path | None, typer.Option(help="a schedule to carry out, instead of a seed")] = None,
    show: Annotated[bool, typer.Option("--show", help="print the schedule as JSON, and do nothing")] = False,
    report_file: Annotated[Path | None, typer.Option("--report", help="write an HTML report")] = None,
    json: Annotated[bool, typer.Option("--json", help="the verdict as JSON, nothing else")] = False,
) -> None:
    """Maltreat a cluster of real processes, and see whether it ever has two leaders.

    Each node has a network of its own where namespaces may be made (by root); else all are on the loopback,
    and the network is left in peace. Exits 1 if a rule was violated.
    """
    chosen = plan(algorithm, nodes, minutes, elections, seed) if schedule is None else read(schedule)
    if show:
        print(msgspec.json.format(msgspec.json.encode(chosen)).decode())
        return
    replay = again(chosen, schedule)
    verdict, history = run(carry_out(chosen, replay, quiet=json))
    if report_file:
        report_file.write_text(report(chosen, history, verdict.violations, replay), encoding="utf-8")
    print(msgspec.json.encode(verdict).decode() if json else told(verdict))
    if verdict.violations:
        print(f"elect: {len(verdict.violations)} violations; to see it again: {replay}", file=sys.stderr)
        raise typer.Exit(1)


def plan(algorithm: str, nodes: int, minutes: float, elections: int, seed: int | None) -> Schedule:
    if algorithm not in ALGORITHMS:
        raise UserError(
            f"there is no algorithm '{algorithm}'; {hint(algorithm, ALGORITHMS, 'choose one of')}"
        )
    if not 3 <= nodes <= MOST_NODES:
        raise UserError(f"--nodes {nodes} cannot be tortured; choose 3 to {MOST_NODES}")
    if minutes <= 0 or elections < 1:
        raise UserError("--minutes and --elections must be more than 0")
    names = ("main", *(f"election-{number}" for number in range(2, elections + 1)))
    return compose(algorithm, nodes, random.randrange(10**6) if seed is None else seed, 60 * minutes, names)


def again(schedule: Schedule, file: Path | None) -> str:
    if file:
        return f"elect torture --schedule {file}"
    words = f"elect torture --algorithm {schedule.algorithm} --nodes {schedule.nodes} --seed {schedule.seed}"
    many = f" --elections {len(schedule.elections)}" if len(schedule.elections) > 1 else ""
    return f"{words} --minutes {schedule.seconds / 60:g}{many}"


async def carry_out(schedule: Schedule, replay: str, quiet: bool) -> tuple[Verdict, History]:
    """Torture them to the end; once nobody reads what it tells, it ends."""
    task = asyncio.current_task()
    assert task is not None

    def tell(line: str) -> None:
        if quiet:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            task.cancel()

    tell(replay)
    with fabric(schedule.ids) as network:
        if not network.separate:
            print("elect: no namespaces without root: all nodes are on the loopback", file=sys.stderr)
        async with Arena(schedule, network, tell) as arena:
            try:
                history = await arena.suffer()
            except Stuck as stuck:
                raise UserError(f"the cluster never elected anybody: {stuck}") from None
    verdict = Verdict(
        algorithm=schedule.algorithm,
        nodes=schedule.nodes,
        seed=schedule.seed,
        seconds=round(history.end - history.start, 3),
        replay=replay,
        separate_networks=network.separate,
        faults=len(history.faults),
        leaderships=len(history.claims),
        writes=len(history.writes),
        refused_writes=len(history.refused),
        skipped=history.skipped,
        availability={name: round(availability(history, name), 4) for name in schedule.elections},
        outages=failovers(history, schedule.elections),
        violations=judge(history),
    )
    return verdict, history


def told(verdict: Verdict) -> str:
    """The verdict in words."""
    lines = [
        "",
        f"faults        {verdict.faults} in {verdict.seconds:.0f} s",
        f"leaderships   {verdict.leaderships}",
        f"writes        {verdict.writes} accepted, {verdict.refused_writes} refused by the fence",
        *(f"available     {100 * share:.1f} %  {name}" for name, share in verdict.availability.items()),
    ]
    for fault, seconds in sorted(verdict.outages.items()):
        if seconds:
            middle = median(seconds)
            lines.append(
                f"{fault:<13} {len(seconds):3} outages, median {middle:.2f} s, longest {seconds[-1]:.2f} s"
            )
        else:
            lines.append(f"{fault:<13}   no outage")
    if verdict.skipped:
        lines.append(f"not possible  {', '.join(sorted(verdict.skipped))} (see docs/torture.md)")
    lines += [f"VIOLATION     {violation.rule}: {violation.what}" for violation in verdict.violations]
    return "\n".join([*lines, f"violations    {len(verdict.violations)}"])
