"""The log of the command never holds up what it tells of."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from electorate.cli.plan import reserved_ports
from electorate.runtime import logs
from electorate.runtime.logs import Json, Queued
from tests.runtime_hosts import BOUND

ELECT = (sys.executable, "-m", "electorate.cli.main")


class Pipe:
    """A log that goes into a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.handler = Queued(self.writer)
        self.handler.setFormatter(Json())
        self.log = logging.Logger("electorate.test")
        self.log.addHandler(self.handler)

    def read(self, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The lines, once there are enough of them."""
        text = b""
        lines: list[dict[str, Any]] = []
        while not enough(lines):
            assert select.select([self.reader], [], [], BOUND)[0], "it does not come to that"
            text += os.read(self.reader, 1 << 16)
            lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
        return lines


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)  # whatever is still to be written finds nobody
    made.handler.flush()
    os.close(made.writer)


def test_each_line_is_written_in_its_order(pipe: Pipe) -> None:
    for number in range(1000):
        pipe.log.info("line %d", number, extra={"number": number})
    lines = pipe.read(lambda lines: len(lines) == 1000)
    assert [line["number"] for line in lines] == list(range(1000))
    assert lines[7]["message"] == "line 7"


def test_who_logs_does_not_wait_and_what_is_missing_is_counted(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "ROOM", 20_000)
    for number in range(10_000):
        pipe.log.info("line %d", number)
    assert pipe.handler.size <= 20_000
    lines = pipe.read(lambda lines: sum(line.get("dropped", 1) for line in lines) == 10_000)
    gaps = [line for line in lines if "dropped" in line]
    assert gaps
    assert all(f"{gap['dropped']} lines are missing here" in gap["message"] for gap in gaps)
    number = 0
    for line in lines:
        assert "dropped" in line or line["message"] == f"line {number}", "each gap is where it is told"
        number += line.get("dropped", 1)
    pipe.log.info("and on")
    assert pipe.read(bool)[0]["message"] == "and on"


def test_a_pipe_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    for number in range(1000):
        pipe.log.info("line %d", number)
    assert len(pipe.read(lambda lines: len(lines) == 1000)) == 1000


def test_the_end_does_not_wait_for_one_who_never_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FAREWELL", 0.1)
    for number in range(1000):
        pipe.log.info("line %d", number)
    pipe.handler.flush()
    assert pipe.handler.size > 0, "it was not written, and yet this went on"


def test_where_nobody_listens_nothing_gathers() -> None:
    pipe = Pipe()
    os.close(pipe.reader)
    for number in range(1000):
        pipe.log.info("line %d", number)
    pipe.handler.flush()
    assert pipe.handler.size == 0
    os.close(pipe.writer)


def test_a_line_that_cannot_be_formatted_is_told_without_its_arguments(pipe: Pipe) -> None:
    pipe.log.info("%d lines", "hunter2")
    pipe.log.info("and on")
    wrong, right = pipe.read(lambda lines: len(lines) == 2)
    assert wrong["message"] == "a line could not be written (TypeError): '%d lines'"
    assert right["message"] == "and on"


def test_a_node_whose_log_nobody_reads_goes_on_and_stops_when_it_is_told(tmp_path: Path) -> None:
    with reserved_ports(2) as ports:
        elections = ", ".join(f'"e{number:03}"' for number in range(300))
        (tmp_path / "cluster.toml").write_text(
            f'cluster = "demo"\nelections = [{elections}]\n'
            f'[nodes.a]\naddress = "127.0.0.1:{ports[0]}"\nhttp = "127.0.0.1:{ports[1]}"\n'
        )
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        node = subprocess.Popen(
            [*ELECT, "node", "--config", "cluster.toml", "--id", "a"], cwd=tmp_path, stderr=writer
        )
        try:
            deadline = time.monotonic() + BOUND
            asked = [*ELECT, "leader", "e299", "--config", "cluster.toml", "--id", "a"]
            while not is_full(writer):
                assert time.monotonic() < deadline and node.poll() is None
                time.sleep(0.01)
            while (done := subprocess.run(asked, cwd=tmp_path, capture_output=True)).returncode:
                assert time.monotonic() < deadline, done
            assert is_full(writer)
            node.send_signal(signal.SIGTERM)
            assert node.wait(BOUND) == 0
        finally:
            with suppress(ProcessLookupError):
                node.kill()
            node.wait()
            os.close(reader)
            os.close(writer)


def is_full(writer: int) -> bool:
    return not select.select([], [writer], [], 0)[1]
