"""A data directory that comes back from a backup: real nodes refuse it, say why, and take it with --rejoin."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.test_runtime_node import cluster


@pytest.mark.parametrize("taken_while", ["it runs", "it is stopped"])
def test_what_comes_back_from_a_backup_is_refused_until_it_rejoins(tmp_path: Path, taken_while: str) -> None:
    with cluster(tmp_path) as at:
        at.agreed()
        if taken_while == "it is stopped":
            at.processes["c"].end()
        subprocess.run(["cp", "-a", tmp_path / "c", tmp_path / "backup"], check=True)
        if taken_while == "it runs":
            at.processes["c"].end()
        at.agreed("a", "b")
        at.start("c")
        at.agreed()
        at.processes["c"].end()

        shutil.rmtree(tmp_path / "c")
        subprocess.run(["cp", "-a", tmp_path / "backup", tmp_path / "c"], check=True)
        restored = at.start("c")
        for other in "ab":
            at.until(partial(restored.heard, "peer", f"refused by {other}", "--rejoin"))
            at.until(partial(at.processes[other].heard, "peer", "refusing c", "rolled back"))
        at.agreed("a", "b")
        assert restored.named[0] is None
        assert at.start("c", "--rejoin") is not restored
        at.agreed()
        assert at.processes["c"].named[0]
