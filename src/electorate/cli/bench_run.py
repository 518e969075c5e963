"""`elect bench run`: whatever befalls `elect run`, its guardian or its command, no two ever run at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer

from electorate.cli import witness
from electorate.cli.bench import Summary, Trial, app, print_json, print_summary, print_trial, summarise
from electorate.cli.plan import Plan, plan, reserved_ports
from electorate.errors import UserError, hint
from electorate.runtime.clock import now
from electorate.runtime.ward import relieve_all

T = TypeVar("T")

FAULTS = ("kill", "stop", "term", "child", "guardian", "freeze")


CALM = 3
"""So many leases before each trial: whoever was restarted has connected, and may back others again."""


class Line(NamedTuple):
    """What a command has said of itself."""

    t: float
    word: str
    pid: int
    term: int
    node: str


class Stage:
    """Three `elect run` on this machine, each with the witness as its command."""

    def __init__(self, plan: Plan, directory: Path, ports: list[int], linger: float = 0.0) -> None:
        self.plan = plan
        self.directory = directory
        self.log = directory / "log"
        self.log.touch()
        self.linger = linger
        (directory / "cluster.toml").write_text(plan.toml(ports))
        self.elects: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, id: str, *options: str) -> None:
        elect = [sys.executable, "-m", "electorate.cli.main", "run", "--config", "cluster.toml", "--id", id]
        command = [sys.executable, "-I", "-S", witness.__file__, "log", "lock", str(self.linger)]
        with (self.directory / "stderr").open("ab") as stderr:
            self.elects[id] = subprocess.Popen(
                [*elect, *options, "--", *command],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def close(self) -> None:
        for elect in self.elects.values():
            elect.send_signal(signal.SIGCONT)
            elect.kill()
            elect.wait()
        asyncio.run(relieve_all(self.directory))

    # --- what can be seen from outside --------------------------------------------------------------

    def lines(self) -> list[Line]:
        whole = self.log.read_text().rpartition("\n")[0]  # the last line may be half written
        rows = (row.split() for row in whole.splitlines())
        return [Line(float(t), word, int(pid), int(term), node) for t, word, pid, term, node in rows]

    def starts(self) -> list[Line]:
        return [line for line in self.lines() if line.word == "start"]

    def overlaps(self) -> int:
        return sum(line.word == "overlap" for line in self.lines())

    def guardian(self, node: str) -> int:
        """The guardian of this node: the one child of its `elect`."""
        pid = self.elects[node].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])

    def until(self, condition: Callable[[], T | None]) -> T:
        deadline = now() + self.plan.bound
        while not (found := condition()):
            if now() > deadline:
                raise TimeoutError((self.directory / "stderr").read_text()[-2000:])
            time.sleep(0.002)
        return found

    def running(self) -> Line | None:
        """The newest command, if it lives."""
        starts = self.starts()
        return starts[-1] if starts and Path(f"/proc/{starts[-1].pid}/stat").exists() else None

    def another(self, than: Line) -> Line:
        """Wait for the next command."""
        self.until(lambda: self.starts()[-1] != than)
        return self.starts()[-1]

    def last_sign(self, of: Line) -> float:
        return max(line.t for line in self.lines() if line.pid == of.pid)


@contextmanager
def stage(plan: Plan, linger: float = 0.0) -> Iterator[Stage]:
    with ExitStack() as held:
        ports = held.enter_context(reserved_ports(plan.nodes))
        directory = held.enter_context(
            tempfile.TemporaryDirectory(prefix="electorate-", ignore_cleanup_errors=True)
        )
        made = Stage(plan, Path(directory), ports, linger)
        held.callback(made.close)
        for id in plan.ids:
            made.start(id)
        yield made


def strike(stage: Stage, fault: str, old: Line) -> Line:
    """Let it happen to the node whose command runs; wait for the next command, and mend what is broken."""
    elect = stage.elects[old.node]
    match fault:
        case "kill":
            elect.kill()
        case "stop":
            elect.send_signal(signal.SIGSTOP)
        case "term":
            elect.terminate()
        case "child":
            os.kill(old.pid, signal.SIGKILL)
        case "guardian":
            os.kill(stage.guardian(old.node), signal.SIGKILL)
    new = stage.another(old)
    if fault == "stop":
        elect.send_signal(signal.SIGCONT)
    elif fault in ("kill", "term"):
        elect.wait()
        stage.start(old.node)
    return new


def freeze(stage: Stage, old: Line) -> tuple[Line, float]:
    """Stop elect, guardian and command together, and let them go on, the command first, once another runs.
    Returns that one, and for how many seconds the command still ran."""
    all_of_it = (old.pid, stage.guardian(old.node), stage.elects[old.node].pid)
    for pid in reversed(all_of_it):
        os.kill(pid, signal.SIGSTOP)
    new = stage.another(old)
    woken = now()
    for pid in all_of_it:
        os.kill(pid, signal.SIGCONT)
    stage.until(lambda: not Path(f"/proc/{old.pid}").exists())
    return new, max(0.0, stage.last_sign(old) - woken)


@app.command("run")
def bench_run(
    algorithm: Annotated[str, typer.Option(help="bully, ring, raft or zab")] = "raft",
    fault: Annotated[str, typer.Option(help=", ".join(FAULTS))] = "kill",
    trials: Annotated[int, typer.Option(help="how often")] = 20,
    lease: Annotated[float | None, typer.Option(help="seconds")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON line per trial, the summary last")] = False,
) -> None:
    """How long does no command run after a fault of `elect run`, and do two ever run at once?

    The fault befalls the node whose command runs: SIGKILL (kill), SIGSTOP (stop) or SIGTERM (term) of its
    elect; SIGKILL of the command (child) or of the guardian, of which neither ends the leadership; or all
    three are stopped together, and continued when another runs (freeze): then the figure is how long the old
    command still ran. Exits 1 if two ran at once.
    """
    if fault not in FAULTS:
        raise UserError(f"there is no fault '{fault}'; {hint(fault, FAULTS, 'choose one of')}")
    chosen = plan(algorithm, 3, lease)
    report = print_json if json else print_trial
    with stage(chosen) as made:
        done = []
        for number in range(1, trials + 1):
            time.sleep(CALM * chosen.lease)
            done.append(attempt(made, fault, number))
            report(done[-1])
        overlaps = 0 if fault == "freeze" else made.overlaps()
    summary: Summary = summarise(chosen, fault, done, overlaps)
    (print_json if json else print_summary)(summary)
    raise typer.Exit(1 if summary.failed or summary.violations else 0)


def attempt(stage: Stage, fault: str, number: int) -> Trial:
    old = stage.until(stage.running)
    at = now()
    try:
        if fault == "freeze":
            new, seconds = freeze(stage, old)
        else:
            new = strike(stage, fault, old)
            seconds = new.t - at
    except TimeoutError as error:
        return Trial(trial=number, leader=old.node, failure=str(error))
    return Trial(trial=number, leader=old.node, successor=new.node, term=new.term, seconds=round(seconds, 6))
