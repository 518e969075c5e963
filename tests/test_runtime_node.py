"""`elect node` as a supervisor runs it: real processes, killed, paused, stopped, robbed of their stores."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import reserved_ports

NODE = (sys.executable, "-m", "electorate.cli.main", "node")
BOUND = 60.0
"""Seconds: far more than anything here takes."""


class Process:
    """One `elect node --attach`, and all that it has said."""

    def __init__(self, cluster: Cluster, id: str, *options: str) -> None:
        self.id = id
        self.news = cluster.news
        self.said: list[dict[str, Any]] = []
        self.child = subprocess.Popen(
            [*NODE, *cluster.arguments(id), "--attach", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        assert self.child.stdout
        for line in self.child.stdout:
            with self.news:
                self.said.append(json.loads(line))
                self.news.notify_all()

    def order(self, line: str) -> None:
        assert self.child.stdin
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def last(self, kind: str) -> dict[str, Any] | None:
        """What it has said last of this kind, and if that is of an election, of the first of them."""
        return next(
            (
                event
                for event in reversed(self.said)
                if event["event"] == kind and event.get("election", "main") == "main"
            ),
            None,
        )

    def heard(self, kind: str, *words: str) -> bool:
        """Whether it has told an event of this kind, with all these words in it."""
        return any(
            event["event"] == kind and all(word in json.dumps(event) for word in words)
            for event in tuple(self.said)
        )

    @property
    def named(self) -> tuple[str | None, int]:
        """The leader it named last, and the term."""
        view = self.last("view")
        return (view["leader"], view["term"]) if view else (None, 0)

    @property
    def holds_a_lease(self) -> bool:
        lease = self.last("lease")
        return lease is not None and lease["until"] is not None

    def ended(self) -> tuple[int, str]:
        """Wait for its end: the exit code, and what it wrote on stderr."""
        code = self.child.wait(BOUND)
        self.reader.join(BOUND)
        assert self.child.stderr
        return code, self.child.stderr.read()

    def end(self) -> None:
        self.child.kill()
        self.child.wait(BOUND)
        self.reader.join(BOUND)
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            assert pipe
            pipe.close()


class Cluster:
    def __init__(self, directory: Path, ports: dict[str, int], head: str) -> None:
        self.directory = directory
        self.news = threading.Condition()
        self.processes: dict[str, Process] = {}
        nodes = "".join(f'[nodes.{id}]\naddress = "127.0.0.1:{port}"\n' for id, port in ports.items())
        self.file = directory / "cluster.toml"
        self.file.write_text(f'cluster = "demo"\n{head}{nodes}')

    def arguments(self, id: str) -> list[str]:
        return ["--config", str(self.file), "--id", id, "--data", str(self.directory / id)]

    def start(self, id: str, *options: str) -> Process:
        if id in self.processes:
            self.processes[id].end()
        self.processes[id] = Process(self, id, *options)
        return self.processes[id]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the processes have said makes it true."""
        with self.news:
            assert self.news.wait_for(condition, BOUND), {
                id: process.said[-5:] for id, process in self.processes.items()
            }

    def agreed(self, *among: str, after: int = 0) -> Process:
        """Wait until these name one leader of a term after this one, and it holds its lease."""
        processes = [self.processes[id] for id in among or self.processes]

        def found() -> bool:
            named = {process.named for process in processes}
            leader, term = next(iter(named))
            return (
                len(named) == 1
                and term > after
                and any(process.id == leader and process.holds_a_lease for process in processes)
            )

        self.until(found)
        return self.processes[str(processes[0].named[0])]


@contextmanager
def cluster(directory: Path, ids: str = "abc", head: str = "", start: bool = True) -> Iterator[Cluster]:
    with reserved_ports(len(ids)) as ports:
        made = Cluster(directory, dict(zip(ids, ports, strict=True)), head)
        try:
            for id in ids if start else "":
                made.start(id)
            yield made
        finally:
            for process in made.processes.values():
                process.end()


def others(at: Cluster, process: Process) -> list[str]:
    return [id for id in at.processes if id != process.id]


@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
def test_when_the_leader_is_killed_another_leads(tmp_path: Path, algorithm: str) -> None:
    with cluster(tmp_path, head=f'algorithm = "{algorithm}"\n') as at:
        first = at.agreed()
        term = first.named[1]
        first.child.kill()
        second = at.agreed(*others(at, first), after=term)
        assert second.heard("peer", f'"peer": "{first.id}"', '"dead"')
        revived = at.start(first.id)
        at.agreed(after=term)
        ready = revived.last("ready")
        assert ready
        assert (ready["incarnation"], ready["pid"]) == (2, revived.child.pid)


