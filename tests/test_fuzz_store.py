"""The store after every crash. What a process writes is watched from outside (strace), and then played up to
each of its calls: the process ended there, or the power failed there, and what was not yet synced is lost in
part or torn. Every promise that was durable by then must be in the store that starts again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from electorate.core.model import Promise
from electorate.errors import UserError
from electorate.runtime.store import Store

COMMITS = 4
WORK = f"""
import os, resource, sqlite3, sys
from pathlib import Path
from electorate.core.model import Promise
from electorate.runtime.store import Store
store = Store(Path(sys.argv[1]), "test", "a")
limits = dict(zip(map(int, sys.argv[2::2]), map(int, sys.argv[3::2])))
for term in range(1, {COMMITS} + 1):
    promises = [Promise("main", term, "b", 0), *(Promise(f"shard-{{n}}", term, None, 0) for n in range(term * 9))]
    for attempt in range(9):
        limit = limits.get(term, resource.RLIM_INFINITY) if attempt < 2 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            store.commit(promises)
            os.write(1, b"durable")
            break
        except (sqlite3.Error, OSError):
            os.write(2, b"failed")
store.close()
"""
"""Its arguments are pairs, a term and a size: when that term is written, no file may be longer than that, twice."""
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
NAMED = re.compile(r"(\d+)<([^>]*)>")


NAMES = "."
"""The directory: what was created, renamed or removed is on the disk once it is synced."""
PARENT = ".."
"""The one in which the directory was made: without it, nothing is found at all."""


class Call(NamedTuple):
    """One thing that the process asked of the kernel. `path` is a file; `at` an offset or a length."""

    kind: str
    path: str
    at: int = 0
    data: bytes = b""
    to: str = ""


def unescape(text: str) -> bytes:
    return bytes.fromhex(text.replace('"', "").replace("\\x", ""))


def calls(trace: Path, directory: Path) -> Iterator[Call]:
    """What was done in the directory, and when it was said to be durable."""
    for line in trace.read_text().splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        kind, arguments, result = match.groups()
        parts = arguments.split(", ")
        failed = int(result) < 0
        if failed and kind not in ("fsync", "fdatasync"):
            continue
        if kind == "write" and len(parts) > 1 and unescape(parts[1]) == b"durable":
            yield Call("durable", "")
        elif kind == "mkdir":
            yield Call("found", PARENT)
        elif kind in ("rename", "unlink"):
            names = [Path(unescape(part).decode()) for part in parts]
            if names[0].parent == directory:
                yield Call(kind, names[0].name, to=names[1].name if len(names) > 1 else "")
        elif named := NAMED.match(parts[0] if kind != "openat" else f"{result}{line[line.rindex('<') :]}"):
            path = Path(unescape(named[2]).decode())
            if path in (directory, directory.parent) and kind in ("fsync", "fdatasync"):
                yield Call("lose" if failed else "sync", NAMES if path == directory else PARENT)
            if path.parent != directory or path.name == "lock":
                continue
            match kind:
                case "openat" if "O_CREAT" in arguments:
                    yield Call("create", path.name)
                case "pwrite64":
                    yield Call("write", path.name, int(parts[3]), unescape(parts[1])[: int(result)])
                case "fsync" | "fdatasync":
                    yield Call("lose" if failed else "sync", path.name)
                case "ftruncate":
                    yield Call("cut", path.name, int(parts[1]))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    return traced(tmp_path_factory)


@pytest.fixture(scope="module", params=[0, 600, 24_000], ids=lambda limit: f"full-at-{limit}")
def full(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Call]:
    """Two of its commits have failed twice before they went well: at once, in the journal, or in the file."""
    limits = [str(word) for term in (2, 4) for word in (term, request.param)]
    return traced(tmp_path_factory, *limits, failures=4)


@pytest.fixture(scope="module", params=range(9, 15))
def unsynced(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Call]:
    """One of its syncs has failed, of a file or of its journal."""
    history = traced(
        tmp_path_factory, inject=f"inject=fdatasync:error=EIO:when={request.param}", failures=None
    )
    assert any(call.kind == "lose" for call in history)
    return history


def traced(
    tmp_path_factory: pytest.TempPathFactory,
    *limits: str,
    inject: str = "",
    failures: int | None = 0,
) -> list[Call]:
    place = tmp_path_factory.mktemp("traced")
    trace = place / "trace"
    watched = "mkdir,openat,pwrite64,write,fsync,fdatasync,ftruncate,rename,unlink"
    tracer = ["strace", "-f", "-y", "-xx", "-s", "99999", "-e", watched, "-o", str(trace)]
    work = [sys.executable, "-c", WORK, str(place / "data"), *limits]
    tracer += ["-e", inject] if inject else []
    done = subprocess.run([*tracer, *work], check=True, capture_output=True)
    assert failures is None or done.stderr.count(b"failed") == failures
    history = list(calls(trace, place / "data"))
    assert [call.kind for call in history].count("durable") == COMMITS
    assert len([call for call in history if call.kind == "write"]) > 10 * COMMITS
    return history


Disk = dict[str, bytes]


def left(history: list[Call], survives: Callable[[int, Call], Call | None]) -> Disk:
    """What is found when all has ended here: of what was not yet synced, `survives` says what is left. A file that
    was synced is lost with its name; and what a failed sync has left, no later one writes."""
    seen: dict[str, int] = {}
    """The files by name, as the process sees them."""
    kept: dict[str, int] = {}
    """The same, as the disk has them."""
    content: dict[int, bytes] = {}
    for at, call in enumerate(history):
        place = call.path if call.kind in ("write", "cut", "found") else NAMES
        ends = (
            later.kind for later in history[at:] if later.kind in ("sync", "lose") and later.path == place
        )
        synced = next(ends, "lose") == "sync"
        done = call if synced else survives(at, call)
        if call.kind == "found" and not done:
            return {}
        file = seen.get(call.path, at)
        for names in (seen, kept) if done else (seen,):
            match call.kind:
                case "create":
                    names[call.path] = file
                case "rename" | "unlink":
                    names.pop(call.path, None)
                    names |= {call.to: file} if call.to else {}
        if done and call.kind in ("write", "cut"):
            before = content.get(file, b"")[: call.at].ljust(call.at, b"\0")
            after = content.get(file, b"")[call.at + len(done.data) :] if call.kind == "write" else b""
            content[file] = before + done.data + after
    return {name: content.get(file, b"") for name, file in kept.items()}


def torn(_: int, call: Call) -> Call:
    return call._replace(data=call.data[: len(call.data) // 2])


FAILURES: dict[str, Callable[[int, Call], Call | None]] = {
    "the process ends": lambda at, call: call,
    "nothing": lambda at, call: None,
    "every other one": lambda at, call: call if at % 2 else None,
    "the others": lambda at, call: None if at % 2 else call,
    "half of each": torn,
}


def crash_everywhere(
    directory: Path, history: list[Call], how: str, may_be_damaged: bool = False
) -> set[int]:
    """Start again after each call; returns the terms that were found."""
    found = set()
    for length in range(len(history) + 1):
        past = history[:length]
        disk = left(past, FAILURES[how])
        directory.mkdir()
        for name, content in disk.items():
            (directory / name).write_bytes(content)
        durable = [call.kind for call in past].count("durable")
        try:
            with closing(Store(directory, "test", "a")) as store:
                promises = store.load()
        except UserError as error:
            assert may_be_damaged and "is damaged" in str(error), f"after {length} calls"
            shutil.rmtree(directory)
            continue
        term = promises.get("main", Promise("main")).term
        assert durable <= term <= durable + 1, f"after {length} calls"
        assert len(promises) == (1 + 9 * term if term else 0), "all of a commit, or nothing of it"
        assert {promise.term for promise in promises.values()} <= {term}
        found.add(term)
        shutil.rmtree(directory)
    return found


@pytest.mark.parametrize("how", FAILURES)
def test_what_was_durable_is_there_after_a_crash_at_any_point(
    tmp_path: Path, history: list[Call], how: str
) -> None:
    assert crash_everywhere(tmp_path / "data", history, how) == set(range(COMMITS + 1))


def test_a_new_store_has_its_name_on_the_disk_before_it_is_used(history: list[Call]) -> None:
    """Whenever SQLite itself happens to sync the directory."""
    named = history.index(Call("rename", "electorate.new", to="electorate.db"))
    assert history[named + 1] == Call("sync", NAMES)
    assert history[:2] == [Call("found", PARENT), Call("sync", PARENT)]


@pytest.mark.parametrize("how", FAILURES)
def test_it_is_there_after_a_crash_at_any_point_of_a_disk_that_was_full(
    tmp_path: Path, full: list[Call], how: str
) -> None:
    assert crash_everywhere(tmp_path / "data", full, how) == set(range(COMMITS + 1))


@pytest.mark.parametrize("how", FAILURES)
def test_no_promise_rests_on_a_sync_that_has_failed(tmp_path: Path, unsynced: list[Call], how: str) -> None:
    """The store is as it should be after a crash, or it is damaged, and says so."""
    crash_everywhere(tmp_path / "data", unsynced, how, may_be_damaged=how != "the process ends")


@pytest.mark.parametrize("file", ["electorate.db", "electorate.db-journal", NAMES, PARENT])
def test_without_a_sync_that_would_be_noticed(tmp_path: Path, history: list[Call], file: str) -> None:
    careless = [call for call in history if (call.kind, call.path) != ("sync", file)]
    with pytest.raises((AssertionError, UserError)):
        for how in FAILURES:
            crash_everywhere(tmp_path / how, careless, how)
