"""Every example as its page says: three processes, a crash, a polite end, and never two at work at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from electorate import Leadership, StaleToken
from electorate.cli.plan import reserved_ports
from electorate.leadership import Pauses
from electorate.runtime.store import lock

EXAMPLES = Path(__file__).parent.parent / "examples"
BOUND = 60.0

WORK = re.compile(r"^([\d.]+) (\w+) works in term (\d+)$", re.MULTILINE)


class Trio:
    """Three processes of one example, and what they have printed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "output"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, id: str, *command: str, **environ: str) -> None:
        with self.output.open("ab") as output:
            self.processes[id] = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def text(self) -> str:
        return self.output.read_text()

    def works(self) -> list[tuple[float, str, int]]:
        """Each piece of work: when, by whom, in which term; in the order of time."""
        return sorted((float(at), id, int(term)) for at, id, term in WORK.findall(self.text()))

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + BOUND
        while not (found := condition()):
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)
        return found

    def worker(self, *but: str) -> str:
        """Wait until one of the others has done three pieces of work. Returns which."""

        def busy() -> str | None:
            works = [id for _, id, _ in self.works()]
            return next((id for id in works[-1:] if id not in but and works.count(id) >= 3), None)

        found: str = self.until(busy)
        return found

    def end(self, id: str, how: signal.Signals) -> int:
        self.processes[id].send_signal(how)
        return self.processes[id].wait(BOUND)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def check(self) -> None:
        """From outside: each term had one worker, and no work of a term came after work of a later one."""
        works = self.works()
        assert [term for _, _, term in works] == sorted(term for _, _, term in works), self.text()
        assert len({(id, term) for _, id, term in works}) == len({term for _, _, term in works})
        assert "Traceback" not in self.text(), self.text()


@contextmanager
def trio(directory: Path) -> Iterator[Trio]:
    """A folder with the examples' cluster file, but with ports of our own."""
    config = (EXAMPLES / "cluster.toml").read_text()
    with reserved_ports(3) as ports, ExitStack() as stack:
        for old, new in zip((7400, 7401, 7402), ports, strict=True):
            config = config.replace(str(old), str(new))
        (directory / "cluster.toml").write_text(config)
        made = Trio(directory)
        stack.callback(made.kill)
        yield made


def fail_over(example: Trio, polite_code: int) -> list[str]:
    """Kill the first worker and ask the second to end: all three have worked, one after the other."""
    first = example.worker()
    example.end(first, signal.SIGKILL)
    second = example.worker(first)
    assert example.end(second, signal.SIGTERM) == polite_code
    # one of three is no majority: the first comes back to elect the last
    return [first, second]


@pytest.mark.parametrize(
    "example", sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh"))
)
def test_an_example_that_is_started_without_what_it_needs_says_how(example: str, tmp_path: Path) -> None:
    command = ("sh", str(EXAMPLES / example)) if example.endswith(".sh") else python(example)
    bare = {name: word for name, word in os.environ.items() if name not in ("PORT", "DSN", "ELECTORATE_TERM")}
    done = subprocess.run(
        command, cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode and not done.stdout
    [line] = done.stderr.splitlines()
    assert re.search(f"usage: .*{Path(example).stem}", line)
    assert not list(tmp_path.iterdir())


def python(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(EXAMPLES / name), *arguments)


@pytest.mark.parametrize("name", ["sync_worker.py", "apscheduler_job.py"])
def test_a_worker_fails_over(name: str, tmp_path: Path) -> None:
    with trio(tmp_path) as example:
        for id in "abc":
            example.start(id, *python(name, id))
        first, second = fail_over(example, 128 + signal.SIGTERM)
        example.start(first, *python(name, first))
        example.worker(second)
        example.check()


def test_a_script_runs_on_the_leader_alone(tmp_path: Path) -> None:
    options = ("--config", "cluster.toml", "--election", "backup")
    run = (str(Path(sys.executable).with_name("elect")), "run", *options)
    with trio(tmp_path) as example:
        for id in "abc":
            example.start(id, *run, "--id", id, "--", str(EXAMPLES / "backup.sh"))
        first, second = fail_over(example, 0)
        assert f"{second} stops" in example.text()
        example.start(first, *run, "--id", first, "--", str(EXAMPLES / "backup.sh"))
        example.worker(second)
        example.check()


def test_the_web_service_tells_where_the_leader_serves(tmp_path: Path) -> None:
    with trio(tmp_path) as example, reserved_ports(3) as ports:
        port = dict(zip("abc", ports, strict=True))

        def leader_according_to(id: str) -> Any:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port[id]}") as answer:
                    return json.load(answer)["leader"]
            except ConnectionError:
                return None

        for id in "abc":
            example.start(id, *python("web_service.py", id), PORT=str(port[id]))
        first = example.worker()
        for id in "abc":
            seen = example.until(partial(leader_according_to, id))
            assert (seen["id"], seen["url"]) == (first, f"http://127.0.0.1:{port[first]}")
        second = fail_over(example, -signal.SIGTERM)[1]
        [last] = set("abc") - {first, second}
        example.start(first, *python("web_service.py", first), PORT=str(port[first]))
        assert example.worker(second) in (first, last)
        example.check()


