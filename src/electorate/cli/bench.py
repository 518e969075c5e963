"""`elect bench`: measures on real processes, from outside them, on one clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import msgspec
import typer

from electorate.cli.cluster import Cluster, Outage, Stuck, run
from electorate.cli.plan import Plan, plan
from electorate.cli.process import Agreed
from electorate.errors import UserError, hint

app = typer.Typer(help="Measure elections of real processes.", no_args_is_help=True, add_completion=False)

FAULTS = ("kill", "stop", "term", "transfer")


@app.callback()
def bench() -> None:
    """Measure elections of real processes."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: who led before and after, and how many seconds there was no agreed leader."""

    trial: int
    leader: str | None = None
    successor: str | None = None
    term: int | None = None
    seconds: float | None = None
    failure: str | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    algorithm: str
    nodes: int
    fault: str
    lease_s: float
    tls: bool
    trials: int
    failed: int
    median_s: float | None
    p95_s: float | None
    max_s: float | None
    violations: int


@app.command()
def failover(
    algorithm: Annotated[str, typer.Option(help="bully, ring, raft or zab")] = "raft",
    nodes: Annotated[int, typer.Option(help="how many processes")] = 3,
    fault: Annotated[
        str, typer.Option(help="what befalls the leader: kill, stop, term or transfer")
    ] = "kill",
    trials: Annotated[int, typer.Option(help="how often")] = 20,
    lease: Annotated[float | None, typer.Option(help="seconds")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="certificates for the nodes, made once")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON line per trial, the summary last")] = False,
) -> None:
    """How long is there no agreed leader after the leader was killed, stopped, terminated or handed over?

    An agreed leader is named by a majority of the voters and holds a lease. kill (SIGKILL) and stop (SIGSTOP)
    count from just before the signal; term (SIGTERM) and transfer from the first sign that the old leadership
    ended. All the while no two leases may overlap. Exits 1 if a trial failed or two did.
    """
    if fault not in FAULTS:
        raise UserError(f"there is no fault '{fault}'; {hint(fault, FAULTS, 'choose one of')}")
    if trials < 1:
        raise UserError(f"--trials {trials} measures nothing; ask for at least 1")
    if nodes < 3:
        raise UserError(f"--nodes {nodes} cannot lose a leader and elect another; a failover needs 3 or more")
    bench = Bench(plan(algorithm, nodes, lease, tls=tls), fault, trials, print_json if json else print_trial)
    summary = run(bench.run())
    if json:
        print_json(summary)
    else:
        print_summary(summary)
        for violation in bench.violations:
            print(f"violation: {violation}")
    raise typer.Exit(1 if summary.failed or summary.violations else 0)


class Bench:
    def __init__(self, plan: Plan, fault: str, trials: int, report: Callable[[Trial], None]) -> None:
        self.plan = plan
        self.fault = fault
        self.trials = trials
        self.report = report
        self.violations: list[str] = []

    async def run(self) -> Summary:
        done = []
        async for trial in self.measure():
            self.report(trial)
            done.append(trial)
        return summarise(self.plan, self.fault, done, len(self.violations))

    async def measure(self) -> AsyncIterator[Trial]:
        """Trial after trial; one that is stuck costs the cluster, and the next ones get a new one."""
        number = 0
        while number < self.trials:
            async with Cluster(self.plan) as cluster:
                stuck = False
                while number < self.trials and not stuck:
                    number += 1
                    trial = await self.attempt(cluster, number)
                    stuck = trial.failure is not None
                    yield trial
                self.violations += cluster.violations()

    async def attempt(self, cluster: Cluster, number: int) -> Trial:
        old: Agreed | None = None
        try:
            old = await self.calm(cluster)
            outage = await strike(cluster, self.fault, old)
            await self.restore(cluster, old.leader)
        except Stuck as stuck:
            return Trial(trial=number, leader=old and old.leader, failure=str(stuck))
        return Trial(
            trial=number,
            leader=old.leader,
            successor=outage.leader,
            term=outage.term,
            seconds=round(outage.seconds, 6),
        )

    async def restore(self, cluster: Cluster, fallen: str) -> None:
        if self.fault in ("kill", "term"):
            await cluster.restart(fallen)
        elif self.fault == "stop":
            cluster.go_on(fallen)
        await cluster.until(lambda: self.settled(cluster))

    async def calm(self, cluster: Cluster) -> Agreed:
        """Until all have followed, for a lease, the leader that is to stay."""
        await cluster.until(lambda: self.settled(cluster))
        since = cluster.heard_at
        return await cluster.until(lambda: cluster.rested(since))

    def settled(self, cluster: Cluster) -> Agreed | None:
        """Who was handed leadership keeps it; after anything else the favourite is to have it back."""
        return cluster.followed() if self.fault == "transfer" else cluster.settled()


def summarise(plan: Plan, fault: str, trials: list[Trial], violations: int) -> Summary:
    times = sorted(trial.seconds for trial in trials if trial.seconds is not None)
    return Summary(
        algorithm=plan.algorithm,
        nodes=plan.nodes,
        fault=fault,
        lease_s=plan.lease,
        tls=plan.tls,
        trials=len(trials),
        failed=len(trials) - len(times),
        median_s=round(statistics.median(times), 6) if times else None,
        p95_s=times[math.ceil(0.95 * len(times)) - 1] if times else None,
        max_s=times[-1] if times else None,
        violations=violations,
    )


async def strike(cluster: Cluster, fault: str, old: Agreed) -> Outage:
    """Let it happen to the leader, and wait for the next one."""
    match fault:
        case "kill":
            return await cluster.outage(old, since=cluster.kill(old.leader))
        case "stop":
            return await cluster.outage(old, since=cluster.stop(old.leader))
        case "term":
            cluster.term(old.leader)
        case _:
            cluster.transfer(next_of(cluster.plan.ids, old.leader))
    return await cluster.outage(old)


def next_of(ids: list[str], leader: str) -> str:
    return ids[(ids.index(leader) + 1) % len(ids)]


def print_json(record: Trial | Summary) -> None:
    print(msgspec.json.encode(record).decode(), flush=True)


def print_trial(trial: Trial) -> None:
    if trial.seconds is None:
        print(f"{trial.trial:4}  {trial.leader or '-'} -> ?  failed: {trial.failure}", flush=True)
    else:
        print(
            f"{trial.trial:4}  {trial.leader} -> {trial.successor}  term {trial.term}  {ms(trial.seconds)}",
            flush=True,
        )


def print_summary(summary: Summary) -> None:
    what = f"{summary.algorithm}, {summary.nodes} nodes, {summary.fault}, lease {ms(summary.lease_s)}"
    what += ", TLS" if summary.tls else ""
    times = f"median {ms(summary.median_s)}, p95 {ms(summary.p95_s)}, longest {ms(summary.max_s)}"
    print(f"{what}: {times} without a leader")
    print(f"{summary.trials} trials, {summary.failed} failed, {summary.violations} violations")


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"
