"""The guardian and `elect run`: what is left of one command does not befall the next, and there is time to spare."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from electorate.cli import run as running
from electorate.cli.run import FIRST_PAUSE, GRACE, LONGEST_PAUSE, MARGIN, Restart, Run
from electorate.core.model import Role, View
from electorate.runtime.clock import now
from tests.test_run import BOUND, Ward, gone, one

STUBBORN = "trap 'echo told' TERM; echo up; while :; do sleep 0.01; done"


@pytest.fixture
def ward() -> Iterator[Ward]:
    made = Ward()
    yield made
    made.close()


def stopped(ward: Ward) -> None:
    """A first command has been told to stop, did not, and was killed."""
    ward.start(STUBBORN, now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("stop", 0.05)
    assert ward.output.readline() == "told\n"
    assert ward.heard() == ["gone", -signal.SIGKILL]


def test_the_time_to_stop_of_one_command_is_not_that_of_the_next(ward: Ward) -> None:
    stopped(ward)
    ward.start("sleep 0.3; exit 5", now() + BOUND)
    assert ward.heard() == ["gone", 5]


def rest(ward: Ward) -> str:
    """All else that was written until the guardian has ended."""
    ward.socket.close()
    return ward.output.read()


def test_the_next_command_is_told_to_stop_as_well(ward: Ward) -> None:
    stopped(ward)
    deadline = now() + 1.0
    ward.start(STUBBORN, deadline)
    assert ward.heard() == ["gone", -signal.SIGKILL]
    assert now() < deadline
    assert rest(ward) == "up\ntold\n"


def test_a_command_is_told_to_stop_once(ward: Ward) -> None:
    ward.start(STUBBORN, now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("stop", 60)
    assert ward.output.readline() == "told\n"
    ward.say("stop", 0.3)
    assert ward.heard() == ["gone", -signal.SIGKILL]
    assert rest(ward) == ""


def test_what_outlives_the_guardian_is_ended_by_elect(tmp_path: Path) -> None:
    """Also what has left the command's group and session."""
    script = "setsid sh -c 'echo $$; sleep 1000' & setsid sleep 1000 & echo $!; wait"
    with one(tmp_path, command=["sh", "-c", script]) as process:
        assert process.stdout
        pids = [int(process.stdout.readline()) for _ in range(2)]
        [guardian] = children(process.pid)
        os.kill(guardian, signal.SIGKILL)
        code = process.wait(BOUND)
        left = [pid for pid in pids if not gone(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert (code, left) == (1, []), "before another may lead: elect has seen to it"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- `elect run` without a cluster ------------------------------------------------------------------


class Loop:
    def __init__(self) -> None:
        self.pauses: list[float] = []

    def call_later(self, delay: float, call: object) -> object:
        self.pauses.append(delay)
        return None

    def call_soon(self, call: Any) -> None:
        call()


class Node:
    """What a `Run` asks of its host; the test says what there is to know."""

    id = "a"

    class config:
        class timing:
            lease = 8.0

    def __init__(self) -> None:
        self.loop = Loop()
        self.left = 8.0
        self.is_yielding = False
        self.occupied = False

    def view(self, election: str) -> View:
        return View(election, Role.LEADER, "a", 1, True, self.is_yielding)

    def lease_left(self, election: str) -> float:
        return self.left

    def lease(self, election: str) -> float:
        return now() + self.left

    def tenure(self, election: str) -> tuple[int, float]:
        return 1, self.left

    def occupy(self, election: str) -> None:
        self.occupied = True

    def vacate(self, election: str) -> None:
        self.occupied = False


class Said:
    """In place of the guardian."""

    def __init__(self) -> None:
        self.words: list[tuple[Any, ...]] = []

    def say(self, *words: Any) -> None:
        self.words.append(words)


def staged() -> tuple[Run, Node, Said]:
    node, said = Node(), Said()
    run = Run(cast(Any, node), "main", ["true"], Restart.ALWAYS, 10.0)
    run.ward = cast(Any, said)
    return run, node, said


def test_a_command_is_stopped_and_killed_while_the_lease_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guardian is told by how much sooner, in seconds of this cluster's lease."""
    told: list[list[str]] = []

    class Started(Exception):
        pass

    def popen(arguments: list[str], **options: Any) -> None:
        told.append(arguments)
        raise Started

    class Held:
        def fileno(self) -> int:
            return 0

    pair = socket.socketpair()
    monkeypatch.setattr(socket, "socketpair", lambda: pair)
    monkeypatch.setattr(subprocess, "Popen", popen)
    run, node, _ = staged()
    node.listeners, node.store = [Held()], type("Store", (), {"lock": 0})  # type: ignore[attr-defined]
    with pytest.raises(Started):
        running.Ward.start(run).send(None)
    for end in pair:
        end.close()
    grace, margin = map(float, told[0][5:7])
    lease = node.config.timing.lease
    assert (grace, margin) == (GRACE * lease, MARGIN * lease)
    assert 0.05 * lease <= margin <= grace / 2 <= 0.25 * lease, "time to be killed in, and as much to end in"


def test_a_command_is_not_begun_that_would_have_to_be_stopped_at_once() -> None:
    run, node, said = staged()
    node.left = 0.9 * GRACE * node.config.timing.lease
    run.consider()
    assert not said.words and not node.occupied
    node.left = 2 * GRACE * node.config.timing.lease
    run.consider()
    assert [words[0] for words in said.words] == ["start"]
    assert node.occupied, "and the leadership is not given away meanwhile"


def test_another_that_is_to_lead_stops_the_command_and_waits_for_its_end() -> None:
    run, node, said = staged()
    run.consider()
    node.is_yielding = True
    run.consider()
    run.consider()
    assert [words[0] for words in said.words] == ["start", "stop"]
    assert node.occupied
    run.ended(0)
    assert not node.occupied
    assert [words[0] for words in said.words] == ["start", "stop"], "nor begun again"


def test_a_command_that_ends_at_once_is_begun_again_later_and_later() -> None:
    run, node, _ = staged()
    run.consider()
    for _ in range(10):
        run.ended(1)
        run.start()
    assert node.loop.pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert node.loop.pauses[-1] == LONGEST_PAUSE
    run.started -= 1000 * LONGEST_PAUSE
    run.ended(1)
    assert node.loop.pauses[-1] == FIRST_PAUSE, "one that has run for long is begun again soon"


def test_a_lease_that_is_renewed_puts_the_deadline_off() -> None:
    run, _, said = staged()
    run.observe("lease", {"election": "main", "until": 99.0})
    assert not said.words, "there is no command yet"
    run.consider()
    run.observe("lease", {"election": "other", "until": 98.0})
    run.observe("lease", {"election": "main", "until": 99.0})
    assert said.words[-1] == ("extend", 99.0)
