"""What must outlive a crash: the promises of a node, and how often it has started. One SQLite file.

WAL with synchronous=FULL: when `commit` returns, the promises are on the disk. The directory is locked
against a second process for as long as the store is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from electorate.core.model import NodeId, Promise
from electorate.errors import UserError

SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peer (
    node TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, birth INTEGER NOT NULL, store INTEGER NOT NULL,
    rejoining INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS promise (
    election TEXT PRIMARY KEY, term INTEGER NOT NULL, backed TEXT, epoch INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Store:
    """The durable state of one node, in one directory.

    Raises `UserError` if the directory cannot be used: in use by another process, of another node,
    unreadable, or damaged.
    """

    def __init__(self, directory: Path, cluster: str, node: NodeId) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.lock = lock(directory)
        except OSError as error:
            raise UserError(
                f"data directory {directory} cannot be used ({error.strerror}): choose another with --data"
            ) from None
        try:
            self.database = self.open()
            self.identify(cluster, node)
            self.number = self.read("number", random.getrandbits(63))
            """Drawn when this store was made: a store that was lost has another."""
            self.incarnation = self.start_again()
        except sqlite3.Error as error:
            self.close()
            raise UserError(
                f"data directory {directory} is damaged or cannot be written ({error}); mend the disk, or"
                f" move the directory away and start node {node} with --rejoin"
            ) from None
        except UserError:
            self.close()
            raise

    def open(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self.directory / "electorate.db", isolation_level=None, check_same_thread=False
        )
        self.database = database
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.executescript(SCHEMA)
        return database

    def identify(self, cluster: str, node: NodeId) -> None:
        """Write down whose directory this is, or see that it is ours."""
        for key, value in (("cluster", cluster), ("node", node)):
            found = self.read(key, value)
            if found != value:
                raise UserError(
                    f"data directory {self.directory} belongs to {key} '{found}', not '{value}': "
                    "choose another with --data"
                )

    def read(self, key: str, otherwise: Any) -> Any:
        """What was written down under this key; if nothing was, write this down."""
        self.database.execute("INSERT OR IGNORE INTO identity VALUES (?, ?)", (key, otherwise))
        return self.database.execute("SELECT value FROM identity WHERE key = ?", (key,)).fetchone()[0]

    @property
    def rejoined(self) -> bool:
        """This store replaces one that was lost, and has learnt from a quorum what that had promised."""
        return bool(self.read("rejoined", 0))

    def set_rejoined(self) -> None:
        self.database.execute("INSERT OR REPLACE INTO identity VALUES ('rejoined', 1)")

    def peers(self) -> dict[NodeId, tuple[int, int, int, bool]]:
        """The newest life of each peer that was ever met: incarnation, birth, store, rejoining."""
        rows = self.database.execute("SELECT node, incarnation, birth, store, rejoining FROM peer")
        return {row[0]: (row[1], row[2], row[3], bool(row[4])) for row in rows}

    def remember(self, peer: NodeId, life: tuple[int, int, int, bool]) -> None:
        self.database.execute("INSERT OR REPLACE INTO peer VALUES (?, ?, ?, ?, ?)", (peer, *life))

    def start_again(self) -> int:
        """Raise the incarnation, durably."""
        row = self.database.execute("SELECT value FROM identity WHERE key = 'incarnation'").fetchone()
        incarnation = (row[0] if row else 0) + 1
        self.set_incarnation(incarnation)
        return incarnation

    def set_incarnation(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.database.execute("INSERT OR REPLACE INTO identity VALUES ('incarnation', ?)", (incarnation,))

    def load(self) -> dict[str, Promise]:
        rows = self.database.execute("SELECT election, term, backed, epoch FROM promise")
        return {row[0]: Promise(*row) for row in rows}

    def commit(self, promises: Iterable[Promise]) -> None:
        """Make these durable in one transaction. Raises `sqlite3.Error` if that fails."""
        rows = [(p.election, p.term, p.backed, p.epoch) for p in promises]
        self.database.execute("BEGIN IMMEDIATE")
        try:
            self.database.executemany("INSERT OR REPLACE INTO promise VALUES (?, ?, ?, ?)", rows)
            self.database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                self.database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        os.close(self.lock)


def lock(directory: Path) -> int:
    """Lock the directory for this process; the kernel frees it when the process ends, however it ends."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(
            f"data directory {directory} is in use by process {holder}: stop it, or choose another"
            " with --data"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
