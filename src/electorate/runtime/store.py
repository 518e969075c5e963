"""What must outlive a crash: the promises of a node, and how often it has started. One SQLite file.

When a write returns, it is on the disk, and in the one file that is read back. That is why there is a
rollback journal and no write-ahead log: SQLite takes a log with a damaged end for a shorter one, and would
forget without a word what was promised. Whatever else happens to the file is found at the next start, because
each write renews a seal over all rows. The directory is locked against a second process for as long as the
store is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from electorate.core.model import NodeId, Promise
from electorate.errors import UserError

T = TypeVar("T")

SCHEMA = """
CREATE TABLE identity (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE peer (
    node TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, birth INTEGER NOT NULL, store INTEGER NOT NULL,
    rejoining INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE promise (
    election TEXT PRIMARY KEY, term INTEGER NOT NULL, backed TEXT, epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE seal (of TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

TABLES = ("identity", "peer", "promise")

Row = tuple[str | int | None, ...]

UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
}
"""With these errors the disk is at fault, not what is on it."""


PATIENCE = 60.0
"""Seconds to wait for another program that has locked the file, such as a backup: a stall, not a failure."""


class Store:
    """The durable state of one node, in one directory.

    Raises `UserError` if the directory cannot be used: in use by another process, of another node,
    not to be written, or damaged.
    """

    def __init__(self, directory: Path, cluster: str, node: NodeId) -> None:
        self.directory = directory
        self.marks: dict[tuple[str, Any], int] = {}
        """The digest of each row, by table and key."""
        self.seal = 0
        """All of them in one: a row that was changed, lost or put back gives another."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock = lock(directory)
        except OSError as error:
            raise UserError(
                f"data directory {directory} cannot be used ({error.strerror}): mend that, or choose another"
                " with --data"
            ) from None
        try:
            self.open(cluster, node)
            self.set_incarnation(self.identity["incarnation"] + 1)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self.close()
            raise UserError(f"data directory {directory} {remedy(error, node)}") from None
        except UserError:
            self.close()
            raise

    def open(self, cluster: str, node: NodeId) -> None:
        path = self.directory / "electorate.db"
        if not path.exists():
            self.make(path, cluster, node)
        self.database = connect(path)
        self.database.execute("PRAGMA journal_mode=TRUNCATE")
        self.examine()
        self.identity = dict(self.rows("identity"))
        for key, value in (("cluster", cluster), ("node", node)):
            if self.identity[key] != value:
                raise UserError(
                    f"data directory {self.directory} belongs to {key} '{self.identity[key]}', not '{value}':"
                    " choose another with --data"
                )

    def make(self, path: Path, cluster: str, node: NodeId) -> None:
        """Make a new store; it bears its name only once it is whole, so an empty one is a damaged one."""
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(0o600)
        with contextlib.closing(connect(new)) as self.database:
            self.database.executescript(SCHEMA)
            number = random.getrandbits(63)
            identity: dict[str, str | int] = {
                "cluster": cluster,
                "node": node,
                "number": number,
                "incarnation": 0,
            }
            self.write("identity", list(identity.items()))
        new.rename(path)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def examine(self) -> None:
        """Read all of it. Raises `sqlite3.DatabaseError` if it is not what was written last."""
        [complaint] = self.database.execute("PRAGMA quick_check(1)").fetchone()
        if complaint != "ok":
            raise sqlite3.DatabaseError(complaint)
        self.marks = {(table, row[0]): digest(table, row) for table in TABLES for row in self.rows(table)}
        self.seal = 0
        for mark in self.marks.values():
            self.seal ^= mark
        if self.rows("seal") != [("all", self.seal)]:
            raise sqlite3.DatabaseError("its rows do not match their seal")

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.database.execute(f"SELECT * FROM {table}").fetchall()

    def write(self, table: str, rows: list[Row]) -> None:
        """Make these durable in one transaction. Raises `sqlite3.Error` if that fails."""
        marks = {(table, row[0]): digest(table, row) for row in rows}
        seal = self.seal
        for key, mark in marks.items():
            seal ^= mark ^ self.marks.get(key, 0)
        self.database.execute("BEGIN IMMEDIATE")
        try:
            self.database.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows
            )
            self.database.execute("INSERT OR REPLACE INTO seal VALUES ('all', ?)", (seal,))
            self.database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                self.database.execute("ROLLBACK")
            raise
        self.marks.update(marks)
        self.seal = seal

    @property
    def number(self) -> int:
        """Drawn when this store was made: a store that was lost has another."""
        return int(self.identity["number"])

    @property
    def rejoined(self) -> bool:
        """This store replaces one that was lost, and has learnt from a quorum what that had promised."""
        return "rejoined" in self.identity

    def set_rejoined(self) -> None:
        self.write("identity", [("rejoined", 1)])

    def peers(self) -> dict[NodeId, tuple[int, int, int, bool]]:
        """The newest life of each peer that was ever met: incarnation, birth, store, rejoining."""
        return {row[0]: (row[1], row[2], row[3], bool(row[4])) for row in self.rows("peer")}

    def remember(self, peer: NodeId, life: tuple[int, int, int, bool]) -> None:
        self.write("peer", [(peer, *map(int, life))])

    def set_incarnation(self, incarnation: int) -> None:
        self.write("identity", [("incarnation", incarnation)])
        self.incarnation = incarnation

    def prove(self) -> None:
        """Write what is there already, in a small real commit. Raises `sqlite3.Error` if that fails."""
        self.set_incarnation(self.incarnation)

    def load(self) -> dict[str, Promise]:
        return {row[0]: Promise(*row) for row in self.rows("promise")}

    def commit(self, promises: Iterable[Promise]) -> None:
        """Make these durable in one transaction. Raises `sqlite3.Error` if that fails."""
        self.write("promise", [(p.election, p.term, p.backed, p.epoch) for p in promises])

    def close(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        os.close(self.lock)


class Disk:
    """One thread for all that may wait for the disk, done in order.

    No pool of `concurrent.futures`: an interpreter that ends waits for those, and a disk that hangs would
    keep it from ending.
    """

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.abandoned = False
        self.thread = threading.Thread(target=self.work, name=name, daemon=True)
        self.thread.start()

    def submit(self, call: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()
        self.jobs.put(partial(self.perform, future, call, args))
        return future

    def perform(self, future: Future[T], call: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            result = call(*args)
        except Exception as error:
            tell: Callable[[], None] = partial(future.set_exception, error)
        else:
            tell = partial(future.set_result, result)
        if not self.abandoned:
            tell()

    def work(self) -> None:
        while job := self.jobs.get():
            job()

    def shutdown(self) -> None:
        """End when all is done."""
        self.jobs.put(None)
        self.thread.join()

    def abandon(self) -> None:
        """End when all is done, but nobody waits for it any more."""
        self.abandoned = True
        self.jobs.put(None)


def connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous=FULL")
    return database


def digest(table: str, row: Row) -> int:
    """64 bits that tell this row from what a disk may make of it."""
    return int.from_bytes(blake2b(repr((table, *row)).encode(), digest_size=8).digest(), signed=True)


def remedy(error: BaseException, node: NodeId) -> str:
    """What is wrong with the disk or with what is on it, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if isinstance(error, OSError) or code in UNWRITABLE:
        return (
            f"cannot be written ({error}): free space on the disk or mend it, and start node {node} again;"
            " nothing that it has promised is lost"
        )
    return f"is damaged ({error}): move it away, and start node {node} with --rejoin"


def lock(directory: Path) -> int:
    """Lock the directory for this process; the kernel frees it when the process ends, however it ends."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(
            f"data directory {directory} is in use by process {holder}: stop it, or choose another"
            " with --data"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
