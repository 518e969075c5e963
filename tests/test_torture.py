"""`elect torture`: the schedule is decided by the seed, the referee sees what it must, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from electorate.cli.plan import ALGORITHMS
from electorate.cli.safety import Claim
from electorate.cli.torture import fabric, referee, schedule
from electorate.cli.torture.referee import History, Violation, Write, availability, failovers, judge
from electorate.cli.torture.report import report
from electorate.cli.torture.schedule import FAULTS, Fault, Schedule, compose
from electorate.errors import UserError

ELECT = (sys.executable, "-m", "electorate.cli.main", "torture")
CAN_SPLIT = os.geteuid() == 0 and all(map(shutil.which, ("ip", "nft", "setpriv")))
needs_network = pytest.mark.skipif(not CAN_SPLIT, reason="needs root, iproute2, nftables and setpriv")


Outcome = tuple[int, dict[str, Any], str]


def played(file: Path, told: Schedule) -> Outcome:
    file.write_bytes(msgspec.json.encode(told))
    ended = subprocess.run([*ELECT, "--schedule", file, "--json"], capture_output=True, text=True)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stderr


# --- the schedule ---


def test_one_seed_decides_it() -> None:
    assert compose("raft", 5, 7, 120) == compose("raft", 5, 7, 120)
    assert compose("raft", 5, 7, 120).steps != compose("raft", 5, 8, 120).steps


@pytest.mark.parametrize("nodes", [3, 5, 8])
def test_it_speaks_the_language_that_is_read(nodes: int, tmp_path: Path) -> None:
    composed = compose("zab", nodes, 3, 600)
    file = tmp_path / "schedule.json"
    file.write_bytes(msgspec.json.encode(composed))
    assert schedule.read(file) == composed
    assert {fault.name for fault in composed.faults} == set(FAULTS)
    assert all(fault.end <= composed.seconds for fault in composed.faults)


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ("1.0 explode a", "'explode' is not one of"),
        ("1.0 crash z", "after 'crash' comes NODE"),
        ("soon crash a", "a time in seconds"),
        ("1.0 loss a much", "after 'loss' comes NODE NUMBER"),
    ],
)
def test_a_wrong_step_is_explained(step: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    file.write_bytes(
        msgspec.json.encode(Schedule(algorithm="raft", nodes=3, seed=1, seconds=5, steps=(step,)))
    )
    with pytest.raises(UserError, match=complaint):
        schedule.read(file)


# --- the referee ---


def lawful() -> History:
    return History(
        start=100.0,
        end=110.0,
        claims=[Claim("main", 100.0, 103.0, 1, "a"), Claim("main", 104.0, 109.0, 2, "b")],
        writes=[Write(101.0, 1, "a"), Write(105.0, 2, "b")],
        faults=[Fault("crash", 102.5, 104.5, "crash")],
    )


def test_a_lawful_history_is_acquitted() -> None:
    assert judge(lawful()) == []


def test_two_leases_at_one_instant_are_seen() -> None:
    history = lawful()
    history.claims[0].end = 104.5
    assert [(v.rule, v.time) for v in judge(history)] == [("I2", 104.0)]


def test_two_leaders_in_one_term_are_seen() -> None:
    history = lawful()
    history.claims[1].term = 1
    assert {v.rule for v in judge(history)} == {"I1", "I3"}


def test_a_stale_write_is_seen() -> None:
    history = lawful()
    history.writes.append(Write(106.0, 1, "a"))
    assert [(v.rule, v.time) for v in judge(history)] == [("stale", 106.0)]


def test_overlapping_commands_are_seen() -> None:
    history = lawful()
    history.overlaps.append(Write(105.0, 2, "b"))
    assert [v.rule for v in judge(history)] == ["overlap"]


def test_elections_are_judged_apart() -> None:
    history = lawful()
    history.claims.append(Claim("other", 101.0, 108.0, 1, "c"))
    assert judge(history) == []


def test_an_outage_is_put_to_the_fault_before_it() -> None:
    history = lawful()
    assert failovers(history, ["main"]) == {"crash": [1.0, 1.0]}
    assert availability(history, "main") == pytest.approx(0.8)
    [crash, *_] = history.faults
    history.faults.append(Fault("storm", crash.start, crash.end, "crash"))
    assert failovers(history, ["main"])["crash and storm"]
    history.faults.clear()
    assert list(failovers(history, ["main"])) == ["start"]


def test_the_report_is_one_file_and_shows_what_is_wrong() -> None:
    told = Schedule(algorithm="raft", nodes=3, seed=1, seconds=10, steps=("1.0 crash <a>",))
    page = report(told, lawful(), [Violation("I2", 105.0, "two <leaders>")], "elect torture --seed 1")
    assert "two &lt;leaders&gt;" in page and "elect torture --seed 1" in page and 'class="bad"' in page
    assert not any(word in page for word in ("http:", "https:", "src=", "href=", "url(", "@import"))
    assert "No violation" in report(told, lawful(), [], "")


# --- real nodes ---

STEPS = (
    "0.5 crash leader",
    "1.5 restart",
    "2.5 pause leader",
    "3.6 continue",
    *(f"4.5 part leader {id}" for id in "abc"),
    "6.0 heal",
    *(f"6.5 loss {id} 20" for id in "abc"),
    "7.5 calm",
    "8.0 fill leader",
    "8.1 stop leader",
    "9.5 empty",
    "10.0 crash a b c",
    "10.2 restart",
)


Outcomes = dict[str, Future[Outcome]]


def all_at_once(folder: Path, schedules: Iterable[Schedule]) -> Iterator[Outcomes]:
    """What comes of each, by its algorithm: they mostly wait."""
    with ThreadPoolExecutor(len(ALGORITHMS)) as threads:
        yield {told.algorithm: threads.submit(played, folder / told.algorithm, told) for told in schedules}


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """Of a few seconds with one fault after the other."""
    plan = {"nodes": 3, "seed": 0, "seconds": 13, "elections": ("main", "second"), "steps": STEPS}
    schedules = [Schedule(algorithm=algorithm, **plan) for algorithm in ALGORITHMS]  # type: ignore[arg-type]
    yield from all_at_once(tmp_path_factory.mktemp("seconds"), schedules)


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """Of a minute with whatever a seed decides."""
    schedules = [compose(algorithm, 3, 5, 60.0) for algorithm in ALGORITHMS]
    yield from all_at_once(tmp_path_factory.mktemp("minutes"), schedules)


@pytest.mark.waits
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_real_nodes_keep_the_rules(algorithm: str, seconds: Outcomes) -> None:
    code, verdict, complaint = seconds[algorithm].result()
    assert (code, verdict["violations"]) == (0, []), complaint
    assert verdict["leaderships"] >= 4
    assert verdict["writes"] > 0
    impossible = {"part": not CAN_SPLIT, "loss": not CAN_SPLIT, "fill": os.geteuid() != 0}
    assert set(verdict["skipped"]) == {verb for verb, never in impossible.items() if never}


@pytest.mark.waits
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_minute_of_whatever_a_seed_decides(algorithm: str, minutes: Outcomes) -> None:
    code, verdict, complaint = minutes[algorithm].result()
    assert (code, verdict["violations"]) == (0, []), complaint
    assert verdict["faults"] >= 8
    assert verdict["leaderships"] >= 3, "fewer where a busy machine makes each election slow"


@needs_network
def test_a_rule_without_a_quorum_is_found_out(tmp_path: Path) -> None:
    steps = ("0.5 split a | b c",)
    told = Schedule(algorithm="bully", nodes=3, seed=0, seconds=4, quorum="textbook", steps=steps)
    code, verdict, complaint = played(tmp_path / "schedule.json", told)
    assert code == 1
    assert "I2" in {violation["rule"] for violation in verdict["violations"]}
    assert f"to see it again: elect torture --schedule {tmp_path / 'schedule.json'}" in complaint


def traces(pid: int) -> list[str]:
    """What is there of a run: namespaces and disks."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    return [
        *(file.name for file in fabric.NAMESPACES.glob(f"{fabric.PREFIX}-{pid}-*")),
        *(mount for mount in mounts if mount.startswith(f"{fabric.PREFIX}-{pid} ")),
    ]


@needs_network
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(sent: signal.Signals, tmp_path: Path) -> None:
    told = Schedule(algorithm="raft", nodes=3, seed=0, seconds=60, steps=("0.1 loss a 20",))
    (tmp_path / "schedule.json").write_bytes(msgspec.json.encode(told))
    command = (*ELECT, "--schedule", str(tmp_path / "schedule.json"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("elect torture") and " loss " in run.stdout.readline()
        assert len(traces(run.pid)) == 4 + 3
        run.send_signal(sent)
    if sent is signal.SIGKILL:
        fabric.sweep()
    assert traces(run.pid) == []


def test_what_makes_no_torture_is_refused() -> None:
    for options, complaint in ((("--nodes", "2"), "choose 3"), (("--algorithm", "x"), "choose one of")):
        ended = subprocess.run([*ELECT, *options], capture_output=True, text=True)
        assert ended.returncode == 2 and complaint in ended.stderr
    assert referee.judge(History()) == []
