"""`elect bench failover` on real processes: every fault of every algorithm is survived, and safely."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("fault", ["kill", "stop", "term", "transfer"])
@pytest.mark.parametrize("algorithm", ["bully", "ring", "raft", "zab"])
def test_a_new_leader_follows_every_time(tmp_path: Path, algorithm: str, fault: str) -> None:
    options = ("--algorithm", algorithm, "--fault", fault, "--trials", "2", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "electorate.cli.main", "bench", "failover", *options],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    *trials, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert (summary["failed"], summary["violations"]) == (0, 0), done.stdout + done.stderr
    assert done.returncode == 0
    assert [trial["trial"] for trial in trials] == [1, 2]
    assert all(trial["leader"] != trial["successor"] for trial in trials)
    assert summary["trials"] == 2
    assert 0 < summary["median_s"] <= summary["p95_s"] <= summary["max_s"]
    assert list(tmp_path.iterdir()) == []
