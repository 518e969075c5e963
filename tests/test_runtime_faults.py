"""`elect node` on disks that are full, read-only, damaged or stalled, and under a wall clock that jumps.

A full disk is a limit on the size of files: it binds in any container, and root too. A read-only one is taken
away by file modes, from a process that has lost root's right to pass over them.
"""

from __future__ import annotations

import ast
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import libfaketime  # type: ignore[import-untyped]
import pytest

import electorate
from electorate.core.model import Accept, Member, Membership, Promise, Save, Send, Settings
from electorate.core.node import Node
from electorate.core.raft import RequestVote
from electorate.runtime.store import Store
from tests import test_runtime_node
from tests.test_runtime_node import NODE, Process, cluster, complaint, others, run

E = "main"
QUICK = "[timing]\nbeat = 0.1\nlease = 0.5\n"
STEADY = "[timing]\nbeat = 0.1\nlease = 5.0\n"
"""No busy machine takes so long for a commit."""

UNPRIVILEGED = (
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
    *NODE,
)
"""Without CAP_DAC_OVERRIDE, by PR_CAPBSET_DROP: file modes bind it, whoever runs it."""


def read_only(data: Path) -> None:
    for path in data.iterdir():
        path.chmod(0o400)
    data.chmod(0o500)


def mend(data: Path) -> None:
    data.chmod(0o700)
    for path in data.iterdir():
        path.chmod(0o600)


def promised(data: Path, node: str) -> Promise:
    """What is in the store of a node that has ended."""
    with closing(Store(data, "demo", node)) as store:
        return store.load()[E]


def backs(data: Path, node: str, term: int) -> bool:
    """Whether a node with this store, long after its restart, backs another claimant in this term."""
    claimant = next(id for id in "abc" if id != node)
    members = Membership(tuple(map(Member, "abc")))
    with closing(Store(data, "demo", node)) as store:
        restarted = Node(node, members, Settings(), start=store.begin(), promises=store.load())
    restarted.start(0.0)
    restarted.connected(0.0, claimant, 1)
    effects = restarted.receive(1000.0, claimant, RequestVote(E, term, position=0, insist=True))
    accepted = any(isinstance(effect, Send) and isinstance(effect.message, Accept) for effect in effects)
    assert accepted == any(
        isinstance(effect, Save) and isinstance(effect.record, Promise) and effect.record.backed
        for effect in effects
    )
    return accepted


@contextmanager
def cannot_write(fault: str, process: Process, data: Path) -> Iterator[None]:
    pid = process.child.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    if fault == "full":
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    else:
        read_only(data)
    try:
        yield
    finally:
        if fault == "full":
            if process.child.poll() is None:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        else:
            mend(data)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_leader_that_cannot_write_leads_no_longer_and_votes_again_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(test_runtime_node, "NODE", UNPRIVILEGED)
    with cluster(tmp_path, head=STEADY) as at:
        first = at.agreed()
        term = first.named[1]
        data = tmp_path / first.id
        with cannot_write(fault, first, data):
            first.order("contend another")
            at.until(lambda: first.heard("stalled", "cannot be written") and not first.holds_a_lease)
            second = at.agreed(*others(at, first), after=term)
        at.until(lambda: first.heard("restored") and first.heard("view", "another", '"role": "leader"'))
        recovers_and_votes(at, first, second)
        [line] = [line for line in ended(first) if "cannot be written (" in line]
        assert f"data directory {data} cannot be written (" in line
        assert "mend the disk, or let this process write there; leading no longer" in line


def recovers_and_votes(at: test_runtime_node.Cluster, first: Process, second: Process) -> None:
    """Of the two that are left, each needs the vote of the other."""
    at.agreed()
    at.processes.pop(second.id).end()
    leader = at.agreed()
    term = leader.named[1]
    leader.order("resign")
    at.agreed(after=term)
    assert first.id in at.processes


def asked(process: Process, question: str) -> Process:
    process.order(question)
    return process


def untaken(process: Process) -> int:
    """How many calls it could not take, as it has told last."""
    status = process.last("status")
    return status["ignored"].get("calls that could not be taken", 0) if status else 0


