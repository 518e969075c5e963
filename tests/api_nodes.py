"""Nodes as users make them, for the tests of the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from electorate import Node
from electorate.cli.plan import reserved_ports
from electorate.runtime.clock import now

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
        return Node(id, handle_sigterm=False, **(self.arguments(id) | settings))


@contextmanager
def nodes(directory: Path, ids: str = "abc", **settings: Any) -> Iterator[Maker]:
    with reserved_ports(len(ids)) as ports:
        addresses = {id: f"127.0.0.1:{port}" for id, port in zip(ids, ports, strict=True)}
        yield Maker(directory, addresses, settings)


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
