"""Several hosts in one loop that serve HTTP on real sockets, and a real client for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from electorate.cli.plan import reserved_ports
from electorate.runtime.config import Config
from electorate.runtime.host import Host
from electorate.web import serving
from tests.runtime_hosts import BOUND, Cluster


class WebCluster(Cluster):
    """Hosts that serve HTTP, each with a client by its id."""

    def __init__(self, directory: Path, ports: dict[str, int], http: dict[str, int], settings: Any) -> None:
        nodes = {
            id: {
                "address": f"127.0.0.1:{port}",
                "http": f"127.0.0.1:{http[id]}",
                "metadata": {"url": f"https://{id}.example"},
            }
            for id, port in ports.items()
        }
        super().__init__(directory, ports, {"nodes": nodes, **settings})
        self.http = http
        self.clients = {
            id: httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=BOUND)
            for id, port in http.items()
        }
        self.served: dict[str, AsyncExitStack] = {}

    def config(self, **settings: Any) -> Config:
        return msgspec.structs.replace(super().config(**settings), directory=str(self.directory))

    async def serve(self, host: Host) -> None:
        self.served[host.id] = AsyncExitStack()
        await self.served[host.id].enter_async_context(serving(host))

    async def stop(self, id: str) -> None:
        host = self.hosts.pop(id)
        await host.stop()
        if id in self.served:
            await self.served.pop(id).aclose()

    async def get(self, id: str, path: str, **options: Any) -> httpx.Response:
        return await self.clients[id].get(path, **options)

    async def status_of(self, path: str) -> dict[str, int]:
        return {id: (await self.get(id, path)).status_code for id in self.hosts}


@asynccontextmanager
async def web_cluster(
    directory: Path, ids: str = "abc", absent: str = "", **settings: Any
) -> AsyncIterator[WebCluster]:
    with reserved_ports(2 * len(ids)) as ports:
        cluster = WebCluster(
            directory,
            dict(zip(ids, ports, strict=False)),
            dict(zip(ids, ports[len(ids) :], strict=True)),
            settings,
        )
        try:
            for id in ids:
                if id not in absent:
                    await cluster.serve(await cluster.start(id))
            yield cluster
        finally:
            for id in tuple(cluster.hosts):
                await cluster.stop(id)
            for client in cluster.clients.values():
                await client.aclose()