def test_work_of_the_web_service_that_fails_is_logged_and_begun_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reserved_ports(1) as [port]:
        (tmp_path / "cluster.toml").write_text(f'cluster = "one"\n[nodes.a]\naddress = "127.0.0.1:{port}"\n')
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["web_service.py", "a"])
        monkeypatch.setenv("PORT", "1")
        monkeypatch.setattr(Pauses, "FIRST", 0.01)
        example = runpy.run_path(str(EXAMPLES / "web_service.py"))
        lifespan = example["lifespan"]
        terms = list[int]()

        async def serve() -> None:
            done = asyncio.Event()

            async def work(lead: Leadership) -> None:
                terms.append(lead.term)
                if len(terms) < 3:
                    raise OSError("no such queue")
                done.set()

            lifespan.__wrapped__.__globals__["work"] = work
            async with asyncio.timeout(BOUND), lifespan(example["app"]):
                await done.wait()

        asyncio.run(serve())
    assert terms == [1, 2, 3]
    assert caplog.text.count("OSError: no such queue") == 2


def test_the_freshest_replica_leads(tmp_path: Path) -> None:
    rows = {"a": 5, "b": 9, "c": 7}
    for id, count in rows.items():
        database = sqlite3.connect(tmp_path / f"{id}.db", isolation_level=None)
        database.execute("CREATE TABLE event (what TEXT)")
        database.executemany("INSERT INTO event VALUES (?)", [("x",)] * count)
        database.close()
    with trio(tmp_path) as example:
        for id in "bc":
            example.start(id, *python("freshest_replica.py", id, f"{id}.db"))
        assert example.worker() == "b"
        example.start("a", *python("freshest_replica.py", "a", "a.db"))
        assert "b has 9 rows, and leads" in example.text()
        example.end("b", signal.SIGKILL)
        assert example.worker("b") == "c"
        example.check()


# --- PostgreSQL -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A real server of our own, in a folder of its own. PostgreSQL refuses to run as root."""
    [initdb, *_] = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    directory = Path(tempfile.mkdtemp())
    data = directory / "data"
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(directory, "postgres")
    with reserved_ports(1) as [port]:
        run = [*become, str(initdb), "-D", str(data), "-A", "trust", "-U", "electorate"]
        subprocess.run(run, check=True, capture_output=True, cwd=directory)
        serve = [*become, str(initdb.with_name("postgres")), "-D", str(data), "-k", str(directory)]
        with subprocess.Popen(
            [*serve, "-p", str(port), "-h", "127.0.0.1"], cwd=directory, stderr=subprocess.DEVNULL
        ) as server:
            address = f"host=127.0.0.1 port={port} user=electorate dbname=postgres"
            try:
                wait_for_server(address)
                yield address
            finally:
                [pid] = (data / "postmaster.pid").read_text().splitlines()[:1]
                os.kill(int(pid), signal.SIGINT)
                server.wait(BOUND)
    shutil.rmtree(directory)


def wait_for_server(address: str) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        try:
            psycopg.connect(address).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_postgresql_refuses_a_leader_of_the_past(tmp_path: Path, dsn: str) -> None:
    pay = runpy.run_path(str(EXAMPLES / "postgres_fencing.py"))["pay"]
    with trio(tmp_path) as example, psycopg.connect(dsn, autocommit=True) as database:
        for id in "abc":
            example.start(id, *python("postgres_fencing.py", id), DSN=dsn)
        first = example.worker()
        example.processes[first].send_signal(signal.SIGSTOP)
        second = example.worker(first)
        [(of_the_past,)] = database.execute(
            "SELECT max(token) FROM payment WHERE payer = %s", (first,)
        ).fetchall()
        with pytest.raises(StaleToken):
            pay(database, "a leader of the past", of_the_past)
        example.processes[first].send_signal(signal.SIGCONT)
        example.end(second, signal.SIGKILL)
        example.worker(second)
        written = database.execute("SELECT token, payer FROM payment ORDER BY id").fetchall()
        assert [token for token, _ in written] == sorted(token for token, _ in written)
        assert len({token for token, _ in written}) == len(set(written))


def test_workers_of_a_server_are_a_node_each(tmp_path: Path) -> None:
    """uvicorn starts three, and a new one for each that is gone; which takes the id that is free again."""
    with trio(tmp_path) as example, reserved_ports(1) as [port]:
        serve = ("-m", "uvicorn", "prefork_service:app", "--workers", "3", "--port", str(port))
        example.start("all", sys.executable, *serve, PYTHONPATH=path_with(EXAMPLES))
        first = example.worker()
        process = int((tmp_path / f"electorate-examples-{first}" / "lock").read_text())
        os.kill(process, signal.SIGKILL)
        second = example.worker(first)
        term = example.works()[-1][2]
        os.kill(int((tmp_path / f"electorate-examples-{second}" / "lock").read_text()), signal.SIGKILL)
        # whoever works then has a majority: the first one is back, or a new process of the second
        example.until(lambda: example.works()[-1][2] > term)
        assert example.end("all", signal.SIGTERM) in (0, -signal.SIGTERM)
        example.check()
        for id in "abc":
            os.close(lock(tmp_path / f"electorate-examples-{id}"))


def path_with(directory: Path) -> str:
    return os.pathsep.join([str(directory), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
