"""`elect up` and its tour, as a user runs them: real processes, and nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ELECT = (sys.executable, "-m", "electorate.cli.main")
BOUND = 60.0
"""Seconds: far more than anything here takes."""


def elect(scratch: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ELECT, *arguments],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


@contextmanager
def running_up(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*ELECT, "up", "--json"],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        try:
            yield up
        finally:
            up.kill()


def until_agreed(up: subprocess.Popen[str]) -> list[int]:
    """Read events until a leader is agreed. Returns the ids of all processes of the cluster."""
    assert up.stdout
    pids = []
    for line in up.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            pids.append(event["pid"])
        if event["event"] == "agreed" and len(pids) == 3:
            return pids
        if event["event"] == "view" and len(pids) == 3 and event["leader"]:
            return pids
    raise AssertionError("it ended before a leader was agreed")


def wait_for_end(pid: int) -> None:
    """Until this process, which is not a child of ours, is no more."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], BOUND)[0], f"process {pid} lives on"
        finally:
            os.close(descriptor)


def wait_until_stopped(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()


def test_it_shows_every_event_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = elect(tmp_path, "up", "--json", "--for", "3")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["node"] for event in events if event["event"] == "ready"} == {"a", "b", "c"}
    assert any(event["event"] == "agreed" and event["leader"] in "abc" for event in events)
    for event in events:
        if event["event"] == "ready":
            wait_for_end(event["pid"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_tells_the_news_in_lines(tmp_path: Path) -> None:
    done = elect(tmp_path, "up", "--for", "3")
    assert done.returncode == 0, done.stderr
    assert "leads, term " in done.stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_ends_in_good_order(tmp_path: Path, sent: signal.Signals) -> None:
    with running_up(tmp_path) as up:
        pids = until_agreed(up)
        up.send_signal(sent)
        up.communicate(timeout=BOUND)
        assert up.returncode == 0
    for pid in pids:
        wait_for_end(pid)
    assert list(tmp_path.iterdir()) == []


PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """The orphans become our children, in our session: so the kernel does not wake those that are stopped."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_no_node_outlives_it_when_it_is_killed(tmp_path: Path) -> None:
    """Not even one that is stopped, and reads no end of file."""
    with adopting_orphans():
        with running_up(tmp_path) as up:
            pids = until_agreed(up)
            os.kill(pids[0], signal.SIGSTOP)
            wait_until_stopped(pids[0])
            up.kill()
        for pid in pids:
            wait_for_end(pid)
            os.waitpid(pid, 0)


def test_nor_when_nobody_reads_it_any_more(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        pids = until_agreed(up)
        assert up.stdout
        up.stdout.close()
        up.wait(timeout=BOUND)
    for pid in pids:
        wait_for_end(pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
def test_the_tour_goes_as_it_should(tmp_path: Path, algorithm: str) -> None:
    done = elect(tmp_path, "up", "--tour", "--algorithm", algorithm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as it should") == 6
    assert "Two leaders at once: never." in done.stdout
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "up --nodes 0": "--nodes 0",
    "up --nodes 1": "--nodes 1",
    "up --nodes 99": "--nodes 99",
    "up --algorithm paxos": "'paxos'",
    "up --quorum everybody": "'everybody'",
    "up --lease 0": "--lease",
    "up --lease 0.2 --beat 0.1": "--beat 0.1",
    "up --for 0": "--for 0",
    "up --tour --nodes 5": "--nodes 5",
    "bench failover --fault flood": "'flood'",
    "bench failover --trials 0": "--trials 0",
    "bench failover --nodes 2": "--nodes 2",
    "bench failover --algorithm paxos": "'paxos'",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_by_one_sentence(tmp_path: Path, command: str) -> None:
    done = elect(tmp_path, *command.split())
    assert done.returncode == 2
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("elect: ")
    assert MISTAKES[command] in sentence
