"""A cluster of real processes goes over to the next build, node by node and under load, and back.

The next build is a copy of this one that speaks one version of the protocol more, says more than this one knows, and
keeps its store in another layout."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

import electorate
from electorate.cli.cluster import Cluster
from electorate.cli.plan import Plan
from electorate.cli.process import Event, Node
from electorate.runtime.directory import STORE

SOURCE = Path(electorate.__file__).parent
CHANGES = {
    "runtime/wire.py": ("VERSIONS = ", "Versions(1, 1)", "Versions(1, 2)"),
    "core/model.py": ("class Beat(", "    seq: int\n", "    seq: int\n    hint: int = 7\n"),
    "runtime/store.py": (
        "LAYOUTS = (",
        '""",\n)\n',
        '""",\n    "ALTER TABLE promise ADD COLUMN note TEXT NOT NULL DEFAULT \'none\';"\n'
        '    "CREATE TABLE note (of TEXT);",\n)\n',
    ),
}
"""What the next build says otherwise: after which words, the old ones and the new ones."""
JOBS = [f"job-{number}" for number in range(30)]


def next_build(directory: Path) -> Path:
    """What PYTHONPATH must be to run it."""
    shutil.copytree(SOURCE, directory / "electorate", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (after, old, new) in CHANGES.items():
        file = directory / "electorate" / name
        before, mark, rest = file.read_text().partition(after)
        assert old in rest, (name, old)
        file.write_text(before + mark + rest.replace(old, new, 1))
    return directory


class Busy(Plan, frozen=True, kw_only=True):
    """A cluster in which every node wants to lead many elections."""

    def toml(self, ports: list[int]) -> str:
        jobs = ", ".join(f'"{job}"' for job in JOBS)
        return super().toml(ports).replace('elections = ["main"]', f'elections = ["main", {jobs}]')


class Mixed(Cluster):
    """Each node runs the build that it is given. `vacancies` says for how long nobody led, in seconds."""

    def __init__(self, plan: Plan, build: Path) -> None:
        super().__init__(plan, self.watch)
        self.builds = dict.fromkeys(plan.ids, build)
        self.vacant_at: float | None = None
        self.vacancies: list[float] = []

    def watch(self, event: Event, line: bytes) -> None:
        if event.event == "vacant" and self.vacant_at is None:
            self.vacant_at = event.t
        elif event.event == "agreed" and self.vacant_at is not None:
            self.vacancies.append(event.t - self.vacant_at)
            self.vacant_at = None

    async def spawn(self, node: Node) -> None:
        config, data = str(self.path / "cluster.toml"), str(self.path / node.id)
        options = ("--config", config, "--id", node.id, "--data", data, "--attach")
        python = ("/usr/bin/env", f"PYTHONPATH={self.builds[node.id]}", sys.executable)
        await node.spawn(*python, "-m", "electorate.cli.main", "node", *options)

    async def move(self, id: str, build: Path) -> None:
        """Have this node run that build: stopped politely, started again."""
        self.builds[id] = build
        self.term(id)
        started = await self.restart(id)
        await self.until(lambda: self.rested(started))

    def layouts(self) -> set[int]:
        """Of the stores."""
        found = set()
        for id in self.plan.ids:
            with closing(sqlite3.connect(f"file:{self.path / id / STORE}?mode=ro", uri=True)) as store:
                found.add(store.execute("PRAGMA user_version").fetchone()[0])
        return found


async def hand_over(cluster: Cluster) -> None:
    """A load: one hand-over after the other, as far as there is somebody who hears of it."""
    while True:
        for id in cluster.plan.ids:
            await cluster.until(cluster.followed)
            if cluster.nodes[id].runs:
                cluster.transfer(id)
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("algorithm", ["raft", "zab"])
def test_a_cluster_is_upgraded_node_by_node_and_goes_back(tmp_path: Path, algorithm: str) -> None:
    asyncio.run(there_and_back(algorithm, SOURCE.parent, next_build(tmp_path)))


async def there_and_back(algorithm: str, this: Path, next_one: Path) -> None:
    async with Mixed(Busy(algorithm=algorithm, lease=1.0), this) as cluster:
        await cluster.until(cluster.settled)
        load = asyncio.create_task(hand_over(cluster))
        for build in (next_one, this):
            for id in cluster.plan.ids:
                await cluster.move(id, build)
            assert cluster.layouts() == {2}, "it is the next build's, and this one goes on with it"
        load.cancel()
        assert len(cluster.vacancies) > 6
        assert max(cluster.vacancies) < 1.0
        assert not cluster.violations()
