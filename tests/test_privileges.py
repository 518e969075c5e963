"""Whose a command is, what it may become, and what happens where it is beyond the reach of who is to end it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from electorate.cli.plan import Plan, reserved_ports
from electorate.cli.run import surroundings
from electorate.work import living
from tests.test_run import BOUND, gone
from tests.test_ward import children, is_locked, wait_for

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
READS_ALL = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
"""Python may lie where nobody else can read."""
TRIAL = "import electorate, subprocess, sys; subprocess.check_call([sys.executable, '-c', 'import msgspec'])"


@cache
def as_nobody() -> tuple[str, ...]:
    """The start of a command that runs as an ordinary user, who can run this Python."""
    for start in (AS_NOBODY, (*AS_NOBODY, *READS_ALL)):
        run = [*start, sys.executable, "-c", TRIAL]
        if (
            not os.geteuid()
            and shutil.which("setpriv")
            and not subprocess.call(run, stderr=subprocess.DEVNULL)
        ):
            return start
    pytest.skip("root can become another user, by setpriv")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of that user, who could not reach one of ours."""
    as_nobody()
    with TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def set_uid_program(directory: Path) -> list[str]:
    """Runs what follows as root, as sudo does."""
    program = directory / "as-root"
    shutil.copy(str(shutil.which("setpriv")), program)
    program.chmod(0o4755)
    if os.statvfs(directory).f_flag & os.ST_NOSUID:
        pytest.skip("set-uid programs do not work here")
    return [str(program), "--reuid=0", "--regid=0", "--clear-groups"]


@contextmanager
def elect(
    directory: Path, *words: str, before: tuple[str, ...] = (), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """`elect run` of a cluster of one node, with these options and command."""
    with reserved_ports(1) as ports:
        (directory / "cluster.toml").write_text(Plan(nodes=1).toml(ports))
        options = ["run", "--config", "cluster.toml", "--id", "a", "--data", "data", "--restart", "no"]
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "electorate", *options, *words],
            cwd=directory,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            for pid in children(process.pid) if process.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
            process.kill()
            process.communicate()


def said(directory: Path, *words: str, **options: object) -> tuple[int, str, str]:
    """The exit code of `elect run`, what its command has said, and what it has."""
    with elect(directory, *words, **options) as process:  # type: ignore[arg-type]
        output, log = process.communicate(timeout=BOUND)
        return process.returncode, output, log


# --- what a command may become ----------------------------------------------------------------------


def test_a_command_gains_no_privileges(place: Path) -> None:
    become = set_uid_program(place)
    code, output, log = said(place, "--", *become, "echo", "root", before=as_nobody())
    assert code and not output and "Operation not permitted" in log
    code, output, log = said(place, "--allow-setuid", "--", *become, "echo", "root", before=as_nobody())
    assert (code, output) == (0, "root\n"), log


def test_what_cannot_be_killed_is_not_dead(place: Path) -> None:
    """The guardian says so, now and then, and neither frees the port and the directory nor attests."""
    options = ["--allow-setuid", "--stop-timeout", "0.1", "--"]
    command = [*set_uid_program(place), "sh", "-c", "echo $$; exec sleep 1000"]
    with elect(place, *options, *command, before=as_nobody()) as process:
        assert process.stdout and process.stderr
        pid = int(process.stdout.readline())
        try:
            [guardian] = children(process.pid)
            process.terminate()
            while f"process {pid} (Operation not permitted)" not in (line := process.stderr.readline()):
                assert line
            ask = [sys.executable, "-m", "electorate", "status", "--data", "data"]
            known = subprocess.run(ask, cwd=place, capture_output=True, text=True, check=True).stdout
            assert f"the command cannot be ended: process {pid} (Operation not permitted)" in known
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2.0)
            assert children(process.pid) == [guardian], "nobody is ended for that"
            process.kill()
            begun = process.stderr.readline()
            while "elect: the command cannot be ended" not in begun:
                begun = process.stderr.readline()
            assert is_locked(place / "data" / "lock")
            with socket.create_connection(address(place)):
                """The port is held."""
            assert not gone(guardian) and not gone(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_locked(place / "data" / "lock"))
        os.kill(guardian, signal.SIGKILL)


