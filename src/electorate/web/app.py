"""The routes: what can be asked of a node over HTTP, and how it is answered.

Whatever is read is free for all who reach the address, and name a Host that this node goes by (see `hosts`).
To command takes the token; and because a browser may be made to send what its user did not mean, it takes
JSON too, and no other site's Origin.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.figures import Refusal
from electorate.runtime.hearsay import Hearsay, heard
from electorate.runtime.host import Host
from electorate.runtime.reasons import no_election
from electorate.version import __version__
from electorate.web import metrics, state, token
from electorate.web.answers import Complaint, Elections, Fitness, Freeze, Leader, Resign, Status, Transfer
from electorate.web.commands import Commands, Outcome
from electorate.web.events import Events
from electorate.web.health import Health
from electorate.web.hosts import Addressed, Hosts
from electorate.web.openapi import Operation, description
from electorate.web.rooms import Room, Rooms
from electorate.web.tls import Certificate

READERS = 64
"""So many may read the stream of events at one time,"""
QUESTIONS = 48
"""ask for more than who leads,"""
CHECKS = 32
"""ask whether the node is well,"""
COMMANDS = 16
"""or command."""
PAGE, LONGEST_PAGE = 100, 1000
"""How many elections are named at once, unless asked otherwise, and at most."""
BODY = 16 << 10
"""The most bytes that a command may have."""
TURNS = 5
"""In so many turns of the loop it has read the end of what it has begun to read."""
Wish = TypeVar("Wish", Transfer, Resign, Freeze)


class Api:
    """The answers of one host, given in the thread of HTTP."""

    def __init__(
        self, host: Host, events: Events, commands: Commands, certificate: Certificate | None = None
    ) -> None:
        self.host = host
        self.certificate = certificate
        self.events = events
        self.commands = commands
        self.health_of_node = Health(host)
        self.turn = asyncio.Lock()
        """One long answer at a time: those who have asked for none do not wait for all of them."""
        self.scraping = asyncio.Lock()
        self.closing = threading.Event()
        self.audit = logging.getLogger(f"electorate.{host.id}.audit")
        self.log = logging.getLogger(f"electorate.{host.id}.http")
        self.hearsay = Hearsay(now)
        """Of whom was refused."""

    def close(self) -> None:
        """Let every answer end."""
        self.closing.set()
        self.events.close()
        self.health_of_node.close()

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        leads = {200: Leader, 503: Leader, 404: Complaint}
        fit = {200: Fitness, 503: Fitness}
        refused = dict.fromkeys((400, 401, 403, 404, 409, 413, 415, 503), Complaint)
        commanded = {200: Leader, 202: Leader, **refused}
        by_name = ("election",)
        return (
            Operation("GET", "/leader", self.leader, "200 if this node provably leads now", leads, by_name),
            Operation("OPTIONS", "/leader", self.leader, "The same", leads, by_name),
            Operation("GET", "/health", self.health, "Whether its loop turns and its store writes", fit),
            Operation("GET", "/ready", self.ready, "Whether it takes part", fit),
            Operation("GET", "/status", self.status, "What this node knows", {200: Status}),
            Operation(
                "GET",
                "/elections",
                self.elections,
                "All elections, page by page",
                {200: Elections, 400: Complaint},
                ("after", "limit"),
            ),
            Operation(
                "GET",
                "/events",
                self.stream,
                "Every change of view, as server-sent events that resume by Last-Event-ID",
                {200: "text/event-stream", 400: Complaint, 404: Complaint, 503: Complaint},
                by_name,
            ),
            Operation(
                "GET",
                "/metrics",
                self.metrics,
                "What it measures, for Prometheus",
                {200: "text/plain", 400: Complaint},
                ("series",),
            ),
            Operation(
                "POST", "/transfer", self.transfer, "Have the leader hand over", commanded, (), Transfer
            ),
            Operation("POST", "/resign", self.resign, "Have the leader resign", commanded, (), Resign),
            Operation("POST", "/freeze", self.freeze, "Do not contend for a while", commanded, (), Freeze),
            Operation("GET", "/openapi.json", self.openapi, "This description", {200: "application/json"}),
        )

    # --- questions -----------------------------------------------------------------------------------

    async def leader(self, request: Request) -> Response:
        leads, leader = state.leader(self.host, self.chosen(request))
        return reply(leader, 200 if leads else 503)

    async def health(self, request: Request) -> Response:
        return fitness(await self.health_of_node.illness())

    async def ready(self, request: Request) -> Response:
        return fitness(self.absence())

    def absence(self) -> str | None:
        """Why this node takes no part, if so. It does once it knows a leader, or is one of a quorum that are
        connected and can elect one."""
        host = self.host
        if host.stopping or host.failed.done():
            return "it is stopping"
        if host.no_store:
            return host.no_store
        if waiting := host.waiting:
            return waiting
        if state.can_elect(host) or state.knows_a_leader(host):
            return None
        return "it knows no leader, and cannot reach a quorum"

    async def status(self, request: Request) -> Response:
        host = self.host
        async with self.turn:
            first = state.page(host, "", PAGE)
            status = Status(
                version=__version__,
                cluster=host.config.cluster,
                algorithm=host.config.algorithm,
                node=host.id,
                kind=host.node.kind,
                elections=first.elections,
                total=first.total,
                peers=host.peers(),
                lost_since=host.lost_since(),
                speaks=host.versions,
                versions=host.spoken(),
                unreached=host.unreached(),
                no_quorum=host.contact.no_quorum,
                no_store=host.no_store,
                resists=host.resists,
                differs=host.differing(),
                waiting=host.waiting,
                awaits=host.awaited,
                ignored=host.ignored(),
            )
            return await unhurried(reply(status))

    async def elections(self, request: Request) -> Response:
        limit = number(request, "limit", PAGE, LONGEST_PAGE)
        async with self.turn:
            return await unhurried(reply(state.page(self.host, request.query_params.get("after", ""), limit)))

    async def stream(self, request: Request) -> Response:
        election = self.chosen(request) if "election" in request.query_params else None
        last = request.headers.get("last-event-id", "")
        if last and not (last.isascii() and last.isdecimal() and len(last) < 20):
            raise HTTPException(400, "Last-Event-ID is no number that this node has given")
        events = self.events.stream(int(last) if last else None, election)
        return StreamingResponse(events, media_type="text/event-stream")

    async def metrics(self, request: Request) -> Response:
        series = number(request, "series", metrics.SERIES, self.host.config.settings.max_elections)
        accept = request.headers.get("accept", "")
        end = self.certificate.end if self.certificate else 0.0
        async with self.scraping:
            exposition = await asyncio.to_thread(
                metrics.exposition, self.host, series, accept, self.closing, end
            )
        return Response(exposition.text, headers={"Content-Type": exposition.kind})

    async def openapi(self, request: Request) -> Response:
        return Response(self.described, media_type="application/json")

    @cached_property
    def described(self) -> bytes:
        return msgspec.json.encode(description(self.operations))

    def chosen(self, request: Request) -> str:
        """The election that is asked about; the first of the configuration, if none is named."""
        return self.existing(request.query_params.get("election", self.host.config.elections[0]))

    def existing(self, election: str) -> str:
        if complaint := no_election(self.host, election):
            raise HTTPException(404, complaint)
        return election

    # --- commands ------------------------------------------------------------------------------------

    async def transfer(self, request: Request) -> Response:
        return await self.command(request, Transfer, self.commands.transfer)

    async def resign(self, request: Request) -> Response:
        return await self.command(request, Resign, self.commands.resign)

    async def freeze(self, request: Request) -> Response:
        return await self.command(request, Freeze, self.commands.freeze)

    async def command(
        self, request: Request, form: type[Wish], obey: Callable[[Wish], Awaitable[Outcome]]
    ) -> Response:
        """Obey whoever may command, and write down who wished what, and what came of it."""
        who = f"{request.client.host}:{request.client.port}" if request.client else "unknown"
        wish: Wish | None = None
        try:
            self.check_sender(request)
        except HTTPException as error:
            self.refuse(who, request, error)
            raise
        try:
            wish = await read(request, form)
            self.existing(wish.election)
            if await hung_up(request):
                raise HTTPException(408, "the caller has hung up: nothing was done")
            done, leader = await obey(wish)
        except HTTPException as error:
            outcome = f"refused, {error.status_code}: {error.detail!r}"
            self.record(who, str(wish or request.url.path), outcome)
            raise
        self.record(who, str(wish), "done" if done else "under way")
        return reply(leader, 200 if done else 202)

    def refuse(self, who: str, request: Request, error: HTTPException) -> None:
        """Whoever may not command is counted, and written down as far as there is room."""
        reason: Refusal = "token" if error.status_code == 401 else "command"
        self.host.figures.refusals[reason] += 1
        caller = request.client.host if request.client else "unknown"
        if self.hearsay.hear(("refusing", "callers", reason), f"{caller}: {error.detail}"):
            self.record(who, request.url.path, f"refused, {error.status_code}: {error.detail!r}")

    def misdirect(self, scope: Scope, host: str) -> None:
        """So is whoever means another host."""
        self.host.figures.refusals["host"] += 1
        caller = scope["client"][0] if scope["client"] else "unknown"
        complaint = f"refusing {caller}, who calls this node '{heard(host)}': that is not in http.hosts"
        if self.hearsay.hear(("refusing", "callers", "host"), complaint):
            self.log.warning("%s", complaint)

    def record(self, who: str, what: str, outcome: str) -> None:
        self.audit.info(
            "%s asked for %s: %s", who, what, outcome, extra={"client": who, "wish": what, "outcome": outcome}
        )

    def check_sender(self, request: Request) -> None:
        """Raises `HTTPException` for one who may not command."""
        host = self.host
        if host.config.http is None or host.config.http.token_file is None:
            raise HTTPException(404, "this node takes no commands: set http.token_file in the cluster file")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in own_origins(request):
            raise HTTPException(403, "a page of another site may not command this node")
        try:
            expected = token.read(host.config.path(host.config.http.token_file, host.id))
        except UserError as error:
            host.log.error("%s", error)
            raise HTTPException(503, "the token file of this node is unfit: see its log") from None
        if not token.bears(request.headers.get("authorization", ""), expected):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})


def own_origins(request: Request) -> tuple[str, ...]:
    """Where a page of this node's own would come from: it names the same host, which was found to be one of
    ours. A proxy before it may speak HTTPS where this node does not."""
    host = request.headers.get("host", "").lower()
    return f"https://{host}", *((f"http://{host}",) if request.scope["scheme"] == "http" else ())


async def read(request: Request, form: type[Wish]) -> Wish:
    """The JSON that was sent. Raises `HTTPException` if it is something else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send it as Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise HTTPException(413, f"a command has at most {BODY} bytes")
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"not what {form.__name__} needs: {error}") from None


