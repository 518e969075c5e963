"""Fencing at the resource."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from electorate import Fence, SQLiteFence, StaleToken


@pytest.fixture(params=["memory", "file", "connection"])
def fence(request: pytest.FixtureRequest, tmp_path: Path) -> Fence | SQLiteFence:
    if request.param == "memory":
        return Fence()
    if request.param == "file":
        opened = SQLiteFence(tmp_path / "fence.db")
        request.addfinalizer(opened.close)
        return opened
    database = sqlite3.connect(":memory:")
    request.addfinalizer(database.close)
    return SQLiteFence(database)


def test_only_tokens_not_older_than_the_newest_are_accepted(fence: Fence | SQLiteFence) -> None:
    assert fence.newest("x") == 0
    fence.check(3, "x")
    fence.check(3, "x")
    fence.check(5, "x")
    with pytest.raises(StaleToken) as stale:
        fence.check(4, "x")
    assert (stale.value.resource, stale.value.token, stale.value.newest) == ("x", 4, 5)
    assert str(stale.value) == "token 4 for 'x' is stale: 5 has been seen"
    fence.check(1, "y")
    assert (fence.newest("x"), fence.newest("y"), fence.newest()) == (5, 1, 0)


@pytest.mark.parametrize("token", [-1, 2**63, True, 1.5, "7", None])
def test_what_is_no_token_is_said(fence: Fence | SQLiteFence, token: object) -> None:
    with pytest.raises(ValueError, match="is not a fencing token"):
        fence.check(token, "x")  # type: ignore[arg-type]


def test_threads_may_share_one(tmp_path: Path) -> None:
    for shared in (Fence(), SQLiteFence(tmp_path / "shared.db")):
        stale = list[int]()

        def present(tokens: range, fence: Fence | SQLiteFence = shared, stale: list[int] = stale) -> None:
            for token in tokens:
                try:
                    fence.check(token)
                except StaleToken as error:
                    stale.append(error.token)
                    assert error.newest > error.token

        threads = [threading.Thread(target=present, args=(range(start, 200, 3),)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert shared.newest() == 199
        if isinstance(shared, SQLiteFence):
            shared.close()


def test_the_file_keeps_it_and_processes_share_it(tmp_path: Path) -> None:
    path = tmp_path / "fence.db"
    with SQLiteFence(path) as fence:
        fence.check(4, "x")
        program = "import sys; from electorate import SQLiteFence; SQLiteFence(sys.argv[1]).check(6, 'x')"
        subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(path)], check=True)
        with pytest.raises(StaleToken):
            fence.check(5, "x")
    with SQLiteFence(path) as fence:
        assert fence.newest("x") == 6


def test_check_takes_part_in_the_transaction_of_the_write(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    fence = SQLiteFence(database)
    database.execute("CREATE TABLE item (name TEXT)")
    database.execute("BEGIN")
    fence.check(3, "item")
    database.execute("INSERT INTO item VALUES ('lost')")
    database.execute("ROLLBACK")
    assert fence.newest("item") == 0
    fence.close()
    assert database.execute("SELECT count(*) FROM item").fetchone() == (0,)
    database.close()
