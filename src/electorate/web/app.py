"""The routes: what can be asked of a node over HTTP, and how it is answered.

Whatever is read is free for all who reach the address. To command takes the token; and because a browser may
be made to send what its user did not mean, it takes JSON too, and no other site's Origin. The Host header is
never looked at.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from electorate.core.model import View
from electorate.errors import UserError
from electorate.runtime.clock import now
from electorate.runtime.host import Host
from electorate.runtime.store import remedy
from electorate.version import __version__
from electorate.web import metrics, token
from electorate.web.answers import (
    Complaint,
    Elections,
    Fitness,
    Leader,
    Resign,
    Standing,
    Status,
    Transfer,
)
from electorate.web.events import Events
from electorate.web.openapi import Operation, description

READERS = 64
"""So many may read the stream of events at one time."""
PAGE, LONGEST_PAGE = 100, 1000
"""How many elections are named at once, unless asked otherwise, and at most."""
BODY = 16 << 10
"""The most bytes that a command may have."""
ANSWER = 3
"""So many leases at most a command waits for what comes of it: who resigns stands back for one of them."""
FRESH = 1.0
"""For so many seconds the last proof that the store writes is good enough."""

T = TypeVar("T")


class Api:
    """The answers of one host."""

    def __init__(self, host: Host, events: Events) -> None:
        self.host = host
        self.events = events
        self.readers = 0
        self.proof: asyncio.Future[None] | None = None
        """The newest proof that the store writes, done or under way."""
        self.asked = float("-inf")
        self.scraping = asyncio.Lock()
        """One at a time: to write many series takes long."""
        self.audit = logging.getLogger(f"electorate.{host.id}.audit")

    @property
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
            Operation("POST", "/transfer", self.transfer, "Hand over to another", commanded, (), Transfer),
            Operation("POST", "/resign", self.resign, "Hand over to anyone", commanded, (), Resign),
            Operation("GET", "/openapi.json", self.openapi, "This description", {200: "application/json"}),
        )

    # --- questions -----------------------------------------------------------------------------------

    async def leader(self, request: Request) -> Response:
        election = self.chosen(request)
        return reply(self.known_leader(election), 200 if self.host.is_leader(election) else 503)

    def known_leader(self, election: str) -> Leader:
        view, known = self.host.view(election), self.host.leader(election)
        if known is None:
            return Leader(election, None, None, view.term if view else 0, {})
        return Leader(election, known.id, known.address, known.term, dict(known.metadata))

    async def health(self, request: Request) -> Response:
        return fitness(await self.illness())

    async def illness(self) -> str | None:
        """Why this node can promise nothing, if so: its store must take a small commit within a lease."""
        host = self.host
        if host.stopping:
            return "it is stopping"
        if host.failed.done():
            return host.failed.result()
        if self.proof is None or (self.proof.done() and now() - self.asked > FRESH):
            self.proof, self.asked = host.on_disk(host.store.prove), now()
        await asyncio.wait([self.proof], timeout=max(0.0, self.asked + host.config.timing.lease - now()))
        if not self.proof.done():
            return f"its data directory has taken no write for {now() - self.asked:.1f} s"
        if error := self.proof.exception():
            return f"its data directory {remedy(error, host.id)}"
        return None

    async def ready(self, request: Request) -> Response:
        return fitness(self.absence())

    def absence(self) -> str | None:
        """Why this node takes no part, if so. It does once it knows a leader, or is one of a quorum that are
        connected and can elect one."""
        host = self.host
        if host.stopping or host.failed.done():
            return "it is stopping"
        if host.waiting:
            return host.waiting
        if any(election.view.leader is not None for election in host.node.elections.values()):
            return None
        if host.node.membership.is_quorum(host.node.reachable):
            return None
        return "it knows no leader, and cannot reach a quorum"

    async def status(self, request: Request) -> Response:
        host = self.host
        elections = self.page(sorted(host.node.elections)[:PAGE])
        status = Status(
            version=__version__,
            cluster=host.config.cluster,
            algorithm=host.config.algorithm,
            node=host.id,
            kind=host.node.kind,
            elections=elections,
            total=len(host.node.elections),
            peers=host.peers(),
            differs=host.differing(),
            waiting=host.waiting,
            awaits=host.awaited,
            ignored=host.ignored(),
        )
        return reply(status)

    async def elections(self, request: Request) -> Response:
        names = sorted(self.host.node.elections)
        limit = number(request, "limit", PAGE, LONGEST_PAGE)
        start = bisect_right(names, request.query_params.get("after", ""))
        page = names[start : start + limit]
        more = start + limit < len(names)
        return reply(Elections(self.page(page), len(names), page[-1] if more else None))

    def page(self, names: list[str]) -> list[Standing]:
        views = map(self.host.view, names)
        return [Standing(**self.host.standing(view)) for view in views if view]

    async def stream(self, request: Request) -> Response:
        election = self.chosen(request) if "election" in request.query_params else None
        last = request.headers.get("last-event-id", "")
        if last and not (last.isascii() and last.isdecimal() and len(last) < 20):
            raise HTTPException(400, "Last-Event-ID is no number that this node has given")
        if self.readers >= READERS:
            raise HTTPException(503, f"{READERS} others read the events already", {"Retry-After": "10"})
        return EventStream(self, self.events.stream(int(last) if last else None, election))

    async def metrics(self, request: Request) -> Response:
        series = number(request, "series", metrics.SERIES, self.host.config.settings.max_elections)
        async with self.scraping:
            text, kind = await metrics.exposition(self.host, series, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": kind})

    async def openapi(self, request: Request) -> Response:
        return Response(msgspec.json.encode(description(self.operations)), media_type="application/json")

    def chosen(self, request: Request) -> str:
        """The election that is asked about; the first of the configuration, if none is named."""
        return self.existing(request.query_params.get("election", self.host.config.elections[0]))

    def existing(self, election: str) -> str:
        if election in self.host.node.elections or election in self.host.config.elections:
            return election
        raise HTTPException(404, f"there is no election '{election[:200]}' here")

    # --- commands ------------------------------------------------------------------------------------

    async def transfer(self, request: Request) -> Response:
        return await self.command(request, Transfer, self.hand_over)

    async def hand_over(self, wish: Transfer) -> Response:
        self.require_leadership(wish.election)
        try:
            with self.host.transferring(wish.election, wish.to, wish.force) as led:
                return await self.outcome(wish.election, led)
        except ValueError as error:
            raise HTTPException(409, str(error)) from None

    async def resign(self, request: Request) -> Response:
        return await self.command(request, Resign, self.give_up)

    async def give_up(self, wish: Resign) -> Response:
        before = self.require_leadership(wish.election).term
        with self.host.awaiting(
            wish.election, lambda leader, term: leader is not None and term > before
        ) as led:
            self.host.resign(wish.election)
            return await self.outcome(wish.election, led)

    def require_leadership(self, election: str) -> View:
        """The view of an election that this node leads."""
        view = self.host.view(self.existing(election))
        if view is not None and view.leader == self.host.id:
            return view
        leader = self.known_leader(election)
        where = f"node {leader.leader} at {leader.address} does" if leader.leader else "nobody does"
        raise HTTPException(409, f"node {self.host.id} does not lead '{election}': {where}")

    async def outcome(self, election: str, led: asyncio.Future[None]) -> Response:
        """Who leads once that has come (200), or who leads still, because work must end first (202)."""
        deadline = now() + ANSWER * self.host.config.timing.lease
        while not (led.done() or self.events.closed or now() >= deadline):
            await asyncio.wait(
                [led, self.events.change()],
                timeout=deadline - now(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if led.done():
            led.result()
        return reply(self.known_leader(election), 200 if led.done() else 202)

    async def command(
        self, request: Request, form: type[T], obey: Callable[[T], Awaitable[Response]]
    ) -> Response:
        """Obey whoever may command, and write down who wished what, and what came of it."""
        who = f"{request.client.host}:{request.client.port}" if request.client else "unknown"
        wish: T | None = None
        try:
            self.check_sender(request)
            wish = await read(request, form)
            response = await obey(wish)
        except HTTPException as error:
            self.record(who, request.url.path, wish, f"refused, {error.status_code}: {error.detail!r}")
            raise
        self.record(who, request.url.path, wish, "done" if response.status_code == 200 else "under way")
        return response

    def record(self, who: str, path: str, wish: object, outcome: str) -> None:
        what = f"{path} {wish!r}"
        self.audit.info(
            "%s asked %s: %s", who, what, outcome, extra={"client": who, "wish": what, "outcome": outcome}
        )

    def check_sender(self, request: Request) -> None:
        """Raises `HTTPException` for one who may not command."""
        host = self.host
        if host.config.http is None or host.config.http.token_file is None:
            raise HTTPException(404, "this node takes no commands: set http.token_file in the cluster file")
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.own_origins():
            raise HTTPException(403, "a page of another site may not command this node")
        try:
            expected = token.read(host.config.path(host.config.http.token_file, host.id))
        except UserError as error:
            host.log.error("%s", error)
            raise HTTPException(503, "the token file of this node is unfit: see its log") from None
        if not token.bears(request.headers.get("authorization", ""), expected):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def own_origins(self) -> tuple[str, ...]:
        """Where a page of this node's own would come from."""
        address = self.host.config.http_address(self.host.id)
        assert address is not None
        name, port = address
        names = ("127.0.0.1", "[::1]", "localhost") if name in ("127.0.0.1", "::1", "localhost") else (name,)
        return tuple(f"http://{name}:{port}" for name in names)


class EventStream(StreamingResponse):
    """A stream of events, counted among the readers for as long as it lasts."""

    media_type = "text/event-stream"

    def __init__(self, api: Api, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.api = api

    async def __call__(self, *asgi: Any) -> None:
        self.api.readers += 1
        try:
            await super().__call__(*asgi)
        finally:
            self.api.readers -= 1


async def read(request: Request, form: type[T]) -> T:
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


def fitness(fault: str | None) -> Response:
    return reply(Fitness(fault is None, fault), 503 if fault else 200)


async def complain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return reply(Complaint(error.detail), error.status_code, error.headers)


def application(api: Api) -> Starlette:
    routes = [Route(each.path, each.endpoint, methods=[each.method]) for each in api.operations]
    app = Starlette(routes=routes, exception_handlers={HTTPException: complain})
    app.router.redirect_slashes = False  # a redirection would name the Host of the request
    return app