def address(directory: Path) -> tuple[str, int]:
    found = re.search(r'"([\d.]+):(\d+)"', (directory / "cluster.toml").read_text())
    assert found
    return found[1], int(found[2])


def test_what_outlives_its_guardian_and_cannot_be_killed_is_waited_for(place: Path) -> None:
    command = [*set_uid_program(place), "sh", "-c", "echo $$; exec sleep 1000"]
    with elect(place, "--allow-setuid", "--", *command, before=as_nobody()) as process:
        assert process.stdout and process.stderr
        pid = int(process.stdout.readline())
        try:
            [guardian] = children(process.pid)
            os.kill(guardian, signal.SIGKILL)
            while f"process {pid} (Operation not permitted)" not in (line := process.stderr.readline()):
                assert line
        finally:
            os.kill(pid, signal.SIGKILL)
        second = int(process.stdout.readline())
        assert second != pid, "it is begun again once it is gone, and not before"
        os.kill(second, signal.SIGKILL)


LEADER = """
import asyncio, logging, sys
from electorate import Node

async def main():
    async with Node("a", nodes={"a": "127.0.0.1:0"}, data="data") as node:
        async with node.election().leadership() as lead:
            code = await lead.run(*sys.argv[2:], stop_timeout=0.1, allow_setuid=sys.argv[1] == "yes")
            print("ended", code, flush=True)

logging.basicConfig()
asyncio.run(main())
"""


