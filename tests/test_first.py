"""`elect` as process 1 of a container: it reaps what it inherits, and outlives the node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import Plan, reserved_ports
from tests.test_run import BOUND, gone, state
from tests.test_ward import children, is_guardian, is_locked, wait_for

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
pytestmark = pytest.mark.skipif(
    bool(subprocess.call([*UNSHARE, "true"], stderr=subprocess.DEVNULL)), reason="makes namespaces"
)


@contextmanager
def container(
    directory: Path, *command: str, lease: float = 0.5, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """`elect`, as process 1."""
    with reserved_ports(1) as ports:
        (directory / "cluster.toml").write_text(Plan(nodes=1, lease=lease).toml(ports))
        elect = [sys.executable, "-m", "electorate", command[0], "--config", "cluster.toml", "--id", "a"]
        process = subprocess.Popen(
            [*UNSHARE, *elect, "--data", "data", *command[1:]],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def first_of(process: subprocess.Popen[str]) -> int:
    """Process 1, by its number out here."""
    [first] = wait_for(lambda: children(process.pid))
    return first


def test_it_reaps_what_it_inherits(tmp_path: Path) -> None:
    with container(tmp_path, "run", "--", "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        first = first_of(process)
        own = children(first)
        enter = ["nsenter", "--target", str(first), "--pid"]
        subprocess.run([*enter, "sh", "-c", "sleep 1000 >/dev/null &"], check=True)
        [orphan] = wait_for(lambda: set(children(first)) - set(own))
        os.kill(orphan, signal.SIGKILL)
        wait_for(lambda: children(first) == own, "one that waits to be reaped is a child, too")


def test_it_passes_signals_on_and_ends_as_the_node_does(tmp_path: Path) -> None:
    script = "trap 'echo hup' HUP; trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    with container(tmp_path, "run", "--", "sh", "-c", script) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        first = first_of(process)
        os.kill(first, signal.SIGHUP)
        assert process.stdout.readline() == "hup\n"
        os.kill(first, signal.SIGTERM)
        assert process.communicate(timeout=BOUND)[0] == "bye\n"
        assert process.returncode == 0


def test_its_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    with container(tmp_path, "run", "--restart", "no", "--", "sh", "-c", "exit 7") as process:
        assert process.wait(BOUND) == 7


def test_a_node_that_is_killed_in_a_container_is_attested_and_then_the_container_ends(tmp_path: Path) -> None:
    with container(tmp_path, "node", lease=2.0, stderr=subprocess.PIPE) as process:
        assert process.stderr
        while "this node leads" not in (line := process.stderr.readline()):
            assert line
        first = first_of(process)
        [node] = children(first)
        [guardian] = children(node)
        assert is_guardian(guardian)
        os.kill(node, signal.SIGKILL)
        wait_for(lambda: not is_locked(tmp_path / "data" / "lock"))
        assert not gone(guardian) and state(first) == "S"
        assert process.wait(BOUND) == 128 + signal.SIGKILL
