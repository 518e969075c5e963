"""Nodes as users make them, for the tests of the API."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from electorate import Node
from electorate.cli.plan import reserved_ports
from electorate.engines.embedded import EmbeddedElection
from electorate.runtime.clock import now
from tests.runtime_hosts import until

LEASE = 1.0


class Maker:
    """Makes nodes of one cluster, again and again."""

    def __init__(self, directory: Path, addresses: dict[str, str], settings: dict[str, Any]) -> None:
        self.directory = directory
        self.addresses = addresses
        self.settings = {"lease": LEASE, "beat": 0.1, **settings}

    def arguments(self, id: str) -> dict[str, Any]:
        return {"nodes": self.addresses, "data": self.directory / id, **self.settings}

    def __call__(self, id: str, **settings: Any) -> Node:
        return Node(id, **({"handle_sigterm": False} | self.arguments(id) | settings))


@contextmanager
def nodes(directory: Path, ids: str = "abc", **settings: Any) -> Iterator[Maker]:
    with reserved_ports(len(ids)) as ports:
        addresses = {id: f"127.0.0.1:{port}" for id, port in zip(ids, ports, strict=True)}
        yield Maker(directory, addresses, settings)


Elections = dict[str, EmbeddedElection]


@asynccontextmanager
async def cluster(directory: Path, ids: str = "abc", **settings: Any) -> AsyncIterator[Elections]:
    """The election "main" on each of these nodes, all connected."""
    with nodes(directory, ids, **settings) as make:
        async with AsyncExitStack() as stack:
            made = [await stack.enter_async_context(make(id)) for id in ids]
            await until(lambda: all(link.connected for node in made for link in node.host.links.values()))
            yield {node.id: node.election() for node in made}


@contextmanager
def told_overrun() -> Iterator[threading.Event]:
    """Set once work is said to go on too long."""
    told = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "goes on though its lease" in record.getMessage():
                told.set()

    ear = Ear()
    logging.getLogger("electorate").addHandler(ear)
    try:
        yield told
    finally:
        logging.getLogger("electorate").removeHandler(ear)


PROGRAM = """
import asyncio, logging, os, sys, threading, time
from electorate import Node

async def main():
    async with Node(sys.argv[1], nodes=dict(n.split("=") for n in sys.argv[2].split(",")), data=sys.argv[3],
                    lease=float(sys.argv[4]), beat=0.1, stop_timeout=float(sys.argv[5])) as node:
        election = node.election()
        async with election.leadership(on_overrun="exit") as lead:
            print("leads", flush=True)
            {body}

asyncio.run(main())
"""


def program(
    make: Maker, id: str, body: str, lease: str = "1.0", stop_timeout: str = "10.0"
) -> subprocess.Popen[str]:
    """A process of its own that leads, and then does this."""
    place = ",".join(f"{id}={address}" for id, address in make.addresses.items())
    source = PROGRAM.format(body=body)
    arguments = [id, place, str(make.directory / id), lease, stop_timeout]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", source, *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # a line is to be written whole
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Log:
    """When which work was done."""

    def __init__(self) -> None:
        self.spans: list[list[Any]] = []

    @contextmanager
    def work(self, who: str) -> Iterator[None]:
        span = [now(), float("inf"), who]
        self.spans.append(span)
        try:
            yield
        finally:
            span[1] = now()

    def overlaps(self) -> list[tuple[Any, Any]]:
        """Pairs of works of which one began before the other had ended."""
        spans = sorted(self.spans)
        return [(a, b) for a, b in pairwise(spans) if b[0] < a[1]]
