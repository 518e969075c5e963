"""A cluster that suffers a schedule: real processes, each on its own network and its own small disk.

On each host there are two nodes, of two clusters: an `elect node` that is watched through its leases, and an
`elect run` whose command writes to a shared resource. What befalls the host befalls both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Self

import msgspec

from electorate.cli.cluster import START_BOUND, Cluster
from electorate.cli.plan import Plan
from electorate.cli.process import Event, Node, State
from electorate.cli.torture import worker
from electorate.cli.torture.fabric import PREFIX, Loopback, command
from electorate.cli.torture.referee import History, rows
from electorate.cli.torture.schedule import Schedule
from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.sim.scenario import Step, parse

DISK = "8m"
"""The size of a node's disk."""
RUN_PORT = 9500
"""Where the nodes of `elect run` listen, each at its own address."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class Hosts(Plan, frozen=True, kw_only=True):
    """A plan whose nodes have addresses of their own."""

    addresses: tuple[str, ...]
    elections: tuple[str, ...] = ("main",)

    def toml(self, ports: list[int]) -> str:
        head = [
            'cluster = "torture"',
            f'algorithm = "{self.algorithm}"',
            f"elections = {list(self.elections)}",
            f'quorum = "{self.quorum}"',
            "insecure = true",
            f"[timing]\nlease = {self.lease}\nbeat = {self.beat}",
        ]
        where = zip(self.ids, self.addresses, ports, strict=True)
        return "\n".join([*head, *(f'[nodes.{id}]\naddress = "{ip}:{port}"' for id, ip, port in where), ""])


class Arena(Cluster):
    plan: Hosts

    def __init__(self, schedule: Schedule, fabric: Loopback, tell: Callable[[str], None] = print) -> None:
        addresses = tuple(fabric.address(id) for id in schedule.ids)
        plan = Hosts(
            algorithm=schedule.algorithm,
            nodes=schedule.nodes,
            addresses=addresses,
            elections=schedule.elections,
            quorum=schedule.quorum,
        )
        super().__init__(plan)
        self.schedule = schedule
        self.fabric = fabric
        self.report = tell
        self.history = History()
        self.skipped: Counter[str] = Counter()
        self.away: dict[str, float] = {}
        """Since when a node is down or paused."""
        self.frozen: set[str] = set()
        self.leaving: set[str] = set()
        """Who has been told to stop, and is to be started again."""
        self.runs: dict[str, subprocess.Popen[bytes]] = {}
        self.disks = os.geteuid() == 0
        self.slowed: list[subprocess.Popen[bytes]] = []
        """The tracers that keep nodes waiting for their disks."""
        self.mounted = ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await super().__aenter__()
            self.database = worker.resource(self.path)
            if self.fabric.separate:
                ports = [RUN_PORT] * self.plan.nodes
                (self.path / "run.toml").write_text(self.plan.toml(ports))
                for id in self.plan.ids:
                    self.start_run(id)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """To be interrupted a second time leaves nothing behind either."""
        try:
            self.hurry()
            for process in self.runs.values():
                process.kill()
            for node in self.nodes.values():
                node.kill()
            for process in self.runs.values():
                process.wait()
            for node in self.nodes.values():
                await node.gone()
        finally:
            self.mounted.close()
            try:
                await super().close()
            finally:
                self.held.close()

    async def spawn(self, node: Node) -> None:
        id, data = node.id, self.path / node.id
        if self.disks and not data.exists():
            data.mkdir()
            command(
                "mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", f"{PREFIX}-{os.getpid()}", str(data)
            )
            self.mounted.callback(subprocess.run, ["umount", "--lazy", str(data)], capture_output=True)
        options = ("--config", str(self.path / "cluster.toml"), "--id", id, "--data", str(data), "--attach")
        elect = (sys.executable, "-m", "electorate.cli.main", "node", *options)
        await node.spawn(*self.fabric.inside(id), *elect)

    def start_run(self, id: str) -> None:
        data = self.path / f"{id}-run"
        options = ("--config", str(self.path / "run.toml"), "--id", id, "--data", str(data))
        elect = (sys.executable, "-m", "electorate.cli.main", "run", *options, "--log-level", "error")
        what = ("--stop-timeout", "0.1", "--restart", "always", "--", sys.executable, "-m", worker.__name__)
        log: IO[bytes]
        with (self.path / f"{id}-run.log").open("ab") as log:
            self.runs[id] = subprocess.Popen(
                [*self.fabric.inside(id), *DIES_WITH_US, *elect, *what, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    # --- the torture ---

    async def suffer(self) -> History:
        """Carry out the schedule from the first leader on, and let the cluster come to rest."""
        await self.until(lambda: self.agreement)
        start = now()
        known = [
            msgspec.structs.replace(f, start=start + f.start, end=start + f.end) for f in self.schedule.faults
        ]
        self.history = History(start=start, faults=known)
        for step in map(parse, self.schedule.steps):
            await asyncio.sleep(start + step.time - now())
            await self.carry_out(step)
        await asyncio.sleep(max(0.0, start + self.schedule.seconds - now()))
        return self.record()

    def record(self) -> History:
        """What was recorded until now."""
        history = self.history
        history.end = now()
        history.claims = list(self.ledger.claims)
        for claim in history.claims:
            claim.end = min(claim.end, history.end)
        history.writes = rows(self.database, "writes")
        history.overlaps = rows(self.database, "overlaps")
        history.refused = rows(self.database, "refused")
        history.skipped = dict(self.skipped)
        history.faults = [fault for fault in history.faults if fault.verb not in self.skipped]
        history.down += [(id, since, history.end) for id, since in self.away.items()]
        return history

    async def carry_out(self, step: Step) -> None:
        if not self.can(step.verb):
            self.skipped[step.verb] += 1
            return
        self.report(f"{now() - self.history.start:8.2f}  {' '.join([step.verb, *step.words])}")
        words = [self.who(word) for word in step.words]
        done = getattr(self, DEEDS.get(step.verb, step.verb))(words)
        if done is not None:
            await done

    def can(self, verb: str) -> bool:
        if verb == "disk":
            return shutil.which("strace") is not None
        return self.disks if verb == "fill" else verb not in UNAVAILABLE - self.fabric.verbs

    def who(self, word: str) -> str:
        if word != "leader":
            return word
        return self.agreement.leader if self.agreement else self.plan.ids[-1]

    def gone_from(self, id: str) -> None:
        self.away.setdefault(id, now())

    def ended(self, node: Node, at: float) -> None:
        super().ended(node, at)
        self.gone_from(node.id)

    def tell(self, event: Event, line: bytes) -> None:
        super().tell(event, line)
        if event.event == "ready":
            self.back(event.node)

    def back(self, id: str) -> None:
        if id in self.away:
            self.history.down.append((id, self.away.pop(id), now()))

    # --- the verbs ---

    def crash(self, words: list[str]) -> None:
        for id in words:
            self.gone_from(id)
            self.frozen.discard(id)
            self.kill(id)
            if id in self.runs:
                self.runs[id].kill()

    def terminate(self, words: list[str]) -> None:
        for id in words:
            self.gone_from(id)
            self.leaving.add(id)
            self.term(id)
            if id in self.runs:
                self.runs[id].terminate()

    async def start_again(self, words: list[str]) -> None:
        """Start whoever is down and not paused: all at once, so that they meet."""
        for id in words or self.plan.ids:
            node = self.nodes[id]
            if id in self.frozen or not (node.ended or node.state is State.DOWN or id in self.leaving):
                continue
            self.leaving.discard(id)
            try:
                async with asyncio.timeout(START_BOUND):
                    await node.gone()
            except TimeoutError:
                raise UserError(f"node {id} was told to stop, and has not within {START_BOUND:g} s") from None
            if id in self.runs:
                await asyncio.to_thread(self.end_run, id)
                self.start_run(id)
            await self.spawn(node)

    def end_run(self, id: str) -> None:
        """Until `elect run` has ended, if need be by force: its node may have ended without it."""
        try:
            self.runs[id].wait(1)
        except subprocess.TimeoutExpired:
            self.runs[id].kill()
            self.runs[id].wait()

    def freeze(self, words: list[str]) -> None:
        for id in words:
            self.frozen.add(id)
            self.gone_from(id)
            self.stop(id)
            if id in self.runs:
                self.runs[id].send_signal(signal.SIGSTOP)

    def thaw(self, words: list[str]) -> None:
        for id in words or self.plan.ids:
            self.go_on(id)
            if id in self.runs:
                self.runs[id].send_signal(signal.SIGCONT)
            if id in self.frozen:
                self.frozen.discard(id)
                if not self.nodes[id].ended:
                    self.back(id)

    def split(self, words: list[str]) -> None:
        groups = [group.split() for group in " ".join(words).split("|")]
        of = {id: number for number, group in enumerate(groups) for id in group}
        for a in self.plan.ids:
            for b in self.plan.ids:
                if a != b and (a not in of or of[a] != of.get(b)):
                    self.fabric.block(a, b)

    def block(self, words: list[str]) -> None:
        a, b = words
        if a != b:
            self.fabric.block(a, b)

    def part(self, words: list[str]) -> None:
        self.block(words)
        self.block(words[::-1])

    def open(self, words: list[str]) -> None:
        a, b = words
        self.fabric.open(a, b)
        self.fabric.open(b, a)

    def heal(self, words: list[str]) -> None:
        self.fabric.heal()

    def loss(self, words: list[str]) -> None:
        self.fabric.lose(words[0], int(words[1]))

    def rate(self, words: list[str]) -> None:
        self.fabric.shape(words[0], "tbf", "rate", f"{words[1]}kbit", "burst", "4k", "latency", "500ms")

    def delay(self, words: list[str]) -> None:
        self.fabric.shape(words[0], "netem", "delay", f"{words[1]}ms", f"{words[2]}ms")

    def duplicate(self, words: list[str]) -> None:
        self.fabric.shape(words[0], "netem", "duplicate", f"{words[1]}%")

    def reorder(self, words: list[str]) -> None:
        self.fabric.shape(words[0], "netem", "delay", "10ms", "reorder", f"{words[1]}%")

    def calm(self, words: list[str]) -> None:
        self.fabric.calm()

    def disk(self, words: list[str]) -> None:
        """Each sync of this node's files takes so long, or all disks are as usual."""
        if not words:
            return self.hurry()
        id, seconds = words
        syncs = "fsync,fdatasync"
        slowly = f"inject={syncs}:delay_enter={round(float(seconds) * 1e6)}"
        for pid in (self.nodes[id].pid, self.runs[id].pid if id in self.runs else None):
            if pid is not None:
                tracer = ("strace", "-f", "-qq", "-o", os.devnull, "-e", syncs, "-e", slowly, "-p", str(pid))
                self.slowed.append(subprocess.Popen(tracer, stderr=subprocess.DEVNULL))
        return None

    def hurry(self) -> None:
        for tracer in self.slowed:
            tracer.terminate()
        for tracer in self.slowed:
            tracer.wait()
        self.slowed.clear()

    def fill(self, words: list[str]) -> None:
        """Write until the disk is full."""
        with (self.path / words[0] / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass

    async def empty(self, words: list[str]) -> None:
        """Free the disks; whoever could not go on is started again."""
        for id in self.plan.ids:
            (self.path / id / "ballast").unlink(missing_ok=True)
        await self.start_again([])


DEEDS = {"stop": "terminate", "restart": "start_again", "pause": "freeze", "continue": "thaw"}
"""Verbs whose names mean something else in a cluster that one has at hand."""
UNAVAILABLE = frozenset({"split", "block", "part", "open", "loss", "rate", "delay", "duplicate", "reorder"})
"""What takes a network that can be maltreated."""