def test_a_command_of_the_library_gains_no_privileges(place: Path) -> None:
    command = [*as_nobody(), sys.executable, "-c", LEADER, "no", *set_uid_program(place), "echo", "root"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    assert "root" not in done.stdout and re.search(r"ended [1-9]", done.stdout)


def test_a_command_of_the_library_that_cannot_be_killed_is_waited_for(place: Path) -> None:
    become = [*set_uid_program(place), "sh", "-c", "echo $$; exec sleep 1000"]
    process = subprocess.Popen(
        [*as_nobody(), sys.executable, "-c", LEADER, "yes", *become],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    pid = int(process.stdout.readline())
    try:
        process.terminate()
        assert "as-root cannot be ended (process group" in process.stderr.readline()
        assert process.poll() is None and not gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    _, log = process.communicate(timeout=BOUND)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in log


def test_what_is_left_of_a_group_is_seen_and_a_zombie_is_nothing() -> None:
    script = "sleep 1000 & exec sleep 1000"
    process = subprocess.Popen(["sh", "-c", script], process_group=0)
    [sleeper] = wait_for(lambda: children(process.pid))
    try:
        process.kill()
        process.wait()
        assert living(process.pid) == f"process {sleeper}"
    finally:
        os.kill(sleeper, signal.SIGKILL)
    wait_for(lambda: not living(process.pid))
    unreaped = subprocess.Popen(["true"], process_group=0)
    os.waitid(os.P_PID, unreaped.pid, os.WEXITED | os.WNOWAIT)
    assert not living(unreaped.pid)
    unreaped.wait()


# --- whose it is ------------------------------------------------------------------------------------

root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can run a command as another user")
WHO = "id -u; id -g; id -G; grep -e Uid -e Gid /proc/self/status; echo $HOME $USER"


@root
def test_a_command_runs_as_another_user(tmp_path: Path) -> None:
    code, output, log = said(tmp_path, "--user", "nobody", "--", "sh", "-c", WHO)
    assert code == 0, log
    uid, gid, groups, *rest, home = output.splitlines()
    assert int(uid) == NOBODY and gid in groups.split()
    assert {*rest[0].split()[1:]} == {uid} and {*rest[1].split()[1:]} == {gid}, "real, effective and saved"
    assert "0" not in groups.split()
    assert home.split()[-1] == "nobody" and home.split()[0] != os.environ.get("HOME")


@root
def test_a_command_runs_in_another_group(tmp_path: Path) -> None:
    code, output, _ = said(
        tmp_path, "--user", "nobody", "--group", "daemon", "--", "sh", "-c", "id -u; id -gn"
    )
    assert (code, output) == (0, f"{NOBODY}\ndaemon\n")
    assert said(tmp_path, "--group", "daemon", "--", "sh", "-c", "id -u; id -gn")[:2] == (0, "0\ndaemon\n")


@root
def test_a_command_of_another_user_dies_with_its_guardian(tmp_path: Path) -> None:
    """A process that becomes another user forgets whom it was to die with."""
    script = "setsid sleep 1000 & echo $! $$; wait"
    with elect(tmp_path, "--user", "nobody", "--", "sh", "-c", script) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        [guardian] = children(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.kill(guardian, signal.SIGKILL)
        wait_for(lambda: gone(pids[1]))
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: gone(pids[0]))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--user", "no-such"], "this machine knows no user 'no-such': correct --user, or add it"),
        (["--group", "no-such"], "this machine knows no group 'no-such': correct --group, or add it"),
    ],
)
def test_who_is_not_known_is_said_before_anything_begins(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    assert said(tmp_path, *options, "--", "true") == (2, "", f"elect: {complaint}\n")
    assert not (tmp_path / "data").exists()


def test_who_may_not_become_another_user_is_told(place: Path) -> None:
    code, _, log = said(place, "--user", "daemon", "--", "true", before=as_nobody())
    assert code == 2 and "as another user (--user daemon): start it as root (CAP_SETUID" in log


@root
def test_who_could_not_end_another_users_command_is_told(tmp_path: Path) -> None:
    """Root, in a container that leaves it few capabilities."""
    before = ("setpriv", "--bounding-set=-kill")
    if subprocess.call([*before, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("root can give up capabilities, by setpriv")
    code, _, log = said(tmp_path, "--user", "daemon", "--", "true", before=before)
    assert code == 2 and "it needs CAP_KILL besides" in log


# --- what it is told --------------------------------------------------------------------------------


def test_what_is_meant_for_elect_does_not_reach_its_command(tmp_path: Path) -> None:
    meant = {
        **dict.fromkeys(("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"), "1"),
        "ELECTORATE_TERM": "99",
        "ELECTORATE_TIMING_LEASE": "1",
        "OTHER": "yes",
    }
    script = "env | grep -e ELECTORATE -e LISTEN -e WATCHDOG -e NOTIFY -e OTHER | sort"
    _, output, log = said(tmp_path, "--keep-env", "LISTEN_FDNAMES", "--", "sh", "-c", script, **meant)
    assert output.split() == [
        *("ELECTORATE_ELECTION=main", "ELECTORATE_NODE=a", "ELECTORATE_TERM=1"),
        *("LISTEN_FDNAMES=1", "OTHER=yes"),
    ], log


def test_a_variable_to_keep_is_named_without_a_value(tmp_path: Path) -> None:
    code, _, log = said(tmp_path, "--keep-env", "ELECTORATE_X=1", "--", "true")
    assert code == 2
    assert log == (
        "elect: --keep-env ELECTORATE_X=1: say the name of a variable alone, such as ELECTORATE_CONFIG\n"
    )


def test_a_variable_that_is_kept_is_seen() -> None:
    all = {"WATCHDOG_USEC": "1", "ELECTORATE_CONFIG": "x", "ELECTORATE_ID": "a", "PATH": "/bin"}
    assert surroundings(all, ()) == {"PATH": "/bin"}
    assert surroundings(all, ("ELECTORATE_CONFIG",)) == {"ELECTORATE_CONFIG": "x", "PATH": "/bin"}