async def hung_up(request: Request) -> bool:
    """Whether the caller has gone: perhaps long ago, if this process was stopped meanwhile. The loop learns
    of that some turns after it has read the last word."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return await request.is_disconnected()


def number(request: Request, name: str, default: int, most: int) -> int:
    """A parameter of the query that is a number from 0 to `most`."""
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) < 10 and int(given) <= most):
        raise HTTPException(400, f"{name} is a number from 0 to {most}")
    return int(given)


def reply(answer: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


async def unhurried(response: Response) -> Response:
    """A long answer was made: let the loop turn, and rest, before whoever is next has its turn."""
    await asyncio.sleep(0)
    return response


def fitness(fault: str | None) -> Response:
    return reply(Fitness(fault is None, fault), 503 if fault else 200)


async def complain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return reply(Complaint(error.detail), error.status_code, error.headers)


def routed(api: Api) -> Starlette:
    routes = [Route(each.path, each.endpoint, methods=[each.method]) for each in api.operations]
    app = Starlette(routes=routes, exception_handlers={HTTPException: complain})
    app.router.redirect_slashes = False  # a redirection would name the Host of the request
    return app


def application(api: Api) -> ASGIApp:
    admitted = Rooms(routed(api), rooms())
    return Addressed(admitted, Hosts(api.host.config, api.host.id), api.misdirect)


def rooms() -> dict[str, Room]:
    """By path. Who leads and who is ready is answered at once, and so needs none."""
    questions = Room(QUESTIONS, "are asking", 1)
    commands = Room(COMMANDS, "are commanding", 1)
    return {
        "/events": Room(READERS, "read the events", 10),
        "/health": Room(CHECKS, "ask for its health", 1),
        **dict.fromkeys(("/status", "/elections", "/metrics", "/openapi.json"), questions),
        **dict.fromkeys(("/transfer", "/resign", "/freeze"), commands),
    }
