"""A web service whose replicas all answer, and of which one does the work in the background.

    PORT=8000 python web_service.py a      8001 for b, 8002 for c

`curl localhost:8000` tells who leads, and where that one serves: the url is what the leader has told the
others of itself. The same lifespan serves FastAPI, whose applications take one as Starlette's do.

If the work fails, that is logged, another replica leads, and this one contends again after a pause. Without
`on_error="restart"` the task would end there, unseen, and with it the candidacy of this replica.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from electorate import Leadership, Node

if len(sys.argv) != 2 or "PORT" not in os.environ:
    sys.exit("usage: PORT=8000 python web_service.py ID    (a, b or c, as in cluster.toml)")
ME = sys.argv[1]
PORT = int(os.environ["PORT"])


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    url = f"http://127.0.0.1:{PORT}"
    async with Node(ME, "cluster.toml", metadata={"url": url}, handle_sigterm=False) as node:
        app.state.election = node.election("service")
        supervised = app.state.election.run(work, on_error="restart")
        background = asyncio.create_task(supervised)
        yield
        background.cancel()
        await asyncio.wait([background])


async def work(lead: Leadership) -> None:
    while True:
        print(f"{time.monotonic():.4f} {ME} works in term {lead.term}", flush=True)
        await asyncio.sleep(0.1)


async def home(request: Request) -> JSONResponse:
    leader = request.app.state.election.leader
    return JSONResponse({"leader": leader and {"id": leader.id, "term": leader.term, **leader.metadata}})


app = Starlette(routes=[Route("/", home)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
