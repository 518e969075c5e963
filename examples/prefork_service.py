"""A web service in several processes, started by a server that forks: each is a node, and one of them works.

    uvicorn prefork_service:app --workers 3
    gunicorn prefork_service:app --workers 3 --worker-class uvicorn_worker.UvicornWorker

The server gives its processes no names, so each takes the first id of `cluster.toml` that nobody has taken.
When one ends, and the server starts another in its place, that one takes over its id, and its promises.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from electorate import InUse, Leadership, Node

IDS = ("a", "b", "c")

log = logging.getLogger(__name__)


async def started() -> Node:
    """A node that no other process is, as soon as there is one."""
    while True:
        for id in IDS:
            node = Node(id, "cluster.toml", handle_sigterm=False)
            try:
                await node.start()
            except InUse:
                continue
            return node
        log.warning("%s are taken: this process is no node until one of them is free", ", ".join(IDS))
        await asyncio.sleep(1.0)


async def be_a_node(app: Starlette) -> None:
    node = await started()
    app.state.election = node.election("service")

    async def work(lead: Leadership) -> None:
        while True:
            print(f"{time.monotonic():.4f} {node.id} works in term {lead.term}", flush=True)
            await asyncio.sleep(0.1)

    try:
        await app.state.election.run(work, on_error="restart")
    except Exception:
        log.exception("node %s contends no longer", node.id)
    finally:
        await node.stop()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.election = None
    background = asyncio.create_task(be_a_node(app))  # after the fork: never where the module is imported
    yield
    background.cancel()
    await asyncio.wait([background])


async def home(request: Request) -> JSONResponse:
    election = request.app.state.election
    leader = election.leader if election else None
    return JSONResponse({"leader": leader and leader.id, "here": election is not None})


app = Starlette(routes=[Route("/", home)], lifespan=lifespan)

if __name__ == "__main__":
    sys.exit("usage: uvicorn prefork_service:app --workers 3")
