"""The engine inside: this process is a node of the cluster, and needs no server.

async with Node("a", "cluster.toml") as node:
    async with node.election("scheduler").leadership() as lead:
        await run_scheduler(fencing_token=lead.term)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack
from weakref import WeakValueDictionary

from electorate.core.model import View
from electorate.election import NOTHING, Election, Guarantees, LeaderView, Position, Tenure
from electorate.engines.url import URL, shown
from electorate.errors import UserError
from electorate.leadership import STOP_TIMEOUT, LeadershipLost, Loss, Timekeeper
from electorate.runtime import fork
from electorate.runtime.clock import now
from electorate.runtime.config import Config, Keywords, complaints_about_metadata, configure
from electorate.runtime.control import control
from electorate.runtime.handover import Lapsed, Wish
from electorate.runtime.host import Host
from electorate.runtime.reasons import never_leads, not_leading
from electorate.runtime.telemetry import trace_elections
from electorate.web import serving

log = logging.getLogger("electorate")


class EmbeddedElection(Election):
    """An election of an embedded node."""

    def __init__(self, node: Node, name: str) -> None:
        timing = node.config.timing
        super().__init__(name, node.timekeeper, timing.lease / 4, timing.safe_lease - timing.beat)
        self.node = node
        self._position: Position = 0
        self._polling: asyncio.Task[None] | None = None
        self._yielding = False

    @property
    def guarantees(self) -> Guarantees:
        config = self.node.config
        safe = config.quorum != "textbook"
        return Guarantees(
            exclusive=safe,
            fencing=safe,
            durable=safe,
            freshest=config.algorithm in ("raft", "zab"),
            assumes=f"a {config.quorum} of the voters can be reached, each keeps its data directory, and"
            f" clocks drift by at most {config.timing.drift:.2%}",
        )

    @property
    def priority(self) -> int:
        return self.node.config.nodes[self.node.id].priority

    @property
    def position(self) -> int:
        election = self.node.host.node.elections.get(self.name) if self.node.started else None
        return election.position if election else 0

    @position.setter
    def position(self, position: Position) -> None:
        self._position = position
        self.node._used[self.name] = self
        if self.node.started:
            self.apply_position()

    def apply_position(self) -> None:
        """Tell the node the number, or begin to ask for it."""
        self.rest()
        if callable(self._position):
            self._polling = asyncio.get_running_loop().create_task(self.poll())
        else:
            self.node.host.set_position(self.name, self._position)

    def rest(self) -> None:
        """Ask for the number no more, until it is wanted again."""
        if self._polling:
            self._polling.cancel()
            self._polling = None

    async def poll(self) -> None:
        """Ask once a lease, and at once when there is a change, such as the loss of the leader."""
        while not self.closed:
            change = self.change()
            if not self.is_leader:
                await self.prepare()
            await asyncio.wait([change], timeout=self.node.config.timing.lease)

    async def prepare(self) -> None:
        if callable(self._position):
            try:
                self.node.host.set_position(self.name, await self._position())
            except Exception:
                log.exception("the position for '%s' could not be asked; the last one stays", self.name)

    @property
    def is_leader(self) -> bool:
        return self.node.started and self.node.host.is_leader(self.name)

    def tenure(self) -> Tenure | None:
        if not self.node.started:
            return None
        term, left = self.node.host.tenure(self.name)
        return Tenure(term, left) if left > 0 else None

    @property
    def yielding(self) -> bool:
        return self._yielding

    @property
    def forked(self) -> bool:
        return self.node.forked

    def check_here(self) -> None:
        self.node.check_here()

    def check_may_lead(self) -> None:
        self.check_here()
        if not (self.node.started or self.closed):
            raise RuntimeError(self.node.idle)
        if self.node.started and (reason := never_leads(self.node.host)):
            raise ValueError(f"'{self.name}' cannot be won: {reason}")

    def obstacle(self) -> str:
        return not_leading(self.node.host, self.name) if self.node.started else self.node.idle

    def contend(self) -> None:
        self.check_here()
        if self.closed:
            raise LeadershipLost(self.name, 0, self.closed)
        if self.node.started:
            self.node.host.contend(self.name)
            if callable(self._position) and self._polling is None:
                self.apply_position()
        self.contends = True
        self.node._used[self.name] = self

    def withdraw(self) -> None:
        self.check_here()
        self.contends = False
        if self.node.started:
            self.node.host.withdraw(self.name)

    def occupy(self) -> None:
        self.node.host.occupy(self.name)

    def vacate(self) -> None:
        if self.node.started:
            self.node.host.vacate(self.name)

    def freeze(self, seconds: float) -> None:
        self.check_runs()
        self.node.host.freeze(self.name, seconds)

    async def resign(self, *, seconds: float = 0.0, timeout: float | None = None) -> None:
        await self.wish(Wish(self.name, seconds=seconds), timeout)

    async def transfer(self, to: str, *, force: bool = False, timeout: float | None = None) -> LeaderView:
        view = await self.wish(Wish(self.name, to, force), timeout)
        return self.shown(view) if view else self.view

    async def wish(self, wish: Wish, timeout: float | None) -> View | None:
        """Let the leader do it, and wait. Returns who leads then, if that was asked for."""
        self.check_runs()
        timeout = 4 * self.node.config.timing.lease if timeout is None else timeout
        if not timeout >= 0:
            raise ValueError(f"timeout is {timeout:g}, and must be a number of seconds")
        what = f"'{self.name}' was not {f'handed over to {wish.to}' if wish.to else 'given up'}"
        self.wished = self.wished or self.view.role == "leader"
        handover = self.node.host.handover
        try:
            outcome = await handover.fulfil(wish, timeout, until_led=wish.to is not None)
        except ValueError as error:
            self.check_goes_on()
            raise ValueError(f"{what}: {error}" if isinstance(error, Lapsed) else str(error)) from None
        finally:
            self.wished = self.wished and self._yielding
        if not outcome.done:
            self.check_goes_on()
            raise TimeoutError(f"{what} within {timeout:g} s: {outcome.why}")
        return outcome.view

    def check_goes_on(self) -> None:
        """Raises `LeadershipLost` if the node stops, or has failed."""
        if self.closed or self.node.host.handover.stopping.done():
            raise LeadershipLost(self.name, self.view.term, self.closed or Loss.STOPPED)

    def check_runs(self) -> None:
        self.check_here()
        if not self.node.started:
            raise RuntimeError(self.node.idle)

    async def handed_over(self) -> None:
        deadline = now() + 2 * self.node.config.timing.lease
        while self.waits_for_heir and (left := deadline - now()) > 0:
            await asyncio.wait([self.change()], timeout=left)

    @property
    def waits_for_heir(self) -> bool:
        leading = self.node.host.node.leading.get(self.name) if self.node.started else None
        return leading is not None and leading.intended is not None and now() < leading.intended[1]

    def refresh(self) -> None:
        """See what the node knows now."""
        view = self.node.host.view(self.name)
        if view is not None:
            self._yielding = view.yielding
            self.view = self.shown(view)
            self.changed()

    def shown(self, view: View) -> LeaderView:
        """What a user sees of it."""
        known = self.node.host.named(view)
        reign = self.node.host.figures.reigns.get(self.name)
        return LeaderView(
            self.name,
            known.id if known else None,
            known.address if known else None,
            view.term,
            metadata=known.metadata if known else NOTHING,
            role=view.role.value,
            since=reign.since if reign and (reign.leader, reign.term) == (view.leader, view.term) else None,
            changes=reign.changes if reign else 0,
        )

    def end(self, reason: Loss) -> None:
        """All work that rests on the leadership must end."""
        self.ending = reason
        self.changed()

    def close(self, reason: Loss = Loss.STOPPED) -> None:
        if self._polling:
            self._polling.cancel()
        super().close(reason)


class Node:
    """One member of a cluster, in this process. Use it as an async context manager.

    `id` says which of the configured nodes this is (or ELECTORATE_ID does). The configuration is a file
    (`cluster.toml`, or what ELECTORATE_CONFIG names), or a mapping of the same form; environment variables
    (`ELECTORATE_*`) come before it, and keyword arguments before both. Promises are kept in the directory
    `data` (or ELECTORATE_DATA, or `./electorate-CLUSTER-ID`); after its loss, start with `rejoin=True`, and
    `without` those nodes that are gone for good; after a change of the voters, once with `new_members=True`.
    `metadata` is a small dictionary that other members learn.

    On entering, it listens and connects; it contends for nothing yet. On leaving, it tells all work that
    rests on its leaderships to end, hands them over, and closes. A node is used once. If the process would
    die of SIGTERM, it leaves properly first, with exit code 143 (`handle_sigterm=False`: not so). Work that
    has not ended `stop_timeout` seconds after that is logged, and ends with the process, with code 70
    (without SIGTERM only where `on_overrun="exit"`). A child that is forked off leads nothing, and holds none
    of the node's connections.

    Raises `UserError` for what the configuration or the machine does not allow.
    """

    def __init__(
        self,
        id: str | None = None,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        *,
        data: str | Path | None = None,
        rejoin: bool = False,
        without: Iterable[str] = (),
        new_members: bool = False,
        metadata: Mapping[str, str] | None = None,
        handle_sigterm: bool = True,
        stop_timeout: float = STOP_TIMEOUT,
        **settings: Unpack[Keywords],
    ) -> None:
        self.config = configure(config, settings)
        for what in complaints_about_metadata(metadata or {}):
            raise UserError(f"argument metadata{what}")
        if not stop_timeout >= 0:
            raise UserError(f"argument stop_timeout is {stop_timeout:g}, and must be a number of seconds")
        self.id = id = id or os.environ.get("ELECTORATE_ID") or ""
        if not id:
            raise UserError("say which node this is: Node('a', ...), or ELECTORATE_ID in the environment")
        data = data or os.environ.get("ELECTORATE_DATA") or f"electorate-{self.config.cluster}-{id}"
        self.data = Path(data)
        self.rejoin = rejoin
        self.without = tuple(without)
        self.new_members = new_members
        self.metadata = metadata
        self.handle_sigterm = handle_sigterm
        self.stop_timeout = stop_timeout
        self.timekeeper = Timekeeper()
        self.elections: WeakValueDictionary[str, EmbeddedElection] = WeakValueDictionary()
        self._used: dict[str, EmbeddedElection] = {}
        """Those of which something is wished: they live on though nobody holds them, until they are
        forgotten."""
        self.host: Host
        self.started = False
        self._around = AsyncExitStack()
        """What lets the node be asked, on this machine and over HTTP."""
        self.used = False
        self.terminated = False
        """SIGTERM has come: this process is to end."""
        self._insisting: asyncio.TimerHandle | None = None
        self._leaving = False
        if id not in self.config.nodes:
            raise UserError(f"node '{id}' is not in the cluster file; it has {', '.join(self.config.nodes)}")

    def __repr__(self) -> str:
        return f"<Node {self.id} of {self.config.cluster}>"

    def election(self, name: str | None = None) -> EmbeddedElection:
        """The election of this name (by default the first of the configuration); always the same object."""
        name = self.config.elections[0] if name is None else name
        election = self.elections.get(name)
        if election is None:
            election = self.elections[name] = EmbeddedElection(self, name)
            if self.started:
                election.refresh()
            if self.over:
                election.close(self.over)
        return election

    @property
    def over(self) -> Loss | None:
        """Why nothing can be won here any more."""
        if self.started:
            return Loss.STORE_FAILED if self.host.failed.done() else None
        return Loss.STOPPED if self.used else None

    @property
    def forked(self) -> bool:
        """This process was forked off the one that is this node."""
        return self.started and self.host.forked

    @property
    def idle(self) -> str:
        """What is to be said of a node that does not run."""
        return f"node {self.id} {'has been stopped' if self.used else 'is not started: use it in a `with`'}"

    def check_here(self) -> None:
        if self.forked:
            raise RuntimeError(
                f"process {os.getpid()} was forked off node {self.id} and is not that node: it leads nothing"
                " and knows nothing; start nodes after the fork"
            )

    def check_unused(self) -> None:
        self.check_here()
        if self.used:
            state = "runs already" if self.started else "has been stopped"
            raise RuntimeError(f"node {self.id} {state}: a node is used once, make another")

    async def start(self) -> None:
        """Listen, connect, and take part. Raises `UserError`."""
        self.check_unused()
        host = Host(
            self.config,
            self.id,
            self.data,
            rejoin=self.rejoin,
            without=self.without,
            new_members=self.new_members,
            metadata=self.metadata,
            contends=(),
        )
        host.observe(self._observe, "view", "stalled", "failed", "lapsed", "forgotten")
        trace_elections(host)
        await host.start()
        self.host = host
        self.started = self.used = True
        try:
            await self._around.enter_async_context(control(host))
            await self._around.enter_async_context(serving(host))
            self.config = host.config
        except BaseException:
            await self.stop()
            raise
        for election in tuple(self.elections.values()):
            if election._position:
                election.apply_position()
            if election.contends:
                await election.prepare()
                election.contend()
            election.refresh()

    async def stop(self) -> None:
        """End the work that rests on leaderships of this node, hand them over, close. Work has `stop_timeout`
        seconds to end, the rest takes a few leases at most."""
        self.check_here()
        if not self.started:
            return
        for election in tuple(self.elections.values()):
            election.end(Loss.STOPPED)
        await self._work_ended()
        await self.host.stop()
        await self._around.aclose()
        self.started = False
        for election in tuple(self.elections.values()):
            election.close()
        self.timekeeper.close()

    async def _work_ended(self) -> None:
        deadline = now() + self.stop_timeout
        working = self._working()
        while working and (left := deadline - now()) > 0:
            await asyncio.wait([working[0].change()], timeout=left)
            working = self._working()
        for election in working:
            for leadership in tuple(election.leaderships):
                leadership.overrun("its node stops", end=self.terminated)
            election.vacate()

    def _working(self) -> list[EmbeddedElection]:
        return [election for election in self.elections.values() if election.leaderships]

    async def __aenter__(self) -> Node:
        await self.start()
        if self.handle_sigterm:
            self._heed_sigterm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.forked:
            return
        self._leaving = True
        if self._insisting:
            self._insisting.cancel()
        try:
            await self.stop()
        except asyncio.CancelledError:
            if not self.terminated:
                raise
            await self.stop()  # the cancellation was that of SIGTERM, and came late
        finally:
            self._forget_sigterm()
        if self.terminated:
            raise SystemExit(128 + signal.SIGTERM)

    def _heed_sigterm(self) -> None:
        """If SIGTERM is to end this process, leave the node first."""
        here = threading.current_thread() is threading.main_thread()
        if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def terminate() -> None:
            self._forget_sigterm()
            self.terminated = True
            if not self._leaving:
                self._insisting = loop.call_later(self.stop_timeout, self.insist)
                task.cancel()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        fork.heeded.add(self)

    def _forget_sigterm(self) -> None:
        """From now on SIGTERM does again what it did before."""
        if self in fork.heeded:
            fork.heeded.discard(self)
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

    def insist(self) -> None:
        """SIGTERM has come, and after `stop_timeout` this node has not been left."""
        for election in self._working():
            for leadership in tuple(election.leaderships):
                leadership.overrun("SIGTERM has come", end=True)
        log.error("SIGTERM has come, and node %s has not been left in %g s", self.id, self.stop_timeout)
        os._exit(128 + signal.SIGTERM)

    def _forget(self, name: str) -> None:
        election = self._used.get(name)
        if election is not None and not election.contends:
            election.rest()
            del self._used[name]

    def _observe(self, kind: str, what: dict[str, Any]) -> None:
        if kind == "forgotten":
            self._forget(what["election"])
        elif kind == "view" and what["election"] in self.elections and self.started:
            self.elections[what["election"]].refresh()
        elif kind == "lapsed" and what["election"] in self.elections:
            self.elections[what["election"]].changed()
        elif kind in ("stalled", "failed"):
            for election in tuple(self.elections.values()):
                if election.leaderships:
                    election.end(Loss.STORE_FAILED)
                if kind == "failed":
                    election.close(Loss.STORE_FAILED)


@asynccontextmanager
async def open_url(url: URL) -> AsyncIterator[Election]:
    """`raft://a=HOST:PORT,b=HOST:PORT/ELECTION?id=a`; options are `id`, `data`, `config` (a file, in place of
    the addresses), `rejoin`, `stop_timeout`, and any key of the configuration, such as `lease=2`."""
    options = dict(url.options)
    id = options.pop("id", None)
    if not id:
        raise UserError(f"{shown(url.text)}: say which node this is, with ?id=")
    data, config = options.pop("data", None), options.pop("config", None)
    rejoin = options.pop("rejoin", "false") == "true"
    settings: Any = {**options, "algorithm": url.scheme}
    if "stop_timeout" in options:
        settings["stop_timeout"] = seconds(options["stop_timeout"])
    if url.place:
        settings["nodes"] = dict(member.partition("=")[::2] for member in url.place.split(","))
    async with Node(id, config, data=data, rejoin=rejoin, **settings) as node:
        yield node.election(url.election or None)


def seconds(text: str) -> float:
    """Raises `UserError`."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"stop_timeout={text} is not a number of seconds") from None
