"""Which thread takes a signal: where the main thread is the user's, none of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electorate import signals
from electorate.sync import Node
from tests.api_nodes import nodes

BOUND = 30.0
SLEEPER = """
import sys, time
from electorate import sync
with sync.Node("a", nodes={"a": sys.argv[1]}, data=sys.argv[2]) as node:
    print("ready", flush=True)
    time.sleep(3600)
"""


def blocked(task: Path) -> set[int]:
    [line] = [line for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk:")]
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def tasks(pid: int | str = "self") -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_no_thread_of_ours_takes_a_signal_and_what_the_user_begins_does(tmp_path: Path) -> None:
    before = {task.name for task in tasks()}
    with (
        nodes(tmp_path, "a") as make,
        Node("a", **make.arguments("a")) as node,
        node.election().leadership() as lead,
    ):
        ours = [task for task in tasks() if task.name not in before]
        assert len(ours) >= 3, "a loop, a disk and a timekeeper at least"
        for task in ours:
            assert {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1} <= blocked(task), task
        mine = f"0x{sum(1 << number - 1 for number in blocked(Path('/proc/thread-self'))):x}"
        look = "[line for line in open('/proc/self/status') if line.startswith('SigBlk')][0].split()[1]"
        assert lead.run(sys.executable, "-c", f"import sys; sys.exit(int({look}, 16) != {mine})") == 0


@pytest.mark.parametrize("round", range(3))
def test_who_sleeps_in_the_main_thread_hears_of_sigterm(tmp_path: Path, round: int) -> None:
    """Also of one that comes while the process is stopped: then the kernel gives it to whichever thread goes
    on first."""
    with nodes(tmp_path, "a") as make:
        arguments = [sys.executable, "-c", SLEEPER, make.addresses["a"], str(tmp_path / "data")]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            until_asleep(process.pid)
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
                os.kill(process.pid, number)
            assert process.wait(BOUND) == 128 + signal.SIGTERM
        finally:
            process.kill()
            process.communicate()


TAKER = """
import signal, sys, threading, time
from electorate import sync

def take():
    number = int(sys.stdin.readline())
    signal.pthread_kill(threading.get_ident(), number)
    threading.Event().wait()

def told(number, frame):
    print("told", flush=True)
    sys.exit(5)

signal.signal(signal.SIGUSR1, told)
threading.Thread(target=take, daemon=True).start()
node = sync.Node("a", nodes={"a": sys.argv[1]}, data=sys.argv[2])
with sync.Node("b", nodes={"b": "127.0.0.1:0"}, data=sys.argv[2] + "-b"), node:
    print("ready", flush=True)
    time.sleep(3600)
"""
"""A thread of the user's takes a signal, and does nothing more."""


def until_asleep(pid: int) -> None:
    """The main thread; it may wait for a moment for something else."""
    looks = 0
    while looks < 10:
        time.sleep(0.02)
        status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
        looks = looks + 1 if "(sleeping)" in status else 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGUSR1, 5), (signal.SIGINT, -signal.SIGINT)],
)
def test_what_a_thread_of_the_users_takes_wakes_the_main_thread(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with nodes(tmp_path, "a") as make:
        arguments = [sys.executable, "-c", TAKER, make.addresses["a"], str(tmp_path / "data")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            until_asleep(process.pid)
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.wait(BOUND) == code
        finally:
            process.kill()
            process.communicate()


def test_who_is_woken_in_another_way_stays_so(tmp_path: Path) -> None:
    """What the user hears of signals by is not taken away; ours is there as long as a node is."""
    with nodes(tmp_path, "ab") as make:
        assert signal.set_wakeup_fd(-1) == -1
        with Node("a", **make.arguments("a")):
            ours = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(ours)
            assert ours != -1 and signal.getsignal(signals.ROUSE) is signals.woken
            with Node("b", **make.arguments("b")):
                """It shares that one."""
            assert signal.set_wakeup_fd(ours) == ours
        assert signal.set_wakeup_fd(-1) == -1 and signal.getsignal(signals.ROUSE) is signal.SIG_DFL
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        with Node("a", **make.arguments("a")):
            assert signal.set_wakeup_fd(write) == write
        assert signal.set_wakeup_fd(-1) == write
        os.close(read)
        os.close(write)


def test_a_child_does_not_wake_its_parent(tmp_path: Path) -> None:
    with nodes(tmp_path, "a") as make, Node("a", **make.arguments("a")):
        child = os.fork()
        if child == 0:
            left = signal.set_wakeup_fd(-1) != -1 or signal.getsignal(signals.ROUSE) is not signal.SIG_DFL
            os._exit(left)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_a_guardian_takes_the_signal_by_which_it_is_relieved(tmp_path: Path) -> None:
    with nodes(tmp_path, "a", proof_of_death="attested") as make, Node("a", **make.arguments("a")) as node:
        ward = node._node.host.ward
        assert ward.process is not None
        assert not {signal.SIGUSR1, signal.SIGTERM} & blocked(Path(f"/proc/{ward.process.pid}"))