def test_a_leader_that_was_paused_knows_on_waking_that_it_leads_no_more(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        first = at.agreed()
        term = first.named[1]
        first.child.send_signal(signal.SIGSTOP)
        second = at.agreed(*others(at, first), after=term)
        asleep = len(first.said)
        first.child.send_signal(signal.SIGCONT)
        at.until(lambda: first.named == second.named)
        leases = [event for event in first.said[asleep:] if event["event"] == "lease"]
        assert [event["until"] for event in leases] == [None]
        assert not any(
            event["event"] == "view" and event["role"] == "leader" for event in first.said[asleep:]
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_leader_that_is_stopped_hands_over_first(tmp_path: Path, number: signal.Signals) -> None:
    with cluster(tmp_path) as at:
        first = at.agreed()
        term = first.named[1]
        first.child.send_signal(number)
        assert first.ended() == (0, "")
        at.agreed(*others(at, first), after=term)
        assert not first.holds_a_lease


def test_no_node_outlives_its_supervisor(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        first = at.agreed()
        for process in at.processes.values():
            assert process.child.stdin
            process.child.stdin.close()
        assert [process.ended()[0] for process in at.processes.values()] == [0, 0, 0]
        del first


def transfer(at: Cluster, leader: Process, heir: Process) -> None:
    """Order it until it is done: a follower may have named a leader that has not heard so yet."""
    while heir.named[0] != heir.id:
        told = len(leader.said)
        leader.order(f"transfer {heir.id}")
        at.until(
            lambda told=told: (  # type: ignore[misc]
                heir.named[0] == heir.id or any(event["event"] == "error" for event in leader.said[told:])
            )
        )
    at.until(lambda: all(process.named[0] == heir.id for process in at.processes.values()))


def test_it_obeys_its_supervisor(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        first = at.agreed()
        heir = at.processes[others(at, first)[0]]
        transfer(at, first, heir)

        heir.order("status")
        at.until(lambda: heir.heard("status", '"role": "leader"', '"connected"'))

        term = heir.named[1]
        heir.order("withdraw")
        assert at.agreed(after=term) is not heir
        heir.order("contend")
        heir.order("contend shard-1")
        at.until(lambda: heir.heard("view", "shard-1", '"role": "leader"'))

        for mistake in (
            "transfer x",
            "transfer",
            "position high",
            f"position {2**70}",
            "dance",
            "status now please",
        ):
            heir.order(mistake)
            at.until(lambda mistake=mistake: heir.heard("error", mistake))  # type: ignore[misc]
        heir.order("stop")
        assert heir.ended() == (0, "")


def test_a_lost_store_is_refused_until_the_node_rejoins(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        at.agreed()
        at.processes["c"].end()
        at.agreed("a", "b")
        shutil.rmtree(tmp_path / "c")
        lost = at.start("c")
        at.until(lambda: lost.heard("peer", "refused by a", "restart it with --rejoin"))
        at.until(lambda: lost.heard("peer", "refused by b", "restart it with --rejoin"))
        at.until(lambda: at.processes["a"].heard("peer", "refusing c", "lost or rolled back"))
        at.agreed("a", "b")
        assert lost.named[0] is None
        mended = at.start("c", "--rejoin")
        at.agreed()
        assert mended.named[0]


# --- mistakes: one line on stderr, exit code 2 ------------------------------------------------------


def run(*arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODE, *arguments], stdin=stdin, capture_output=True, text=True, timeout=BOUND, check=False
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a mistake is answered with."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("elect: ")
    return line


def test_mistakes_are_answered_by_one_line(tmp_path: Path) -> None:
    with cluster(tmp_path, ids="ab", start=False) as at:
        assert "node 'x' is not in the cluster file; it has a, b" in complaint(run(*at.arguments("x")))
        assert "No such file" in complaint(run("--config", str(tmp_path / "none.toml"), "--id", "a"))
        assert "leave it out" in complaint(run(*at.arguments("a"), "--attach"))

        a = at.start("a")
        at.until(lambda: a.heard("ready"))
        assert f"is in use by process {a.child.pid}" in complaint(run(*at.arguments("a")))
        again = ["--config", str(at.file), "--id", "a", "--data", str(tmp_path / "again")]
        assert "node a cannot listen on 127.0.0.1:" in complaint(run(*again))
        (tmp_path / "file").touch()
        assert "cannot be used" in complaint(run(*again[:-1], str(tmp_path / "file")))

        at.file.write_text(at.file.read_text().replace("cluster =", "clutser ="))
        assert "did you mean 'cluster'?" in complaint(run(*at.arguments("b")))


def test_an_address_that_does_not_resolve(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('cluster = "demo"\ninsecure = true\n[nodes.a]\naddress = "nowhere.invalid:7400"\n')
    done = run("--config", str(path), "--id", "a", "--data", str(tmp_path / "a"))
    said = complaint(done)
    assert "node a cannot listen on nowhere.invalid:7400: that name cannot be looked up here" in said
    assert "say in nodes.a.bind where to listen" in said


def test_its_supervisor_is_told_of_a_mistake_too(tmp_path: Path) -> None:
    with cluster(tmp_path, ids="ab", start=False) as at:
        a = at.start("a")
        at.until(lambda: a.heard("ready"))
        second = Process(at, "a")
        at.until(lambda: second.heard("error", "is in use by process"))
        code, stderr = second.ended()
        assert code == 2
        assert stderr.count("\n") == 1
        second.end()


def test_without_a_supervisor_it_tells_people_who_leads(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, ids="a", start=False) as at,
        subprocess.Popen([*NODE, *at.arguments("a")], stderr=subprocess.PIPE, text=True) as alone,
    ):
        assert alone.stderr
        assert any("main: this node leads, term 1" in line for line in alone.stderr)
        alone.terminate()
        assert alone.wait(BOUND) == 0
