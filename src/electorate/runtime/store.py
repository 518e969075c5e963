"""What must outlive a crash: the promises of a node, what they were made under, and its starts. One SQLite
file.

When a write returns, it is on the disk, and in the one file that is read back. That is why there is a
rollback journal and no write-ahead log: SQLite takes a log with a damaged end for a shorter one, and would
forget without a word what was promised. Whatever else happens to the file is found at the next start, because
each write renews a seal over all rows. The directory is locked against a second process for as long as the
store is open.

A store outlives the program that made it. `application_id` says whose file it is, `user_version` its layout,
and the row `readable by` of `identity` the oldest layout whose programs may go on with it. A program brings
an older store up to its own layout. It opens a newer one if that allows it, and then leaves alone what it
does not know: tables, columns, and rows of `identity`.

After a write that has failed, what the system shows of the file proves nothing: a sync that failed once may
be said to have gone well the next time, though nothing was written. So the next write first reads the file
anew, compares it with what was durable, and makes a new one of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import queue
import random
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial, reduce
from hashlib import blake2b
from operator import xor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from electorate.core.configuration import Voters
from electorate.core.identity import Rejoin, Start
from electorate.core.model import Forget, Gone, NodeId, Promise, Record
from electorate.errors import InUse, UserError
from electorate.runtime.clock import now
from electorate.runtime.directory import STORE, make, opened, sync, usable
from electorate.version import __version__

T = TypeVar("T")

APPLICATION = int.from_bytes(b"elct")
LAYOUTS = (
    """
