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

from electorate.election import NOTHING, Election, Guarantees, LeaderView, Position, Tenure
from electorate.engines.url import URL, shown
from electorate.errors import UserError
from electorate.leadership import Loss, Timekeeper
from electorate.runtime.config import Config, Keywords, complaints_about_metadata, configure
from electorate.runtime.control import control
from electorate.runtime.host import Host
from electorate.runtime.telemetry import trace_elections
from electorate.web import serving

log = logging.getLogger("electorate")


class EmbeddedElection(Election):
    """An election of an embedded node."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__(name, node.timekeeper, node.config.timing.lease / 4)
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
        if self.node.started:
            self.apply_position()

    def apply_position(self) -> None:
        """Tell the node the number, or begin to ask for it."""
        if self._polling:
            self._polling.cancel()
            self._polling = None
        if callable(self._position):
            self._polling = asyncio.get_running_loop().create_task(self.poll())
        else:
            self.node.host.set_position(self.name, self._position)

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

    def contend(self) -> None:
        self.contends = True
        if self.node.started:
            self.node.host.contend(self.name)

    def withdraw(self) -> None:
        self.contends = False
        if self.node.started:
            self.node.host.withdraw(self.name)

    def occupy(self) -> None:
        self.node.host.occupy(self.name)

    def vacate(self) -> None:
        if self.node.started:
            self.node.host.vacate(self.name)

    async def resign(self) -> None:
        if not self.is_leader:
            raise ValueError(f"node {self.node.id} does not lead '{self.name}'")
        self.wished = True
        self.node.host.resign(self.name)
        while self.view.role == "leader":
            await asyncio.wait([self.change()])

    async def transfer(self, to: str, *, force: bool = False) -> LeaderView:
        self.wished = True
        with self.node.host.transferring(self.name, to, force) as led:
            await asyncio.wait_for(led, 4 * self.node.config.timing.lease)
        return self.view

    def refresh(self) -> None:
        """See what the node knows now."""
        view = self.node.host.view(self.name)
        if view is None:
            return
        self._yielding = view.yielding
        known = self.node.host.leader(self.name)
        self.view = LeaderView(
            self.name,
            known.id if known else None,
            known.address if known else None,
            view.term,
            known.metadata if known else NOTHING,
            view.role.value,
        )
        self.changed()

    def end(self, reason: Loss) -> None:
        """All work that rests on the leadership must end."""
        self.ending = reason
        self.changed()

    def close(self) -> None:
        if self._polling:
            self._polling.cancel()
        super().close()


class Node:
    """One member of a cluster, in this process. Use it as an async context manager.

    `id` says which of the configured nodes this is (or ELECTORATE_ID does). The configuration is a file
    (`cluster.toml`, or what ELECTORATE_CONFIG names), or a mapping of the same form; environment variables
    (`ELECTORATE_*`) come before it, and keyword arguments before both. Promises are kept in the directory
    `data` (or ELECTORATE_DATA, or `./electorate-CLUSTER-ID`); after its loss, start with `rejoin=True`, and
    `without` those nodes that are gone for good; after a change of the voters, once with `new_members=True`.
    `metadata` is a small dictionary that other members learn.

    On entering, it listens and connects; it contends for nothing yet. On leaving, it tells all work that
    rests on its leaderships to end, hands them over, and closes. If the process would die of SIGTERM, it
    leaves properly first, with exit code 143 (`handle_sigterm=False`: not so). A child that is forked off
    leads nothing, and holds none of the node's connections.

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
        **settings: Unpack[Keywords],
    ) -> None:
        self.config = configure(config, settings)
        for what in complaints_about_metadata(metadata or {}):
            raise UserError(f"argument metadata{what}")
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
        self.timekeeper = Timekeeper()
        self.elections: dict[str, EmbeddedElection] = {}
        self.host: Host
        self.started = False
        self._around = AsyncExitStack()
        """What lets the node be asked, on this machine and over HTTP."""
        self._terminated = False
        if id not in self.config.nodes:
            raise UserError(f"node '{id}' is not in the cluster file; it has {', '.join(self.config.nodes)}")

    def __repr__(self) -> str:
        return f"<Node {self.id} of {self.config.cluster}>"

    def election(self, name: str | None = None) -> EmbeddedElection:
        """The election of this name (by default the first of the configuration); always the same object."""
        name = self.config.elections[0] if name is None else name
        if name not in self.elections:
            self.elections[name] = EmbeddedElection(self, name)
            if self.started:
                self.elections[name].refresh()
        return self.elections[name]

    async def start(self) -> None:
        """Listen, connect, and take part. Raises `UserError`."""
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
        host.observe(self._observe, "view", "stalled", "failed")
        trace_elections(host)
        await host.start()
        self.host = host
        self.started = True
        try:
            await self._around.enter_async_context(control(host))
            await self._around.enter_async_context(serving(host))
            self.config = host.config
        except BaseException:
            await self.stop()
            raise
        for election in self.elections.values():
            election.apply_position()
            if election.contends:
                await election.prepare()
                election.contend()
            election.refresh()

    async def stop(self) -> None:
        """End the work that rests on leaderships of this node, hand them over, close."""
        if not self.started:
            return
        for election in self.elections.values():
            election.end(Loss.STOPPED)
        for election in self.elections.values():
            while election.leaderships:
                await asyncio.wait([election.change()])
        await self.host.stop()
        await self._around.aclose()
        self.started = False
        for election in self.elections.values():
            election.close()
        self.timekeeper.close()

    async def __aenter__(self) -> Node:
        await self.start()
        if self.handle_sigterm:
            self._heed_sigterm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._terminated:
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
            loop.remove_signal_handler(signal.SIGTERM)
            self._terminated = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, terminate)

    def _observe(self, kind: str, what: dict[str, Any]) -> None:
        if kind == "view" and what["election"] in self.elections and self.started:
            self.elections[what["election"]].refresh()
        elif kind in ("stalled", "failed"):
            for election in self.elections.values():
                if election.leaderships:
                    election.end(Loss.STORE_FAILED)


@asynccontextmanager
async def open_url(url: URL) -> AsyncIterator[Election]:
    """`raft://a=HOST:PORT,b=HOST:PORT/ELECTION?id=a`; options are `id`, `data`, `config` (a file, in place of
    the addresses), `rejoin`, and any key of the configuration, such as `lease=2`."""
    options = dict(url.options)
    id = options.pop("id", None)
    if not id:
        raise UserError(f"{shown(url.text)}: say which node this is, with ?id=")
    data, config = options.pop("data", None), options.pop("config", None)
    rejoin = options.pop("rejoin", "false") == "true"
    settings: Any = {**options, "algorithm": url.scheme}
    if url.place:
        settings["nodes"] = dict(member.partition("=")[::2] for member in url.place.split(","))
    async with Node(id, config, data=data, rejoin=rejoin, **settings) as node:
        yield node.election(url.election or None)
