"""The tour: three processes live through an election, a crash, a return, a handover and a freeze.

Each step tells its story in a line and is held to it: the right thing must have happened, within a bound,
and never may two of them lead at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from electorate.cli.cluster import Cluster, Outage, Stuck
from electorate.cli.plan import Plan
from electorate.cli.process import Agreed


class Step(NamedTuple):
    """What was done, what came of it, for how many seconds nobody led, and how often two did."""

    name: str
    story: str
    seconds: float | None
    violations: int = 0
    failed: bool = False


class Surprise(Exception):
    """Something else happened than the story tells."""


async def tour(plan: Plan) -> bool:
    """Run the tour and print it. Returns whether everything happened as told."""
    print(f"Three processes on this machine elect a leader ({plan.algorithm}, leases of {ms(plan.lease)}).\n")
    async with Cluster(plan) as cluster:
        steps = await Tour(cluster).walk()
        violations = cluster.violations()
    print_summary(steps, violations)
    return not violations and not any(step.failed for step in steps)


Story = tuple[str, float | None]
"""One line, and the seconds without a leader in it."""


class Tour:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.victim = ""
        """To whom the last fault has happened."""

    async def walk(self) -> list[Step]:
        steps: list[Step] = []
        parts: dict[str, Callable[[], Awaitable[Story]]] = {
            "elect": self.elect,
            "kill -9": self.kill,
            "restart": self.restart,
            "transfer": self.transfer,
            "freeze": self.freeze,
            "thaw": self.thaw,
        }
        for name, part in parts.items():
            steps.append(await self.take(name, part))
            print(f"{len(steps)}. {steps[-1].story}", flush=True)
            if steps[-1].failed:
                break
        return steps

    async def take(self, name: str, part: Callable[[], Awaitable[Story]]) -> Step:
        before = len(self.cluster.violations())
        try:
            story, seconds = await part()
        except (Stuck, Surprise) as problem:
            return Step(name, f"{name} did not go as it should: {problem}.", None, failed=True)
        return Step(name, story, seconds, len(self.cluster.violations()) - before)

    async def elect(self) -> Story:
        cluster = self.cluster
        started = [f"{node.id} (process {node.pid})" for node in cluster.nodes.values()]
        first = await cluster.until(cluster.settled)
        wait = max(0.0, cluster.agreed_at - cluster.quorum_at)
        names = f"{', '.join(started[:-1])} and {started[-1]}"
        return f"{names} have never met. {ms(wait)} after two of them are up, {first.leader} leads.", wait

    async def kill(self) -> Story:
        old = await self.leader()
        outage = await self.cluster.outage(old, self.cluster.kill(old.leader))
        await self.cluster.nodes[old.leader].gone()
        story = f"kill -9 {old.leader}: no goodbye, but its guardian outlives it, and tells whoever dials."
        return f"{story} {outage.leader} leads after {ms(outage.seconds)}.", outage.seconds

    async def restart(self) -> Story:
        cluster, id = self.cluster, self.victim
        old = await cluster.until(cluster.followed)
        since = await cluster.restart(id)
        if cluster.plan.favourite == id:
            outage = await cluster.outage(old)
            self.expect(outage.leader == id, f"{outage.leader} leads, and not {id}")
            story = (
                f"{id}, the biggest, is back and bullies {old.leader} out of office: {ms(outage.seconds)}."
            )
        else:
            outage = Outage(0.0, *old)
            story = f"{id} comes back, finds {old.leader} in office and follows. Nobody is disturbed."
        now = await cluster.until(lambda: cluster.rested(since))
        self.expect(now == (outage.leader, outage.term), f"{now.leader} has taken over in term {now.term}")
        return story, outage.seconds

    async def transfer(self) -> Story:
        old = await self.leader()
        heir = next(id for id in self.cluster.nodes if id != old.leader)
        self.cluster.transfer(heir)
        outage = await self.cluster.outage(old)
        now = await self.cluster.until(self.cluster.followed)
        self.expect(now.leader == heir, f"{now.leader} leads, and not {heir}")
        return f"{old.leader} hands over to {heir}, politely: {ms(outage.seconds)}.", outage.seconds

    async def freeze(self) -> Story:
        old = await self.leader()
        outage = await self.cluster.outage(old, self.cluster.stop(old.leader))
        story = (
            f"{old.leader} freezes (SIGSTOP): perhaps it is only slow, so all wait until its lease is over."
        )
        return f"{story} {outage.leader} leads after {ms(outage.seconds)}.", outage.seconds

    async def thaw(self) -> Story:
        self.cluster.go_on(self.victim)
        now = await self.cluster.until(self.cluster.settled)
        if self.cluster.plan.favourite != self.victim:
            self.expect(now.leader != self.victim, f"{self.victim} leads again")
            return f"{self.victim} thaws, finds its lease long over, and follows {now.leader}.", None
        return f"{self.victim} thaws, finds its lease long over, and is elected anew.", None

    async def leader(self) -> Agreed:
        """Whom all follow, and to whom something is about to happen."""
        old = await self.cluster.until(self.cluster.followed)
        self.victim = old.leader
        return old

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Surprise(otherwise)


def print_summary(steps: list[Step], violations: list[str]) -> None:
    print(f"\n{'step':10} {'what happened':14} {'without a leader':>16} {'violations':>11}")
    for step in steps:
        lost = "-" if step.seconds is None else ms(step.seconds)
        happened = "FAILED" if step.failed else "as it should"
        print(f"{step.name:10} {happened:14} {lost:>16} {step.violations:>11}")
    print(f"\nTwo leaders at once: {len(violations) or 'never'}.")
    for violation in violations:
        print(f"  {violation}")


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
