"""`elect run`: the command runs on the leader alone, whatever happens; seen from outside, on one clock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from electorate.cli.bench_run import Line, Stage, attempt, stage
from electorate.cli.plan import Plan, plan, reserved_ports
from electorate.cli.witness import __file__ as WITNESS
from electorate.runtime import guardian
from electorate.runtime.clock import now

BOUND = 30.0
PLAN = plan("raft", 3, lease=1.0)


def state(pid: int) -> str:
    """As `ps` shows it; "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid: int) -> bool:
    """Whether the process has ended (one that waits to be reaped has)."""
    return state(pid) in ("", "Z")


# --- never two at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "stop", "term", "child", "guardian"])
def test_never_do_two_commands_run(fault: str) -> None:
    with stage(PLAN) as made:
        trials = [attempt(made, fault, number) for number in (1, 2)]
        assert [trial.failure for trial in trials] == [None, None]
        assert made.overlaps() == 0
        assert all((trial.leader == trial.successor) == (fault in ("child", "guardian")) for trial in trials)


def test_a_command_outlives_a_lease_that_is_renewed() -> None:
    with stage(PLAN) as made:
        first = made.until(made.running)
        made.until(lambda: made.last_sign(first) > first.t + 2 * PLAN.lease or len(made.starts()) > 1)
        assert made.starts() == [first]


def test_a_node_is_not_dead_before_its_command_is() -> None:
    """The guardian is slow to kill: meanwhile it holds the port of the dead `elect`, so nobody is elected."""
    with stage(plan("raft", 3, lease=4.0)) as made:
        old = made.until(made.running)
        slow = made.guardian(old.node)
        os.kill(slow, signal.SIGSTOP)
        made.elects[old.node].kill()
        time.sleep(0.5)
        assert not gone(old.pid)
        os.kill(slow, signal.SIGCONT)
        made.another(old)
        assert made.overlaps() == 0


def test_who_waits_for_a_guardian_says_for_which(tmp_path: Path) -> None:
    with one(tmp_path, command=["sleep", "60"]) as process:
        assert process.stderr
        while "starting sleep" not in process.stderr.readline():
            pass
        [file] = tmp_path.glob("electorate-*-a/guardian")
        slow = int(file.read_text())
        os.kill(slow, signal.SIGSTOP)
        process.kill()
        try:
            with one(tmp_path, command=["true"]) as next:
                assert next.stderr
                said = f"is in use by what process {process.pid} has left: waiting 10 s at most"
                assert f"{said} for its guardian (process {slow})" in next.stderr.readline()
                os.kill(slow, signal.SIGCONT)
                assert next.wait(BOUND) == 0
        finally:
            os.kill(slow, signal.SIGCONT)


def test_what_was_frozen_as_a_whole_ends_when_it_wakes() -> None:
    with stage(PLAN) as made:
        trial = attempt(made, "freeze", 1)
        assert trial.failure is None
        assert trial.leader != trial.successor


def test_a_better_node_waits_until_the_command_has_ended() -> None:
    """c, the highest, comes back and takes over from b, whose command takes its time after SIGTERM."""

    def of_the_best() -> Line | None:
        line = made.running()
        return line if line and line.node == "c" else None

    with stage(plan("bully", 3, lease=1.0), linger=0.3) as made:
        first = made.until(of_the_best)
        attempt(made, "kill", 1)
        assert made.until(of_the_best).term > first.term + 1
        assert made.overlaps() == 0


