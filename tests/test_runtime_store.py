"""The store on a real disk: what it keeps, what it refuses, and what it costs."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate.core.configuration import Voters
from electorate.core.identity import Rejoin, Start
from electorate.core.model import NOBODY, Forget, Gone, Member, Membership, Promise
from electorate.errors import UserError
from electorate.runtime import store as store_module
from electorate.runtime.store import LAYOUTS, Conditions, Disk, Store, passes, remedy
from electorate.version import __version__
from tests.runtime_hosts import blocked, cluster, in_loop

PROMISES = [Promise("main", 7, "b", 6), Promise("shard-1", 3, None, 0), Promise("shard-2", 2**48, NOBODY, 1)]

CONDITIONS = Conditions(Voters.of(Membership(tuple(map(Member, "abc")))), 0.5, Rejoin(without=frozenset("b")))


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
    chain: set[Start] = set()
    for expected in (1, 2, 3):
        with closing(store(tmp_path)) as mine:
            assert mine.chain() == chain
            start = mine.begin()
            assert start.incarnation == expected
            chain.add(start)
    with closing(store(tmp_path)) as mine:
        mine.adopt(Start(9, 1))
        mine.adopt(Start(2, 5))
    with closing(store(tmp_path)) as mine:
        assert mine.begin().incarnation == 10
        assert mine.chain() > chain | {Start(9, 1), Start(2, 5)}
    assert len({start.number for start in chain}) == 3


def test_a_directory_serves_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        closing(store(tmp_path)) as mine,
        pytest.raises(UserError, match=f"is in use by process {os.getpid()}: stop it"),
    ):
        store(tmp_path)
    mine = store(tmp_path)
    mine.close()


def test_what_a_process_has_left_is_told_from_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guardian, which has something to end yet, holds the directory as well."""
    monkeypatch.setattr("electorate.runtime.store.REMAINS", 0.05)
    ended = subprocess.Popen(["true"])
    ended.wait()
    with closing(store(tmp_path)):
        (tmp_path / "lock").write_text(str(ended.pid))
        with pytest.raises(UserError, match=f"is in use by what process {ended.pid} has left"):
            store(tmp_path)


