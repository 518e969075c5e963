"""The guardian and its node, as processes: one dies, hangs or is relieved, and the other knows what to do."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import electorate
from electorate.cli.bench_run import stage
from electorate.cli.cluster import Cluster
from electorate.cli.plan import Plan, plan, reserved_ports
from electorate.runtime import guardian
from electorate.runtime.clock import now
from electorate.runtime.tree import Tree, own_cgroup
from electorate.runtime.ward import relieve_all
from tests.test_run import gone

T = TypeVar("T")
Elect = subprocess.Popen[str]
BOUND = 60.0
LONG = 100.0
"""The lease of those who never wait for its end."""
SMALL = 10 << 20
"""So many bytes at most a guardian has for itself."""


def wait_for(condition: Callable[[], T | None], what: str = "") -> T:
    deadline = now() + BOUND
    while not (found := condition()):
        assert now() < deadline, what
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_guardian(pid: int) -> bool:
    try:
        return guardian.__file__ in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except FileNotFoundError:
        return False


def guardian_of(node: int) -> int | None:
    """Whose start is over."""
    return next((pid for pid in children(node) if is_guardian(pid)), None)


def end(directory: Path, *processes: Elect) -> None:
    """Whatever a test has left of them; a guardian that was stopped has to see to that."""
    for process in processes:
        if process.poll() is None:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGCONT)
            process.kill()
            process.wait()
    for file in directory.glob("*/lock"):
        wait_for(lambda file=file: not is_locked(file))  # type: ignore[misc]
    asyncio.run(relieve_all(directory))
    for process in processes:
        process.communicate()


def is_locked(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# --- a death is attested ----------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_node_that_was_killed_is_followed_at_once(tls: bool) -> None:
    """Nobody waits for its lease, although nobody refuses: its guardian holds the port, and says it."""

    async def main() -> None:
        async with Cluster(plan("raft", 3, lease=LONG, tls=tls)) as cluster:
            old = await cluster.until(cluster.settled, BOUND)
            at = cluster.kill(old.leader)
            new, since = await cluster.until(lambda: cluster.successor(old), BOUND)
            assert new.leader != old.leader
            assert since - at < LONG / 2
            with socket.create_connection(split(cluster.nodes[old.leader].address)):
                """The guardian takes calls there."""

    asyncio.run(main())


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_elect_run_that_was_killed_is_followed_at_once() -> None:
    with stage(plan("raft", 3, lease=LONG)) as made:
        old = made.until(made.running)
        made.elects[old.node].kill()
        wait_for(lambda: made.starts()[-1] != old)
        assert made.overlaps() == 0


# --- one node at a time -----------------------------------------------------------------------------


@contextmanager
def nodes(directory: Path, *settings: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process of a cluster of one node, and returns it once it is ready."""
    started: list[subprocess.Popen[str]] = []
    with reserved_ports(1) as ports:
        text = Plan(nodes=1, lease=LONG).toml(ports)
        (directory / "cluster.toml").write_text("\n".join([*settings, text]))

        def start(data: str = "data") -> subprocess.Popen[str]:
            elect = [sys.executable, "-m", "electorate", "node", "--attach"]
            process = subprocess.Popen(
                [*elect, "--config", "cluster.toml", "--id", "a", "--data", data],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            assert process.stdout and process.stderr
            while '"event":"ready"' not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
            return process

        try:
            yield start
        finally:
            end(directory, *started)


def test_a_node_may_start_again_at_once(tmp_path: Path) -> None:
    """The guardian of the process before makes way; it would have held the port for leases."""
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        first.kill()
        first.wait()
        second = start()
        assert old and gone(old)
        new = guardian_of(second.pid)
        assert new and int((tmp_path / "data" / "guardian").read_text()) == new


def test_a_node_waits_until_the_guardian_of_the_last_one_is_done(tmp_path: Path) -> None:
    """It may have a command to end yet; until then the directory is that of the dead."""
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        assert old
        os.kill(old, signal.SIGSTOP)
        first.kill()
        first.wait()
        goes_on = threading.Timer(2.0, os.kill, (old, signal.SIGCONT))
        goes_on.start()
        start()
        goes_on.join()
        assert gone(old)


def test_a_guardian_that_does_not_make_way_is_ended(tmp_path: Path) -> None:
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        assert old
        first.kill()
        first.wait()
        wait_for(lambda: not is_locked(tmp_path / "data" / "lock"))
        os.kill(old, signal.SIGSTOP)
        start()
        assert gone(old)


def test_a_guardian_whose_node_lives_stays(tmp_path: Path) -> None:
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        assert old
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(old, number)
        first.kill()
        first.wait()
        wait_for(lambda: not is_locked(tmp_path / "data" / "lock"))
        assert is_locked(tmp_path / "data" / "guardian"), "it lives, and attests"
        os.kill(old, signal.SIGTERM)
        os.kill(old, signal.SIGUSR1)
        wait_for(lambda: gone(old))


def test_another_directory_waits_for_the_guardian_of_the_one_before(tmp_path: Path) -> None:
    """It was moved away, to rejoin: then nobody can tell that guardian to make way."""
    with nodes(tmp_path) as start:
        (tmp_path / "cluster.toml").write_text(
            (tmp_path / "cluster.toml").read_text().replace("100.0", "0.5")
        )
        first = start()
        first.kill()
        first.wait()
        start("other")


def test_a_clean_stop_ends_the_guardian_first(tmp_path: Path) -> None:
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        first.terminate()
        assert first.wait(BOUND) == 0
        assert old and gone(old)
        assert not is_locked(tmp_path / "data" / "guardian")


def test_a_guardian_that_hangs_does_not_keep_a_node_from_stopping(tmp_path: Path) -> None:
    with nodes(tmp_path) as start:
        first = start()
        old = guardian_of(first.pid)
        assert old
        os.kill(old, signal.SIGSTOP)
        first.terminate()
        assert first.wait(BOUND) == 0
        assert gone(old)


def test_the_death_of_a_guardian_is_mended(tmp_path: Path) -> None:
    with nodes(tmp_path) as start:
        process = start()
        assert process.stderr
        for _ in range(3):
            old = guardian_of(process.pid)
            assert old
            os.kill(old, signal.SIGKILL)
            assert "the guardian of node a was killed" in process.stderr.readline()
            assert "the guardian of node a lives again" in process.stderr.readline()
        last = guardian_of(process.pid)
        assert last and last != old
        process.kill()
        process.wait()
        wait_for(lambda: not is_locked(tmp_path / "data" / "lock"))
        assert not gone(last), "it attests"


def test_the_pipes_of_a_node_that_was_killed_are_closed(tmp_path: Path) -> None:
    """Whoever reads what it says waits for that."""
    with nodes(tmp_path) as start:
        process = start()
        process.kill()
        process.communicate(timeout=BOUND)
        assert is_locked(tmp_path / "data" / "guardian"), "and yet its guardian lives"


def test_a_guardian_is_small_and_idle(tmp_path: Path) -> None:
    def used() -> list[str]:
        """Ticks of user and system time."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    def idle() -> bool:
        before = used()
        time.sleep(1.0)
        return used() == before

    with nodes(tmp_path) as start:
        process = start()
        pid = wait_for(lambda: guardian_of(process.pid))
        wait_for(lambda: is_locked(tmp_path / "data" / "guardian"))
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        private = sum(1024 * int(row.split()[1]) for row in rows if row.startswith("Private_"))
        assert private <= SMALL
        wait_for(idle, "it uses the processor")


@pytest.mark.parametrize("proof", ["refused", "none"])
def test_without_attestation_a_node_has_no_guardian(tmp_path: Path, proof: str) -> None:
    with nodes(tmp_path, f'proof_of_death = "{proof}"') as start:
        process = start()
        assert children(process.pid) == []
        process.kill()
        process.wait()
        start()


def test_what_nobody_believes_is_not_attested(tmp_path: Path) -> None:
    """`elect run` has a guardian in any case; it ends with its work."""
    with nodes(tmp_path, 'proof_of_death = "none"'):
        elect = [sys.executable, "-m", "electorate", "run", "--config", "cluster.toml", "--id", "a"]
        process = subprocess.Popen(
            [*elect, "--", "sh", "-c", "echo up; sleep 1000"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout and process.stdout.readline() == b"up\n"
        old = guardian_of(process.pid)
        process.kill()
        process.communicate()
        assert old
        wait_for(lambda: gone(old))


# --- the library ------------------------------------------------------------------------------------


def embedded(directory: Path, **settings: str) -> electorate.Node:
    config = {"cluster": "lib", "nodes": {"a": "127.0.0.1:0"}, "timing": {"lease": LONG}}
    return electorate.Node("a", config, data=directory, **settings)  # type: ignore[arg-type]


def test_the_library_has_a_guardian_if_it_asks_for_one(tmp_path: Path) -> None:
    async def main() -> None:
        before = set(children(os.getpid()))
        async with embedded(tmp_path):
            assert set(children(os.getpid())) == before
        async with embedded(tmp_path, proof_of_death="attested"):
            [pid] = set(children(os.getpid())) - before
            assert is_guardian(pid)
        assert pid not in children(os.getpid()), "it has ended, and was reaped"

    asyncio.run(main())


def test_a_guardian_survives_the_signals_of_a_fork_and_outlives_no_child(tmp_path: Path) -> None:
    """A child that was forked off the node lives on: its parent's death is seen all the same."""
    script = f"""
import asyncio, os, sys, time
sys.path[:0] = {sys.path!r}
from tests.test_ward import embedded
from pathlib import Path

async def main():
    async with embedded(Path({str(tmp_path)!r}), proof_of_death="attested") as node:
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        print(child, node.host.ward.process.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child, pid = map(int, process.stdout.readline().split())
    try:
        process.kill()
        process.wait()
        wait_for(lambda: not is_locked(tmp_path / "lock"))
        assert not gone(child) and not gone(pid)
    finally:
        os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_a_guardian_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with pytest.raises(electorate.UserError, match=r"guardian of node a cannot be started: .*refused"):
            await embedded(tmp_path, proof_of_death="attested").start()
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(electorate.UserError, match="guardian of node a ended at once"):
            await embedded(tmp_path, proof_of_death="attested").start()
        async with embedded(tmp_path):
            """The directory can be used again."""

    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    asyncio.run(main())


# --- the guardian and a command ---------------------------------------------------------------------


@contextmanager
def work(directory: Path, script: str, *options: str, before: Sequence[str] = ()) -> Iterator[Elect]:
    """`elect run` of a cluster of one, whose command is this script."""
    with reserved_ports(1) as ports:
        (directory / "cluster.toml").write_text(Plan(nodes=1, lease=LONG).toml(ports))
        elect = [sys.executable, "-m", "electorate", "run", "--config", "cluster.toml", "--id", "a", "--data"]
        process = subprocess.Popen(
            [*before, *elect, "data", *options, "--", "sh", "-c", script],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            end(directory, process)


DAEMONS = "(setsid sh -c 'echo $$; exec sleep 1000' &) & setsid sleep 1000 & echo $!; wait; sleep 1000"
"""One has left the group, the session and its parent, the other the group and the session."""
HIDDEN = "mount -t tmpfs none /sys/fs/cgroup"
"""Nobody can make a control group then."""


def without(what: str) -> list[str]:
    """The start of a command that runs where this has been done."""
    return ["unshare", "--mount", "sh", "-c", f'{what} && exec "$@"', "sh"]


def two(process: Elect) -> list[int]:
    assert process.stdout
    return [int(process.stdout.readline()) for _ in range(2)]


@pytest.mark.parametrize("before", [[], without(HIDDEN)], ids=["as-it-is", "no-cgroup"])
@pytest.mark.parametrize("victim", ["elect", "guardian", "none"])
def test_nothing_that_a_command_began_is_left(tmp_path: Path, before: list[str], victim: str) -> None:
    if before and os.geteuid():
        pytest.skip("root can hide what there is")
    with work(tmp_path, DAEMONS, before=before) as process:
        pids = two(process)
        assert not any(map(gone, pids))
        if victim == "none":
            process.terminate()
            assert process.wait(BOUND) == 0
        elif victim == "elect":
            process.kill()
            wait_for(lambda: not is_locked(tmp_path / "data" / "lock"))
        else:
            os.kill(children(process.pid)[0], signal.SIGKILL)
            assert not set(two(process)) & set(pids), "it is started again"
        assert all(map(gone, pids))


def test_where_descendants_cannot_be_found_nothing_is_run(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("root can hide what there is")
    with work(tmp_path, "echo up", before=without(f"{HIDDEN} && mount -t tmpfs none /proc")) as process:
        output, log = process.communicate(timeout=BOUND)
    assert (process.returncode, output) == (2, "")
    assert log.startswith("elect: elect run must be able to end all that a command begins")


def test_a_control_group_is_used_where_there_can_be_one(tmp_path: Path) -> None:
    """What the last one of its name still held is ended first; afterwards it is gone."""
    parent = own_cgroup()
    (tmp_path / "data").mkdir()
    status = (tmp_path / "data").stat()
    directory = Path(f"{parent}/electorate-{status.st_dev}-{status.st_ino}")
    tree = Tree(str(directory))
    if not tree.plant():
        pytest.skip("no control group can be made here")
    tree.uproot()
    directory.mkdir()
    left = subprocess.Popen(["sleep", "1000"])
    (directory / "cgroup.procs").write_text(str(left.pid))
    with work(tmp_path, "cat /proc/self/cgroup | grep 0::; sleep 1000") as process:
        assert process.stdout
        assert process.stdout.readline().strip().endswith(directory.name)
        assert left.wait(BOUND) == -signal.SIGKILL
        process.terminate()
        assert process.wait(BOUND) == 0
        assert not directory.exists()


def test_empty_control_groups_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    """Their nodes and guardians were killed at once. One that is in use may be empty, too."""
    parent = Path(own_cgroup() or "/nowhere")
    used, unused, strange = (
        Tree(str(parent / name)) for name in ("electorate-1-1", "electorate-1-2", "x-1-3")
    )
    if not os.access(parent, os.W_OK):
        pytest.skip("no control group can be made here")
    assert used.plant() and unused.plant() and strange.plant()
    try:
        os.close(unused.held)
        os.close(strange.held)
        with work(tmp_path, "echo up; sleep 1000") as process:
            assert process.stdout and process.stdout.readline() == "up\n"
            assert not Path(unused.cgroup).exists()
            assert Path(used.cgroup).exists() and Path(strange.cgroup).exists()
            process.terminate()
            assert process.wait(BOUND) == 0
    finally:
        unused.held = strange.held = -1
        for tree in (used, unused, strange):
            tree.uproot()


def test_a_control_group_that_is_swept_away_meanwhile_is_made_anew(tmp_path: Path) -> None:
    tree = Tree(f"{own_cgroup()}/electorate-1-4")
    if not tree.plant():
        pytest.skip("no control group can be made here")
    path = Path(tree.cgroup)
    try:
        other = Tree(tree.cgroup)
        holding = threading.Thread(target=other.hold)
        holding.start()  # it waits for who holds it
        path.rmdir()
        tree.uproot()
        holding.join(BOUND)
        assert path.exists() and os.path.samestat(os.fstat(other.held), path.stat())
    finally:
        other.uproot()


def test_a_guardian_that_does_not_stop_the_command_is_ended_with_it(tmp_path: Path) -> None:
    """It is frozen, and nobody else is to wait for it."""
    with work(tmp_path, "echo $$; exec sleep 1000", "--stop-timeout", "0.1") as process:
        assert process.stdout and process.stderr
        pid = int(process.stdout.readline())
        os.kill(children(process.pid)[0], signal.SIGSTOP)
        process.terminate()
        assert process.wait(BOUND) == 0
        assert gone(pid)
        assert "has not ended the command in time: ending both" in process.stderr.read()


def test_the_death_of_a_guardian_ends_no_leadership(tmp_path: Path) -> None:
    with work(tmp_path, "echo $ELECTORATE_TERM; exec sleep 1000") as process:
        assert process.stdout
        for _ in range(3):
            assert process.stdout.readline() == "1\n"
            os.kill(children(process.pid)[0], signal.SIGKILL)
        assert process.stdout.readline() == "1\n"
        process.terminate()
        assert process.wait(BOUND) == 0


def test_elect_ends_the_command_if_its_guardian_is_frozen() -> None:
    """And the lease ends, because nobody answers. It is not late: another may lead as soon as it has ended."""
    with stage(plan("raft", 3, lease=2.0)) as made:
        old = made.until(made.running)
        frozen = made.guardian(old.node)
        os.kill(frozen, signal.SIGSTOP)
        others = [elect for id, elect in made.elects.items() if id != old.node]
        for elect in others:
            elect.send_signal(signal.SIGSTOP)
        at = now()
        wait_for(lambda: gone(old.pid) and gone(frozen))
        assert made.last_sign(old) - at < made.plan.lease
        for elect in others:
            elect.send_signal(signal.SIGCONT)
        made.another(old)
        assert made.overlaps() == 0
        assert made.elects[old.node].poll() is None, "elect itself goes on"
        wait_for(lambda: guardian_of(made.elects[old.node].pid))


def test_whoever_leads_runs_its_command(tmp_path: Path) -> None:
    """The witnesses freeze, the guardian stops the command, and the lease recovers."""
    lease = 4.0
    script = "echo up; trap 'echo told; exit 0' TERM; while :; do sleep 0.01; done"
    with reserved_ports(3) as ports:
        text = plan("raft", 3, lease=lease).toml(ports)
        for id in "bc":
            text = text.replace(f"[nodes.{id}]", f'[nodes.{id}]\nkind = "witness"')
        (tmp_path / "cluster.toml").write_text(text)
        start = [sys.executable, "-m", "electorate"]
        options = ["--config", "cluster.toml", "--id"]
        witnesses = [subprocess.Popen([*start, "node", *options, id], cwd=tmp_path) for id in "bc"]
        run = [*start, "run", *options, "a", "--", "sh", "-c", script]
        process = subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
            for witness in witnesses:
                witness.send_signal(signal.SIGSTOP)
            assert process.stdout.readline() == "told\n"
            for witness in witnesses:
                witness.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "up\n"
        finally:
            process.kill()
            process.communicate()
            for witness in witnesses:
                witness.kill()
                witness.wait()
            asyncio.run(relieve_all(tmp_path))


BLIND = """
import os, resource, signal, sys, time
from electorate.runtime.tree import Tree

tree = Tree(sys.argv[1])
print(tree.take_root(), flush=True)
if not os.fork():
    tree.enter()
    os.setsid()
    if daemon := os.fork():
        print(daemon, flush=True)
        os._exit(0)
    time.sleep(1000)
os.wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
tree.destroy()
print("nothing is left", flush=True)
"""


@pytest.mark.parametrize("how", ["cgroup", "children"])
def test_what_a_command_has_left_is_ended_by_who_can_open_no_file(tmp_path: Path, how: str) -> None:
    """Who cannot look must not take that for nothing left."""
    directory = f"{own_cgroup()}/electorate-test-{os.getpid()}" if how == "cgroup" else ""
    process = subprocess.Popen([sys.executable, "-c", BLIND, directory], stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate(timeout=BOUND)
    finally:
        process.kill()
        if directory and Path(directory).exists():
            Path(directory).rmdir()
    found, daemon, left = output.splitlines()
    if found != how:
        pytest.skip(f"{how} cannot be had here")
    assert left == "nothing is left"
    assert gone(int(daemon))


def test_who_cannot_be_seen_may_be_there() -> None:
    tree = Tree("/nowhere")
    with Path(os.devnull).open("wb") as null:
        tree.events = null.fileno()
        assert tree.populated, "it cannot be read: it is not open for that"
