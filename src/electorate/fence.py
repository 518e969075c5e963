"""Fencing, on the side of the resource: accept only tokens that are not older than the newest seen.

A leader that was stopped in mid-step does not know it until it reads its clock. What must not be done by a
leader of the past is therefore guarded where it is done: each request bears the leader's term, and an older
one than the newest is refused.

    fence = SQLiteFence("fence.db")
    fence.check(request.token, "invoices")      # raises StaleToken
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

MAX_TOKEN = 2**63 - 1

SCHEMA = "CREATE TABLE IF NOT EXISTS electorate_fence (resource TEXT PRIMARY KEY, token INTEGER NOT NULL)"
RAISE = """
INSERT INTO electorate_fence (resource, token) VALUES (?, ?)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE excluded.token >= electorate_fence.token
RETURNING token
"""


class StaleToken(Exception):
    """The token is of a leadership of the past. `newest` is the newest token that was accepted."""

    def __init__(self, resource: str, token: int, newest: int) -> None:
        super().__init__(f"token {token} for '{resource}' is stale: {newest} has been seen")
        self.resource = resource
        self.token = token
        self.newest = newest


class Fence:
    """In memory, for a resource that lives and dies with this process. Safe for threads."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()

    def newest(self, resource: str = "") -> int:
        """The newest token accepted for this resource; 0 before the first."""
        return self._newest.get(resource, 0)

    def check(self, token: int, resource: str = "") -> None:
        """Accept the token, or raise `StaleToken`. Raises `ValueError` for what is no token."""
        validate(token)
        with self._lock:
            newest = self._newest.get(resource, 0)
            if token < newest:
                raise StaleToken(resource, token, newest)
            self._newest[resource] = token


class SQLiteFence:
    """In a table of an SQLite database: durable, and shared by all processes that use the file.

    Given a path, it opens the database; given a connection, it uses that one, and `check` takes part in the
    transaction that is open there: check and write in one transaction, and nothing stale is written ever.
    Raises `sqlite3.Error` where the database cannot be used.
    """

    def __init__(self, database: str | Path | sqlite3.Connection) -> None:
        self._own = not isinstance(database, sqlite3.Connection)
        self.connection = (
            database
            if isinstance(database, sqlite3.Connection)
            else sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        )
        self._lock = threading.Lock()
        if self._own:
            self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute(SCHEMA)

    def newest(self, resource: str = "") -> int:
        """The newest token accepted for this resource; 0 before the first."""
        row = self.connection.execute(
            "SELECT token FROM electorate_fence WHERE resource = ?", (resource,)
        ).fetchone()
        return int(row[0]) if row else 0

    def check(self, token: int, resource: str = "") -> None:
        """Accept the token, durably, or raise `StaleToken`. Raises `ValueError` for what is no token."""
        validate(token)
        with self._lock:
            if not self.connection.execute(RAISE, (resource, token)).fetchall():
                raise StaleToken(resource, token, self.newest(resource))

    def close(self) -> None:
        """Close the database, if this fence has opened it."""
        if self._own:
            self.connection.close()

    def __enter__(self) -> SQLiteFence:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def validate(token: int) -> None:
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= MAX_TOKEN:
        raise ValueError(f"{token!r} is not a fencing token: a whole number from 0 to 2^63 - 1")
