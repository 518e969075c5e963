"""The sessions that the pages show, played again; what else they say in numbers, counted again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from electorate.cli.plan import reserved_ports
from tests.pages import BIN, PAGES, ROOT, Session, lasting, play, run, sessions, shapes, toml

ELECT = str(BIN / "elect")
README = ROOT / "README.md"
BOUND = 60.0
ALL = [session for page in PAGES for session in sessions(page)]
SIMULATED = [session for session in ALL if not session.is_real]


@pytest.mark.parametrize("session", SIMULATED, ids=str)
def test_a_session_comes_out_as_the_page_shows_it(session: Session) -> None:
    assert lasting(play(session)) == lasting(session.text), "make pages writes it anew"


def test_no_session_is_forgotten() -> None:
    """Those with real processes are played below, one by one."""
    real = {command.split()[1] for session in ALL if session.is_real for command, _ in session.steps}
    assert real == {"up", "run", "status", "leader", "transfer"}


def shown(beginning: str) -> str:
    """What the page shows below the command that begins so."""
    [output] = [
        output
        for session in ALL
        for command, output in session.steps
        if command.startswith(f"elect {beginning}")
    ]
    return output


def block(beginning: str) -> str:
    """A block of the README that begins so."""
    found = re.search(rf"^```\n({beginning}.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_the_demo_prints_what_the_page_shows() -> None:
    tour = subprocess.run([ELECT, "up", "--tour"], capture_output=True, text=True, check=True).stdout
    assert shapes(tour) == shapes(block("Three processes"))


def test_a_local_cluster_prints_what_the_page_shows(tmp_path: Path) -> None:
    assert sorted(shapes(run("elect up --for 4 | cat", tmp_path))) == sorted(shapes(shown("up")))


# --- a cluster of one's own ---------------------------------------------------------------------------


WORK = f"""#!{sys.executable}
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("stopping", flush=True), sys.exit(143)))
print("working in term", os.environ["ELECTORATE_TERM"], flush=True)
while True:
    signal.pause()
"""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def cluster(directory: Path) -> Iterator[None]:
    """That of the page, but with ports of our own: b and c run nodes, a runs a command."""
    with reserved_ports(3) as ports, ExitStack() as stack:
        config = toml(README)
        for old, new in zip((7400, 7401, 7402), ports, strict=True):
            config = config.replace(str(old), str(new))
        (directory / "cluster.toml").write_text(config)
        (directory / "work.py").write_text(WORK)
        (directory / "work.py").chmod(0o755)
        for id in "abc":
            words = ["run" if id == "a" else "node", "--config", "cluster.toml", "--id", id]
            log = stack.enter_context((directory / f"{id}.log").open("wb"))
            command = [ELECT, *words, *(("--", "./work.py") if id == "a" else ())]
            process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield


def told(log: str, *, by_node: bool) -> str:
    """What the node logs, or what its command prints, each in its own order: they are written by two. Without the
    moment between two leaders, which may pass unseen."""
    lines = (line for line in shapes(log) if "nobody leads" not in line)
    return "\n".join(line for line in lines if ("electorate." in line) is by_node)


def test_nodes_answer_as_the_page_shows(tmp_path: Path) -> None:
    def elect(words: str) -> str:
        return run(f"elect {words} --config cluster.toml", tmp_path)

    def log(id: str) -> str:
        return (tmp_path / f"{id}.log").read_text()

    with cluster(tmp_path):
        until(lambda: elect("leader --id b").strip() in set("abc"))
        first = elect("leader --id b").strip()
        if first != "a":
            elect(f"transfer a --id {first}")
        until(lambda: "working in term" in log("a") and elect("status --id b").count("connected") == 2)
        until(lambda: elect("leader --id b") == "a\n")
        status = [line for line in shapes(elect("status --id b")) if not re.match("N times?: ", line)]
        assert status == shapes(shown("status"))
        assert shapes(elect("leader --id b")) == shapes(shown("leader"))
        assert shapes(elect("transfer c --id b")) == shapes(shown("transfer"))
        until(lambda: "c leads" in log("a")[log("a").index("stopping ./work.py") :])
        for by_node in (True, False):
            assert told(shown("run"), by_node=by_node) in told(log("a"), by_node=by_node)
    page = (ROOT / "docs" / "operate.md").read_text()
    example = re.search(r"^```\n(\d{4}-\d\d-\d\d .*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert example
    assert set(shapes(example[1])) <= set(shapes(log("a") + log("b") + log("c")))


# --- numbers ------------------------------------------------------------------------------------------


ROW = re.compile(r"^\| \*\*(\w+)\*\* \|.*\| (\d+) \|[^|]*\|$", re.MULTILINE)
TENURE = {"Beat", "Support", "Lead", "Follow"}


def messages(algorithm: str) -> int:
    """What five nodes say to each other until they have elected, once."""
    lines = subprocess.run(
        [ELECT, "sim", algorithm, "--nodes", "5", "--json"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    sent = [entry for entry in told if entry["kind"] == "send" and entry["node"] != entry["peer"]]
    return sum(entry["what"]["type"] not in TENURE for entry in sent)


def test_each_algorithm_needs_as_many_messages_as_the_page_says() -> None:
    said = {name.lower(): int(count) for name, count in ROW.findall(README.read_text())}
    assert said == {name: messages(name) for name in ("bully", "ring", "raft", "zab")}


def test_every_invariant_is_named_where_one_begins_to_read() -> None:
    text = README.read_text()
    assert [n for n in range(1, 11) if f"**I{n}**" not in text] == []


def test_the_demo_installs_no_more_than_it_needs() -> None:
    done = subprocess.run(
        ["make", "-n", "-W", "pyproject.toml", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-r locks/build.txt -r locks/cli.txt " in done
    assert "image.txt" not in done and "dev.txt" not in done
    assert done.count("echo") >= 2, "it says what it does"