def test_a_directory_belongs_to_one_node_of_one_cluster(tmp_path: Path) -> None:
    store(tmp_path).close()
    with pytest.raises(
        UserError, match=r"belongs to node 'a', not 'b': give each node a directory of its own"
    ):
        store(tmp_path, node="b")
    with pytest.raises(UserError, match=r"belongs to cluster 'demo', not 'other': give each node"):
        store(tmp_path, cluster="other")
    store(tmp_path).close()


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
    with (tmp_path / "electorate.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"promises, promises\n" * 1000)
    with pytest.raises(UserError, match=r"is damaged \(.*\): move it away, and start node a with --rejoin"):
        store(tmp_path)
    with pytest.raises(UserError, match=r"is damaged"):  # not: in use, by a lock that was left behind
        store(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (b"promises, promises\n" * 1000, "file is not a database")]
)
def test_a_file_that_is_no_store(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "electorate.db").write_bytes(content)
    with pytest.raises(UserError) as refused:
        store(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/electorate.db is no store ({why}): if it was one, move it away, and start node a with"
        " --rejoin; if not, give the node another directory"
    )
    assert (tmp_path / "electorate.db").read_bytes() == content


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "electorate.db", isolation_level=None)) as database:
        database.executescript("CREATE TABLE promise (election); PRAGMA application_id = 4711")
    with pytest.raises(UserError) as refused:
        store(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/electorate.db is a database of another program (its application id is 0x1267): give node"
        " a another directory"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store that has promised, met a peer, and been closed."""
    directory = tmp_path_factory.mktemp("whole")
    with closing(store(directory)) as mine:
        mine.commit(PROMISES)
        mine.begin()
        mine.begin()
        mine.remember("b", Start(3, 4))
        mine.commit([Gone("c", True)])
        mine.set_conditions(CONDITIONS)
    return (directory / "electorate.db").read_bytes()


def kept(directory: Path, content: bytes) -> bool:
    """Whether a store with this content is taken; if so, it must not have forgotten anything."""
    (directory / "electorate.db").write_bytes(content)
    try:
        with closing(store(directory)) as mine:
            assert mine.load() == by_election(PROMISES)
            assert mine.peers() == {"b": Start(3, 4)}
            assert mine.gone() == {"c"}
            assert mine.conditions == CONDITIONS
            assert {start.incarnation for start in mine.chain()} == {1, 2}
            return True
    except UserError as error:
        assert re.search("is damaged|cannot be written|is no store|of another program", str(error))
        return False


def test_a_file_that_was_cut_is_damaged(tmp_path: Path, whole: bytes) -> None:
    assert kept(tmp_path, whole)
    lengths = {*range(0, len(whole), 97), *range(0, len(whole), 512), len(whole) - 1}
    lossy = [length for length in sorted(lengths) if whole[length:].strip(b"\0")]  # what is zeros is read so
    assert len(lossy) >= len(lengths) - 1
    assert [length for length in lossy if kept(tmp_path, whole[:length])] == []


def test_no_flipped_byte_changes_a_promise(tmp_path: Path, whole: bytes) -> None:
    """What is not empty in the first page, and others by chance: what is taken is what was promised."""
    first = [place for place in range(4096) if whole[place]]
    for place in sorted({*first, *random.Random(7).sample(range(len(whole)), 500)}):
        for flip in (1 << place % 8, 0xFF):
            flipped = bytearray(whole)
            flipped[place] ^= flip
            kept(tmp_path, bytes(flipped))


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE promise SET term = 2 WHERE election = 'main'",
        "UPDATE promise SET backed = 'c' WHERE election = 'main'",
        "DELETE FROM promise WHERE election = 'shard-1'",
        "DELETE FROM peer",
        "UPDATE start SET incarnation = incarnation - 1",
        "DELETE FROM start WHERE incarnation = 1",
        "DELETE FROM gone",
        "DELETE FROM identity WHERE key = 'conditions'",
        "DELETE FROM seal",
    ],
)
def test_rows_that_are_not_what_was_written_last(tmp_path: Path, whole: bytes, forgery: str) -> None:
    (tmp_path / "electorate.db").write_bytes(whole)
    with closing(sqlite3.connect(tmp_path / "electorate.db", isolation_level=None)) as database:
        database.execute(forgery)
    with pytest.raises(UserError, match="is damaged"):
        store(tmp_path)


def test_each_commit_leaves_a_file_that_stands_alone(tmp_path: Path) -> None:
    """Nothing that was promised is in another file, whose loss would not be noticed."""
    with closing(store(tmp_path / "a")) as mine:
        for term in range(1, 50):
            promises = [Promise("main", term, "b", term), Promise(f"shard-{term}", 1, None, 0)]
            mine.commit(promises)
            (tmp_path / "b").mkdir(exist_ok=True)
            shutil.copy(tmp_path / "a" / "electorate.db", tmp_path / "b" / "electorate.db")
            with closing(store(tmp_path / "b")) as copy:
                assert copy.load() == mine.load()


def test_a_commit_that_a_crash_cut_short_is_undone_or_noticed(tmp_path: Path) -> None:
    """However much of the journal the disk has lost."""
    promises = [Promise(f"shard-{n:04}", 7, "b", 6) for n in range(2000)]
    with closing(store(tmp_path / "a")) as mine:
        mine.commit(promises)
        mine.database.execute("PRAGMA cache_size = 1")
        mine.database.execute("BEGIN IMMEDIATE")
        mine.database.execute("UPDATE promise SET term = 9, backed = 'c'")
        half = (tmp_path / "a" / "electorate.db").read_bytes()
        journal = (tmp_path / "a" / "electorate.db-journal").read_bytes()
        mine.database.execute("ROLLBACK")
    (tmp_path / "b").mkdir()
    taken = []
    for length in (*range(0, len(journal), 997), len(journal)):
        (tmp_path / "b" / "electorate.db-journal").write_bytes(journal[:length])
        (tmp_path / "b" / "electorate.db").write_bytes(half)
        try:
            with closing(store(tmp_path / "b")) as copy:
                assert copy.load() == by_election(promises)
                taken.append(length)
        except UserError as error:
            assert "is damaged" in str(error)
    assert taken[-1:] == [len(journal)]
    assert 0 not in taken


def test_a_store_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "electorate.new").write_bytes(b"half a store")
    with closing(store(tmp_path)) as mine:
        assert mine.begin().incarnation == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.stat().st_size) == [
        "electorate.db",
        "lock",
    ]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with closing(store(directory)) as mine:
        mine.commit(PROMISES)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == {"electorate.db": 0o600, "electorate.db-journal": 0o600, "lock": 0o600}


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            UserError, match=r"cannot be used: .*file is a file; name a directory with --data"
        ):
            store(path)


def test_a_batch_is_one_transaction(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        statements: list[str] = []
        mine.database.set_trace_callback(statements.append)
        mine.commit(Promise(f"shard-{n}", 1, "a", 0) for n in range(1000))
        verbs = [statement.split()[0] for statement in statements]
        assert (verbs.count("BEGIN"), verbs.count("INSERT"), verbs.count("COMMIT")) == (1, 1001, 1)
        assert mine.database.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert mine.database.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
        for pragma in ("fullfsync", "checkpoint_fullfsync"):
            assert mine.database.execute(f"PRAGMA {pragma}").fetchone() == (1,), (
                "on macOS, as far as the disk"
            )


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


# --- a disk that takes nothing for a while -----------------------------------------------------------


def test_what_a_disk_has_not_taken_is_written_when_it_does(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        mine.remember("b", Start(3, 4))
        first = (tmp_path / "electorate.db").stat().st_ino
        with blocked(tmp_path):
            for _ in range(3):
                with pytest.raises(sqlite3.OperationalError) as failed:
                    mine.commit([Promise("main", 9, "c", 6)])
                assert passes(failed.value)
        mine.commit([Promise("main", 9, "c", 6)])
        assert (tmp_path / "electorate.db").stat().st_ino != first, "no page of the old file is believed"
        written = by_election([Promise("main", 9, "c", 6), *PROMISES[1:]])
        assert mine.load() == written
        second = (tmp_path / "electorate.db").stat().st_ino
        mine.commit([Promise("main", 10, None, 6)])
        assert (tmp_path / "electorate.db").stat().st_ino == second, "from then on as before"
    with closing(store(tmp_path)) as again:
        assert again.load() == {**written, "main": Promise("main", 10, None, 6)}
        assert again.peers() == {"b": Start(3, 4)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "electorate.db",
        "electorate.db-journal",
        "lock",
    ]


def test_what_was_said_to_have_failed_may_be_there_all_the_same(tmp_path: Path) -> None:
    """As after a sync that has failed: the rows can be read, and are written again."""
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        before = (tmp_path / "electorate.db").read_bytes()
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Promise("main", 9, "c", 6)])
        with closing(sqlite3.connect(tmp_path / "electorate.db")) as database:
            assert database.execute("SELECT term FROM promise WHERE election = 'main'").fetchone() == (7,)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "electorate.db").write_bytes(before)
        with closing(store(tmp_path / "b")) as other:
            other.commit([Promise("main", 9, "c", 6)])
        shutil.copy(tmp_path / "b" / "electorate.db", tmp_path / "electorate.db")
        mine.commit([Promise("main", 9, "c", 6)])
        assert mine.load()["main"].term == 9


@pytest.mark.parametrize("change", ["an older one", "another row", "a damaged one", "an empty one"])
def test_a_file_that_is_not_what_was_written_is_no_store_any_more(tmp_path: Path, change: str) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES[1:])
        older = (tmp_path / "electorate.db").read_bytes()
        mine.commit(PROMISES)
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Promise("main", 9, "c", 6)])
        if change == "another row":
            (tmp_path / "b").mkdir()
            shutil.copy(tmp_path / "electorate.db", tmp_path / "b" / "electorate.db")
            with closing(store(tmp_path / "b")) as other:
                other.commit([Promise("main", 8, "b", 6)])
            older = (tmp_path / "b" / "electorate.db").read_bytes()
        elif change == "a damaged one":
            older = b"promises, promises\n" * 1000
        elif change == "an empty one":
            older = b""
        (tmp_path / "electorate.db").write_bytes(older)
        with pytest.raises(sqlite3.DatabaseError) as failed:
            mine.commit([Promise("main", 9, "c", 6)])
        assert not passes(failed.value)
        assert "move it away, and start node a with --rejoin" in remedy(failed.value, "a")


def test_what_was_to_be_forgotten_is_so_when_the_disk_takes_it(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Forget("shard-1"), Promise("main", 9, "c", 6)])
        mine.commit([Forget("shard-1"), Promise("main", 9, "c", 6)])
        written = by_election([Promise("main", 9, "c", 6), PROMISES[2]])
        assert mine.load() == written
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Forget("shard-2")])
        shutil.copy(tmp_path / "electorate.db", tmp_path / "kept")
        mine.commit([Forget("shard-2")])
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Promise("main", 10, "c", 6)])
        shutil.copy(tmp_path / "kept", tmp_path / "electorate.db")
        with pytest.raises(sqlite3.DatabaseError, match="are not what was written last"):
            mine.commit([Promise("main", 10, "c", 6)])


def test_a_file_that_is_gone_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.commit([Promise("main", 9, "c", 6)])
        (tmp_path / "electorate.db").rename(tmp_path / "away")
        with pytest.raises(sqlite3.Error) as failed:
            mine.commit([Promise("main", 9, "c", 6)])
        assert passes(failed.value)
        assert not (tmp_path / "electorate.db").exists()
        (tmp_path / "away").rename(tmp_path / "electorate.db")
        mine.commit([Promise("main", 9, "c", 6)])
        assert mine.load()["main"].term == 9


def test_each_start_is_later_than_one_whose_write_failed(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        first = mine.begin()
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            mine.begin()
        second, promises, gone = mine.live_again()
        assert (first.incarnation, second.incarnation, promises, gone) == (1, 2, {}, frozenset())
        assert mine.chain() == {first, second}


def test_a_disk_tries_again_in_order_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    told: list[BaseException] = []
    disk, mine = Disk("disk", told.append), store(tmp_path)
    with blocked(tmp_path):
        first = disk.persist(mine.commit, [Promise("main", 1, "a", 0)])
        later = disk.persist(mine.commit, [Promise("main", 2, "b", 0)])
        deadline = time.monotonic() + 30
        while len(told) < 3 and time.monotonic() < deadline:
            pass
        assert len(told) >= 3 and all(map(passes, told))
        assert not first.done() and not later.done()
    later.result(30)
    assert first.done() and mine.load()["main"].term == 2
    with blocked(tmp_path):
        disk.persist(mine.commit, [Promise("main", 3, "b", 0)])
        disk.submit(mine.close)
        disk.abandon()
        disk.thread.join(30)
        assert not disk.thread.is_alive()
    store(tmp_path).close()  # the lock is free


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "(No space left on device): free space on the disk",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "(Too many open files): let this process open more files",
        ),
        (OSError(errno.EACCES, "Permission denied"), "(Permission denied): mend the disk"),
    ],
)
def test_the_remedy_fits_the_error(error: OSError, what: str) -> None:
    assert f"cannot be written {what}" in remedy(error, "a")


def test_too_many_open_files_is_what_is_wrong_when_nothing_can_be_opened(tmp_path: Path) -> None:
    """SQLite only says that it could not open a file. In a process of its own: it opens all that it may."""
    program = """if True:
        import resource, sqlite3, sys
        from pathlib import Path
        from electorate.core.model import Promise
        from electorate.runtime.store import Store, remedy
        store, soft = Store(Path(sys.argv[1]), "demo", "a"), resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, soft[1]))
        try:
            store.commit([Promise("main", 7, "b", 6)])
        except (sqlite3.Error, OSError) as error:
            said = remedy(error, "a")
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
        store.commit([Promise("main", 7, "b", 6)])
        print(said, store.load()["main"].term)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot be written (Too many open files): let this process open more")
    assert done.stdout.endswith(" 7\n")


