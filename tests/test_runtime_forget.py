"""Elections that come and go, on real nodes: one name per job."""

from __future__ import annotations

import gc
import logging
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from electorate.core.model import OTHERS, Forget, Lead, Promise
from electorate.runtime.host import BURST, Host
from electorate.runtime.store import Store
from tests.api_nodes import cluster
from tests.runtime_hosts import in_loop, until

JOBS = 30


def only_main(host: Host) -> bool:
    return list(host.node.elections) == ["main"]


@in_loop
async def test_a_job_that_is_done_leaves_nothing_behind(tmp_path: Path) -> None:
    async with cluster(tmp_path, forget_after=0.3) as of:
        nodes = [election.node for election in of.values()]
        of["a"].contend()
        await until(lambda: of["a"].is_leader)
        kept = {}
        for n in range(JOBS):
            node = nodes[n % 3]
            async with node.election(f"job-{n}").leadership() as lead:
                kept[f"job-{n}"] = lead.term
        del lead
        for node in nodes:
            host = node.host
            await until(partial(only_main, host))
            figures = host.figures
            left = {*host.shown, *host.leases, *figures.roles, *figures.reigns}
            assert left | {*figures.candidate_since, *figures.leaderless_since} <= {"main"}
            gc.collect()
            assert set(node.elections) == {"main"}
        await until(lambda: {node.host.node.floor for node in nodes} == {max(kept.values())})
        async with nodes[1].election("job-0").leadership() as lead:
            assert lead.term > kept["job-0"], "its terms go on"
        directories = [node.data for node in nodes]
    for directory in directories:
        database = sqlite3.connect(directory / "electorate.db")
        rows = dict(database.execute("SELECT election, term FROM promise"))
        database.close()
        assert rows.keys() <= {OTHERS, "main", "job-0"}
        assert rows[OTHERS] == max(kept.values())


@in_loop
async def test_an_election_that_is_held_can_be_used_again_after_it_was_forgotten(tmp_path: Path) -> None:
    async with cluster(tmp_path, forget_after=0.2) as of:
        node = of["a"].node
        job = node.election("job")
        async with job.leadership() as lead:
            first = lead.term
        await until(lambda: "job" not in node.host.node.elections)
        assert node.election("job") is job, "always the same object"
        assert job.leader is None
        async with job.leadership() as lead:
            assert lead.term > first
            assert job.leader is not None and job.leader.id == "a"


@in_loop
async def test_what_is_frozen_contends_again_though_it_was_forgotten(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", forget_after=0.1) as of:
        node = of["a"].node
        job = node.election("job")
        job.contend()
        await until(lambda: job.is_leader)
        await job.resign(seconds=0.6)
        await until(lambda: "job" not in node.host.node.elections)
        await until(lambda: job.is_leader)


@in_loop
async def test_a_burst_of_changes_is_counted_and_not_told_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, "ab") as of:
        host = of["a"].node.host
        caplog.set_level(logging.INFO)
        caplog.clear()
        for n in range(3 * BURST):
            host.received("b", Lead(f"job-{n}", 1, 0))
        await until(lambda: not host.burst)
        lines = [record.getMessage() for record in caplog.records if record.name == "electorate.a"]
        told = [line for line in lines if line.startswith("job-")]
        assert len(told) == BURST
        [more] = [line for line in lines if line.startswith("and ")]
        assert int(more.split()[1]) >= 2 * BURST
        assert more.endswith("more changes of leadership within a second")


def test_a_store_forgets_and_keeps_in_the_order_it_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path, "test", "a")
    store.commit([Promise("x", 1, "b"), Promise("y", 2, "c"), Promise("z", 3, "c")])
    store.commit(
        [Promise(OTHERS, 3, ""), Forget("x"), Forget("y"), Promise("y", 4, "b"), Forget("never was")]
    )
    store.commit([Promise("w", 5, "b"), Forget("w")])
    expected = {OTHERS: Promise(OTHERS, 3, ""), "y": Promise("y", 4, "b"), "z": Promise("z", 3, "c")}
    assert store.load() == expected
    assert {key for table, key in store.marks if table == "promise"} == expected.keys()
    store.close()
    store = Store(tmp_path, "test", "a")
    assert store.load() == expected, "what was forgotten is no longer part of the seal"
    store.close()


@in_loop
async def test_a_position_that_is_asked_for_is_not_when_all_is_forgotten(tmp_path: Path) -> None:
    asked = 0

    async def position() -> int:
        nonlocal asked
        asked += 1
        return 0

    async with cluster(tmp_path, "a", forget_after=0.2) as of:
        node = of["a"].node
        job = node.election("job")
        job.position = position
        async with job.leadership():
            pass
        await until(lambda: "job" not in node.host.node.elections)
        await until(lambda: job._polling is None)
        before = asked
        async with job.leadership():
            assert asked > before, "it is asked again when it is wanted again"
