"""A cluster of real processes on this machine: each node is an `elect node --attach` of its own.

The processes are watched from outside. Each reports what it believes as JSON lines; every line is stamped
with the time of its receipt on the clock that the processes use too, so all times compare. Waiting is for
events, never for time to pass: a condition is looked at whenever something was heard.

    agreed      a majority of all voters, in processes that run, name the same leader and term,
                and that leader holds a lease right now
    followed    agreed, and every node that runs names this leader
    settled     followed, and nobody who runs will take over (Bully: the highest leads)
    rested      followed, and a lease has passed since the last disturbance
    forsaken    the first sign that a leadership has ended: somebody names it no longer, or its
                lease was given up

Nothing survives the cluster: children are killed and reaped, their guardians relieved, and the directory
goes, whatever happened; if this very process is killed, the kernel kills the children, those that are stopped
too; where it does not, each finds its standard input closed and stops.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import msgspec

from electorate.cli.certs import authority
from electorate.cli.plan import CLUSTER, ELECTION, HOST, Plan, reserved_ports
from electorate.cli.process import Agreed, Event, Node, State
from electorate.cli.safety import Ledger
from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.ward import relieve_all

T = TypeVar("T")
START_BOUND = 30.0
"""Seconds within which a process must have started; a machine may be busy."""


class Outage(NamedTuple):
    """How long nobody led, in seconds, and who leads since."""

    seconds: float
    leader: str
    term: int


class Stuck(Exception):
    """What was waited for has not happened within its bound."""


def run(main: Coroutine[object, object, T]) -> T:
    """Run this to its end. SIGINT, SIGTERM and a terminal that is closed end it in good order, with
    KeyboardInterrupt."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        for sent in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(sent, task.cancel)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class Cluster:
    """`async with Cluster(plan) as cluster:` runs the processes of the plan until the block is left.

    `listen` is given each event and the line it came from, and our own: `agreed`, `vacant` and `ended`."""

    def __init__(self, plan: Plan, listen: Callable[[Event, bytes], None] | None = None) -> None:
        self.plan = plan
        self.listen = listen
        self.ledger = Ledger()
        self.held = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.agreement: Agreed | None = None
        """As of the last thing heard."""
        self.agreed_at = 0.0
        self.heard_at = 0.0
        self.quorum_at = 0.0
        """When enough nodes were up for the first time that a leader could be elected."""
        self.waiting: list[tuple[Callable[[], object], asyncio.Future[object]]] = []

    # --- from the beginning to the end ---

    async def __aenter__(self) -> Self:
        ports = self.held.enter_context(reserved_ports(self.plan.nodes))
        directory = tempfile.TemporaryDirectory(prefix="electorate-", ignore_cleanup_errors=True)
        self.path = Path(self.held.enter_context(directory))
        if self.plan.tls:
            make_certificates(self.plan.ids, self.path / "certs")
        (self.path / "cluster.toml").write_text(self.plan.toml(ports))
        self.nodes = {
            id: Node(id, f"{HOST}:{port}", self) for id, port in zip(self.plan.ids, ports, strict=True)
        }
        try:
            for node in self.nodes.values():
                await self.spawn(node)
            await self.until(
                lambda: all(n.state is not State.STARTING for n in self.nodes.values()), START_BOUND
            )
            self.check_started(*self.nodes.values())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self.listen = None
        try:
            for node in self.nodes.values():
                node.send(signal.SIGCONT)
                node.kill()
            for node in self.nodes.values():
                await node.gone()
            await relieve_all(self.path)
        finally:
            self.held.close()

    async def spawn(self, node: Node) -> None:
        config, data = str(self.path / "cluster.toml"), str(self.path / node.id)
        options = ("--config", config, "--id", node.id, "--data", data, "--attach")
        await node.spawn(sys.executable, "-m", "electorate.cli.main", "node", *options)

    def check_started(self, *nodes: Node) -> None:
        for node in nodes:
            if not node.runs:
                complaint = node.child.complaint.decode(errors="replace").strip() if node.child else ""
                said = node.error or complaint or "it said nothing"
                raise UserError(f"node {node.id} did not start: {said.splitlines()[-1]}")

    # --- what is heard ---

    def hear(self, node: Node, line: bytes, at: float) -> None:
        try:
            event = msgspec.json.decode(line, type=Event)
        except msgspec.DecodeError:
            return
        if event.election in (None, ELECTION):
            node.note(event)
        if event.event == "lease" and event.election:
            self.ledger.lease(node.id, event.election, event.term, event.until, event.t)
        self.tell(event, line)
        self.look(at)

    def ended(self, node: Node, at: float) -> None:
        self.ledger.died(node.id, at)
        node.state = State.DOWN
        self.say(event="ended", node=node.id, t=at)
        self.look(now())

    def look(self, at: float) -> None:
        """Something has happened: see whether there is an agreed leader, and who has waited for what."""
        self.heard_at = at
        if not self.quorum_at and 2 * len(self.running) > len(self.nodes):
            self.quorum_at = at
        agreement = self.agreed(at)
        if agreement and agreement != self.agreement:
            self.agreed_at = at
            self.say(event="agreed", leader=agreement.leader, term=agreement.term, t=at)
        elif self.agreement and not agreement:
            self.say(event="vacant", t=at)
        self.agreement = agreement
        for holds, future in tuple(self.waiting):
            if not future.done() and (found := holds()):
                future.set_result(found)

    def say(self, **words: object) -> None:
        line = msgspec.json.encode(words)
        self.tell(msgspec.json.decode(line, type=Event), line)

    def tell(self, event: Event, line: bytes) -> None:
        if self.listen:
            self.listen(event, line)

    # --- what is believed ---

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.runs]

    def agreed(self, at: float | None = None) -> Agreed | None:
        """The leader that a majority of all voters name and that holds a lease."""
        views = [node.view for node in self.running if node.view]
        for view in set(views):
            leader = self.nodes.get(view.leader)
            if 2 * views.count(view) > len(self.nodes) and leader and leader.runs:
                return view if leader.holds(view.term, now() if at is None else at) else None
        return None

    def followed(self) -> Agreed | None:
        """The agreed leader that all who run follow, for now."""
        agreement = self.agreement
        return agreement if agreement and all(node.view == agreement for node in self.running) else None

    def settled(self) -> Agreed | None:
        """The leader that all who run follow, and that nobody will want to replace."""
        agreement, favourite = self.followed(), self.plan.favourite
        wanted = favourite and self.nodes[favourite].runs and agreement and agreement.leader != favourite
        return None if wanted else agreement

    def rested(self, since: float) -> Agreed | None:
        """All who run follow one leader, and a lease has passed since that time: a node that started then
        may back a claim again, and each node knows what the others know."""
        agreement = self.followed()
        lease = self.nodes[agreement.leader].lease if agreement else None
        return agreement if lease and lease[1] > since + 2 * self.plan.lease else None

    def forsaken(self, old: Agreed) -> bool:
        leader = self.nodes[old.leader]
        given_up = not leader.runs or leader.lease is None or leader.lease[0] != old.term
        return given_up or any(node.dropped == old for node in self.running)

    def violations(self, before: float = float("inf")) -> list[str]:
        return self.ledger.violations(before)

    def __str__(self) -> str:
        return "; ".join(str(node) for node in self.nodes.values())

    # --- waiting ---

    async def until(self, holds: Callable[[], T | None], within: float | None = None) -> T:
        """What `holds` answers as soon as that is something true, looked at whenever something is heard.
        Raises Stuck if that takes longer than `within` seconds (None: the bound of the plan)."""
        if found := holds():
            return found
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        waiting = (holds, future)
        self.waiting.append(waiting)
        bound = self.plan.bound if within is None else within
        try:
            async with asyncio.timeout(bound):
                return await future  # type: ignore[return-value]
        except TimeoutError:
            raise Stuck(f"nothing came of it within {bound:g} s ({self})") from None
        finally:
            self.waiting.remove(waiting)

    async def outage(self, old: Agreed, since: float | None = None) -> Outage:
        """Wait for another to lead after this one. The time without a leader counts from `since`, or
        from the first sign that the old leadership has ended."""
        if since is None:
            since = await self.until(lambda: self.heard_at if self.forsaken(old) else None)
        new, at = await self.until(lambda: self.successor(old))
        return Outage(at - since, new.leader, new.term)

    def successor(self, old: Agreed) -> tuple[Agreed, float] | None:
        """Who else leads since the old leadership ended, and since when."""
        new = self.agreement
        return (new, self.agreed_at) if new and new.term > old.term and new.leader != old.leader else None

    # --- what can be done to a node; each answers when ---

    def kill(self, id: str) -> float:
        """SIGKILL: the process is gone without a word."""
        at = now()
        self.nodes[id].kill()
        self.look(at)
        return at

    def stop(self, id: str) -> float:
        """SIGSTOP: the process hangs, but its connections stand."""
        return self.pause(id, signal.SIGSTOP, State.RUNNING, State.STOPPED)

    def go_on(self, id: str) -> float:
        """SIGCONT: the process does not know that time has passed."""
        return self.pause(id, signal.SIGCONT, State.STOPPED, State.RUNNING)

    def pause(self, id: str, sent: signal.Signals, before: State, after: State) -> float:
        node, at = self.nodes[id], now()
        node.send(sent)
        if node.state is before:
            node.state = after
        self.look(at)
        return at

    def term(self, id: str) -> float:
        """SIGTERM: the process takes its leave."""
        at = now()
        self.nodes[id].send(signal.SIGTERM)
        return at

    async def restart(self, id: str) -> float:
        """Start the node's process again, once the last one is gone, and wait until it listens."""
        node = self.nodes[id]
        await node.gone()
        await self.spawn(node)
        await self.until(lambda: node.state is not State.STARTING, START_BOUND)
        self.check_started(node)
        return self.heard_at

    def transfer(self, heir: str) -> float:
        """Ask the leader to hand over to the heir."""
        at = now()
        if self.agreement:
            self.nodes[self.agreement.leader].order(f"transfer {heir} {ELECTION}")
        return at


def make_certificates(ids: list[str], directory: Path) -> None:
    """An authority, and a certificate for each node, for as long as the cluster may last."""
    made = authority()
    made.make_authority(CLUSTER, directory, days=1)
    for id in ids:
        made.issue_certificate(id, directory, days=1)
