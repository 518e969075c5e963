"""One URL says which engine, where, and which election.

    raft://a=10.0.0.1:7400,b=10.0.0.2:7400,c=10.0.0.3:7400/scheduler?id=a
    zab:///scheduler?config=/etc/cluster.toml&id=a

The scheme names the engine. Engines are entry points of the group `electorate.engines`, so that any package
can add one: a callable that takes a `URL` and returns an async context manager of an `Election`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from urllib.parse import parse_qsl, unquote

import msgspec

from electorate.election import Election
from electorate.errors import UserError, hint

GROUP = "electorate.engines"


class URL(msgspec.Struct, frozen=True):
    """The parts of `scheme://place/election?option=value`."""

    scheme: str
    place: str
    election: str
    options: dict[str, str]
    text: str
    """The whole, as it was given."""


def shown(text: str) -> str:
    """A URL as it may be told: without what may be a password, and without options."""
    start = text.find("://") + 3 if "://" in text else 0
    place, _, _ = text[start:].rpartition("@")[2].partition("?")
    return text[:start] + place


def parse(text: str) -> URL:
    """Raises `UserError` for what is not such a URL."""
    scheme, sign, rest = text.partition("://")
    rest, _, query = rest.partition("?")
    place, _, election = rest.partition("/")
    if not (scheme and sign):
        raise UserError(
            f"'{shown(text)}' is not a URL such as raft://a=10.0.0.1:7400,b=10.0.0.2:7400/scheduler?id=a"
        )
    options = parse_qsl(query, keep_blank_values=True)
    if len(dict(options)) < len(options):
        raise UserError(f"'{shown(text)}' gives an option twice")
    return URL(scheme, unquote(place), unquote(election), dict(options), text)


def connect(url: str) -> AbstractAsyncContextManager[Election]:
    """Open an election by its URL, for the time of an `async with`. Raises `UserError` for a URL that makes
    no sense; what else can go wrong, the engine tells."""
    parsed = parse(url)
    engines = {point.name: point for point in entry_points(group=GROUP)}
    if parsed.scheme not in engines:
        known = hint(parsed.scheme, sorted(engines))
        raise UserError(f"there is no engine '{parsed.scheme}'; {known}")
    opened: AbstractAsyncContextManager[Election] = engines[parsed.scheme].load()(parsed)
    return opened
