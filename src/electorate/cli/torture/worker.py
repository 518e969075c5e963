"""A command for `elect run` that writes to a shared resource, and tells when it lived.

    python -m electorate.cli.torture.worker DIRECTORY

It holds an exclusive lock for as long as it lives: if that is held already, two commands run at once, and a
row says so. Each write bears the term and the time, and the fence accepts it in the same transaction; what
the fence refuses is counted, not written.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import time
from pathlib import Path

from electorate.fence import SQLiteFence, StaleToken
from electorate.runtime.clock import now

PACE = 0.02
"""Seconds between two writes."""
TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS writes (number INTEGER PRIMARY KEY, time REAL, term INTEGER, node TEXT);
CREATE TABLE IF NOT EXISTS overlaps (time REAL, term INTEGER, node TEXT);
CREATE TABLE IF NOT EXISTS refused (time REAL, term INTEGER, node TEXT);
"""


def resource(directory: Path) -> sqlite3.Connection:
    """Make the resource that all share."""
    database = sqlite3.connect(directory / "resource.db", isolation_level=None, timeout=30)
    database.executescript(TABLES)
    SQLiteFence(database)
    return database


def main(directory: Path) -> None:
    term, node = int(os.environ["ELECTORATE_TERM"]), os.environ["ELECTORATE_NODE"]
    database = resource(directory)
    fence = SQLiteFence(database)
    with (directory / "resource.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            database.execute("INSERT INTO overlaps VALUES (?, ?, ?)", (now(), term, node))
        while True:
            database.execute("BEGIN IMMEDIATE")
            try:
                fence.check(term, "torture")
                row = (now(), term, node)
                database.execute("INSERT INTO writes (time, term, node) VALUES (?, ?, ?)", row)
            except StaleToken:
                database.execute("INSERT INTO refused VALUES (?, ?, ?)", (now(), term, node))
            database.execute("COMMIT")
            time.sleep(PACE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
