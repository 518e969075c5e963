"""Which thread takes a signal: where the main thread is the user's, none of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
            looks = 0
            while looks < 10:  # it may wait for a moment for something else
                time.sleep(0.02)
                status = Path(f"/proc/{process.pid}/task/{process.pid}/status").read_text()
                looks = looks + 1 if "(sleeping)" in status else 0
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
                os.kill(process.pid, number)
            assert process.wait(BOUND) == 128 + signal.SIGTERM
        finally:
            process.kill()
            process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_a_guardian_takes_the_signal_by_which_it_is_relieved(tmp_path: Path) -> None:
    with nodes(tmp_path, "a", proof_of_death="attested") as make, Node("a", **make.arguments("a")) as node:
        ward = node._node.host.ward
        assert ward.process is not None
        assert not {signal.SIGUSR1, signal.SIGTERM} & blocked(Path(f"/proc/{ward.process.pid}"))
