"""`elect up`: a local cluster of real processes, to look at and to maltreat."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer

from electorate.cli.cluster import Cluster, run
from electorate.cli.plan import Plan, plan
from electorate.cli.process import Event
from electorate.cli.tour import tour as walk_through
from electorate.errors import UserError


def up(
    algorithm: Annotated[str, typer.Option(help="bully, ring, raft or zab")] = "raft",
    nodes: Annotated[int, typer.Option(help="how many processes")] = 3,
    lease: Annotated[float | None, typer.Option(help="seconds (0.5)")] = None,
    beat: Annotated[float | None, typer.Option(help="seconds (0.1, or a fifth of a shorter lease)")] = None,
    quorum: Annotated[str, typer.Option(help="majority, weighted or hierarchical")] = "majority",
    json: Annotated[bool, typer.Option("--json", help="every event as a line of JSON, no table")] = False,
    for_: Annotated[float | None, typer.Option("--for", help="stop after so many seconds")] = None,
    tour: Annotated[
        bool, typer.Option("--tour", help="show an election, a crash, a handover, a freeze")
    ] = False,
) -> None:
    """Run a cluster of real processes on this machine and watch it elect.

    On a terminal, type what should befall the nodes: kill a, stop a, cont a, restart a, term a, transfer b,
    quit. With --for it exits 0 if there is an agreed leader at the end, and 1 if not.
    """
    if for_ is not None and not for_ > 0:
        raise UserError(f"--for {for_:g} is no time to elect anybody; give it seconds, such as --for 5")
    chosen = plan(algorithm, nodes, lease, beat, quorum)
    if not tour:
        raise typer.Exit(to_the_end(watch(chosen, json, for_)))
    if nodes != 3:
        raise UserError(f"the tour is told with 3 nodes, so leave out --nodes {nodes}")
    raise typer.Exit(to_the_end(stroll(chosen)))


def to_the_end(main: Coroutine[object, object, int]) -> int:
    """Its exit code. To be interrupted is a good end too: that is how one leaves."""
    try:
        return run(main)
    except KeyboardInterrupt:
        return 0


async def stroll(plan: Plan) -> int:
    return 0 if await walk_through(plan) else 1


async def watch(plan: Plan, json: bool, seconds: float | None) -> int:
    """Show the cluster until the time is over or the user quits: 0 if there was an agreed leader then."""
    async with Cluster(plan, teller(json)) as cluster:
        if not json and sys.stdin.isatty() and sys.stdout.isatty():
            from electorate.cli.screen import Screen  # rich only where there is a screen

            end: Coroutine[object, object, object] = Screen(cluster).show()
        else:
            end = asyncio.Event().wait()
        try:
            await asyncio.wait_for(end, seconds)
            agreed = True
        except TimeoutError:
            agreed = cluster.agreed() is not None
    for violation in cluster.violations():
        print(f"violation: {violation}", file=sys.stderr)
    return 0 if agreed and not cluster.violations() else 1


def teller(json: bool) -> Callable[[Event, bytes], None]:
    """Prints events as they come; once nobody reads them any more, the cluster is to end."""
    task = asyncio.current_task()
    assert task is not None

    def tell(event: Event, line: bytes) -> None:
        words = line.decode() if json else news(event)
        try:
            if words:
                print(words, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            task.cancel()

    return tell


def news(event: Event) -> str | None:
    """The event in words, if it is worth a line."""
    match event.event:
        case "ready":
            return f"{event.node} is up (process {event.pid})"
        case "ended":
            return f"{event.node} is gone"
        case "vacant":
            return "nobody leads"
        case "agreed":
            return f"{event.leader} leads, term {event.term}"
        case "peer" if event.reason:
            return f"{event.node}: {event.peer} is {event.state}: {event.reason}"
        case "peer" if event.state in ("dead", "lost"):
            return f"{event.node}: {event.peer} is {event.state}"
    return None
