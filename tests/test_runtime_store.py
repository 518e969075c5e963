"""The store on a real disk: what it keeps, what it refuses, and what it costs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from electorate.core.model import NOBODY, Promise
from electorate.errors import UserError
from electorate.runtime.store import Store

PROMISES = [Promise("main", 7, "b", 6), Promise("shard-1", 3, None, 0), Promise("shard-2", 2**48, NOBODY, 1)]


def store(directory: Path, cluster: str = "demo", node: str = "a") -> Store:
    return Store(directory, cluster, node)


def by_election(promises: list[Promise]) -> dict[str, Promise]:
    return {promise.election: promise for promise in promises}


def test_promises_outlive_the_process(tmp_path: Path) -> None:
    with closing(store(tmp_path / "new" / "data")) as first:
        assert first.load() == {}
        first.commit(PROMISES)
        first.commit([Promise("main", 8, "c", 7)])
    with closing(store(tmp_path / "new" / "data")) as second:
        assert second.load() == by_election([*PROMISES[1:], Promise("main", 8, "c", 7)])


def test_what_was_committed_is_there_without_a_close(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        with closing(sqlite3.connect(tmp_path / "electorate.db")) as other:
            assert other.execute("SELECT count(*) FROM promise").fetchone() == (3,)


def test_the_incarnation_grows_with_every_start(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        with closing(store(tmp_path)) as mine:
            assert mine.incarnation == expected
    with closing(store(tmp_path)) as mine:
        mine.set_incarnation(9)
    with closing(store(tmp_path)) as mine:
        assert mine.incarnation == 10


def test_a_directory_serves_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        closing(store(tmp_path)) as mine,
        pytest.raises(UserError, match=f"is in use by process {os.getpid()}: stop it"),
    ):
        store(tmp_path)
    mine = store(tmp_path)
    assert mine.incarnation == 2
    mine.close()


def test_a_directory_belongs_to_one_node_of_one_cluster(tmp_path: Path) -> None:
    store(tmp_path).close()
    with pytest.raises(UserError, match=r"belongs to node 'a', not 'b'.*--data"):
        store(tmp_path, node="b")
    with pytest.raises(UserError, match=r"belongs to cluster 'demo', not 'other'.*--data"):
        store(tmp_path, cluster="other")
    with closing(store(tmp_path)) as mine:
        assert mine.incarnation == 2


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
    (tmp_path / "electorate.db").write_bytes(b"promises, promises\n" * 1000)
    with pytest.raises(UserError, match=r"is damaged or cannot be written.*--rejoin"):
        store(tmp_path)
    with pytest.raises(UserError, match=r"is damaged"):  # not: in use, by a lock that was left behind
        store(tmp_path)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be used \(.*\): choose another with --data"):
            store(path)


def test_a_batch_is_one_transaction(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        statements: list[str] = []
        mine.database.set_trace_callback(statements.append)
        mine.commit(Promise(f"shard-{n}", 1, "a", 0) for n in range(1000))
        verbs = [statement.split()[0] for statement in statements]
        assert (verbs.count("BEGIN"), verbs.count("INSERT"), verbs.count("COMMIT")) == (1, 1000, 1)
        assert mine.database.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert mine.database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_commit_that_fails_leaves_the_old_promises(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        mine.database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON promise WHEN NEW.term = 13"
            " BEGIN SELECT RAISE(FAIL, 'the disk is full'); END"
        )
        with pytest.raises(sqlite3.Error, match="the disk is full"):
            mine.commit([Promise("main", 12, "c", 7), Promise("main", 13, "c", 7)])
        assert mine.load() == by_election(PROMISES)
        mine.commit([Promise("main", 14, "c", 7)])
        assert mine.load()["main"].term == 14