# --- a store that programs of two releases use -----------------------------------------------------------

NEWER = """
ALTER TABLE promise ADD COLUMN colour TEXT DEFAULT 'grey';
CREATE TABLE extra (name TEXT PRIMARY KEY);
UPDATE promise SET colour = 'green';
INSERT INTO extra VALUES ('kept');
INSERT INTO identity VALUES ('mood', 'merry');
"""


@contextmanager
def next_release(readable_by: int = 1) -> Iterator[None]:
    """What is run in here is of a release that has added something to the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "LAYOUTS", (*LAYOUTS, NEWER))
        patch.setattr(store_module, "READABLE_BY", readable_by)
        patch.setattr(store_module, "__version__", "7.1.0")
        yield


def asked(directory: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(directory / "electorate.db")) as database:
        return database.execute(question).fetchall()


def test_the_file_says_whose_it_is_and_who_may_go_on_with_it(tmp_path: Path) -> None:
    store(tmp_path).close()
    header = (tmp_path / "electorate.db").read_bytes()[:100]
    assert header[68:72] == b"elct"
    assert int.from_bytes(header[60:64]) == len(LAYOUTS) == 1
    said = dict(asked(tmp_path, "SELECT key, value FROM identity"))
    assert said == {"cluster": "demo", "node": "a", "release": __version__, "readable by": 1}


def test_the_store_of_another_node_is_left_alone(tmp_path: Path) -> None:
    store(tmp_path).close()
    content = (tmp_path / "electorate.db").read_bytes()
    with next_release(), pytest.raises(UserError, match="belongs to node 'a', not 'b'"):
        store(tmp_path, node="b")
    assert (tmp_path / "electorate.db").read_bytes() == content


def test_a_newer_release_brings_a_store_up_to_its_layout_and_an_older_one_goes_on_with_it(
    tmp_path: Path,
) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
    with next_release(), closing(store(tmp_path)) as newer:
        assert newer.load() == by_election(PROMISES)
    assert asked(tmp_path, "PRAGMA user_version") == [(2,)]
    assert asked(tmp_path, "SELECT * FROM extra") == [("kept",)]

    with closing(store(tmp_path)) as older:
        assert older.load() == by_election(PROMISES)
        assert older.begin().incarnation == 1
        older.commit([Promise("main", 8, "c", 7), Promise("shard-3", 1, "a", 0), Forget("shard-1")])
        with blocked(tmp_path), pytest.raises(sqlite3.Error):
            older.commit([Promise("main", 9, "c", 7)])
        older.commit([Promise("main", 9, "c", 7)])  # in a new file
        left = older.load()
    colours = dict(asked(tmp_path, "SELECT election, colour FROM promise"))
    assert colours == {"main": "green", "shard-2": "green", "shard-3": "grey"}
    assert asked(tmp_path, "SELECT * FROM extra") == [("kept",)]
    assert asked(tmp_path, "PRAGMA user_version") == [(2,)]

    with next_release(), closing(store(tmp_path)) as newer:
        assert newer.load() == left
        assert newer.identity["mood"] == "merry"
        assert newer.begin().incarnation == 2
    store(tmp_path).close()


def test_a_store_that_only_a_newer_release_can_read_is_not_to_be_thrown_away(tmp_path: Path) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
    with next_release(readable_by=2):
        store(tmp_path).close()
    content = (tmp_path / "electorate.db").read_bytes()
    with pytest.raises(UserError) as refused:
        store(tmp_path)
    assert str(refused.value) == (
        f"data directory {tmp_path} was used by electorate 7.1.0, whose store (layout 2) cannot be read by"
        f" electorate {__version__} (layout 1): run 7.1.0, or a later one; what node a has promised is all there"
    )
    assert (tmp_path / "electorate.db").read_bytes() == content
    with next_release(readable_by=2), closing(store(tmp_path)) as newer:
        assert newer.load() == by_election(PROMISES)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE identity; DROP TABLE promise",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE WHAT NO SQLITE KNOWS YET'",
    ],
)
def test_a_newer_store_that_is_quite_another_is_not_damaged(tmp_path: Path, change: str) -> None:
    store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "electorate.db")) as database:
        database.executescript(f"{change}; PRAGMA user_version = 9")
    with pytest.raises(UserError, match=r"a newer release, whose store \(layout 9\) .*: run a newer release"):
        store(tmp_path)


@pytest.mark.parametrize("version", [0, 2, 3])
def test_a_layout_that_is_not_what_was_written_is_damaged(tmp_path: Path, version: int) -> None:
    with next_release():
        store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "electorate.db")) as database:
        database.executescript(f"PRAGMA user_version = {version}")
    if version == 2:
        store(tmp_path).close()
    else:
        with pytest.raises(UserError, match="is damaged"):
            store(tmp_path)


def test_a_store_that_cannot_be_brought_up_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(store(tmp_path)) as mine:
        mine.commit(PROMISES)
    content = (tmp_path / "electorate.db").read_bytes()
    monkeypatch.setattr(store_module, "PATIENCE", 0.1)
    with closing(sqlite3.connect(tmp_path / "electorate.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with next_release(), pytest.raises(UserError, match="that it has promised is lost"):
            store(tmp_path)
    monkeypatch.setattr(store_module, "LAYOUTS", (*LAYOUTS, NEWER + "INSERT INTO extra VALUES ('kept');"))
    with pytest.raises(UserError) as refused:
        store(tmp_path)
    assert str(refused.value) == (
        f"data directory {tmp_path} cannot be brought from layout 1 to 2 (UNIQUE constraint failed: extra.name): run"
        f" the release again that was used before electorate {__version__}; what node a has promised is all there"
    )
    assert (tmp_path / "electorate.db").read_bytes() == content
    monkeypatch.undo()
    with closing(store(tmp_path)) as mine:
        assert mine.load() == by_election(PROMISES)


@in_loop
async def test_a_cluster_comes_to_the_next_release_and_back_node_by_node(tmp_path: Path) -> None:
    async with cluster(tmp_path, timing={"beat": 0.05, "lease": 0.3}) as at:
        await at.agreed()
        for id in "abc":
            await at.stop(id)
            with next_release():
                await at.start(id)
            await at.agreed()
        assert [asked(tmp_path / id, "PRAGMA user_version") for id in "abc"] == [[(2,)]] * 3
        for id in "abc":
            await at.stop(id)
            await at.start(id)
            await at.agreed()
        assert not any(host.figures.refusals["lost_store"] for host in at.hosts.values())
        assert [asked(tmp_path / id, "SELECT * FROM extra") for id in "abc"] == [[("kept",)]] * 3