@contextmanager
def one(directory: Path, *options: str, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`elect run` of a cluster of one node."""
    with reserved_ports(1) as ports:
        (directory / "cluster.toml").write_text(Plan(nodes=1).toml(ports))
        elect = [sys.executable, "-m", "electorate.cli.main", "run", "--config", "cluster.toml", "--id", "a"]
        process = subprocess.Popen(
            [*elect, *options, "--", *command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, log = process.communicate(timeout=BOUND)
    return process.returncode, output, log


# --- the command and its end ------------------------------------------------------------------------


def test_the_command_is_told_what_it_leads(tmp_path: Path) -> None:
    script = "echo $ELECTORATE_ELECTION $ELECTORATE_NODE $ELECTORATE_TERM; read x || echo no input"
    with one(tmp_path, "--election", "jobs", "--restart", "no", command=["sh", "-c", script]) as process:
        code, output, log = finish(process)
    assert (code, output) == (0, "jobs a 1\nno input\n")
    assert "starting sh, term 1" in log and "sh has ended, exit code 0" in log


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_its_exit_code_is_ours(tmp_path: Path, script: str, code: int) -> None:
    with one(tmp_path, "--restart", "no", command=["sh", "-c", script]) as process:
        assert finish(process)[0] == code


def test_on_failure_it_is_started_again(tmp_path: Path) -> None:
    script = "echo run; test -e second || { touch second; exit 3; }"
    with one(tmp_path, command=["sh", "-c", script]) as process:
        assert finish(process)[:2] == (0, "run\nrun\n")


def test_always_means_always(tmp_path: Path) -> None:
    with one(tmp_path, "--restart", "always", command=["sh", "-c", "echo run"]) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(3)] == ["run\n"] * 3
        process.terminate()
        assert finish(process)[0] == 0


def test_signals_are_passed_on(tmp_path: Path) -> None:
    script = "trap 'echo hup' HUP; trap 'echo usr1; exit 5' USR1; echo up; while :; do sleep 0.05; done"
    with one(tmp_path, "--restart", "no", command=["sh", "-c", script]) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "hup\n"
        process.send_signal(signal.SIGUSR1)
        assert finish(process)[:2] == (5, "usr1\n")


def test_sigterm_gives_it_time_and_a_second_one_does_not(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    with one(tmp_path, command=["sh", "-c", script]) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert finish(process)[:2] == (0, "bye\n")
    script = "trap 'echo never' TERM; echo up; while :; do sleep 0.05; done"
    with one(tmp_path, "--stop-timeout", "3600", command=["sh", "-c", script]) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.readline() == "never\n"
        process.terminate()
        assert finish(process)[0] == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, end: signal.Signals) -> None:
    """Not what ran in the background, nor what has left the group and the session."""
    script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; setsid sh -c 'echo $$; sleep 1000' & wait"
    with one(tmp_path, command=["sh", "-c", script]) as process:
        assert process.stdout
        pids = [int(process.stdout.readline()) for _ in range(3)]
        assert not any(map(gone, pids))
        process.send_signal(end)
        process.wait(BOUND)
        deadline = now() + BOUND
        while not all(map(gone, pids)):
            assert now() < deadline
            time.sleep(0.01)


def test_what_cannot_be_run_is_said_before_anything_begins(tmp_path: Path) -> None:
    with one(tmp_path, command=["no-such-program"]) as process:
        code, output, log = finish(process)
    assert (code, output) == (2, "")
    assert log == "elect: there is no program 'no-such-program' that can be run; see its name and your PATH\n"
    assert not list(tmp_path.glob("electorate-*"))


# --- the guardian by itself -------------------------------------------------------------------------


class Ward:
    """A guardian, and the socket on which we are its node."""

    def __init__(self, grace: float = 0.4, margin: float = 0.2, cgroup: str = "") -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(BOUND)
        with socket.socket() as listener, TemporaryFile() as store, TemporaryFile() as lock:
            held = [each.fileno() for each in (theirs, listener, store, lock)]
            orders = guardian.Orders(held[0], os.getpid(), [held[1]], held[2], held[3], 0.0)
            orders = orders._replace(grace=grace, margin=margin, cgroup=cgroup)
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(orders._asdict())],
                pass_fds=held,
                stdout=subprocess.PIPE,
                text=True,
            )
        theirs.close()
        assert self.process.stdout
        self.output = self.process.stdout
        self.unheard = self.socket.makefile()
        self.how = self.heard()[1]

    def say(self, *words: Any) -> None:
        self.say_all(words)

    def say_all(self, *sentences: Any) -> None:
        """At once: it hears all of them, or none."""
        self.socket.sendall(b"".join(json.dumps(words).encode() + b"\n" for words in sentences))

    def start(self, script: str, deadline: float) -> None:
        self.say("start", ["sh", "-c", script], dict(os.environ), deadline, 3600)

    def heard(self) -> Any:
        return json.loads(self.unheard.readline())

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.say("end")
        self.unheard.close()
        self.socket.close()
        assert self.process.wait(BOUND) in (0, -signal.SIGKILL)
        self.output.close()


@pytest.fixture
def ward() -> Iterator[Ward]:
    made = Ward()
    yield made
    made.close()


def test_at_the_deadline_nothing_is_left() -> None:
    ward = Ward(grace=2.5, margin=2.0)
    ward.start("trap 'echo told' TERM; echo up; while :; do sleep 0.01; done", now() + BOUND)
    assert ward.output.readline() == "up\n"
    deadline = now() + 3.0
    ward.say("extend", deadline)
    assert ward.output.readline() == "told\n"
    told = now()
    assert ward.heard() == ["gone", -signal.SIGKILL, True]
    assert deadline - 2.5 <= told, "not before its time"
    assert deadline - 2.0 <= now() < deadline
    ward.close()


def test_a_deadline_that_is_put_off_is_none(ward: Ward) -> None:
    ward.start("echo up; read x; sleep 1.2", now() + BOUND)
    assert ward.output.readline() == "up\n"
    deadline = now() + 1.0
    ward.say_all(["extend", deadline], ["extend", now() + BOUND])
    assert ward.heard() == ["gone", 0, False]
    assert now() > deadline


def test_a_command_that_does_not_stop_in_its_time_is_killed(ward: Ward) -> None:
    ward.start("trap 'echo told' TERM; echo up; while :; do sleep 0.01; done", now() + BOUND)
    assert ward.output.readline() == "up\n"
    ward.say("stop", 1.0)
    assert ward.output.readline() == "told\n"
    assert ward.heard() == ["gone", -signal.SIGKILL, True]


def test_a_guardian_that_was_stopped_kills_when_it_goes_on(ward: Ward) -> None:
    ward.start("trap '' TERM; echo $$; while :; do sleep 0.01; done", now() + BOUND)
    pid = int(ward.output.readline())
    ward.process.send_signal(signal.SIGSTOP)
    while state(ward.process.pid) != "T":
        time.sleep(0.01)
    deadline = now() + 0.5
    ward.say("extend", deadline)
    while now() < deadline:
        time.sleep(0.01)
    assert not gone(pid)
    ward.process.send_signal(signal.SIGCONT)
    assert ward.heard() == ["gone", -signal.SIGKILL, True]


def test_signals_for_elect_do_not_end_the_guardian(ward: Ward) -> None:
    ward.start("echo up; while :; do sleep 0.01; done", now() + BOUND)
    assert ward.output.readline() == "up\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ward.process.send_signal(number)
    ward.say("stop", 60)
    assert ward.heard() == ["gone", -signal.SIGTERM, True]


def test_the_command_has_none_of_the_guardians_sockets(ward: Ward) -> None:
    ward.start("ls /proc/self/fd | wc -l", now() + BOUND)
    assert ward.output.readline().strip() == "4", "the three standard ones, and that of ls"
    assert ward.heard() == ["gone", 0, False]


def test_a_stopped_command_is_ended_too(ward: Ward) -> None:
    ward.start("trap 'exit 9' TERM; echo $$; while :; do sleep 0.01; done", now() + BOUND)
    os.kill(int(ward.output.readline()), signal.SIGSTOP)
    ward.say("stop", 60)
    assert ward.heard() == ["gone", 9, True]


def test_the_stage_would_see_an_overlap(tmp_path: Path) -> None:
    """Two witnesses at once are seen, or nothing above would prove anything."""
    with reserved_ports(3) as ports:
        made = Stage(PLAN, tmp_path, ports)
        try:
            made.start("a")
            made.start("b")
            first = made.until(made.running)
            environ = {**os.environ, "ELECTORATE_TERM": "9", "ELECTORATE_NODE": "x"}
            second = subprocess.Popen([sys.executable, WITNESS, "log", "lock"], cwd=tmp_path, env=environ)
            made.another(first)
            second.kill()
            second.wait()
            assert made.overlaps() == 1
        finally:
            made.close()
