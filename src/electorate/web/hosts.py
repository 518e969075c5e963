"""Which Host a request may name: a name that this node goes by, or an address.

A web page may let its own name stand for the address of this node (DNS rebinding). The browser then reads
here for that page, as if it were its own; but it says so, as the Host. Only a name can be turned so, an
address cannot; and a request that names no Host at all (HTTP/1.0, as some probes speak it) comes from no
browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from electorate.core.model import NodeId
from electorate.runtime.config import Config, is_loopback
from electorate.web.answers import Complaint


class Hosts:
    """The names of one node: its id, the hosts of its addresses, what `[http] hosts` adds, and loopback."""

    def __init__(self, config: Config, node: NodeId) -> None:
        http = config.http_address(node)
        own = (node, config.address(node)[0], config.listens(node)[1], *(http[:1] if http else ()))
        added = config.http.hosts if config.http else ()
        self.names = frozenset(map(canonical, (*own, *added)))
        self.domains = tuple(name.removeprefix("*") for name in self.names if name.startswith("*"))
        """What follows the star of `*.example.com`, or nothing, where each is allowed."""

    def include(self, host: str) -> bool:
        """Whether this Host, with or without a port, is one of them."""
        name = without_port(host)
        return bool(name) and (
            is_address(name) or is_loopback(name) or name in self.names or name.endswith(self.domains)
        )


def canonical(name: str) -> str:
    """As browsers write it."""
    try:
        return name.encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        return name.lower()


def without_port(host: str) -> str:
    """The name or address; nothing, if it is neither."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        sound = bracket and (not port or port.startswith(":")) and is_address(name)
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
        sound = True
    return name.lower().rstrip(".") if sound and (not port or port.isdecimal()) else ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Addressed:
    """Lets pass what is meant for this node; the rest is told what it lacks, and `refused` hears of it."""

    def __init__(self, app: ASGIApp, hosts: Hosts, refused: Callable[[Scope, str], None]) -> None:
        self.app = app
        self.hosts = hosts
        self.refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        if not host or self.hosts.include(host):
            return await self.app(scope, receive, send)
        self.refused(scope, host)
        complaint = Complaint(
            "this node does not go by the Host that was named: if it should, add that to http.hosts in its"
            " cluster file"
        )
        answer = Response(msgspec.json.encode(complaint), 421, {"Connection": "close"}, "application/json")
        return await answer(scope, receive, send)
