"""`elect status`, `leader`, `elections`, `watch`, `transfer`, `resign`, as an operator types them, over both ways to
reach a node; and what `elect node` itself says: its log, to systemd, to a tracer."""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from electorate.cli.plan import reserved_ports
from electorate.runtime.control import address
from electorate.runtime.notify import notified
from electorate.runtime.telemetry import trace_elections
from tests.runtime_hosts import E, blocked, cluster, in_loop

ELECT = (sys.executable, "-m", "electorate.cli.main")
BOUND = 60.0
TOKEN = "a token for the tests, long enough to be taken"


def elect(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ELECT, *words],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


class Nodes:
    """Real `elect node` processes of one cluster, that serve HTTP."""

    def __init__(self, directory: Path, ports: list[int], ids: str) -> None:
        self.directory = directory
        self.http = dict(zip(ids, ports[len(ids) :], strict=True))
        self.processes: dict[str, subprocess.Popen[str]] = {}
        (directory / "token").write_text(TOKEN)
        (directory / "token").chmod(0o600)
        lines = ['cluster = "demo"', "[timing]", "lease = 2.0", "[http]", 'token_file = "token"']
        for id, port in zip(ids, ports, strict=False):
            lines += [f"[nodes.{id}]", f'address = "127.0.0.1:{port}"']
            lines += [f'http = "127.0.0.1:{self.http[id]}"', f'metadata = {{ name = "node {id}" }}']
        (directory / "cluster.toml").write_text("\n".join(lines))

    def start(self, id: str, *options: str, **environ: str) -> subprocess.Popen[str]:
        with (self.directory / f"log-{id}").open("a") as log:
            self.processes[id] = subprocess.Popen(
                [*ELECT, "node", "--config", "cluster.toml", "--id", id, *options],
                cwd=self.directory,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        return self.processes[id]

    def log(self, id: str) -> list[str]:
        return (self.directory / f"log-{id}").read_text().splitlines()

    def ways(self, id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The options that reach a node: on this machine, and over HTTP."""
        here = ("--config", "cluster.toml", "--id", id)
        return here, ("--url", f"http://127.0.0.1:{self.http[id]}")

    def ask(self, *words: str) -> Any:
        done = elect(self.directory, *words, "--json")
        return json.loads(done.stdout) if done.stdout else done.stderr

    def leader(self) -> str:
        """Once all that run agree on who leads."""

        def agreed() -> str | None:
            named = {leader_of(self.http[id]) for id in self.processes}
            return named.pop() if len(named) == 1 else None

        return str(until(agreed))


def leader_of(port: int) -> str | None:
    """Whom a node names, as a load balancer asks it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/leader") as answer:
            told = answer.read()
    except urllib.error.HTTPError as another_leads:
        told = another_leads.read()
    except OSError:
        return None
    named: str | None = json.loads(told)["leader"]
    return named


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        if found := look():
            return found
    raise AssertionError(f"it did not come to that in {BOUND:g} s")


@contextmanager
def running(directory: Path, ids: str = "abc", *options: str, **environ: str) -> Iterator[Nodes]:
    with reserved_ports(2 * len(ids)) as ports:
        made = Nodes(directory, ports, ids)
        try:
            for id in ids:
                made.start(id, *options, **environ)
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.wait()


# --- asking and commanding --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running(tmp_path_factory.mktemp("three"), "abc", "--log-format", "json") as made:
        made.leader()
        yield made


def test_questions_are_answered_alike_both_ways(three: Nodes) -> None:
    leader = three.leader()
    for way in three.ways(next(id for id in "abc" if id != leader)):
        done = elect(three.directory, "leader", *way)
        assert (done.returncode, done.stdout) == (0, f"{leader}\n")
        known = three.ask("leader", *way)
        assert (known["election"], known["leader"]) == ("main", leader)
        assert known["metadata"]["name"] == f"node {leader}"
        assert [row["leader"] for row in three.ask("elections", *way)["elections"]] == [leader]
        status = three.ask("status", *way)
        assert (status["cluster"], status["algorithm"]) == ("demo", "raft")
        assert set(status["peers"]) | {status["node"]} == set("abc")
        table = elect(three.directory, "status", *way).stdout.splitlines()
        titles = ["election", "role", "leader", "term", "since", "changes", "lease", "left"]
        assert table[1].split() == titles
        [row] = three.ask("elections", *way)["elections"]
        shown = f"{datetime.fromtimestamp(row['since']):%Y-%m-%d %H:%M:%S}  {row['changes']} "
        assert shown in table[2] and 0 <= time.time() - row["since"] < 600
        assert table[2].split()[:3] == ["main", "follower", leader]


def test_a_quorum_that_is_lost_is_told_and_why_and_when_it_is_back(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        made.leader()
        for id in "bc":
            made.processes[id].kill()
            made.processes.pop(id).wait()
        for way in made.ways("a"):
            until(lambda way=way: made.ask("status", *way)["no_quorum"])  # type: ignore[misc]
            status = made.ask("status", *way)
            assert re.fullmatch(r"no quorum since \d\d:\d\d:\d\d: b and c lost", status["no_quorum"])
            until(lambda way=way: set(made.ask("status", *way)["unreached"]) == {"b", "c"})  # type: ignore[misc]
            told = elect(tmp_path, "status", *way).stdout.splitlines()
            assert status["no_quorum"] in told
            for id in "bc":
                [line] = (line for line in told if line.startswith(f"node {id} "))
                assert re.fullmatch(r"node . was lost at [-\d]+ [:\d]+: the connection is refused", line)
        until(
            lambda: any("I reach b and c no more: 1 of 3 voters, 2 needed" in line for line in made.log("a"))
        )
        until(lambda: any("node b cannot be reached at 127.0.0.1:" in line for line in made.log("a")))
        made.start("b")
        until(lambda: any("I reach a quorum again: 2 of 3 voters" in line for line in made.log("a")))
        assert any("node b is reached again" in line for line in made.log("a"))
        for way in made.ways("a"):
            assert made.ask("status", *way)["no_quorum"] is None
            assert "node b is connected" in elect(tmp_path, "status", *way).stdout.splitlines()


def test_who_cannot_take_calls_says_so_once_and_goes_on_by_itself(tmp_path: Path) -> None:
    """Whoever calls: another node, somebody on this machine, or over HTTP."""
    with running(tmp_path) as made:
        made.leader()
        pid = made.processes["a"].pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))

        def said(words: str, logger: str) -> int:
            return sum(f" {logger} calls {words}" in line for line in made.log("a"))

        with address(tmp_path / "electorate-demo-a") as place:
            here, http = socket.socket(socket.AF_UNIX), socket.socket()
            with here, http:
                here.connect(place)
                http.connect(("127.0.0.1", made.http["a"]))
                for logger in ("electorate.a", "electorate.a.http"):
                    until(lambda logger=logger: said("cannot be taken (Too many", logger))  # type: ignore[misc]
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
                for logger in ("electorate.a", "electorate.a.http"):
                    until(lambda logger=logger: said("are taken again, after", logger))  # type: ignore[misc]
                    assert said("cannot be taken", logger) == 1
        for way in made.ways("a"):
            assert made.ask("status", *way)["node"] == "a"


def test_a_store_that_fails_is_told_and_since_when(tmp_path: Path) -> None:
    """It fails when it is to remember that b has started anew."""
    with running(tmp_path, "ab") as made:
        made.leader()
        with blocked(tmp_path / "electorate-demo-a"):
            made.processes["b"].kill()
            made.processes["b"].wait()
            made.start("b")
            for way in made.ways("a"):
                until(lambda way=way: made.ask("status", *way)["no_store"])  # type: ignore[misc]
                told = made.ask("status", *way)["no_store"]
                assert re.match(r"since \d\d:\d\d:\d\d, data directory .* cannot be written", told)
                assert told in elect(tmp_path, "status", *way).stdout.splitlines()
        until(lambda: any("takes writes again, after" in line for line in made.log("a")))
        assert all(made.ask("status", *way)["no_store"] is None for way in made.ways("a"))


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_a_node_does_not_contend_for_a_while(three: Nodes, way: int) -> None:
    token = ("--token-file", "token") if way else ()
    first = three.leader()
    done = elect(three.directory, "freeze", "600", *three.ways(first)[way], *token)
    assert done.returncode == 4
    [hint] = re.findall("let it resign for so many seconds: `(.*)`$", done.stderr)
    assert " resign --seconds 600 --" in hint
    assert elect(three.directory, "freeze", "0", *three.ways(first)[way], *token).returncode == 0
    typed = subprocess.run(hint, shell=True, cwd=three.directory, capture_output=True, text=True, check=True)
    second = typed.stdout.split()[0]
    third = next(id for id in "abc" if id not in (first, second))
    assert three.ask("freeze", "600", *three.ways(third)[way], *token)["done"]
    for id in (first, third):
        [standing] = three.ask("status", *three.ways(id)[way])["elections"]
        assert 0 < standing["frozen"] <= 600
        shown = elect(three.directory, "status", *three.ways(id)[way]).stdout
        assert re.search(r"^frozen: it does not contend for 'main' for another \d+(\.\d)? s$", shown, re.M)
    for id in (first, third):
        to = ("transfer", id, *three.ways(second)[way], *token)
        until(lambda to=to: "does not contend" in elect(three.directory, *to).stderr)  # type: ignore[misc]
        assert three.ask("freeze", "0", *three.ways(id)[way], *token)["done"]
    to = ("transfer", first, *three.ways(second)[way], *token)
    until(lambda: elect(three.directory, *to).returncode == 0)
    assert "frozen" not in elect(three.directory, "status", *three.ways(third)[way]).stdout
    if not way:
        logged = [json.loads(line) for line in three.log(third)]
        asked = [line["message"] for line in logged if line["logger"] == f"electorate.{third}.audit"]
        assert re.fullmatch(
            r"process \d+ on this machine asked for end of the freeze of 'main': done", asked[-1]
        )


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_a_leader_hands_over_and_steps_back(three: Nodes, way: int) -> None:
    token = ("--token-file", "token") if way else ()
    first = three.leader()
    heir = next(id for id in "abc" if id != first)
    done = elect(three.directory, "transfer", heir, *three.ways(first)[way], *token)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{heir} leads, term ")
    done = elect(three.directory, "transfer", first, "--force", *three.ways(heir)[way], *token)
    assert (done.returncode, done.stderr) == (0, "")
    three.ask("transfer", heir, *three.ways(first)[way], *token)
    answer = three.ask("resign", *three.ways(heir)[way], *token)
    assert answer["leader"] not in (None, heir)


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_any_node_passes_on_what_the_leader_is_to_do(three: Nodes, way: int) -> None:
    token = ("--token-file", "token") if way else ()
    first = three.leader()
    asked, other = (id for id in "abc" if id != first)
    until(lambda: elect(three.directory, "transfer", other, *three.ways(asked)[way], *token).returncode == 0)
    assert three.leader() == other
    answer = three.ask("resign", *three.ways(asked)[way], *token)
    assert answer["done"] and answer["leader"] not in (None, other)


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_what_nobody_waits_for_any_more_is_not_done(three: Nodes, way: int) -> None:
    token = ("--token-file", "token") if way else ()
    leader = three.leader()
    asked, other = (id for id in "abc" if id != leader)
    words = ("transfer", other, "--election", E, "--timeout", "0.5", *three.ways(asked)[way], *token)
    three.processes[asked].send_signal(signal.SIGSTOP)
    try:
        done = elect(three.directory, *words)
    finally:
        three.processes[asked].send_signal(signal.SIGCONT)
    assert done.returncode == 3
    here = f"the node in electorate-demo-{asked} does not answer"
    who = f"no node answers at http://127.0.0.1:{three.http[asked]}" if way else here
    still = "it may do so yet: see who leads, or give it longer (--timeout)"
    assert done.stderr == f"elect: {who}: not in 0.5 s; {still}\n"
    told = "the caller has hung up" if way else "nothing was done for one who asked to transfer and hung up"
    until(lambda: any(told in line for line in three.log(asked)))
    assert three.leader() == leader


def test_an_heir_that_hangs_is_not_said_to_be_behind(three: Nodes) -> None:
    leader = three.leader()
    heir = next(id for id in "abc" if id != leader)
    three.processes[heir].send_signal(signal.SIGSTOP)
    try:
        done = elect(three.directory, "transfer", heir, *three.ways(leader)[0])
    finally:
        three.processes[heir].send_signal(signal.SIGCONT)
    assert done.returncode == 4
    assert done.stderr == f"elect: node {heir} has answered no beat for a while; see whether it hangs\n"


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_what_cannot_be_is_refused(three: Nodes, way: int) -> None:
    token = ("--token-file", "token") if way else ()
    leader = three.leader()
    follower = next(id for id in "abc" if id != leader)
    for words, says in (
        (("transfer", "z", *three.ways(leader)[way], *token), "z"),
        (("transfer", "z", *three.ways(follower)[way], *token), "z"),
        (("leader", "nope", *three.ways(leader)[way]), "nope"),
        (("watch", "--election", "mian", *three.ways(leader)[way]), "did you mean 'main'?"),
    ):
        done = elect(three.directory, *words)
        assert (done.returncode, done.stdout) == (4, ""), done.stderr
        assert done.stderr.startswith("elect: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    assert three.leader() == leader


def test_over_http_only_the_token_commands(three: Nodes) -> None:
    leader = three.leader()
    (three.directory / "wrong").write_text("another token, as long as the right one is")
    for token in ((), ("--token-file", "wrong")):
        done = elect(three.directory, "resign", *three.ways(leader)[1], *token)
        assert (done.returncode, done.stdout) == (4, "")
        assert "token" in done.stderr
    assert three.leader() == leader


def test_nobody_there(tmp_path: Path) -> None:
    with reserved_ports(1) as [port]:
        for way in (("--data", str(tmp_path)), ("--data", "nowhere"), ("--url", f"http://127.0.0.1:{port}")):
            for words in (
                ("status",),
                ("leader",),
                ("elections",),
                ("watch",),
                ("transfer", "a"),
                ("resign",),
            ):
                done = elect(tmp_path, *words, *way)
                assert (done.returncode, done.stdout) == (3, ""), words
                assert done.stderr.startswith("elect: no node ")
                assert done.stderr.count("\n") == 1


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text('cluster = "one"\n[nodes.a]\naddress = "127.0.0.1:0"\n')
    for words, says in (
        (("status",), "say which node"),
        (("leader", "--url", "localhost:80"), "--url localhost:80 is not a URL"),
        (("leader", "--url", "http://"), "--url http:// is not a URL"),
        (("resign", "--url", "http://x", "--token-file", "none"), "--token-file none: No such file"),
        (("status", "--config", "none.toml", "--id", "a"), "none.toml"),
        (("freeze", "-1"), "-1 is less than 0: say a number from 0 on; see `"),
        (("status", "--config", "cluster.toml", "--id", "z"), "node 'z' is not in cluster.toml; it has a"),
        (("sim", "rafft"), "algorithm 'rafft' is not one of bully, ring, raft, "),
        (("up", "--algorithm", "rafft"), "there is no algorithm 'rafft'; did you mean 'raft'?"),
        (("up", "--for", "nan"), "--for nan is no time to elect anybody"),
        (
            ("run", "--config", "cluster.toml", "--id", "a", "--election", "", "--", "true"),
            "the name of an el",
        ),
        (("freeze", "nan"), "seconds nan: say a number of seconds from 0 to 315360000"),
        (("resign", "--seconds", "-5"), "--seconds -5: say a number of seconds from 0 to 315360000"),
        (("status", "--timeout", "-1"), "--timeout -1: say a number of seconds from 0.001 to"),
        (("transfer",), "missing argument 'to'; see `"),
        (("status", "--jsn"), "no such option: --jsn"),
        (("--nope",), "no such option: --nope"),
        (("config", "chek"), "no such command 'chek'. Did you mean 'check'?\n"),
    ):
        done = elect(tmp_path, *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert done.stderr.startswith(f"elect: {says}"), words
        assert done.stderr.count("\n") == 1


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{SECRET}\n{SECRET}\n".encode(), "holds several lines: leave the token in it, alone, in one line"),
        (f"{SECRET}\r\n{SECRET}".encode(), "holds several lines"),
        (f"\xff{SECRET}\0".encode(), "holds what is not text"),
        (b"\n", "holds no token"),
    ],
)
def test_an_unfit_token_file_is_one_sentence_without_the_token(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "token").write_bytes(content)
    done = elect(tmp_path, "resign", "--url", "http://127.0.0.1:1", "--token-file", "token")
    assert done.returncode == 2
    assert done.stderr.startswith("elect: token file token " + says)
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    "url", [f"http://user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@x", f"ftp://{SECRET}@x"]
)
def test_a_password_in_a_url_is_not_repeated(tmp_path: Path, url: str) -> None:
    done = elect(tmp_path, "leader", "--url", url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


def test_no_leader_is_exit_code_1(tmp_path: Path) -> None:
    def none(way: tuple[str, ...]) -> bool:
        return elect(tmp_path, "leader", *way).returncode == 1

    with running(tmp_path, "abc") as made:
        for id in "bc":
            made.processes[id].kill()
        for way in made.ways("a"):
            until(functools.partial(none, way))
            assert elect(tmp_path, "leader", *way).stdout == ""


@pytest.mark.parametrize("way", [0, 1], ids=["on this machine", "over HTTP"])
def test_who_watches_sees_each_change_once(tmp_path: Path, way: int) -> None:
    with running(tmp_path) as made:
        first = made.leader()
        heir, third = (id for id in "abc" if id != first)
        watching = [*ELECT, "watch", *made.ways(third)[way]]
        with subprocess.Popen(
            watching, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout
            assert watch.stdout.readline().startswith(f"main: {first} leads, term ")
            elect(tmp_path, "transfer", heir, *made.ways(first)[0])
            said = [watch.stdout.readline()]
            while not said[-1].startswith(f"main: {heir} leads"):
                said.append(watch.stdout.readline())
            assert len(said) == len(set(said))
            watch.send_signal(signal.SIGINT)
            rest, complaint = watch.communicate(timeout=BOUND)
            assert (watch.returncode, rest, complaint) == (0, "", "")


def test_who_watches_a_node_that_stops_is_told(tmp_path: Path) -> None:
    with running(tmp_path, "a") as made:
        made.leader()
        with subprocess.Popen(
            [*ELECT, "watch", *made.ways("a")[0]],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watch:
            assert watch.stdout
            watch.stdout.readline()
            made.processes["a"].terminate()
            _, complaint = watch.communicate(timeout=BOUND)
            assert watch.returncode == 3
            assert complaint == "elect: the node has stopped\n"


def test_a_shell_can_complete_the_commands(tmp_path: Path) -> None:
    script = elect(tmp_path, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0, script.stderr
    assert "complete -o default" in script.stdout
    words = {"COMP_WORDS": "elect tr", "COMP_CWORD": "1", "_ELECT_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [Path(sys.executable).with_name("elect")],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.stdout.split() == ["transfer"]


def test_the_help_of_a_node_fits_on_a_screen(tmp_path: Path) -> None:
    done = elect(tmp_path, "node", "--help", COLUMNS="100", TERMINAL_WIDTH="100")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 24


def test_help_leaves_out_nothing_that_it_was_to_say(tmp_path: Path) -> None:
    """A word in brackets is taken for markup by what prints the help, and lost."""
    for command in ("node", "run", "status", "leader", "watch", "transfer", "sim", "check", "torture"):
        done = elect(tmp_path, command, "--help", COLUMNS="200", TERMINAL_WIDTH="200")
        assert done.returncode == 0
        assert " ." not in done.stdout, command
    assert "[default: 0" not in elect(tmp_path, "sim", "--help").stdout


# --- the log ----------------------------------------------------------------------------------------


def test_a_log_in_json_has_an_object_for_each_change_and_none_for_a_beat(tmp_path: Path) -> None:
    with running(tmp_path, "abc", "--log-format", "json", "--log-level", "info") as made:
        first = made.leader()
        heir = next(id for id in "abc" if id != first)
        until(lambda: all(f'"leader":"{first}"' in "".join(made.log(id)[-1:]) for id in "abc"))
        before = {id: len(made.log(id)) for id in "abc"}
        elect(tmp_path, "transfer", heir, *made.ways(first)[0])
        assert made.leader() == heir
        until(lambda: all(f'"leader":"{heir}"' in "".join(made.log(id)[before[id] :]) for id in "abc"))
        for id in "abc":
            lines = [json.loads(line) for line in made.log(id)]
            assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
            assert all(line["time"].endswith("+00:00") for line in lines)
            changes = [line for line in lines[before[id] :] if "leader" in line]
            assert [line["leader"] for line in changes if line["leader"]] == [heir]
            last = changes[-1]
            assert (last["election"], last["node"]) == ("main", id)
            assert last["term"] > 1
            assert last["role"] == ("leader" if id == heir else "follower")
        lines_before, beats = [len(made.log(id)) for id in "abc"], beats_of(made, heir)
        until(lambda: beats_of(made, heir) > beats + 20)
        assert [len(made.log(id)) for id in "abc"] == lines_before


def beats_of(made: Nodes, id: str) -> float:
    """How many beats a node has sent."""
    with urllib.request.urlopen(f"http://127.0.0.1:{made.http[id]}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("electorate_beats_sent_total"))


def test_a_node_says_at_once_what_it_waits_for_and_that_it_stops(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        leader = made.leader()
        place = re.findall(r'^address = "(.*)"$', (tmp_path / "cluster.toml").read_text(), re.MULTILINE)[0]
        assert made.log("a")[0].endswith(
            f" electorate.a node a of cluster 'demo' listens on {place} and dials b and c: it reaches 1 of 3"
            " voters, 2 needed"
        )
        others = [id for id in "abc" if id != leader]
        for id in others:
            made.processes[id].send_signal(signal.SIGSTOP)
        made.processes[leader].terminate()
        assert made.processes.pop(leader).wait(BOUND) == 0
        for id in others:
            made.processes[id].send_signal(signal.SIGCONT)
        ends = [line.partition(f" electorate.{leader} ")[2] for line in made.log(leader)]
        stops = ends.index(f"SIGTERM: node {leader} stops")
        assert any(line.startswith("stopping: waiting until another leads 'main', ") for line in ends[stops:])
        made.processes[others[0]].send_signal(signal.SIGINT)
        assert made.processes.pop(others[0]).wait(BOUND) == 0
        assert any(f"SIGINT: node {others[0]} stops" in line for line in made.log(others[0]))


def test_a_quiet_log_is_quiet(tmp_path: Path) -> None:
    with running(tmp_path, "a", "--log-level", "error") as made:
        made.leader()
        made.processes["a"].terminate()
        assert made.processes["a"].wait(BOUND) == 0
        assert made.log("a") == []


# --- systemd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notify", "@electorate-{}"], ids=["a path", "an abstract name"])
def test_systemd_is_told_how_it_goes(tmp_path: Path, name: str) -> None:
    name = name.format(tmp_path.name) if name.startswith("@") else str(tmp_path / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if name.startswith("@") else name)
        systemd.settimeout(BOUND)

        def heard(wanted: str) -> list[str]:
            deadline, said = time.monotonic() + BOUND, [systemd.recv(4096).decode()]
            while not said[-1].startswith(wanted):
                assert time.monotonic() < deadline, set(said)
                said.append(systemd.recv(4096).decode())
            return said

        with running(tmp_path, "a", NOTIFY_SOCKET=name, WATCHDOG_USEC="400000") as made:
            assert heard("READY=1") == ["READY=1"]
            assert elect(tmp_path, "status", *made.ways("a")[0]).returncode == 0
            assert heard("STATUS=main: leader, leader a, term ")
            assert heard("WATCHDOG=1")
            assert heard("WATCHDOG=1")
            made.processes["a"].terminate()
            assert heard("STOPPING=1")
            assert made.processes["a"].wait(BOUND) == 0


@in_loop
async def test_systemd_is_told_who_leads_though_that_was_so_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served beside the node may make it ready late."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(BOUND)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with cluster(tmp_path, "a") as at:
            await at.agreed()
            async with notified(at.hosts["a"]):
                assert systemd.recv(4096) == b"READY=1"
                assert systemd.recv(4096).startswith(b"STATUS=main: leader, leader a, term ")


def test_a_supervisor_that_is_gone_does_not_stop_a_node(tmp_path: Path) -> None:
    with running(tmp_path, "a", NOTIFY_SOCKET=str(tmp_path / "gone"), WATCHDOG_USEC="10000") as made:
        assert made.leader() == "a"
        made.processes["a"].terminate()
        assert made.processes["a"].wait(BOUND) == 0
        assert sum("systemd cannot be told" in line for line in made.log("a")) == 1


def test_a_watchdog_of_no_number_is_a_sentence(tmp_path: Path) -> None:
    with running(tmp_path, "a", NOTIFY_SOCKET=str(tmp_path / "gone"), WATCHDOG_USEC="soon") as made:
        assert made.processes["a"].wait(BOUND) == 2
        assert made.log("a")[-1].startswith("elect: WATCHDOG_USEC=soon is not a number")


# --- OpenTelemetry ----------------------------------------------------------------------------------


@in_loop
async def test_each_election_is_a_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with cluster(tmp_path) as at:
        for host in at.hosts.values():
            trace_elections(host)
        first = await at.agreed()
        before = len(exporter.get_finished_spans())
        heir = next(id for id in at.hosts if id != first.id)
        first.transfer(E, heir)
        await at.agreed(heir)
        spans = exporter.get_finished_spans()[before:]
        seen = {span.attributes["electorate.node"]: span.attributes for span in spans if span.attributes}
        assert set(seen) == set(at.hosts)
        for id, attributes in seen.items():
            assert attributes["electorate.election"] == E
            assert attributes["electorate.leader"] == heir
            assert attributes["electorate.outcome"] == ("won" if id == heir else "followed")