CREATE TABLE identity (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE start (number INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL);
CREATE TABLE peer (
    node TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE gone (node TEXT PRIMARY KEY, gone INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE promise (
    election TEXT PRIMARY KEY, term INTEGER NOT NULL, backed TEXT, epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE seal (of TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
""",
)
"""Each makes a store of the next layout out of one of the layout before; the first, out of an empty file."""
READABLE_BY = 1
"""The oldest layout whose programs may go on with a store of the newest. They add, change and drop rows, know
nothing of what was added since, and seal what they know (`TABLES`)."""

TABLES = {
    "identity": ("key", "value"),
    "start": ("number", "incarnation"),
    "peer": ("node", "incarnation", "number"),
    "gone": ("node", "gone"),
    "promise": ("election", "term", "backed", "epoch"),
}
"""What is sealed; the first column is the key. With the layout of `READABLE_BY`."""

Row = tuple[str | int | None, ...]
Key = tuple[str, Any]
"""A table, and what is in the first column."""

UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_NOMEM,
}
"""With these errors the disk is at fault, not what is on it."""

FULL = {errno.ENOSPC, errno.EDQUOT}
TOO_MANY = {errno.EMFILE, errno.ENFILE}
MORE_FILES = "let this process open more files (ulimit -n, LimitNOFILE=), or find out what holds so many open"

REMAINS, UNSAID = 10.0, 0.5
"""Seconds for the guardian of a process that has ended; after so many it is said who is waited for."""
PATIENCE = 60.0
"""Seconds to wait for another program that has locked the file, such as a backup: a stall, not a failure."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two attempts to write what the disk has not taken, at first and at most."""


class Conditions(msgspec.Struct, frozen=True):
    """Under what a node has made its promises."""

    voters: Voters | None = None
    """None before its first start."""
    longest_lease: float = 0.0
    """In seconds: some promise may have been for so long."""
    rejoin: Rejoin | None = None
    """It has not rejoined yet, and goes on with that however often it starts."""


class Store:
    """The durable state of one node, in one directory.

    Raises `UserError` if the directory cannot be used: in use by another process, of another node,
    not to be written, or damaged.
    """

    def __init__(self, directory: Path, cluster: str, node: NodeId) -> None:
        self.directory = directory
        self.path = directory.absolute() / STORE
        self.marks: dict[Key, int] = {}
        """The digest of each row, by table and key."""
        self.seal = 0
        """All of them in one: a row that was changed, lost or put back gives another."""
        self.tried: set[tuple[Key, int]] = set()
        """Digests of rows whose write has failed, 0 of those to be dropped: it may be so all the same."""
        self.doubtful = False
        """A write has failed since the file was read."""
        with usable(directory):
            make(directory)
            self.lock = lock(directory)
        with self.opening(node):
            self.open(cluster, node)

    @contextmanager
    def opening(self, node: NodeId) -> Iterator[None]:
        """Until the node runs: close it if it cannot be used, and say why. Raises `UserError`."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self.close()
            again = f", and start node {node} again; nothing that it has promised is lost"
            said = f"{remedy(error, node)}{again if passes(error) else ''}"
            raise UserError(f"data directory {self.directory} {said}") from None
        except UserError:
            self.close()
            raise

    def open(self, cluster: str, node: NodeId) -> None:
        if not self.path.exists():
            self.replace(partial(found, {"identity": [("cluster", cluster), ("node", node)]}))
        self.database = connect(self.path)
        layout = layout_of(self.database, self.directory, node)
        be_durable(self.database, "TRUNCATE")
        self.marks = examine(self.database)
        identify(self.database, self.directory, cluster, node)
        if layout < len(LAYOUTS):
            self.bring_up(layout, node)
        self.seal = sealed(self.marks)
        self.identity = dict(self.rows("identity"))

    def bring_up(self, layout: int, node: NodeId) -> None:
        """Raises `UserError` if this program cannot do it; what is there is not damaged then, and stays."""
        try:
            raise_layout(self.database)
        except sqlite3.Error as error:
            if passes(error):
                raise
            raise UserError(
                f"data directory {self.directory} cannot be brought from layout {layout} to {len(LAYOUTS)}"
                f" ({error}): run the release again that was used before electorate {__version__}; what node"
                f" {node} has promised is all there"
            ) from None
        self.marks = examine(self.database)

    def replace(self, fill: Callable[[Path], None]) -> None:
        """Make a new file; it bears its name only once it is whole, so an empty one is a damaged one. What
        was not finished of the last one goes with it."""
        new, journal = self.path.with_suffix(".new"), self.path.with_name(f"{STORE}-journal")
        for left in (new, new.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        os.close(opened(new, os.O_EXCL))
        fill(new)
        journal.unlink(missing_ok=True)
        new.rename(self.path)
        sync(self.path.parent)

    def make_anew(self) -> None:
        """After a write that failed: make a new file of what was durable before, which the old one must have
        still, and of what may have become so. Raises `sqlite3.Error` or `OSError`."""
        with contextlib.suppress(sqlite3.Error):
            self.database.close()
        self.database = connect(self.path)
        self.replace(self.copy)
        self.database = connect(self.path)
        be_durable(self.database, "TRUNCATE")
        self.marks = examine(self.database)
        self.seal = sealed(self.marks)
        self.tried.clear()
        self.doubtful = False

    def copy(self, new: Path) -> None:
        """All of the file, also what only a newer program knows."""
        with contextlib.closing(connect(new)) as database, contextlib.closing(self.database):
            be_durable(database, "DELETE")
            self.database.backup(database)
            marks = examine(database)
        for key in marks.keys() | self.marks.keys():
            mark = marks.get(key, 0)
            if mark != self.marks.get(key, 0) and (key, mark) not in self.tried:
                raise sqlite3.DatabaseError("its rows are not what was written last")

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return rows_of(self.database, table)

    def write(self, rows: Mapping[str, list[Row]], forgotten: Collection[str] = ()) -> None:
        """Make these rows durable, by table, and drop the promises in those elections, in one transaction.
        Raises `sqlite3.Error` or `OSError` if that fails: nothing may rest on it then, but it may be so."""
        marks = {**marks_of(rows), **{("promise", election): 0 for election in forgotten}}
        try:
            self.trust()
            seal = self.seal
            for key, mark in marks.items():
                seal ^= mark ^ self.marks.get(key, 0)
            transact(self.database, rows, seal, forgotten)
        except (sqlite3.Error, OSError):
            self.tried.update(marks.items())
            self.doubtful = True
            raise
        self.marks.update(marks)
        for election in forgotten:
            del self.marks["promise", election]
        self.seal = seal

    def trust(self) -> None:
        """From here on, what is read is on the disk. Raises `sqlite3.Error` or `OSError`."""
        if self.doubtful:
            self.make_anew()

    # --- which life this is, and who the others are ------------------------------------------------

    def chain(self) -> set[Start]:
        """Every start of this store, and those of one that was lost."""
        return {Start(incarnation, number) for number, incarnation in self.rows("start")}

    def begin(self, conditions: Conditions | None = None) -> Start:
        """Another start, later than all before, and perhaps under other conditions."""
        self.trust()
        newest = max((start.incarnation for start in self.chain()), default=0)
        start = Start(newest + 1, random.getrandbits(63))
        rows: dict[str, list[Row]] = {"start": [(start.number, start.incarnation)]}
        if conditions:
            self.identity["conditions"] = said = msgspec.json.encode(conditions).decode()
            rows["identity"] = [("conditions", said)]
        self.write(rows)
        return start

    def live_again(self) -> tuple[Start, dict[str, Promise], frozenset[NodeId]]:
        """Another start, and what is known then."""
        return self.begin(), self.load(), self.gone()

    def adopt(self, start: Start) -> None:
        """This start belongs to the chain."""
        self.write({"start": [(start.number, start.incarnation)]})

    def peers(self) -> dict[NodeId, Start]:
        """The newest start of each peer that was ever met."""
        return {peer: Start(incarnation, number) for peer, incarnation, number in self.rows("peer")}

    def remember(self, peer: NodeId, start: Start) -> None:
        self.write({"peer": [(peer, *start)]})

    # --- what is promised, and under what ----------------------------------------------------------

    @property
    def conditions(self) -> Conditions:
        said = self.identity.get("conditions")
        return msgspec.json.decode(said, type=Conditions) if said else Conditions()

    def set_conditions(self, conditions: Conditions) -> None:
        said = msgspec.json.encode(conditions).decode()
        self.write({"identity": [("conditions", said)]})
        self.identity["conditions"] = said

    def conditions_for(
        self, voters: Voters, lease: float, rejoin: Rejoin | None, new_members: bool
    ) -> Conditions:
        """Under what a node with this configuration may go on. Raises `UserError` if it may not."""
        known = self.conditions
        rejoin = rejoin or known.rejoin
        if known.voters != voters:
            if known.voters and not new_members:
                raise UserError(
                    f"data directory {self.directory} knows other voters, or another quorum, than the cluster"
                    " file: change them only while all nodes are stopped; then start each of them once with"
                    " --new-members"
                )
            if known.voters and not known.voters.may_become(voters):
                raise UserError(
                    f"too many voters change at once: of {', '.join(known.voters.ids)}, which data directory"
                    f" {self.directory} knows, every quorum must keep one; change fewer at a time"
                )
            if new_members:
                rejoin = rejoin or Rejoin(lost=False)
        return Conditions(voters, max(known.longest_lease, lease), rejoin)

    def prove(self) -> None:
        """Write what is there already, in a small real commit. Raises `sqlite3.Error` if that fails."""
        self.write({"identity": [("node", self.identity["node"])]})

    def load(self) -> dict[str, Promise]:
        return {row[0]: Promise(*row) for row in self.rows("promise")}

    def gone(self) -> frozenset[NodeId]:
        """Whom an operator has named as gone for good, and who has not rejoined since."""
        return frozenset(node for node, gone in self.rows("gone") if gone)

    def commit(self, records: Iterable[Record]) -> None:
        """Make these durable in one transaction. Raises `sqlite3.Error` if that fails."""
        rows: dict[str, list[Row]] = {}
        last: dict[str, Promise | Forget] = {}
        for record in records:
            if isinstance(record, Gone):
                rows.setdefault("gone", []).append((record.node, int(record.gone)))
            else:
                last[record.election] = record
        if kept := [
            msgspec.structs.astuple(record) for record in last.values() if isinstance(record, Promise)
        ]:
            rows["promise"] = kept
        self.write(rows, [election for election, record in last.items() if isinstance(record, Forget)])

    def close(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        os.close(self.lock)


class Disk:
    """One thread for all that may wait for the disk, done in order.

    No pool of `concurrent.futures`: an interpreter that ends waits for those, and a disk that hangs would
    keep it from ending.
    """

    def __init__(self, name: str, trouble: Callable[[BaseException], None]) -> None:
        self.trouble = trouble
        """Is told, in this thread, of each attempt that has failed and is to be repeated."""
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.abandoned = threading.Event()
        self.thread = threading.Thread(target=self.work, name=name, daemon=True)
        self.thread.start()

    def persist(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Do this; if the disk does not take it, again and again, and before all that comes later."""
        return self.submit(self.insist, call, args)

    def insist(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        pause = FIRST_PAUSE
        while True:
            try:
                return call(*args)
            except (sqlite3.Error, OSError) as error:
                if self.abandoned.is_set() or not passes(error):
                    raise
                self.trouble(cause(error))
            self.abandoned.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

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
        if not self.abandoned.is_set():
            tell()

    def work(self) -> None:
        while job := self.jobs.get():
            job()

    def shutdown(self) -> None:
        """End when all is done."""
        self.jobs.put(None)
        self.thread.join()

    def abandon(self) -> None:
        """End when all is done or has failed, but nobody waits for it any more."""
        self.abandoned.set()
        self.jobs.put(None)


def look(directory: Path, cluster: str, node: NodeId) -> None:
    """Raises `UserError` if a start would not take the store that is here, and changes nothing. What a commit
    has left half done cannot be seen so, and a start undoes it."""
    path = directory.absolute() / STORE
    if not path.exists():
        return
    try:
        with contextlib.closing(connect(path, "ro")) as database:
            layout_of(database, directory, node)
            examine(database)
            identify(database, directory, cluster, node)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if not passes(error):
            raise UserError(f"data directory {directory} {remedy(error, node)}") from None


def layout_of(database: sqlite3.Connection, directory: Path, node: NodeId) -> int:
    """Raises `UserError` if this is no store, or one that only a newer release can read."""
    path = directory / STORE
    what = "it is empty" if not path.stat().st_size else ""
    try:
        application, layout = (pragma(database, name) for name in ("application_id", "user_version"))
    except sqlite3.DatabaseError as error:
        if code_of(error) != sqlite3.SQLITE_NOTADB:
            raise
        what = str(error)
    if what:
        raise UserError(
            f"{path} is no store ({what}): if it was one, move it away, and start node {node} with --rejoin;"
            " if not, give the node another directory"
        )
    if application != APPLICATION:
        raise UserError(
            f"{path} is a database of another program (its application id is {application:#x}): give node"
            f" {node} another directory"
        )
    if layout > len(LAYOUTS):
        made = {}
        with contextlib.suppress(sqlite3.Error):
            made = dict(rows_of(database, "identity"))
        oldest, release = made.get("readable by"), made.get("release", "a newer release")
        if not isinstance(oldest, int) or oldest > len(LAYOUTS):
            raise UserError(
                f"data directory {directory} was used by electorate {release}, whose store (layout {layout})"
                f" cannot be read by electorate {__version__} (layout {len(LAYOUTS)}): run {release}, or a"
                f" later one; what node {node} has promised is all there"
            )
    return layout


def identify(database: sqlite3.Connection, directory: Path, cluster: str, node: NodeId) -> None:
    """Raises `UserError` if it is the store of another node."""
    identity = dict(rows_of(database, "identity"))
    for key, value in (("cluster", cluster), ("node", node)):
        if identity[key] != value:
            raise UserError(
                f"data directory {directory} belongs to {key} '{identity[key]}', not '{value}': give each"
                " node a directory of its own"
            )


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """To a file that is there; nothing has been read of it yet."""
    place = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(place, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=True)


def be_durable(database: sqlite3.Connection, journal: str) -> None:
    """From here on, what is committed is on the disk; on macOS, too, where that has to be said."""
    settings = f"journal_mode={journal}", "synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"
    for setting in settings:
        database.execute(f"PRAGMA {setting}")


def pragma(database: sqlite3.Connection, name: str) -> int:
    value: int = database.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def found(rows: Mapping[str, list[Row]], path: Path) -> None:
    """Make a store of an empty file."""
    with contextlib.closing(connect(path)) as database:
        be_durable(database, "DELETE")
        raise_layout(database, rows)


def raise_layout(database: sqlite3.Connection, rows: Mapping[str, list[Row]] | None = None) -> None:
    """Bring a store to the newest layout, with these rows in it, in one transaction. Raises `sqlite3.Error`;
    the connection is of no use then."""
    steps = "".join(LAYOUTS[pragma(database, "user_version") :])
    database.executescript(
        f"BEGIN IMMEDIATE; {steps} PRAGMA application_id={APPLICATION}; PRAGMA user_version={len(LAYOUTS)};"
    )
    insert(database, rows or {})
    insert(database, {"identity": [("release", __version__), ("readable by", READABLE_BY)]})
    seal(database, sealed(marks_in(database)))
    database.execute("COMMIT")


def examine(database: sqlite3.Connection) -> dict[Key, int]:
    """Read all of it, and return the digests. Raises `sqlite3.DatabaseError` if it is not what was written
    last."""
    [complaint] = database.execute("PRAGMA quick_check(1)").fetchone()
    if complaint != "ok":
        raise sqlite3.DatabaseError(complaint.splitlines()[-1])
    marks = marks_in(database)
    if database.execute("SELECT value FROM seal WHERE of = 'all'").fetchall() != [(sealed(marks),)]:
        raise sqlite3.DatabaseError("its rows do not match their seal")
    return marks


def transact(
    database: sqlite3.Connection, rows: Mapping[str, list[Row]], value: int, forgotten: Collection[str]
) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        insert(database, rows)
        database.executemany("DELETE FROM promise WHERE election = ?", zip(forgotten))
        seal(database, value)
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
            database.execute("ROLLBACK")
        raise


def insert(database: sqlite3.Connection, rows: Mapping[str, list[Row]]) -> None:
    """Put these rows in, or in place of those with their keys; columns that are not known here stay."""
    for table, some in rows.items():
        key, *others = TABLES[table]
        places = ", ".join("?" * (1 + len(others)))
        changes = ", ".join(f"{column} = excluded.{column}" for column in others)
        database.executemany(
            f"INSERT INTO {table} ({', '.join(TABLES[table])}) VALUES ({places})"
            f" ON CONFLICT ({key}) DO UPDATE SET {changes}",
            some,
        )


def seal(database: sqlite3.Connection, value: int) -> None:
    database.execute("INSERT OR REPLACE INTO seal (of, value) VALUES ('all', ?)", (value,))


def rows_of(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return database.execute(f"SELECT {', '.join(TABLES[table])} FROM {table}").fetchall()


def marks_in(database: sqlite3.Connection) -> dict[Key, int]:
    rows = {table: rows_of(database, table) for table in TABLES}
    return marks_of({"layout": [(pragma(database, "user_version"),)], **rows})


def marks_of(rows: Mapping[str, list[Row]]) -> dict[Key, int]:
    return {(table, row[0]): digest(table, row) for table in rows for row in rows[table]}


def sealed(marks: Mapping[Key, int]) -> int:
    return reduce(xor, marks.values(), 0)


def digest(table: str, row: Row) -> int:
    """64 bits that tell this row from what a disk may make of it."""
    return int.from_bytes(blake2b(repr((table, *row)).encode(), digest_size=8).digest(), signed=True)


def remedy(error: BaseException, node: NodeId) -> str:
    """What is wrong with the disk or with what is on it, and what to do."""
    if not passes(error):
        return f"is damaged ({error}): move it away, and start node {node} with --rejoin"
    error = cause(error)
    why = getattr(error, "strerror", None) or str(error)
    return f"cannot be written ({why}): {cure(error)}"


def cure(error: BaseException) -> str:
    """What would let it be written."""
    number = error.errno if isinstance(error, OSError) else None
    if number in TOO_MANY:
        return MORE_FILES
    if number in FULL or code_of(error) == sqlite3.SQLITE_FULL:
        return "free space on the disk"
    return "mend the disk, or let this process write there"


def passes(error: BaseException) -> bool:
    """Whether the disk is at fault, not what is on it: another attempt may go well."""
    return isinstance(error, OSError) or code_of(error) in UNWRITABLE


def code_of(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def cause(error: BaseException) -> BaseException:
    """SQLite does not tell why a file could not be opened. If none can be, that is why."""
    if isinstance(error, sqlite3.Error) and code_of(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as why:
            return why
    return error


def lock(directory: Path) -> int:
    """Lock the directory for this process; the kernel frees it when the process ends, however it ends. Its
    guardian holds it as well, until nothing is left of what it has begun; for that there is some time."""
    descriptor = opened(directory / "lock")
    began, is_said = now(), False
    try:
        while not is_locked(descriptor):
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            if not has_ended(holder):
                raise InUse(
                    f"data directory {directory} is in use by process {holder or 'unknown'}: stop it, or give"
                    " each process an id and a directory of its own"
                )
            waited, left = now() - began, f"{directory} is in use by what process {holder} has left"
            if waited > REMAINS:
                raise InUse(
                    f"data directory {left}: {guardian(directory)} was stopped (kill -CONT), or cannot end a"
                    " command, which the log of that process names: end it"
                )
            if waited > UNSAID and not is_said:
                is_said = True
                logging.getLogger("electorate").warning(
                    "data directory %s: waiting %.0f s at most for %s", left, REMAINS, guardian(directory)
                )
            time.sleep(0.005)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except (InUse, OSError):
        os.close(descriptor)
        raise
    return descriptor


def guardian(directory: Path) -> str:
    """The one that has outlived its node here."""
    pid = ""
    with contextlib.suppress(OSError):
        pid = (directory / "guardian").read_text(errors="replace").strip()[:20]
    return f"its guardian (process {pid or 'unknown'})"


def is_locked(descriptor: int) -> bool:
    """Whether this process has locked the file, now at the latest."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def has_ended(pid: str) -> bool:
    """Whether there was this process, and it can do nothing any more."""
    try:
        os.kill(int(pid), 0)
        process = os.pidfd_open(int(pid))
    except (ValueError, PermissionError, AttributeError):
        return False
    except OSError:
        return True
    try:
        return bool(select.select([process], [], [], 0)[0])
    finally:
        os.close(process)