def ended(process: Process) -> list[str]:
    """What it has said in all its life, which ends well."""
    process.child.terminate()
    code, stderr = process.ended()
    assert code == 0
    return stderr.splitlines()


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_leader_that_dies_while_it_cannot_write_loses_no_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(test_runtime_node, "NODE", UNPRIVILEGED)
    with cluster(tmp_path) as at:
        first = at.agreed()
        term = first.named[1]
        data = tmp_path / first.id
        with cannot_write(fault, first, data):
            first.order("contend another")
            at.until(lambda: first.heard("stalled", "cannot be written"))
            first.end()
        at.agreed(*others(at, first), after=term)
        assert promised(data, first.id) == Promise(E, term, first.id, promised(data, first.id).epoch)
        assert not backs(data, first.id, term)
        assert backs(data, first.id, term + 1)
        at.start(first.id)
        at.agreed(after=term)


@contextmanager
def small_disks(directory: Path, ids: str) -> Iterator[None]:
    """Each of these nodes has a disk of its own, of 512 kB."""
    mounted = []
    try:
        for id in ids:
            place = directory / id
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "electorate-test", str(place)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("to mount a small disk is not allowed here")
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Not a byte is left on the disk that this is."""
    with (directory / "filling").open("wb", buffering=0) as filling:
        for size in (4096, 1):
            with suppress(OSError):
                while filling.write(b"x" * size):
                    pass
    try:
        yield
    finally:
        (directory / "filling").unlink()


def test_a_disk_that_is_full_for_a_while_ends_nobody_for_good(tmp_path: Path) -> None:
    with small_disks(tmp_path, "abc"), cluster(tmp_path, head=STEADY) as at:
        first = at.agreed()
        term = first.named[1]
        with filled(tmp_path / first.id):
            first.order("contend another")
            at.until(lambda: first.heard("stalled", "(database or disk is full): free space on the disk"))
            second = at.agreed(*others(at, first), after=term)
            assert not first.holds_a_lease
        at.until(lambda: first.heard("restored") and first.heard("view", "another", '"role": "leader"'))
        recovers_and_votes(at, first, second)
        said = ended(first)
        assert sum("cannot be written (" in line for line in said) == 1
        assert sum("takes writes again, after" in line for line in said) == 1


def test_too_many_open_files_for_a_while_end_nobody_for_good(tmp_path: Path) -> None:
    with cluster(tmp_path, head=STEADY) as at:
        first = at.agreed()
        term, pid = first.named[1], first.child.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        first.order("contend another")
        at.until(lambda: first.heard("stalled", "(Too many open files): let this process open more files"))
        second = at.agreed(*others(at, first), after=term)
        ready = first.last("ready")
        assert ready
        name, port = ready["address"].split(":")
        with socket.create_connection((name, int(port))):
            at.until(lambda: untaken(asked(first, "status")) > 3)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        at.until(lambda: first.heard("restored") and first.heard("view", "another", '"role": "leader"'))
        recovers_and_votes(at, first, second)
        said = ended(first)
        assert 1 <= sum("cannot be written (Too many open files)" in line for line in said) <= 3, (
            "once a trouble"
        )
        assert len(said) < 30, "nothing is said again and again"
        [refused] = [line for line in said if "calls cannot be taken" in line]
        assert "(Too many open files): let this process open more files" in refused
        assert (
            sum(re.search(r"calls are taken again, after \d+ attempts", line) is not None for line in said)
            == 1
        )


def test_a_disk_that_is_bad_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, ids="a", start=False) as at:
        data = tmp_path / "a"
        with full_for_children():
            said = complaint(run(*at.arguments("a")))
            assert f"data directory {data} cannot be used (File too large): mend that" in said
        monkeypatch.setattr(test_runtime_node, "NODE", UNPRIVILEGED)
        Store(data, "demo", "a").close()
        read_only(data)
        said = complaint(run(*at.arguments("a")))
        assert f"data directory {data} cannot be used (Permission denied): mend that" in said
        (data / "lock").chmod(0o600)
        said = complaint(run(*at.arguments("a")))
        assert f"data directory {data} cannot be written (" in said
        assert "start node a again" in said
        mend(data)

        content = (data / "electorate.db").read_bytes()
        (data / "electorate.db").write_bytes(content[: len(content) // 2])
        said = complaint(run(*at.arguments("a")))
        assert f"data directory {data} is damaged (" in said
        assert "move it away, and start node a with --rejoin" in said


@contextmanager
def full_for_children() -> Iterator[None]:
    """What this process starts may not write to any file; nor may it itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_damaged_store_is_replaced_by_rejoining(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        at.agreed()
        at.processes["c"].end()
        data = tmp_path / "c"
        (data / "electorate.db").write_bytes(b"")
        damaged = at.start("c")
        code, stderr = damaged.ended()
        assert code == 2
        assert f"{data}/electorate.db is no store (it is empty): if it was one, move it away" in stderr
        shutil.move(data, tmp_path / "away")
        at.start("c", "--rejoin")
        at.agreed()


# --- a disk that stalls ---------------------------------------------------------------------------


@contextmanager
def stalled(data: Path) -> Iterator[None]:
    """Another process (this one) holds the lock of the file: a commit waits, for as long as it likes."""
    with closing(sqlite3.connect(data / "electorate.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_a_leader_whose_disk_stalls_leads_no_longer_and_comes_back(tmp_path: Path) -> None:
    with cluster(tmp_path, head=QUICK) as at:
        first = at.agreed()
        term = first.named[1]
        with stalled(tmp_path / first.id):
            first.order("contend another")
            second = at.agreed(*others(at, first), after=term)
            at.until(lambda: first.heard("stalled") and not first.holds_a_lease)
        at.until(lambda: first.heard("view", "another"))
        at.agreed(after=term)
        assert second.named[1] > term
        first.child.terminate()
        code, stderr = first.ended()
        assert code == 0
        assert f"data directory {tmp_path / first.id} has stalled: see whether the disk" in stderr


def test_a_node_whose_disk_hangs_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with cluster(tmp_path, head=QUICK) as at:
        first = at.agreed()
        with stalled(tmp_path / first.id):
            first.order("contend another")
            at.until(lambda: first.heard("stalled"))
            first.child.send_signal(signal.SIGTERM)
            code, stderr = first.ended()
            assert code == 0
            assert f"data directory {tmp_path / first.id} takes no write: stopping without it" in stderr
        at.start(first.id)
        at.agreed()


# --- the wall clock ---------------------------------------------------------------------------------

LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


def wall_clock() -> float:
    """What a new process takes for the time of day."""
    done = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_a_wall_clock_that_jumps_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = tmp_path / "offset"

    def jump(seconds: int) -> None:
        (tmp_path / "next").write_text(f"{seconds:+d}\n")
        (tmp_path / "next").rename(offset)

    jump(0)
    for name, value in {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with cluster(tmp_path, head="[timing]\nbeat = 0.1\nlease = 20.0\n") as at:
        first = at.agreed()
        at.until(lambda: all(process.named == first.named for process in at.processes.values()))
        told = {id: len(process.said) for id, process in at.processes.items()}
        for hours in (1, -1, 0, 10000):
            jump(3600 * hours)
            assert round((wall_clock() - time.time()) / 3600) == hours
            lasting = len(first.said) + 10
            at.until(lambda lasting=lasting: len(first.said) > lasting)  # type: ignore[misc]
        for id, process in at.processes.items():
            since = process.said[told[id] :]
            assert not [event for event in since if event["event"] in ("stalled", "failed", "error")]
            assert {(e["leader"], e["term"]) for e in since if e["event"] == "view"} <= {first.named}
            assert [e for e in since if e["event"] == "lease" and e["until"] is None] == []
        assert first.holds_a_lease


def test_nothing_that_elects_reads_the_wall_clock() -> None:
    """All that it knows of time comes from `clock.now`; a line of the log is stamped, and what is shown of a leader, or of
    a lost quorum, is since when: all are read by people only. Some sleep, and a guardian asks when the alarm is to ring.
    Certificates are good for a time of the day; of that, no promise knows anything."""
    package = Path(electorate.__file__).parent
    sources = {
        path: path.read_text("utf-8")
        for room in ("core", "runtime")
        for path in (package / room).glob("*.py")
    }
    assert len(sources) > 10
    sleepers = {"guardian.py", "store.py", "tree.py"}
    assert {path.name for path, source in sources.items() if {"time", "datetime"} & imports(source)} == {
        "clock.py",
        "contact.py",
        "logs.py",
        "figures.py",
        "authority.py",
        "certificates.py",
        "secret.py",
        *sleepers,
    }
    for name in sleepers:
        source = sources[package / "runtime" / name]
        assert set(re.findall(r"\btime\.(\w+)", source)) <= {"sleep", "clock_gettime", "CLOCK_BOOTTIME"}, name
    clock = sources[package / "runtime/clock.py"]
    assert set(re.findall(r"\btime\.(\w+)", clock)) == {"clock_gettime", "CLOCK_MONOTONIC"}
    assert set(re.findall(r"CLOCK_\w+", clock)) == {
        "CLOCK_BOOTTIME",
        "CLOCK_MONOTONIC",
        "CLOCK_MONOTONIC_RAW",
    }


def imports(source: str) -> set[str]:
    """The modules that this one imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
