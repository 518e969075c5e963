"""Several hosts in one event loop, over real connections and real files, for the tests of the runtime."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import msgspec

from electorate.cli.node import runner
from electorate.cli.plan import reserved_ports
from electorate.core.configuration import configuration, digests
from electorate.core.identity import Start
from electorate.runtime.config import Config, check
from electorate.runtime.host import Host
from electorate.runtime.wire import (
    VERSIONS,
    Greeting,
    Refused,
    Said,
    Welcome,
    answers,
    frame,
)

BOUND = 30.0
"""Seconds: far more than anything here takes."""
E = "main"

P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an asynchronous test in the loop that nodes run in."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * BOUND):
                await test(*args, **kwargs)

        with runner() as loop:
            loop.run(bounded())

    return run


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition, looking again and again, but not forever."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 (a condition of many hosts has no one event)
            await asyncio.sleep(0.005)


class Cluster:
    """Hosts by id, and what each has reported."""

    def __init__(self, directory: Path, ports: dict[str, int], settings: dict[str, Any]) -> None:
        self.directory = directory
        self.ports = ports
        self.settings = settings
        self.hosts: dict[str, Host] = {}
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def config(self, **settings: Any) -> Config:
        nodes = {id: {"address": f"127.0.0.1:{port}"} for id, port in self.ports.items()}
        timing = {"beat": 0.1, "lease": 2.0}
        content = {"cluster": "demo", "nodes": nodes, "timing": timing, **self.settings, **settings}
        return check(content)

    def greeting(
        self, node: str, to: str, start: Start, shown: Start | None = None, /, **said: Any
    ) -> Greeting:
        """What this node would say, configured as all are."""
        config = self.config()
        safety, rest = map(digests, configuration(config.membership, config.settings))
        made = Greeting(VERSIONS, config.cluster, node, to, Said(start, shown), None, safety, rest)
        return msgspec.structs.replace(made, **said)

    async def start(self, id: str, config: Config | None = None, **options: Any) -> Host:
        host = Host(config or self.config(), id, self.directory / id, **options)
        host.ward.wanted = False  # which would wait for the end of this very process
        host.observe(lambda kind, what: self.events.append((id, kind, what)))
        self.hosts[id] = host
        await host.start()
        return host

    def saw(self, id: str, kind: str, **what: Any) -> bool:
        """Whether this node has reported that."""
        return any(
            (node, event) == (id, kind) and what.items() <= told.items() for node, event, told in self.events
        )

    async def stop(self, id: str) -> None:
        await self.hosts.pop(id).stop()

    def leader(self, *among: str) -> Host | None:
        """The one host that leads, if all that run (or these) name it."""
        hosts = [self.hosts[id] for id in among or self.hosts]
        leading = [host for host in hosts if host.is_leader(E)]
        named = {view.leader if (view := host.view(E)) else None for host in hosts}
        return leading[0] if len(leading) == 1 and named == {leading[0].id} else None

    async def agreed(self, *among: str, but: str = "") -> Host:
        """Wait until all name one leader, which knows it."""
        await until(lambda: (found := self.leader(*among)) and found.id != but)
        found = self.leader(*among)
        assert found
        return found


@asynccontextmanager
async def cluster(
    directory: Path, ids: str = "abc", absent: str = "", **settings: Any
) -> AsyncIterator[Cluster]:
    """A cluster of these nodes, all started except the absent ones; stopped at the end."""
    with reserved_ports(len(ids)) as ports:
        made = Cluster(directory, dict(zip(ids, ports, strict=True)), settings)
        try:
            for id in ids:
                if id not in absent:
                    await made.start(id)
            yield made
        finally:
            for id in tuple(made.hosts):
                await made.stop(id)


async def crash(at: Cluster, id: str) -> None:
    """What the end of a process does: everything is closed, nothing is said."""
    host = at.hosts.pop(id)
    host.stopping = True
    host.timers.clear()
    host.refuse_calls()
    for link in host.links.values():
        link.drop()
        link.close()
    for incoming in tuple(host.incoming.values()):
        incoming.abort()
    host.close_store()


@contextmanager
def undisturbed(cluster: Cluster) -> Iterator[None]:
    """All through this the same leader leads the same term, and nobody has seen another."""
    seen = len(cluster.events)
    yield
    assert cluster.leader()
    assert [event for event in cluster.events[seen:] if event[1] in ("view", "stalled")] == []


@contextmanager
def blocked(directory: Path) -> Iterator[None]:
    """No store in this directory can be written: a directory is where its journal is to be."""
    journal = directory / "electorate.db-journal"
    journal.unlink(missing_ok=True)
    journal.mkdir()
    try:
        yield
    finally:
        journal.rmdir()


class Stranger:
    """A connection to a host, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def greet(self, greeting: Greeting) -> Welcome | Refused:
        self.say(frame(greeting))
        decoder = answers()
        async with asyncio.timeout(BOUND):
            while data := await self.reader.read(4096):
                for answer in decoder.feed(data):
                    assert isinstance(answer, Welcome | Refused)
                    return answer
        raise AssertionError("closed without an answer")

    async def closed(self) -> None:
        """Wait until the other side has closed it."""
        async with asyncio.timeout(BOUND):
            try:
                while await self.reader.read(4096):
                    pass
            except ConnectionError:
                return


@asynccontextmanager
async def stranger(port: int, source: str = "127.0.0.1") -> AsyncIterator[Stranger]:
    """From another address of this machine than the nodes have, if that is wished."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, family=socket.AF_INET, local_addr=(source, 0)
    )
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()
